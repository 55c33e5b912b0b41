"""The loss terms of ToCo (Ru et al., "Token Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023).

B is the batch, K the classes with the background, which is code 0, (h, w) the grid of the tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.codes import UNLABELED, VOID
from agmm.rivals import crf_loss

TEACHER_MOMENTUM = 0.9


class ContrastHead(nn.Module):
    """Class tokens (..., C) to vectors (..., 1024) that are contrasted: an MLP and a linear layer of unit rows."""

    def __init__(self, channels: int, hidden: int = 2048, bottleneck: int = 256, out: int = 1024) -> None:
        super().__init__()
        layers = nn.Linear(channels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(out, bottleneck), std=0.02))

    def forward(self, tokens: Tensor) -> Tensor:
        """Inner products of the normalized vector with every direction."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.directions, dim=-1))

    @torch.no_grad()
    def follow(self, other: "ContrastHead", momentum: float = TEACHER_MOMENTUM) -> None:
        """Move the parameters towards another head's."""
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 1 - momentum)


def tag_loss(classifier: nn.Module, tokens: Tensor, tags: Tensor) -> Tensor:
    """Average the binary cross-entropy of every tag over tags (B, K - 1) and images (ToCo, cls).

    ``-t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))`` with ``z = classifier(max over (h, w) of tokens (B, C, h, w))``.
    """
    logits = classifier(tokens.amax((2, 3), keepdim=True)).flatten(1)
    return F.binary_cross_entropy_with_logits(logits, tags.to(logits))


def balanced_cross_entropy(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average cross-entropy over the background and over the foreground, half each; an empty one is 0 (ToCo, seg).

    ``-1/2 mean_{y = 0} log P_0 - 1/2 mean_{y > 0} log P_y`` of logits (B, K, H, W) and labels (B, H, W).
    """
    foreground = (labels > 0) & (labels < num_classes)
    target = torch.where(foreground, labels, 0)
    cross = F.cross_entropy(logits, target, reduction="none")
    halves = ((cross * part).sum() / part.sum().clamp_min(1) for part in (labels == 0, foreground))
    return 0.5 * sum(halves, logits.new_zeros(()))


def patch_contrast(tokens: Tensor, labels: Tensor) -> Tensor:
    """Ask tokens of equal labels to point along one line, and others at right angles (ToCo, PTC).

    ``1/2 (1 - sum_{same} s_ij / (n_same + 1)) + 1/2 sum_{other} s_ij / (n_other + 1)`` with ``s_ij = |cos(x_i, x_j)|``
    over the pairs of equal and of different labels; in [0, 1], 0.5 where there is no pair. Pairs are of one image and
    counted over the batch.

    Parameters
    ----------
    tokens : Tensor (B, C, h, w)
    labels : Tensor (B, h, w) int64
        0 … K-1; tokens with another code take no part. The background counts as a class.
    """
    direction = F.normalize(tokens.flatten(2), dim=1)
    similarity = (direction.transpose(1, 2) @ direction).abs()
    flat = labels.flatten(1)
    known = flat < UNLABELED
    pairs = known[:, :, None] & known[:, None] & ~torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    equal = flat[:, :, None] == flat[:, None]
    same, other = pairs & equal, pairs & ~equal
    near, far = ((similarity * which).sum() / (which.sum() + 1) for which in (same, other))
    return 0.5 * (1 - near) + 0.5 * far


def class_contrast(reference: Tensor, student: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Ask global views to agree with views that show more than background, not with the others (ToCo, CTC).

    With ``e_gi = exp(t_g . s_i / tau)`` of the teacher's vector of a global view g and the student's of any view i, and
    the sum ``N_g`` of ``e_gi`` over the views that are not positive, an image's loss is the mean over g of

        (sum_{positive i} log((e_gi + N_g + 1e-4) / e_gi) + log(1 + N_g + 1e-4)) / (number of positives + 1e-4)

    Its last logarithm, of the released code, pushes negatives once more without a positive to compare with. Computed
    from logarithms, so that no exponential overflows.

    Parameters
    ----------
    reference : Tensor (B, 2, D)
        The teacher's vectors of the global views, without gradient.
    student : Tensor (B, V, D)
        Of all views.
    positive : Tensor (B, V) bool
    temperature : float
    """
    e = reference @ student.transpose(1, 2) / temperature
    negative = e.masked_fill(positive[:, None], -torch.inf)
    negatives = torch.logsumexp(F.pad(negative, (0, 1), value=math.log(1e-4)), 2, keepdim=True)
    pulled = ((torch.logaddexp(e, negatives) - e) * positive[:, None]).sum(2)
    pushed = torch.logaddexp(torch.zeros_like(negatives), negatives)[..., 0]
    return ((pulled + pushed).mean(1) / (positive.sum(1) + 1e-4)).mean()


def gated_energy(
    logits: Tensor, colors: Tensor, labels: Tensor, backend: crf_loss.Backend = "lattice", sigma_xy: float = 100.0
) -> Tensor:
    """Return the dense-CRF energy where pseudo labels are missing or the segmentation is uncertain (ToCo, AFA; reg).

    Of logits (B, K, H, W), colors (B, 3, H, W) in [0, 1], not normalized, and labels (B, H, W), of which ``VOID`` takes
    no part; see `crf_loss.pairwise_energy`.
    """
    return crf_loss.pairwise_energy(
        logits.softmax(1),
        (255 * colors).round(),
        labels != VOID,
        sigma_xy=sigma_xy,
        backend=backend,
        unlabeled=labels == UNLABELED,
    )

"""AGMM and AGMM++ once more, one line per equation: to be read beside the papers, and to check and time the rest.

All K classes are computed everywhere, one operation per symbol, and autograd does the gradients. Nothing here is shared
with `agmm.gmm`, `agmm.em`, `agmm.losses` and `agmm.fast`, which compute the same numbers from the present classes
alone.

f are the features, y the labels (one-hot), P the segmentation's softmax; mu, d, sigma and G are mean, distance, spread
and score of each class. Equations are those of AGMM (CVPR 2023) and, where said, of AGMM++ (TPAMI 2025).
`notebooks/explore/from_paper_to_code.ipynb` goes through them on one image.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm.codes import EPS, UNLABELED, VOID

TERMS = ("seg", "self", "spar", "con", "absent")
TERMS_PP = ("seg", "self", "weak", "con")


def dense_agmm(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    image_classes: Tensor,
    variant: Literal["official", "paper"] = "official",
    terms: tuple[str, ...] = TERMS,
    detach_sigma: bool = False,
    self_classes: Literal["present", "all"] = "present",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and terms of a batch.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    logits : Tensor (B, K, H, W)
        Before softmax.
    labels : Tensor (B, H, W) int64
        0 … K-1, ``UNLABELED`` or ``VOID``.
    image_classes : Tensor (B, K) bool
        Classes annotated anywhere in the uncropped image.
    variant : {"official", "paper"}
        As the released code computes them, or as the equations are printed.
    terms : tuple of str
        Which of seg, self, spar, con, absent to add up; the last is a term of its own in the released code only.
    detach_sigma : bool
        Whether the spread of the variant "paper" carries no gradient.
    self_classes : {"present", "all"}
        Over which classes the variant "paper" reads Eq. 8: the mean over those of the crop, or the sum over all.
    """
    p, size = logits.softmax(1), labels.shape[1:]
    y, valid, labeled, present, share = masks(labels, p)

    mu = class_means(features, y)  # Eq. 4
    d = distances(features, mu)  # Eq. 6
    if variant == "paper":
        sigma2 = variances(d, p, labels, image_classes)  # Eq. 5
        sigma2 = sigma2.detach() if detach_sigma else sigma2
        g = resize(bells(d, sigma2), size) * present  # Eq. 7
        formulas: dict[str, Callable[[], Tensor]] = {
            "self": lambda: mean(cross_entropy(g, p) * (share if self_classes == "present" else 1), valid),  # Eq. 8
            "spar": lambda: mean(-y * (g + EPS).log(), labeled),  # Eq. 9
            "con": lambda: printed_contrast(mu, present.flatten(1)),  # Eq. 10
        }
    else:
        d = d * present * resize(valid, features.shape[2:])
        g = resize((-(d**2)).exp(), size) * present  # Eq. 7 with 2 sigma^2 = 1
        formulas = {
            "self": lambda: mean(0.5 * cross_entropy(g, p) * share, valid),  # Eq. 8, halved
            "spar": lambda: mean(0.5 * cross_entropy(y, g) * share, labeled),  # Eq. 9, halved, with the negatives
            "con": lambda: official_contrast(mu, present.flatten(1)),  # Eq. 10, over the batch
        }
    formulas["seg"] = lambda: mean(-y * logits.log_softmax(1), labeled)  # Eq. 3
    formulas["absent"] = lambda: mean(-(1 - p + EPS).log() * ~image_classes[..., None, None], valid)  # no equation
    result = {name: formulas[name]() for name in TERMS if name in terms}
    return sum(result.values(), logits.new_zeros(())), result


def dense_agmmpp(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    terms: tuple[str, ...] = TERMS_PP,
    oem: bool = True,
    pooled: bool = False,
    sigma_min: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and terms of AGMM++ on a batch whose features are squeezed already; numbers are its equations.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    logits : Tensor (B, K, H, W)
    labels : Tensor (B, H, W) int64
    terms : tuple of str
        Which of seg, self, weak, con to add up.
    oem : bool
        Online EM, which estimates the mixture once more from its own scores.
    pooled : bool
        One spread per image (ours).
    sigma_min : float
        Least spread (ours).
    """
    p, size, cells = logits.softmax(1), labels.shape[1:], resize_labels(labels, features.shape[2:])
    y, valid, labeled, present, share = masks(labels, p)

    n, mu = y.sum((2, 3), True), class_means(features, y)  # Eq. 1
    d = distances(features, mu)  # Eq. 3, printed without absolute values
    variance = labeled_variances(d, y)  # Eq. 2
    if oem:
        m = members(d, spreads(variance, n, sigma_min, pooled), present, cells)  # E step: x in G_i^old, by Eq. 4
        n, mu = sizes(m, n), member_means(features, m, mu)  # Eq. 5
        d = distances(features, mu)  # Eq. 7
        variance = member_variances(d, m, variance)  # Eq. 6
    sigma2 = spreads(variance, n, sigma_min, pooled)
    g = resize(bells(d, sigma2), size) * present  # Eq. 8; Eq. 4 without online EM
    m = members(d, sigma2, present, cells, keep=not oem)  # "a pixel that belongs to the i-th component"
    formulas: dict[str, Callable[[], Tensor]] = {
        "seg": lambda: mean(-y * logits.log_softmax(1), labeled),  # Eq. 10, as its text says
        "self": lambda: mean(cross_entropy(g, p) * share, valid),  # Eq. 11
        "weak": lambda: mean(cross_entropy(y, g) * share, labeled),  # Eq. 12
        "con": lambda: pixel_contrast(d, m, present),  # Eq. 14
    }
    result = {name: formulas[name]() for name in TERMS_PP if name in terms}
    return sum(result.values(), logits.new_zeros(())), result


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """``y`` of (B, H, W) labels: (B, K, H, W)."""
    return torch.stack([labels == k for k in range(num_classes)], dim=1).float()


def masks(labels: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``y``; valid and labeled pixels (B, 1, H, W); classes of the crop, and one over their number (B, K, 1, 1)."""
    y = one_hot(labels, p.shape[1]).to(p.dtype)
    present = y.amax((2, 3), keepdim=True)
    share = present / (present.sum(1, keepdim=True) + EPS)
    return y, (labels != VOID)[:, None].to(p.dtype), y.sum(1, keepdim=True), present, share


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """``mu_i = sum_{x: y_i} f(x) / |L_i|`` at label resolution (Eq. 4): (B, K, C), zero for absent classes."""
    upsampled = resize(features, y.shape[2:])
    return torch.einsum("bkhw,bchw->bkc", y.to(features.dtype), upsampled) / (y.sum((2, 3)) + EPS)[..., None]


def distances(features: Tensor, mu: Tensor) -> Tensor:
    """``d_i(x) = |f(x) - mu_i|``, the mean over channels as in the code (Eq. 6): (B, K, h, w)."""
    return (features.unsqueeze(1) - mu[..., None, None]).abs().mean(2)


def variances(d: Tensor, p: Tensor, labels: Tensor, image_classes: Tensor) -> Tensor:
    """``sigma_i^2 = sum_x P_i d_i^2 / sum_x P_i`` over unlabeled pixels x; 1 without any (Eq. 5): (B, K, 1, 1)."""
    unlabeled = (labels == UNLABELED)[:, None].to(p.dtype)
    weight = resize(p * image_classes[..., None, None], d.shape[2:]) * resize(unlabeled, d.shape[2:])
    mass = weight.sum((2, 3), keepdim=True)
    return torch.where(mass < 1e-3, 1.0, (weight * d**2).sum((2, 3), keepdim=True) / (mass + EPS))


def bells(d: Tensor, sigma2: Tensor) -> Tensor:
    """``G_i(x) = exp(-d_i(x)^2 / (2 sigma_i^2))`` on the feature grid (Eq. 7): (B, K, h, w)."""
    return (-(d**2) / (2 * sigma2 + EPS)).exp()


def cross_entropy(target: Tensor, score: Tensor) -> Tensor:
    """``-t log s - (1 - t) log(1 - s)`` of every class and pixel."""
    return -target * (score + EPS).log() - (1 - target) * (1 - score + EPS).log()


def mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over classes of (B, K, H, W), mean over the pixels of a mask (B, 1, H, W); 0 without pixels."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def printed_contrast(mu: Tensor, present: Tensor) -> Tensor:
    """``2 / (K (K + 1)) sum_{i < j} exp(-D_ij^2)`` over the K classes of each image (Eq. 10), mean over images."""
    pairs = torch.einsum("bi,bj->bij", present, present).triu(1)
    k = present.sum(1)
    per_image = 2 / (k * (k + 1)).clamp_min(1) * (similarity(mu) * pairs).sum((1, 2))
    return per_image.sum() / (k > 0).sum().clamp_min(1)


def official_contrast(mu: Tensor, present: Tensor) -> Tensor:
    """Mean of ``exp(-D_ij^2)`` over the pairs of classes of the batch, whose means the code adds up over images."""
    images = present.sum(0)
    seen = (images > 0).to(mu.dtype)
    pairs = torch.outer(seen, seen).triu(1)
    vectors = mu.sum(0) * (images / (images + EPS)).unsqueeze(1)
    return (similarity(vectors) * pairs).sum() / (pairs.sum() + EPS)


def similarity(mu: Tensor) -> Tensor:
    """``exp(-D_ij^2)`` of every pair of vectors (…, K, C), with D as in Eq. 6."""
    return (-((mu.unsqueeze(-2) - mu.unsqueeze(-3)).abs().mean(-1) ** 2)).exp()


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, ``align_corners=False``, as every interpolation of the branch."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def resize_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Label of the pixel in the middle of each cell."""
    rows, columns = (
        ((torch.arange(n) + 0.5) * whole / n).long() for n, whole in zip(size, labels.shape[1:], strict=True)
    )
    return labels[:, rows][:, :, columns]


def labeled_variances(d: Tensor, y: Tensor) -> Tensor:
    """``sigma_i^2 = sum_{x: y_i} d_i(x)^2 / |L_i|`` at label resolution (Eq. 2 of AGMM++): (B, K, 1, 1)."""
    return (y * resize(d**2, y.shape[2:])).sum((2, 3), True) / (y.sum((2, 3), True) + EPS)


def members(d: Tensor, sigma2: Tensor, present: Tensor, cells: Tensor, keep: bool = False) -> Tensor:
    """1 at the class with the largest score of every cell that is not void; labeled cells may keep their class."""
    # Logarithms: far from all means the scores themselves are all 0.
    log_g = (-(d**2) / (2 * sigma2 + EPS)).masked_fill(present == 0, -torch.inf)
    m = one_hot(log_g.argmax(1), d.shape[1]).to(d.dtype)
    y = one_hot(cells, d.shape[1]).to(d.dtype)
    m = torch.where(y.sum(1, keepdim=True) > 0, y, m) if keep else m
    return m * present * (cells != VOID)[:, None]


def member_means(features: Tensor, m: Tensor, old: Tensor) -> Tensor:
    """``mu_i = sum_{x in G_i} f(x) / |G_i|`` (Eq. 5 of AGMM++): (B, K, C), the old one without members (ours)."""
    n = m.sum((2, 3))[..., None]
    return torch.where(n > 0, torch.einsum("bkhw,bchw->bkc", m, features) / n.clamp_min(1), old)


def member_variances(d: Tensor, m: Tensor, old: Tensor) -> Tensor:
    """``sigma_i^2 = sum_{x in G_i} d_i(x)^2 / |G_i|`` (Eq. 6 of AGMM++): (B, K, 1, 1), or the old one likewise."""
    n = m.sum((2, 3), True)
    return torch.where(n > 0, (m * d**2).sum((2, 3), True) / n.clamp_min(1), old)


def sizes(m: Tensor, old: Tensor) -> Tensor:
    """``|G_i|``, the old ones in an image none of whose cells has a component: (B, K, 1, 1)."""
    n = m.sum((2, 3), True)
    return torch.where(n.sum(1, True) > 0, n, old)


def spreads(variance: Tensor, n: Tensor, sigma_min: float, pooled: bool) -> Tensor:
    """``sigma_i^2``, above a floor (ours); pooled (ours) it is one of all members of an image: (B, K, 1, 1)."""
    if pooled:
        variance = ((variance * n).sum(1, True) / n.sum(1, True).clamp_min(EPS)).expand_as(variance)
    return variance.clamp_min(sigma_min**2)


def pixel_contrast(d: Tensor, m: Tensor, present: Tensor) -> Tensor:
    """``mean_{x in i} (1 - exp(-d_i^2)) + mean_{x not in i} exp(-d_i^2)`` (Eq. 14 of AGMM++) over a batch's pairs."""
    near, others = (-(d**2)).exp(), (m.sum(1, keepdim=True) - m) * present
    return (m * (1 - near)).sum() / m.sum().clamp_min(1) + (others * near).sum() / others.sum().clamp_min(1)

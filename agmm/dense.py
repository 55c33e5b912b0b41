"""The official objective of AGMM, written densely: for reading beside the paper, and for checking and timing the rest.

All K classes are computed everywhere, one operation per symbol, and autograd does the gradients. Nothing here is shared
with `agmm.gmm`, `agmm.losses` and `agmm.fast`, which compute the same numbers from the present classes alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm.codes import VOID

EPS = 1e-6
TERMS = ("seg", "self", "spar", "con", "absent")


def dense_agmm(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    image_classes: Tensor,
    num_classes: int,
    terms: tuple[str, ...] = TERMS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms of a batch, as the official code computes them (CVPR 2023, Eq. 3 to 10, with its deviations).

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    logits : Tensor (B, K, H, W)
        Before softmax.
    labels : Tensor (B, H, W) int64
        0 … K-1, ``UNLABELED`` or ``VOID``.
    image_classes : Tensor (B, K) bool
        Classes annotated anywhere in the uncropped image.
    num_classes : int
        K.
    terms : tuple of str
        Which of seg, self, spar, con, absent to add up.

    Returns
    -------
    loss : Tensor ()
    terms : dict of str to Tensor ()
    """
    y = torch.stack([labels == k for k in range(num_classes)], dim=1).to(logits.dtype)  # (B, K, H, W), one-hot
    valid = (labels != VOID).unsqueeze(1).to(logits.dtype)
    present = y.amax((2, 3))
    share = (present / (present.sum(1, keepdim=True) + EPS))[..., None, None]
    num_labeled, num_valid = y.sum().clamp_min(1), valid.sum().clamp_min(1)

    result = {}
    if {"self", "spar", "con"} & set(terms):
        mu = class_means(features, y)
        g = mixture_scores(features, mu, present, valid)
    if {"self", "absent"} & set(terms):
        p = logits.softmax(1)
    if "seg" in terms:  # Eq. 3
        result["seg"] = -(y * logits.log_softmax(1)).sum() / num_labeled
    if "self" in terms:  # Eq. 8, halved
        result["self"] = (0.5 * cross_entropy(g, p) * share * valid).sum() / num_valid
    if "spar" in terms:  # Eq. 9, halved and with the negatives; a labeled pixel has one y that is 1
        labeled = y.sum(1, keepdim=True)
        result["spar"] = (0.5 * cross_entropy(y, g) * share * labeled).sum() / num_labeled
    if "con" in terms:
        result["con"] = contrast(mu, present)
    if "absent" in terms:  # in the code only
        outside = ~image_classes[..., None, None]
        result["absent"] = -((1 - p + EPS).log() * outside * valid).sum() / num_valid
    return sum(result.values(), logits.new_zeros(())), result


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """Eq. 4 at label resolution: (B, K, C), zero for absent classes."""
    upsampled = resize(features, y.shape[2:])
    return torch.einsum("bkhw,bchw->bkc", y, upsampled) / (y.sum((2, 3)) + EPS).unsqueeze(2)


def mixture_scores(features: Tensor, mu: Tensor, present: Tensor, valid: Tensor) -> Tensor:
    """Eq. 6 and 7 with the official ``exp(-d^2)``: (B, K, H, W)."""
    present = present[..., None, None]
    difference = features.unsqueeze(1) - mu[..., None, None]  # (B, K, C, h, w)
    d = difference.abs().mean(2) * present * resize(valid, features.shape[2:])
    return resize((-(d**2)).exp(), valid.shape[2:]) * present


def cross_entropy(target: Tensor, score: Tensor) -> Tensor:
    """Binary cross-entropy of every class and pixel."""
    return -target * (score + EPS).log() - (1 - target) * (1 - score + EPS).log()


def contrast(mu: Tensor, present: Tensor) -> Tensor:
    """The official counterpart of Eq. 10: class vectors summed over the batch, all pairs of classes."""
    images = present.sum(0)
    vectors = mu.sum(0) * (images / (images + EPS)).unsqueeze(1)
    similarity = (-((vectors.unsqueeze(0) - vectors.unsqueeze(1)).abs().mean(2) ** 2)).exp()
    seen = (images > 0).to(mu.dtype)
    pairs = torch.outer(seen, seen).triu(1)
    return (similarity * pairs).sum() / (pairs.sum() + EPS)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, ``align_corners=False``, as every interpolation of the branch."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

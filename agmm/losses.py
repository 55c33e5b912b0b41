"""The loss terms of AGMM, one function each, in the official and the printed form, and those of AGMM++.

All functions are pure and work on components (see `agmm.gmm`): ``g`` are the mixture scores and ``p`` the
segmentation's probabilities at the slots' classes, both (B, N, H, W). Each returns a scalar that is exactly 0, with a
graph, where the set it averages over is empty. ``eps`` is 1e-6 everywhere.

The terms at label resolution are written here as the equations read; training uses `agmm.fast`, which computes the
same numbers in one pass.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import fast
from agmm.codes import UNLABELED, VOID
from agmm.gmm import EPS, Components, labeled_pixels


@dataclass(frozen=True)
class Counts:
    """What the means of the losses divide by; scalars.

    By default these are the counts of the tensors at hand (one device, one accumulation step), as in the official code.
    Averages over an effective batch pass the counts of the whole batch divided by its number of microbatches.
    """

    labeled: Tensor
    valid: Tensor


def count(labels: Tensor, num_classes: int) -> Counts:
    """Labeled and valid (not ``VOID``) pixels of (B, H, W) labels, at least 1 each."""
    pixels = fast.census(labels, num_classes).sum(0)
    return Counts(pixels[:num_classes].sum().clamp_min(1), (labels.numel() - pixels[num_classes + 1]).clamp_min(1))


def partial_cross_entropy(logits: Tensor, labels: Tensor, counts: Counts) -> Tensor:
    """Cross-entropy averaged over the labeled pixels of the batch (Eq. 3).

    Parameters
    ----------
    logits : Tensor (B, K, H, W)
    labels : Tensor (B, H, W) int64
    counts : Counts
    """
    image, position, target = labeled_pixels(labels, logits.shape[1])
    return F.cross_entropy(logits.flatten(2)[image, :, position], target, reduction="sum") / counts.labeled


def binary_cross_entropy(logits: Tensor, labels: Tensor, counts: Counts) -> Tensor:
    """Binary cross-entropy of every class's probability, averaged over classes and labeled pixels (AGMM++, Eq. 10).

    The printed form of what the text calls partial cross-entropy; parameters as of `partial_cross_entropy`.
    """
    image, position, target = labeled_pixels(labels, logits.shape[1])
    p = logits.flatten(2)[image, :, position].softmax(1)
    hit = F.one_hot(target, logits.shape[1]).to(p.dtype)
    cross = -hit * (p + EPS).log() - (1 - hit) * (1 - p + EPS).log()
    return cross.mean(1).sum() / counts.labeled


def self_weight(parts: Components, half: bool, reduction: Literal["mean", "sum"], dtype: torch.dtype) -> Tensor:
    """Weight of each component in `self_supervision` and `sparse_supervision`: (B, N).

    One over the image's number of components (``"mean"``) or 1 (``"sum"``), times the official factor 0.5 if ``half``.
    """
    weight = parts.filled.to(dtype)
    if reduction == "mean":
        weight = weight / (weight.sum(1, keepdim=True) + EPS)
    return weight * (0.5 if half else 1.0)


def self_supervision(g: Tensor, p: Tensor, labels: Tensor, weight: Tensor, counts: Counts) -> Tensor:
    """Binary cross-entropy between mixture scores and probabilities over all valid pixels (Eq. 8).

    Parameters
    ----------
    g, p : Tensor (B, N, H, W)
    labels : Tensor (B, H, W) int64
    weight : Tensor (B, N)
        From `self_weight`.
    counts : Counts
    """
    cross = -g * (p + EPS).log() - (1 - g) * (1 - p + EPS).log()
    return ((cross * weight[..., None, None]).sum(1) * (labels != VOID)).sum() / counts.valid


def sparse_supervision(
    g: Tensor, labels: Tensor, parts: Components, weight: Tensor, counts: Counts, negatives: bool
) -> Tensor:
    """Labels supervise the mixture scores at labeled pixels (Eq. 9).

    Parameters
    ----------
    g : Tensor (B, N, H, W)
    labels : Tensor (B, H, W) int64
    parts : Components
    weight : Tensor (B, N)
        From `self_weight`; used with ``negatives`` only.
    counts : Counts
    negatives : bool
        True: official, binary cross-entropy with every present class. False: as printed, the labeled class only.
    """
    image, position, target = labeled_pixels(labels, parts.num_classes)
    scores = g.flatten(2)[image, :, position]
    hit = (parts.classes[image] == target.unsqueeze(1)) & parts.filled[image]
    positive = -(scores + EPS).log() * hit
    if not negatives:
        return positive.sum() / counts.labeled
    cross = positive - (1 - scores + EPS).log() * ~hit
    return (cross * weight[image]).sum() / counts.labeled


def contrast_batch(means: Tensor, parts: Components, vectors: Literal["sum", "mean"]) -> Tensor:
    """Push apart the class vectors of a batch, as the official code does in place of Eq. 10.

    Parameters
    ----------
    means : Tensor (B, N, C)
    parts : Components
    vectors : {"sum", "mean"}
        A class's vector over the images that hold it: their sum (the official code multiplies where a mean would
        divide, which makes frequent classes look far apart) or their mean.
    """
    dense = parts.to_classes(means)
    images = parts.present.sum(0).to(means.dtype)
    if vectors == "sum":
        vector = dense.sum(0) * (images / (images + EPS)).unsqueeze(1)
    else:
        vector = dense.sum(0) / (images + EPS).unsqueeze(1)
    first, second = torch.triu_indices(parts.num_classes, parts.num_classes, 1, device=means.device)
    pairs = ((images[first] > 0) & (images[second] > 0)).to(means.dtype)
    similarity = _similarity(vector[first], vector[second])
    return (similarity * pairs).sum() / (pairs.sum() + EPS)


def contrast_image(means: Tensor, parts: Components) -> Tensor:
    """Push apart the class means of each image (Eq. 10 as printed), averaged over images with a component.

    The printed factor ``2 / (K (K + 1))`` is kept, although an image has ``K (K - 1) / 2`` pairs.
    """
    slots = means.shape[1]
    first, second = torch.triu_indices(slots, slots, 1, device=means.device)
    pairs = parts.filled[:, first] & parts.filled[:, second]
    similarity = _similarity(means[:, first], means[:, second]) * pairs
    k = parts.filled.sum(1).to(means.dtype)
    per_image = similarity.sum(1) * 2 / (k * (k + 1)).clamp_min(1)
    return per_image.sum() / (k > 0).sum().clamp_min(1)


def contrast_pixels(d: Tensor, members: Tensor, parts: Components) -> Tensor:
    """Pull pixels towards the mean of their component and push them away from those of others (AGMM++, Eq. 14).

    Averages extend over all pairs of the batch, positive and negative ones apart (ours: the print has the sets' sizes).

    Parameters
    ----------
    d : Tensor (B, N, h, w)
        Distances of pixels to means, on the feature grid.
    members : Tensor (B, N, h, w)
        1 at the component of a pixel; a pixel without one takes no part.
    parts : Components

    Returns
    -------
    Tensor ()
        In [0, 2]; a set without pairs adds 0.
    """
    similarity = (-d.square()).exp()
    others = (members.sum(1, keepdim=True) - members) * parts.filled[..., None, None]
    pull = ((1 - similarity) * members).sum() / members.sum().clamp_min(1)
    push = (similarity * others).sum() / others.sum().clamp_min(1)
    return pull + push


def absent_classes(p: Tensor, labels: Tensor, image_classes: Tensor, counts: Counts) -> Tensor:
    """Push down the classes annotated nowhere in the image; in the official code only, in no paper.

    Parameters
    ----------
    p : Tensor (B, K, H, W)
        Probabilities of all classes.
    labels : Tensor (B, H, W) int64
    image_classes : Tensor (B, K) bool
        Classes annotated anywhere in the uncropped image.
    counts : Counts
    """
    outside = -(1 - p + EPS).log() * ~image_classes[..., None, None]
    return (outside.sum(1) * (labels != VOID)).sum() / counts.valid


def assign_labels(d: Tensor, sigma: Tensor, labels: Tensor, parts: Components) -> Tensor:
    """Hard labels from distances (Eq. 13): within sigma of exactly one mean and beyond that of all others.

    Parameters
    ----------
    d : Tensor (B, N, H, W)
        Distances at label resolution.
    sigma : Tensor (B, N)
    labels : Tensor (B, H, W) int64
    parts : Components

    Returns
    -------
    Tensor (B, H, W) int64
        A class for every unlabeled pixel that one class claims, ``VOID`` everywhere else.
    """
    sigma, filled = sigma[..., None, None], parts.filled[..., None, None]
    inside, beyond = (d < sigma) & filled, (d > sigma) & filled
    others = parts.filled.sum(1)[:, None, None] - 1
    unique = (inside.sum(1) == 1) & (beyond.sum(1) == others) & (labels == UNLABELED)
    winner = parts.classes.gather(1, inside.to(torch.uint8).argmax(1).flatten(1)).view_as(labels)
    return torch.where(unique, winner, VOID)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-D^2)`` with D the mean absolute difference over channels."""
    return (-(a - b).abs().mean(-1).square()).exp()

"""The loss terms of AGMM, one function each, in the official and the printed form, and those of AGMM++.

All functions are pure and work on components (see `agmm.gmm`): ``g`` are the mixture scores and ``p`` the
segmentation's probabilities at the slots' classes, both (B, N, H, W). Each returns a scalar that is exactly 0, with a
graph, where the set it averages over is empty. ``eps`` is 1e-6 everywhere.

The terms at label resolution are computed together by `agmm.fast`; `agmm.dense` has them one by one.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import fast
from agmm.codes import EPS, UNLABELED, VOID
from agmm.fast.plain import labeled_pixels
from agmm.gmm import Components


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
    image, position, target = labeled_pixels(labels.flatten(1), logits.shape[1])
    return F.cross_entropy(logits.flatten(2)[image, :, position], target, reduction="sum") / counts.labeled


def binary_cross_entropy(logits: Tensor, labels: Tensor, counts: Counts) -> Tensor:
    """Binary cross-entropy of every class's probability, averaged over classes and labeled pixels (AGMM++, Eq. 10).

    The printed form of what the text calls partial cross-entropy; parameters as of `partial_cross_entropy`.
    """
    image, position, target = labeled_pixels(labels.flatten(1), logits.shape[1])
    p = logits.flatten(2)[image, :, position].softmax(1)
    hit = F.one_hot(target, logits.shape[1]).to(p.dtype)
    cross = -hit * (p + EPS).log() - (1 - hit) * (1 - p + EPS).log()
    return cross.mean(1).sum() / counts.labeled


@dataclass(frozen=True)
class Form:
    """Which form of `self` and `spar` (see `pixel_losses`) an objective has.

    Attributes
    ----------
    factor : float
        0.5 in the official code, else 1.
    reduction : {"mean", "sum"}
        How `self` adds up over an image's components.
    negatives : bool
        Whether a labeled pixel also pushes down the scores of all other components.
    """

    factor: float
    reduction: Literal["mean", "sum"]
    negatives: bool


def component_weights(components: Components, form: Form, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight of each component in `self` and in `spar`: (B, N) each, 0 in empty slots."""
    filled = components.filled.to(dtype)
    mean = filled / (filled.sum(1, keepdim=True) + EPS) * form.factor
    return mean if form.reduction == "mean" else filled * form.factor, mean if form.negatives else filled


def pixel_losses(
    names: Set[str],
    logits: Tensor,
    g: Tensor,
    labels: Tensor,
    image_classes: Tensor,
    counts: Counts,
    components: Components,
    form: Form,
) -> dict[str, Tensor]:
    """The losses that are means over the pixels of the labels, in one pass.

    Parameters
    ----------
    names : set of str
        Which of seg, self, spar, absent are wanted.
    logits : Tensor (B, K, H, W)
    g : Tensor (B, N, H, W)
        Mixture scores of the components.
    labels, image_classes, counts
        See `agmm.objectives.common.batch_loss`.
    components : Components
    form : Form

    Returns
    -------
    dict of str to Tensor ()
        The wanted ones, unweighted.
    """
    if not {"self", "spar", "absent"} & names:
        return {"seg": partial_cross_entropy(logits, labels, counts)} if "seg" in names else {}
    self_weight, spar_weight = component_weights(components, form, g.dtype)
    supervision = fast.Supervision(
        labels=labels.flatten(1),
        classes=components.classes,
        self_weight=self_weight * ("self" in names),
        spar_weight=spar_weight * ("spar" in names),
        negatives=form.negatives,
        absent=~image_classes if "absent" in names else None,
        seg="seg" in names,
    )
    if not {"seg", "self", "absent"} & names:
        logits = logits.detach()  # which leaves them without a gradient rather than with one of zeros
    seg, self_, spar, absent = fast.segmentation_terms(logits, g, supervision)
    means = {
        "seg": seg / counts.labeled,
        "self": self_ / counts.valid,
        "spar": spar / counts.labeled,
        "absent": absent / counts.valid,
    }
    return {name: value for name, value in means.items() if name in names}


def contrast_batch(means: Tensor, components: Components, vectors: Literal["sum", "mean"]) -> Tensor:
    """Push apart the class vectors of a batch, as the official code does in place of Eq. 10.

    Parameters
    ----------
    means : Tensor (B, N, C)
    components : Components
    vectors : {"sum", "mean"}
        A class's vector over the images that hold it: their sum (the official code multiplies where a mean would
        divide, which makes frequent classes look far apart) or their mean.
    """
    dense = components.to_classes(means)
    images = components.present.sum(0).to(means.dtype)
    if vectors == "sum":
        vector = dense.sum(0) * (images / (images + EPS)).unsqueeze(1)
    else:
        vector = dense.sum(0) / (images + EPS).unsqueeze(1)
    first, second = torch.triu_indices(components.num_classes, components.num_classes, 1, device=means.device)
    pairs = ((images[first] > 0) & (images[second] > 0)).to(means.dtype)
    similarity = _similarity(vector[first], vector[second])
    return (similarity * pairs).sum() / (pairs.sum() + EPS)


def contrast_image(means: Tensor, components: Components) -> Tensor:
    """Push apart the class means of each image (Eq. 10 as printed), averaged over images with a component.

    The printed factor ``2 / (K (K + 1))`` is kept, although an image has ``K (K - 1) / 2`` pairs.
    """
    slots = means.shape[1]
    first, second = torch.triu_indices(slots, slots, 1, device=means.device)
    pairs = components.filled[:, first] & components.filled[:, second]
    similarity = _similarity(means[:, first], means[:, second]) * pairs
    k = components.filled.sum(1).to(means.dtype)
    per_image = similarity.sum(1) * 2 / (k * (k + 1)).clamp_min(1)
    return per_image.sum() / (k > 0).sum().clamp_min(1)


def contrast_pixels(d: Tensor, members: Tensor, components: Components) -> Tensor:
    """Pull pixels towards the mean of their component and push them away from those of others (AGMM++, Eq. 14).

    Averages extend over all pairs of the batch, positive and negative ones apart (ours: the print has the sets' sizes).

    Parameters
    ----------
    d : Tensor (B, N, h, w)
        Distances of pixels to means, on the feature grid.
    members : Tensor (B, N, h, w)
        1 at the component of a pixel; a pixel without one takes no part.
    components : Components

    Returns
    -------
    Tensor ()
        In [0, 2]; a set without pairs adds 0.
    """
    similarity = (-d.square()).exp()
    others = (members.sum(1, keepdim=True) - members) * components.filled[..., None, None]
    pull = ((1 - similarity) * members).sum() / members.sum().clamp_min(1)
    push = (similarity * others).sum() / others.sum().clamp_min(1)
    return pull + push


def assign_labels(d: Tensor, sigma: Tensor, labels: Tensor, components: Components) -> Tensor:
    """Hard labels from distances (Eq. 13): within sigma of exactly one mean and beyond that of all others.

    Parameters
    ----------
    d : Tensor (B, N, H, W)
        Distances at label resolution.
    sigma : Tensor (B, N)
    labels : Tensor (B, H, W) int64
    components : Components

    Returns
    -------
    Tensor (B, H, W) int64
        A class for every unlabeled pixel that one class claims, ``VOID`` everywhere else.
    """
    sigma, filled = sigma[..., None, None], components.filled[..., None, None]
    inside, beyond = (d < sigma) & filled, (d > sigma) & filled
    others = components.filled.sum(1)[:, None, None] - 1
    unique = (inside.sum(1) == 1) & (beyond.sum(1) == others) & (labels == UNLABELED)
    winner = components.classes.gather(1, inside.to(torch.uint8).argmax(1).flatten(1)).view_as(labels)
    return torch.where(unique, winner, VOID)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-D^2)`` with D the mean absolute difference over channels."""
    return (-(a - b).abs().mean(-1).square()).exp()

"""The losses of AGMM, in the official and the printed form, and those of AGMM++.

All functions are pure and work on components; `agmm.gmm` has the symbols. V are the valid pixels (not ``VOID``), y(x)
is the label of a pixel, and ``BCE(t, s) = -t log s - (1 - t) log(1 - s)`` is the binary cross-entropy. Logarithms, but
not that of Eq. 3, are of numbers plus 1e-6. Each loss is a scalar that is exactly 0, with a graph, where the set it
averages over is empty.
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
    """Labeled and valid pixels of (B, H, W) labels, at least 1 each."""
    return counts_of(fast.census(labels, num_classes))


def counts_of(pixels: Tensor) -> Counts:
    """`count` from the pixels (B, K + 3) of each code, see `agmm.fast.census`."""
    valid = pixels.sum() - pixels[:, -2].sum()
    return Counts(pixels[:, :-3].sum().clamp_min(1), valid.clamp_min(1))


def partial_cross_entropy(logits: Tensor, labels: Tensor, counts: Counts) -> Tensor:
    """Return ``seg``, the cross-entropy of the labeled pixels of the batch (Eq. 3).

    ::

        L_seg = -1/|L| sum_{x in L} log P_y(x)            of logits (B, K, H, W) and labels (B, H, W) int64
    """
    image, position, target = labeled_pixels(labels.flatten(1), logits.shape[1])
    return F.cross_entropy(logits.flatten(2)[image, :, position], target, reduction="sum") / counts.labeled


def binary_cross_entropy(logits: Tensor, labels: Tensor, counts: Counts) -> Tensor:
    """Return ``seg`` as AGMM++ prints it (Eq. 10), although its text says partial cross-entropy.

    ::

        L_seg = 1/|L| sum_{x in L} 1/K sum_k BCE([y(x) = k], P_k(x))
    """
    image, position, target = labeled_pixels(labels.flatten(1), logits.shape[1])
    p = logits.flatten(2)[image, :, position].softmax(1)
    hit = F.one_hot(target, logits.shape[1]).to(p.dtype)
    cross = -hit * (p + EPS).log() - (1 - hit) * (1 - p + EPS).log()
    return cross.mean(1).sum() / counts.labeled


CONTAINED = "which Eq. 8 over all classes (self_classes 'all') contains; leave it out"


@dataclass(frozen=True)
class Form:
    """In which form `pixel_losses` computes self and spar."""

    factor: float  # 0.5 in the official code, else 1
    reduction: Literal["mean", "sum"]  # how self adds up over an image's components
    negatives: bool  # whether a labeled pixel also pushes down the scores of all other components
    everywhere: bool = False  # whether self also has the classes without a component, with G = 0


def component_weights(components: Components, form: Form, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight of each component in self and in spar: (B, N) each, 0 in empty slots."""
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
    """Return the losses that are means over pixels, unweighted, from one pass over logits and scores.

    ::

        seg     see `partial_cross_entropy`                                                             Eq. 3
        self    1/|V| sum_{x in V} mean_i BCE(G_i(x), P_i(x))                            Eq. 8, AGMM++ Eq. 11
        spar    -1/|L| sum_{x in L} log G_y(x)                                                          Eq. 9
                1/|L| sum_{x in L} mean_i BCE([y(x) = i], G_i(x))           with negatives:      AGMM++ Eq. 12
        absent  -1/|V| sum_{x in V} sum_{k nowhere in the image} log(1 - P_k(x))                official code

    Eq. 8 has no class index; ``mean_i`` is over the components of the image. Summed over all K classes, with G = 0 for
    those without a component, it is ``self`` as a sum plus ``absent`` of the classes without a component. The official
    code has ``spar`` with the negatives, and half of ``self`` and ``spar``.

    Parameters
    ----------
    names : set of str
        Which of the four are wanted.
    logits : Tensor (B, K, H, W)
    g : Tensor (B, N, H, W)
        Mixture scores of the components.
    labels, image_classes, counts
        See `agmm.objectives.batch_loss`.
    components : Components
    form : Form
    """
    if not {"self", "spar", "absent"} & names:
        return {"seg": partial_cross_entropy(logits, labels, counts)} if "seg" in names else {}
    self_weight, spar_weight = component_weights(components, form, g.dtype)
    everywhere = form.everywhere and "self" in names
    absent = ~components.present if everywhere else ~image_classes if "absent" in names else None
    supervision = fast.Supervision(
        labels=labels.flatten(1),
        classes=components.classes,
        self_weight=self_weight * ("self" in names),
        spar_weight=spar_weight * ("spar" in names),
        negatives=form.negatives,
        absent=absent,
        seg="seg" in names,
    )
    if not {"seg", "self", "absent"} & names:
        logits = logits.detach()  # which leaves them without a gradient rather than with one of zeros
    sums = dict(zip(("seg", "self", "spar", "absent"), fast.segmentation_terms(logits, g, supervision), strict=True))
    if everywhere:
        sums["self"] = sums["self"] + sums["absent"]
    divisors = {"seg": counts.labeled, "self": counts.valid, "spar": counts.labeled, "absent": counts.valid}
    return {name: value / divisors[name] for name, value in sums.items() if name in names}


def contrast_batch(means: Tensor, components: Components, vectors: Literal["sum", "mean"]) -> Tensor:
    """Return ``con`` as the official code has it in place of Eq. 10: it pushes apart the class vectors of a batch.

    ::

        V_i = sum_b mu_b,i        L_con = mean_{i < j} exp(-D_ij^2)        D_ij = 1/C sum_c |V_i,c - V_j,c|

    AGMM++ has this loss as its Eq. 13.

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
    """Return ``con`` as printed (Eq. 10): it pushes apart the class means of each image; mean over images.

    ::

        L_con = 2 / (K (K + 1)) sum_{i < j} exp(-D_ij^2)                   D_ij = 1/C sum_c |mu_i,c - mu_j,c|

    K are the components of the image. The printed factor is kept, although there are ``K (K - 1) / 2`` pairs.
    """
    slots = means.shape[1]
    first, second = torch.triu_indices(slots, slots, 1, device=means.device)
    pairs = components.filled[:, first] & components.filled[:, second]
    similarity = _similarity(means[:, first], means[:, second]) * pairs
    k = components.filled.sum(1).to(means.dtype)
    per_image = similarity.sum(1) * 2 / (k * (k + 1)).clamp_min(1)
    return per_image.sum() / (k > 0).sum().clamp_min(1)


def contrast_pixels(d: Tensor, members: Tensor, components: Components) -> Tensor:
    """Return ``con`` of AGMM++ (Eq. 14): pixels are pulled to their component's mean, pushed away from the others'.

    ::

        L_con = mean_{x in i} (1 - exp(-d_i(x)^2)) + mean_{x not in i} exp(-d_i(x)^2)

    The means extend over all pairs of a pixel and a component in the batch (ours: the print has the sets' sizes).

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
    """Return hard labels from distances (Eq. 13 of AGMM).

    ::

        y(x) = i   if d_i(x) < sigma_i and d_j(x) > sigma_j for all j != i

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

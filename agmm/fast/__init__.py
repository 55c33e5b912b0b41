"""The heavy inner loops of the mixture branch, with hand-written gradients.

These functions compute exactly what `agmm.dense` writes in plain operations, but touch each feature and each logit
once forward and once backward, and never hold a (B, K, C, h, w) or a second (B, K, H, W) tensor. The loops come in
two formulations with the same signatures: the functions at the end of this module, for any device and number type,
which process the batch in blocks that stay in the processor's cache, and `agmm.fast.cpu`, for float32 on a CPU.

M are the pixels of the feature grid or of the label, flattened; n(b) is an image's number of components, of N slots.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.codes import UNLABELED, VOID

# Elements of one temporary: half of a processor's second-level cache, or a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 26}


@dataclass(frozen=True)
class Supervision:
    """What the losses at label resolution need besides logits and scores; all of it is constant.

    Attributes
    ----------
    labels : Tensor (B, M) int64
    classes : Tensor (B, N) int64
        Distinct classes of an image's components.
    self_weight, spar_weight : Tensor (B, N)
        Weight of each component in the terms self and spar; 0 in empty slots, or to leave the term out.
    negatives : bool
        Whether labeled pixels push down the scores of all other components (see `agmm.losses.sparse_supervision`).
    absent : Tensor (B, K) bool or None
        Classes annotated nowhere in the image; None leaves the term out.
    seg : bool
        False leaves the cross-entropy of the labeled pixels out.
    eps : float
    """

    labels: Tensor
    classes: Tensor
    self_weight: Tensor
    spar_weight: Tensor
    negatives: bool
    absent: Tensor | None
    seg: bool
    eps: float


def census(labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of every class of (B, H, W) labels, then of ``UNLABELED``, ``VOID`` and any other code: (B, K + 3)."""
    return loops(labels).count_codes(labels.flatten(1), num_classes)


def mean_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """Weight of every feature cell in the means of the labeled pixels' upsampled features.

    Parameters
    ----------
    labels : Tensor (B, H, W) int64
    classes : Tensor (B, N) int64
    share : Tensor (B, N)
        Weight of each labeled pixel of a component; 0 in empty slots.
    size : (h, w)

    Returns
    -------
    Tensor (B, N, h w)
        The adjoint of bilinear upsampling (``align_corners=False``) of the components' label masks times ``share``.
    """
    return loops(share).adjoint_weights(labels, classes, share, size)


def mean_absolute_difference(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """Mean over channels of ``|features - means|`` for every pixel and component.

    Parameters
    ----------
    features : Tensor (B, C, M)
        In any memory layout.
    means : Tensor (B, N, C)
    per_image : tuple of B ints
        n(b); what follows in the other slots is unspecified but finite.

    Returns
    -------
    Tensor (B, N, M)
        Differentiable once in both arguments; the kink of the absolute value at 0 has slope 0.
    """
    return _MeanAbsoluteDifference.apply(features, means, per_image)


def means_and_differences(features: Tensor, weights: Tensor, per_image: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weighted sums of the features, and `mean_absolute_difference` to them, with one gradient for both.

    Parameters
    ----------
    features : Tensor (B, C, M)
    weights : Tensor (B, N, M)
        Mostly zero; a constant.
    per_image : tuple of B ints

    Returns
    -------
    means : Tensor (B, N, C)
    differences : Tensor (B, N, M)
    """
    return _MeansAndDifferences.apply(features, weights, per_image)


def upsample(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation (``align_corners=False``) of the first n(b) of (B, N, h, w) maps; the others are 0."""
    return _Upsample.apply(maps, size, per_image)


def segmentation_terms(logits: Tensor, scores: Tensor, supervision: Supervision) -> tuple[Tensor, ...]:
    """The four losses at label resolution, from one softmax.

    Parameters
    ----------
    logits : Tensor (B, K, H, W)
    scores : Tensor (B, N, H, W)
        Mixture scores of the components.
    supervision : Supervision

    Returns
    -------
    seg, self, spar, absent : Tensor ()
        Sums over pixels (not means); differentiable once in ``logits`` and ``scores``. Terms left out are 0.
    """
    return _SegmentationTerms.apply(logits.flatten(2), scores.flatten(2), supervision).unbind()


FAST = {"cpu": "agmm.fast.cpu"}
"""Modules with loops for a kind of device; ``FAST.clear()`` leaves the plain ones."""


def loops(x: Tensor) -> ModuleType:
    """Module with the formulation of the loops for a tensor's device and number type."""
    if x.device.type in FAST:
        module = importlib.import_module(FAST[x.device.type])
        if module.available(x):
            return module
    return importlib.import_module("agmm.fast")


def as_computed(x: Tensor) -> Tensor:
    """Float32 of a half-precision tensor, unless the loops widen it themselves."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half and loops(x).__name__ == __name__ else x


class _MeanAbsoluteDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(features, means)
        ctx.per_image = per_image
        return loops(features).differences(features, means, per_image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        features, means = ctx.saved_tensors
        return *loops(features).differences_backward(features, means, ctx.per_image, grad), None


class _MeansAndDifferences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, per_image: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        means = loops(features).weighted_sums(features, weights)
        ctx.save_for_backward(features, means, weights)
        ctx.per_image = per_image
        return means, loops(features).differences(features, means, per_image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_means: Tensor, grad: Tensor) -> tuple[Tensor, None, None]:
        features, means, weights = ctx.saved_tensors
        backward = loops(features).differences_backward
        grad_features, through_differences = backward(features, means, ctx.per_image, grad)
        loops(features).add_weighted(grad_features, weights, grad_means + through_differences)
        return grad_features, None, None


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.per_image = maps.shape, per_image
        return loops(maps).interpolate(maps, size, per_image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return loops(grad).interpolate_backward(grad, ctx.shape, ctx.per_image), None, None


class _SegmentationTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, scores: Tensor, supervision: Supervision) -> Tensor:
        ctx.save_for_backward(logits, scores)
        ctx.supervision = supervision
        return loops(logits).segmentation(logits, scores, supervision)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        logits, scores = ctx.saved_tensors
        return *loops(logits).segmentation_backward(logits, scores, ctx.supervision, grad), None


def count_codes(labels: Tensor, num_classes: int) -> Tensor:
    """`census` of (B, M) labels."""
    bins = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes + 2)
    bins = torch.where(labels == UNLABELED, num_classes, torch.where(labels == VOID, num_classes + 1, bins))
    # Not `torch.bincount`, which waits for a GPU.
    return labels.new_zeros(len(labels), num_classes + 3).scatter_add_(1, bins, torch.ones_like(bins))


def adjoint_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `mean_weights`."""
    masks = (labels.unsqueeze(1) == classes[..., None, None]) * share[..., None, None]
    return interpolate_backward(masks, torch.Size((*classes.shape, *size)), ()).flatten(2)


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """Sums (B, N, C) of features (B, C, M) with weights (B, N, M)."""
    return weights @ features.transpose(1, 2)


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """Add the gradient of `weighted_sums` in place."""
    grad_features.baddbmm_(grad_sums.transpose(1, 2), weights)


def differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """See `mean_absolute_difference`."""
    out = features.new_zeros(features.shape[0], means.shape[1], features.shape[2])
    for images, pixels in _blocks(features):
        block = features[images, :, pixels]
        for n in range(max(per_image[images])):
            difference = (block - means[images, n].unsqueeze(2)).abs_()
            torch.mean(difference, 1, out=out[images, n, pixels])
    return out


def differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``features``, in their memory layout, and of ``means``."""
    grad = grad / features.shape[1]
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means)
    for images, pixels in _blocks(features):
        block, target = features[images, :, pixels], grad_features[images, :, pixels].zero_()
        for n in range(max(per_image[images])):
            slope = (block - means[images, n].unsqueeze(2)).sign_().mul_(grad[images, n, pixels].unsqueeze(1))
            target.add_(slope)
            grad_means[images, n] -= slope.sum(2)
    return grad_features, grad_means


def interpolate(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """See `upsample`."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def interpolate_backward(grad: Tensor, shape: torch.Size, per_image: tuple[int, ...]) -> Tensor:
    """Gradient of the maps from that of `interpolate`."""
    sizes = list(grad.shape[-2:]), list(shape)
    return torch.ops.aten.upsample_bilinear2d_backward(grad.contiguous(), *sizes, False)


def segmentation(logits: Tensor, scores: Tensor, given: Supervision) -> Tensor:
    """Sums (4,) of seg, self, spar and absent for flattened pixels, see `segmentation_terms`."""
    sums = logits.new_zeros(4)
    for images, pixels in _blocks(logits):
        p, g, label = logits[images, :, pixels].softmax(1), scores[images, :, pixels], given.labels[images, pixels]
        valid, chosen = (label != VOID).to(p.dtype).unsqueeze(1), _rows(p, given.classes[images])
        # G log(P + eps) + (1 - G) log(1 - P + eps)
        cross = torch.lerp((1 + given.eps - chosen).log_(), chosen.add_(given.eps).log_(), g)
        sums[1] -= (cross.mul_(valid).sum(2) * given.self_weight[images]).sum()
        hit, other = _hits(label, given.classes[images], p.shape[1], given.negatives)
        cross = (g + given.eps).log() * hit + (1 - g + given.eps).log() * other
        sums[2] -= (cross.sum(2) * given.spar_weight[images]).sum()
        if given.absent is not None:
            # One logarithm of a product instead of K logarithms. It cannot underflow: all P add up to 1.
            product = _complement(p, given.absent[images], given.eps).prod(1, keepdim=True)
            sums[3] -= product.log_().mul_(valid).sum()
    if given.seg:
        image, position, target = _labeled(given.labels, logits.shape[1])
        sums[0] = F.cross_entropy(logits[image, :, position], target, reduction="sum")
    return sums


def segmentation_backward(logits: Tensor, scores: Tensor, given: Supervision, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``logits``, in their memory layout, and ``scores`` from that of `segmentation`."""
    grad_logits, grad_scores, eps = torch.empty_like(logits), torch.empty_like(scores), given.eps
    for images, pixels in _blocks(logits):
        p, g, label = logits[images, :, pixels].softmax(1), scores[images, :, pixels], given.labels[images, pixels]
        valid, chosen = (label != VOID).to(p.dtype).unsqueeze(1), _rows(p, given.classes[images])
        weight = (given.self_weight[images] * grad[1]).unsqueeze(2) * valid
        inverse, other = 1 / (chosen + eps), 1 + eps - chosen
        hit, miss = _hits(label, given.classes[images], p.shape[1], given.negatives)
        sparse = (miss / (1 - g + eps) - hit / (g + eps)).mul_((given.spar_weight[images] * grad[2]).unsqueeze(2))
        torch.addcmul(sparse, (other * inverse).log_(), weight, out=grad_scores[images, :, pixels])
        other.reciprocal_()
        grad_chosen = other.sub_(inverse.add_(other).mul_(g)).mul_(weight)
        if given.absent is None:
            grad_p = torch.zeros_like(p)
        else:
            absent = given.absent[images]
            grad_p = (absent.unsqueeze(2) * grad[3]) / _complement(p, absent, eps) * valid
        _add_rows(grad_p, given.classes[images], grad_chosen)
        inner = (grad_p * p).sum(1, keepdim=True)
        torch.mul(grad_p.sub_(inner), p, out=grad_logits[images, :, pixels])
    if given.seg:
        image, position, target = _labeled(given.labels, logits.shape[1])
        delta = logits[image, :, position].softmax(1)
        delta[torch.arange(len(target), device=target.device), target] -= 1
        grad_logits[image, :, position] += delta * grad[0]
    return grad_logits, grad_scores


def _labeled(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, position and class of the labeled pixels of (B, M) labels."""
    image, position = ((labels >= 0) & (labels < num_classes)).nonzero(as_tuple=True)
    return image, position, labels[image, position]


def _hits(labels: Tensor, classes: Tensor, num_classes: int, negatives: bool) -> tuple[Tensor, Tensor]:
    """Where a labeled pixel is of a component's class, and where it counts as of another one's: (B, N, M) each."""
    labeled = (labels >= 0) & (labels < num_classes)
    hit = labels.unsqueeze(1) == classes.unsqueeze(2)
    return hit, ~hit & labeled.unsqueeze(1) & negatives


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pieces of (B, ·, M): as many whole images as fit a block, else as many pixels of one image."""
    batch, channels, pixels = x.shape
    limit = BLOCK.get(x.device.type, BLOCK["cuda"])
    group = max(1, limit // max(1, channels * pixels))
    step = pixels if channels * pixels <= limit else max(1, limit // channels)
    for image in range(0, batch, group):
        for start in range(0, pixels, step):
            yield slice(image, image + group), slice(start, start + step)


def _complement(p: Tensor, absent: Tensor, eps: float) -> Tensor:
    """``1 - P + eps`` where a class is absent, else 1."""
    absent = absent.unsqueeze(2).to(p.dtype)
    return (p * -absent).add_(1 + eps * absent)


def _rows(p: Tensor, classes: Tensor) -> Tensor:
    """(B, N, M) channels of (B, K, M)."""
    return p.flatten(0, 1).index_select(0, _row_index(p, classes)).unflatten(0, classes.shape)


def _add_rows(p: Tensor, classes: Tensor, values: Tensor) -> None:
    p.flatten(0, 1).index_add_(0, _row_index(p, classes), values.flatten(0, 1))


def _row_index(p: Tensor, classes: Tensor) -> Tensor:
    return (classes + p.shape[1] * torch.arange(len(p), device=p.device).unsqueeze(1)).flatten()

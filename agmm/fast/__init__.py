"""The heavy inner loops of the mixture branch, with hand-written gradients.

These functions compute exactly what `agmm.dense` writes in plain operations, but touch each feature and each logit
once forward and once backward, and never hold a (B, K, C, h, w) or a second (B, K, H, W) tensor. The loops come in
two formulations with the same signatures: `agmm.fast.plain` and, for float32 on a CPU with numba, `agmm.fast.cpu`.

M are the pixels of the feature grid or of the label, flattened; n(b) is an image's number of components, of N slots.
"""

import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.fast import plain
from agmm.fast.plain import Supervision


def loops(x: Tensor) -> ModuleType:
    """Return the module with the loops for a tensor's device and number type."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.int64):
        return _compiled() or plain
    return plain


@cache
def _compiled() -> ModuleType | None:
    """Return the loops that numba compiles; where it is missing, say so once."""
    try:
        from agmm.fast import cpu
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        sentence = "numba is not installed, so the losses take several times longer: pip install 'agmm[fast]'"
        warnings.warn(sentence, stacklevel=2)
        return None
    return cpu


def census(labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of every class of (B, H, W) labels, then of ``UNLABELED``, ``VOID`` and any other code: (B, K + 3)."""
    return loops(labels).count_codes(labels.flatten(1), num_classes)


def mean_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """Weigh every feature cell in the means of the labeled pixels' upsampled features: (B, N, h w) on a grid (h, w).

    The adjoint of bilinear upsampling (``align_corners=False``) of the masks of labels (B, H, W) that are of the
    components' classes (B, N), both int64. ``share`` (B, N) is the weight of each labeled pixel, 0 in empty slots.
    """
    return loops(share).adjoint_weights(labels, classes, share, size)


def mean_absolute_difference(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """Average ``|features - means|`` over the channels of features (B, C, M) and means (B, N, C): (B, N, M).

    Differentiable once in both; the kink of the absolute value at 0 has slope 0. ``per_image`` holds n(b); what
    follows in the other slots is unspecified but finite.
    """
    return _MeanAbsoluteDifference.apply(_channels_last(features), means, per_image)


def means_and_differences(features: Tensor, weights: Tensor, per_image: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return weighted sums (B, N, C) of features (B, C, M), and `mean_absolute_difference` (B, N, M) to them.

    Both share one gradient, of the features alone: the weights (B, N, M), mostly 0, are constant.
    """
    return _MeansAndDifferences.apply(_channels_last(features), weights, per_image)


def upsample(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation (``align_corners=False``) of the first n(b) of (B, N, h, w) maps; the others are 0."""
    return _Upsample.apply(maps, size, per_image)


def segmentation_terms(logits: Tensor, scores: Tensor, supervision: Supervision) -> tuple[Tensor, ...]:
    """Return the losses seg, self, spar and absent of logits (B, K, H, W) and the components' scores (B, N, H, W).

    Sums over pixels (not means) from one softmax, differentiable once in both. Terms left out are 0.
    """
    return _SegmentationTerms.apply(_channels_last(logits.flatten(2)), scores.flatten(2), supervision).unbind()


def _channels_last(x: Tensor) -> Tensor:
    """Lay the channels of a pixel of (B, C, M) side by side, as our networks do; other layouts are copied once."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


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

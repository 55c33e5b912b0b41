"""The heavy inner loops of the mixture branch, with hand-written gradients.

These functions compute exactly what `agmm.reference` writes in plain operations, but touch each feature and each logit
once forward and once backward, and never hold a (B, K, C, h, w) or a second (B, K, H, W) tensor. They process the batch
in blocks that stay in the processor's cache; a small batch is one block.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.labels import VOID

# Elements of one temporary: half of a processor's second-level cache, or a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 26}


def mean_absolute_difference(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """Mean over channels of ``|features - means|`` for every pixel and component.

    Parameters
    ----------
    features : Tensor (B, C, M)
        M pixels, in any memory layout.
    means : Tensor (B, N, C)
    per_image : tuple of B ints
        Components of each image, at most N; what follows in the other slots is unspecified but finite.

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


def segmentation_terms(
    logits: Tensor,
    scores: Tensor,
    labels: Tensor,
    classes: Tensor,
    self_weight: Tensor,
    absent: Tensor | None,
    labeled: tuple[Tensor, Tensor, Tensor] | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three losses that read the segmentation's probabilities, from one softmax.

    Parameters
    ----------
    logits : Tensor (B, K, H, W)
    scores : Tensor (B, N, H, W)
        Mixture scores of the components.
    labels : Tensor (B, H, W) int64
    classes : Tensor (B, N) int64
        Distinct classes of an image's components.
    self_weight : Tensor (B, N)
        Weight of each component's cross-entropy between scores and probabilities; 0 in empty slots.
    absent : Tensor (B, K) bool or None
        Classes annotated nowhere in the image; None leaves the term out.
    labeled : three Tensors (L,) int64 or None
        Image, flat position and class of every labeled pixel; None leaves the term seg out.
    eps : float

    Returns
    -------
    seg, self, absent : Tensor ()
        Sums over pixels (not means); differentiable once in ``logits`` and ``scores``. Terms left out are 0.
    """
    flat = logits.flatten(2), scores.flatten(2), labels.flatten(1)
    return _SegmentationTerms.apply(*flat, classes, self_weight, absent, labeled, eps)


class _MeanAbsoluteDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(features, means)
        ctx.per_image = per_image
        return _differences(features, means, per_image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        features, means = ctx.saved_tensors
        return *_differences_backward(features, means, ctx.per_image, grad), None


class _MeansAndDifferences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, per_image: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # A few labeled pixels touch a few cells.
        image, slot, cell = weights.nonzero(as_tuple=True)
        weight, row = weights[image, slot, cell].unsqueeze(1), image * weights.shape[1] + slot
        means = features.new_zeros(*weights.shape[:2], features.shape[1])
        means.flatten(0, 1).index_add_(0, row, weight * features.transpose(1, 2)[image, cell])
        ctx.save_for_backward(features, means, weight, row, image, cell)
        ctx.per_image = per_image
        return means, _differences(features, means, per_image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_means: Tensor, grad: Tensor) -> tuple[Tensor, None, None]:
        features, means, weight, row, image, cell = ctx.saved_tensors
        grad_features, through_differences = _differences_backward(features, means, ctx.per_image, grad)
        grad_sums = weight * (grad_means + through_differences).flatten(0, 1)[row]
        grad_features.transpose(1, 2).index_put_((image, cell), grad_sums, accumulate=True)
        return grad_features, None, None


def _differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    out = features.new_zeros(features.shape[0], means.shape[1], features.shape[2])
    for images, pixels in _blocks(features):
        block = features[images, :, pixels]
        for n in range(max(per_image[images])):
            difference = (block - means[images, n].unsqueeze(2)).abs_()
            torch.mean(difference, 1, out=out[images, n, pixels])
    return out


def _differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    grad = grad / features.shape[1]
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means)
    for images, pixels in _blocks(features):
        block, target = features[images, :, pixels], grad_features[images, :, pixels].zero_()
        for n in range(max(per_image[images])):
            slope = (block - means[images, n].unsqueeze(2)).sign_().mul_(grad[images, n, pixels].unsqueeze(1))
            target.add_(slope)
            grad_means[images, n] -= slope.sum(2)
    return grad_features, grad_means


class _SegmentationTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: Tensor,
        self_weight: Tensor,
        absent: Tensor | None,
        labeled: tuple[Tensor, Tensor, Tensor] | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits, scores, labels, classes, self_weight, absent, *(labeled or ()))
        ctx.eps = eps
        seg_sum, self_sum, absent_sum = (logits.new_zeros(()) for _ in range(3))
        for images, pixels in _blocks(logits):
            p = logits[images, :, pixels].softmax(1)
            valid = (labels[images, pixels] != VOID).to(p.dtype).unsqueeze(1)
            g, chosen = scores[images, :, pixels], _rows(p, classes[images])
            # G log(P + eps) + (1 - G) log(1 - P + eps)
            cross = torch.lerp((1 + eps - chosen).log_(), chosen.add_(eps).log_(), g)
            self_sum -= (cross.mul_(valid).sum(2) * self_weight[images]).sum()
            if absent is not None:
                # One logarithm of a product instead of K logarithms. It cannot underflow: all P add up to 1.
                product = _complement(p, absent[images], eps).prod(1, keepdim=True)
                absent_sum -= product.log_().mul_(valid).sum()
        if labeled is not None:
            image, position, target = labeled
            seg_sum = F.cross_entropy(logits[image, :, position], target, reduction="sum")
        return seg_sum, self_sum, absent_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_seg: Tensor, grad_self: Tensor, grad_absent: Tensor) -> tuple[Tensor | None, ...]:
        logits, scores, labels, classes, self_weight, absent, *labeled = ctx.saved_tensors
        eps = ctx.eps
        grad_logits = torch.empty_like(logits)
        grad_scores = torch.empty_like(scores) if ctx.needs_input_grad[1] else None
        for images, pixels in _blocks(logits):
            p = logits[images, :, pixels].softmax(1)
            valid = (labels[images, pixels] != VOID).to(p.dtype).unsqueeze(1)
            g, chosen = scores[images, :, pixels], _rows(p, classes[images])
            weight = (self_weight[images] * grad_self).unsqueeze(2) * valid
            inverse, other = 1 / (chosen + eps), 1 + eps - chosen
            if grad_scores is not None:
                grad_scores[images, :, pixels] = (other * inverse).log_().mul_(weight)
            other.reciprocal_()
            grad_chosen = other.sub_(inverse.add_(other).mul_(g)).mul_(weight)
            if absent is None:
                grad_p = torch.zeros_like(p)
            else:
                grad_p = (absent[images].unsqueeze(2) * grad_absent) / _complement(p, absent[images], eps) * valid
            _add_rows(grad_p, classes[images], grad_chosen)
            inner = (grad_p * p).sum(1, keepdim=True)
            torch.mul(grad_p.sub_(inner), p, out=grad_logits[images, :, pixels])
        if labeled:
            image, position, target = labeled
            delta = logits[image, :, position].softmax(1)
            delta[torch.arange(len(target), device=target.device), target] -= 1
            grad_logits[image, :, position] += delta * grad_seg
        return grad_logits, grad_scores, None, None, None, None, None, None


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

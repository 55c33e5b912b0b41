"""The loops of `agmm.fast` in plain torch operations, for any device and number type.

They process the batch in blocks that stay in the processor's cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm.codes import EPS, UNLABELED, VOID

# Elements of one temporary: half of a processor's second-level cache, or a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 26}


@dataclass(frozen=True)
class Supervision:
    """The constants that the losses at label resolution need besides logits and scores."""

    labels: Tensor  # (B, M) int64
    classes: Tensor  # (B, N) int64: distinct classes of an image's components
    self_weight: Tensor  # (B, N): weight of each component in the term self; 0 in empty slots, or to leave it out
    spar_weight: Tensor  # (B, N): the same in the term spar
    negatives: bool  # whether labeled pixels push down the scores of all other components
    absent: Tensor | None  # (B, K) bool: classes annotated nowhere in the image; None leaves the term out
    seg: bool  # False leaves the cross-entropy of the labeled pixels out


def count_codes(labels: Tensor, num_classes: int) -> Tensor:
    """See `agmm.fast.census`; of (B, M) labels."""
    bins = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes + 2)
    bins = torch.where(labels == UNLABELED, num_classes, torch.where(labels == VOID, num_classes + 1, bins))
    # Not `torch.bincount`, which waits for a GPU.
    return labels.new_zeros(len(labels), num_classes + 3).scatter_add_(1, bins, torch.ones_like(bins))


def labeled_pixels(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, position and class of the L labeled pixels of (B, M) labels: three (L,) int64."""
    image, position = ((labels >= 0) & (labels < num_classes)).nonzero(as_tuple=True)
    return image, position, labels[image, position]


def adjoint_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.mean_weights`."""
    masks = (labels.unsqueeze(1) == classes[..., None, None]) * share[..., None, None]
    return interpolate_backward(masks, torch.Size((*classes.shape, *size)), ()).flatten(2)


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """Sums (B, N, C) of features (B, C, M) with weights (B, N, M)."""
    return weights @ features.transpose(1, 2)


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """Add the gradient of `weighted_sums` in place."""
    grad_features.baddbmm_(grad_sums.transpose(1, 2), weights)


def differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.mean_absolute_difference`."""
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
    """See `agmm.fast.upsample`."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def interpolate_backward(grad: Tensor, shape: torch.Size, per_image: tuple[int, ...]) -> Tensor:
    """Gradient of the maps from that of `interpolate`."""
    sizes = list(grad.shape[-2:]), list(shape)
    return torch.ops.aten.upsample_bilinear2d_backward(grad.contiguous(), *sizes, False)


def segmentation(logits: Tensor, scores: Tensor, supervision: Supervision) -> Tensor:
    """Sums (4,) of seg, self, spar and absent for flattened pixels, see `agmm.fast.segmentation_terms`."""
    sums = logits.new_zeros(4)
    for images, pixels in _blocks(logits):
        p, g = logits[images, :, pixels].softmax(1), scores[images, :, pixels]
        label, classes = supervision.labels[images, pixels], supervision.classes[images]
        index = classes.unsqueeze(2).expand(-1, -1, p.shape[2])
        valid, chosen = (label != VOID).to(p.dtype).unsqueeze(1), p.gather(1, index)
        # G log(P + eps) + (1 - G) log(1 - P + eps)
        cross = torch.lerp((1 + EPS - chosen).log_(), chosen.add_(EPS).log_(), g)
        sums[1] -= (cross.mul_(valid).sum(2) * supervision.self_weight[images]).sum()
        hit, other = _hits(label, classes, p.shape[1], supervision.negatives)
        cross = (g + EPS).log() * hit + (1 - g + EPS).log() * other
        sums[2] -= (cross.sum(2) * supervision.spar_weight[images]).sum()
        if supervision.absent is not None:
            # One logarithm of a product instead of K logarithms. It cannot underflow: all P add up to 1.
            product = _complement(p, supervision.absent[images]).prod(1, keepdim=True)
            sums[3] -= product.log_().mul_(valid).sum()
    if supervision.seg:
        image, position, target = labeled_pixels(supervision.labels, logits.shape[1])
        sums[0] = F.cross_entropy(logits[image, :, position], target, reduction="sum")
    return sums


def segmentation_backward(
    logits: Tensor, scores: Tensor, supervision: Supervision, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``logits``, in their memory layout, and ``scores`` from that of `segmentation`."""
    grad_logits, grad_scores = torch.empty_like(logits), torch.empty_like(scores)
    for images, pixels in _blocks(logits):
        p, g = logits[images, :, pixels].softmax(1), scores[images, :, pixels]
        label, classes = supervision.labels[images, pixels], supervision.classes[images]
        index = classes.unsqueeze(2).expand(-1, -1, p.shape[2])
        valid, chosen = (label != VOID).to(p.dtype).unsqueeze(1), p.gather(1, index)
        weight = (supervision.self_weight[images] * grad[1]).unsqueeze(2) * valid
        inverse, other = 1 / (chosen + EPS), 1 + EPS - chosen
        hit, miss = _hits(label, classes, p.shape[1], supervision.negatives)
        sparse = (miss / (1 - g + EPS) - hit / (g + EPS)).mul_((supervision.spar_weight[images] * grad[2]).unsqueeze(2))
        torch.addcmul(sparse, (other * inverse).log_(), weight, out=grad_scores[images, :, pixels])
        other.reciprocal_()
        grad_chosen = other.sub_(inverse.add_(other).mul_(g)).mul_(weight)
        if supervision.absent is None:
            grad_p = torch.zeros_like(p)
        else:
            absent = supervision.absent[images]
            grad_p = (absent.unsqueeze(2) * grad[3]) / _complement(p, absent) * valid
        grad_p.scatter_add_(1, index, grad_chosen)
        inner = (grad_p * p).sum(1, keepdim=True)
        torch.mul(grad_p.sub_(inner), p, out=grad_logits[images, :, pixels])
    if supervision.seg:
        image, position, target = labeled_pixels(supervision.labels, logits.shape[1])
        delta = logits[image, :, position].softmax(1)
        delta[torch.arange(len(target), device=target.device), target] -= 1
        grad_logits[image, :, position] += delta * grad[0]
    return grad_logits, grad_scores


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


def _complement(p: Tensor, absent: Tensor) -> Tensor:
    """``1 - P + eps`` where a class is absent, else 1."""
    absent = absent.unsqueeze(2).to(p.dtype)
    return (p * -absent).add_(1 + EPS * absent)

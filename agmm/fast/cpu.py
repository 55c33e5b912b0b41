"""The loops of `agmm.fast` for float32 tensors on a CPU: `agmm.fast.cpu_kernels` over the arrays of tensors.

Features and logits (B, C, M) have the channels of a pixel side by side, see `agmm.fast`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from agmm.fast import cpu_kernels
from agmm.fast.cpu_kernels import Constants, f32
from agmm.fast.plain import Supervision


def differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.differences`."""
    images, channels, pixels = features.shape
    slots = means.shape[1]
    out = features.new_zeros(images, slots, pixels)
    arrays = _array(means, images, slots, channels), _filled(per_image, images, slots), out.numpy()
    _by_image(cpu_kernels.differences, _rows(features), *arrays)
    return out


def differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.plain.differences_backward`."""
    images, channels, pixels = features.shape
    slots = means.shape[1]
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means)
    arrays = _array(means, images, slots, channels), _filled(per_image, images, slots)
    gradients = _array(grad, images, slots, pixels), _rows(grad_features), grad_means.numpy()
    _by_image(cpu_kernels.differences_backward, _rows(features), *arrays, *gradients)
    return grad_features, grad_means


def segmentation(logits: Tensor, scores: Tensor, supervision: Supervision) -> Tensor:
    """See `agmm.fast.plain.segmentation`."""
    sums = torch.zeros(len(logits), 4, dtype=torch.float64)
    _by_image(cpu_kernels.segmentation, *_segmentation_arrays(logits, scores, supervision), sums.numpy())
    return sums.sum(0).float()


def segmentation_backward(
    logits: Tensor, scores: Tensor, supervision: Supervision, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.plain.segmentation_backward`."""
    grad_logits, grad_scores = torch.empty_like(logits), torch.zeros_like(scores, memory_format=torch.contiguous_format)
    gradients = _array(grad, 4), _rows(grad_logits), grad_scores.numpy()
    arrays = _segmentation_arrays(logits, scores, supervision)
    _by_image(cpu_kernels.segmentation_backward, *arrays, *gradients)
    return grad_logits, grad_scores


def count_codes(labels: Tensor, num_classes: int) -> Tensor:
    """See `agmm.fast.plain.count_codes`."""
    counts = labels.new_zeros(len(labels), num_classes + 3)
    _by_image(cpu_kernels.count_codes, _array(labels, *labels.shape, dtype=torch.int64), counts.numpy())
    return counts


def adjoint_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.adjoint_weights`."""
    images, height, width = labels.shape
    slots = classes.shape[1]
    weights = share.new_zeros(images, slots, *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip((height, width), size, strict=True))
    codes = _array(labels, *labels.shape, dtype=torch.int64), _array(classes, images, slots, dtype=torch.int64)
    _by_image(cpu_kernels.adjoint_weights, *codes, _array(share, images, slots), *rows, *columns, weights.numpy())
    return weights.flatten(2)


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """See `agmm.fast.plain.weighted_sums`; cells without weight are not read."""
    images, channels, pixels = features.shape
    sums = features.new_zeros(images, weights.shape[1], channels)
    arrays = _rows(features), _array(weights, images, weights.shape[1], pixels)
    _by_image(cpu_kernels.weighted_sums, *arrays, sums.numpy())
    return sums


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """See `agmm.fast.plain.add_weighted`."""
    images, channels, pixels = grad_features.shape
    slots = weights.shape[1]
    arrays = _array(weights, images, slots, pixels), _array(grad_sums, images, slots, channels)
    _by_image(cpu_kernels.add_weighted, _rows(grad_features), *arrays)


def interpolate(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.interpolate`."""
    images, slots, *coarse_size = maps.shape
    out = maps.new_zeros(images, slots, *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(size, coarse_size, strict=True))
    arrays = _array(maps, *maps.shape), _filled(per_image, images, slots)
    _by_image(cpu_kernels.interpolate, *arrays, *rows, *columns, out.numpy())
    return out


def interpolate_backward(grad: Tensor, shape: torch.Size, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.interpolate_backward`."""
    images, slots, *coarse_size = shape
    out = grad.new_zeros(shape)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(grad.shape[2:], coarse_size, strict=True))
    arrays = _array(grad, images, slots, *grad.shape[2:]), _filled(per_image, images, slots)
    _by_image(cpu_kernels.interpolate_backward, *arrays, *rows, *columns, out.numpy())
    return out


@cache
def _taps(fine: int, coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two coarse cells that bilinear upsampling mixes at each fine coordinate, and the weight of the second."""
    if coarse < 1:
        raise ValueError("a feature grid has no cells; give features of at least one row and one column")
    source = np.maximum((np.arange(fine) + 0.5) * (coarse / fine) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), coarse - 1)
    return low, np.minimum(low + 1, coarse - 1), (source - low).astype(f32)


def _by_image(loop: Callable[..., None], first: np.ndarray, *rest: object) -> None:
    """``loop(start, stop, …)`` over the images, in as many threads as torch would take."""
    images, threads = len(first), min(len(first), torch.get_num_threads())
    if threads < 2:
        loop(0, images, first, *rest)
        return
    bounds = [images * i // threads for i in range(threads + 1)]
    list(_threads(threads).map(lambda a, b: loop(a, b, first, *rest), bounds[:-1], bounds[1:]))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


# --- The compiled loops check no bounds: every array comes to them through one of these functions --------------------


def _array(x: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Return a tensor as an array in row-major order; raise ValueError unless it has the shape and the type."""
    if x.shape != shape or x.dtype != dtype or x.device.type != "cpu":
        raise ValueError(f"a loop reads {shape} {dtype} on the cpu, not {tuple(x.shape)} {x.dtype} on {x.device}")
    return x.detach().contiguous().numpy()


def _rows(x: Tensor) -> np.ndarray:
    """Return (B, C, M) as (B, M, C) without a copy, as some are written to; raise ValueError unless it is float32."""
    if x.ndim != 3 or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"a loop reads (B, C, M) float32 on the cpu, not {tuple(x.shape)} {x.dtype} on {x.device}")
    return x.detach().transpose(1, 2).numpy()


def _filled(per_image: tuple[int, ...], images: int, slots: int) -> np.ndarray:
    """Return the numbers of components of the images, each at most the number of slots."""
    if len(per_image) != images or not all(0 <= n <= slots for n in per_image):
        raise ValueError(f"per_image is {per_image}; it must hold numbers up to {slots} for {images} images")
    return np.array(per_image)


def _segmentation_arrays(
    logits: Tensor, scores: Tensor, supervision: Supervision
) -> tuple[np.ndarray, np.ndarray, Constants]:
    images, num_classes, pixels = logits.shape
    slots = scores.shape[1]
    absent = torch.zeros(images, num_classes, dtype=torch.bool) if supervision.absent is None else supervision.absent
    classes = _array(supervision.classes, images, slots, dtype=torch.int64)
    if not ((classes >= 0) & (classes < num_classes)).all():
        raise ValueError(f"classes of the components are not below {num_classes}, the number of logits")
    constants = Constants(
        labels=_array(supervision.labels, images, pixels, dtype=torch.int64),
        classes=classes,
        self_weight=_array(supervision.self_weight, images, slots),
        spar_weight=_array(supervision.spar_weight, images, slots),
        absent=_array(absent, images, num_classes, dtype=torch.bool),
        negatives=supervision.negatives,
        seg=supervision.seg,
    )
    return _rows(logits), _array(scores, images, slots, pixels), constants

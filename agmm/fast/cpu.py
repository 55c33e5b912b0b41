"""The loops of `agmm.fast` for float32 tensors on a CPU: `agmm.fast.cpu_kernels` over the arrays of tensors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agmm.fast import Supervision, cpu_kernels
from agmm.fast.cpu_kernels import f32


def available(x: Tensor) -> bool:
    """Whether these loops are for a tensor: float32 values, or labels, on a CPU."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.int64)


def differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.differences`."""
    out = features.new_zeros(features.shape[0], means.shape[1], features.shape[2])
    rows = _rows(features)
    loop = cpu_kernels.differences_rows if rows else cpu_kernels.differences_planes
    _by_image(loop, _array(features, rows), means.numpy(), np.array(per_image), out.numpy())
    return out


def differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.differences_backward`."""
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means)
    rows = _rows(features)
    loop = cpu_kernels.differences_rows_backward if rows else cpu_kernels.differences_planes_backward
    arrays = _array(features, rows), means.numpy(), np.array(per_image), grad.contiguous().numpy()
    _by_image(loop, *arrays, _array(grad_features, rows), grad_means.numpy())
    return grad_features, grad_means


def segmentation(logits: Tensor, scores: Tensor, given: Supervision) -> Tensor:
    """See `agmm.fast.segmentation`."""
    sums = torch.zeros(len(logits), 4, dtype=torch.float64)
    rows = _rows(logits)
    arrays = _array(logits, rows), rows, scores.detach().contiguous().numpy(), *_supervision(given, logits)
    _by_image(cpu_kernels.segmentation, *arrays, sums.numpy())
    return sums.sum(0).float()


def segmentation_backward(logits: Tensor, scores: Tensor, given: Supervision, grad: Tensor) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.segmentation_backward`."""
    grad_logits, grad_scores = torch.empty_like(logits), torch.zeros_like(scores, memory_format=torch.contiguous_format)
    rows = _rows(logits)
    arrays = _array(logits, rows), rows, scores.detach().contiguous().numpy(), *_supervision(given, logits)
    _by_image(cpu_kernels.segmentation_backward, *arrays, grad.numpy(), _array(grad_logits, rows), grad_scores.numpy())
    return grad_logits, grad_scores


def count_codes(labels: Tensor, num_classes: int) -> Tensor:
    """See `agmm.fast.count_codes`."""
    counts = labels.new_zeros(len(labels), num_classes + 3)
    _by_image(cpu_kernels.count_codes, labels.contiguous().numpy(), counts.numpy())
    return counts


def adjoint_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.adjoint_weights`."""
    weights = share.new_zeros(*classes.shape, *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(labels.shape[1:], size, strict=True))
    arrays = labels.contiguous().numpy(), classes.numpy(), share.numpy()
    _by_image(cpu_kernels.adjoint_weights, *arrays, *rows, *columns, weights.numpy())
    return weights.flatten(2)


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """See `agmm.fast.weighted_sums`; cells without weight are not read."""
    sums = features.new_zeros(*weights.shape[:2], features.shape[1])
    rows = _rows(features)
    _by_image(cpu_kernels.weighted_sums, _array(features, rows), rows, weights.numpy(), sums.numpy())
    return sums


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """See `agmm.fast.add_weighted`."""
    rows = _rows(grad_features)
    _by_image(cpu_kernels.add_weighted, _array(grad_features, rows), rows, weights.numpy(), grad_sums.numpy())


def interpolate(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.interpolate`."""
    out = maps.new_zeros(*maps.shape[:2], *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(size, maps.shape[2:], strict=True))
    _by_image(
        cpu_kernels.interpolate, maps.detach().contiguous().numpy(), np.array(per_image), *rows, *columns, out.numpy()
    )
    return out


def interpolate_backward(grad: Tensor, shape: torch.Size, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.interpolate_backward`."""
    out = grad.new_zeros(shape)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(grad.shape[2:], shape[2:], strict=True))
    _by_image(
        cpu_kernels.interpolate_backward, grad.contiguous().numpy(), np.array(per_image), *rows, *columns, out.numpy()
    )
    return out


@cache
def _taps(fine: int, coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every fine coordinate: the two coarse cells that bilinear upsampling mixes, and the weight of the second."""
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


def _rows(x: Tensor) -> bool:
    """Whether the channels of a pixel of (B, C, M) lie side by side."""
    return x.stride(1) == 1 and x.shape[1] > 1


def _array(x: Tensor, rows: bool) -> np.ndarray:
    """(B, M, C) as rows, else (B, C, M)."""
    x = x.detach()
    return x.transpose(1, 2).numpy() if rows else x.numpy()


def _supervision(given: Supervision, logits: Tensor) -> tuple[Any, ...]:
    absent = torch.zeros(logits.shape[:2], dtype=torch.bool) if given.absent is None else given.absent
    tensors = given.labels.contiguous(), given.classes, given.self_weight, given.spar_weight, absent
    return *(x.numpy() for x in tensors), given.negatives, given.seg, f32(given.eps)

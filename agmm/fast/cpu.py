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
    out = features.new_zeros(features.shape[0], means.shape[1], features.shape[2])
    _by_image(cpu_kernels.differences, _rows(features), means.numpy(), np.array(per_image), out.numpy())
    return out


def differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.plain.differences_backward`."""
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means)
    arrays = _rows(features), means.numpy(), np.array(per_image), grad.contiguous().numpy()
    _by_image(cpu_kernels.differences_backward, *arrays, _rows(grad_features), grad_means.numpy())
    return grad_features, grad_means


def segmentation(logits: Tensor, scores: Tensor, supervision: Supervision) -> Tensor:
    """See `agmm.fast.plain.segmentation`."""
    sums = torch.zeros(len(logits), 4, dtype=torch.float64)
    arrays = _rows(logits), scores.detach().contiguous().numpy(), _constants(supervision, logits)
    _by_image(cpu_kernels.segmentation, *arrays, sums.numpy())
    return sums.sum(0).float()


def segmentation_backward(
    logits: Tensor, scores: Tensor, supervision: Supervision, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """See `agmm.fast.plain.segmentation_backward`."""
    grad_logits, grad_scores = torch.empty_like(logits), torch.zeros_like(scores, memory_format=torch.contiguous_format)
    arrays = _rows(logits), scores.detach().contiguous().numpy(), _constants(supervision, logits), grad.numpy()
    _by_image(cpu_kernels.segmentation_backward, *arrays, _rows(grad_logits), grad_scores.numpy())
    return grad_logits, grad_scores


def count_codes(labels: Tensor, num_classes: int) -> Tensor:
    """See `agmm.fast.plain.count_codes`."""
    counts = labels.new_zeros(len(labels), num_classes + 3)
    _by_image(cpu_kernels.count_codes, labels.contiguous().numpy(), counts.numpy())
    return counts


def adjoint_weights(labels: Tensor, classes: Tensor, share: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.adjoint_weights`."""
    weights = share.new_zeros(*classes.shape, *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(labels.shape[1:], size, strict=True))
    arrays = labels.contiguous().numpy(), classes.numpy(), share.numpy()
    _by_image(cpu_kernels.adjoint_weights, *arrays, *rows, *columns, weights.numpy())
    return weights.flatten(2)


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """See `agmm.fast.plain.weighted_sums`; cells without weight are not read."""
    sums = features.new_zeros(*weights.shape[:2], features.shape[1])
    _by_image(cpu_kernels.weighted_sums, _rows(features), weights.numpy(), sums.numpy())
    return sums


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """See `agmm.fast.plain.add_weighted`."""
    _by_image(cpu_kernels.add_weighted, _rows(grad_features), weights.numpy(), grad_sums.numpy())


def interpolate(maps: Tensor, size: tuple[int, ...], per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.interpolate`."""
    out = maps.new_zeros(*maps.shape[:2], *size)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(size, maps.shape[2:], strict=True))
    _by_image(
        cpu_kernels.interpolate, maps.detach().contiguous().numpy(), np.array(per_image), *rows, *columns, out.numpy()
    )
    return out


def interpolate_backward(grad: Tensor, shape: torch.Size, per_image: tuple[int, ...]) -> Tensor:
    """See `agmm.fast.plain.interpolate_backward`."""
    out = grad.new_zeros(shape)
    rows, columns = (_taps(fine, coarse) for fine, coarse in zip(grad.shape[2:], shape[2:], strict=True))
    _by_image(
        cpu_kernels.interpolate_backward, grad.contiguous().numpy(), np.array(per_image), *rows, *columns, out.numpy()
    )
    return out


@cache
def _taps(fine: int, coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two coarse cells that bilinear upsampling mixes at each fine coordinate, and the weight of the second."""
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


def _rows(x: Tensor) -> np.ndarray:
    """(B, C, M) as (B, M, C)."""
    return x.detach().transpose(1, 2).numpy()


def _constants(supervision: Supervision, logits: Tensor) -> Constants:
    absent = supervision.absent
    return Constants(
        labels=supervision.labels.contiguous().numpy(),
        classes=supervision.classes.numpy(),
        self_weight=supervision.self_weight.numpy(),
        spar_weight=supervision.spar_weight.numpy(),
        absent=np.zeros(logits.shape[:2], np.bool_) if absent is None else absent.numpy(),
        negatives=supervision.negatives,
        seg=supervision.seg,
    )

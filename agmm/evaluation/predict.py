"""How a network is tested: from 8-bit images to predictions by a protocol, and their confusion matrix."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from agmm.data.split import Arrays
from agmm.evaluation import crf as fully_connected
from agmm.evaluation import views
from agmm.evaluation.views import PIXELS, Merge, Predict
from agmm.host import machine

COPIES = 64  # histograms among which a GPU's additions are spread: additions to one address wait for each other
CRF_PIXELS = 1 << 18  # pixels of images that are refined together: one of VOC, or many small ones
MOST_READERS = 16


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of the color channels of training images, in units of [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def to_input(images: np.ndarray | Tensor, normalization: Normalization | None = None) -> Tensor:
    """Make network input (..., 3, H, W) from 8-bit RGB images (..., H, W, 3).

    float32 in [0, 1] or normalized, on the device of the images, channels last in memory.
    """
    pixels = images if isinstance(images, Tensor) else torch.tensor(images)
    if pixels.dtype != torch.uint8 or pixels.shape[-1] != 3:
        raise ValueError(f"images must be uint8 of shape (..., H, W, 3), not {pixels.dtype} {tuple(pixels.shape)}")
    return normalize((pixels.float() / 255).movedim(-1, -3), normalization)


def normalize(colors: Tensor, normalization: Normalization | None) -> Tensor:
    """Make network input from RGB in [0, 1], (..., 3, H, W)."""
    if normalization is None:
        return colors
    mean, std = (colors.new_tensor(channels)[:, None, None] for channels in (normalization.mean, normalization.std))
    return (colors - mean) / std


def denormalize(inputs: Tensor, normalization: Normalization | None) -> Tensor:
    """Return RGB in [0, 1] from network input (..., 3, H, W), the inverse of `normalize`."""
    if normalization is None:
        return inputs
    mean, std = (inputs.new_tensor(channels)[:, None, None] for channels in (normalization.mean, normalization.std))
    return inputs * std + mean


@dataclass(frozen=True)
class Protocol:
    """How a network is tested."""

    normalization: Normalization | None = None
    scales: tuple[float, ...] = (1.0,)  # views and how they become one, see `multi_scale`
    flip: bool = False
    merge: Merge = "mean"
    mirrored: tuple[int, ...] | None = None
    tile: int | None = None  # predict every view from tiles of this side, see `sliding_window`
    double_softmax: bool = False  # see `sliding_window`
    long_side: int | None = None  # test in squares of this side, see `in_square`; a CRF works at the images' size
    crf: fully_connected.Parameters | None = None  # refines the probabilities, before the best class is taken
    pixels: int = PIXELS  # predicted together, see `multi_scale`

    def __post_init__(self) -> None:
        if self.merge not in get_args(Merge):
            raise ValueError(f"merge is {self.merge!r}; known: {', '.join(get_args(Merge))}")


def predictor(net: nn.Module, protocol: Protocol) -> Predict:
    """Return a function from network input to probabilities; the CRF, which needs the images, is left to `evaluate`."""
    # Where views are merged by "max", they and their tiles are logits, and the softmax comes last.
    p, on_logits = protocol, protocol.merge == "max"

    def whole(inputs: Tensor) -> Tensor:
        logits = net(inputs)[1].float()
        return logits if on_logits else logits.softmax(dim=1)

    def view(inputs: Tensor) -> Tensor:
        if p.tile is None:
            return whole(inputs)
        at_a_time = max(1, p.pixels // p.tile**2)
        return views.sliding_window(whole, inputs, p.tile, double_softmax=p.double_softmax, batch=at_a_time)

    def merged(inputs: Tensor) -> Tensor:
        maps = views.multi_scale(view, inputs, p.scales, p.flip, merge=p.merge, pixels=p.pixels, mirrored=p.mirrored)
        return maps.softmax(dim=1) if on_logits else maps

    return merged if p.long_side is None else partial(views.in_square, merged, side=p.long_side)


def refine(probabilities: Tensor, images: Tensor, parameters: fully_connected.Parameters) -> Tensor:
    """Refine probabilities (B, K, H, W) by mean field on 8-bit images (B, H, W, 3), a few images at a time."""
    at_a_time = max(1, CRF_PIXELS // (images.shape[1] * images.shape[2]))
    parts = zip(probabilities.split(at_a_time), images.movedim(-1, 1).split(at_a_time), strict=True)
    return torch.cat([fully_connected.mean_field(maps, rgb, parameters) for maps, rgb in parts])


@torch.no_grad()
def evaluate(
    net: nn.Module,
    images: Arrays,
    truths: Arrays,
    num_classes: int,
    protocol: Protocol,
    *,
    batch_size: int,
    device: torch.device | str,
) -> Tensor:
    """Return the confusion matrix (K, K) of a network over a data set, on the CPU; rows are the truth.

    Images are (H, W, 3) uint8 RGB of any sizes, truths (H, W) uint8, whose ``VOID`` is not counted. The network, on
    ``device``, makes (features, logits (B, K, H, W)) of (B, 3, H, W) images; here it is in eval mode. Every image is
    read once; those of equal size are predicted together, ``batch_size`` of them at a time. While a GPU predicts,
    threads read what comes next, and nothing waits for it before the end. Mixed precision is up to the caller.
    """
    predict, training = predictor(net, protocol), net.training
    net.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for batch in batches(images, truths, batch_size=batch_size, readers=readers(device)):
        rgb, truth = (to_device(tensor, device) for tensor in batch)
        probabilities = predict(to_input(rgb, protocol.normalization))
        if protocol.crf is not None:
            probabilities = refine(probabilities, rgb, protocol.crf)
        confusion += confusion_matrix(best_class(probabilities), truth, num_classes)
    net.train(training)
    return confusion.cpu()


def confusion_matrix(predictions: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true (rows) and predicted class (columns): (K, K) int64.

    Truth of any other code than a class (``VOID``, ``UNLABELED``) is not counted; predictions are 0 … K-1 elsewhere.
    Raise ValueError if the shapes differ; or, checked on the CPU only, if a counted prediction is no class.
    """
    if predictions.shape != truth.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and truth {tuple(truth.shape)} differ in shape")
    predictions, truth = predictions.long(), truth.long()
    counted = (truth >= 0) & (truth < num_classes)
    if predictions.device.type == "cpu" and (counted & ((predictions < 0) | (predictions >= num_classes))).any():
        raise ValueError(f"predictions must lie in 0 … {num_classes - 1} wherever the truth is a class")
    cells = num_classes * num_classes
    cell = torch.where(counted, truth * num_classes + predictions, cells).flatten()
    if cell.device.type == "cpu":
        return torch.bincount(cell, minlength=cells + 1)[:cells].view(num_classes, num_classes)
    return _histogram(cell, cells + 1)[:cells].view(num_classes, num_classes)


def _histogram(values: Tensor, length: int) -> Tensor:
    """Counts of 0 … length-1. Unlike `torch.bincount` on a GPU, it does not wait to learn the largest value."""
    copy = torch.arange(len(values), device=values.device) % COPIES
    counts = values.new_zeros(COPIES * length)
    return counts.scatter_add_(0, copy * length + values, torch.ones_like(values)).view(COPIES, length).sum(0)


def best_class(maps: Tensor) -> Tensor:
    """Return the class (B, H, W) of the largest value of (B, K, H, W) maps, the first one of several."""
    # On a CPU, argmax takes several times as long over planes.
    return maps.max(dim=1).indices


def iou(confusion: Tensor) -> Tensor:
    """Return the IoU (K,) of every class from counted pixels (K, K), in [0, 1], float64; NaN where none occurs."""
    confusion = confusion.double()
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(dim=0) + confusion.sum(dim=1) - intersection)


def mean_iou(confusion: Tensor) -> float:
    """Return the mean IoU in per cent over the classes that occur; NaN if none does."""
    return 100 * iou(confusion).nanmean().item()


# --- Images and what belongs to them, read ahead by threads -----------------------------------------------------------


def readers(device: torch.device | str) -> int:
    """Return how many threads or processes read for a device: none on a CPU, which computes; else a GPU's share."""
    if torch.device(device).type == "cpu":
        return 0
    cores = machine.cores()
    return min(MOST_READERS, max(1, cores // max(1, torch.cuda.device_count())))


def ahead(*aligned: Arrays, readers: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the items of equal index, in order, each read once.

    Several threads (``readers``) read while the caller works, each item by one, two items each ahead of what has been
    taken. With 0 an item is read when it is asked for, as always where all ``aligned`` are arrays in memory. Raise
    ValueError if the lengths differ. What reading an item raises is raised when it is its turn.
    """
    lengths = sorted({len(arrays) for arrays in aligned})
    if len(lengths) > 1:
        raise ValueError(f"{lengths[-1]} images cannot share {lengths[0]} masks or labels; give one for each image")

    def item(index: int) -> tuple[np.ndarray, ...]:
        return tuple(arrays[index] for arrays in aligned)

    if readers == 0 or all(isinstance(arrays, np.ndarray) for arrays in aligned):
        yield from map(item, range(lengths[0]))
        return
    pool, indices = ThreadPoolExecutor(readers), iter(range(lengths[0]))
    try:
        waiting = deque(pool.submit(item, index) for index in islice(indices, 2 * readers))
        while waiting:
            first = waiting.popleft()
            waiting.extend(pool.submit(item, index) for index in islice(indices, 1))
            yield first.result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(*aligned: Arrays, batch_size: int, readers: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of images of equal size with what belongs to them, such as truth and labels; see `ahead`."""
    waiting: dict[tuple[int, ...], list[tuple[np.ndarray, ...]]] = {}
    for group in ahead(*aligned, readers=readers):
        alike = waiting.setdefault(group[0].shape, [])
        alike.append(group)
        if len(alike) == batch_size:
            yield _stack(waiting.pop(group[0].shape))
    for alike in waiting.values():
        yield _stack(alike)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device; to a GPU from page-locked memory, so that nobody waits for what the GPU has still to do."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _stack(groups: list[tuple[np.ndarray, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*groups, strict=True))

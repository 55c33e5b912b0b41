"""Evaluation: confusion matrix and IoU; predictions at several scales, from sliding windows, refined by a CRF."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.codes import UNLABELED
from agmm.data.split import Arrays
from agmm.evaluation import crf as fully_connected
from agmm.evaluation import read_ahead

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)

PIXELS = 1 << 22
"""Pixels of views or tiles that go through a network together: bounds the memory of their probabilities."""

CRF_PIXELS = 1 << 18
"""Pixels of images that are refined together: one of VOC, or many small ones."""

COPIES = 64
"""Histograms among which a GPU's additions are spread: additions to one address wait for each other."""

Predict = Callable[[Tensor], Tensor]
"""images (B, 3, H, W) -> probabilities (B, K, H, W)"""

Merge = Literal["mean", "max"]
"""How views become one: the mean of their probabilities, or ToCo's rule on logits (`multi_scale`)."""


def confusion_matrix(predictions: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    predictions : integer tensor
        Predicted classes, 0 … K-1 wherever the truth is a class.
    truth : integer tensor of the same shape
        True classes; pixels with any other code (``VOID``, ``UNLABELED``) are not counted.
    num_classes : int
        K.

    Returns
    -------
    (K, K) int64 tensor
        Rows are the truth, columns the prediction.

    Raises
    ------
    ValueError
        The shapes differ; or, checked on the CPU only, a counted prediction is no class.
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
    """Class (B, H, W) of the largest value of (B, K, H, W) maps, the first one of several.

    The same as `Tensor.argmax`, which on a CPU takes four to seven times as long over planes.
    """
    return maps.max(dim=1).indices


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union per class.

    Parameters
    ----------
    confusion : (K, K) tensor
        Counted pixels; the order of rows and columns does not matter here.

    Returns
    -------
    (K,) float64 tensor
        In [0, 1]; NaN for a class that is neither in the truth nor in the predictions.
    """
    confusion = confusion.double()
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(dim=0) + confusion.sum(dim=1) - intersection)


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU in per cent over the classes that occur; NaN if none does."""
    return 100 * iou(confusion).nanmean().item()


def to_input(
    images: np.ndarray | Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Network input from 8-bit images.

    Parameters
    ----------
    images : (..., H, W, 3) uint8 array or tensor
        RGB.
    mean, std : three float, optional
        Of the channels, in units of [0, 1]; together they normalize the result.

    Returns
    -------
    (..., 3, H, W) float32 tensor
        In [0, 1] or normalized, on the device of ``images``, channels last in memory.
    """
    pixels = images if isinstance(images, Tensor) else torch.tensor(images)
    if pixels.dtype != torch.uint8 or pixels.shape[-1] != 3:
        raise ValueError(f"images must be uint8 of shape (..., H, W, 3), not {pixels.dtype} {tuple(pixels.shape)}")
    if (mean is None) != (std is None):
        raise ValueError("give both mean and std, or neither")
    scaled = pixels.float() / 255
    if mean is not None:
        scaled = (scaled - scaled.new_tensor(mean)) / scaled.new_tensor(std)
    return scaled.movedim(-1, -3)


def denormalize(inputs: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """RGB in [0, 1] of network input (..., 3, H, W) that `to_input` made with the same ``mean`` and ``std``."""
    if mean is None or std is None:
        return inputs
    return inputs * inputs.new_tensor(std)[:, None, None] + inputs.new_tensor(mean)[:, None, None]


def predictor(net: nn.Module) -> Predict:
    """Softmax probabilities, in float32, of a network that returns (features, logits)."""
    return lambda images: net(images)[1].float().softmax(dim=1)


def multi_scale(
    predict: Predict,
    images: Tensor,
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    *,
    merge: Merge = "mean",
    pixels: int = PIXELS,
    mirrored: Sequence[int] | None = None,
) -> Tensor:
    """Mean probabilities over rescaled and mirrored views, or ToCo's maximum of logits.

    As the AGMM authors evaluate: a view has the size ``int(side * scale)``, and images and probabilities are
    resized bilinearly with ``align_corners=True``, without antialiasing.

    Parameters
    ----------
    predict : callable
        (n, 3, H', W') images -> (n, K, H', W') probabilities, for any size; logits where they are merged by "max".
    images : (B, 3, H, W) tensor
        Network input.
    scales : sequence of float
        Sizes of the views relative to the images.
    flip : bool
        Add every scale's horizontal mirror image.
    merge : {"mean", "max"}
        ``"mean"``: the mean over all views. ``"max"``: at every scale the sum of the view and its mirror image, then
        the largest value over the scales, separately for every class (ToCo on VOC, where maps are logits).
    pixels : int
        Most pixels of views that are predicted together: many small views or a few large ones, at least one image's
        view and its mirror image.
    mirrored : sequence of int, optional
        Class of each of the K in the mirror image, where they have a left and a right (`agmm.data.split.Split`).

    Returns
    -------
    (B, K, H, W) tensor
    """
    size = images.shape[-2:]
    together = torch.maximum if merge == "max" else torch.add
    total: Tensor | None = None
    for scale in scales:
        views = _resize(images, (int(size[0] * scale), int(size[1] * scale)))
        at_a_time = max(1, pixels // (views.shape[-2] * views.shape[-1] * (1 + flip)))
        parts = [_one_scale(predict, part, size, flip, mirrored) for part in views.split(at_a_time)]
        probabilities = torch.cat(parts) if len(parts) > 1 else parts[0]
        total = probabilities if total is None else together(total, probabilities)
    if total is None:
        raise ValueError("there is no scale to test at: name at least one, such as 1.0")
    if merge == "max":
        return 2 * total if flip else total  # of each scale there is the mean so far
    return total / len(scales) if len(scales) > 1 else total


def _one_scale(
    predict: Predict, views: Tensor, size: Sequence[int], flip: bool, mirrored: Sequence[int] | None
) -> Tensor:
    """Mean probabilities of views and their mirror images; the latter are turned back where they are smaller."""
    if not flip:
        return _resize(predict(views), size)
    straight, turned = _resize(predict(torch.cat([views, views.flip(-1)])), size).chunk(2)
    if mirrored is not None:
        turned = turned[:, list(mirrored)]
    return (straight + turned.flip(-1)) / 2


def in_square(predict: Predict, images: Tensor, side: int) -> Tensor:
    """Probabilities of images whose longer side is brought to ``side`` and which are padded to a square (SPML).

    Images are resized bilinearly and padded right and below with zeros, the mean color of normalized ones. What is
    predicted is cut and resized by nearest neighbors to the size that images (B, 3, H, W) had.
    """
    size = images.shape[-2:]
    height, width = (max(round(length * side / max(size)), 1) for length in size)
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    probabilities = predict(F.pad(resized, (0, side - width, 0, side - height)))
    return F.interpolate(probabilities[..., :height, :width], tuple(size), mode="nearest")


def tile_positions(height: int, width: int, tile: int, step: int | None = None) -> list[tuple[int, int]]:
    """Top left corners (row, column) of the tiles that cover an image; the last of each direction ends at the border.

    ``step`` defaults to a third of the tile, rounded up. It is computed as the AGMM authors do, in floating point, so
    that a tile divisible by 3 gets one pixel more: 108 for 321.
    """
    step = math.ceil(tile * (1 - 2 / 3)) if step is None else step
    if tile < 1 or not 1 <= step <= tile:
        raise ValueError(f"tile must be positive and step in 1 … tile, not {tile} and {step}")

    def starts(side: int) -> list[int]:
        last = max(side - tile, 0)
        return [*range(0, last, step), last]

    return [(row, column) for row in starts(height) for column in starts(width)]


def sliding_window(
    predict: Predict,
    images: Tensor,
    tile: int,
    *,
    step: int | None = None,
    double_softmax: bool = False,
    batch: int = 8,
) -> Tensor:
    """Mean probabilities over square tiles with an overlap of two thirds.

    An image smaller than the tile is padded with zeros on the right and at the bottom, and the result is cut back.
    The AGMM authors' routine pads the wrong sides there, which shifts the prediction down or returns NaN; that is
    not reproduced.

    Parameters
    ----------
    predict : callable
        (n, 3, tile, tile) images -> (n, K, tile, tile) probabilities.
    images : (B, 3, H, W) tensor
        Network input.
    tile, step : int
        Side of a tile and distance between tiles, see `tile_positions`.
    double_softmax : bool
        Apply softmax to every tile's probabilities once more, as the authors' routine does. It flattens them,
        and the mean over tiles is no longer a mean of probabilities. Only for comparison.
    batch : int
        Tiles predicted at a time, of whichever images.

    Returns
    -------
    (B, K, H, W) tensor
    """
    height, width = images.shape[-2:]
    images = F.pad(images, (0, max(tile - width, 0), 0, max(tile - height, 0)))
    positions = tile_positions(height, width, tile, step)
    places = [(i, r, c) for i in range(len(images)) for r, c in positions]
    total: Tensor | None = None
    for first in range(0, len(places), batch):
        part = [(i, slice(r, r + tile), slice(c, c + tile)) for i, r, c in places[first : first + batch]]
        tiles = predict(torch.cat([images[i : i + 1, :, rows, columns] for i, rows, columns in part]))
        if double_softmax:
            tiles = tiles.softmax(dim=1)
        if total is None:
            total = tiles.new_zeros(len(images), tiles.shape[1], *images.shape[-2:])
        for (i, rows, columns), probabilities in zip(part, tiles, strict=True):
            total[i, :, rows, columns] += probabilities
    assert total is not None  # there is always a tile
    return (total / _coverage(positions, tile, total))[..., :height, :width]


def _coverage(positions: Sequence[tuple[int, int]], tile: int, like: Tensor) -> Tensor:
    """Number of tiles (H, W) over every pixel of maps ``like``; rows and columns of tiles form a grid."""
    counts = []
    for axis, side in enumerate(like.shape[-2:]):
        starts = torch.tensor(sorted({position[axis] for position in positions}))[:, None]
        pixels = torch.arange(side)
        counts.append(((starts <= pixels) & (pixels < starts + tile)).sum(0))
    return read_ahead.to_device(torch.outer(*counts).to(like.dtype), like.device)


def center_crop(maps: Tensor, size: int) -> Tensor:
    """Central ``size`` x ``size`` pixels of (..., H, W) images or labels; a smaller side is kept whole."""
    height, width = maps.shape[-2:]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    return maps[..., top : top + size, left : left + size]


def as_tested(
    net: nn.Module,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | None = None,
    double_softmax: bool = False,
    merge: Merge = "mean",
    pixels: int = PIXELS,
    mirrored: Sequence[int] | None = None,
    long_side: int | None = None,
) -> Predict:
    """Network input to probabilities the way a test makes them: `multi_scale` views, each by `sliding_window`.

    With a ``long_side`` the images are tested `in_square`.

    Views or tiles of at most so many ``pixels`` go through the network together. Where views are merged by "max", they
    and their tiles are logits, and the softmax comes last.
    """
    if merge not in get_args(Merge):
        raise ValueError(f"merge is {merge!r}; known: {', '.join(get_args(Merge))}")
    whole = predictor(net) if merge == "mean" else (lambda images: net(images)[1].float())

    def view(images: Tensor) -> Tensor:
        if tile is None:
            return whole(images)
        return sliding_window(whole, images, tile, double_softmax=double_softmax, batch=max(1, pixels // tile**2))

    def merged(images: Tensor) -> Tensor:
        maps = multi_scale(view, images, scales, flip, merge=merge, pixels=pixels, mirrored=mirrored)
        return maps.softmax(dim=1) if merge == "max" else maps

    return merged if long_side is None else (lambda images: in_square(merged, images, long_side))


def refine(probabilities: Tensor, images: Tensor, parameters: fully_connected.Parameters) -> Tensor:
    """Probabilities (B, K, H, W) after mean-field inference on 8-bit images (B, H, W, 3), a few images at a time."""
    at_a_time = max(1, CRF_PIXELS // (images.shape[1] * images.shape[2]))
    parts = zip(probabilities.split(at_a_time), images.movedim(-1, 1).split(at_a_time), strict=True)
    return torch.cat([fully_connected.mean_field(maps, rgb, parameters) for maps, rgb in parts])


@torch.no_grad()
def evaluate(
    net: nn.Module,
    images: Arrays,
    truths: Arrays,
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | None = None,
    merge: Merge = "mean",
    crf: fully_connected.Parameters | None = None,
    crop: int | None = None,
    pixels: int = PIXELS,
    mirrored: Sequence[int] | None = None,
    long_side: int | None = None,
) -> Tensor:
    """Confusion matrix of a network over a data set.

    Every image is read once; those of equal size are predicted together. While a GPU predicts, threads read what comes
    next, and nothing waits for it before the end. The network is evaluated in eval mode and returned in the mode it
    had. Mixed precision is up to the caller (``torch.autocast`` around the call).

    Parameters
    ----------
    net : nn.Module
        (B, 3, H, W) images -> (features, logits (B, K, H, W)), on ``device``.
    images : sequence of (H, W, 3) uint8 arrays
        RGB, of any sizes.
    truths : sequence of (H, W) uint8 arrays
        Classes; ``VOID`` is not counted.
    num_classes : int
        K.
    batch_size : int
        Images of equal size whose probabilities are held at a time.
    device : torch.device or str
        Where the network is.
    mean, std : three float, optional
        Normalization of the input, see `to_input`.
    scales, flip, merge, mirrored
        Views and how they become one, see `multi_scale`.
    tile : int, optional
        Predict every view from sliding windows of this side, see `sliding_window`.
    crf : agmm.evaluation.crf.Parameters, optional
        Refine the probabilities by a fully connected CRF on the images, before the best class is taken.
    crop : int, optional
        Evaluate the center of every image only, as the AGMM authors do in early Cityscapes epochs.
    pixels : int
        Most pixels of views or tiles that go through the network together.
    long_side : int, optional
        Test images in squares of this side, see `in_square`; a CRF then works at their own size.

    Returns
    -------
    (K, K) int64 tensor
        On the CPU; rows are the truth.
    """
    views: dict[str, Any] = {"scales": scales, "flip": flip, "tile": tile, "merge": merge, "long_side": long_side}
    predict = as_tested(net, pixels=pixels, mirrored=mirrored, **views)
    training = net.training
    net.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for batch in read_ahead.batches(images, truths, batch_size=batch_size, readers=read_ahead.readers(device)):
        rgb, truth = (read_ahead.to_device(tensor, device) for tensor in batch)
        if crop is not None:
            rgb, truth = center_crop(rgb.movedim(-1, 1), crop).movedim(1, -1), center_crop(truth, crop)
        probabilities = predict(to_input(rgb, mean, std))
        if crf is not None:
            probabilities = refine(probabilities, rgb, crf)
        confusion += confusion_matrix(best_class(probabilities), truth, num_classes)
    net.train(training)
    return confusion.cpu()


@torch.no_grad()
def pseudo_labels(
    predict: Predict,
    images: Arrays,
    sparse: np.ndarray,
    image_classes: np.ndarray,
    *,
    batch_size: int,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """Dense hard labels of training images for a second stage (multi-stage training, MT in AGMM's tables).

    The paper says no more than that predictions become labels. Ours are restricted to the classes that the annotation
    of an image names, and keep the annotation where there is one; ``VOID`` stays.

    Parameters
    ----------
    predict : callable
        The first stage, see `as_tested`.
    images : sequence of (H, W, 3) uint8 arrays
    sparse : (N, H, W) uint8 array
        Annotation in the codes of `agmm.labels`.
    image_classes : (N, K) bool array
        An image that names none is not restricted.
    batch_size : int
        Images predicted at a time.
    device, mean, std
        As in `evaluate`.

    Returns
    -------
    (N, H, W) uint8 array
    """
    dense = sparse.copy()
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        probabilities = predict(to_input(torch.from_numpy(np.asarray(images[part])).to(device), mean, std))
        outside = torch.from_numpy(~image_classes[part]).to(device)
        outside &= ~outside.all(dim=1, keepdim=True)
        best = best_class(probabilities.masked_fill(outside[..., None, None], -1)).cpu().numpy()
        dense[part] = np.where(sparse[part] == UNLABELED, best, sparse[part])
    return dense


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(size) == tuple(maps.shape[-2:]):
        return maps
    if min(size) < 1:
        raise ValueError(f"a view of {size[0]} x {size[1]} pixels is left of an image: choose larger scales")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)

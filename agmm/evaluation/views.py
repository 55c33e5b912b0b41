"""Views of an image that a network predicts: several scales and mirror images, a square, tiles."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
PIXELS = 1 << 22  # of views or tiles that go through a network together: bounds the memory of their probabilities
Predict = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> probabilities (B, K, H, W)
Merge = Literal["mean", "max"]  # views become the mean of their probabilities, or ToCo's maximum of logits


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
    """Average probabilities (B, K, H, W) over rescaled and mirrored views, or take ToCo's maximum of logits.

    As the AGMM authors evaluate: a view of network input (B, 3, H, W) has the size ``int(side * scale)``, and images
    and probabilities are resized bilinearly with ``align_corners=True``, without antialiasing. ``flip`` adds every
    scale's horizontal mirror image, in which each of the K classes is the one that ``mirrored`` says, where they have a
    left and a right (`agmm.data.split.Split`). ``predict`` makes probabilities (n, K, H', W') of images of any size,
    which become their mean over all views; or, with ``merge="max"``, logits: at every scale the sum of the view and its
    mirror image, then the largest value over the scales, separately for every class (ToCo on VOC). At most so many
    ``pixels`` of views are predicted together, but at least one image's view and its mirror image.
    """
    size = images.shape[-2:]
    together = torch.maximum if merge == "max" else torch.add
    total: Tensor | None = None
    for scale in scales:
        views = resize(images, (int(size[0] * scale), int(size[1] * scale)))
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
    """Average probabilities of views and their mirror images, which are turned back where they are smaller."""
    if not flip:
        return resize(predict(views), size)
    straight, turned = resize(predict(torch.cat([views, views.flip(-1)])), size).chunk(2)
    if mirrored is not None:
        turned = turned[:, list(mirrored)]
    return (straight + turned.flip(-1)) / 2


def in_square(predict: Predict, images: Tensor, side: int) -> Tensor:
    """Predict images whose longer side is brought to ``side`` and which are padded to a square (SPML).

    Images are resized bilinearly and padded right and below with zeros, the mean color of normalized ones. What is
    predicted is cut and resized by nearest neighbors to the size that images (B, 3, H, W) had.
    """
    size = images.shape[-2:]
    height, width = (max(round(length * side / max(size)), 1) for length in size)
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    probabilities = predict(F.pad(resized, (0, side - width, 0, side - height)))
    return F.interpolate(probabilities[..., :height, :width], tuple(size), mode="nearest")


def tile_positions(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    """Return the top left corners of the tiles that cover an image; the last of each direction ends at the border.

    They are a third of the tile apart, rounded up. As the AGMM authors compute it in floating point, a tile divisible
    by 3 gets one pixel more: 108 for 321.
    """
    if tile < 1:
        raise ValueError(f"the side of a tile must be positive, not {tile}")
    step = math.ceil(tile * (1 - 2 / 3))

    def starts(side: int) -> list[int]:
        last = max(side - tile, 0)
        return [*range(0, last, step), last]

    return [(row, column) for row in starts(height) for column in starts(width)]


def sliding_window(
    predict: Predict, images: Tensor, tile: int, *, double_softmax: bool = False, batch: int = 8
) -> Tensor:
    """Average probabilities (B, K, H, W) over square tiles with an overlap of two thirds, see `tile_positions`.

    ``predict`` makes probabilities (n, K, tile, tile) of images (n, 3, tile, tile), ``batch`` tiles at a time, of
    whichever of the images (B, 3, H, W). One smaller than the tile is padded with zeros on the right and at the bottom,
    and the result is cut back; the AGMM authors' routine pads the wrong sides there, which shifts the prediction down
    or returns NaN. For comparison only, ``double_softmax`` applies softmax to every tile's probabilities once more, as
    that routine does. It flattens them, and the mean over tiles is no longer a mean of probabilities.
    """
    height, width = images.shape[-2:]
    images = F.pad(images, (0, max(tile - width, 0), 0, max(tile - height, 0)))
    positions = tile_positions(height, width, tile)
    places = [(i, r, c) for i in range(len(images)) for r, c in positions]
    total = torch.zeros(0)
    for first in range(0, len(places), batch):
        part = [(i, slice(r, r + tile), slice(c, c + tile)) for i, r, c in places[first : first + batch]]
        tiles = predict(torch.cat([images[i : i + 1, :, rows, columns] for i, rows, columns in part]))
        if double_softmax:
            tiles = tiles.softmax(dim=1)
        if first == 0:
            total = tiles.new_zeros(len(images), tiles.shape[1], *images.shape[-2:])
        for (i, rows, columns), probabilities in zip(part, tiles, strict=True):
            total[i, :, rows, columns] += probabilities
    over = total.new_zeros(total.shape[-2:])  # number of tiles over every pixel
    for row, column in positions:
        over[row : row + tile, column : column + tile] += 1
    return (total / over)[..., :height, :width]


def resize(maps: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """Resize maps (B, n, H, W) bilinearly; those of the right size stay what they are."""
    if tuple(size) == tuple(maps.shape[-2:]):
        return maps
    if min(size) < 1:
        raise ValueError(f"a view of {size[0]} x {size[1]} pixels is left of an image: choose larger scales")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)

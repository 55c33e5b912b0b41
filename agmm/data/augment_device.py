"""The papers' augmentation of single images where they lie: those of `agmm.data.augment` in torch, on any device.

The draws are the same, made by the same generators, and so is the definition of every step: antialiased bilinear
resizing, color changes in 8 bits and Pillow's box blurs. What differs is rounding, by a gray level here and there.
Nothing waits for the device.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm.data import augment
from agmm.labels import VOID, nearest


def official(
    images: Sequence[Tensor], labels: Sequence[Tensor], crop: int, rngs: Sequence[np.random.Generator], color: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Augment images as `agmm.data.augment.official` does, labels by nearest neighbors.

    Parameters
    ----------
    images : sequence of (H, W, 3) uint8 Tensor
        RGB images of any size, on one device.
    labels : sequence of (H, W) uint8 Tensor
        Sparse labels in the project's codes, on the same device.
    crop : int
        Side of the square crops.
    rngs : sequence of numpy.random.Generator
        Source of all draws, one per image.
    color : bool
        Whether to apply the color changes.

    Returns
    -------
    tuple of Tensor
        Images (B, crop, crop, 3) and labels (B, crop, crop), both uint8, and (B,) bool: what is mirrored. Labels equal
        those of `augment.official`; so do most pixels of the images, the others differ by a few gray levels.
    """
    draws = [augment.draw(tuple(label.shape), crop, rng, color) for label, rng in zip(labels, rngs, strict=True)]
    return _carried_out(images, labels, crop, draws)


def spml(
    images: Sequence[Tensor], labels: Sequence[Tensor], crop: int, rngs: Sequence[np.random.Generator], classifier: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment images as `agmm.data.augment.spml` does; parameters and what is returned as of `official`."""
    drawn = zip(labels, rngs, strict=True)
    draws = [augment.draw_spml(tuple(label.shape), crop, rng, classifier) for label, rng in drawn]
    return _carried_out(images, labels, crop, draws, augment.MEAN_COLOR)


ONE_BY_ONE: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "official": partial(official, color=False),
    "official_color": partial(official, color=True),
    "spml": partial(spml, classifier=False),
    "spml_classifier": partial(spml, classifier=True),
}
"""As `augment.ONE_BY_ONE`: (images, labels, crop, rngs) to images, labels and what is mirrored."""


def _carried_out(
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    crop: int,
    draws: Sequence[augment.Draws],
    padding: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """What was drawn, done to images and labels."""
    device = images[0].device
    seen = _sampled(labels, draws, crop).to(device, non_blocking=True)
    pictures = torch.empty((len(images), crop, crop, 3), dtype=torch.uint8, device=device)
    # More than eight bits where they hold regions, too.
    cut = torch.full((len(images), crop, crop), VOID, dtype=labels[0].dtype, device=device)
    for i, drawn in enumerate(draws):
        rows, columns = (window.stop - window.start for window in drawn.windows(crop))
        cut[i, :rows, :columns] = labels[i][seen[i, 0, :rows]][:, seen[i, 1, :columns]]
        picture = _resize_and_crop(images[i], drawn, crop)
        for channel, level in zip(picture, padding, strict=True):
            channel[rows:], channel[:, columns:] = level, level
        if drawn.mirrored:
            picture, cut[i] = picture.flip(2), cut[i].flip(1)
        for name, amount in drawn.changes:
            picture = _CHANGES[name](picture, amount)
        pictures[i] = picture.permute(1, 2, 0)
    mirrored = torch.tensor([drawn.mirrored for drawn in draws], pin_memory=images[0].is_cuda)
    return pictures, cut, mirrored.to(device, non_blocking=True)


def _sampled(labels: Sequence[Tensor], draws: Sequence[augment.Draws], crop: int) -> Tensor:
    """Rows and columns that the crops take from the labels: (B, 2, crop) int64, pinned where there is a GPU."""
    seen = torch.zeros((len(labels), 2, crop), dtype=torch.long, pin_memory=labels[0].is_cuda)
    for i, (label, drawn) in enumerate(zip(labels, draws, strict=True)):
        for axis, window in enumerate(drawn.windows(crop)):
            taken = nearest(label.shape[axis], drawn.size[axis])[window]
            seen[i, axis, : len(taken)] = torch.from_numpy(taken)
    return seen


# --- Resizing ---------------------------------------------------------------------------------------------------------
# From here on pictures are (3, H, W) float32 and hold whole numbers from 0 to 255.


def _resize_and_crop(image: Tensor, drawn: augment.Draws, crop: int) -> Tensor:
    """The crop of the resized image, black beyond it: two matrix products, as the bilinear filter is separable."""
    (rows, down), (columns, across) = (
        _filter(image.shape[axis], drawn.size[axis], drawn.windows(crop)[axis], image.device) for axis in (0, 1)
    )
    part = image[rows, columns].permute(2, 0, 1).float()
    resized = _round(down @ _round(part @ across.T))
    return F.pad(resized, (0, crop - resized.shape[2], 0, crop - resized.shape[1]))


def _filter(length: int, new_length: int, window: slice, device: torch.device) -> tuple[slice, Tensor]:
    """Pixels that a window of a resized side depends on, and their weights (pixels of the window, these pixels)."""
    scale = length / new_length
    reach = max(scale, 1.0)
    first = max(math.floor((window.start + 0.5) * scale - reach), 0)
    last = min(math.ceil((window.stop - 0.5) * scale + reach), length)
    # Double, as a position times its scale leaves too few digits of single precision to the weights.
    centers = (torch.arange(window.start, window.stop, dtype=torch.float64, device=device) + 0.5) * scale
    pixels = torch.arange(first, last, dtype=torch.float64, device=device) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / reach).clamp_min(0)
    return slice(first, last), (weights / weights.sum(1, keepdim=True)).float()


def _round(picture: Tensor) -> Tensor:
    return (picture + 0.5).floor_().clamp_(0, 255)


# --- Color changes ----------------------------------------------------------------------------------------------------


def _blend(picture: Tensor, other: Tensor | float, amount: float) -> Tensor:
    """``other`` where the amount is 0, the picture where it is 1, beyond it above 1; rounded down as in Pillow."""
    return (other + amount * (picture - other)).clamp_(0, 255).floor_()


def _luma(picture: Tensor) -> Tensor:
    """Gray (H, W) by ITU-R 601-2, in Pillow's whole-number weights, whose sums are exact in float32."""
    red, green, blue = picture
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor_()


def _contrast(picture: Tensor, amount: float) -> Tensor:
    mean = (_luma(picture).mean(dtype=torch.float64) + 0.5).floor().float()
    return _blend(picture, mean, amount)


def _hue(picture: Tensor, amount: float) -> Tensor:
    """Turn the hue by a share of the circle, through HSV in 8 bits as Pillow does, at its precision of each step."""
    red, green, _ = picture
    value, chroma = picture.amax(0), picture.amax(0) - picture.amin(0)
    from_red, from_green, from_blue = ((value - picture) / chroma.clamp_min(1)).double()
    sector = torch.where(
        red == value,
        from_blue - from_green,
        torch.where(green == value, 2 + from_red - from_blue, 4 + from_green - from_red),
    )
    hue = (((sector.float().double() / 6 + 1) % 1).float().double() * 255).floor()
    hue = (hue + int(amount * 255)) % 256
    saturation = ((chroma / value.clamp_min(1)).double() * 255).floor() / 255
    turned = []
    for channel in (5, 3, 1):
        distance = (channel + hue * 6 / 255) % 6
        share = torch.minimum(distance, 4 - distance).clamp(0, 1)
        turned.append(_round((value * (1 - saturation * share)).float()))
    return torch.stack(turned)


def _blur(picture: Tensor, sigma: float) -> Tensor:
    """Pillow's Gaussian blur: three box blurs along each axis, each rounded, with repeated border pixels."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    radius = whole + part
    across, down = (_box(side, radius, picture.device) for side in (picture.shape[2], picture.shape[1]))
    for _ in range(3):
        picture = _round(picture @ across.T)
    for _ in range(3):
        picture = _round(down @ picture)
    return picture


def _weighted_gray(picture: Tensor) -> Tensor:
    parts = [weight * channel for weight, channel in zip(augment.GRAY_WEIGHTS, picture, strict=True)]
    return _round(parts[0] + parts[1] + parts[2]).expand(3, -1, -1)


def _kernel_blur(picture: Tensor, width: float) -> Tensor:
    """Weighted sums of five neighbors along both axes, with repeated border pixels; rounded once."""
    weights = augment.kernel(width)
    for axis in (1, 2):
        side = picture.shape[axis]
        repeated = F.pad(picture, (0, 0, 2, 2) if axis == 1 else (2, 2, 0, 0), mode="replicate")
        picture = torch.stack([w * repeated.narrow(axis, i, side) for i, w in enumerate(weights)]).sum(0)
    return _round(picture)


def _box(side: int, radius: float, device: torch.device) -> Tensor:
    """Box blur of one axis as a matrix (side, side); a pixel at the box's end counts in part."""
    margin = math.ceil(radius)
    places = torch.arange(-margin, side + margin, device=device)
    distance = (places - torch.arange(side, device=device)[:, None]).abs()
    weights = (radius + 1 - distance).clamp(0, 1) / (2 * radius + 1)
    inside = weights[:, margin:-margin].clone()
    inside[:, 0] += weights[:, :margin].sum(1)
    inside[:, -1] += weights[:, -margin:].sum(1)
    return inside


_CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda picture, amount: _blend(picture, 0.0, amount),
    "contrast": _contrast,
    "saturation": lambda picture, amount: _blend(picture, _luma(picture), amount),
    "hue": _hue,
    "gray": lambda picture, amount: _luma(picture).expand(3, -1, -1),
    "blur": _blur,
    "shift": lambda picture, amount: (picture + amount).round_().clamp_(0, 255),
    "weighted_gray": lambda picture, amount: _weighted_gray(picture),
    "kernel_blur": _kernel_blur,
}

"""Augmentation: whole batches of a small data set in memory, and the papers' pipeline for single images.

All functions also return whether each image is mirrored, (B,) bool or a bool, as some classes have sides (`exchange`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

import agmm.labels
from agmm.codes import VOID


def dihedral(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Turn (B, H, W, 3) images and (B, H, W) labels by one of the eight flips and quarter turns, one for the batch."""
    turns, mirrored = divmod(int(torch.randint(8, (), generator=generator, device=generator.device)), 2)
    if mirrored:
        images, labels = images.flip(2), labels.flip(2)
    of_each = torch.full((len(images),), bool(mirrored), device=images.device)
    return images.rot90(turns, (1, 2)), labels.rot90(turns, (1, 2)), of_each


def crop_flip(images: Tensor, labels: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a random square of side ``size`` from every image and mirror every second one on average.

    Smaller images (B, H, W, 3) and labels (B, H, W), both uint8, are padded right and below, black and ``VOID``.
    """
    count, height, width = labels.shape
    right, below = max(size - width, 0), max(size - height, 0)
    if right or below:
        images = F.pad(images, (0, 0, 0, right, 0, below), value=0)
        labels = F.pad(labels, (0, right, 0, below), value=VOID)
    draws = torch.rand((3, count), generator=generator, device=generator.device).to(images.device)
    steps = torch.arange(size, device=images.device)
    top = (draws[0] * (height + below - size + 1)).long()
    left = (draws[1] * (width + right - size + 1)).long()
    rows = top[:, None] + steps
    mirrored = draws[2] < 0.5
    columns = left[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
    index = torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    return images[index], labels[index], mirrored


def exchange(labels: Tensor, image_classes: Tensor, mirrored: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Give the classes of mirrored images the names that they have there: a right hand becomes a left one.

    ``labels`` (B, H, W) are mirrored already; ``image_classes`` (B, K) bool are those of the whole images, ``mirrored``
    is (B,) bool and ``table`` (256,) int64 (`mirror_table`). Return labels and image_classes.
    """
    exchanged = table[labels.long()].to(labels.dtype)
    # What is mirrored twice is what it was: the class that k becomes is the one that becomes k.
    return (
        torch.where(mirrored[:, None, None], exchanged, labels),
        torch.where(mirrored[:, None], image_classes[:, table[: image_classes.shape[1]]], image_classes),
    )


def mirror_table(mirrored: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return what every code becomes in a mirror image, (256,) int64: classes as `Split.mirrored` says, others stay."""
    return torch.tensor([*mirrored, *range(len(mirrored), 256)], device=device)


# --- Single images ----------------------------------------------------------------------------------------------------

Augmented = tuple[np.ndarray, np.ndarray, bool]
"""Image (crop, crop, 3) and labels (crop, crop), both uint8 and not normalized, and whether they are mirrored."""


@dataclass(frozen=True)
class Draws:
    """All that is drawn for one image."""

    size: tuple[int, int]  # height and width after resizing
    corner: tuple[int, int]  # top and left of the crop, in the resized image with its padding right and below
    mirrored: bool
    changes: tuple[tuple[str, float], ...]  # names of `COLOR_CHANGES` and their amounts, in order


JITTER = {"brightness": (0.5, 1.5), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.25, 0.25)}
MEAN_COLOR = (124, 116, 104)  # ImageNet's mean in gray levels: next to nothing after normalization


def official(
    image: np.ndarray,
    labels: np.ndarray,
    crop: int,
    rng: np.random.Generator,
    color: bool,
    clicks: str = "nearest",
    factor: float = 1.0,
) -> Augmented:
    """Augment one image as AGMM's released code does: resize, pad, crop, flip, and for VOC change colors.

    ``image`` (H, W, 3) and ``labels`` (H, W) are uint8; the classes of the whole image must be read from ``labels``
    before, as resizing and cropping lose some. Padding is black and ``VOID``. ``color`` applies the color changes
    (released VOC configuration), which are drawn last. ``clicks`` says how labels are resized: "nearest", as released,
    loses many single-pixel labels when shrinking; "move" keeps each at its moved place (`agmm.labels.resize_labels`).
    ``factor`` multiplies the sizes that are drawn, for crops that are smaller than the released ones.
    """
    return _augment(image, labels, crop, draw(labels.shape, crop, rng, color, factor), clicks=clicks)


def spml(
    image: np.ndarray,
    labels: np.ndarray,
    crop: int,
    rng: np.random.Generator,
    classifier: bool,
    factor: float = 1.0,
) -> Augmented:
    """Augment one image as SPML's released code does: resize, pad, crop, flip; for the classifier also gray and blur.

    Unlike `official`, pad with `MEAN_COLOR`. ``classifier``: for the second classifier, not for the embedding. The
    ``factor`` is that of `official`.
    """
    return _augment(image, labels, crop, draw_spml(labels.shape, crop, rng, classifier, factor), MEAN_COLOR)


SMALLER = 0.7
"""Sizes of images in the augmentations "…_70": a crop of 224 pixels then shows what one of 321 shows in AGMM's."""


ONE_BY_ONE: dict[str, Callable[..., Augmented]] = {
    "official": partial(official, color=False),
    "official_color": partial(official, color=True),
    "official_clicks": partial(official, color=False, clicks="move"),
    "official_clicks_70": partial(official, color=False, clicks="move", factor=SMALLER),
    "spml": partial(spml, classifier=False),
    "spml_70": partial(spml, classifier=False, factor=SMALLER),
    "spml_classifier": partial(spml, classifier=True),
    "spml_classifier_70": partial(spml, classifier=True, factor=SMALLER),
}
"""Augmentations of single images by name, called with image, labels, crop and rng."""


def draw(shape: tuple[int, ...], crop: int, rng: np.random.Generator, color: bool, factor: float = 1.0) -> Draws:
    """Draw for `official` and an image of height and width ``shape``."""
    height, width = shape
    long = max(height, width)
    new_long = int(rng.integers(int(0.5 * factor * long), int(2.0 * factor * long), endpoint=True))
    new_short = int(min(height, width) * new_long / long + 0.5)
    size = (new_long, new_short) if height >= width else (new_short, new_long)
    top, left = (int(rng.integers(max(side - crop, 0), endpoint=True)) for side in size)
    mirrored = bool(rng.random() < 0.5)
    changes: list[tuple[str, float]] = []
    if color:
        if rng.random() < 0.5:
            amounts = [(name, float(rng.uniform(*limits))) for name, limits in JITTER.items()]
            changes += [amounts[i] for i in rng.permutation(len(amounts))]
        if rng.random() < 0.1:
            changes.append(("gray", 0.0))
        if rng.random() < 0.5:
            changes.append(("blur", float(rng.uniform(0.1, 2))))
        if rng.random() < 0.5:
            changes.append(("shift", float(rng.uniform(-10, 10))))
    return Draws(size, (top, left), mirrored, tuple(changes))


def draw_spml(
    shape: tuple[int, ...], crop: int, rng: np.random.Generator, classifier: bool, factor: float = 1.0
) -> Draws:
    """Draw for `spml` and an image of height and width ``shape``.

    Scales are uniform in 0.5 … 1.5 for the embedding, in 0.5 … 2 for the classifier. Its images also become gray with
    a probability of 0.3 and blurred with one of 0.5, by a width that is uniform in 0.1 … 5 pixels (released code).
    """
    scale = factor * rng.uniform(0.5, 2.0 if classifier else 1.5)
    height, width = (max(round(side * scale), 1) for side in shape)
    top, left = (int(rng.integers(max(side - crop, 0), endpoint=True)) for side in (height, width))
    mirrored = bool(rng.random() < 0.5)
    changes: list[tuple[str, float]] = []
    if classifier and rng.random() < 0.3:
        changes.append(("weighted_gray", 0.0))
    if classifier and rng.random() < 0.5:
        changes.append(("kernel_blur", float(rng.uniform(0.1, 5))))
    return Draws((height, width), (top, left), mirrored, tuple(changes))


def _augment(
    image: np.ndarray,
    labels: np.ndarray,
    crop: int,
    draws: Draws,
    padding: tuple[int, int, int] | None = None,
    clicks: str = "nearest",
) -> Augmented:
    # Rows and columns of the resized image that the crop shows, at its upper left.
    rows, columns = (
        slice(start, min(start + crop, side)) for start, side in zip(draws.corner, draws.size, strict=True)
    )
    picture = _resize_and_crop(image, draws.size, draws.corner, crop)
    if clicks == "nearest":
        seen = (agmm.labels.nearest(*sides) for sides in zip(labels.shape, draws.size, strict=True))
        part = labels[np.ix_(*(index[window] for index, window in zip(seen, (rows, columns), strict=True)))]
    else:
        part = agmm.labels.resize_labels(labels, draws.size, clicks=clicks)[rows, columns]
    cut = np.full((crop, crop), VOID, labels.dtype)
    cut[: len(part), : part.shape[1]] = part
    if padding is not None:
        padded = Image.new("RGB", picture.size, padding)
        padded.paste(picture.crop((0, 0, part.shape[1], len(part))))
        picture = padded
    if draws.mirrored:
        picture, cut = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.ascontiguousarray(cut[:, ::-1])
    for name, amount in draws.changes:
        picture = COLOR_CHANGES[name](picture, amount)
    return np.array(picture), cut, draws.mirrored


def _resize_and_crop(image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], crop: int) -> Image.Image:
    """Resize to ``size`` by Pillow's bilinear filter and crop, black beyond the image.

    Pillow resizes along the rows, rounds, and resizes along the columns. Doing the two apart leaves out most of what is
    cropped away and gives the same pixels, which its own argument ``box`` does not. (Pillow 13 begins with the columns
    where an image more than twice as tall as wide shrinks; here all versions agree.)
    """
    height, (top, left) = len(image), corner
    scale = height / size[0]
    reach = max(scale, 1) + 1
    first = max(int((top + 0.5) * scale - reach), 0)
    last = min(int((min(top + crop, size[0]) - 0.5) * scale + reach) + 1, height)
    strip = Image.fromarray(image[first:last]).resize((size[1], last - first), Image.Resampling.BILINEAR)
    strip = strip.crop((left, -first, left + crop, height - first))  # of full height again: it decides the weights
    return strip.resize((crop, size[0]), Image.Resampling.BILINEAR).crop((0, top, crop, top + crop))


def _turn_hue(picture: Image.Image, amount: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + int(amount * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _weighted_gray(picture: Image.Image, _: float) -> Image.Image:
    """SPML's gray: 0.3, 0.59 and 0.11 of red, green and blue."""
    weights = np.array((0.3, 0.59, 0.11), np.float32)
    return Image.fromarray(_round(np.asarray(picture, np.float32) @ weights)).convert("RGB")


def _kernel_blur(picture: Image.Image, width: float) -> Image.Image:
    """SPML's blur: weights exp(-(r / width)^2) of 5 x 5 neighbors, with a sum of 1, and borders repeated (ours)."""
    weights = [np.exp(-((step / width) ** 2)) for step in range(-2, 3)]
    weights = [float(weight / sum(weights)) for weight in weights]
    pixels = np.asarray(picture, np.float32)
    for axis in (0, 1):
        margins = [(2, 2) if i == axis else (0, 0) for i in range(3)]
        repeated = np.pad(pixels, margins, mode="edge")
        parts = (np.take(repeated, range(i, i + pixels.shape[axis]), axis) for i in range(5))
        pixels = np.sum([np.float32(weight) * part for weight, part in zip(weights, parts, strict=True)], axis=0)
    return Image.fromarray(_round(pixels))


def _round(levels: np.ndarray) -> np.ndarray:
    return np.floor(levels + np.float32(0.5)).clip(0, 255).astype(np.uint8)


COLOR_CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda picture, amount: ImageEnhance.Brightness(picture).enhance(amount),
    "contrast": lambda picture, amount: ImageEnhance.Contrast(picture).enhance(amount),
    "saturation": lambda picture, amount: ImageEnhance.Color(picture).enhance(amount),
    "hue": _turn_hue,
    "gray": lambda picture, _: picture.convert("L").convert("RGB"),
    "blur": lambda picture, amount: picture.filter(ImageFilter.GaussianBlur(amount)),
    "shift": lambda picture, amount: picture.point([min(max(round(i + amount), 0), 255) for i in range(256)] * 3),
    "weighted_gray": _weighted_gray,
    "kernel_blur": _kernel_blur,
}
"""Changes of a picture's colors by an amount, the first seven as torchvision makes them of Pillow images."""

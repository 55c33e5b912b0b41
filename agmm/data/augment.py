"""Augmentation: whole batches of a small data set in memory, and the papers' pipeline for single images."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

import agmm.labels
from agmm.labels import VOID


def dihedral(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    Turn a batch by one of the eight flips and quarter turns, the same for all its images.

    Parameters
    ----------
    images : (B, H, W, 3) Tensor
        Of any type.
    labels : (B, H, W) Tensor
        Moved with the images.
    generator : torch.Generator
        Source of the one draw.

    Returns
    -------
    tuple of Tensor
        Images and labels; with H != W the sides may have changed places.
    """
    turns, mirrored = divmod(int(torch.randint(8, (), generator=generator, device=generator.device)), 2)
    if mirrored:
        images, labels = images.flip(2), labels.flip(2)
    return images.rot90(turns, (1, 2)), labels.rot90(turns, (1, 2))


def crop_flip(images: Tensor, labels: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    Cut a random square from every image and mirror every second one on average.

    Parameters
    ----------
    images : (B, H, W, 3) uint8 Tensor
        RGB images.
    labels : (B, H, W) uint8 Tensor
        Labels in the project's codes.
    size : int
        Side of the crop; smaller images are padded right and below, black and ``VOID``.
    generator : torch.Generator
        Source of one crop and one coin toss per image.

    Returns
    -------
    tuple of Tensor
        Images (B, size, size, 3) and labels (B, size, size).
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
    columns = left[:, None] + torch.where(draws[2, :, None] < 0.5, steps.flip(0), steps)
    index = torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    return images[index], labels[index]


def official(
    image: np.ndarray,
    labels: np.ndarray,
    crop: int,
    rng: np.random.Generator,
    color: bool,
    clicks: str = "nearest",
) -> tuple[np.ndarray, np.ndarray]:
    """
    Augment one image as AGMM's released code does: resize, pad, crop, flip, and for VOC change colors.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
        RGB image.
    labels : (H, W) uint8 array
        Sparse labels in the project's codes.
    crop : int
        Side of the square crop.
    rng : numpy.random.Generator
        Source of all draws; those for color come last.
    color : bool
        Whether to apply the color changes (released VOC configuration).
    clicks : {"nearest", "move"}
        How labels are resized. "nearest", as released, loses many single-pixel labels when shrinking; "move" keeps
        each at its moved place (`agmm.labels.resize_labels`).

    Returns
    -------
    tuple of array
        Image (crop, crop, 3) and labels (crop, crop), both uint8, not yet normalized. Padding is black and ``VOID``.

    Notes
    -----
    The classes of the whole image must be read from `labels` before this call: resizing and cropping lose some.
    """
    height, width = labels.shape
    long = max(height, width)
    new_long = int(rng.integers(int(0.5 * long), int(2.0 * long), endpoint=True))
    new_short = int(min(height, width) * new_long / long + 0.5)
    new_height, new_width = (new_long, new_short) if height >= width else (new_short, new_long)
    image = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    labels = agmm.labels.resize_labels(labels, (new_height, new_width), clicks=clicks)

    below, right = max(crop - new_height, 0), max(crop - new_width, 0)
    image = np.pad(image, ((0, below), (0, right), (0, 0)))
    labels = np.pad(labels, ((0, below), (0, right)), constant_values=VOID)
    top = int(rng.integers(image.shape[0] - crop, endpoint=True))
    left = int(rng.integers(image.shape[1] - crop, endpoint=True))
    image, labels = (array[top : top + crop, left : left + crop] for array in (image, labels))
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if color:
        image = _change_color(image, rng)
    return np.array(image, order="C"), np.array(labels, order="C")  # of Pillow's arrays none may be written to


def _change_color(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Color jitter, gray, blur and a constant, each with its own probability; (H, W, 3) uint8 in and out."""
    # Here, because importing it takes longer than all the rest together, and most runs never need it.
    from torchvision.transforms import functional as tv

    picture = Image.fromarray(np.ascontiguousarray(image))
    if rng.random() < 0.5:
        jitter = (
            (tv.adjust_brightness, rng.uniform(0.5, 1.5)),
            (tv.adjust_contrast, rng.uniform(0.5, 1.5)),
            (tv.adjust_saturation, rng.uniform(0.5, 1.5)),
            (tv.adjust_hue, rng.uniform(-0.25, 0.25)),
        )
        for i in rng.permutation(len(jitter)):
            adjust, amount = jitter[i]
            picture = adjust(picture, amount)
    if rng.random() < 0.1:
        picture = tv.to_grayscale(picture, num_output_channels=3)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2)))
    image = np.asarray(picture)
    if rng.random() < 0.5:
        image = np.clip(np.rint(image + rng.uniform(-10, 10)), 0, 255).astype(np.uint8)
    return image

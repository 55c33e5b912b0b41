"""Tensors of a training step, as the benchmarks feed them to the objectives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agmm.codes import UNLABELED

FORMS = ("clicks", "scribbles", "blocks", "dense")


@dataclass(frozen=True)
class Size:
    """Shapes of one training step; 2 to 4 classes in each image, or as many as are clicked."""

    batch: int
    num_classes: int
    channels: int
    grid: int
    label: int


VOC = Size(16, 21, 256, 81, 321)
CITYSCAPES = Size(4, 19, 256, 181, 721)
QUICK = Size(16, 7, 32, 16, 64)
SMALL = Size(4, 7, 32, 16, 64)


def tensors(
    size: Size, form: str = "clicks", clicks: int = 10, classes: int = 4, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, logits, labels and image classes; random, channels last like those of a training.

    Parameters
    ----------
    size : Size
    form : {"clicks", "scribbles", "blocks", "dense"}
        Single pixels; a stroke of width 3 per class; a rectangle of a thirtieth of the image per class; stripes that
        cover everything, as pseudo labels do.
    clicks : int
        Per image, of the form clicks.
    classes : int
        Most classes of an image; the images have this number, one less and two less in turn (at least one).
    device : str
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size.batch, size.channels, size.grid, size.grid, generator=generator).relu_()
    logits = torch.randn(size.batch, size.num_classes, size.label, size.label, generator=generator)
    labels = torch.full((size.batch, size.label, size.label), UNLABELED)
    image_classes = torch.zeros(size.batch, size.num_classes, dtype=torch.bool)
    for image in range(size.batch):
        codes = torch.randperm(size.num_classes, generator=generator)[: max(1, classes - (2 - image % 3))]
        draw(labels[image], codes, form, clicks, generator)
        image_classes[image, codes] = True
    features, logits = (x.to(device).contiguous(memory_format=torch.channels_last) for x in (features, logits))
    return features, logits, labels.to(device), image_classes.to(device)


def draw(labels: Tensor, codes: Tensor, form: str, clicks: int, generator: torch.Generator) -> None:
    """Write labels of a form into those of one image."""
    side = labels.shape[0]
    if form == "clicks":
        row, column = torch.randint(side, (2, clicks), generator=generator)
        labels[row, column] = codes[torch.arange(clicks) % len(codes)]
    elif form == "scribbles":
        for code in codes:
            start, end = torch.randint(1, side - 1, (2, 2, 1), generator=generator)
            row, column = (start + (end - start) * torch.linspace(0, 1, side)).round().long()
            for shift in (-1, 0, 1):
                labels[row + shift, column] = labels[row, column + shift] = code
    elif form == "blocks":
        block = max(1, round(side / 30**0.5))
        for code in codes:
            row, column = torch.randint(side - block + 1, (2,), generator=generator).tolist()
            labels[row : row + block, column : column + block] = code
    else:
        labels[:] = codes[torch.arange(side) * len(codes) // side]

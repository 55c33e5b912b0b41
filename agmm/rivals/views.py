"""Further views of training images for the contrast of class tokens (ToCo): changed colors, and crops of crops.

Images are (B, 3, H, W) uint8, every image with draws of its own from torch's global generator, which a training seeds.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

GLOBAL_SCALE = (0.4, 1.0)
"""Share of the area that the second global view shows."""


def photometric(images: Tensor, blur: float, solarize: float = 0.0) -> Tensor:
    """Change colors by jitter, grayscale, blur and solarization; ``blur`` and ``solarize`` are probabilities."""
    change = _photometric(blur, solarize)
    return torch.stack([change(image) for image in images])


def second_global(images: Tensor) -> Tensor:
    """Cut a crop of random size and place, resize it to the image's size and change its colors.

    Ours: it is cut from the training crop. ToCo cuts it from the whole image, which a batch does not hold.
    """
    cut = _random_crop(tuple(images.shape[-2:]))
    return photometric(torch.stack([cut(image) for image in images]), blur=0.1, solarize=0.2)


def local_crops(images: Tensor, states: Tensor, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Cut small crops around pixels that are not certain to be foreground.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
    states : Tensor (B, H, W) int64
        0: background, 1: uncertain, 2: foreground.
    count, side : int
        Number of crops of an image, and their size.

    Returns
    -------
    crops : Tensor (B, count, 3, side, side)
        Where fewer than ``count`` places have a state of at most 1, the crops lie anywhere.
    positive : Tensor (B, count) bool
        Whether a crop shows more than background: its mean state exceeds 0.2.
    """
    height, width = states.shape[1:]
    if side >= min(height, width):
        raise ValueError(f"local crops of {side} do not fit into images of {height} x {width}; choose a smaller side")
    rows, columns = height - side + 1, width - side + 1
    middle = states[:, side // 2 : side // 2 + rows, side // 2 : side // 2 + columns].flatten(1)
    allowed = middle <= 1
    anywhere = allowed.sum(1, keepdim=True) < count
    keys = torch.rand(allowed.shape).to(states.device) + (allowed | anywhere)
    place = keys.topk(count, dim=1).indices
    steps = torch.arange(side, device=states.device)
    y = (place // columns)[..., None, None] + steps[:, None]
    x = (place % columns)[..., None, None] + steps
    image = torch.arange(len(images), device=states.device)[:, None, None, None]
    crops = images.movedim(1, -1)[image, y, x].movedim(-1, 2)
    return crops, states[image, y, x].float().mean((2, 3)) > 0.2


@cache
def _photometric(blur: float, solarize: float) -> Any:
    from torchvision.transforms import v2  # takes a second, and only few trainings need it

    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], blur),
            v2.RandomSolarize(128, solarize),
        ]
    )


@cache
def _random_crop(size: tuple[int, ...]) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size, GLOBAL_SCALE, antialias=True), v2.RandomHorizontalFlip()])

"""The clock of comparisons, and a training step on random images and labels whose cost it measures."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agmm import gmm, objectives
from agmm.codes import UNLABELED

Objective = objectives.Baseline | objectives.AGMM | objectives.AGMMpp
FORMS = ("clicks", "scribbles", "blocks", "dense")


def in_turn(
    functions: Mapping[str, Callable[[], object]], device: str, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of all functions in ``repeats`` rounds; in turn, as the machine's speed may change."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the quotients of neighboring rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def synchronize(device: str) -> None:
    """Wait for a GPU; return at once on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Shapes:
    """Shapes of one training step: B, K, C, the sides in pixels of the feature map (``grid``) and of the crop.

    Labels of the ``form`` clicks are single pixels, ``clicks`` of them in an image; scribbles a stroke of width 3 per
    class; blocks a rectangle of a thirtieth of the image per class; dense ones are stripes that cover everything, as
    pseudo labels do. Images have ``classes`` classes, one less and two less in turn (at least one).
    """

    batch: int
    num_classes: int
    channels: int
    grid: int
    label: int
    form: str = "clicks"
    clicks: int = 10
    classes: int = 4


QUICK = Shapes(16, 7, 32, 16, 64, clicks=3, classes=3)  # the embedded data set, as the preset quick trains on it


def random_outputs(shapes: Shapes, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return random features (B, C, h, w), not negative, and logits (B, K, H, W) of a network; channels last."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shapes.batch, shapes.channels, shapes.grid, shapes.grid, generator=generator).relu_()
    logits = torch.randn(shapes.batch, shapes.num_classes, shapes.label, shapes.label, generator=generator)
    features, logits = (x.to(device).contiguous(memory_format=torch.channels_last) for x in (features, logits))
    return features, logits


def random_labels(shapes: Shapes, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return labels (B, H, W) of the form that is asked for, and image classes (B, K)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((shapes.batch, shapes.label, shapes.label), UNLABELED)
    image_classes = torch.zeros(shapes.batch, shapes.num_classes, dtype=torch.bool)
    for image in range(shapes.batch):
        number = max(1, shapes.classes - (2 - image % 3))
        classes = torch.randperm(shapes.num_classes, generator=generator)[:number]
        _draw(labels[image], classes, shapes, generator)
        image_classes[image, classes] = True
    return labels.to(device), image_classes.to(device)


def _draw(labels: Tensor, classes: Tensor, shapes: Shapes, generator: torch.Generator) -> None:
    side = labels.shape[0]
    if shapes.form == "clicks":
        row, column = torch.randint(side, (2, shapes.clicks), generator=generator)
        labels[row, column] = classes[torch.arange(shapes.clicks) % len(classes)]
    elif shapes.form == "scribbles":
        for code in classes:
            start, end = torch.randint(1, side - 1, (2, 2, 1), generator=generator)
            row, column = (start + (end - start) * torch.linspace(0, 1, side)).round().long()
            for shift in (-1, 0, 1):
                labels[row + shift, column] = labels[row, column + shift] = code
    elif shapes.form == "blocks":
        block = max(1, round(side / 30**0.5))
        for code in classes:
            row, column = torch.randint(side - block + 1, (2,), generator=generator).tolist()
            labels[row : row + block, column : column + block] = code
    else:
        labels[:] = classes[torch.arange(side) * len(classes) // side]


def training_step(
    net: nn.Module, objective: Objective, shapes: Shapes, device: str = "cpu", precision: str = "float32"
) -> Callable[[], None]:
    """Return a function that takes one optimizer step, always on the same random batch.

    The network, (B, 3, H, W) images -> (features, logits (B, K, H, W)), of ``precision`` "float32" or "bfloat16", is
    moved to the device and trained from step to step; so is an objective with parameters of its own.
    """
    net.to(device).to(memory_format=torch.channels_last)
    parameters = [*net.parameters()]
    if isinstance(objective, nn.Module):
        parameters += objective.to(device).parameters()
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, fused=True)
    mixed = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
    images = torch.rand(shapes.batch, 3, shapes.label, shapes.label, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels, image_classes = random_labels(shapes, device)
    # On a GPU the training loop finds the components while the step before is computed.
    ahead = device == "cuda" and "components" in objective.needs
    options = {"components": gmm.components(labels, shapes.num_classes)} if ahead else {}

    def step() -> None:
        optimizer.zero_grad()
        with mixed:
            features, logits = net(images)
        objective(features, logits, labels, image_classes, **options).loss.backward()
        optimizer.step()

    return step

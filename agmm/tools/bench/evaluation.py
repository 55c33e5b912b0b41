"""The group "evaluation": testing a network, beside the same with one image and one view or tile at a time.

Batching cannot save arithmetic, and the predictions must stay the same. The figure "network alone" is therefore the
limit: the forward passes of the same batches, with nothing before, between or after them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import evaluation as testing
from agmm import networks
from agmm.host import timing
from agmm.tools.bench.figure import Figure, Setting, compared

TOGETHER = 50
"""Images that are predicted together."""

TIES = 100.0
"""Pixels in a million whose two best classes are so close that float32 may decide either way."""


@dataclass(frozen=True)
class Case:
    """A network and how it is tested (see `agmm.evaluation.evaluate`) on random images, in at most so many rounds."""

    name: str
    network: str
    num_classes: int
    images: int
    height: int
    width: int
    repeats: int = 5
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None

    @property
    def views(self) -> dict[str, Any]:
        """Options of `agmm.evaluation.as_tested`."""
        return {"scales": self.scales, "flip": self.flip, "tile": self.tile}

    def __str__(self) -> str:
        words = [f"{self.images} x {self.height} x {self.width}", self.network]
        words += [f"{len(self.scales)} scales and flip"] if self.flip else []
        words += [f"tiles of {self.tile}"] if self.tile else []
        return f"{self.name} ({', '.join(words)})"


ON_A_GPU = (
    Case("quick", "small", 7, 300, 64, 64),
    Case("VOC", "resnet101", 21, 12, 375, 500, scales=testing.SCALES, flip=True),
    Case("Cityscapes", "resnet50", 19, 2, 1024, 2048, tile=721),
)
ON_A_CPU = (
    Case("quick", "small", 7, 300, 64, 64),
    Case("VOC", "resnet50", 21, 1, 375, 500, repeats=2, scales=(0.5, 1.0), flip=True),
    Case("Cityscapes", "resnet50", 19, 1, 256, 512, repeats=2, tile=161),
)
SMALL = (
    Case("quick", "small", 7, 12, 32, 32),
    Case("VOC", "small", 21, 3, 24, 31, scales=(0.5, 1.0, 1.5), flip=True),
    Case("Cityscapes", "small", 19, 1, 40, 64, tile=24),
)


def figures(setting: Setting) -> Iterator[Figure]:
    """Speed and agreement of every case."""
    for case in SMALL if setting.small else ON_A_GPU if setting.device == "cuda" else ON_A_CPU:
        with torch.no_grad():
            yield from _figures(case, setting)


def _figures(case: Case, setting: Setting) -> Iterator[Figure]:
    images, truths = data(case)
    net = network(case, images[:1], setting.device)
    evaluate = partial(testing.evaluate, net, images, truths, case.num_classes, device=setting.device, **case.views)
    together, alone = partial(evaluate, batch_size=TOGETHER), partial(evaluate, batch_size=1, pixels=1)
    functions = {"together": together, "alone": alone, "network": forward_passes(net, together)}
    seconds = timing.in_turn(functions, setting.device, min(setting.repeats, case.repeats))
    rates = {name: [case.images / value for value in values] for name, values in seconds.items()}
    against = "one view or tile at a time", rates["alone"]
    yield compared(str(case), rates["together"], *against, unit="images/s", target=">= 5")
    yield compared(f"{case.name}: network alone, the limit", rates["network"], *against, unit="images/s")
    maps = (predictions(case, net, images, setting.device, pixels) for pixels in (testing.PIXELS, 1))
    differing = 1e6 * float(np.not_equal(*maps).mean())
    against = "ties that rounding may decide", TIES
    yield Figure(f"{case.name}: pixels that differ", differing, "ppm", *against, differing / TIES, "<= 1")


def network(case: Case, images: np.ndarray, device: str) -> nn.Module:
    """Network with random weights whose logits for ``images`` have mean 0 and variance 1, so that no class wins."""
    torch.manual_seed(0)
    net = networks.build(case.network, case.num_classes).eval().to(device).to(memory_format=torch.channels_last)
    logits = net(testing.to_input(torch.from_numpy(images).to(device)))[1]
    deviation, mean = torch.std_mean(logits, dim=(0, 2, 3), keepdim=True)
    net.register_forward_hook(lambda module, arguments, outputs: (outputs[0], (outputs[1] - mean) / deviation))
    return net


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) of smooth random colors with some noise, and random masks (N, H, W), both uint8."""
    generator = torch.Generator().manual_seed(0)
    size = case.height, case.width
    coarse = torch.rand(case.images, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear") + 0.1 * torch.rand(1, 1, *size, generator=generator)
    truths = torch.randint(case.num_classes, (case.images, *size), generator=generator, dtype=torch.uint8)
    return (smooth * 255 / 1.1).byte().movedim(1, -1).contiguous().numpy(), truths.numpy()


def forward_passes(net: nn.Module, evaluate: Callable[[], object]) -> Callable[[], None]:
    """What the network does in ``evaluate``, and nothing else."""
    inputs: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    evaluate()
    hook.remove()

    def network() -> None:
        for batch in inputs:
            net(batch)

    return network


def predictions(case: Case, net: nn.Module, images: np.ndarray, device: str, pixels: int) -> np.ndarray:
    """Classes (N, H, W) of the images, so many pixels of views or tiles at a time."""
    predict = testing.as_tested(net, **case.views, pixels=pixels)
    inputs = testing.to_input(torch.from_numpy(images).to(device))
    return testing.best_class(predict(inputs)).cpu().numpy()

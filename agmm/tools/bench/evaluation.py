"""The group "evaluation": testing a network, beside the same with one image and one view or tile at a time.

Batching cannot save arithmetic, and the predictions must stay the same. The figure "network alone" is therefore the
limit: the forward passes of the same batches, with nothing before, between or after them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

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
    """A network and how it is tested on random images, in at most so many rounds."""

    name: str
    network: str
    num_classes: int
    images: int
    height: int
    width: int
    protocol: testing.Protocol = testing.Protocol()
    repeats: int = 5

    def __str__(self) -> str:
        words = [f"{self.images} x {self.height} x {self.width}", self.network]
        words += [f"{len(self.protocol.scales)} scales and flip"] if self.protocol.flip else []
        words += [f"tiles of {self.protocol.tile}"] if self.protocol.tile else []
        return f"{self.name} ({', '.join(words)})"


VIEWS = testing.Protocol(scales=testing.SCALES, flip=True)
ON_A_GPU = (
    Case("quick", "small", 7, 300, 64, 64),
    Case("VOC", "resnet101", 21, 12, 375, 500, VIEWS),
    Case("Cityscapes", "resnet50", 19, 2, 1024, 2048, testing.Protocol(tile=721)),
)
ON_A_CPU = (
    Case("quick", "small", 7, 300, 64, 64),
    Case("VOC", "resnet50", 21, 1, 375, 500, replace(VIEWS, scales=(0.5, 1.0)), repeats=2),
    Case("Cityscapes", "resnet50", 19, 1, 256, 512, testing.Protocol(tile=161), repeats=2),
)
SMALL = (
    Case("quick", "small", 7, 12, 32, 32),
    Case("VOC", "small", 21, 3, 24, 31, replace(VIEWS, scales=(0.5, 1.0, 1.5))),
    Case("Cityscapes", "small", 19, 1, 40, 64, testing.Protocol(tile=24)),
)


def figures(setting: Setting) -> Iterator[Figure]:
    """Speed and agreement of every case."""
    for case in SMALL if setting.small else ON_A_GPU if setting.device == "cuda" else ON_A_CPU:
        with torch.no_grad():
            yield from _figures(case, setting)


def _figures(case: Case, setting: Setting) -> Iterator[Figure]:
    images, truths = data(case)
    net = network(case, images[:1], setting.device)
    one = replace(case.protocol, pixels=1)
    evaluate = partial(testing.evaluate, net, images, truths, case.num_classes, device=setting.device)
    together, alone = partial(evaluate, case.protocol, batch_size=TOGETHER), partial(evaluate, one, batch_size=1)
    functions: dict[str, Callable[[], object]] = {
        "together": together,
        "alone": alone,
        "network": forward_passes(net, together),
    }
    seconds = timing.in_turn(functions, setting.device, min(setting.repeats, case.repeats))
    rates = {name: [case.images / value for value in values] for name, values in seconds.items()}
    against = "one view or tile at a time", rates["alone"]
    yield compared(str(case), rates["together"], *against, unit="images/s", target=">= 5")
    yield compared(f"{case.name}: network alone, the limit", rates["network"], *against, unit="images/s")
    inputs = testing.to_input(torch.from_numpy(images).to(setting.device))
    maps = (testing.best_class(testing.predictor(net, protocol)(inputs)) for protocol in (case.protocol, one))
    differing = 1e6 * torch.ne(*maps).double().mean().item()
    reason = "ties that rounding may decide", TIES
    yield Figure(f"{case.name}: pixels that differ", differing, "ppm", *reason, differing / TIES, "<= 1")


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

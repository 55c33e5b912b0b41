"""Testing a network: `agmm.evaluation` beside a loop over single images, views and tiles.

Batching cannot save arithmetic, and the predictions must stay the same. The figure "network alone" is therefore the
limit: the forward passes of the same batches, with nothing before, between or after them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import evaluation, networks
from agmm.data.split import Arrays
from agmm.tools.bench.figure import Figure, Setting, in_turn, median_ratio
from agmm.training import measure

TIES = 100.0
"""Pixels in a million whose two best classes are so close that float32 may decide either way."""


@dataclass(frozen=True)
class Case:
    """A network and its test procedure, on random images.

    Attributes
    ----------
    name : str
    network : str
        See `agmm.networks.build`.
    num_classes, images, height, width : int
    repeats : int
        Most rounds that are timed.
    scales, flip, tile
        See `agmm.evaluation.Protocol`.
    """

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
    def protocol(self) -> evaluation.Protocol:
        """The procedure."""
        return evaluation.Protocol(scales=self.scales, flip=self.flip, tile=self.tile)

    @property
    def views(self) -> str:
        """The procedure in words."""
        words = [f"{self.images} x {self.height} x {self.width}", self.network]
        words += [f"{len(self.scales)} scales and flip"] if self.flip else []
        words += [f"tiles of {self.tile}"] if self.tile else []
        return f"{self.name} ({', '.join(words)})"


ON_A_GPU = (
    Case("quick", "small", 7, 300, 64, 64),
    Case("VOC", "resnet101", 21, 12, 375, 500, scales=evaluation.SCALES, flip=True),
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
    """Speed and agreement of every case; on a GPU the network runs in bfloat16, for both ways."""
    cases = SMALL if setting.small else ON_A_GPU if setting.device == "cuda" else ON_A_CPU
    for case in cases:
        with torch.no_grad():
            yield from _figures(case, network(case, setting.device), setting)


def _figures(case: Case, net: nn.Module, setting: Setting) -> Iterator[Figure]:
    mixed = setting.device == "cuda"
    precision = "bfloat16" if mixed else "float32"
    images, truths = data(case)
    batched = partial(_evaluate, case, net, images, truths, setting.device)
    options: dict[str, Any] = {"device": setting.device, "scales": case.scales, "flip": case.flip, "tile": case.tile}
    alone = partial(one_by_one, net, images, truths, case.num_classes, **options)
    with torch.autocast(setting.device, torch.bfloat16, enabled=mixed):
        functions: dict[str, Callable[[], object]] = {"batched": batched, "alone": alone}
        functions["network"] = forward_passes(net, batched)
        seconds = in_turn(functions, replace(setting, repeats=min(setting.repeats, case.repeats)))
        rate = {name: case.images / float(np.median(values)) for name, values in seconds.items()}
        against = "one view or tile at a time", rate["alone"]
        ratio = median_ratio(seconds["alone"], seconds["batched"])
        yield Figure("evaluation", case.views, rate["batched"], "images/s", *against, ratio, ">= 5", precision)
        ratio = median_ratio(seconds["alone"], seconds["network"])
        limit = f"{case.name}: network alone, the limit"
        yield Figure("evaluation", limit, rate["network"], "images/s", *against, ratio, precision=precision)
        maps, _ = alone()
        found = predictions(case, net, images, setting.device)
    differing, allowed, reason = _differing(found, maps), TIES, "ties that rounding may decide"
    if mixed:
        exact, _ = alone()
        allowed, reason = max(TIES, _differing(exact, maps)), "bfloat16 beside float32, one at a time"
    about = "evaluation", f"{case.name}: pixels that differ", differing, "ppm"
    yield Figure(*about, reason, allowed, differing / allowed, "<= 1", precision)


def _differing(found: np.ndarray, expected: np.ndarray) -> float:
    """Pixels of a million whose classes differ."""
    return 1e6 * float(np.mean(found != expected))


@torch.no_grad()
def network(case: Case, device: str, seed: int = 0) -> networks.Segmenter:
    """Network with random weights whose logits all have mean 0 and variance 1, so that no class wins everywhere."""
    torch.manual_seed(seed)
    net = networks.build(case.network, case.num_classes).eval()
    net.to(device).to(memory_format=torch.channels_last)
    images = data(replace(case, images=1))[0]
    logits = net(evaluation.to_input(torch.from_numpy(images).to(device)))[1]
    deviation, mean = torch.std_mean(logits, dim=(0, 2, 3))
    classifier = net.head.classifier
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    classifier.weight.div_(deviation[:, None, None, None])
    classifier.bias.sub_(mean).div_(deviation)
    return net


def data(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) of smooth random colors with some noise, and random masks (N, H, W), both uint8."""
    generator = torch.Generator().manual_seed(seed)
    size = case.height, case.width
    coarse = torch.rand(case.images, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear") + 0.1 * torch.rand(1, 1, *size, generator=generator)
    images = (smooth * 255 / 1.1).byte().movedim(1, -1).contiguous()
    truths = torch.randint(case.num_classes, (case.images, *size), generator=generator, dtype=torch.uint8)
    return images.numpy(), truths.numpy()


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


def predictions(case: Case, net: nn.Module, images: np.ndarray, device: str) -> np.ndarray:
    """Classes (N, H, W) that `agmm.evaluation.evaluate` counts, of all images together."""
    predict = evaluation.predictor(net, case.protocol)
    inputs = evaluation.to_input(torch.from_numpy(images).to(device))
    return evaluation.best_class(predict(inputs)).cpu().numpy()


def _evaluate(case: Case, net: nn.Module, images: np.ndarray, truths: np.ndarray, device: str) -> Tensor:
    at_a_time = max(1, min(measure.MOST_IMAGES, evaluation.PIXELS // (case.height * case.width)))
    data = images, truths, case.num_classes, case.protocol
    return evaluation.evaluate(net, *data, batch_size=at_a_time, device=device)


# --- The plain way ----------------------------------------------------------------------------------------------------


def one_by_one(
    net: nn.Module,
    images: Arrays,
    truths: Arrays,
    num_classes: int,
    *,
    device: str,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Test a network on images of equal size as a script would: an image, a view and a tile at a time.

    The mean probabilities of an image go to the host, where numpy takes the best class and counts.

    Returns
    -------
    predictions : (N, H, W) int64 array
    confusion : (K, K) int64 array
        Rows are the truth.
    """
    maps, confusion = [], np.zeros((num_classes, num_classes), np.int64)
    for image, truth in zip(images, truths, strict=True):
        inputs = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
        total = torch.zeros((), device=device)
        for scale in scales:
            size = [int(side * scale) for side in inputs.shape[-2:]]
            view = F.interpolate(inputs, size=size, mode="bilinear", align_corners=True)
            for mirrored in (False, True) if flip else (False,):
                probabilities = _tiled(net, view.flip(3) if mirrored else view, num_classes, tile)
                probabilities = probabilities.flip(3) if mirrored else probabilities
                total = total + F.interpolate(probabilities, size=truth.shape, mode="bilinear", align_corners=True)
        prediction = (total / (len(scales) * (1 + flip)))[0].cpu().numpy().argmax(0)
        counted = truth < num_classes
        cells = num_classes * truth[counted].astype(np.int64) + prediction[counted]
        confusion += np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
        maps.append(prediction)
    return np.stack(maps), confusion


def _tiled(net: nn.Module, view: Tensor, num_classes: int, tile: int | None) -> Tensor:
    """Probabilities of a view no smaller than a tile, as a whole or as the mean over tiles."""
    if tile is None:
        return net(view)[1].float().softmax(1)
    height, width = view.shape[-2:]
    total = torch.zeros(1, num_classes, height, width, device=view.device)
    count = torch.zeros(height, width, device=view.device)
    for row, column in evaluation.tile_positions(height, width, tile):
        rows, columns = slice(row, row + tile), slice(column, column + tile)
        total[:, :, rows, columns] += net(view[:, :, rows, columns])[1].float().softmax(1)
        count[rows, columns] += 1
    return total / count

"""The groups "input" and "evaluation": images a second that are read, and that are tested.

"input" sets reading beside what a step consumes, with photographs that ship with installed packages, in the formats and
sizes of VOC and Cityscapes. "evaluation" sets testing beside one image and one view or tile at a time, which must
predict the same, but for ties. Batching cannot save arithmetic: the limit is "network alone", the forward passes of the
batches.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from agmm import evaluation as testing
from agmm import networks, objectives
from agmm.data import disk_cache, image_files, sets, synthetic
from agmm.data.split import Arrays, OnDemand, Split
from agmm.evaluation import predict
from agmm.tools.bench.objective import Figure, Setting, compared
from agmm.training import batches, presets, timing
from agmm.training.run import Run
from agmm.training.timing import Shapes, training_step

TOGETHER = 50  # images that are predicted together

TIES = 100.0  # pixels in a million whose two best classes are so close that float32 may decide either way


@dataclass(frozen=True)
class Source:
    """A data set as it is trained on: photographs of a size (H, W), read again and again in an epoch of so many."""

    title: str
    dataset: str
    labels: str
    augmentation: str
    suffix: str
    size: tuple[int, int]
    files: int
    images_on: dict[str, int]


SOURCES = (
    Source("VOC", "voc", "points", "official_color", ".jpg", (375, 500), 16, {"cpu": 32, "cuda": 1024}),
    Source("Cityscapes", "cityscapes", "clicks20", "official", ".png", (1024, 2048), 4, {"cpu": 8, "cuda": 256}),
)


def reading(setting: Setting) -> Iterator[Figure]:
    """Yield figures per data set: from the files, and from decoded images that are kept."""
    for source in SOURCES:
        if setting.small:
            source = replace(source, size=(48, 64), files=2, images_on={setting.device: 4})
        with tempfile.TemporaryDirectory() as folder:
            yield from _reading(source, _run(source, setting), Path(folder), setting)


def _run(source: Source, setting: Setting) -> Run:
    run = presets.named("paper_official+simulated").at(source.labels, "Baseline")
    run = replace(run, init="scratch", augmentation=source.augmentation, batch_size=run.microbatch)
    if setting.small:
        small = (("stem", 8), ("feature_channels", 8))
        return replace(run, network="small", network_options=small, crop=33, batch_size=2, microbatch=2)
    if setting.device == "cpu":
        options = run.network_options if run.network == "resnet50" else ()
        return replace(run, network="resnet50", network_options=options, batch_size=1, microbatch=1)
    return run


def _reading(source: Source, run: Run, folder: Path, setting: Setting) -> Iterator[Figure]:
    device, images = torch.device(setting.device), source.images_on[setting.device]
    files, masks = _photographs(source, folder), [_mask(source, i) for i in range(source.files)]
    names, ids = sets.class_names(source.dataset), tuple(map(str, range(source.files)))
    data = Split(source.dataset, names, ids, files, masks, background=0)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), 0, folder)
    decoded = disk_cache.keep(files, folder / "cache")
    precision = run.precision if setting.device == "cuda" else "float32"
    functions: dict[str, Callable[[], object]] = {"network": _step(run, len(names), setting.device, precision)}
    for name, arrays in (("from files", files), ("decoded images kept", decoded)):
        functions[name] = _epochs(run, _repeated(arrays, images), _repeated(sparse, images), len(names), device)
    slow = setting.device == "cpu" and not setting.small
    seconds = timing.in_turn(functions, setting.device, 1 if slow else setting.repeats)
    against = f"training step, {run.network}", [run.microbatch / value for value in seconds.pop("network")]
    workers = predict.readers(device)
    readers = f"{workers} workers" if workers else "1 process"
    for name, values in seconds.items():
        title, rates = f"{source.title} at {run.crop}, {readers}, {name}", [images / value for value in values]
        yield compared(title, rates, *against, unit="images/s", target=">= 1.5", precision=precision)


def _photographs(source: Source, folder: Path) -> OnDemand[np.ndarray]:
    paths, arrays = [folder / f"{i:06}{source.suffix}" for i in range(source.files)], synthetic.photographs("left")
    for i, path in enumerate(paths):
        photograph = Image.fromarray(arrays[i % len(arrays)])
        photograph.resize(source.size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)
    return OnDemand(image_files.read_image, paths)


def _mask(source: Source, index: int) -> np.ndarray:
    """Return a mask (H, W) with a few rectangles."""
    rng, truth = np.random.default_rng(index), np.zeros(source.size, np.uint8)
    height, width = source.size
    for code in rng.integers(1, 19, 4):
        top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        truth[top : top + height // 3, left : left + width // 3] = code
    return truth


def _repeated(arrays: Arrays, number: int) -> OnDemand:
    """Return so many arrays, which are these again and again."""
    return OnDemand(arrays.__getitem__, [i % len(arrays) for i in range(number)])


def _epochs(run: Run, images: Arrays, sparse: Arrays, num_classes: int, device: torch.device) -> Callable[[], None]:
    """Return a function that makes all batches of one more epoch."""
    source, numbers = batches.OneByOne(run, images, sparse, num_classes, device), count()

    def epoch() -> None:
        for _ in source.epoch(next(numbers)):
            pass

    return epoch


def _step(run: Run, num_classes: int, device: str, precision: str) -> Callable[[], None]:
    """Return an optimizer step of the baseline, which consumes images the fastest."""
    net = networks.build(run.network, num_classes, init="scratch", **dict(run.network_options))
    net.train(run.microbatch > 1)  # a single image has no batch statistics
    shapes = Shapes(run.microbatch, num_classes, 0, 0, run.crop or 0)
    return training_step(net, objectives.Baseline(num_classes), shapes, device, precision)


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


@torch.no_grad()
def evaluation(setting: Setting) -> Iterator[Figure]:
    """Yield speed and agreement of every case."""
    for case in SMALL if setting.small else ON_A_GPU if setting.device == "cuda" else ON_A_CPU:
        images, truths = data(case)
        net = network(case, images[:1], setting.device)
        one = replace(case.protocol, pixels=1)
        test = partial(testing.evaluate, net, images, truths, case.num_classes, device=setting.device)
        together, alone = partial(test, case.protocol, batch_size=TOGETHER), partial(test, one, batch_size=1)
        functions: dict[str, Callable[[], object]] = {"together": together, "alone": alone}
        functions["network"] = forward_passes(net, together)
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
    """Return a random network whose logits for ``images`` have mean 0 and variance 1, so that no class wins."""
    torch.manual_seed(0)
    net = networks.build(case.network, case.num_classes).eval().to(device).to(memory_format=torch.channels_last)
    logits = net(testing.to_input(torch.from_numpy(images).to(device)))[1]
    deviation, mean = torch.std_mean(logits, dim=(0, 2, 3), keepdim=True)
    net.register_forward_hook(lambda module, arguments, outputs: (outputs[0], (outputs[1] - mean) / deviation))
    return net


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, H, W, 3) of smooth random colors with some noise, and random masks (N, H, W), both uint8."""
    generator = torch.Generator().manual_seed(0)
    size = case.height, case.width
    coarse = torch.rand(case.images, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear") + 0.1 * torch.rand(1, 1, *size, generator=generator)
    truths = torch.randint(case.num_classes, (case.images, *size), generator=generator, dtype=torch.uint8)
    return (smooth * 255 / 1.1).byte().movedim(1, -1).contiguous().numpy(), truths.numpy()


def forward_passes(net: nn.Module, evaluate: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does what the network does in ``evaluate``, and nothing else."""
    inputs: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    evaluate()
    hook.remove()

    def network() -> None:
        for batch in inputs:
            net(batch)

    return network

"""The group "input": whether reading keeps up with training, in images a second beside those that a step consumes.

The files are photographs that ship with installed packages, in the formats and sizes of VOC and Cityscapes. Where there
is a GPU all its workers read; on a CPU one process does.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agmm import networks, objectives
from agmm.data import disk_cache, image_files, sets
from agmm.data.split import Arrays, OnDemand, Split
from agmm.data.synthetic import recipe
from agmm.evaluation import read_ahead
from agmm.host import timing
from agmm.tools.bench.figure import Figure, Setting, compared
from agmm.training import batches
from agmm.training.presets import PRESETS
from agmm.training.random_step import Shapes, training_step
from agmm.training.run import Run


@dataclass(frozen=True)
class Case:
    """A data set as it is trained on: photographs of a size (H, W), read again and again in an epoch of so many."""

    title: str
    dataset: str
    labels: str
    augmentation: str
    suffix: str
    size: tuple[int, int]
    files: int
    images_on: dict[str, int]


CASES = (
    Case("VOC", "voc", "points", "official_color", ".jpg", (375, 500), 16, {"cpu": 32, "cuda": 1024}),
    Case("Cityscapes", "cityscapes", "clicks20", "official", ".png", (1024, 2048), 4, {"cpu": 8, "cuda": 256}),
)


def figures(setting: Setting) -> Iterator[Figure]:
    """Per data set: from the files, and from decoded images that are kept."""
    for case in CASES:
        if setting.small:
            case = replace(case, size=(48, 64), files=2, images_on={setting.device: 4})
        with tempfile.TemporaryDirectory() as folder:
            yield from _figures(case, _run(case, setting), Path(folder), setting)


def _run(case: Case, setting: Setting) -> Run:
    run = PRESETS["paper_official"].at(case.labels, "Baseline")
    run = replace(run, init="scratch", augmentation=case.augmentation, batch_size=run.microbatch)
    if setting.small:
        small = (("stem", 8), ("feature_channels", 8))
        return replace(run, network="small", network_options=small, crop=33, batch_size=2, microbatch=2)
    if setting.device == "cpu":
        options = run.network_options if run.network == "resnet50" else ()
        return replace(run, network="resnet50", network_options=options, batch_size=1, microbatch=1)
    return run


def _figures(case: Case, run: Run, folder: Path, setting: Setting) -> Iterator[Figure]:
    device, images = torch.device(setting.device), case.images_on[setting.device]
    files, masks = photographs(case, folder), [mask(case, i) for i in range(case.files)]
    names, ids = sets.class_names(case.dataset), tuple(map(str, range(case.files)))
    data = Split(case.dataset, names, ids, files, masks, background=0)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), 0, folder)
    decoded = disk_cache.keep(files, folder / "cache")
    functions: dict[str, Callable[[], object]] = {"network": _step(run, len(names), setting)}
    for name, source in (("from files", files), ("decoded images kept", decoded)):
        functions[name] = _epochs(run, _repeated(source, images), _repeated(sparse, images), len(names), device)
    slow = setting.device == "cpu" and not setting.small
    seconds = timing.in_turn(functions, setting.device, 1 if slow else setting.repeats)
    needed = [run.microbatch / value for value in seconds.pop("network")]
    workers = read_ahead.readers(device)
    readers = f"{workers} workers" if workers else "1 process"
    about: dict[str, Any] = {"unit": "images/s", "target": ">= 1.5", "precision": _precision(run, setting)}
    for name, values in seconds.items():
        title, rates = f"{case.title} at {run.crop}, {readers}, {name}", [images / value for value in values]
        yield compared(title, rates, f"training step, {run.network}", needed, **about)


def _precision(run: Run, setting: Setting) -> str:
    return run.precision if setting.device == "cuda" else "float32"


def photographs(case: Case, folder: Path) -> OnDemand[np.ndarray]:
    """Photographs in files."""
    paths, arrays = [folder / f"{i:06}{case.suffix}" for i in range(case.files)], recipe.photographs("left")
    for i, path in enumerate(paths):
        photograph = Image.fromarray(arrays[i % len(arrays)])
        photograph.resize(case.size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)
    return OnDemand(image_files.read_image, paths)


def mask(case: Case, index: int) -> np.ndarray:
    """A mask (H, W) with a few rectangles."""
    rng, truth = np.random.default_rng(index), np.zeros(case.size, np.uint8)
    height, width = case.size
    for code in rng.integers(1, 19, 4):
        top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        truth[top : top + height // 3, left : left + width // 3] = code
    return truth


def _repeated(arrays: Arrays, number: int) -> OnDemand:
    """So many arrays, which are these again and again."""
    return OnDemand(arrays.__getitem__, [i % len(arrays) for i in range(number)])


def _epochs(run: Run, images: Arrays, sparse: Arrays, num_classes: int, device: torch.device) -> Callable[[], None]:
    """Function that makes all batches of one more epoch."""
    source, numbers = batches.OneByOne(run, images, sparse, num_classes, device), count()

    def epoch() -> None:
        for _ in source.epoch(next(numbers)):
            pass

    return epoch


def _step(run: Run, num_classes: int, setting: Setting) -> Callable[[], None]:
    """An optimizer step of the baseline, which consumes images the fastest."""
    net = networks.build(run.network, num_classes, init="scratch", **dict(run.network_options))
    net.train(run.microbatch > 1)  # a single image has no batch statistics
    shapes = Shapes(run.microbatch, num_classes, 0, 0, run.crop or 0)
    return training_step(net, objectives.Baseline(num_classes), shapes, setting.device, _precision(run, setting))

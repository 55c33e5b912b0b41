"""Whether reading keeps up with training: images a second of the loader beside those that a training step consumes.

The files are photographs that ship with installed packages, in the formats, sizes and folders that VOC and Cityscapes
are published in. Where there is a GPU all its workers read; on a CPU one process does.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agmm import networks, objectives
from agmm.codes import UNLABELED
from agmm.data import disk_cache, sets
from agmm.data.split import Arrays, OnDemand, Split
from agmm.data.synthetic import recipe
from agmm.evaluation import read_ahead
from agmm.tools.bench.figure import Figure, Setting, in_turn, median_ratio
from agmm.training import batches, measure
from agmm.training.presets import PRESETS
from agmm.training.run import Run

RUNS = {"voc": ("points", (375, 500)), "cityscapes": ("clicks20", (1024, 2048))}
"""Labels, and height and width of the images."""

NAMES = {"voc": "VOC", "cityscapes": "Cityscapes"}
FILES = {"voc": 16, "cityscapes": 4}
READ = {"cpu": {"voc": 32, "cityscapes": 8}, "cuda": {"voc": 1024, "cityscapes": 256}}
"""Images of an epoch, which are these files again and again."""


def figures(setting: Setting) -> Iterator[Figure]:
    """Per data set: from the files, from decoded images that are kept, and on the device."""
    for dataset, (labels, size) in RUNS.items():
        run = _run(dataset, labels, setting)
        with tempfile.TemporaryDirectory() as folder:
            yield from _of_data_set(run, (48, 64) if setting.small else size, Path(folder), setting)


def _run(dataset: str, labels: str, setting: Setting) -> Run:
    run = replace(PRESETS["paper_official"].at(labels, "Baseline"), init="scratch")
    run = replace(run, augmentation="official_color" if dataset == "voc" else "official", batch_size=run.microbatch)
    if setting.small:
        small = (("stem", 8), ("feature_channels", 8))
        return replace(run, network="small", network_options=small, crop=33, batch_size=2, microbatch=2)
    if setting.device == "cpu":
        options = run.network_options if run.network == "resnet50" else ()
        return replace(run, network="resnet50", network_options=options, batch_size=1, microbatch=1)
    return run


def _of_data_set(run: Run, size: tuple[int, int], folder: Path, setting: Setting) -> Iterator[Figure]:
    device = torch.device(setting.device)
    number = 2 if setting.small else FILES[run.dataset]
    images = 4 if setting.small else READ[setting.device][run.dataset]
    WRITE[run.dataset](folder, number, size)
    with warnings.catch_warnings(action="ignore"):  # of the number of images
        data = sets.load(run.dataset, "train", data_root=folder)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), 0, folder)
    assert isinstance(data.images, OnDemand)
    kept = disk_cache.keep(data.images, folder / "cache")
    of = run, _repeat(sparse, images), data.num_classes, device
    sources = {
        "from files": _source(_repeat(data.images, images), *of),
        "decoded images kept": _source(_repeat(kept, images), *of),
    }
    few = setting if setting.small or setting.device == "cuda" else replace(setting, repeats=1)
    seconds = in_turn({"network": _training_step(run, data, device), **sources}, few)
    needed = seconds.pop("network")
    workers = read_ahead.readers(device)
    readers = f"{workers} workers" if workers else "1 process"
    for name, taken in seconds.items():
        yield Figure(
            "input",
            f"{NAMES[run.dataset]} at {run.crop}, {readers}, {name}",
            images / float(np.median(taken)),
            "images/s",
            f"training step, {run.network}",
            run.microbatch / float(np.median(needed)),
            median_ratio(needed, taken) * images / run.microbatch,
            ">= 1.5",
            run.precision if setting.device == "cuda" else "float32",
        )


def _repeat(arrays: Arrays, count: int) -> OnDemand:
    assert isinstance(arrays, OnDemand)
    return OnDemand(arrays.read, (list(arrays.keys) * count)[:count])


def _source(
    images: Arrays,
    run: Run,
    sparse: Arrays,
    num_classes: int,
    device: torch.device,
) -> Callable[[], None]:
    """Function that makes all batches of one more epoch."""
    source, epochs = batches.OneByOne(run, images, sparse, num_classes, device), count()

    def epoch() -> None:
        for _ in source.epoch(next(epochs)):
            pass

    return epoch


def _training_step(run: Run, data: Split, device: torch.device) -> Callable[[], None]:
    """Forward, backward and update of the baseline, which consumes images the fastest."""
    net = networks.build(run.network, data.num_classes, **dict(run.network_options)).to(device)
    net.to(memory_format=torch.channels_last).train(run.microbatch > 1)  # a single image has no batch statistics
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    objective = objectives.Baseline(data.num_classes)
    images = torch.rand(run.microbatch, 3, run.crop or 0, run.crop or 0, device=device)
    labels = torch.full((run.microbatch, run.crop or 0, run.crop or 0), UNLABELED, device=device)
    labels[:, ::50, ::50] = 0
    classes = torch.ones(run.microbatch, data.num_classes, dtype=torch.bool, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with measure.autocast(run, device):
            features, logits = net(images)
        objective(features, logits, labels, classes).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# --- Files ------------------------------------------------------------------------------------------------------------


def _scenes(number: int, size: tuple[int, int]) -> Iterator[tuple[str, Image.Image, np.ndarray]]:
    """Name, photograph and mask with a few rectangles."""
    photographs, rng = recipe.photographs("left"), np.random.default_rng(0)
    height, width = size
    for i in range(number):
        photo = Image.fromarray(photographs[i % len(photographs)]).resize((width, height), Image.Resampling.BICUBIC)
        mask = np.zeros(size, np.uint8)
        for code in rng.integers(1, 20, 4).tolist():
            top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
            mask[top : top + height // 3, left : left + width // 3] = code
        yield f"{i:06}", photo, mask


def _write_voc(root: Path, number: int, size: tuple[int, int]) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name, photo, mask in _scenes(number, size):
        photo.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "SegmentationClassAug" / f"{name}.png")
    for split in ("train", "val"):
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").touch()


def _write_cityscapes(root: Path, number: int, size: tuple[int, int]) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "train" / "city").mkdir(parents=True)
    for name, photo, mask in _scenes(number, size):
        photo.save(root / "leftImg8bit" / "train" / "city" / f"city_{name}_leftImg8bit.png")
        Image.fromarray(mask + 7).save(root / "gtFine" / "train" / "city" / f"city_{name}_gtFine_labelIds.png")


WRITE = {"voc": _write_voc, "cityscapes": _write_cityscapes}

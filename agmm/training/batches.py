"""Batches of a training: augmented together from memory, or image by image by worker processes.

Either way the data of an epoch follow from the run's seed and the epoch's number, not from how many processes share the
work: under ``torchrun`` every process takes its share of the microbatches of each effective batch. An incomplete last
batch is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from agmm import evaluation, gmm, labels, losses
from agmm.codes import VOID
from agmm.data import augment
from agmm.data.split import Arrays
from agmm.evaluation import read_ahead
from agmm.objectives.common import Batch
from agmm.training.loop import mix, rank_and_world
from agmm.training.run import Run

IMAGENET = {"mean": evaluation.IMAGENET_MEAN, "std": evaluation.IMAGENET_STD}
ALL_AT_ONCE = ("dihedral", "crop_flip")
ONE_BY_ONE = tuple(augment.ONE_BY_ONE)
"""Augmentations of `agmm.data.augment`: of whole batches, and of single images by the released codes."""


def ahead(steps: Iterator[list[Batch]], num_classes: int, device: torch.device) -> Iterator[list[Batch]]:
    """The same batches with their components, on a GPU prepared while the step before is computed.

    To find the components of a batch is to wait for the GPU, but only for a stream of its own.
    """
    if device.type != "cuda":
        yield from steps
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(main)

    def prepare() -> list[Batch]:
        with torch.cuda.stream(side):
            step = next(steps, [])
            return [replace(micro, components=gmm.components(micro.labels, num_classes)) for micro in step]

    following = prepare()
    while step := following:
        main.wait_stream(side)
        for tensor in (tensor for micro in step for tensor in _tensors(micro)):
            tensor.record_stream(main)
        following = prepare()
        yield step


def _tensors(part: object) -> Iterator[Tensor]:
    """All tensors in a data class and the data classes in it."""
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))


def normalization(run: Run) -> dict[str, Any]:
    """Options of `evaluation.to_input` for a run's images."""
    return IMAGENET if run.normalize else {}


def steps(run: Run, images: int) -> int:
    """Steps per epoch; ValueError where there is none, or where the processes cannot share a step."""
    if images < run.batch_size:
        raise ValueError(f"{images} training images are fewer than one batch of {run.batch_size}")
    parts, world = run.batch_size // run.microbatch, rank_and_world()[1]
    if parts % world:
        raise ValueError(
            f"{world} processes cannot share the {parts} microbatches of a step evenly; start torchrun with a number "
            f"that divides {parts}, or choose a smaller microbatch than {run.microbatch}"
        )
    return images // run.batch_size


@dataclass
class InMemory:
    """A training split on its device: images (N, H, W, 3) and labels (N, H, W) uint8, image classes (N, K) bool.

    Labels may be those of `agmm.data.regions.with_regions`, here and below. ``mirrored`` as in
    `agmm.data.split.Split`, of the K classes.
    """

    run: Run
    images: Tensor
    labels: Tensor
    image_classes: Tensor
    mirrored: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """The microbatches of every step; each process draws the whole effective batch and keeps its share."""
        run, generator = self.run, torch.Generator().manual_seed(mix(self.run.seed, epoch))
        rank, world = rank_and_world()
        table = _table(self.mirrored, self.images.device)
        for index in _order(run, len(self), generator):
            index = index.to(self.images.device)
            images, sparse, classes = self.images[index], self.labels[index], self.image_classes[index]
            if run.augmentation == "crop_flip":
                assert run.crop is not None
                images, sparse, turned = augment.crop_flip(images, sparse, run.crop, generator)
            else:
                images, sparse, turned = augment.dihedral(images, sparse, generator)
            sparse, regions = _unpacked(sparse)
            if table is not None:
                sparse, classes = augment.exchange(sparse, classes, turned, table)
            counts = _counts(run, [sparse], classes.shape[1]) if run.loss_scope == "effective" else None
            inputs = evaluation.to_input(images, **normalization(run))
            parts = [tensor.split(run.microbatch) for tensor in (inputs, sparse, classes)]
            places = [None] * len(parts[0]) if regions is None else regions.split(run.microbatch)
            step = [Batch(i, s, c, counts, regions=r) for i, s, c, r in zip(*parts, places, strict=True)]
            yield step[rank::world]


class OneByOne:
    """A training split whose images are read and augmented one at a time, by worker processes where there is a GPU.

    Parameters
    ----------
    run : Run
    images, sparse : sequences of arrays
        See `agmm.data.split.Split` and `agmm.data.sets.weak_labels`.
    num_classes : int
        K.
    device : torch.device
        Where the batches go.
    classes : (N, K) bool array, optional
        Image classes; default: those of the labels of each whole image.
    mirrored : tuple of int, optional
        See `agmm.data.split.Split`.
    """

    def __init__(
        self,
        run: Run,
        images: Arrays,
        sparse: Arrays,
        num_classes: int,
        device: torch.device,
        classes: np.ndarray | None = None,
        mirrored: tuple[int, ...] | None = None,
    ) -> None:
        self.run, self.num_classes, self.device = run, num_classes, device
        self.table = _table(mirrored, device)
        self.order = _Microbatches(run, len(images))
        workers = read_ahead.readers(device)
        self.loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
            _Augmented(run, images, sparse, num_classes, classes),
            batch_sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own, so that it draws nothing from the one that drops channels
        )

    def __len__(self) -> int:
        return self.order.images

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """The microbatches of every step that are this process's share."""
        self.order.epoch = epoch
        parts = ([tensor.to(self.device, non_blocking=True) for tensor in part] for part in self.loader)
        return _shared_steps(self.run, parts, self.num_classes, self.table)


def _shared_steps(
    run: Run, parts: Iterator[list[Tensor]], num_classes: int, table: Tensor | None = None
) -> Iterator[list[Batch]]:
    """Steps from this process's microbatches of 8-bit images, labels, what is mirrored and image classes on the device.

    Classes are exchanged by the ``table``, if there is one.
    """
    while step := list(islice(parts, run.batch_size // run.microbatch // rank_and_world()[1])):
        codes = [_unpacked(part[1]) for part in step]
        sparse, named = [label for label, _ in codes], [part[3] for part in step]
        if table is not None:
            for number, part in enumerate(step):
                sparse[number], named[number] = augment.exchange(sparse[number], named[number], part[2], table)
        counts = _counts(run, sparse, num_classes, True) if run.loss_scope == "effective" else None
        yield [
            Batch(evaluation.to_input(part[0], **normalization(run)), label, classes, counts, regions=regions)
            for part, label, classes, (_, regions) in zip(step, sparse, named, codes, strict=True)
        ]


def _unpacked(codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """Labels, and the regions that `agmm.data.regions.with_regions` has put beside them, if it has."""
    if codes.dtype == torch.uint8:
        return codes.long(), None
    return (codes & 255).long(), (codes >> 8).long()


class _Augmented(Dataset[tuple[Tensor, ...]]):
    """(epoch, index) -> image (crop, crop, 3), labels (crop, crop), both uint8; mirrored, bool; image classes (K,)."""

    def __init__(
        self, run: Run, images: Arrays, sparse: Arrays, num_classes: int, classes: np.ndarray | None = None
    ) -> None:
        self.run, self.images, self.sparse, self.num_classes = run, images, sparse, num_classes
        self.classes = classes

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        epoch, index = key
        assert self.run.crop is not None
        image, sparse = self.images[index], self.sparse[index]
        classes = _image_classes(self.classes, index, sparse, self.num_classes)
        rng = _rng(self.run, epoch, index)
        picture, cut, turned = augment.ONE_BY_ONE[self.run.augmentation](image, sparse, self.run.crop, rng)
        return torch.from_numpy(picture), torch.from_numpy(cut), torch.tensor(turned), torch.from_numpy(classes)


def _image_classes(given: np.ndarray | None, index: int, sparse: np.ndarray, num_classes: int) -> np.ndarray:
    """Classes (K,) of an image: those that are given, else those of its labels."""
    return labels.image_classes(sparse & 255, num_classes) if given is None else given[index]


class _Microbatches(Sampler[list[tuple[int, int]]]):
    """Keys of `_Augmented`, a list per microbatch of this process."""

    def __init__(self, run: Run, images: int) -> None:
        self.run, self.images, self.epoch = run, images, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = rank_and_world()
        generator = torch.Generator().manual_seed(mix(self.run.seed, self.epoch))
        for index in _order(self.run, self.images, generator):
            for part in index.split(self.run.microbatch)[rank::world]:
                yield [(self.epoch, i) for i in part.tolist()]


def _table(mirrored: tuple[int, ...] | None, device: torch.device) -> Tensor | None:
    return None if mirrored is None else augment.mirror_table(mirrored, device)


def _rng(run: Run, epoch: int, index: int) -> np.random.Generator:
    """Source of all draws of one image in one epoch."""
    return np.random.default_rng((run.seed, epoch, index))


def _order(run: Run, images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of the images of every effective batch of an epoch."""
    order = torch.randperm(images, generator=generator)
    return order[: images // run.batch_size * run.batch_size].split(run.batch_size)


def _counts(run: Run, sparse: list[Tensor], num_classes: int, shared: bool = False) -> losses.Counts:
    """Divisors of the losses' means over the effective batch; ``shared``: the other processes hold the rest of it."""
    labeled = sum(((label >= 0) & (label < num_classes)).sum() for label in sparse)
    valid = sum((label != VOID).sum() for label in sparse)
    both = torch.stack([torch.as_tensor(labeled), torch.as_tensor(valid)])
    if shared and dist.is_initialized():
        dist.all_reduce(both)
    both = both.clamp_min(1) * (run.microbatch / run.batch_size)
    return losses.Counts(both[0], both[1])

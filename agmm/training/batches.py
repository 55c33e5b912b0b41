"""Batches of a training: augmented together from memory, or image by image by worker processes.

Either way the data of an epoch follow from the run's seed and the epoch's number, not from the number of processes:
under ``torchrun`` each takes its share of the microbatches of an effective batch. An incomplete last batch is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import agmm.labels
from agmm import evaluation, gmm, losses
from agmm.codes import VOID
from agmm.data import augment
from agmm.data.split import Arrays
from agmm.evaluation import predict
from agmm.objectives.common import Batch
from agmm.training.loop import mix, over_processes, rank_and_world
from agmm.training.run import Run

ALL_AT_ONCE = ("dihedral", "crop_flip")
ONE_BY_ONE = tuple(augment.ONE_BY_ONE)
"""Augmentations of `agmm.data.augment`: of whole batches, and of single images by the released codes."""


def ahead(steps: Iterator[list[Batch]], num_classes: int, device: torch.device) -> Iterator[list[Batch]]:
    """Yield the same batches with their components, on a GPU prepared while the step before is computed.

    Finding the components of a batch waits for the GPU, but only for a stream of its own.
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
    """Yield all tensors in a data class and the data classes in it."""
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))


def normalization(run: Run) -> evaluation.Normalization | None:
    """Return the normalization of a run's images."""
    return evaluation.IMAGENET if run.normalize else None


def steps(run: Run, images: int) -> int:
    """Return the steps per epoch; ValueError where there is none, or where the processes cannot share a step."""
    if images < run.batch_size:
        raise ValueError(f"{images} training images are fewer than one batch of {run.batch_size}")
    parts, world = run.batch_size // run.microbatch, rank_and_world()[1]
    if parts % world:
        raise ValueError(
            f"{world} processes cannot share the {parts} microbatches of a step evenly; start torchrun with a number "
            f"that divides {parts}, or choose a smaller microbatch than {run.microbatch} with --microbatch"
        )
    if run.from_tags and run.norm_scope == "effective" and parts != world:
        problem = f"with image tags and batch normalization over {run.batch_size} images"
        raise ValueError(f"{problem} each process takes one microbatch: start torchrun with {parts} processes")
    return images // run.batch_size


@dataclass
class InMemory:
    """A training split on its device, which is augmented an effective batch at a time.

    Images are (N, H, W, 3) uint8, labels (N, H, W) uint8 or those of `agmm.data.sets.with_regions`, image classes
    (N, K) bool; for ``mirrored`` see `agmm.data.split.Split`, here for the K classes.
    """

    run: Run
    images: Tensor
    labels: Tensor
    image_classes: Tensor
    mirrored: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the microbatches of every step; each process draws the whole effective batch and keeps its share."""
        run, generator = self.run, torch.Generator().manual_seed(mix(self.run.seed, epoch))
        rank, world = rank_and_world()
        table = None if self.mirrored is None else augment.mirror_table(self.mirrored, self.images.device)
        for index in _effective_batches(run, len(self), generator):
            index = index.to(self.images.device)
            images, labels = self.images[index], self.labels[index]
            if run.augmentation == "crop_flip":
                assert run.crop is not None
                images, labels, mirrored = augment.crop_flip(images, labels, run.crop, generator)
            else:
                images, labels, mirrored = augment.dihedral(images, labels, generator)
            tensors = images, labels, mirrored, self.image_classes[index]
            parts = list(zip(*(tensor.split(run.microbatch) for tensor in tensors), strict=True))
            yield _step(run, parts[rank::world], table)


class OneByOne:
    """A training split whose images are read and augmented one at a time, by worker processes where there is a GPU.

    Images and labels are as in `agmm.data.split.Split` and `InMemory`; batches go to ``device``. The image classes,
    (N, K) bool, are by default those of the labels of each whole image.
    """

    def __init__(
        self,
        run: Run,
        images: Arrays,
        labels: Arrays,
        num_classes: int,
        device: torch.device,
        image_classes: np.ndarray | None = None,
        mirrored: tuple[int, ...] | None = None,
    ) -> None:
        self.run, self.device = run, device
        self.table = None if mirrored is None else augment.mirror_table(mirrored, device)
        self.order = _Microbatches(run, len(images))
        workers = predict.readers(device)
        self.loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
            _Augmented(run, images, labels, num_classes, image_classes),
            batch_sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own, so that it draws nothing from the one that drops channels
        )

    def __len__(self) -> int:
        return self.order.images

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the microbatches of every step that are this process's share."""
        self.order.epoch = epoch
        parts = (tuple(tensor.to(self.device, non_blocking=True) for tensor in part) for part in self.loader)
        share = self.run.batch_size // self.run.microbatch // rank_and_world()[1]
        while step := list(islice(parts, share)):
            yield _step(self.run, step, self.table)


def _step(run: Run, parts: list[tuple[Tensor, ...]], table: Tensor | None) -> list[Batch]:
    """Return this process's microbatches of a step; classes that have a side are exchanged by the ``table``.

    Each part holds 8-bit images (B, H, W, 3), labels (B, H, W), which are mirrored (B,), and image classes (B, K).
    """
    step = []
    for images, codes, mirrored, image_classes in parts:
        labels, regions = _unpacked(codes)
        if table is not None:
            labels, image_classes = augment.exchange(labels, image_classes, mirrored, table)
        inputs = evaluation.to_input(images, normalization(run))
        step.append(Batch(inputs, labels, image_classes, counts=None, regions=regions))
    if run.loss_scope == "effective":
        counts = _counts(run, step)
        step = [replace(micro, counts=counts) for micro in step]
    return step


def _counts(run: Run, step: list[Batch]) -> losses.Counts:
    """Return the divisors of the losses' means over the effective batch, which all processes hold together."""
    num_classes = step[0].image_classes.shape[1]
    labeled = torch.stack([((micro.labels >= 0) & (micro.labels < num_classes)).sum() for micro in step]).sum()
    valid = torch.stack([(micro.labels != VOID).sum() for micro in step]).sum()
    both = over_processes(torch.stack([labeled, valid])).clamp_min(1) * (run.microbatch / run.batch_size)
    return losses.Counts(both[0], both[1])


def _unpacked(codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return labels, and the regions that `agmm.data.sets.with_regions` has put beside them, if it has."""
    if codes.dtype == torch.uint8:
        return codes.long(), None
    return (codes & 255).long(), (codes >> 8).long()


@dataclass(eq=False)
class _Augmented(Dataset[tuple[Tensor, ...]]):
    """(epoch, index) -> image (crop, crop, 3), labels (crop, crop), whether they are mirrored, image classes (K,)."""

    run: Run
    images: Arrays
    labels: Arrays
    num_classes: int
    image_classes: np.ndarray | None

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        run, (epoch, index) = self.run, key
        assert run.crop is not None
        image, labels = self.images[index], self.labels[index]
        if self.image_classes is None:
            image_classes = agmm.labels.image_classes(labels & 255, self.num_classes)
        else:
            image_classes = self.image_classes[index]
        rng = np.random.default_rng((run.seed, epoch, index))  # source of all draws of an image in an epoch
        image, labels, mirrored = augment.ONE_BY_ONE[run.augmentation](image, labels, run.crop, rng)
        return *map(torch.from_numpy, (image, labels)), torch.tensor(mirrored), torch.from_numpy(image_classes)


@dataclass(eq=False)
class _Microbatches(Sampler[list[tuple[int, int]]]):
    """Keys of `_Augmented`, a list per microbatch of this process."""

    run: Run
    images: int
    epoch: int = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = rank_and_world()
        generator = torch.Generator().manual_seed(mix(self.run.seed, self.epoch))
        for index in _effective_batches(self.run, self.images, generator):
            for part in index.split(self.run.microbatch)[rank::world]:
                yield [(self.epoch, i) for i in part.tolist()]


def _effective_batches(run: Run, images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    order = torch.randperm(images, generator=generator)
    return order[: images // run.batch_size * run.batch_size].split(run.batch_size)

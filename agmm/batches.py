"""Batches of a training: augmented together from memory, or image by image by worker processes that read them.

Either way the data of an epoch follow from the run's seed and the epoch's number, not from how many processes share the
work: under ``torchrun`` every process takes its share of the microbatches of each effective batch. An incomplete last
batch is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from agmm import evaluation, labels, losses, reading
from agmm.data import Arrays, augment
from agmm.labels import VOID
from agmm.loop import Batch, mix, rank_and_world
from agmm.runs import Run

IMAGENET = {"mean": evaluation.IMAGENET_MEAN, "std": evaluation.IMAGENET_STD}
ALL_AT_ONCE = ("dihedral", "crop_flip")
ONE_BY_ONE = ("official", "official_color")
"""Augmentations of `agmm.data.augment`: of whole batches, and of single images by the released code."""


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
    """A training split on its device: images (N, H, W, 3) and labels (N, H, W) uint8, image classes (N, K) bool."""

    run: Run
    images: Tensor
    labels: Tensor
    image_classes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """The microbatches of every step; each process draws the whole effective batch and keeps its share."""
        run, generator = self.run, torch.Generator().manual_seed(mix(self.run.seed, epoch))
        rank, world = rank_and_world()
        for index in _order(run, len(self), generator):
            index = index.to(self.images.device)
            images, sparse, classes = self.images[index], self.labels[index], self.image_classes[index]
            if run.augmentation == "crop_flip":
                assert run.crop is not None
                images, sparse = augment.crop_flip(images, sparse, run.crop, generator)
            else:
                images, sparse = augment.dihedral(images, sparse, generator)
            sparse = sparse.long()
            counts = _counts(run, [sparse], classes.shape[1]) if run.loss_scope == "effective" else None
            inputs = evaluation.to_input(images, **normalization(run))
            parts = zip(*(tensor.split(run.microbatch) for tensor in (inputs, sparse, classes)), strict=True)
            yield [Batch(i, s, c, counts) for i, s, c in list(parts)[rank::world]]


class OneByOne:
    """A training split whose images are read and augmented one at a time, by worker processes where there is a GPU.

    Parameters
    ----------
    run : Run
    images, sparse : sequences of arrays
        See `agmm.data.Split` and `agmm.data.sets.weak_labels`.
    num_classes : int
        K.
    device : torch.device
        Where the batches go.
    """

    def __init__(
        self,
        run: Run,
        images: Arrays,
        sparse: Arrays,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.run, self.num_classes, self.device = run, num_classes, device
        self.order = _Microbatches(run, len(images))
        workers = reading.readers(device)
        self.loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
            _Augmented(run, images, sparse, num_classes),
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
        run, parts = self.run, iter(self.loader)
        while step := list(islice(parts, run.batch_size // run.microbatch // rank_and_world()[1])):
            batch = [[tensor.to(self.device, non_blocking=True) for tensor in part] for part in step]
            sparse = [part[1].long() for part in batch]
            counts = _counts(run, sparse, self.num_classes, True) if run.loss_scope == "effective" else None
            yield [
                Batch(evaluation.to_input(images, **normalization(run)), label, classes, counts)
                for (images, _, classes), label in zip(batch, sparse, strict=True)
            ]


class _Augmented(Dataset[tuple[Tensor, ...]]):
    """(epoch, index) -> image (crop, crop, 3) and labels (crop, crop) uint8, classes of the whole image (K,) bool."""

    def __init__(self, run: Run, images: Arrays, sparse: Arrays, num_classes: int) -> None:
        self.run, self.images, self.sparse, self.num_classes = run, images, sparse, num_classes

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        epoch, index = key
        assert self.run.crop is not None
        image, sparse = self.images[index], self.sparse[index]
        classes = labels.image_classes(sparse, self.num_classes)
        rng = np.random.default_rng((self.run.seed, epoch, index))
        color = self.run.augmentation == "official_color"
        cut = augment.official(image, sparse, self.run.crop, rng, color=color)
        return *(torch.from_numpy(array) for array in cut), torch.from_numpy(classes)


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

"""Data sets: what a training needs from one, whichever it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

import numpy as np

from agmm.labels import Boxes

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class OnDemand(Sequence[T], Generic[T]):
    """Arrays that are read or made when they are asked for, because all of them are too large for memory."""

    read: Callable[[Any], T]  # returns the array (or boxes) of a key; can be pickled, for other processes
    keys: Sequence[Any]  # one per array: paths, as a rule

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> "OnDemand[T]": ...

    def __getitem__(self, index: int | slice) -> "T | OnDemand[T]":
        if isinstance(index, slice):
            return OnDemand(self.read, self.keys[index])
        return self.read(self.keys[index])


Arrays = np.ndarray | Sequence[np.ndarray]  # one array of equal images, or a sequence of images of any size


@dataclass(frozen=True)
class Published:
    """Sparse labels that came as files, as opposed to simulated ones."""

    form: str  # the form of `agmm.labels` that they are: "points", "scribbles" …
    name: str  # short name, by which a run can insist on them
    description: str  # for records and captions
    maps: Sequence[np.ndarray]  # 0 … K-1, ``UNLABELED`` or ``VOID``, an (H, W) uint8 map per image of the split
    drawn: Mapping[str, Any] = field(default_factory=dict)
    """Options of the form with which they were drawn, as ``ratio``; who asks for others gets simulated ones."""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    dataset: str  # its name, part of the seed of every simulated label
    class_names: tuple[str, ...]  # of the K classes, in the order of their codes
    ids: tuple[str, ...]  # a name per image
    images: Arrays  # RGB, (H, W, 3) uint8: one array when all have one size and fit into memory, else `OnDemand`
    truth: Arrays
    """Dense masks (H, W) uint8, 0 … K-1 or ``VOID``: to evaluate and to simulate sparse labels, never in a loss."""
    background: int | None  # code of the class "background", None where every class is a thing or stuff of its own
    instances: Arrays | None = None  # objects of an image, (H, W) uint8: 0 or ``VOID`` for none, 1, 2 …
    published: tuple[Published, ...] = ()  # sparse labels found beside the images, those preferred of each form first
    boxes: Sequence[Boxes] | None = None  # annotated boxes of every image; None where they are to be simulated
    cams: Sequence[Mapping[int, np.ndarray]] | None = None
    """Class activation maps (`agmm.data.public.label_files.read_cams`) for forms of `agmm.labels.from_boxes` that need
    them, made by `agmm.training.pseudo_labels.with_cams`; others are given with `dataclasses.replace`."""
    cams_from: str = ""  # what made them, in a few words: part of the name under which labels made of them are kept
    regions: Arrays | None = None  # published ones (`agmm.data.sets.regions`), (H, W) uint8, numbers 0 … 254
    mirrored: tuple[int, ...] | None = None
    """Where classes have a side, as the hands of people do: the class of each in the mirror image. Whatever mirrors an
    image must exchange its classes too (`agmm.data.augment.exchange`)."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def first(self, count: int) -> "Split":
        """Return the first images of the split with everything that belongs to them."""
        names = ("ids", "images", "truth", "instances", "boxes", "cams", "regions")
        parts = {name: getattr(self, name)[:count] for name in names if getattr(self, name) is not None}
        published = tuple(replace(one, maps=one.maps[:count]) for one in self.published)
        return replace(self, published=published, **parts)

"""Data sets: what a training needs from one, whichever it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np

from agmm.labels import Boxes

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class OnDemand(Sequence[T], Generic[T]):
    """Arrays that are read or made when they are asked for, because all of them are too large for memory.

    Attributes
    ----------
    read : callable
        ``read(key)`` returns an array (or the boxes of an image); it can be pickled, for other processes.
    keys : sequence
        One key per array: paths, as a rule.
    """

    read: Callable[[Any], T]
    keys: Sequence[Any]

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


Arrays = np.ndarray | Sequence[np.ndarray]
"""One array of equal images, or a sequence of images of any size."""


@dataclass(frozen=True)
class Published:
    """Sparse labels that came as files, as opposed to simulated ones.

    Attributes
    ----------
    form : str
        The form of `agmm.labels` that they are: ``"points"``, ``"scribbles"`` …
    name : str
        Short name, by which a run can insist on them.
    description : str
        For records and captions.
    maps : sequence of (H, W) uint8 arrays
        0 … K-1, ``UNLABELED`` or ``VOID``, one map per image of the split.
    drawn : mapping of str to object
        Options of the form with which they were drawn, such as the ``ratio`` of blocks: who asks for others gets
        simulated ones.
    """

    form: str
    name: str
    description: str
    maps: Sequence[np.ndarray]
    drawn: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    dataset : str
        Name of the data set, part of the seed of every simulated label.
    class_names : tuple of str
        Names of the K classes, in the order of their codes.
    ids : tuple of str
        One name per image.
    images : sequence of (H, W, 3) uint8 arrays
        RGB images; one (N, H, W, 3) array when all have one size and fit into memory, else `OnDemand`.
    truth : sequence of (H, W) uint8 arrays
        Dense masks, 0 … K-1 or ``VOID``. For evaluation and for simulating sparse labels; never used in a loss.
    background : int or None
        Code of the class that means "background", None where every class is a thing or stuff of its own.
    instances : sequence of (H, W) uint8 arrays, optional
        Object masks: 0 or ``VOID`` for none, 1, 2 … for the objects of an image.
    published : tuple of Published
        Sparse labels found beside the images, those preferred of each form first.
    boxes : sequence of Boxes, optional
        Annotated boxes, one `agmm.labels.Boxes` per image; None where they are to be simulated.
    cams : sequence of dict, optional
        Class activation maps for the forms of `agmm.labels.from_boxes` that need them, see
        `agmm.data.public.label_files.read_cams`. No data set comes with them: `agmm.training.pseudo_labels.with_cams`
        makes them, others are given with `dataclasses.replace`.
    cams_from : str
        What made them, in a few words: part of the name under which labels made of them are kept.
    regions : sequence of (H, W) uint8 arrays, optional
        Published over-segmentation of the images, numbered 0 … 254 (see `agmm.data.regions`).
    mirrored : tuple of int, optional
        Where classes have a side, as the hands of people do: the class of each in the mirror image. Whatever mirrors
        an image must exchange its classes too (`agmm.data.augment.exchange`).
    """

    dataset: str
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    images: Arrays
    truth: Arrays
    background: int | None
    instances: Arrays | None = None
    published: tuple[Published, ...] = ()
    boxes: Sequence[Boxes] | None = None
    cams: Sequence[Mapping[int, np.ndarray]] | None = None
    cams_from: str = ""
    regions: Arrays | None = None
    mirrored: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

"""A public data set as a record: its classes, where its files lie, and which sparse labels were published for it.

Published labels with one file per image lie in folders that are named after form and publisher
(``scribbles/scribblesup``, ``blocks/tel_ade20k/block10`` …), because the same code means different things to different
publishers and no file says whose it is; or where the archives of AGMM's authors put them.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.codes import UNLABELED, VOID
from agmm.data import image_files
from agmm.data.image_files import Pair
from agmm.data.split import Arrays, OnDemand, Published, Split

MOST_REGIONS = 255  # of an image; a region fits into eight bits beside a label
LEAST_ANNOTATED = 0.99  # share of the images for which published labels must say anything
AT_AGMM = "linked in the README of AGMM-SASS"  # where the labels of AGMM's authors are to be had


def codes(classes: Iterable[int], *, unlabeled: Iterable[int] = (), void: Iterable[int] = ()) -> dict[int, int]:
    """Return our code for every value of a publisher's masks, whose ``classes`` are the values of classes 0, 1 …"""
    return {
        **dict.fromkeys(unlabeled, UNLABELED),
        **dict.fromkeys(void, VOID),
        **{value: code for code, value in enumerate(classes)},
    }


def png(codes: Mapping[int, int]) -> Callable[..., np.ndarray]:
    """Return a reader of PNG files with these codes, for a `Source`."""
    return partial(image_files.read_mask, codes=codes)


@dataclass(frozen=True)
class Source:
    """Sparse labels of one publisher; form, name, description and drawn are as in `agmm.data.split.Published`."""

    form: str
    name: str
    description: str
    read: Callable[..., np.ndarray]  # read(path, size=(H, W)) returns the labels of an image in our codes
    folder: str = "."  # where they lie in the folder form/name, subfolders included
    suffix: str = ".png"  # ending of their files
    drawn: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[str] = ()  # patterns of the files below a data root, as their authors' archives have them
    home: str = ""  # where the files are to be had

    def files(self, root: Path) -> tuple[Path, list[Path]] | None:
        """Return the folder of the labels below a data root, and their files; None where there is no folder."""
        folder = root / self.form / self.name / self.folder
        if folder.is_dir():
            return folder, sorted(folder.rglob(f"[!.]*{self.suffix}"))
        found = ((root / _folder(pattern), sorted(root.glob(pattern))) for pattern in self.also)
        return next((there for there in found if there[1]), None)

    def find(self, root: Path, images: Sequence[Path], key: Callable[[Path], str]) -> Published | None:
        """Find the labels of the training images below a data root, None where their folder is missing."""
        if (there := self.files(root)) is None:
            return None
        folder, files = there
        paths: dict[str, Path] = {}
        for path in files:
            if key(path) in paths:
                raise ValueError(f"{path}: labels of the same image as {paths[key(path)].name}; keep one of them")
            paths[key(path)] = path
        files = image_files.of_images(images, paths, folder, self.form, self.suffix, key)
        maps = OnDemand(partial(_read_label, self.read), list(zip(images, files, strict=True)))
        description = f"{self.description} ({folder.relative_to(root).as_posix()}/)"
        return Published(self.form, self.name, description, maps, self.drawn)

    @property
    def places(self) -> str:
        """Folders below a data root in which the labels are looked for, and whose they are."""
        own = (Path(self.form) / self.name / self.folder).as_posix()
        about = f"{self.description}; {self.home}" if self.home else self.description
        return f"{' or '.join([*map(_folder, self.also[:1]), own])} ({about})"


def _folder(pattern: str) -> str:
    return pattern.partition("*")[0].partition("[")[0].rstrip("/")


def _read_label(read: Callable[..., np.ndarray], two: Pair) -> np.ndarray:
    image, path = two
    return read(path, size=image_files.read_size(image))


def _read_regions(path: Path, size: tuple[int, int]) -> np.ndarray:
    numbers = image_files.read_index(path, size)
    if numbers.max() >= MOST_REGIONS:
        most = f"which stands for padding; number its regions 0 … {MOST_REGIONS - 1}"
        raise ValueError(f"{path} holds the region {numbers.max()}, {most}")
    return numbers


REGIONS = Source("regions", "spml", "over-segmentations published by the authors of SPML", _read_regions)
"""Regions of trained edge detectors, HED on VOC and PMI on DensePose (`agmm.data.sets.regions`)."""


def tel_blocks(name: str, codes: Mapping[int, int]) -> tuple[Source, ...]:
    """Return the blocks of the tree energy loss (Liang et al. 2022): 10, 20 and 50 % of the pixels, a folder each."""
    about = "blocks of {} % published by the authors of the tree energy loss"
    drawn = {percent: {"ratio": percent / 100, "shape": "interior"} for percent in (10, 20, 50)}
    folders = {percent: f"block{percent}" for percent in drawn}
    return tuple(
        Source("blocks", name, about.format(n), png(codes), folder, ".png", drawn[n], (f"{folder}/**/[!.]*.png",))
        for n, folder in folders.items()
    )


@dataclass(frozen=True)
class DataSet:
    """A data set that is read from a folder of the user's; background and mirrored are as in `Split`."""

    name: str  # as runs and commands call it; part of the seed of every simulated label
    title: str  # its name in text
    class_names: tuple[str, ...]  # in the order of their codes
    codes: Mapping[int, int]  # our code for every value of its masks (see `codes`)
    counts: Mapping[str, int]  # published number of images of each split; "train" and "val" at least
    pairs: Callable[[Path, str], list[Pair]]
    """``pairs(root, split)`` returns the files of images and masks, those included that should be there; a
    FileNotFoundError need only say what there is not."""
    how_to_get: str  # what the root must hold, and how to get it; {root} stands for the root
    background: int | None = None
    key: Callable[[Path], str] = attrgetter("stem")  # id of an image from its path, or that of its published labels
    sources: Sequence[Source] = ()  # published labels of the training images, those preferred of each form first
    regions: bool = False  # whether `REGIONS` of the training images were published
    mirrored: tuple[int, ...] | None = None
    extend: Callable[[Split, Sequence[Path], Path, str], Split] | None = None
    """``extend(data, images, root, split)`` adds to a split what no other field says, such as objects."""
    other_codes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Codes of masks whose names end in another way, by that ending; all masks of a split end alike."""
    in_memory: bool = False  # read at once and brought to one size if wanted; else images are read when asked for
    in_papers: bool = True  # whether the papers' numbers were measured on it

    def load(self, root: str | Path, split: str, size: tuple[int, int] | None = None) -> Split:
        """Find the files of one split below ``root``, and read them if the data set is kept in memory.

        ``size`` (H, W) is what they are resized to then, images bilinear, masks nearest; None keeps the files' size.
        There is a warning if the number of images is not the published one. FileNotFoundError if a folder is missing or
        empty. ValueError if there is no such split, an image or mask lacks its partner, published labels are
        incomplete, a file that is read at once is damaged, or a ``size`` is asked for where images are read on demand.
        """
        if size is not None and not self.in_memory:
            raise ValueError(f"{self.title} is read at its own size; leave image_size out and choose a crop")
        pairs, place = self._files(Path(root), split), f"{self.title} {split} in {root}"
        if len(pairs) != self.counts[split]:
            warnings.warn(f"{place} has {len(pairs)} images, not {self.counts[split]}", stacklevel=2)
        data = self._split(Path(root), split, pairs)
        if self.in_memory:
            images, truth = _read_all(pairs, self._codes(pairs), size, place)
            return replace(data, images=images, truth=truth)
        folders = {path.parent for two in pairs for path in two}
        there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
        problems = [f"{image}: an image without its mask {mask}" for image, mask in pairs if mask not in there]
        problems += [f"{mask}: a mask without its image {image}" for image, mask in pairs if image not in there]
        image_files.raise_if_bad(problems, f"{place} is incomplete, complete it or extract its archives again")
        return data

    def check(self, root: str | Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
        """Read every file of the splits once: one sentence per problem; missing folders raise as in `load`."""
        problems: list[str] = []
        for split in splits:
            pairs = self._files(Path(root), split)
            readable = []  # the images whose labels can be looked at
            for i, (image, _, found) in enumerate(image_files.read_pairs(pairs, self._codes(pairs))):
                problems += found
                readable += [i] if image is not None else []
            data = self._split(Path(root), split, pairs)
            for labels in data.published:
                problems += _check_published(labels, readable)
            for files in (data.instances, data.boxes, data.regions):
                problems += [] if files is None else _read_each(files, readable)[1]
        return problems

    def missing(self, what: str, root: Path) -> FileNotFoundError:
        """Return the error that something is not there, with what to do about it."""
        return FileNotFoundError(f"{self.title}: {what}; {self.how_to_get.replace('{root}', str(root))}")

    def _files(self, root: Path, split: str) -> list[Pair]:
        if split not in self.counts:
            raise ValueError(f"{self.title}: unknown split {split!r}, choose one of {', '.join(self.counts)}")
        try:
            pairs = self.pairs(root, split)
        except FileNotFoundError as error:
            raise self.missing(str(error), root) from None
        if not pairs:
            raise self.missing(f"no images of {split}", root)
        return pairs

    def _codes(self, pairs: Sequence[Pair]) -> Mapping[int, int]:
        name = pairs[0][1].name
        return next((codes for ending, codes in self.other_codes.items() if name.endswith(ending)), self.codes)

    def _split(self, root: Path, split: str, pairs: Sequence[Pair]) -> Split:
        images, masks = ([two[i] for two in pairs] for i in (0, 1))
        training = split == "train"
        published = [source.find(root, images, self.key) for source in self.sources if training]
        numbered = REGIONS.find(root, images, self.key) if training and self.regions else None
        data = Split(
            dataset=self.name,
            class_names=self.class_names,
            ids=tuple(map(self.key, images)),
            images=OnDemand(image_files.read_image, images),
            truth=OnDemand(partial(image_files.read_mask, codes=self._codes(pairs)), masks),
            background=self.background,
            published=tuple(labels for labels in published if labels is not None),
            regions=None if numbered is None else numbered.maps,
            mirrored=self.mirrored,
        )
        return data if self.extend is None else self.extend(data, images, root, split)


def in_folders(image_folder: Path, mask_folder: Path) -> list[Pair]:
    """Return images and masks of equal stem, sorted; where one partner is missing, the path where it should be."""
    for folder in (image_folder, mask_folder):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    images: dict[str, Path] = {}
    for path in image_files.visible(image_folder, image_files.IMAGE_SUFFIXES):
        if path.stem in images:
            raise ValueError(f"{path}: a second image beside {images[path.stem].name}; keep one of them")
        images[path.stem] = path
    masks = {path.stem: path for path in image_files.visible(mask_folder, (".png",))}
    both = sorted(images.keys() | masks.keys())
    return [(images.get(s, image_folder / f"{s}.png"), masks.get(s, mask_folder / f"{s}.png")) for s in both]


def _read_all(
    pairs: Sequence[Pair], codes: Mapping[int, int], size: tuple[int, int] | None, place: str
) -> tuple[np.ndarray, np.ndarray]:
    images = truth = np.empty(0, np.uint8)  # allocated once the size is known
    problems: list[str] = []
    for i, (image, mask, found) in enumerate(image_files.read_pairs(pairs, codes)):
        problems += found
        if problems or image is None or mask is None:
            continue
        if size is not None:
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        if i == 0:
            images, truth = (np.empty((len(pairs), *array.shape), np.uint8) for array in (image, mask))
        if image.shape != images.shape[1:]:
            problems.append(f"{pairs[i][0]}: not of the first image's size; choose one size for all")
            continue
        images[i], truth[i] = image, mask
    image_files.raise_if_bad(problems, place)
    return images, truth


def _read_each(
    files: Arrays | Sequence[Any], indices: Sequence[int], summary: Callable[[Any], Any] = lambda _: None
) -> tuple[list[Any], list[str]]:
    """Read labels of some images: a summary of each, as all may be too large for memory, and one sentence a problem."""
    read, problems = [], []
    for index in indices:
        try:
            read.append(summary(files[index]))
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    return read, problems


def _check_published(labels: Published, indices: Sequence[int]) -> list[str]:
    """Read labels of some images: one sentence per problem, one more where too many annotate nothing."""
    counts, problems = _read_each(labels.maps, indices, count_pixels)
    empty = sum(not labeled for labeled, _, _ in counts)
    if empty > (1 - LEAST_ANNOTATED) * len(counts):
        what = f"{empty} of {len(counts)} labels of {labels.name!r}"
        problems.append(f"{what} annotate nothing; check codes and folder")
    if problem := dense_labels(labels, counts):
        problems.append(problem)
    return problems


def count_pixels(label: np.ndarray) -> tuple[int, int, int]:
    """Return the numbers of labeled, unlabeled and void pixels of a label (H, W)."""
    unlabeled, void = int((label == UNLABELED).sum()), int((label == VOID).sum())
    return label.size - unlabeled - void, unlabeled, void


def dense_labels(labels: Published, counts: Sequence[tuple[int, int, int]]) -> str:
    """Return what is wrong with sparse labels that leave too little unlabeled, given `count_pixels` of some; else "".

    Their files then mean "unlabeled" by the code of void, which no loss sees. No point, scribble or click covers an
    image, but blocks may: the interior of an image of one class is the whole image.
    """
    dense = sum(unlabeled <= void for _, unlabeled, void in counts)
    if labels.form == "boxes" or dense <= (len(counts) // 2 if labels.form == "blocks" else 0):
        return ""
    what = f"{dense} of {len(counts)} labels of {labels.name!r} leave no pixel unlabeled, or fewer than are void"
    remedy = "write their publisher's code of unlabeled pixels there (AGMM's authors have 21 on VOC, 19 on Cityscapes)"
    return f"{what}, as if 255 stood for unlabeled; {remedy}"

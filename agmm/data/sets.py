"""Data sets by name, and their simulated sparse labels."""

import hashlib
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm import labels, storage
from agmm.data import Arrays, OnDemand, Published, Split, camvid, cityscapes, label_files, shapes, streets, voc

EMBEDDED = {"shapes": shapes.make, "crowds": shapes.make_crowds, "streets": streets.make}
FOLDERS = {"camvid": "CamVid", "voc": "PASCAL VOC", "cityscapes": "Cityscapes"}
"""Data sets that are read from a folder of the user's."""

PAPERS = ("voc", "cityscapes")
"""Those that the papers' numbers were measured on."""

LABELS_VERSION = 1
"""Raised whenever `agmm.labels` draws otherwise, so that labels kept on disk are made again."""

PUBLISHED_AS = {"width": 3, "length": 1.0}
"""How published labels are drawn; whoever asks for other strokes gets simulated ones."""


def class_names(dataset: str) -> tuple[str, ...]:
    """Names of a data set's classes, in the order of their codes, without reading it."""
    names = {
        "shapes": shapes,
        "crowds": shapes,
        "streets": streets,
        "camvid": camvid,
        "voc": voc,
        "cityscapes": cityscapes,
    }
    return names[dataset].CLASS_NAMES


def load(
    dataset: str,
    split: str,
    *,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    data_root: str | Path | None = None,
    cache: Path | None = None,
) -> Split:
    """One split of a data set.

    Parameters
    ----------
    dataset : {"shapes", "streets", "camvid", "voc", "cityscapes"}
    split : str
        ``"train"``, ``"test"`` and, for shapes, ``"pretrain"``; the test split of all others is their val.
    count : int, optional
        Number of images of an embedded data set.
    size : (H, W), optional
        Size that the images of CamVid are brought to; VOC and Cityscapes are read at their own.
    data_root : path, optional
        See `folder`; the embedded ones need none.
    cache : Path, optional
        Folder for generated data.

    Raises
    ------
    ValueError
        If a data root is needed and missing, if the data set is unknown or has no such split.
    """
    if dataset == "streets" and split == "pretrain":
        raise ValueError("streets has no images for tag pretraining, as nearly every image holds every class")
    if dataset in EMBEDDED:
        if count is None:
            raise ValueError("an embedded data set needs a number of images")
        return EMBEDDED[dataset](split, count, seed=0, cache=cache)
    if dataset not in FOLDERS:
        raise ValueError(f"unknown data set {dataset!r}; known: {', '.join((*EMBEDDED, *FOLDERS))}")
    title = FOLDERS[dataset]
    if split == "pretrain":
        raise ValueError(f"{title} has no images for tag pretraining; use init='scratch' or 'imagenet'")
    root, part = folder(dataset, data_root), {"train": "train", "test": "val"}[split]
    if dataset == "camvid":
        return camvid.load(root, part, size=size)
    if size is not None:
        raise ValueError(f"{title} is read at its own size; leave image_size out and choose a crop")
    return voc.load(root, part) if dataset == "voc" else cityscapes.load(root, part)


def folder(dataset: str, data_root: str | Path | None) -> Path:
    """Folder of a data set: ``<data_root>/<dataset>`` where there is one, so that several fit below a root."""
    if not data_root:
        raise ValueError(
            f"{FOLDERS[dataset]} is read from a folder of yours: name it with --data-root (or data_root=…)"
        )
    below = Path(data_root) / dataset
    return below if below.is_dir() else Path(data_root)


def check(dataset: str, data_root: str | Path | None, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of a data set once: one sentence per problem, none for the embedded ones."""
    modules = {"camvid": camvid, "voc": voc, "cityscapes": cityscapes}
    return modules[dataset].check(folder(dataset, data_root), splits) if dataset in FOLDERS else []


def weak_labels(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> Arrays:
    """The weak labels of a split, in memory (`sparse_labels`) or on demand (`labels_on_demand`) as its images are."""
    if form == "tags":
        return unlabeled(split)
    read = labels_on_demand if isinstance(split.images, OnDemand) else sparse_labels
    return read(split, form, options, seed, cache)


def unlabeled(split: Split) -> Arrays:
    """Maps without any label, for images of which only the tags are known (`image_tags`)."""
    if isinstance(split.truth, np.ndarray):
        return np.full_like(split.truth, labels.UNLABELED)
    return OnDemand(partial(_unlabeled, split.truth), range(len(split)))


def image_tags(split: Split, min_share: float = 0.0, cache: Path | None = None) -> np.ndarray:
    """Tags of every image from its dense mask, see `agmm.labels.image_tags`.

    Parameters
    ----------
    split : Split
    min_share : float
        Share of an image that a class must cover.
    cache : Path, optional
        Folder for the tags of data sets on disk.

    Returns
    -------
    (N, K) bool
        The background, if there is one, belongs to every image.
    """
    tags = np.stack([labels.image_tags(mask, split.num_classes, min_share) for mask in split.truth])
    if split.background is not None:
        tags[:, split.background] = True
    return tags


def sparse_labels(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> np.ndarray:
    """Simulate the sparse labels of every image of a split in memory.

    The labels of an image depend on ``seed``, the data set, the image's id, form and options only; options that nest
    (the number of clicks, the length of scribbles) share their random numbers.

    Returns
    -------
    (N, H, W) uint8
    """
    if isinstance(split.truth, OnDemand):
        raise ValueError(f"the {len(split)} images of {split.dataset} stay on disk; use labels_on_demand")
    _published(split, form, options)  # raises where files are insisted on, which no data set in memory has
    key = json.dumps([split.dataset, split.ids, split.truth[0].shape, form, options, seed])
    name = f"labels-{split.dataset}-{form}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.npy"
    if cache is not None and (cache / name).exists():
        return np.load(cache / name)
    simulated = np.stack([_simulate(split, form, options, seed, i) for i in range(len(split))])
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, simulated)
        storage.write(cache / name, buffer.getvalue())
    return simulated


def labels_on_demand(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> Arrays:
    """The sparse labels of every image of a split, read or simulated when asked for.

    Parameters
    ----------
    split : Split
    form, options
        As in `agmm.labels.simulate`. A further option ``source`` is ``"auto"`` (the default: published labels where the
        split has them, else simulated ones), ``"published"``, ``"simulated"``, or the name of a publisher.
    seed : int
        Of simulated labels.
    cache : Path, optional
        Folder in which simulated labels are kept, a PNG per image.

    Returns
    -------
    sequence of (H, W) uint8 arrays
        One per image; what they are says `label_source`.

    Raises
    ------
    ValueError
        If published labels are insisted on and there are none.
    """
    if (published := _published(split, form, options)) is not None:
        return published.maps
    if form == "full":
        return split.truth
    folder = None
    if cache is not None:
        described = {"dataset": split.dataset, "form": form, "options": _without_source(options), "seed": seed}
        described |= {"objects": split.instances is not None, "version": LABELS_VERSION}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:10]
        folder = cache / f"labels-{split.dataset}-{form}-{seed}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        storage.write_json(folder / "labels.json", described)
    return OnDemand(partial(_kept, split, form, options, seed, folder), range(len(split)))


def label_source(split: Split, form: str, options: dict[str, Any]) -> str:
    """Where the labels of a split come from, in words for records and captions."""
    if form == "tags":
        return "image tags from dense masks"
    if (published := _published(split, form, options)) is not None:
        return f"published: {published.description}"
    if form == "full":
        return "dense masks"
    return "simulated from dense masks" + (" and objects" if split.instances is not None else "")


def _published(split: Split, form: str, options: dict[str, Any]) -> Published | None:
    """The labels to be read from files, None where they are to be simulated."""
    wanted = options.get("source", "auto")
    drawn_alike = all(options.get(name, value) == value for name, value in PUBLISHED_AS.items())
    for found in split.published:
        if drawn_alike and found.form == form and wanted in ("auto", "published", found.name):
            return found
    if wanted in ("auto", "simulated"):
        return None
    there = ", ".join(found.name for found in split.published if found.form == form)
    raise ValueError(
        f"{form} with {options} are asked for, but published files of {split.dataset} hold {there or 'no ' + form}, "
        "3 pixels wide and whole; put the files below the data root or ask for source='simulated'"
    )


def _kept(split: Split, form: str, options: dict[str, Any], seed: int, folder: Path | None, index: int) -> np.ndarray:
    """Simulated labels of one image, from its file if there is a sound one."""
    if folder is None:
        return _simulate(split, form, options, seed, index)
    path = folder / f"{split.ids[index]}.png"
    try:
        return label_files.read_index(path)
    except (FileNotFoundError, ValueError):
        simulated = _simulate(split, form, options, seed, index)
    label_files.write_index(path, simulated)
    return simulated


def _unlabeled(truth: Arrays, index: int) -> np.ndarray:
    return np.full_like(truth[index], labels.UNLABELED)


def _simulate(split: Split, form: str, options: dict[str, Any], seed: int, index: int) -> np.ndarray:
    return labels.simulate(
        form,
        split.truth[index],
        labels.generator(seed, split.dataset, split.ids[index], form),
        instances=None if split.instances is None else split.instances[index],
        background=split.background,
        **_without_source(options),
    )


def _without_source(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "source"}

"""CamVid in the SegNet form: 480 x 360 road scenes with 11 classes, read into memory whole."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.split import Split

CLASS_NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "signsymbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
COUNTS = {"train": 367, "val": 101, "test": 233}

_CODES = {**{k: k for k in range(len(CLASS_NAMES))}, 11: VOID}
_LAYOUT = "train/, trainannot/, val/ and valannot/ with PNG or JPEG images and 8-bit PNG masks of the same names"


def load(root: Path, split: str, *, size: tuple[int, int] | None = None) -> Split:
    """
    Read one split and check every file of it.

    Parameters
    ----------
    root : Path
        Folder with ``train/ trainannot/ val/ valannot/`` and, if at hand, ``test/ testannot/``.
    split : {"train", "val", "test"}
        "test" is missing from some copies.
    size : (int, int), optional
        Height and width to resize to, images bilinear, masks nearest; None keeps the files' size.

    Returns
    -------
    Split
        Images and masks as one array each, ids are the files' stems.

    Raises
    ------
    FileNotFoundError
        If a folder is missing or empty.
    ValueError
        If a file is damaged, a partner is missing, sizes disagree, or a mask holds an unknown code.

    Warns
    -----
    UserWarning
        If the number of images is not the published one.
    """
    pairs = _pairs(root, split)
    images: Any = None  # allocated once the size is known
    truth: Any = None
    problems: list[str] = []
    for i, (image, mask, found) in enumerate(image_files.read_pairs(pairs, _CODES)):
        problems += found
        if problems or image is None or mask is None:
            continue
        if size is not None:
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        if images is None:
            images = np.empty((len(pairs), *image.shape), np.uint8)
            truth = np.empty((len(pairs), *mask.shape), np.uint8)
        if image.shape != images.shape[1:]:
            problems.append(f"{pairs[i][0]}: not of the first image's size; choose one size for all")
            continue
        images[i], truth[i] = image, mask
    image_files.raise_if_bad(problems, f"CamVid {split} in {root}")
    if len(pairs) != COUNTS[split]:
        warnings.warn(f"CamVid {split} in {root} has {len(pairs)} images, not {COUNTS[split]}", stacklevel=2)
    return Split("camvid", CLASS_NAMES, tuple(path.stem for path, _ in pairs), images, truth, background=None)


def check(root: Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of the splits once and return one sentence per problem; missing folders raise as in `load`."""
    return image_files.check([two for split in splits for two in _pairs(root, split)], _CODES)


def _pairs(root: Path, split: str) -> list[image_files.Pair]:
    if split not in COUNTS:
        raise ValueError(f"CamVid: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    folders = Path(root) / split, Path(root) / f"{split}annot"
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"CamVid: no folder {folder}; {root} must hold {_LAYOUT}")
    pairs = image_files.pair(*folders)
    if not pairs:
        raise FileNotFoundError(f"CamVid: no images in {folders[0]}; {root} must hold {_LAYOUT}")
    return pairs

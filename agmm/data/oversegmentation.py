"""Over-segmentations of images into regions of one color, along whose borders SPML expects those of objects."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from skimage.segmentation import felzenszwalb

from agmm import storage
from agmm.data import Arrays, OnDemand, Split, label_files

FELZENSZWALB: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"scale": 200, "sigma": 0.8, "min_size": 150},
    "felzenszwalb_small": {"scale": 100, "sigma": 0.5, "min_size": 10},
    "felzenszwalb_medium": {"scale": 100, "sigma": 0.5, "min_size": 20},
}
"""Parameters of Felzenszwalb and Huttenlocher, IJCV 2004, by name: for images of about 500, 64 and 240 pixels."""

MOST = 255
"""Regions of an image; a region fits into eight bits beside a label."""


def oversegment(image: np.ndarray, method: str) -> np.ndarray:
    """Regions of an image, fewer than `MOST` by coarser and coarser cuts: (H, W) uint8 from (H, W, 3) uint8.

    The substitute (ours) for the published regions of SPML, which need a trained edge detector.
    """
    parameters = dict(FELZENSZWALB[method])
    while (regions := felzenszwalb(image.astype(np.float64) / 255, **parameters)).max() >= MOST:
        parameters["scale"] *= 1.5
    return regions.astype(np.uint8)


def regions(split: Split, method: str, cache: Path | None = None) -> Arrays:
    """The regions of every image of a split, as its images in memory or on demand.

    Parameters
    ----------
    split : Split
    method : str
        One of `FELZENSZWALB`.
    cache : Path, optional
        Folder in which they are kept: one file for a split in memory, else a PNG per image.

    Returns
    -------
    sequence of (H, W) uint8 arrays
    """
    if method not in FELZENSZWALB:
        raise ValueError(f"regions are {method!r}; known: {', '.join(FELZENSZWALB)}")
    if isinstance(split.images, OnDemand):
        folder = None if cache is None else cache / f"regions-{split.dataset}-{method}"
        return OnDemand(partial(_kept, split, method, folder), range(len(split)))
    if cache is None:
        return np.stack([oversegment(image, method) for image in split.images])
    digest = storage.digest([split.dataset, split.ids, split.images[0].shape, FELZENSZWALB[method]])
    file = cache / f"regions-{split.dataset}-{method}-{digest}.npy"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        return storage.kept_array(file, lambda: np.stack([oversegment(image, method) for image in split.images]))


def purity(regions: np.ndarray, truth: np.ndarray, num_classes: int) -> float:
    """Share of pixels whose class is that of most pixels of their region; pixels without a class do not count."""
    known = truth < num_classes
    pairs = np.bincount(regions[known].astype(int) * num_classes + truth[known], minlength=MOST * num_classes)
    return float(pairs.reshape(-1, num_classes).max(1).sum() / max(known.sum(), 1))


def with_regions(labels: Arrays, regions: Arrays) -> Arrays:
    """Labels and regions in one map, so that both move together: label + 256 region, int32."""
    if isinstance(labels, np.ndarray) and isinstance(regions, np.ndarray):
        return _packed(labels, regions)
    return OnDemand(partial(_packed_one, labels, regions), range(len(labels)))


def _packed(labels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return labels.astype(np.int32) + 256 * regions.astype(np.int32)


def _packed_one(labels: Arrays, regions: Arrays, index: int) -> np.ndarray:
    return _packed(labels[index], regions[index])


def _kept(split: Split, method: str, folder: Path | None, index: int) -> np.ndarray:
    """Regions of one image, from its file if there is a sound one."""
    if folder is None:
        return oversegment(split.images[index], method)
    path = folder / f"{split.ids[index]}.png"
    try:
        return label_files.read_index(path)
    except (FileNotFoundError, ValueError):
        made = oversegment(split.images[index], method)
    label_files.write_index(path, made)
    return made

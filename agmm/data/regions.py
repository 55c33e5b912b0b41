"""Over-segmentations of images into regions of one color, along whose borders SPML expects those of objects.

The published ones of SPML lie below the root of a data set in the folder ``regions/spml``, subfolders included: a PNG
of region numbers per training image, of the image's name.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm.data import disk_cache
from agmm.data.split import Arrays, OnDemand, Split
from agmm.host import atomic_files

FELZENSZWALB: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"scale": 200, "sigma": 0.8, "min_size": 150},
    "felzenszwalb_small": {"scale": 100, "sigma": 0.5, "min_size": 10},
    "felzenszwalb_medium": {"scale": 100, "sigma": 0.5, "min_size": 20},
}
"""Parameters of Felzenszwalb and Huttenlocher, IJCV 2004, by name: for images of about 500, 64 and 240 pixels."""

MOST = 255  # regions of an image; a region fits into eight bits beside a label
FOLDER = "regions/spml"  # of published regions below the root of a data set (`agmm.data.public.dataset.REGIONS`)
SUBSTITUTE = "felzenszwalb"  # what "auto" takes where nothing is published


def oversegment(image: np.ndarray, method: str) -> np.ndarray:
    """Cut an (H, W, 3) uint8 image into regions, (H, W) uint8, coarser and coarser until they are fewer than `MOST`.

    This is the substitute (ours) for the published regions of SPML, which need a trained edge detector.
    """
    from skimage.segmentation import felzenszwalb  # here, as it takes a second, and published regions need it not

    parameters = dict(FELZENSZWALB[method])
    while (regions := felzenszwalb(image.astype(np.float64) / 255, **parameters)).max() >= MOST:
        parameters["scale"] *= 1.5
    return regions.astype(np.uint8)


def regions(split: Split, method: str, cache: Path | None = None) -> Arrays:
    """Return the regions of every image of a split, (H, W) uint8 each, in memory or on demand as its images are.

    ``method`` is one of `FELZENSZWALB`; ``"published"`` for those that came as files; or ``"auto"`` (`chosen`).
    ``cache`` is a folder in which they are kept: one file for a split in memory, else a PNG per image.
    """
    method = chosen(split, method)
    if method == "published" and split.regions is not None:
        return split.regions
    if isinstance(split.images, OnDemand):
        folder = None if cache is None else cache / f"regions-{split.dataset}-{method}"
        return OnDemand(partial(_of_image, split, method, folder), range(len(split)))
    digest = atomic_files.digest([split.dataset, split.ids, split.images[0].shape, FELZENSZWALB[method]])
    file = None if cache is None else cache / f"regions-{split.dataset}-{method}-{digest}.npy"
    return disk_cache.array(file, lambda: np.stack([oversegment(image, method) for image in split.images]))


def chosen(split: Split, method: str) -> str:
    """Return what `regions` are: ``"auto"`` are the published ones of a split where it has them, else our `SUBSTITUTE`.

    ValueError if the method is unknown, or published regions are insisted on and there are none.
    """
    known = (*FELZENSZWALB, "published", "auto")
    if method not in known:
        raise ValueError(f"regions are {method!r}; known: {', '.join(known)}")
    if method == "published" and split.regions is None:
        raise ValueError(
            f"published regions of {split.dataset} are asked for, and there is no folder {FOLDER} below its data root; "
            f"put a PNG per training image there or ask for regions='auto'"
        )
    if method == "auto":
        return SUBSTITUTE if split.regions is None else "published"
    return method


def with_regions(labels: Arrays, regions: Arrays) -> Arrays:
    """Return labels and regions in one map, so that both move together: label + 256 region, int32."""
    if isinstance(labels, np.ndarray) and isinstance(regions, np.ndarray):
        return labels + 256 * regions.astype(np.int32)
    return OnDemand(partial(_with_regions, labels, regions), range(len(labels)))


def _with_regions(labels: Arrays, regions: Arrays, index: int) -> np.ndarray:
    return labels[index] + 256 * regions[index].astype(np.int32)


def _of_image(split: Split, method: str, folder: Path | None, index: int) -> np.ndarray:
    path = None if folder is None else folder / f"{split.ids[index]}.png"
    return disk_cache.index(path, lambda: oversegment(split.images[index], method))

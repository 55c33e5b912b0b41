"""Training labels of a user's images, from masks, or drawn from what annotators left."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import agmm.labels
from agmm.codes import UNLABELED, VOID
from agmm.data import annotations
from agmm.data.user_folder import pictures
from agmm.data.user_folder.listing import Survey
from agmm.labels import from_boxes


@dataclass(eq=False)
class Sample:
    """An image with its labels and its truth in the working size, or a sentence about what is wrong with them."""

    stem: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None
    problem: str = ""


def render(listed: Survey, side: int, width: int = 3) -> Iterator[Sample]:
    """Yield all images with labels or dense truth, in order, with training labels in the codes of `agmm.labels`.

    Larger images are shrunk until their longer side is ``side``. Points and lines, ``width`` pixels wide, and polygons
    are drawn in the image's own size and shrunk with it so that no click is lost. In each box GrabCut finds the object;
    the rest of the image is background, if a class is called so, else unlabeled.
    """
    stems = sorted({*listed.labeled, *listed.truth})
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as threads:
        for start in range(0, len(stems), 64):  # the threads must not run far ahead of the caller
            yield from threads.map(partial(_sample, listed, side, width), stems[start : start + 64])


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Bring the longer side of an (H, W, 3) uint8 image down to ``side``; return smaller images as they are."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def read_mask(path: Path, names: Sequence[str], image: pictures.Header) -> np.ndarray:
    """Read a mask in the codes of `agmm.labels`, (H, W) uint8; raise ValueError if a code or the size is wrong."""
    mask = pictures.read_codes(path, image)
    known = {*range(len(names)), UNLABELED, VOID}
    if unknown := [code for code in np.unique(mask).tolist() if code not in known]:
        codes = f"0 … {len(names) - 1} in the order of the class names, {UNLABELED} where nothing is labeled"
        raise ValueError(f"{path}: holds code {unknown[0]}; masks hold {codes}, {VOID} for what is to be ignored")
    return mask


def _sample(listed: Survey, side: int, width: int, stem: str) -> Sample:
    try:
        about = pictures.header(listed.images[stem])
        small = shrink(pictures.read(listed.images[stem], listed.scales), side)
        sample = Sample(stem, small)
        if stem in listed.masks:
            mask = read_mask(listed.masks[stem], listed.names, about)
            sample.labels = agmm.labels.resize_labels(mask, small.shape[:2])
        elif stem in listed.annotated:
            sample.labels = _draw(listed, stem, small, about, width)
        if stem in listed.truth:
            truth = read_mask(listed.truth[stem], listed.names, about)
            sample.truth = agmm.labels.resize_labels(truth, small.shape[:2], clicks="nearest")
        return sample
    except (ValueError, OSError) as error:
        return Sample(stem, problem=str(error))


def _draw(listed: Survey, stem: str, image: np.ndarray, about: pictures.Header, width: int) -> np.ndarray:
    """Draw labels in the size of the shrunken image: clicks, lines and polygons in front of boxes."""
    for annotation in listed.annotated[stem]:
        pictures.check_places(annotation, about)
    shapes, size = listed.shapes(stem), about.upright
    drawn = agmm.labels.resize_labels(annotations.draw(shapes, size, width), image.shape[:2])
    boxes = annotations.boxes(shapes, image.shape[:2], image.shape[1] / size[1])
    if not boxes.codes:
        return drawn
    rng = agmm.labels.generator(0, "own", stem, "grabcut")
    labels = from_boxes.grabcut(from_boxes.BoxedImage(image, boxes, rng, listed.background))
    return np.where(drawn == UNLABELED, labels, drawn)

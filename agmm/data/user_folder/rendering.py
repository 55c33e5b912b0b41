"""Training labels of a user's images, from masks, or drawn from what annotators left."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import agmm.labels
from agmm.codes import UNLABELED, VOID
from agmm.data import annotations, drawing, image_files
from agmm.data.drawing import Shape
from agmm.data.user_folder import pictures
from agmm.data.user_folder.listing import Survey
from agmm.labels import from_boxes

COLOR_LIST = "labelmap.txt"
_RGB = np.array([65536, 256, 1])


@dataclass(eq=False)
class Sample:
    """An image with its labels and its truth in the working size, or a sentence about what is wrong with them."""

    stem: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)  # what is odd about single shapes, in the plural


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
    """Read a mask in the codes of `agmm.labels`, (H, W) uint8; raise ValueError if a code or the size is wrong.

    Codes are the file's values, unless a list of colors, ``labelmap.txt``, lies beside the mask or beside a folder
    ``SegmentationClass`` that holds it, as in CVAT's exports as "Segmentation mask": then they are the colors' classes.
    """
    for folder in (path.parent, *(above.parent for above in path.parents if above.name == "SegmentationClass")):
        if (folder / COLOR_LIST).is_file():
            return pictures.upright(path, _read_colors(path, folder / COLOR_LIST, names), image)
    mask = pictures.upright(path, image_files.read_index(path), image)
    known = {*range(len(names)), UNLABELED, VOID}
    if unknown := [code for code in np.unique(mask).tolist() if code not in known]:
        codes = f"0 … {len(names) - 1} in the order of the class names, {UNLABELED} where nothing is labeled"
        raise ValueError(f"{path}: holds code {unknown[0]}; masks hold {codes}, {VOID} for what is to be ignored")
    return mask


def _read_colors(path: Path, colors: Path, names: Sequence[str]) -> np.ndarray:
    """Read a mask in colors; what the list calls background is ``UNLABELED`` where no class is called so."""
    classes: dict[int, str] = {}
    for number, line in enumerate(annotations.text_of(colors).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            if not (told := re.match(r"([^:]+):(\d+),(\d+),(\d+)", line)):
                raise ValueError(f"{colors}, line {number}: is not like cat:255,0,0:: (red, green, blue); correct it")
            if classes.setdefault(int(np.dot([*map(int, told.groups()[1:])], _RGB)), told[1]) != told[1]:
                raise ValueError(f"{colors}, line {number}: a second class of one color; give it another one")
    packed = image_files.read_image(path) @ _RGB
    mask = np.full(packed.shape, -1, np.int16)
    for color, name in classes.items():
        if (pixels := packed == color).any():
            unlabeled = name == "background" and not {*annotations.BACKGROUND} & {*names}
            mask[pixels] = UNLABELED if unlabeled else annotations.code_of(name, names, str(colors))
    if (others := packed[mask < 0]).size:
        raise ValueError(f"{path}: holds the color #{others[0]:06x}, which {colors} does not list; add it there")
    return mask.astype(np.uint8)


def _sample(listed: Survey, side: int, width: int, stem: str) -> Sample:
    try:
        about = pictures.header(listed.images[stem])
        small = shrink(pictures.read(listed.images[stem], listed.scales), side)
        sample = Sample(stem, small)
        if stem in listed.masks:
            mask = read_mask(listed.masks[stem], listed.names, about)
            sample.labels = agmm.labels.resize_labels(mask, small.shape[:2])
        elif stem in listed.annotated:
            _draw(listed, sample, about, width)
        if stem in listed.truth:
            truth = read_mask(listed.truth[stem], listed.names, about)
            sample.truth = agmm.labels.resize_labels(truth, small.shape[:2], clicks="nearest")
        return sample
    except (ValueError, OSError) as error:
        return Sample(stem, problem=str(error))


def _draw(listed: Survey, sample: Sample, about: pictures.Header, width: int) -> None:
    """Draw labels in the size of the shrunken image: clicks, lines and areas in front of boxes."""
    assert sample.image is not None
    size, small, behind = about.upright, sample.image.shape[:2], np.array(UNLABELED, np.uint8)
    placed = (pictures.placed(annotation, about, sample.notes) for annotation in listed.annotated[sample.stem])
    shapes = [shape for inside in placed for shape in inside]
    drawn = annotations.draw(shapes, size, width)
    for shape in shapes:
        if shape.kind in ("polygon", "ellipse", "mask") and (drawn[drawing.area(shape, size)] != shape.code).all():
            sample.notes.append("outlines are hidden by those in front, or smaller than a pixel")
    drawn = agmm.labels.resize_labels(drawn, small)
    if boxed := [shape for shape in shapes if shape.kind == "box" and shape.code != VOID]:
        behind = _segmented(listed, sample, boxed, small[1] / size[1])
    elif listed.fill_background and any(shape.kind in drawing.AREAS for shape in shapes):
        behind = np.array(listed.background, np.uint8)
    sample.labels = np.where(drawn == UNLABELED, behind, drawn)


def _segmented(listed: Survey, sample: Sample, boxed: list[Shape], scale: float) -> np.ndarray:
    """Find the objects in boxes, which are given at the image's own size; of a turned box nothing outside of it."""
    assert sample.image is not None
    size, rng = sample.image.shape[:2], agmm.labels.generator(0, "own", sample.stem, "grabcut")
    boxes = annotations.boxes(boxed, size, scale)
    labels = from_boxes.grabcut(from_boxes.BoxedImage(sample.image, boxes, rng, listed.background))
    for code in {shape.code for shape in boxed if len(shape.vertices) == 4}:
        outlines = [scale * drawing.outline(shape) for shape in boxed if shape.code == code]
        inside = np.any([drawing.fill_polygon(outline, size) for outline in outlines], axis=0)
        labels[(labels == code) & ~inside] = UNLABELED if listed.background is None else listed.background
    return labels

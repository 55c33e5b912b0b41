"""Annotations that labeling tools write: CSV of clicks, labelme JSON, COCO JSON, CVAT XML; read and drawn as labels.

Coordinates are pixels, x to the right and y down; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1. Whatever is
wrong with a file is a `ValueError` of one sentence that names it.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agmm.codes import VOID
from agmm.data import drawing
from agmm.data.annotations import coco, csv_clicks, cvat, labelme
from agmm.data.annotations.csv_clicks import COLUMNS
from agmm.data.annotations.fields import BACKGROUND, IGNORE, Annotation, Annotations, code_of, plain, text_of
from agmm.data.drawing import Shape
from agmm.data.image_files import IMAGE_SUFFIXES
from agmm.labels import Boxes

SUFFIXES = (*IMAGE_SUFFIXES, ".jfif", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif")
"""Endings of image files; a name in an annotation may have one of them or none."""
OUTSIDE = 0.01  # share of the image's side by which a vertex may lie outside, or two pixels


def read(path: Path, names: Sequence[str], faults: list[str] | None = None) -> Annotations:
    """Read all annotations of a file: ``.csv``, ``.json`` (labelme or COCO) or ``.xml`` (CVAT for images).

    ``names`` are the classes in the order of their codes; `IGNORE` is no class but ``VOID``. ValueError if the file
    cannot be parsed, lacks a field, or names a class that is not among them. Of a CSV file all lines without fault are
    read, and sentences about the others appended to ``faults``; without that list the first one is raised.
    """
    said: list[str] = []
    try:
        found = READERS[path.suffix.lower()](path, names, said)
    except (AttributeError, IndexError, KeyError, TypeError, csv.Error) as error:  # a list where an object belongs, …
        raise ValueError(f"{path}: is not laid out as its format has it ({error}); export it again") from error
    if faults is None and said:
        raise ValueError(said[0])
    if faults is not None:
        faults += said
    vertices = {at for one in found.values() for shape in one.shapes if shape.kind != "mask" for at in shape.vertices}
    flat = [value for vertex in vertices for value in vertex]
    if len(vertices) > 1 and all(0 <= value <= 1 for value in flat) and any(value % 1 for value in flat):
        raise ValueError(f"{path}: all coordinates lie between 0 and 1, as fractions of the image do; write pixels")
    return found


def _read_json(path: Path, names: Sequence[str], faults: list[str]) -> Annotations:
    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); export it again") from error
    if isinstance(content, dict) and "shapes" in content:
        return labelme.read(path, content, names)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return coco.read(path, content, names)
    known = "labelme's JSON (with shapes) nor COCO's (with images, annotations and categories)"
    raise ValueError(f"{path}: is neither {known}")


READERS: dict[str, Callable[[Path, Sequence[str], list[str]], Annotations]]
READERS = {".csv": csv_clicks.read, ".json": _read_json, ".xml": cvat.read}


def placed(annotation: Annotation, size: tuple[int, int], notes: list[str]) -> list[Shape]:
    """Return the shapes of an annotation cut to an image of ``size`` (H, W), and add to ``notes`` for each that is cut.

    ValueError if the annotation is for another size, or a vertex lies outside by more than `OUTSIDE`. Of ellipses and
    turned boxes only the center must lie inside, and nothing is cut.
    """
    if annotation.size not in (None, size):
        stated, true = (f"{width} x {height}" for height, width in (annotation.size or size, size))
        raise ValueError(f"{annotation.file}: is for an image of {stated} pixels, but it has {true}; annotate this one")
    sides, shapes = np.array(size[::-1]), []
    for shape in annotation.shapes:
        vertices = np.array(shape.vertices, float).reshape(-1, 2)
        if shape.kind in ("box", "ellipse") and len(vertices) == 4:
            vertices = vertices.mean(axis=0, keepdims=True)
        elif shape.pixels is not None:
            vertices = np.vstack([vertices, vertices + shape.pixels.shape[::-1]])
        inside = np.clip(vertices, 0, sides)
        if (far := abs(vertices - inside) > np.maximum(2, OUTSIDE * sides)).any():
            x, y = vertices[far.any(1).argmax()]
            where = f"{annotation.file}: a {shape.kind} at x {x:g}, y {y:g} lies outside the image"
            raise ValueError(f"{where} of {size[1]} x {size[0]} pixels; correct or remove it")
        if (vertices != inside).any() and len(vertices) == len(shape.vertices):
            shape = replace(shape, vertices=tuple(map(tuple, inside.tolist())))
            notes.append("shapes reached a little outside of their images and were cut")
        shapes.append(shape)
    return shapes


def draw(shapes: Iterable[Shape], size: tuple[int, int], width: int = 3) -> np.ndarray:
    """Draw shapes with `agmm.data.drawing.draw`, lines and points of width 1 at the pixels that hold their vertices."""

    def at_pixels(shape: Shape) -> Shape:
        if shape.kind == "line" or (shape.kind == "point" and width == 1):
            # This brings vertices at the image's very edge inside.
            pixels = ((min(math.floor(x), size[1] - 1), min(math.floor(y), size[0] - 1)) for x, y in shape.vertices)
            return replace(shape, vertices=tuple(pixels))
        return shape

    return drawing.draw(map(at_pixels, shapes), size, width)


def boxes(shapes: Iterable[Shape], size: tuple[int, int], scale: float = 1.0) -> Boxes:
    """Return the boxes of classes among the shapes, upright around turned ones, scaled to an image of ``size``."""
    codes, corners = [], []
    for shape in shapes:
        if shape.kind == "box" and shape.code != VOID:
            (left, top), (right, bottom) = (scale * side(shape.vertices, axis=0) for side in (np.min, np.max))
            first = min(max(math.floor(top), 0), size[0] - 1), min(max(math.floor(left), 0), size[1] - 1)
            end = max(first[0] + 1, math.ceil(bottom)), max(first[1] + 1, math.ceil(right))
            codes.append(shape.code)
            corners.append((*first, min(end[0], size[0]), min(end[1], size[1])))
    return Boxes(size, codes, np.array(corners, int).reshape(-1, 4))

"""Annotations that labeling tools write: CSV of clicks, labelme JSON, COCO JSON, CVAT XML; read and drawn as labels.

Coordinates are pixels, x to the right and y down; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1. Whatever is
wrong with a file is a `ValueError` of one sentence that names it.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from agmm.data import drawing
from agmm.data.drawing import Kind, Shape
from agmm.data.image_files import IMAGE_SUFFIXES
from agmm.data.public import label_files
from agmm.labels import Boxes

SUFFIXES = (*IMAGE_SUFFIXES, ".jfif", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif")
"""Endings of image files; a name in an annotation may have one of them or none."""
_FEWEST = {"point": 1, "line": 2, "polygon": 3, "box": 2, "tag": 0}


@dataclass(eq=False)
class Annotation:
    """All shapes of an image in one file, and the image's height and width where the file states them."""

    file: Path
    shapes: list[Shape] = field(default_factory=list)
    size: tuple[int, int] | None = None
    beside: str | None = None  # of a file named as its image, as labelme's are: the image that it names besides


Annotations = dict[str, Annotation]  # annotations of a file by the names of their images, as it has them


def read(path: Path, names: Sequence[str]) -> Annotations:
    """Read all annotations of a file: ``.csv``, ``.json`` (labelme or COCO) or ``.xml`` (CVAT for images).

    ``names`` are the classes in the order of their codes. ValueError if the file cannot be parsed, lacks a field, or
    names a class that is not among them.
    """
    try:
        return READERS[path.suffix.lower()](path, names)
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # a list where an object belongs, and the like
        raise ValueError(f"{path}: is not laid out as its format has it ({error}); export it again") from error


def check_places(annotation: Annotation, size: tuple[int, int]) -> None:
    """Raise ValueError unless an annotation fits an image of ``size`` (H, W)."""
    if annotation.size not in (None, size):
        stated, true = (f"{width} x {height}" for height, width in (annotation.size or size, size))
        raise ValueError(f"{annotation.file}: is for an image of {stated} pixels, but it has {true}; annotate this one")
    for shape in annotation.shapes:
        for x, y in shape.vertices:
            # A cursor at the very edge gives the width or the height itself.
            if not (0 <= x <= size[1] and 0 <= y <= size[0]):
                where = f"{annotation.file}: a {shape.kind} at x {x:g}, y {y:g} lies outside the image"
                raise ValueError(f"{where} of {size[1]} x {size[0]} pixels; correct or remove it")


# --- Drawing ----------------------------------------------------------------------------------------------------------


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
    """Return the boxes among the shapes, scaled to an image of ``size`` (H, W)."""
    codes, corners = [], []
    for shape in shapes:
        if shape.kind == "box":
            left, right = sorted(scale * x for x, _ in shape.vertices)
            top, bottom = sorted(scale * y for _, y in shape.vertices)
            first = min(math.floor(top), size[0] - 1), min(math.floor(left), size[1] - 1)
            end = max(first[0] + 1, math.ceil(bottom)), max(first[1] + 1, math.ceil(right))
            codes.append(shape.code)
            corners.append((*first, min(end[0], size[0]), min(end[1], size[1])))
    return Boxes(size, codes, np.array(corners, int).reshape(-1, 4))


# --- Readers ----------------------------------------------------------------------------------------------------------

COLUMNS = ("image", "x", "y", "class")


def read_csv(path: Path, names: Sequence[str]) -> Annotations:
    """Read clicks, a row each, under a header with the columns image, x, y and class, in any order and among others."""
    text = _text(path)
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in header and "," not in header else ",")
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if missing := [name for name in COLUMNS if name not in rows.fieldnames]:
        raise ValueError(f"{path}: has no column {', '.join(missing)}; its first line must name {', '.join(COLUMNS)}")
    clicks: Annotations = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if any(row[name] is None for name in COLUMNS):
            raise ValueError(f"{where}: has fewer fields than the first line has columns; complete it")
        vertex = _number(row["x"], where, "x"), _number(row["y"], where, "y")
        annotation = clicks.setdefault(row["image"], Annotation(path))
        annotation.shapes.append(Shape("point", _code(row["class"], names, where), (vertex,)))
    return clicks


_LABELME: dict[str, Kind] = {"point": "point", "points": "point", "line": "line", "linestrip": "line"}
_LABELME |= {"polygon": "polygon", "rectangle": "box"}


def read_labelme(path: Path, content: dict[str, Any], names: Sequence[str]) -> Annotations:
    """Read points, lines, polygons, rectangles and flags (tags) of an image; the file has the name of the image."""
    annotation = Annotation(path, size=_size(content.get("imageHeight"), content.get("imageWidth")))
    annotation.beside = str(content.get("imagePath") or "")
    for item in _listed(content, "shapes", path):
        kind = item.get("shape_type", "polygon")
        if kind not in _LABELME:
            raise ValueError(f"{path}: a shape of type {kind!r} is not read; use {', '.join(_LABELME)}")
        vertices = [_pair(point, path) for point in _listed(item, "points", path, of=list)]
        annotation.shapes += _shapes(_LABELME[kind], _code(item.get("label"), names, str(path)), vertices, path)
    flags = [name for name, is_set in (content.get("flags") or {}).items() if is_set]
    annotation.shapes += [Shape("tag", _code(name, names, f"{path}, flags")) for name in flags]
    return {path.stem: annotation}


def read_coco(path: Path, content: dict[str, Any], names: Sequence[str]) -> Annotations:
    """Read keypoints (clicks), else polygons, else boxes of every annotation; categories are matched by name."""
    classes = {_field(item, "id", path): item.get("name") for item in _listed(content, "categories", path)}
    images: dict[Any, Annotation] = {}
    annotations: Annotations = {}
    for item in _listed(content, "images", path):
        annotation = Annotation(path, size=_size(item.get("height"), item.get("width")))
        name = str(_field(item, "file_name", path))
        images[_field(item, "id", path)] = annotations.setdefault(name, annotation)
    for item in _listed(content, "annotations", path):
        where = f"{path}, annotation {item.get('id')}"
        image, category = _field(item, "image_id", path), _field(item, "category_id", path)
        if image not in images or category not in classes:
            which = f"image_id {image}" if image not in images else f"category_id {category}"
            raise ValueError(f"{where}: {which} is not listed in the file; add it")
        images[image].shapes += _coco_shapes(item, _code(classes[category], names, where), where)
    return annotations


def _coco_shapes(item: dict[str, Any], code: int, where: str) -> list[Shape]:
    if keypoints := item.get("keypoints"):
        seen = [keypoints[i : i + 3] for i in range(0, len(keypoints), 3)]
        return _shapes("point", code, [_pair(point, where) for point in seen if len(point) == 3 and point[2]], where)
    segmentation = item.get("segmentation")
    if isinstance(segmentation, dict):
        raise ValueError(f"{where}: its segmentation is a run-length code; export polygons, or masks as PNG files")
    if segmentation:
        outlines = [[_pair(flat[i : i + 2], where) for i in range(0, len(flat), 2)] for flat in segmentation]
        return [shape for outline in outlines for shape in _shapes("polygon", code, outline, where)]
    if not item.get("bbox"):
        return [Shape("tag", code)]
    box = item["bbox"]
    (x, y), (width, height) = _pair(box[:2], where), _pair(box[2:], where)
    return _shapes("box", code, [(x, y), (x + width, y + height)], where)


_CVAT: dict[str, Kind] = {"points": "point", "polyline": "line", "polygon": "polygon", "box": "box", "tag": "tag"}


def read_cvat(path: Path, names: Sequence[str]) -> Annotations:
    """Read points, polylines, polygons, boxes and tags of an export as "CVAT for images"."""
    root = label_files.read_xml(path)
    if root.tag != "annotations":
        raise ValueError(f"{path}: begins with <{root.tag}>, not <annotations>; export it as 'CVAT for images'")
    if root.find("track") is not None:
        raise ValueError(f"{path}: holds tracks of a video; export it as 'CVAT for images'")
    annotations: Annotations = {}
    for image in root.iter("image"):
        name, size = _attribute(image, "name", path), _size(image.get("height"), image.get("width"))
        annotation = annotations.setdefault(name, Annotation(path, size=size))
        where = f"{path}, image {name}"
        for item in image:
            if item.tag not in _CVAT:
                raise ValueError(f"{path}: a <{item.tag}> of image {name} is not read; use {', '.join(_CVAT)}")
            code = _code(_attribute(item, "label", path), names, where)
            annotation.shapes += _shapes(_CVAT[item.tag], code, list(_cvat_vertices(item, path)), where)
    return annotations


def _cvat_vertices(item: ElementTree.Element, path: Path) -> Iterator[tuple[float, float]]:
    if item.tag == "box":
        for sides in (("xtl", "ytl"), ("xbr", "ybr")):
            yield _pair([_attribute(item, side, path) for side in sides], path)
    elif item.tag != "tag":
        for vertex in _attribute(item, "points", path).split(";"):
            yield _pair(vertex.split(","), path)


def _read_json(path: Path, names: Sequence[str]) -> Annotations:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); export it again") from error
    if isinstance(content, dict) and "shapes" in content:
        return read_labelme(path, content, names)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return read_coco(path, content, names)
    known = "labelme's JSON (with shapes) nor COCO's (with images, annotations and categories)"
    raise ValueError(f"{path}: is neither {known}")


READERS: dict[str, Callable[[Path, Sequence[str]], Annotations]]
READERS = {".csv": read_csv, ".json": _read_json, ".xml": read_cvat}


# --- Shared by the readers --------------------------------------------------------------------------------------------


def _shapes(kind: Kind, code: int, vertices: list[tuple[float, float]], where: str | Path) -> list[Shape]:
    """Return a shape, or a point for each vertex."""
    if len(vertices) < _FEWEST[kind] or (kind == "box" and len(vertices) > 2):
        raise ValueError(f"{where}: a {kind} has {len(vertices)} vertices; it needs {_FEWEST[kind]}")
    if kind == "point":
        return [Shape("point", code, (vertex,)) for vertex in vertices]
    return [Shape(kind, code, tuple(vertices))]


def _code(name: Any, names: Sequence[str], where: str) -> int:
    name = name.strip() if isinstance(name, str) else name
    if name not in names:
        shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise ValueError(f"{where}: the class {name!r} is not among the class names ({shown}); add or correct it")
    return names.index(name)


def _number(value: Any, where: str | Path, what: str) -> float:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {what} is {value!r}; it must be a number")
    return number


def _pair(values: Any, where: str | Path) -> tuple[float, float]:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"{where}: {values!r} is no pair of coordinates; correct it")
    return _number(values[0], where, "x"), _number(values[1], where, "y")


def _size(height: Any, width: Any) -> tuple[int, int] | None:
    try:
        return int(height), int(width)
    except (TypeError, ValueError):
        return None


def _field(item: dict[str, Any], name: str, path: Path) -> Any:
    if name not in item:
        raise ValueError(f"{path}: an entry {str(item)[:60]} has no {name}; export it again")
    return item[name]


def _listed(content: dict[str, Any], name: str, path: Path, of: type = dict) -> list[Any]:
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
        raise ValueError(f"{path}: {name} must be a list of {'objects' if of is dict else 'pairs'}; export it again")
    return values


def _attribute(item: ElementTree.Element, name: str, path: Path) -> str:
    value = item.get(name)
    if value is None:
        raise ValueError(f"{path}: a <{item.tag}> has no attribute {name}; export it again")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error

"""CVAT's XML, as it exports "CVAT for images"."""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from agmm.data.annotations.fields import (
    Annotation,
    Annotations,
    Vertices,
    attribute,
    code_of,
    number,
    pair,
    runs,
    size_of,
)
from agmm.data.drawing import Kind
from agmm.data.public import label_files

KINDS: dict[str, Kind] = {"points": "point", "polyline": "line", "polygon": "polygon", "box": "box", "tag": "tag"}
KINDS |= {"ellipse": "ellipse", "mask": "mask", "skeleton": "point"}


def read(path: Path, names: Sequence[str], faults: list[str]) -> Annotations:
    """Read all shapes of an export as "CVAT for images", in the order of its layers (``z_order``), but no cuboids.

    Of points, those of skeletons included, hidden ones (occluded or outside) are left out.
    """
    root = label_files.read_xml(path)
    if root.tag != "annotations":
        raise ValueError(f"{path}: begins with <{root.tag}>, not <annotations>; export it as 'CVAT for images'")
    if root.find("track") is not None:
        raise ValueError(f"{path}: holds tracks of a video; export it as 'CVAT for images'")
    found: Annotations = {}
    for image in root.iter("image"):
        name = attribute(image, "name", path)
        if name in found:
            raise ValueError(f"{path}: holds the image {name!r} twice, as of two tasks; export the tasks one by one")
        found[name] = Annotation(path, size=size_of(image.get("height"), image.get("width")))
        where = f"{path}, image {name}"
        for item in image:
            if item.tag not in KINDS:
                raise ValueError(f"{path}: a <{item.tag}> of image {name} is not read; use {', '.join(KINDS)}")
            _add(found[name], item, code_of(attribute(item, "label", path), names, where), path, where)
    return found


def _add(annotation: Annotation, item: ElementTree.Element, code: int, path: Path, where: str) -> None:
    order = int(number(item.get("z_order", 0), where, "z_order"))
    numbers = [number(item.get(name, 0), where, name) for name in ("left", "top", "width", "height", "rotation")]
    if item.tag == "mask":
        counts = [int(number(run, where, "a run")) for run in attribute(item, "rle", path).split(",") if run.strip()]
        pixels = runs(counts, size_of(numbers[3], numbers[2]), where, by_rows=True)
        annotation.add_mask(code, pixels, (numbers[0], numbers[1]), order)
    elif item.tag in ("points", "skeleton"):
        for points in item.iter("points"):
            if "1" in (points.get("outside"), points.get("occluded")):
                annotation.notes.append("hidden points mark nothing")
            else:
                annotation.add("point", code, _vertices(points, path), where, order)
    else:
        rotation = numbers[4] if item.tag == "box" else 0
        annotation.add(KINDS[item.tag], code, _vertices(item, path), where, order, rotation)


def _vertices(item: ElementTree.Element, path: Path) -> Vertices:
    if item.tag == "tag":
        return []
    if item.tag == "box":
        corners = (("xtl", "ytl"), ("xbr", "ybr"))
        return [pair([attribute(item, side, path) for side in sides], str(path)) for sides in corners]
    if item.tag == "ellipse":
        x, y, *radii = (number(attribute(item, name, path), str(path), name) for name in ("cx", "cy", "rx", "ry"))
        turn = math.radians(number(item.get("rotation", 0), str(path), "rotation"))
        cosine, sine = math.cos(turn), math.sin(turn)
        return [(x, y), (x + radii[0] * cosine, y + radii[0] * sine), (x - radii[1] * sine, y + radii[1] * cosine)]
    return [pair(vertex.split(","), str(path)) for vertex in attribute(item, "points", path).split(";")]

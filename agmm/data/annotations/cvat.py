"""CVAT's XML, as it exports "CVAT for images"."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from agmm.data.annotations import fields
from agmm.data.annotations.fields import Annotation, Annotations, Vertices
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
        name = fields.field_of(image.attrib, "name", path)
        if name in found:
            raise ValueError(f"{path}: holds the image {name!r} twice, as of two tasks; export the tasks one by one")
        found[name] = Annotation(path, size=fields.size_of(image.get("height"), image.get("width")))
        where = f"{path}, image {name}"
        for item in image:
            if item.tag not in KINDS:
                raise ValueError(f"{path}: a <{item.tag}> of image {name} is not read; use {', '.join(KINDS)}")
            _add(found[name], item, fields.code_of(fields.field_of(item.attrib, "label", path), names, where), where)
    return found


def _add(annotation: Annotation, item: ElementTree.Element, code: int, where: str) -> None:
    order, kind = int(_number(item, "z_order", where, 0)), KINDS[item.tag]
    if item.tag == "mask":
        left, top, width, height = (_number(item, name, where) for name in ("left", "top", "width", "height"))
        counts = [int(run) if run.strip().isdecimal() else -1 for run in (item.get("rle") or "").split(",")]
        pixels = fields.runs(counts, fields.size_of(height, width), where, by_rows=True)
        annotation.add_mask(code, pixels, (left, top), order)
    elif item.tag in ("points", "skeleton"):
        for points in item.iter("points"):
            if "1" in (points.get("outside"), points.get("occluded")):
                annotation.notes.append("hidden points mark nothing")
            else:
                annotation.add(kind, code, _vertices(points, where), where, order)
    else:
        annotation.add(kind, code, _vertices(item, where), where, order, _number(item, "rotation", where, 0))


def _vertices(item: ElementTree.Element, where: str) -> Vertices:
    if item.tag == "tag":
        return []
    if item.tag == "box":
        left, top, right, bottom = (_number(item, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
        return [(left, top), (right, bottom)]
    if item.tag == "ellipse":
        x, y, wide, high = (_number(item, name, where) for name in ("cx", "cy", "rx", "ry"))
        return [(x - wide, y - high), (x + wide, y + high)]
    return [fields.pair(vertex.split(","), where) for vertex in (item.get("points") or "").split(";")]


def _number(item: ElementTree.Element, name: str, where: str, default: float | None = None) -> float:
    return fields.number(item.get(name, default), where, f"{name} of a <{item.tag}>")

"""COCO's JSON: all images in one file, and their annotations by the ids of images and categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agmm.codes import VOID
from agmm.data.annotations import fields
from agmm.data.annotations.fields import Annotation, Annotations

BEHIND = -1  # order of crowds, which are void where no object is


def read(path: Path, content: dict[str, Any], names: Sequence[str]) -> Annotations:
    """Read the polygons or run lengths, and visible keypoints (clicks), of every annotation; its box without them.

    Categories are matched by name. Crowds are ``VOID``, and boxes turned as ``attributes.rotation`` says.
    """
    categories = _by_id(content, "categories", "name", path)
    images = _by_id(content, "images", "file_name", path)
    found: Annotations = {}
    for id, item in images.items():
        name = str(item["file_name"])
        if name in found:
            raise ValueError(
                f"{path}: lists the image {name!r} twice, with id {id} again; keep one, or name its folder"
            )
        found[name] = Annotation(path, size=fields.size_of(item.get("height"), item.get("width")))
    for item in fields.listed(content, "annotations", path):
        where = f"{path}, annotation {item.get('id')}"
        image, category = (_id(fields.field_of(item, name, path)) for name in ("image_id", "category_id"))
        if image not in images or category not in categories:
            which = f"image_id {image}" if image not in images else f"category_id {category}"
            raise ValueError(f"{where}: {which} is not listed in the file; add it")
        code = fields.code_of(categories[category].get("name"), names, where)
        _add(found[str(images[image]["file_name"])], item, code, where)
    return found


def _by_id(content: dict[str, Any], name: str, key: str, path: Path) -> dict[str, dict[str, Any]]:
    """Return the images or categories of a file by id; ValueError if two of one id have different names."""
    found: dict[str, dict[str, Any]] = {}
    for item in fields.listed(content, name, path):
        id = _id(fields.field_of(item, "id", path))
        other = found.setdefault(id, item)
        if fields.field_of(item, key, path) != fields.field_of(other, key, path):
            both = f"{other[key]!r} and {item[key]!r}"
            raise ValueError(f"{path}: {name} has the id {id} twice, for {both}; give each an id of its own")
    return found


def _id(value: Any) -> str:
    """Return an id as text, which some tools write for a number."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _add(annotation: Annotation, item: dict[str, Any], code: int, where: str) -> None:
    crowd = any(fields.number(item.get(name) or 0, where, name) for name in ("iscrowd", "ignore"))
    code, order = (VOID, BEHIND) if crowd else (code, 0)
    before, segmentation = len(annotation.shapes), item.get("segmentation") or []
    if isinstance(segmentation, dict):
        size = fields.size_of(*segmentation.get("size", (None, None)))
        annotation.size = annotation.size or size
        if size != annotation.size:
            raise ValueError(f"{where}: a run-length code is of size {size}, its image of {annotation.size}")
        annotation.add_mask(code, fields.runs(segmentation.get("counts"), size, where), (0, 0), order)
    else:
        flat = segmentation and not isinstance(segmentation[0], list)
        for outline in [segmentation] if flat else segmentation:
            if len(outline) in range(1, 5) and len(outline) % 2 == 0:
                annotation.notes.append("polygons of fewer than three vertices mark nothing")
            elif outline:
                vertices = [fields.pair(outline[i : i + 2], where) for i in range(0, len(outline), 2)]
                annotation.add("polygon", code, vertices, where, order)
    keypoints = item.get("keypoints") or []
    for i in range(0, len(keypoints), 3):
        vertex, seen = fields.pair(keypoints[i : i + 2], where), fields.number(keypoints[i + 2], where, "a visibility")
        if seen == 2:
            annotation.add("point", code, [vertex], where, order)
        elif seen:
            annotation.notes.append("hidden points mark nothing")
    if len(annotation.shapes) == before:
        _add_box(annotation, item, code, where, order)


def _add_box(annotation: Annotation, item: dict[str, Any], code: int, where: str, order: int) -> None:
    if not item.get("bbox"):
        annotation.add("tag", code, [], where)
        return
    (x, y), (width, height) = fields.pair(item["bbox"][:2], where), fields.pair(item["bbox"][2:], where)
    if min(width, height) < 0:
        raise ValueError(f"{where}: its box is {width:g} wide and {height:g} high; correct or remove it")
    attributes = item.get("attributes")
    rotation = (attributes.get("rotation") if isinstance(attributes, dict) else None) or 0
    box = [(x, y), (x + width, y + height)]
    annotation.add("box", code, box, where, order, fields.number(rotation, where, "rotation"))

"""labelme's JSON, and that of its relatives: a file for every image."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.data.annotations.fields import Annotation, Annotations, Vertices, code_of, listed, pair, size_of
from agmm.data.drawing import Kind

KINDS: dict[str, Kind] = {"point": "point", "points": "point", "line": "line", "linestrip": "line"}
KINDS |= {"polygon": "polygon", "rectangle": "box", "oriented_rectangle": "box", "rotation": "box"}
KINDS |= {"circle": "ellipse", "mask": "mask"}


def read(path: Path, content: dict[str, Any], names: Sequence[str]) -> Annotations:
    """Read the shapes and the flags (tags) of an image; the file has the name of the image.

    A rectangle has two opposite corners or four, a circle its center and a point on it, a mask its corner and a PNG.
    """
    annotation = Annotation(path, size=size_of(content.get("imageHeight"), content.get("imageWidth")))
    annotation.beside = str(content.get("imagePath") or "")
    for item in listed(content, "shapes", path):
        kind = item.get("shape_type") or "polygon"
        if kind not in KINDS:
            raise ValueError(f"{path}: a shape of type {kind!r} is not read; use {', '.join(KINDS)}")
        code = code_of(item.get("label"), names, str(path))
        vertices = [pair(point, str(path)) for point in listed(item, "points", path, of=list)]
        if kind == "mask":
            annotation.add_mask(code, _pixels(item.get("mask"), path), vertices[0])
        else:
            vertices = _box_of(vertices, path) if kind == "circle" else vertices
            annotation.add(KINDS[kind], code, vertices, str(path))
    for flag in [name for name, is_set in (content.get("flags") or {}).items() if is_set]:
        if flag in names:
            annotation.add("tag", names.index(flag), [], str(path))
        else:
            annotation.notes.append("flags that are no class name are left out")
    return {path.stem: annotation}


def _box_of(circle: Vertices, path: Path) -> Vertices:
    if len(circle) != 2:
        raise ValueError(f"{path}: a circle has {len(circle)} points; it needs its center and one on it")
    (x, y), radius = circle[0], math.dist(*circle)
    return [(x - radius, y - radius), (x + radius, y + radius)]


def _pixels(png: Any, path: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(png, validate=True)), formats=("PNG",)) as image:
            return np.asarray(image.convert("L")) > 0
    except Exception as error:  # a damaged file may fail anywhere in the decoder
        raise ValueError(f"{path}: a mask is no PNG in base64 ({error}); draw it again") from error

"""What the readers of annotation files share: annotations of an image, and fields that are checked."""

import cmath
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agmm.codes import VOID
from agmm.data.drawing import AREAS, Kind, Shape
from agmm.data.public.masks import decode_runs

IGNORE = "__ignore__"
"""What labelme calls pixels of no class, here in every format: they are ``VOID``."""
BACKGROUND = ("background", "_background_")  # the second is labelme's
Vertices = list[tuple[float, float]]

_FEWEST = {"point": 1, "line": 2, "polygon": 3, "box": 2, "tag": 0, "ellipse": 2}
_LARGEST = 2**27  # pixels of a mask, as many as of an image that Pillow opens


@dataclass(eq=False)
class Annotation:
    """All shapes of an image in one file, and the image's height and width where the file states them."""

    file: Path
    shapes: list[Shape] = field(default_factory=list)
    size: tuple[int, int] | None = None
    beside: str | None = None  # of a file named as its image, as labelme's are: the image that it names besides
    notes: list[str] = field(default_factory=list)  # what has been left out, in the plural

    def add(self, kind: Kind, code: int, vertices: Vertices, where: str, order: int = 0, turn: float = 0) -> None:
        """Add a shape, a point for each vertex; a box or ellipse turned clockwise about its center by degrees.

        Two opposite corners of an ellipse's box are given. ValueError if there are too few vertices; an outline without
        area is not added but noted.
        """
        if len(vertices) < _FEWEST[kind] or (kind == "box" and len(vertices) not in (2, 4)):
            raise ValueError(f"{where}: a {kind} has {len(vertices)} vertices; it needs {_FEWEST[kind]}")
        if kind in AREAS and not np.ptp(vertices, axis=0).all():
            self.notes.append("outlines without area mark nothing")
        elif kind == "point":
            self.shapes += [Shape(kind, code, (vertex,), order) for vertex in vertices]
        else:
            vertices = _turned(vertices, turn) if kind == "ellipse" or (kind == "box" and turn) else vertices
            self.shapes.append(Shape(kind, code, tuple(vertices), order))

    def add_mask(self, code: int, pixels: np.ndarray, corner: tuple[float, float], order: int = 0) -> None:
        """Add a mask, (h, w) bool, whose upper left pixel lies at ``corner`` (x, y), without its empty margins."""
        rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
        if not len(rows):
            self.notes.append("masks without a pixel mark nothing")
            return
        window = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
        vertex = corner[0] + int(columns[0]), corner[1] + int(rows[0])
        self.shapes.append(Shape("mask", code, (vertex,), order, window))


Annotations = dict[str, Annotation]  # annotations of a file by the names of their images, as it has them


def _turned(box: Vertices, degrees: float) -> Vertices:
    (left, top), (right, bottom) = box
    center, turn = complex(left + right, top + bottom) / 2, cmath.rect(1, math.radians(degrees))
    corners = (complex(*corner) for corner in ((left, top), (right, top), (right, bottom), (left, bottom)))
    moved = [center + (corner - center) * turn for corner in corners]
    return [(round(corner.real, 6), round(corner.imag, 6)) for corner in moved]  # upright again after 90 degrees


def runs(counts: Any, size: tuple[int, int] | None, where: str, by_rows: bool = False) -> np.ndarray:
    """Decode a run-length code, (h, w) bool: by columns as COCO's are, or by rows as CVAT's."""
    if size is None or size[0] * size[1] > _LARGEST:
        raise ValueError(f"{where}: a run-length code is of no size that an image has; export it again")
    try:
        return decode_runs(counts, size[::-1]).T if by_rows else decode_runs(counts, size)
    except (MemoryError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: a run-length code cannot be read ({error}); export it again") from error


def code_of(name: Any, names: Sequence[str], where: str) -> int:
    """Return the code of a class by its name, ``VOID`` of `IGNORE`."""
    name = plain(name) if isinstance(name, str) else name
    if name == IGNORE:
        return VOID
    if name in BACKGROUND and name not in names:
        name = next((other for other in BACKGROUND if other in names), name)
    if name not in names:
        shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise ValueError(f"{where}: the class {name!r} is not among the class names ({shown}); add or correct it")
    return names.index(name)


def plain(text: str) -> str:
    """Return a name without blanks around it, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def number(value: Any, where: str, what: str) -> float:
    """Return a finite number; ValueError otherwise."""
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {what} is {value!r}; it must be a number")
    return number


def pair(values: Any, where: str) -> tuple[float, float]:
    """Return x and y, which a list begins with."""
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"{where}: {values!r} is no pair of coordinates; correct it")
    return number(values[0], where, "x"), number(values[1], where, "y")


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Return a height and a width, None where they are not known, which tools write in many ways."""
    try:
        size = int(height), int(width)
    except (OverflowError, TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def field_of(item: dict[str, Any], name: str, path: Path) -> Any:
    """Return a field of a JSON object, or an attribute of an XML element, which must have it."""
    if name not in item:
        raise ValueError(f"{path}: an entry {str(item)[:60]} has no {name}; export it again")
    return item[name]


def listed(content: dict[str, Any], name: str, path: Path, of: type = dict) -> list[Any]:
    """Return a field of a JSON object, which must be a list of objects or of lists."""
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
        raise ValueError(f"{path}: {name} must be a list of {'objects' if of is dict else 'pairs'}; export it again")
    return values


def text_of(path: Path) -> str:
    """Read a text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error

"""Readers of published label files: clicks, scribbles, boxes and class activation maps.

Sizes are (height, width). What is wrong with a file is a FileNotFoundError or ValueError of one sentence that names it.
"""

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from agmm.data.drawing import Shape
from agmm.data.image_files import check_size, existing
from agmm.host import atomic_files
from agmm.labels import Boxes


def read_clicks(foreground: Path, background: Path | None = None) -> dict[str, tuple[Shape, ...]]:
    """Read the clicks per image of What's the Point (Bearman et al. 2016), those on the background last.

    ``foreground`` is JSON ``{image id: [{"x", "y", "cls", "rank"}, …]}`` with classes 1 … 20, ``background`` the same
    with class 0 (simulated from scribbles by Obukhov et al. 2019). Images that only one of the files lists are kept.
    """
    clicks = _read_clicks(foreground, range(1, 21))
    if background is not None:
        for image_id, more in _read_clicks(background, range(1)).items():
            clicks[image_id] = clicks.get(image_id, ()) + more
    return clicks


def _read_clicks(path: Path, codes: range) -> dict[str, tuple[Shape, ...]]:
    try:
        content = json.loads(existing(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; it must map image ids to lists of clicks")
    clicks = {}
    for image_id, items in content.items():
        if not isinstance(items, list):
            raise ValueError(f"{path}, image {image_id}: clicks are a {type(items).__name__}; they must be a list")
        clicks[image_id] = tuple(_click(f"{path}, image {image_id}", item, codes) for item in items)
    return clicks


def _click(where: str, item: dict[str, Any], codes: range) -> Shape:
    try:
        x, y, code = float(item["x"]), float(item["y"]), item["cls"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: a click needs numbers x, y and cls, this one is {str(item)[:100]}") from error
    if not (abs(x) < 1e6 and abs(y) < 1e6):  # false for NaN as well
        raise ValueError(f"{where}: a click lies at x {x}, y {y}; coordinates are pixels of the image")
    if code not in codes:
        raise ValueError(f"{where}: a click has cls {code}; it must be {codes[0]} … {codes[-1]}")
    return Shape("point", int(code), ((x, y),))


def read_scribbles(path: Path, names: Sequence[str], size: tuple[int, int] | None = None) -> list[Shape]:
    """Read the polylines of a ScribbleSup XML file (Lin et al. 2016), which must state the ``size``.

    It holds an ``annotation`` with ``size`` (``width``, ``height``) and ``polygon`` (``tag``, ``point`` with ``X``,
    ``Y``); ``names`` are the classes as it calls them, in the order of their codes.
    """
    root, _ = _read_annotation(path, size)
    lines = []
    for polygon in root.iter("polygon"):
        code = _class(path, polygon, "tag", names)
        points = polygon.findall("point")
        if not points:
            raise ValueError(f"{path}: a polygon has no point; remove it or get the file again")
        vertices = ((round(_number(path, point, "X")), round(_number(path, point, "Y"))) for point in points)
        lines.append(Shape("line", code, tuple(vertices)))
    return lines


def read_boxes(path: Path, names: Sequence[str], size: tuple[int, int] | None = None) -> Boxes:
    """Read all boxes of a VOC annotation file, "difficult" ones included, cut to the image; it must state the ``size``.

    It holds an ``annotation`` with ``size`` and ``object`` (``name``, ``bndbox`` with one-based inclusive ``xmin`` …);
    ``names`` are the classes in the order of their codes; the first is the background, which has no box.
    """
    root, (height, width) = _read_annotation(path, size)
    codes, corners = [], []
    for item in root.findall("object"):
        codes.append(1 + _class(path, item, "name", names[1:]))
        # A few files hold floats.
        box = [round(_number(path, item, f"bndbox/{side}")) for side in ("ymin", "xmin", "ymax", "xmax")]
        top, left, bottom, right = max(box[0] - 1, 0), max(box[1] - 1, 0), min(box[2], height), min(box[3], width)
        if top >= bottom or left >= right:
            raise ValueError(f"{path}: the box ymin, xmin, ymax, xmax = {box} holds no pixel of the image; correct it")
        corners.append((top, left, bottom, right))
    return Boxes((height, width), tuple(codes), np.array(corners, int).reshape(-1, 4))


def _read_annotation(path: Path, size: tuple[int, int] | None) -> tuple[ElementTree.Element, tuple[int, int]]:
    root = read_xml(existing(path))
    stated = round(_number(path, root, "size/height")), round(_number(path, root, "size/width"))
    check_size(path, stated, size)
    return root, stated


def read_xml(path: Path) -> ElementTree.Element:
    """Read the root of an XML file without document type, so that no entity can be declared or fetched."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError(f"{path} declares a document type or entities; annotation files need none, remove it")
        return ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is not valid UTF-8 XML ({error}); get the file again") from error


def _text(path: Path, element: ElementTree.Element, field: str) -> str:
    text = element.findtext(field)
    if text is None:
        raise ValueError(f"{path}: {element.tag} has no {field}; is this the right kind of annotation file?")
    return text.strip()


def _number(path: Path, element: ElementTree.Element, field: str) -> float:
    text = _text(path, element, field)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6:  # true for NaN as well
        raise ValueError(f"{path}: {field} is {text[:100]!r}; it must be a number of pixels")
    return number


def _class(path: Path, element: ElementTree.Element, field: str, names: Sequence[str]) -> int:
    name = _text(path, element, field)
    if name not in names:
        raise ValueError(f"{path}: unknown class {name!r} in {field}; known are {', '.join(names)}")
    return names.index(name)


class _ArraysOnly(pickle.Unpickler):
    """Unpickle dictionaries of numpy arrays and nothing else, as a pickle may otherwise call whatever it names."""

    KNOWN = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise ValueError(f"it names {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read_cams(path: Path, size: tuple[int, int] | None = None, *, first: int = 1) -> dict[int, np.ndarray]:
    """Read class activation maps as the repositories of SEAM and others save them: code -> (H, W) float, of ``size``.

    The file is a ``.npy`` with one dictionary {class index: (H, W) float array}: a pickle, of which arrays are read
    only. ``first`` is the code of the class with index 0: 1 where the background is not counted, as there.
    """
    path = existing(path)
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it is of another version of the format")
            _, _, kind = np.lib.format.read_array_header_1_0(file)
            content = _ArraysOnly(file).load().item() if kind.hasobject else None
    except Exception as error:  # a damaged file may fail anywhere in the parser
        problem = atomic_files.one_line(error)
        raise ValueError(f"{path} cannot be read as class activation maps ({problem}); get the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no dictionary; class activation maps are {{class index: (H, W) array}}")
    cams = {}
    for index, cam in content.items():
        if not isinstance(index, int | np.integer) or not isinstance(cam, np.ndarray) or cam.ndim != 2:
            raise ValueError(f"{path}: the entry {index!r} is no class index with an (H, W) array; choose other files")
        if cam.dtype.kind != "f" or not np.isfinite(cam).all():
            raise ValueError(f"{path}: the map of class {index} is not of finite floats; compute it again")
        check_size(path, cam.shape, size)
        cams[int(index) + first] = cam
    return cams


def write_cams(path: Path, cams: Mapping[int, np.ndarray], *, first: int = 1) -> None:
    """Write class activation maps whole or not at all; inverse of `read_cams`."""
    content = np.array({int(code) - first: cam for code, cam in cams.items()})
    atomic_files.save(path, lambda file: np.save(file, content, allow_pickle=True))

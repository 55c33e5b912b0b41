"""Readers of the published label files; each translates its codes once into ``VOID``, ``UNLABELED`` and 0 … K-1.

Sizes are (height, width). Whatever is wrong with a file is a ``FileNotFoundError`` or ``ValueError`` of one sentence
that names it.
"""

import io
import json
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

from agmm.codes import UNLABELED, VOID
from agmm.host import atomic_files

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SCRIBBLESUP_CLASSES = (
    *("background", "plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor"),
)
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the 19 evaluated classes, in the order of their train ids."""

UNKNOWN = 253  # what a table of codes gives for values that the source must not hold


def _table(classes: Iterable[int], unlabeled: Iterable[int] = (), void: Iterable[int] = ()) -> np.ndarray:
    """Our code for each of the 256 values of a file; ``classes`` lists the values of classes 0, 1 …"""
    table = np.full(256, UNKNOWN, np.uint8)
    table[list(unlabeled)] = UNLABELED
    table[list(void)] = VOID
    for code, value in enumerate(classes):
        table[value] = code
    return table


CODES: dict[str, np.ndarray] = {
    "voc": _table(range(21), void=[255]),  # SegmentationClass, SegmentationClassAug
    "rloss_scribbles": _table(range(21), unlabeled=[255], void=[254]),
    "spml": _table(range(21), unlabeled=range(21, 256)),  # 255 is the padding of their crops; files hold none
    "agmm_voc": _table(range(21), unlabeled=[21], void=[255]),
    "agmm_cityscapes": _table(range(19), unlabeled=[19], void=[255]),
    "tel_cityscapes": _table(CITYSCAPES_LABEL_IDS, unlabeled=range(256)),
    "tel_ade20k": _table(range(1, 151), unlabeled=[0]),
}
"""Published PNG files: for each source, our code of every value."""


# --- PNG files --------------------------------------------------------------------------------------------------------


def read_index(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Values of a palette or 8-bit gray image, never its colors: (H, W) uint8.

    Parameters
    ----------
    path : path
        The image file.
    size : (int, int), optional
        Height and width that it must have.
    """
    path = _existing(path)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, index = image.mode, np.array(image)
    except Exception as error:  # a damaged file may fail anywhere in the decoder, a bomb before it
        raise ValueError(
            f"{path} cannot be read as an image ({atomic_files.one_line(error)}); get the file again"
        ) from error
    if mode.startswith("I") or mode == "F":
        raise ValueError(f"{path} has more than 8 bits per pixel (mode {mode}); save class codes as an 8-bit PNG")
    if mode not in ("P", "L"):
        raise ValueError(f"{path} holds colors (mode {mode}), not class codes; save it as a palette or 8-bit gray PNG")
    _check_size(path, index.shape, size)
    return index


def write_index(path: Path, index: np.ndarray) -> None:
    """Write (H, W) uint8 values as a gray PNG, whole or not at all; inverse of `read_index`."""
    buffer = io.BytesIO()
    Image.fromarray(index).save(buffer, "PNG")
    atomic_files.write(path, buffer.getvalue())


def read_labels(path: Path | str, source: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Labels of a published PNG file in our codes: (H, W) uint8.

    Parameters
    ----------
    path : path
        The image file.
    source : str
        A key of ``CODES``: who published the file.
    size : (int, int), optional
        Height and width of the image that the labels belong to.
    """
    if source not in CODES:
        raise ValueError(f"unknown source of labels {source!r}; choose one of {', '.join(CODES)}")
    index = read_index(path, size)
    labels = CODES[source][index]
    if (labels == UNKNOWN).any():
        code = index[labels == UNKNOWN][0]
        raise ValueError(f"{path} holds code {code}, which labels of {source!r} never do; check the file or the source")
    return labels


def check_annotated(labels: Iterable[np.ndarray], source: str, least: float = 0.99) -> None:
    """Raise a ``ValueError`` unless a share of at least ``least`` of the labels has an annotated pixel."""
    annotated = [bool((label < UNLABELED).any()) for label in labels]
    if sum(annotated) < least * len(annotated):
        empty = len(annotated) - sum(annotated)
        raise ValueError(f"{empty} of {len(annotated)} labels of {source!r} annotate nothing; check codes and folder")


# --- Points -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Click:
    """A class at a place of an image; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1."""

    x: float
    y: float
    code: int


def read_clicks(foreground: Path | str, background: Path | str | None = None) -> dict[str, tuple[Click, ...]]:
    """Clicks per image of What's the Point (Bearman et al. 2016), those on the background last.

    Parameters
    ----------
    foreground : path
        JSON ``{image id: [{"x", "y", "cls", "rank"}, …]}`` with classes 1 … 20.
    background : path, optional
        JSON of the same form with class 0 (simulated from scribbles by Obukhov et al. 2019). Images that only one of
        the files lists are kept.
    """
    clicks = _click_file(_existing(foreground), range(1, 21))
    if background is not None:
        for image_id, more in _click_file(_existing(background), range(1)).items():
            clicks[image_id] = clicks.get(image_id, ()) + more
    return clicks


def draw_clicks(clicks: Iterable[Click], size: tuple[int, int], width: int = 3) -> np.ndarray:
    """Labels with an ellipse of bounding box (x, y) ± width / 2 per click, later ones on top (TEL, AGMM).

    Pillow cuts the corners of the box down to integers, so that a width of 3 fills 12 pixels. A width of 1 marks the
    single pixel that holds the click. Clicks outside the image draw nothing but what reaches into it.
    """
    canvas = Image.new("L", size[::-1], UNLABELED)
    for click in clicks:
        _draw_disc(ImageDraw.Draw(canvas), click.x, click.y, width, click.code)
    return np.array(canvas)


@dataclass(frozen=True)
class ClickAgreement:
    """Numbers of clicks by what a dense mask holds under them."""

    agree: int = 0
    background: int = 0
    void: int = 0
    other_class: int = 0
    outside: int = 0

    def __add__(self, other: "ClickAgreement") -> "ClickAgreement":
        return ClickAgreement(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def click_agreement(clicks: Iterable[Click], mask: np.ndarray, background: int = 0) -> ClickAgreement:
    """Compare clicks with the dense mask of their image; add up the results of several images with ``+``."""
    found = dict.fromkeys(ClickAgreement.__dataclass_fields__, 0)
    for click in clicks:
        row, column = math.floor(click.y), math.floor(click.x)
        if not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]):
            found["outside"] += 1
            continue
        code = int(mask[row, column])
        kinds = {background: "background", VOID: "void", click.code: "agree"}
        found[kinds.get(code, "other_class")] += 1
    return ClickAgreement(**found)


def _click_file(path: Path, codes: range) -> dict[str, tuple[Click, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; it must map image ids to lists of clicks")
    clicks = {}
    for image_id, listed in content.items():
        if not isinstance(listed, list):
            raise ValueError(f"{path}, image {image_id}: clicks are a {type(listed).__name__}; they must be a list")
        clicks[image_id] = tuple(_click(path, image_id, click, codes) for click in listed)
    return clicks


def _click(path: Path, image_id: str, click: dict[str, Any], codes: range) -> Click:
    try:
        x, y, code = float(click["x"]), float(click["y"]), click["cls"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}, image {image_id}: a click needs numbers x, y and cls, this one is {str(click)[:100]}"
        ) from error
    if not (abs(x) < 1e6 and abs(y) < 1e6):  # false for NaN as well
        raise ValueError(f"{path}, image {image_id}: a click lies at x {x}, y {y}; coordinates are pixels of the image")
    if code not in codes:
        raise ValueError(f"{path}, image {image_id}: a click has cls {code}; it must be {codes[0]} … {codes[-1]}")
    return Click(x, y, int(code))


# --- Scribbles --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scribble:
    """A polyline of a class; vertices are (x, y)."""

    code: int
    vertices: tuple[tuple[int, int], ...]


def read_scribbles(path: Path | str, size: tuple[int, int] | None = None) -> tuple[tuple[int, int], list[Scribble]]:
    """Size of the image and polylines of a ScribbleSup XML file (Lin et al. 2016).

    Parameters
    ----------
    path : path
        ``annotation`` with ``size`` (``width``, ``height``) and ``polygon`` (``tag``, ``point`` with ``X``, ``Y``).
    size : (int, int), optional
        Height and width that the file must give.
    """
    path = _existing(path)
    root = read_xml(path)
    stated = (round(_number(path, root, "size/height")), round(_number(path, root, "size/width")))
    _check_size(path, stated, size)
    scribbles = []
    for polygon in root.iter("polygon"):
        code = _class(path, polygon, "tag", SCRIBBLESUP_CLASSES)
        points = polygon.findall("point")
        if not points:
            raise ValueError(f"{path}: a polygon has no point; remove it or get the file again")
        vertices = ((round(_number(path, point, "X")), round(_number(path, point, "Y"))) for point in points)
        scribbles.append(Scribble(code, tuple(vertices)))
    return stated, scribbles


def draw_scribbles(scribbles: Iterable[Scribble], size: tuple[int, int], width: int = 3) -> np.ndarray:
    """Labels with each polyline drawn with round joints and a disc at every vertex, later ones on top (TEL, AGMM)."""
    canvas = Image.new("L", size[::-1], UNLABELED)
    draw = ImageDraw.Draw(canvas)
    for scribble in scribbles:
        draw.line(scribble.vertices, fill=scribble.code, width=width, joint="curve")
        for x, y in scribble.vertices:
            _draw_disc(draw, x, y, width, scribble.code)
    return np.array(canvas)


# --- Boxes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of an image, ready for ``agmm.labels.paint_boxes``.

    Attributes
    ----------
    size : (int, int)
        Height and width of the image.
    codes : tuple of int
        Class of each box, 1 … 20.
    corners : (N, 4) integer array
        Top, left, bottom, right; zero-based, bottom and right exclusive.
    """

    size: tuple[int, int]
    codes: tuple[int, ...]
    corners: np.ndarray


def read_boxes(path: Path | str, size: tuple[int, int] | None = None) -> Boxes:
    """All boxes of a VOC annotation file, "difficult" ones included, cut to the image.

    Parameters
    ----------
    path : path
        ``annotation`` with ``size`` and ``object`` (``name``, ``bndbox`` with one-based inclusive ``xmin`` …).
    size : (int, int), optional
        Height and width that the file must give.
    """
    path = _existing(path)
    root = read_xml(path)
    stated = (round(_number(path, root, "size/height")), round(_number(path, root, "size/width")))
    _check_size(path, stated, size)
    codes, corners = [], []
    for item in root.findall("object"):
        codes.append(_class(path, item, "name", VOC_CLASSES[1:]) + 1)
        # A few files hold floats.
        box = [round(_number(path, item, f"bndbox/{side}")) for side in ("ymin", "xmin", "ymax", "xmax")]
        top, left, bottom, right = (
            max(box[0] - 1, 0),
            max(box[1] - 1, 0),
            min(box[2], stated[0]),
            min(box[3], stated[1]),
        )
        if top >= bottom or left >= right:
            raise ValueError(f"{path}: the box ymin, xmin, ymax, xmax = {box} holds no pixel of the image; correct it")
        corners.append((top, left, bottom, right))
    return Boxes(stated, tuple(codes), np.array(corners, int).reshape(-1, 4))


# --- Class activation maps --------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Dictionaries of numpy arrays and nothing else, as a pickle may otherwise call whatever it names."""

    KNOWN = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise ValueError(f"it names {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read_cams(path: Path | str, size: tuple[int, int] | None = None, *, first: int = 1) -> dict[int, np.ndarray]:
    """Class activation maps of an image as the repositories of SEAM and others save them: class code -> (H, W) float.

    Parameters
    ----------
    path : path
        ``.npy`` with one dictionary {class index: (H, W) float array}. It is a pickle, of which arrays are read only.
    size : (int, int), optional
        Height and width that the maps must have.
    first : int
        Code of the class with index 0: 1 where the background is not counted, as there.
    """
    path = _existing(path)
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
        _check_size(path, cam.shape, size)
        cams[int(index) + first] = cam
    return cams


def write_cams(path: Path, cams: Mapping[int, np.ndarray], *, first: int = 1) -> None:
    """Write class activation maps whole or not at all; inverse of `read_cams`."""
    buffer = io.BytesIO()
    np.save(buffer, np.array({int(code) - first: cam for code, cam in cams.items()}), allow_pickle=True)
    atomic_files.write(path, buffer.getvalue())


# --- Shared by the readers --------------------------------------------------------------------------------------------


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file; check the data root and the image's name")
    return path


def _check_size(path: Path, found: Sequence[int], wanted: tuple[int, int] | None) -> None:
    if wanted is not None and tuple(found) != tuple(wanted):
        raise ValueError(
            f"{path} is for {found[1]} x {found[0]} pixels, its image has {wanted[1]} x {wanted[0]}; "
            "labels and images must be of one data set"
        )


def read_xml(path: Path) -> ElementTree.Element:
    """Root of an XML file without document type, so that no entity can be declared or fetched."""
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


def _draw_disc(draw: ImageDraw.ImageDraw, x: float, y: float, width: int, code: int) -> None:
    if width == 1:
        draw.point((math.floor(x), math.floor(y)), fill=code)
    else:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=code)

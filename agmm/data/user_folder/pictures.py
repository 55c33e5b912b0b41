"""Images of users, of any depth and number of channels, as RGB of 8 bits and turned as EXIF says; and labels like them.

Microscopes and satellites write 16-bit and floating-point numbers in one or many channels. Each kind of numbers in a
folder is scaled to 0 … 255 by two percentiles of every channel over all of its images, which a model keeps.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from agmm.data import annotations, image_files
from agmm.data.annotations import Annotation
from agmm.data.drawing import Shape

PERCENTILES = 0.1, 99.9
EIGHT_BITS = "8 bits"
LARGEST = 6 * (Image.MAX_IMAGE_PIXELS or 0)  # numbers in a TIFF file; Pillow refuses twice as many pixels

Scales = dict[str, list[list[float]]]
"""Lowest and highest number of each channel by kind of image, `EIGHT_BITS` without any; empty if all have 8 bits."""

_REMEDY = "replace it, or save it as gray or RGB without compression"
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # which writes on stderr what it finds odd
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # too


@dataclass(frozen=True)
class Header:
    """What is known of an image file before its pixels are decoded."""

    kind: str  # `EIGHT_BITS`, or type of the numbers and number of channels
    size: tuple[int, int]  # height and width of the stored pixels
    orientation: int  # how EXIF turns them, 1 (not at all) … 8
    note: str  # what of the file is not read
    channels: int = 0  # 0: Pillow makes RGB of all that is read

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the image as viewers show it."""
        return self.size[::-1] if self.orientation > 4 else self.size


def header(path: Path) -> Header:
    """Read what is known of an image file without decoding it."""
    with image_files.guarded(path, _REMEDY):
        if _is_tiff(path):
            with tifffile.TiffFile(path) as tiff:
                return _tiff_header(tiff.pages.first, len(tiff.pages))
        with Image.open(path, formats=image_files.FORMATS) as image:
            bits, color = image_files.png_header(path) if image.format == "PNG" else (8, 0)
            channels = 0 if bits <= 8 else 3 if color & 2 else 1
            pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a camera adds previews
            kind = f"uint16 x {channels}" if channels else EIGHT_BITS
            return Header(kind, image.size[::-1], image_files.orientation(image), _note(pages), channels)


def headers(paths: Iterable[Path]) -> dict[Path, Header]:
    """Return the headers of all files that have one; the others are named where they are decoded."""
    found = {}
    for path in paths:
        with suppress(ValueError, OSError):
            found[path] = header(path)
    return found


def read(path: Path, scales: Scales) -> np.ndarray:
    """Read an image of a user, (H, W, 3) uint8, upright; ValueError if its kind has no scale."""
    about = header(path)
    numbers = _numbers(path, about) if about.channels else image_files.read_image(path, upright=True)
    try:
        return rgb(numbers, scales, about.kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def rgb(image: np.ndarray, scales: Scales, kind: str = "") -> np.ndarray:
    """Return an (H, W) or (H, W, C) array of any numbers as RGB, (H, W, 3) uint8, scaled as its kind is.

    One channel is gray; of more than three the first are red, green and blue. ``kind`` is by default that of the array.
    """
    image = np.atleast_3d(image)
    kind = kind or _kind(image.dtype, image.shape[2])
    if kind not in (scales or (EIGHT_BITS,)):
        known = " or ".join(scales) or EIGHT_BITS
        raise ValueError(f"an image of {kind}, but the model has learned from {known}; give it images of that kind")
    image = image[..., :3]
    if kind != EIGHT_BITS:
        image = np.dstack([_scaled(image[..., channel], *ends) for channel, ends in enumerate(scales[kind])])
    if image.shape[2] == 2:
        image = np.dstack([image, np.zeros_like(image[..., 0])])
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _scaled(channel: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.interp(channel, (low, max(high, np.nextafter(low, np.inf))), (0, 255))
    return np.rint(np.nan_to_num(share)).astype(np.uint8)


def scales(files: Mapping[Path, Header]) -> Scales:
    """Return the `PERCENTILES` of every kind of image in a folder, for each of the first three channels."""
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in sorted({about.kind for about in files.values()})}
    most = max(1024, 2**22 // (len(files) or 1))  # pixels of an image: all of a folder need not fit into memory
    for path, about in files.items():
        if about.kind != EIGHT_BITS:
            with suppress(ValueError, OSError):  # of a damaged file, which is named where its labels are drawn
                pixels = _numbers(path, about)[..., :3].reshape(-1, min(about.channels, 3))
                some = np.random.default_rng(0).integers(len(pixels), size=most)
                found[about.kind].append(pixels[some] if len(pixels) > most else pixels)
    ranges = {kind: [_range(channel) for channel in np.concatenate(all).T] for kind, all in found.items() if all}
    return {kind: ranges.get(kind, []) for kind in found} if ranges else {}


def _range(channel: np.ndarray) -> list[float]:
    known = channel[np.isfinite(channel)]
    return np.percentile(known, PERCENTILES).tolist() if len(known) else [0.0, 0.0]


def notes(
    files: Mapping[Path, Header], scales: Scales, labeled: Mapping[Path, Collection[Annotation]]
) -> Iterator[str]:
    """Yield sentences about images that are read in part, that are scaled, and whose labels EXIF may not turn.

    ``labeled`` are the images with labels, and their annotations, if these are no masks.
    """
    for note in dict.fromkeys(about.note for about in files.values() if about.note):
        yield f"{_counted(path for path, about in files.items() if about.note == note)}, {note}"
    for kind, ranges in scales.items():
        values = ", ".join(f"{low:g} … {high:g}" for low, high in ranges)
        scaled = f", scaled to 8 bits from {values}" * bool(values)
        yield f"{_counted(path for path, about in files.items() if about.kind == kind)}, are of {kind}{scaled}"
    unsure = [path for path, drawn in labeled.items() if path in files and _is_unsure(files[path], drawn)]
    if unsure:
        what = f"{_counted(unsure)}, are turned as their EXIF orientation says"
        yield f"{what}; no size tells whether labels were drawn on them as viewers show them, as they must be"


def _counted(paths: Iterable[Path]) -> str:
    first, *others = paths
    return f"{1 + len(others)} images, {first} first"


# --- Labels of an image that EXIF turns -------------------------------------------------------------------------------


def upright(path: Path, mask: np.ndarray, image: Header) -> np.ndarray:
    """Turn a mask (H, W) as its own EXIF says, or with its image if it has the size of the stored pixels; check it."""
    own = header(path).orientation
    turned = image_files.turn(mask, own)
    if own == 1 and mask.shape == image.size != image.upright:
        turned = image_files.turn(mask, image.orientation)
    try:
        image_files.check_size(path, turned.shape, image.upright)
    except ValueError as error:
        raise ValueError(f"{error}{_exif(max(own, image.orientation))}") from None
    return turned


def placed(annotation: Annotation, image: Header, notes: list[str]) -> list[Shape]:
    """Do what `annotations.placed` does for an image as viewers show it.

    An annotation may state the size of the stored pixels if its shapes fit into none but the turned image.
    """
    free = replace(annotation, size=None)
    if annotation.size == image.size != image.upright:
        try:
            annotations.placed(free, image.size, [])
        except ValueError:
            annotation = free
    try:
        return annotations.placed(annotation, image.upright, notes)
    except ValueError as error:
        raise ValueError(f"{error}{_exif(image.orientation)}") from None


def _is_unsure(image: Header, labels: Collection[Annotation]) -> bool:
    """Return whether no size tells if the labels of an image were drawn before or after EXIF turned it."""
    stated = all(annotation.size == image.upright for annotation in labels)
    return image.orientation > 1 and (image.size == image.upright or not stated)


def _exif(orientation: int) -> str:
    why = f"; its EXIF orientation, {orientation}, turns the image: draw labels on it as viewers show it"
    return why if orientation > 1 else ""


# --- Decoding ---------------------------------------------------------------------------------------------------------


def _kind(dtype: np.dtype, channels: int) -> str:
    return EIGHT_BITS if dtype.name in ("uint8", "bool") else f"{dtype.name} x {channels}"


def _note(pages: int, channels: int = 3) -> str:
    parts = [f"{pages} pages or frames, of which the first is read"] * (pages > 1)
    first = "read as red and green" if channels == 2 else "of which the first three are read as red, green and blue"
    parts += [f"{channels} channels, {first}"] * (channels not in (1, 3))
    return f"hold {' and '.join(parts)}" if parts else ""


def _is_tiff(path: Path) -> bool:
    with open(image_files.existing(path), "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _tiff_header(page: tifffile.TiffPage, pages: int) -> Header:
    channels = page.samplesperpixel - sum(extra in (1, 2) for extra in page.extrasamples)  # those are opacity
    kind, color = _kind(np.dtype(page.dtype or "O"), channels), tifffile.PHOTOMETRIC(page.photometric)
    pillows = kind == EIGHT_BITS and (channels in (1, 3) or color.name == "SEPARATED")
    plane = page.dtype is not None and page.dtype.kind in "uif" and page.imagedepth == 1 and page.size <= LARGEST
    if not pillows and not (plane and color.name in ("MINISBLACK", "RGB")):
        raise ValueError(f"{page.shape} numbers of {color.name}, {kind}, are no gray or RGB image that is read")
    turned = page.tags.valueof(274, 1)
    turned = int(turned) if turned in range(1, 9) else 1
    size, note = (page.imagelength, page.imagewidth), _note(pages, 3 if pillows else channels)
    return Header(kind, size, turned, note, 0 if pillows else channels)


def _numbers(path: Path, about: Header) -> np.ndarray:
    """Decode the first page, upright, (H, W, C) numbers without opacity, NaN where the file says that it has none."""
    with image_files.guarded(path, _REMEDY):
        decode = _tiff if _is_tiff(path) else _opencv
        numbers = decode(path, about)[..., : about.channels]
        if numbers.shape != (*about.upright, about.channels):
            raise ValueError(f"holds {numbers.shape} numbers")
        return numbers


def _tiff(path: Path, about: Header) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        try:
            numbers = page.asarray()
            numbers = np.moveaxis(numbers, page.axes.index("S"), -1) if "S" in page.axes else numbers[..., None]
            numbers = image_files.turn(numbers, about.orientation)
        except (KeyError, ValueError) as error:
            # Without the package imagecodecs LZW is left to OpenCV, which is wrong about planes, and turns on its own.
            if "imagecodecs" not in str(error) or page.planarconfig != 1:
                raise
            numbers = _opencv(path, replace(about, orientation=1)).astype(page.dtype, casting="equiv")
    if about.kind != EIGHT_BITS and 42113 in page.tags:  # GDAL's number for "no data"
        numbers = np.where(numbers == page.nodata, np.nan, numbers)
    return numbers


def _opencv(path: Path, about: Header) -> np.ndarray:
    numbers = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if numbers is None:
        raise ValueError("OpenCV reads no image")
    numbers = numbers[..., None] if numbers.ndim == 2 else numbers[..., [2, 1, 0, 3][: numbers.shape[2]]]
    return image_files.turn(numbers, about.orientation)

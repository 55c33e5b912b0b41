"""Files of images and masks: read into RGB and label codes, written, and checked.

Whatever is wrong with a file is a ``FileNotFoundError`` or ``ValueError`` of one sentence that names it. Sizes are
(height, width).
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import numpy as np
import scipy.io
from PIL import ExifTags, Image, PngImagePlugin

from agmm.codes import VOID
from agmm.host import atomic_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
"""Formats that are decoded, whatever a file is called: among Pillow's others some start programs."""

# Pillow refuses what declares twice as many pixels; until there it is a large image, and no line on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # on odd EXIF data

Pair = tuple[Path, Path]  # files of an image and of its mask


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Read an image as RGB, (H, W, 3) uint8; gray and palette images are converted.

    ``upright`` turns a photograph as its camera noted (EXIF), the way viewers and labeling tools show it. Images of
    more than 8 bits per channel are refused.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and png_header(path)[0] > 8):
        raise ValueError(f"{path}: a 16-bit or floating-point image; save it with 8 bits per channel")
    with guarded(path):
        return turn(np.asarray(image.convert("RGB")), orientation(image) if upright else 1)


def orientation(image: Image.Image) -> int:
    """Return how the pixels of an image are to be turned, 1 (not at all) … 8, as its EXIF data say."""
    if isinstance(image, PngImagePlugin.PngImageFile):  # which Pillow would decode, as EXIF data may come last
        content = Path(str(image.filename)).read_bytes()
        if not any(mark in content for mark in (b"eXIf", b"Raw profile type", b"com.adobe.xmp")):
            return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(value) if value in range(1, 9) else 1


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an (H, W, …) array as an orientation of EXIF says."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    vertical = -1 if orientation in (3, 4, 7, 8) else 1
    horizontal = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(array[::vertical, ::horizontal])


def png_header(path: Path) -> tuple[int, int]:
    """Return the bits per channel and the color type of a PNG file."""
    with open(path, "rb") as file:
        return tuple(file.read(26)[24:])  # type: ignore[return-value]


def read_size(path: Path) -> tuple[int, int]:
    """Read the size of an image without decoding it."""
    width, height = _open(path, decode=False).size
    return height, width


def read_index(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read the values, never the colors, of a gray or palette PNG of up to 8 bits, (H, W) uint8; refuse other files."""
    image = _open(path, formats=("PNG",))
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} has more than 8 bits per pixel (mode {image.mode}); save class codes as an 8-bit PNG")
    if image.mode == "LA" and image.getextrema()[1] == (255, 255):
        image = image.getchannel("L")  # gray, and opaque everywhere
    if image.mode not in ("1", "L", "P"):
        what = f"{path} holds colors (mode {image.mode})"
        raise ValueError(f"{what}, not class codes; save it as a palette or 8-bit gray PNG")
    check_size(path, image.size[::-1], size)
    bits, values = png_header(path)[0], np.asarray(image, np.uint8)
    # Pillow spreads gray of fewer bits over 0 … 255 as for an image, but one bit over 0 and 1.
    return values // (255 // (2**bits - 1)) if image.mode == "L" else values


def palette(path: Path) -> bytes:
    """Return the colors of a palette PNG, three bytes each; of any other file none."""
    with contextlib.suppress(ValueError, OSError):
        colors = _open(path, decode=False, formats=("PNG",)).palette
        return bytes(colors.palette) if colors else b""
    return b""


def read_index_of(two: Pair) -> np.ndarray:
    """Read the values of a file that belongs to an image, given after it, and must be of its size."""
    image, path = two
    return read_index(path, read_size(image))


def write_index(path: Path, index: np.ndarray) -> None:
    """Write (H, W) uint8 values as a gray PNG, whole or not at all; inverse of `read_index`."""
    atomic_files.save(path, lambda file: Image.fromarray(index).save(file, "PNG"))


def read_mask(path: Path, codes: Mapping[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask, (H, W) uint8, of ``size`` if given, translated from the file's codes into the project's.

    The file is one for `read_index`, or a class mask of SBD (``.mat``). ``codes`` has for every value that it may hold
    a class 0 … K-1, ``VOID`` or ``UNLABELED``; other values are refused.
    """
    values = read_sbd(path, "GTcls", size) if path.suffix == ".mat" else read_index(path, size)
    table = np.full(256, -1, np.int16)
    table[list(codes)] = list(codes.values())
    translated = table[values]
    if (translated < 0).any():
        unknown = ", ".join(map(str, np.unique(values[translated < 0])[:5]))
        raise ValueError(f"{path}: holds code {unknown}, which its data set does not define; correct or replace it")
    return translated.astype(np.uint8)


def read_sbd(path: Path, struct: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask of the Semantic Boundaries Dataset, (H, W) uint8: classes (``"GTcls"``) or objects (``"GTinst"``)."""
    try:
        values = np.asarray(scipy.io.loadmat(existing(path), variable_names=[struct])[struct]["Segmentation"][0, 0])
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in the parser
        raise ValueError(
            f"{path}: cannot be read as {struct} of SBD ({atomic_files.one_line(error)}); replace the file"
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or not ((values >= 0) & (values <= VOID)).all():
        raise ValueError(f"{path}: {struct} holds {values.dtype} of shape {values.shape}, no mask; replace the file")
    check_size(path, values.shape, size)
    return values.astype(np.uint8)


def of_images(
    images: Sequence[Path],
    paths: Mapping[str, Path],
    folder: Path,
    what: str,
    suffix: str = ".png",
    key: Callable[[Path], str] = attrgetter("stem"),
) -> list[Path]:
    """Return a file for every image, by its id; ValueError where a folder lacks some."""
    absent = sorted(key(image) for image in images if key(image) not in paths)
    if absent:
        raise ValueError(
            f"{folder}: {len(absent)} of {len(images)} images have no {what}, {absent[0]}{suffix} first; "
            "complete the folder or move it elsewhere"
        )
    return [paths[key(image)] for image in images]


def read_pairs(
    pairs: Iterable[Pair], codes: Mapping[int, int]
) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, list[str]]]:
    """Read pairs in order: image, mask and problems; what could not be read is None and named in a problem."""
    with ThreadPoolExecutor() as threads:
        yield from threads.map(lambda two: _read_pair(two, codes), pairs)


def _read_pair(two: Pair, codes: Mapping[int, int]) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    image_path, mask_path = two
    image = mask = None
    problems = []
    try:
        image = read_image(image_path)
    except FileNotFoundError:
        problems.append(f"{mask_path}: a mask without its image {image_path}; add the image or remove the mask")
    except ValueError as error:
        problems.append(str(error))
    try:
        mask = read_mask(mask_path, codes, None if image is None else image.shape[:2])
    except FileNotFoundError:
        problems.append(f"{image_path}: an image without its mask {mask_path}; add the mask or remove the image")
    except ValueError as error:
        problems.append(str(error))
    return image, mask, problems


def raise_if_bad(problems: Sequence[str], what: str, first: int = 5) -> None:
    """Raise a ValueError with the number of problems and the first few; pass silently without any."""
    if len(problems) == 1:
        raise ValueError(f"{what}: 1 problem found: {problems[0]}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems[:first])
        more = f"\n  and {len(problems) - first} more" if len(problems) > first else ""
        raise ValueError(f"{what}: {len(problems)} problems found{lines}{more}")


def visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder with one of the endings, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))


def existing(path: str | Path) -> Path:
    """Return the path of a file, or raise a FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the data root and the image's name")
    return path


def check_size(path: Path, size: Sequence[int], image_size: Sequence[int] | None) -> None:
    """Raise a ValueError where labels are of another size than their image."""
    if image_size is not None and tuple(size) != tuple(image_size):
        raise ValueError(
            f"{path} is for {size[1]} x {size[0]} pixels, its image has {image_size[1]} x {image_size[0]}; "
            "labels and images must be of one data set"
        )


@contextmanager
def guarded(path: Path, remedy: str = "replace the file") -> Iterator[None]:
    """Make one sentence of the many ways in which libraries fail to read an image."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ValueError(f"{path}: not readable; change its permissions") from error
    except Exception as error:  # a damaged file may fail anywhere in the decoder, a bomb before it
        raise ValueError(f"{path}: cannot be decoded ({atomic_files.one_line(error)}); {remedy}") from error


def _open(path: Path, decode: bool = True, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    with guarded(path), Image.open(existing(path), formats=formats) as image:
        if decode:
            image.load()
        return image

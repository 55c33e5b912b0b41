"""Folders of images and masks: reading them into RGB and label codes, and saying what is wrong with them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image, ImageOps

from agmm.codes import VOID
from agmm.host import atomic_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""What is decoded, whatever a file is called: among Pillow's other formats some start other programs."""

# Pillow refuses what declares twice as many pixels; until there it is a large image, and no line on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Pair = tuple[Path, Path]


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """
    Read an image as RGB, (H, W, 3) uint8; gray and palette images are converted.

    Parameters
    ----------
    path : Path
    upright : bool
        Turn a photograph as its camera noted (EXIF), the way viewers and labeling tools show it.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, or has more than 8 bits per channel.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path}: a 16-bit or floating-point image; save it with 8 bits per channel")
    return np.asarray((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))


def read_mask(path: Path, codes: Mapping[int, int]) -> np.ndarray:
    """
    Read an 8-bit mask, (H, W) uint8, translated from the file's codes into the project's.

    Parameters
    ----------
    path : Path
        A gray or palette PNG; of a palette image the indices count, not the colors. Or a class mask of SBD (``.mat``).
    codes : mapping of int to int
        For every value the file may hold its class 0 … K-1, ``VOID`` or ``UNLABELED``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, not 8-bit single-channel, or holds a value that `codes` lacks.
    """
    values = read_sbd(path, "GTcls") if path.suffix == ".mat" else _read_index(path)
    table = np.full(256, -1, np.int16)
    table[list(codes)] = list(codes.values())
    translated = table[values]
    if (translated < 0).any():
        unknown = ", ".join(map(str, np.unique(values[translated < 0])[:5]))
        raise ValueError(f"{path}: holds code {unknown}, which this data set does not define; correct the mask")
    return translated.astype(np.uint8)


def read_sbd(path: Path, struct: str) -> np.ndarray:
    """
    Read a mask of the Semantic Boundaries Dataset, (H, W) uint8: ``"GTcls"`` holds classes, ``"GTinst"`` objects.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or is no such MATLAB file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = np.asarray(scipy.io.loadmat(path, variable_names=[struct])[struct]["Segmentation"][0, 0])
    except Exception as error:  # a damaged file may fail anywhere in the parser
        raise ValueError(
            f"{path}: cannot be read as {struct} of SBD ({atomic_files.one_line(error)}); replace the file"
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or not ((values >= 0) & (values <= VOID)).all():
        raise ValueError(f"{path}: {struct} holds {values.dtype} of shape {values.shape}, no mask; replace the file")
    return values.astype(np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, without decoding it; raises as `read_image`."""
    width, height = _open(path, decode=False).size
    return height, width


def pair(image_folder: Path, mask_folder: Path) -> list[Pair]:
    """Images and masks of equal stem, sorted; where one partner is missing, the path where it should be."""
    images: dict[str, Path] = {}
    for path in _listed(image_folder, IMAGE_SUFFIXES):
        if path.stem in images:
            raise ValueError(f"{path}: a second image beside {images[path.stem].name}; keep one of them")
        images[path.stem] = path
    masks = {path.stem: path for path in _listed(mask_folder, (".png",))}
    stems = sorted(images.keys() | masks.keys())
    return [
        (images.get(stem, image_folder / f"{stem}.png"), masks.get(stem, mask_folder / f"{stem}.png")) for stem in stems
    ]


def read_pairs(
    pairs: Iterable[Pair], codes: Mapping[int, int]
) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, list[str]]]:
    """Image, mask and problems of every pair in order; what could not be read is None and named in a problem."""
    with ThreadPoolExecutor() as threads:
        yield from threads.map(lambda two: _read_pair(two, codes), pairs)


def check(pairs: Iterable[Pair], codes: Mapping[int, int]) -> list[str]:
    """Read every file once and return one sentence per problem, each naming its file; empty if all is well."""
    return [problem for _, _, problems in read_pairs(pairs, codes) for problem in problems]


def raise_if_bad(problems: Sequence[str], what: str, first: int = 5) -> None:
    """Raise a ValueError that tells the number of problems and shows the first few; pass silently without any."""
    if len(problems) == 1:
        raise ValueError(f"{what}: 1 problem found: {problems[0]}")
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:first])
        more = f"\n  and {len(problems) - first} more" if len(problems) > first else ""
        raise ValueError(f"{what}: {len(problems)} problems found{shown}{more}")


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
        mask = read_mask(mask_path, codes)
    except FileNotFoundError:
        problems.append(f"{image_path}: an image without its mask {mask_path}; add the mask or remove the image")
    except ValueError as error:
        problems.append(str(error))
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        of_mask, of_image = (f"{shape[1]} x {shape[0]}" for shape in (mask.shape, image.shape))
        problems.append(f"{mask_path}: a mask of {of_mask} pixels for an image of {of_image}; they must agree")
    return image, mask, problems


def _read_index(path: Path) -> np.ndarray:
    image = _open(path)
    if image.mode.startswith("I"):
        raise ValueError(f"{path}: a 16-bit mask; save its class codes as an 8-bit gray or palette PNG")
    if image.mode not in ("L", "P"):
        raise ValueError(
            f"{path}: a mask of mode {image.mode}; save its class codes, not colors, as an 8-bit gray or palette PNG"
        )
    return np.asarray(image)


def _open(path: Path, decode: bool = True) -> Image.Image:
    """The decoded image; Pillow's many ways to fail become one sentence."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if decode:
                image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except PermissionError as error:
        raise ValueError(f"{path}: not readable; change its permissions") from error
    except Exception as error:  # a damaged file may fail anywhere in the decoder, a bomb before it
        raise ValueError(f"{path}: cannot be decoded ({atomic_files.one_line(error)}); replace the file") from error


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))

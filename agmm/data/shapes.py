"""The embedded data set: geometric shapes over photographs, generated in memory, nothing downloaded.

Six classes of shapes are pasted over crops of photographs that ship inside the scikit-learn and scikit-image
packages. It demonstrates the methods in minutes on a CPU; it is no evidence for the papers' numbers.
"""

import colorsys
import io
import math
import zipfile
import zlib
from collections.abc import Callable
from functools import cache as memoize
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm import storage
from agmm.data import Split

CLASS_NAMES = ("background", "disk", "square", "triangle", "ring", "cross", "star")
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
)
VERSION = 1  # raised whenever a change of this module changes an image

_STREAMS = {"train": 0, "test": 1, "pretrain": 2}
_TRAINING_SHARE = 0.7  # of each photograph's width, from the left; held-out images take the rest
_TRIES = 8
_MAX_OVERLAP = 0.03
_MIN_CONTRAST = 0.2


def make(split: str, count: int, *, size: int = 64, seed: int = 0, cache: Path | None = None) -> Split:
    """
    Generate one split. Image i depends on ``(seed, split, size, i)`` only, not on `count`.

    Parameters
    ----------
    split : {"train", "test", "pretrain"}
        Three disjoint random streams; "test" also sees other parts of the photographs than the two others.
    count : int
        Number of images, about 2 ms each.
    size : int
        Side of the square images in pixels.
    seed : int
        Seed of the data, not of a training.
    cache : Path, optional
        Folder where the arrays are kept between calls; a damaged file is generated again.

    Returns
    -------
    Split
        With instances; class 0 is background. Nothing is ``VOID``.

    Raises
    ------
    ValueError
        For an unknown split or a number out of range.
    FileNotFoundError
        If an installed package lacks one of its photographs.
    """
    if split not in _STREAMS:
        raise ValueError(f"shapes: unknown split {split!r}, choose one of {', '.join(_STREAMS)}")
    if count < 1 or size < 16 or seed < 0:
        raise ValueError(f"shapes: need count >= 1, size >= 16, seed >= 0, got {count=}, {size=}, {seed=}")
    file = None if cache is None else Path(cache) / f"shapes-v{VERSION}-{split}-count{count}-size{size}-seed{seed}.npz"
    arrays = None if file is None else _read(file, count, size)
    if arrays is None:
        arrays = _generate(split, count, size, seed)
        if file is not None:
            _write(file, arrays)
    return Split(
        dataset="shapes",
        class_names=CLASS_NAMES,
        ids=tuple(f"{split}-{i:05d}" for i in range(count)),
        images=arrays["images"],
        truth=arrays["truth"],
        background=0,
        instances=arrays["instances"],
    )


def _generate(split: str, count: int, size: int, seed: int) -> dict[str, Any]:
    photographs = _photographs("right" if split == "test" else "left")
    images = np.empty((count, size, size, 3), np.uint8)
    truth = np.empty((count, size, size), np.uint8)
    instances = np.empty((count, size, size), np.uint8)
    for i in range(count):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _STREAMS[split], i))))
        images[i], truth[i], instances[i] = _scene(rng, photographs, size)
    return {"images": images, "truth": truth, "instances": instances}


def _scene(
    rng: np.random.Generator, photographs: tuple[np.ndarray, ...], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image (S, S, 3), its classes (S, S) and its objects (S, S), all uint8."""
    canvas = _photo_crop(rng, photographs, size)
    _draw_clutter(rng, canvas)
    truth = np.zeros((size, size), np.uint8)
    instances = np.zeros((size, size), np.uint8)
    for number, (k, mask) in enumerate(_layout(rng, size), start=1):
        texture = 0.5 * _photo_crop(rng, photographs, size)[mask]
        canvas[mask] = _fill(rng, k, texture - texture.mean(axis=0), canvas[mask])
        truth[mask] = k
        instances[mask] = number
    across, down = _uniform(rng, -0.2, 0.2), _uniform(rng, -0.2, 0.2)
    ramp = 2 * _pixel_centers(size) - 1
    canvas *= (1 + across * ramp[None, :] + down * ramp[:, None])[..., None]
    canvas += 0.03 * rng.standard_normal(canvas.shape)
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8), truth, instances


def _layout(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """Class and mask of the objects that found a place; masks may overlap by 3 %, the later one is in front."""
    placed: list[tuple[int, np.ndarray]] = []
    taken = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(1, len(CLASS_NAMES)))
        for _ in range(_TRIES):
            half = _uniform(rng, 0.22, 0.36)
            # Shapes may touch the border but hardly leave the image: about 1.35 objects find a place.
            x, y = (_uniform(rng, 0.88 * half, 1 - 0.88 * half) for _ in range(2))
            mask = _SHAPES[k](*_local_grid(size, x, y, half, half, _uniform(rng, 0, 2 * math.pi)))
            if (mask & taken).sum() <= _MAX_OVERLAP * mask.sum():
                placed.append((k, mask))
                taken |= mask
                break
    return placed


def _fill(rng: np.random.Generator, k: int, texture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Color of class k plus texture, (N, 3), redrawn until it stands out from the (N, 3) pixels it will cover."""
    for _ in range(100):
        hue = (k / 6 + 0.06 * rng.standard_normal()) % 1
        color = colorsys.hsv_to_rgb(hue, _uniform(rng, 0.4, 0.9), _uniform(rng, 0.4, 0.95))
        fill = np.clip(texture + color, 0, 1)
        if np.abs(fill - background).mean() > _MIN_CONTRAST:
            break
    return fill


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Two to five ellipses of random color, in place."""
    for _ in range(int(rng.integers(2, 6))):
        x, y, color = rng.random(), rng.random(), rng.random(3)
        half_axes = _uniform(rng, 0.05, 0.2), _uniform(rng, 0.05, 0.2)
        u, v = _local_grid(len(canvas), x, y, *half_axes, _uniform(rng, 0, math.pi))
        canvas[_disk(u, v)] = color


def _photo_crop(rng: np.random.Generator, photographs: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """A square of 0.6 to 2 image sides from one photograph, sampled to (S, S, 3) float64 in [0, 1]."""
    photo = photographs[int(rng.integers(len(photographs)))]
    height, width = photo.shape[:2]
    side = min(_uniform(rng, 0.6, 2) * size, height, width)
    # Own bilinear sampling: an image library's resize rounds differently from one release to the next.
    y = (rng.random() * (height - side) + side * _pixel_centers(size) - 0.5).clip(0, height - 1)
    x = (rng.random() * (width - side) + side * _pixel_centers(size) - 0.5).clip(0, width - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    weight_y, weight_x = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = photo[top[:, None], left] * (1 - weight_x) + photo[top[:, None], right] * weight_x
    lower = photo[bottom[:, None], left] * (1 - weight_x) + photo[bottom[:, None], right] * weight_x
    return (upper * (1 - weight_y) + lower * weight_y) / 255


@memoize
def _photographs(part: str) -> tuple[np.ndarray, ...]:
    """The left 70 % or the right 30 % of each photograph, cut before any sampling so that no pixel is shared."""
    parts = []
    for package, name in PHOTOGRAPHS:
        # Read as plain files: the packages' own loaders may reach for the network, and importing them takes seconds.
        spec = find_spec(package)
        path = Path(spec.origin or "").parent / name if spec else Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"shapes: {package} lacks its file {name}; reinstall the package from its wheel")
        with Image.open(path) as file:
            photo = np.asarray(file.convert("RGB"))
        border = round(_TRAINING_SHARE * photo.shape[1])
        parts.append(photo[:, :border] if part == "left" else photo[:, border:])
    return tuple(parts)


def _local_grid(
    size: int, x: float, y: float, half_width: float, half_height: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel center (S, S) in the rotated frame around (x, y) in which the shapes fill about [-1, 1] x [-1, 1]."""
    centers = _pixel_centers(size)
    dx, dy = (centers - x)[None, :], (centers - y)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    return (cos * dx + sin * dy) / half_width, (cos * dy - sin * dx) / half_height


def _disk(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v <= 1


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v >= -0.5) & (math.sqrt(3) * np.abs(u) + v <= 1)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = u * u + v * v
    return (radius <= 1) & (radius >= 0.55**2)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return (np.maximum(u, v) <= 1) & (np.minimum(u, v) <= 0.3)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The pentagram in the unit circle: points on the inner side of at least four of its five lines."""
    normals = [2 * math.pi * i / 5 for i in range(5)]
    inner = [math.cos(a) * u + math.sin(a) * v <= math.cos(2 * math.pi / 5) for a in normals]
    return np.sum(inner, axis=0) >= 4


_SHAPES: dict[int, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    1: _disk,
    2: _square,
    3: _triangle,
    4: _ring,
    5: _cross,
    6: _star,
}


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _pixel_centers(size: int) -> np.ndarray:
    return (np.arange(size) + 0.5) / size


def _read(file: Path, count: int, size: int) -> dict[str, Any] | None:
    """The arrays of a cache file, or None if it is missing, damaged or of another shape."""
    shapes = {"images": (count, size, size, 3), "truth": (count, size, size), "instances": (count, size, size)}
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in shapes}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    sound = all(arrays[name].dtype == np.uint8 and arrays[name].shape == shapes[name] for name in shapes)
    return arrays if sound else None


def _write(file: Path, arrays: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write(file, buffer.getvalue())

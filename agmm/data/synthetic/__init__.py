"""Generated data sets: a recipe for each, random streams, photographs of installed packages, a cache of the arrays."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as memoize
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.data.split import Split
from agmm.host import atomic_files

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
_STREAMS = {"train": 0, "test": 1, "pretrain": 2}
_TRAINING_SHARE = 0.7  # of each photograph's width, from the left; held-out images take the rest

Photographs = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Recipe:
    """A generated data set; class names, background and mirrored are as in `Split`."""

    dataset: str  # its name in splits, files and messages
    version: int  # raised whenever a change of the code changes an image
    class_names: tuple[str, ...]
    background: int | None
    masks: tuple[str, ...]  # ("truth",) or ("truth", "instances")
    scene: Callable[[np.random.Generator, Photographs, int], tuple[np.ndarray, ...]]
    """``scene(rng, photographs, size)`` draws one image (S, S, 3) and its masks (S, S), all uint8."""
    mirrored: tuple[int, ...] | None = None

    def make(self, split: str, count: int, *, size: int = 64, seed: int = 0, cache: Path | None = None) -> Split:
        """Generate one split, 2 to 5 ms an image; every pixel has a class, none is ``VOID``.

        Splits are three disjoint random streams: "train", "pretrain", and "test", which also sees other parts of the
        photographs. Image i is a square of side ``size`` in pixels and depends on ``(seed, split, size, i)`` only, not
        on ``count``; the seed is that of the data, not of a training. In the folder ``cache`` the arrays are kept; a
        damaged file is generated again. ValueError for an unknown split or a number out of range, FileNotFoundError if
        an installed package lacks one of its photographs.
        """
        name = self.dataset
        if split not in _STREAMS:
            raise ValueError(f"{name}: unknown split {split!r}, choose one of {', '.join(_STREAMS)}")
        if count < 1 or size < 16 or seed < 0:
            raise ValueError(f"{name}: need count >= 1, size >= 16, seed >= 0, got {count=}, {size=}, {seed=}")
        stem = f"{name}-v{self.version}-{split}-count{count}-size{size}-seed{seed}"
        file = None if cache is None else Path(cache) / f"{stem}.npz"
        shapes: dict[str, tuple[int, ...]] = {"images": (count, size, size, 3)}
        shapes.update((mask, (count, size, size)) for mask in self.masks)
        arrays = _read(file, shapes) if file else None
        if arrays is None:
            arrays = self._draw(shapes, split, size, seed)
            if file:
                _write(file, arrays)
        return Split(
            dataset=name,
            class_names=self.class_names,
            ids=tuple(f"{split}-{i:05d}" for i in range(count)),
            background=self.background,
            mirrored=self.mirrored,
            **arrays,
        )

    def _draw(self, shapes: dict[str, tuple[int, ...]], split: str, size: int, seed: int) -> dict[str, Any]:
        source = photographs("right" if split == "test" else "left")
        arrays = {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
        for i in range(len(arrays["images"])):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _STREAMS[split], i))))
            for array, drawn in zip(arrays.values(), self.scene(rng, source, size), strict=True):
                array[i] = drawn
        return arrays


def _read(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Read the arrays of a cache file, or None if it is missing, damaged or of another shape."""
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in shapes}
    except Exception:  # a damaged file may fail anywhere in the parser
        return None
    sound = all(arrays[name].dtype == np.uint8 and arrays[name].shape == shapes[name] for name in shapes)
    return arrays if sound else None


def _write(file: Path, arrays: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.save(file, lambda buffer: np.savez(buffer, **arrays))


def develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add linear illumination of up to 20 % along either axis, noise, 8 bits; (S, S, 3) in [0, 1], changed in place."""
    across, down = uniform(rng, -0.2, 0.2), uniform(rng, -0.2, 0.2)
    ramp = 2 * pixel_centers(len(canvas)) - 1
    canvas *= (1 + across * ramp[None, :] + down * ramp[:, None])[..., None]
    canvas += 0.03 * rng.standard_normal(canvas.shape)
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def photo_crop(rng: np.random.Generator, photographs: Photographs, size: int) -> np.ndarray:
    """Cut a square of 0.6 to 2 image sides from one photograph, sampled to (S, S, 3) float64 in [0, 1]."""
    photo = photographs[int(rng.integers(len(photographs)))]
    height, width = photo.shape[:2]
    side = min(uniform(rng, 0.6, 2) * size, height, width)
    # Own bilinear sampling: an image library's resize rounds differently from one release to the next.
    y = (rng.random() * (height - side) + side * pixel_centers(size) - 0.5).clip(0, height - 1)
    x = (rng.random() * (width - side) + side * pixel_centers(size) - 0.5).clip(0, width - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    weight_y, weight_x = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = photo[top[:, None], left] * (1 - weight_x) + photo[top[:, None], right] * weight_x
    lower = photo[bottom[:, None], left] * (1 - weight_x) + photo[bottom[:, None], right] * weight_x
    return (upper * (1 - weight_y) + lower * weight_y) / 255


@memoize
def photographs(part: str) -> Photographs:
    """Return the left 70 % or the right 30 % of each photograph, cut before any sampling so that no pixel is shared."""
    parts = []
    for package, name in PHOTOGRAPHS:
        # Read as plain files: the packages' own loaders may reach for the network, and importing them takes seconds.
        spec = find_spec(package)
        path = Path(spec.origin or "").parent / name if spec else Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{package} lacks its file {name}; reinstall the package from its wheel")
        with Image.open(path) as file:
            photo = np.asarray(file.convert("RGB"))
        border = round(_TRAINING_SHARE * photo.shape[1])
        parts.append(photo[:, :border] if part == "left" else photo[:, border:])
    return tuple(parts)


def local_grid(
    size: int, x: float, y: float, half_width: float, half_height: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centers (S, S) in the rotated frame around (x, y) in which shapes fill about [-1, 1] x [-1, 1]."""
    centers = pixel_centers(size)
    dx, dy = (centers - x)[None, :], (centers - y)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    return (cos * dx + sin * dy) / half_width, (cos * dy - sin * dx) / half_height


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between two."""
    return low + (high - low) * rng.random()


def color(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """Draw a color (3,) within bounds."""
    h, s, v = (uniform(rng, *bounds) for bounds in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v))


def pixel_centers(size: int) -> np.ndarray:
    """Return the places (size,) of the centers of a row of pixels, from 0 to 1."""
    return (np.arange(size) + 0.5) / size

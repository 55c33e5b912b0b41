"""The embedded counterparts of Pascal VOC and COCO: geometric shapes over photographs, nothing downloaded.

Six classes of shapes are pasted over crops of photographs that ship inside the scikit-learn and scikit-image
packages. It demonstrates the methods in minutes on a CPU; it is no evidence for the papers' numbers.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from agmm.data import synthetic

CLASS_NAMES = ("background", "disk", "square", "triangle", "ring", "cross", "star")
VERSION = 1  # raised whenever a change of this module changes an image
_TRIES = 8
_MAX_OVERLAP = 0.03
_MIN_CONTRAST = 0.2


def _scene(
    rng: np.random.Generator,
    photographs: synthetic.Photographs,
    size: int,
    objects: tuple[int, int] = (1, 3),
    half_sides: tuple[float, float] = (0.22, 0.36),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one image (S, S, 3), its classes (S, S) and its objects (S, S), all uint8."""
    canvas = synthetic.photo_crop(rng, photographs, size)
    _draw_clutter(rng, canvas)
    truth, instances = np.zeros((2, size, size), np.uint8)
    for number, (k, mask) in enumerate(_layout(rng, size, objects, half_sides), start=1):
        texture = 0.5 * synthetic.photo_crop(rng, photographs, size)[mask]
        canvas[mask] = _fill(rng, k, texture - texture.mean(axis=0), canvas[mask])
        truth[mask] = k
        instances[mask] = number
    return synthetic.develop(rng, canvas), truth, instances


SHAPES = synthetic.Recipe("shapes", VERSION, CLASS_NAMES, 0, ("truth", "instances"), _scene)
CROWDS = replace(SHAPES, dataset="crowds", scene=partial(_scene, objects=(2, 6), half_sides=(0.12, 0.2)))
"""Two to six smaller objects an image: what COCO is to Pascal VOC."""


def _layout(
    rng: np.random.Generator, size: int, objects: tuple[int, int], half_sides: tuple[float, float]
) -> list[tuple[int, np.ndarray]]:
    """Return class and mask of the objects that found a place; masks may overlap by 3 %, the later one is in front."""
    placed: list[tuple[int, np.ndarray]] = []
    taken = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        k = int(rng.integers(1, len(CLASS_NAMES)))
        for _ in range(_TRIES):
            half = synthetic.uniform(rng, *half_sides)
            # Shapes may touch the border but hardly leave the image: about 1.35 objects find a place.
            x, y = (synthetic.uniform(rng, 0.88 * half, 1 - 0.88 * half) for _ in range(2))
            mask = _MASKS[CLASS_NAMES[k]](
                *synthetic.local_grid(size, x, y, half, half, synthetic.uniform(rng, 0, 2 * math.pi))
            )
            if (mask & taken).sum() <= _MAX_OVERLAP * mask.sum():
                placed.append((k, mask))
                taken |= mask
                break
    return placed


def _fill(rng: np.random.Generator, k: int, texture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Draw a color of class k plus texture, (N, 3), again until it stands out from the (N, 3) pixels it will cover."""
    for _ in range(100):
        hue = (k / 6 + 0.06 * rng.standard_normal()) % 1
        color = colorsys.hsv_to_rgb(hue, synthetic.uniform(rng, 0.4, 0.9), synthetic.uniform(rng, 0.4, 0.95))
        fill = np.clip(texture + color, 0, 1)
        if np.abs(fill - background).mean() > _MIN_CONTRAST:
            break
    return fill


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw two to five ellipses of random color, in place."""
    for _ in range(int(rng.integers(2, 6))):
        x, y, color = rng.random(), rng.random(), rng.random(3)
        half_axes = synthetic.uniform(rng, 0.05, 0.2), synthetic.uniform(rng, 0.05, 0.2)
        u, v = synthetic.local_grid(len(canvas), x, y, *half_axes, synthetic.uniform(rng, 0, math.pi))
        canvas[_MASKS["disk"](u, v)] = color


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The pentagram in the unit circle: points on the inner side of at least four of its five lines."""
    normals = [2 * math.pi * i / 5 for i in range(5)]
    inner = [math.cos(a) * u + math.sin(a) * v <= math.cos(2 * math.pi / 5) for a in normals]
    return np.sum(inner, axis=0) >= 4


_MASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disk": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.8,
    "triangle": lambda u, v: (v >= -0.5) & (math.sqrt(3) * np.abs(u) + v <= 1),
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.55**2),
    "cross": lambda u, v: (np.maximum(np.abs(u), np.abs(v)) <= 1) & (np.minimum(np.abs(u), np.abs(v)) <= 0.3),
    "star": _star,
}

"""Masks as pictures: colors of classes, palette PNG, overlays."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, background: int | None) -> np.ndarray:
    """Lay classes over an image in half-transparent colors, all but the background."""
    mixed = (image.astype(np.uint16) + colors[classes]) // 2
    return np.where((classes == background)[..., None], image, mixed).astype(np.uint8)


def palette(count: int, background: int | None) -> np.ndarray:
    """Return colors (K, 3) uint8 of classes: those of VOC's masks from 1 on, and black for the background."""
    numbers = [0 if code == background else code + (background is None or code < background) for code in range(count)]
    bits = (np.array(numbers)[:, None, None] >> (3 * np.arange(8) + np.arange(3)[:, None])) & 1
    return (bits << (7 - np.arange(8))).sum(axis=2).astype(np.uint8)


def legend(names: Sequence[str], colors: np.ndarray) -> pd.DataFrame:
    """Return code, name and hexadecimal color of every class."""
    hexadecimal = ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]
    return pd.DataFrame({"code": range(len(names)), "class": names, "color": hexadecimal})


def jpeg(image: np.ndarray) -> bytes:
    """Encode an (H, W, 3) uint8 image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def png(index: np.ndarray, colors: np.ndarray) -> bytes:
    """Encode an (H, W) uint8 mask of classes with a palette of their colors."""
    image, buffer = Image.fromarray(index), io.BytesIO()
    image.putpalette(colors.tobytes())
    image.save(buffer, "PNG")
    return buffer.getvalue()

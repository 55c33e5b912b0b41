"""Shapes of annotators: clicks, strokes, polygons, boxes and tags, and how they become label maps.

Coordinates are pixels, x to the right and y down; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from agmm.codes import UNLABELED

Kind = Literal["point", "line", "polygon", "box", "tag"]


@dataclass(frozen=True)
class Shape:
    """A class at a place of an image."""

    kind: Kind  # a box has two opposite corners, a tag (the class is somewhere in the image) no vertex
    code: int  # class, 0 … K-1
    vertices: tuple[tuple[float, float], ...] = ()  # x and y of each


def draw(shapes: Iterable[Shape], size: tuple[int, int], width: int = 3) -> np.ndarray:
    """Draw polygons, lines and points, in this order, so that the most careful is in front; of a kind the later on top.

    Lines have round joints and a disc at every vertex, a point is a disc (TEL, AGMM). Pillow cuts the corners of a
    disc's box (x, y) ± width / 2 down to integers, so that a width of 3 fills 12 pixels; a width of 1 marks the single
    pixel that holds the vertex. What lies outside the image draws nothing but what reaches into it. Boxes and tags draw
    nothing. Return class codes, and ``UNLABELED`` where nothing is drawn: (H, W) uint8 for ``size`` (H, W).
    """
    shapes = list(shapes)
    labels = np.full(size, UNLABELED, np.uint8)
    for shape in shapes:
        if shape.kind == "polygon":
            labels[fill_polygon(np.array(shape.vertices), size)] = shape.code
    canvas = Image.fromarray(labels)
    pen = ImageDraw.Draw(canvas)
    for kind in ("line", "point"):
        for shape in shapes:
            if shape.kind == kind:
                _stroke(pen, shape, width)
    return np.array(canvas)


def _stroke(pen: ImageDraw.ImageDraw, shape: Shape, width: int) -> None:
    if shape.kind == "line":
        pen.line(shape.vertices, fill=shape.code, width=width, joint="curve")
    for x, y in shape.vertices:
        if width == 1:
            pen.point((math.floor(x), math.floor(y)), fill=shape.code)
        else:
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=shape.code)


def fill_polygon(vertices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centers lie inside a polygon by the even-odd rule, (H, W) bool for ``shape`` (H, W).

    ``vertices`` (N, 2) are x and y; the last is connected with the first.
    """
    height, width = shape
    (x, y), (x_next, y_next) = vertices.T, np.roll(vertices, -1, axis=0).T
    # Rows whose centers an edge crosses; its upper end belongs to it, its lower end to the next one.
    first, end = (_centers_before(side(y, y_next), height) for side in (np.minimum, np.maximum))
    crossed = end - first
    edge = np.repeat(np.arange(len(x)), crossed)
    row = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed) + first[edge]
    slope = (x_next - x)[edge] / (y_next - y)[edge]
    column = _centers_before(x[edge] + (row + 0.5 - y[edge]) * slope, width)
    inside = np.zeros(shape, bool)
    if len(edge):
        # A pixel is inside where an odd number of edges crosses its row to the left of its center.
        top, left = row.min(), column.min()
        tall, wide = row.max() + 1 - top, column.max() - left
        place = (row - top) * (wide + 1) + column - left
        crossings = np.bincount(place, minlength=tall * (wide + 1)).reshape(tall, wide + 1)
        inside[top : top + tall, left : left + wide] = crossings.cumsum(axis=1)[:, :-1] & 1
    return inside


def _centers_before(position: np.ndarray, length: int) -> np.ndarray:
    """Return the number of pixels of a side whose centers lie before a position."""
    return np.ceil(position - 0.5).clip(0, length).astype(int)

"""Shapes of annotators: clicks, strokes, outlines, masks, boxes and tags, and how they become label maps.

Coordinates are pixels, x to the right and y down; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from agmm.codes import UNLABELED, VOID

Kind = Literal["point", "line", "polygon", "ellipse", "mask", "box", "tag"]
_RANKS = {"tag": 0, "box": 0, "mask": 1, "polygon": 1, "ellipse": 1, "line": 2, "point": 3}

AREAS = ("polygon", "ellipse", "mask", "box")


@dataclass(frozen=True)
class Shape:
    """A class at a place of an image."""

    kind: Kind
    code: int  # class, 0 … K-1, or `VOID`
    vertices: tuple[tuple[float, float], ...] = ()
    """x and y of each. A box has two opposite corners, or all four if it is turned; an ellipse has the four of its box,
    a mask its upper left one; a tag (the class is somewhere in the image) none."""
    order: int = 0  # shapes of a higher one lie in front
    pixels: np.ndarray | None = field(default=None, compare=False)  # of a mask, (h, w) bool


def draw(shapes: Iterable[Shape], size: tuple[int, int], width: int = 3) -> np.ndarray:
    """Draw areas, lines and points, in this order, so that the most careful is in front; of a kind the later on top.

    Shapes of a higher order are in front of all of a lower one. Lines have round joints and a disc at every vertex, a
    point is a disc (TEL, AGMM). Pillow cuts the corners of a disc's box (x, y) ± width / 2 down to integers, so that a
    width of 3 fills 12 pixels; a width of 1 marks the single pixel that holds the vertex. What lies outside the image
    draws nothing but what reaches into it. Tags draw nothing; a box draws ``VOID`` if that is its code, else it hides
    the classes behind it, as its object is not known yet. Return class codes, and ``UNLABELED`` where nothing is drawn:
    (H, W) uint8 for ``size`` (H, W).
    """
    labels = np.full(size, UNLABELED, np.uint8)
    layers = sorted(shapes, key=lambda shape: (shape.order, _RANKS[shape.kind]))
    for strokes, group in groupby(layers, lambda shape: shape.kind in ("line", "point")):
        canvas = Image.fromarray(labels)
        pen = ImageDraw.Draw(canvas)
        for shape in group:
            if strokes:
                _stroke(pen, shape, width)
            elif shape.kind == "box" and shape.code != VOID:
                labels[area(shape, size) & (labels != VOID)] = UNLABELED
            elif shape.kind != "tag":
                labels[area(shape, size)] = shape.code
        labels = np.array(canvas) if strokes else labels
    return labels


def area(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a polygon, ellipse, mask or box, (H, W) bool for ``size`` (H, W)."""
    if shape.pixels is None:
        return fill_polygon(outline(shape), size)
    inside, (height, width) = np.zeros(size, bool), shape.pixels.shape
    left, top = (math.floor(side) for side in shape.vertices[0])
    window = inside[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    first = max(-top, 0), max(-left, 0)
    window[:] = shape.pixels[first[0] : first[0] + window.shape[0], first[1] : first[1] + window.shape[1]]
    return inside


def outline(shape: Shape) -> np.ndarray:
    """Return the corners (N, 2) of a polygon, box or ellipse, x and y; an ellipse has one every two degrees."""
    vertices = np.array(shape.vertices, float)
    if shape.kind == "ellipse":
        turns, (corner, second, _, last) = np.radians(np.arange(0, 360, 2))[:, None], vertices
        return vertices.mean(axis=0) + np.cos(turns) * (second - corner) / 2 + np.sin(turns) * (last - corner) / 2
    if shape.kind == "box" and len(vertices) == 2:
        return vertices[[[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1]]
    return vertices


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

"""The embedded counterpart of Cityscapes: generated streets in perspective, nothing downloaded.

A camera above a straight street between two rows of facades and hedges. Every image holds most of the ten classes,
which are told apart by shape, texture and place more than by color. Surfaces carry parts of the photographs that ship
inside the scikit-learn and scikit-image packages. It is no evidence for the papers' numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agmm.data import synthetic
from agmm.data.synthetic import uniform

CLASS_NAMES = ("road", "sidewalk", "building", "pole", "sign", "vegetation", "sky", "person", "car", "bus")
VERSION = 1  # raised whenever a change of this module changes an image

ROAD, SIDEWALK, BUILDING, POLE, SIGN, VEGETATION, SKY, PERSON, CAR, BUS = range(len(CLASS_NAMES))
_FAR = 70.0  # meters to the end of the street
_TEXTURES = 4  # parts of photographs in an image; every surface shows one of them, shifted


def _scene(rng: np.random.Generator, photographs: synthetic.Photographs, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (S, S, 3) and its classes (S, S), both uint8; what is nearer is painted later."""
    textures = np.stack([synthetic.photo_crop(rng, photographs, size) for _ in range(_TEXTURES)])
    picture = _Picture(rng, textures, np.zeros((size, size, 3)), np.zeros((size, size), np.uint8))
    street = _lay_out(rng, size)
    _paint_sky(picture, street)
    _paint_ground(picture, street)
    for wall in street.walls:
        _paint_facades(picture, street, wall)
    for depth, kind, position in sorted(_place_objects(rng, street), key=lambda placed: -placed[0]):
        _PAINTERS[kind](picture, street, position, depth)
    return synthetic.develop(rng, picture.canvas), picture.truth


STREETS = synthetic.Recipe("streets", VERSION, CLASS_NAMES, None, ("truth",), _scene)


@dataclass(frozen=True)
class _Street:
    """Pinhole camera of unit focal length (in image sides) above a straight street; lengths in meters."""

    size: int  # side of the image in pixels
    horizon: float  # row of the vanishing point, 0 … 1
    vanishing: float  # its column
    camera: float  # its height above the ground
    curbs: tuple[float, float]  # left and right border of the road
    walls: tuple[float, float]  # and of the sidewalks beside it

    @property
    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Meters right of (1, S) and below (S, 1) the line of sight for each meter of depth, by column and row."""
        centers = synthetic.pixel_centers(self.size)
        return (centers - self.vanishing)[None, :], (centers - self.horizon)[:, None]

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (S, S) and depth (S, 1) of the ground that a pixel sees; depth 1e9 above the horizon."""
        right, below = self.rays
        depth = np.where(below > 0, self.camera / np.maximum(below, 1e-9), 1e9)
        return right * depth, depth

    def facade(self, wall: float) -> tuple[np.ndarray, np.ndarray]:
        """Depth (1, S) and height (S, S) of a wall along the street as pixels see it; depth 1e9 on the other side."""
        right, below = self.rays
        depth = np.where(right * wall > 0, wall / np.where(right == 0, 1, right), 1e9)
        return depth, self.camera - below * depth

    def upright(self, position: float, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """Meters right of (1, S) and above (S, 1) a point of the ground, in the plane there that faces the camera."""
        right, below = self.rays
        return right * depth - position, self.camera - below * depth

    def visible(self, left: float, right: float, depth: float) -> tuple[float, float] | None:
        """The part of an interval of positions that lies well inside the image at a depth."""
        left, right = max(left, (0.04 - self.vanishing) * depth), min(right, (0.96 - self.vanishing) * depth)
        return (left, right) if left < right else None


def _lay_out(rng: np.random.Generator, size: int) -> _Street:
    curbs = -uniform(rng, 2.5, 5), uniform(rng, 2.5, 5)
    horizon, vanishing, camera = uniform(rng, 0.3, 0.45), uniform(rng, 0.3, 0.7), uniform(rng, 2.2, 3.4)
    walls = curbs[0] - uniform(rng, 2, 4.5), curbs[1] + uniform(rng, 2, 4.5)
    return _Street(size, horizon, vanishing, camera, curbs, walls)


def _place_objects(rng: np.random.Generator, street: _Street) -> Iterator[tuple[float, int, float]]:
    """Draw depth, class and position of everything that stands on the ground."""
    (left, right), (left_wall, right_wall) = street.curbs, street.walls
    sidewalks = (left_wall + 0.3, left - 0.2), (right + 0.2, right_wall - 0.3)
    edges = (left - 0.6, left - 0.1), (right + 0.1, right + 0.6)
    # Class, how many at least and at most, nearest and farthest, and where.
    plan = (
        (CAR, 1, 3, 8, 22, ((left + 1, right - 1),)),
        (BUS, 0, 1, 9, 22, ((left + 1.4, right - 1.4),)),
        (PERSON, 1, 3, 6, 13, (*sidewalks, *sidewalks, (left, right))),
        (POLE, 1, 2, 7, 18, edges),
        (SIGN, 1, 2, 6, 14, edges),
        (VEGETATION, 0, 2, 10, 30, sidewalks),
    )
    for kind, least, most, near, far, places in plan:
        for _ in range(int(rng.integers(least, most + 1))):
            # Uniform in 1 / depth: as many per image row near by as far away.
            depth = 1 / uniform(rng, 1 / far, 1 / near)
            seen = [part for place in places if (part := street.visible(*place, depth))]
            if seen:
                yield depth, kind, uniform(rng, *seen[int(rng.integers(len(seen)))])


@dataclass(frozen=True)
class _Picture:
    """Colors (S, S, 3) in [0, 1] and classes (S, S) so far, and the textures (T, S, S, 3) to paint with."""

    rng: np.random.Generator
    textures: np.ndarray
    canvas: np.ndarray
    truth: np.ndarray

    def paint(self, k: int, mask: np.ndarray, color: np.ndarray, texture: float = 0.35) -> None:
        """Cover a mask with class k, in one color plus a part of a photograph."""
        size = len(self.truth)
        number, down, right = (int(self.rng.integers(high)) for high in (len(self.textures), size, size))
        rows, columns = mask.nonzero()
        if len(rows):
            detail = self.textures[number, (rows + down) % size, (columns + right) % size]
            self.canvas[rows, columns] = np.clip(color + texture * (detail - detail.mean(axis=0)), 0, 1)
            self.truth[rows, columns] = k

    def color(self, *bounds: tuple[float, float]) -> np.ndarray:
        """Draw a color whose hue, saturation and value lie within bounds."""
        return synthetic.color(self.rng, *bounds)

    def any_color(self) -> np.ndarray:
        return self.color((0, 1), (0.1, 0.8), (0.2, 0.9))


def _gray(picture: _Picture, darkest: float, brightest: float) -> np.ndarray:
    return picture.color((0, 1), (0, 0.15), (darkest, brightest))


def _green(picture: _Picture) -> np.ndarray:
    return picture.color((0.12, 0.42), (0.15, 0.6), (0.2, 0.65))


def _paint_sky(picture: _Picture, street: _Street) -> None:
    picture.paint(SKY, np.ones(picture.truth.shape, bool), picture.color((0.5, 0.7), (0, 0.45), (0.6, 1)), texture=0.15)
    if picture.rng.random() < 0.5:  # trees or houses at the end of the street
        k, color = (VEGETATION, _green(picture)) if picture.rng.random() < 0.5 else (BUILDING, _gray(picture, 0.3, 0.7))
        right, below = street.rays
        picture.paint(k, below + 0 * right > -uniform(picture.rng, 0.02, 0.08), color)


def _paint_ground(picture: _Picture, street: _Street) -> None:
    across, depth = street.ground()
    ground = np.broadcast_to(depth < 1e9, across.shape)
    picture.paint(SIDEWALK, ground, _gray(picture, 0.3, 0.75))
    slabs = ground & (depth < 15) & ((depth % 1.5 < 0.12 * depth / 6) | (across % 1.5 < 0.12 * depth / 6))
    picture.canvas[slabs] *= 0.8
    left, right = street.curbs
    stones = ground & (across > left - 0.25) & (across < right + 0.25)
    picture.canvas[stones] += 0.15
    road = ground & (across > left) & (across < right)
    picture.paint(ROAD, road, _gray(picture, 0.2, 0.6), texture=0.25)
    middle = (left + right) / 2
    dashes = road & (np.abs(across - middle) < 0.01 * depth) & (depth % 6 < 3)
    picture.canvas[dashes] = uniform(picture.rng, 0.6, 0.9)


def _paint_facades(picture: _Picture, street: _Street, wall: float) -> None:
    """Paint one row of houses and hedges along a wall that runs to the vanishing point."""
    rng, (depth, above) = picture.rng, street.facade(wall)
    start = uniform(rng, 0, 5)  # nearer walls lie outside the image
    while start < _FAR:
        end = start + uniform(rng, 5, 14)
        block = (depth >= start) & (depth < end) & (above > 0)
        if rng.random() < 0.25:
            ragged = uniform(rng, 1.5, 5) + 0.5 * rng.standard_normal((1, street.size))
            picture.paint(VEGETATION, block & (above < ragged), _green(picture), texture=0.7)
        else:
            _paint_house(picture, block & (above < uniform(rng, 6, 20)), depth - start, above)
        start = end


def _paint_house(picture: _Picture, house: np.ndarray, along: np.ndarray, above: np.ndarray) -> None:
    """Paint a facade with rows of windows, darker or brighter than the wall."""
    rng = picture.rng
    picture.paint(BUILDING, house, picture.color((0, 1), (0.05, 0.5), (0.25, 0.85)))
    (width, share), (height, part) = ((uniform(rng, 1.6, 3.5), uniform(rng, 0.35, 0.65)) for _ in range(2))
    windows = house & (along % width < share * width) & (above % height < part * height) & (above > 0.5)
    picture.canvas[windows] = 0.3 * picture.canvas[windows] + 0.7 * _gray(picture, 0.05, 0.9)


def _paint_car(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    u, v = street.upright(position, depth)
    u, color = np.abs(u) / uniform(picture.rng, 0.9, 1.1), picture.any_color()
    picture.paint(CAR, (u < 0.95) & (v > 0.2) & (v < 0.95), color, texture=0.2)
    picture.paint(CAR, (u < 0.95 - 0.5 * (v - 0.9)) & (v >= 0.9) & (v < 1.5), color, texture=0.2)
    picture.paint(CAR, (u < 0.75 - 0.5 * (v - 0.9)) & (v > 0.95) & (v < 1.35), _gray(picture, 0.05, 0.5), texture=0.2)
    picture.paint(CAR, (u > 0.55) & (u < 0.9) & (v > 0) & (v < 0.35), _gray(picture, 0.02, 0.15), texture=0.1)
    picture.paint(CAR, (u > 0.65) & (u < 0.9) & (v > 0.6) & (v < 0.8), picture.color((0, 0.15), (0, 0.9), (0.7, 1)))


def _paint_bus(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    u, v = street.upright(position, depth)
    u, high = np.abs(u), uniform(picture.rng, 2.8, 3.4)
    picture.paint(BUS, (u < 1.25) & (v > 0.3) & (v < high), picture.any_color(), texture=0.2)
    picture.paint(BUS, (u < 1.1) & (v > 1.3) & (v < high - 0.5), _gray(picture, 0.05, 0.5), texture=0.2)
    picture.paint(BUS, (u > 0.75) & (u < 1.15) & (v > 0) & (v < 0.5), _gray(picture, 0.02, 0.15), texture=0.1)


def _paint_person(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    u, v = street.upright(position, depth)
    tall = uniform(picture.rng, 0.85, 1.1)
    u, v = np.abs(u) / (1.2 * tall), v / tall
    picture.paint(PERSON, (u < 0.22) & (u > 0.03) & (v > 0) & (v < 0.85), picture.any_color(), texture=0.2)
    picture.paint(PERSON, (u < 0.3) & (v >= 0.8) & (v < 1.45), picture.any_color(), texture=0.2)
    skin = picture.color((0.02, 0.1), (0.2, 0.6), (0.3, 0.9))
    picture.paint(PERSON, u**2 + (v - 1.62) ** 2 < 0.18**2, skin, texture=0.1)


def _paint_pole(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    u, v = street.upright(position, depth)
    _paint_shaft(picture, street, u, v, depth, uniform(picture.rng, 4, 8))


def _paint_sign(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    """Paint a disk, a square or a triangle on a pole, with a rim."""
    u, v = street.upright(position, depth)
    high, half = uniform(picture.rng, 2.3, 3.2), uniform(picture.rng, 0.4, 0.6)
    _paint_shaft(picture, street, u, v, depth, high)
    x, y = u / half, (v - high) / half
    shape = int(picture.rng.integers(3))
    radius = (np.sqrt(x**2 + y**2), np.maximum(abs(x), abs(y)), np.maximum(1.7 * abs(x) + y, -1.6 * y))[shape]
    picture.paint(SIGN, radius < 1, picture.color((0, 1), (0.5, 1), (0.5, 1)), texture=0.1)
    picture.paint(SIGN, radius < 0.6, picture.color((0, 1), (0, 1), (0.5, 1)), texture=0.1)


def _paint_shaft(picture: _Picture, street: _Street, u: np.ndarray, v: np.ndarray, depth: float, high: float) -> None:
    half = max(0.12, 1.05 * depth / street.size)  # never thinner than two pixels
    picture.paint(POLE, (np.abs(u) < half) & (v > 0) & (v < high), _gray(picture, 0.1, 0.8), texture=0.15)


def _paint_tree(picture: _Picture, street: _Street, position: float, depth: float) -> None:
    u, v = street.upright(position, depth)
    radius, high = uniform(picture.rng, 0.9, 2), uniform(picture.rng, 3, 4.5)
    trunk = picture.color((0.05, 0.12), (0.2, 0.6), (0.15, 0.4))
    picture.paint(VEGETATION, (np.abs(u) < 0.15) & (v > 0) & (v < high), trunk)
    ragged = radius * (1 + 0.15 * picture.rng.standard_normal(picture.truth.shape)).clip(0)
    picture.paint(VEGETATION, u**2 + (v - high) ** 2 < ragged**2, _green(picture), texture=0.7)


_PAINTERS = {CAR: _paint_car, BUS: _paint_bus, PERSON: _paint_person}
_PAINTERS |= {POLE: _paint_pole, SIGN: _paint_sign, VEGETATION: _paint_tree}

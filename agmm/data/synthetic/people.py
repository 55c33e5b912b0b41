"""The embedded counterpart of DensePose-COCO: generated people with labeled parts, nothing downloaded.

Figures of tapered limbs over crops of photographs that ship inside the scikit-learn and scikit-image packages. Left and
right are the person's own: of somebody who faces the viewer, the right hand is on the image's left. Who turns the back
shows no face. It is no evidence for the papers' numbers.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from agmm.data import synthetic
from agmm.data.public.coco import DENSEPOSE, MIRRORED
from agmm.data.synthetic import color, uniform

CLASS_NAMES = DENSEPOSE.class_names
VERSION = 1  # raised whenever a change of this module changes an image

_TORSO, _HEAD = (CLASS_NAMES.index(name) for name in ("torso", "head"))
_SIDES = {  # -1 is the viewer's left
    sign: {name: CLASS_NAMES.index(f"{side} {name}") for name in ("hand", "foot", "thigh", "leg", "arm", "forearm")}
    for sign, side in ((-1, "right"), (1, "left"))
}
_HEIGHTS = {1: (0.85, 1.1), 2: (0.75, 1.0), 3: (0.6, 0.85)}  # of figures in image sides, by the number of people
_MORE = (0.5, 0.15)  # shares of the images with more than one person, and more than two
_BACK = 0.15  # share of the people who turn their backs
_BORDER = 0.01  # of the image, which no figure touches


def _scene(
    rng: np.random.Generator, photographs: synthetic.Photographs, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one image (S, S, 3), its classes (S, S) and its people (S, S), all uint8; the later are in front."""
    canvas = synthetic.photo_crop(rng, photographs, size)
    truth, instances = np.zeros((2, size, size), np.uint8)
    chance = rng.random()
    count = 1 + sum(chance < share for share in _MORE)
    for number, slot in enumerate(rng.permutation(count).tolist(), start=1):
        figure = _pose(rng)
        figure = _placed(rng, _turned(figure) if rng.random() < _BACK else figure, count, slot)
        texture = synthetic.photo_crop(rng, photographs, size)
        limb = _paint(rng, figure, canvas, texture - texture.mean(axis=(0, 1)))
        inside = limb >= 0
        truth[inside] = figure.parts[limb[inside]]
        instances[inside] = number
    return synthetic.develop(rng, canvas), truth, instances


PEOPLE = synthetic.Recipe("people", VERSION, CLASS_NAMES, 0, ("truth", "instances"), _scene, mirrored=MIRRORED)


_Point = tuple[float, float]
_Limb = tuple[int, _Point, _Point, float, float]  # class, start and end of the axis, radii there


@dataclass(frozen=True, eq=False)
class _Figure:
    """Limbs from back to front, each a tapered capsule; positions are (x, y), y downwards."""

    parts: np.ndarray  # class of each limb, (L,) uint8
    starts: np.ndarray  # ends of the axes, (L, 2)
    ends: np.ndarray
    radii: np.ndarray  # at the start and at the end, (L, 2)
    back: bool = False  # whether the viewer sees the back

    def limbs_of_pixels(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Foremost limb of every pixel, -1 for none, and squared distance from its axis in squared radii: (S, S)."""
        limb, distance = np.full((size, size), -1), np.zeros((size, size))
        centers = synthetic.pixel_centers(size)
        ends = zip(self.starts.tolist(), self.ends.tolist(), self.radii.tolist(), strict=True)
        for number, ((x, y), (x_end, y_end), (radius, radius_end)) in enumerate(ends):
            reach = max(radius, radius_end)
            rows, columns = (
                slice(max(math.floor((low - reach) * size), 0), math.ceil((high + reach) * size))
                for low, high in (sorted((y, y_end)), sorted((x, x_end)))
            )
            right, below, across, down = centers[columns] - x, centers[rows, None] - y, x_end - x, y_end - y
            along = ((right * across + below * down) / (across**2 + down**2)).clip(0, 1)
            radii = radius + along * (radius_end - radius)
            found = ((right - along * across) ** 2 + (below - along * down) ** 2) / radii**2
            inside = found <= 1
            limb[rows, columns][inside] = number
            distance[rows, columns][inside] = found[inside]
        return limb, distance


def _pose(rng: np.random.Generator) -> _Figure:
    """Draw somebody about one unit tall who faces the viewer; the middle of the hips is the origin."""
    lean = uniform(rng, -0.2, 0.2)
    up = math.pi + lean
    head = _ahead(_ahead((0, 0), up, 0.27), up + uniform(rng, -0.25, 0.25), 0.1)
    limbs = [limb for side in _SIDES for limb in _leg(rng, side)]
    limbs.append((_TORSO, _ahead((0, 0), up, 0.19), (0.0, -0.01), 0.105, 0.085))
    limbs.append((_HEAD, head, _ahead(head, up, 0.035), 0.08, 0.085))
    for side in _SIDES:
        limbs += _arm(rng, side, _ahead(_ahead((0, 0), up, 0.225), side * math.pi / 2 + lean, 0.11))
    parts, starts, ends, first, last = zip(*limbs, strict=True)
    return _Figure(np.array(parts, np.uint8), np.array(starts), np.array(ends), np.array([first, last]).T)


def _arm(rng: np.random.Generator, side: int, shoulder: _Point) -> list[_Limb]:
    """Draw an arm: hanging, stretched out, raised, or with the hand in front of the body."""
    kind = rng.random()
    if kind < 0.35:
        swing, bend = uniform(rng, 0.25, 0.8), uniform(rng, -0.3, 0.8)
    elif kind < 0.65:
        swing, bend = uniform(rng, 0.8, 1.7), uniform(rng, -0.8, 1.3)
    elif kind < 0.85:
        swing, bend = uniform(rng, 1.7, 2.5), uniform(rng, -0.5, 0.7)
    else:
        swing, bend = uniform(rng, 0.4, 0.9), uniform(rng, -2, -1.2)
    elbow = _ahead(shoulder, side * swing, 0.15)
    wrist = _ahead(elbow, side * (swing + bend), 0.13)
    palm = _ahead(wrist, side * (swing + bend), 0.025)
    fingers = _ahead(palm, side * (swing + bend + uniform(rng, -0.4, 0.4)), 0.04)
    part = _SIDES[side]
    return [
        (part["arm"], shoulder, elbow, 0.05, 0.042),
        (part["forearm"], elbow, wrist, 0.042, 0.034),
        (part["hand"], palm, fingers, 0.05, 0.045),
    ]


def _leg(rng: np.random.Generator, side: int) -> list[_Limb]:
    hip, swing = (side * 0.055, 0.02), uniform(rng, 0.02, 0.55)
    knee, turn = _ahead(hip, side * swing, 0.22), swing - uniform(rng, -0.1, 0.5)
    ankle = _ahead(knee, side * turn, 0.2)
    toes = _ahead(ankle, side * uniform(rng, 0.7, 1.5), 0.08)
    part = _SIDES[side]
    return [
        (part["foot"], ankle, toes, 0.052, 0.045),
        (part["leg"], knee, ankle, 0.056, 0.04),
        (part["thigh"], hip, knee, 0.075, 0.056),
    ]


def _ahead(point: _Point, angle: float, length: float) -> _Point:
    """Return the point at a distance in a direction, an angle from downwards towards the viewer's right."""
    return point[0] + length * math.sin(angle), point[1] + length * math.cos(angle)


def _turned(figure: _Figure) -> _Figure:
    """Return a figure as seen from behind: sides change places, what was in front is hidden, the head stays visible."""
    order = np.argsort(figure.parts == _HEAD, kind="stable")[::-1]
    order = np.concatenate([order[1:], order[:1]])
    parts = np.array(MIRRORED, np.uint8)[figure.parts[order]]
    return _Figure(parts, figure.starts[order], figure.ends[order], figure.radii[order], back=True)


def _placed(rng: np.random.Generator, figure: _Figure, count: int, slot: int) -> _Figure:
    """Place a figure of random size in one of ``count`` slots side by side, inside the unit square."""
    ends, radii = np.concatenate([figure.starts, figure.ends]), figure.radii.T.reshape(-1, 1)
    low, high = (ends - radii).min(axis=0), (ends + radii).max(axis=0)
    scale = min(uniform(rng, *_HEIGHTS[count]), (1 - 2 * _BORDER) / (high - low).max())
    place = np.array([(slot + uniform(rng, 0.25, 0.75)) / count, uniform(rng, 0.3, 0.7)])
    place = place.clip(_BORDER - scale * low, 1 - _BORDER - scale * high)
    starts, ends = place + scale * figure.starts, place + scale * figure.ends
    return replace(figure, starts=starts, ends=ends, radii=scale * figure.radii)


def _paint(rng: np.random.Generator, figure: _Figure, canvas: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Paint a figure, in place; return the foremost limb of every pixel, (S, S), -1 for none."""
    limb, distance = figure.limbs_of_pixels(len(canvas))
    colors, hair = _clothes(rng, figure)
    inside = limb >= 0
    shade = 1 - 0.4 * distance[inside, None]  # makes limbs round, and shows their borders
    canvas[inside] = ((colors[limb[inside]] + 0.3 * texture[inside]) * shade).clip(0, 1)
    _paint_head(canvas, figure, limb, hair)
    return limb


def _clothes(rng: np.random.Generator, figure: _Figure) -> tuple[np.ndarray, np.ndarray]:
    """Draw the color of each limb (L, 3), and of the hair: one person's skin, shirt, trousers and shoes."""
    skin = color(rng, (0.03, 0.09), (0.25, 0.6), (0.4, 1))
    shirt, trousers = color(rng, (0, 1), (0, 0.9), (0.25, 1)), color(rng, (0, 1), (0, 0.7), (0.15, 0.8))
    shoes, hair = color(rng, (0, 1), (0, 0.6), (0.05, 0.4)), color(rng, (0, 0.15), (0.1, 0.8), (0.05, 0.7))
    sleeves, long = rng.random(), rng.random() < 0.75
    colors = {"torso": shirt, "thigh": trousers, "leg": trousers if long else skin, "foot": shoes}
    colors |= {"arm": shirt if sleeves < 0.9 else skin, "forearm": shirt if sleeves < 0.65 else skin}
    return np.array([colors.get(CLASS_NAMES[part].split()[-1], skin) for part in figure.parts]), hair


def _paint_head(canvas: np.ndarray, figure: _Figure, limb: np.ndarray, hair: np.ndarray) -> None:
    """Paint hair and eyes, or hair only on who turns the back."""
    number = int((figure.parts == _HEAD).argmax())
    centers, radius = synthetic.pixel_centers(len(canvas)), figure.radii[number].mean()
    up = (figure.ends - figure.starts)[number]
    up = up / np.sqrt((up**2).sum())
    middle = (figure.starts + figure.ends)[number] / 2
    right, below = (centers - middle[0])[None, :] / radius, (centers - middle[1])[:, None] / radius
    above, beside = right * up[0] + below * up[1], np.abs(right * up[1] - below * up[0])
    visible = limb == number
    canvas[visible & (above > (-0.75 if figure.back else 0.35))] = hair
    if not figure.back:
        eyes = visible & ((beside - 0.4) ** 2 + (above - 0.05) ** 2 < 0.03)
        canvas[eyes] = 0.05

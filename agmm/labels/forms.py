"""Forms of weak labels, simulated from a dense mask: points, clicks, scribbles, blocks, boxes, part points.

Every form is a function ``form(scene, **options)`` that returns ``(H, W)`` uint8 labels; `simulate` looks it up by
name. Except for boxes and part points, no label ever contradicts the mask, and none touches its ``VOID`` pixels.
Distances are in pixels, positions are (row, column), components are 4-connected.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from agmm.codes import UNLABELED, VOID
from agmm.labels import geometry
from agmm.labels.geometry import Region


@dataclass(frozen=True, eq=False)
class Scene:
    """A dense mask from which labels are simulated, and all that they depend on besides."""

    mask: np.ndarray  # (H, W) uint8: 0 … K-1 or ``VOID``
    rng: np.random.Generator  # see `generator`
    instances: np.ndarray | None = None  # (H, W) object numbers, 0 or ``VOID`` for none; else components
    background: int | None = 0  # None if every class is to be treated as foreground


def generator(seed: int, dataset: str, image_id: str, form: str) -> np.random.Generator:
    """Return the random generator of one label, the same on every machine and in every order of the images.

    Seeded with a 64-bit blake2b hash of ``"seed|dataset|image_id|form"``. Leave out of ``form`` what must stay nested:
    the number of clicks, the length of scribbles.
    """
    digest = hashlib.blake2b(f"{seed}|{dataset}|{image_id}|{form}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def simulate(
    form: str,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    **options: object,
) -> np.ndarray:
    """Simulate one weak label (H, W) uint8 from a dense mask (H, W) of any integer type.

    0 … K-1 where annotated, ``UNLABELED`` elsewhere (``"full"`` and ``"part_points"`` keep the mask's ``VOID``).
    ``form`` is the name of the function that makes the label, to which the options are passed; for the others see
    `Scene`.

    Raise ValueError if the form is unknown, the mask is not a two-dimensional array of codes, or the instances' shape
    differs.
    """
    if form not in FORMS:
        raise ValueError(f"unknown label form {form!r}; choose one of {', '.join(FORMS)}")
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or (mask.size and (mask.min() < 0 or mask.max() > VOID)):
        raise ValueError(f"a mask is an (H, W) array of codes 0 … {VOID}, this is {mask.dtype} of shape {mask.shape}")
    if instances is not None and instances.shape != mask.shape:
        raise ValueError(f"instances have shape {instances.shape}, the mask has {mask.shape}; they must be equal")
    return FORMS[form](Scene(mask.astype(np.uint8), rng, instances, background), **options)


# --- Forms ------------------------------------------------------------------------------------------------------------


def points(
    scene: Scene, *, placement: str = "human", width: float = 3, background_points: int | None = None
) -> np.ndarray:
    """Click once on every object and a few times on the background.

    With D the distance to the region's complement, the image's border included, clicks are placed at

        "center"   the largest D
        "human"    a Gaussian step of 0.35 max D away from there
        "random"   uniform where D >= 0.3 max D
        "inside"   uniform where the distance to other regions, the image's border not included, is at least half of its
                   maximum
        "uniform"  anywhere

    The last two hold for the background as well; with the others its first click is at the center of its largest
    component, the following ones are uniform where D >= 5 and, if possible, a quarter of the shorter side apart. There
    are ``background_points`` on it, by default as many as objects, but at least one and at most three.

    At a click a disc of diameter ``width`` is drawn, clipped to the object; 1 is the single pixel.
    """
    if placement not in geometry.PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(geometry.PLACEMENTS)}")
    labels, objects = np.full(scene.mask.shape, UNLABELED, np.uint8), _objects(scene)
    for region in objects:
        click = geometry.place(region.inside, scene.rng, placement)
        _paint(labels, region, geometry.stroke(region.inside.shape, [click], width))
    empty = scene.mask == scene.background
    if scene.background is not None and empty.any():
        count = min(3, max(1, len(objects))) if background_points is None else background_points
        whole = Region(scene.background, (slice(None), slice(None)), empty)
        for click in geometry.spread_out(empty, scene.rng, placement, count):
            _paint(labels, whole, geometry.stroke(empty.shape, [click], width))
    return labels


def clicks(scene: Scene, *, n: int = 20) -> np.ndarray:
    """Click on ``n`` pixels, uniform among the annotated ones and not per class (AGMM on Cityscapes: 20, 50, 100).

    With one seed the sets are nested: they are the first ``n`` pixels of one random permutation.
    """
    if n < 0:
        raise ValueError(f"the number of clicks is {n}; it must not be negative")
    annotated = np.flatnonzero(scene.mask < UNLABELED)
    keys = scene.rng.random(annotated.size)  # sorting by random keys permutes; only the n smallest are needed
    first = np.argpartition(keys, n)[:n] if n < annotated.size else slice(None)
    labels = np.full(scene.mask.shape, UNLABELED, np.uint8)
    labels.flat[annotated[first]] = scene.mask.flat[annotated[first]]
    return labels


def scribbles(scene: Scene, *, length: float = 1.0, width: float = 3) -> np.ndarray:
    """Draw a stroke along the medial path of each object and of the three largest background components.

    ``length`` is the share of each stroke that is kept, 0 … 1, in ScribbleSup 1, 0.8, 0.5, 0.3 and 0 (a disc). With one
    seed, shorter strokes lie within longer ones. Strokes of ``width`` pixels are clipped to the object. Objects below
    64 pixels or with a path below 8 get a disc.
    """
    if not 0 <= length <= 1:
        raise ValueError(f"the length of scribbles is {length}; it is a share between 0 and 1")
    objects = _objects(scene)
    if scene.background is not None:
        empty = geometry.components(scene.mask, scene.background, _smallest(scene.mask))
        objects += sorted(empty, key=lambda region: -region.area)[:3]
    labels = np.full(scene.mask.shape, UNLABELED, np.uint8)
    for region in objects:
        path = geometry.scribble(region.inside, scene.rng)
        drawn = geometry.stroke(region.inside.shape, path, width) & region.inside
        anchor = scene.rng.random()  # drawn for every length, so that the lengths share all other random numbers
        if length < 1 and len(path) > 1:
            whole = np.argwhere(drawn)
            nearest = whole[np.square(whole - geometry.part_of(path, anchor, anchor)[0]).sum(axis=1).argmin()]
            start = anchor * (1 - length)
            drawn = geometry.stroke(drawn.shape, geometry.part_of(path, start, start + length), width)
            drawn[tuple(nearest)] = True  # where the path leaves the object, so that no object loses its label
        _paint(labels, region, drawn)
    return labels


def blocks(scene: Scene, *, ratio: float = 0.1, scale: float = 1.0, shape: str = "interior") -> np.ndarray:
    """Label the innermost ``ratio`` of every component (tree energy loss: 10, 20 and 50 % of the pixels).

    Components below 64 pixels stay without label up to a ratio of 0.2; ``scale`` is a factor of the ratio that makes up
    for them, `block_scale` of the whole data set. The shape "interior" takes the pixels farthest from the component's
    boundary (the image's border is none), "rect" random axis-parallel rectangles inside it, of at most the same area.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"the ratio of blocks is {ratio}; it must be above 0 and at most 1")
    if shape not in ("interior", "rect"):
        raise ValueError(f"unknown shape of blocks {shape!r}; choose interior or rect")
    labels = np.full(scene.mask.shape, UNLABELED, np.uint8)
    for region in _block_regions(scene.mask, ratio):
        count = min(region.area, math.ceil(ratio * scale * region.area - 1e-9))
        if shape == "rect":
            block = geometry.rectangles(region.inside, scene.rng, count)
        else:
            block = geometry.innermost(region.inside, count)
        _paint(labels, region, block)
    return labels


def boxes(scene: Scene, *, inner: float | None = None, jitter: float = 0.0) -> np.ndarray:
    """Paint the boxes of the objects, and background outside (UNLABELED if there is none).

    ``inner`` is the share of each side that carries the class, centered (``Box-i``: 0.2); the rest of the box is
    UNLABELED. For ``jitter`` see `tight_boxes`.
    """
    labels = geometry.paint_boxes(tight_boxes(scene, jitter), background=scene.background, inner=inner)
    labels[scene.mask == VOID] = UNLABELED
    return labels


def part_points(scene: Scene, *, std: float = 0.06, high: float = 0.9, low: float = 0.02) -> np.ndarray:
    """Draw three zones around a point in the middle of every part of every object (SPML, keypoints of DensePose).

    A Gaussian heat map of height 1 stands on the point, as wide as the object is large: its standard deviation is
    ``std`` times the square root of the area of the object's tight box. Where it is at least ``high`` the part is
    labeled, where all maps are below ``low`` is background, and between is UNLABELED; 0 < low < high <= 1. The defaults
    are discs of 0.46 and 2.8 standard deviations; SPML does not tell its numbers, these are ours. Where labeled discs
    overlap, the nearest point's part is taken.

    Labels may contradict the mask, because who annotates points sees no outlines: where a part is thinner than its
    labeled disc, and where it is longer than its map is wide. The mask's ``VOID`` pixels stay ``VOID``. The scene needs
    instances; nothing is random. The middle of a part is that of its pixels of one object, or the nearest of them.
    """
    if scene.instances is None:
        problem = "part points are drawn in every object, and this mask has no instances"
        raise ValueError(f"{problem}; choose labels='points'")
    if std <= 0 or not 0 < low < high <= 1:
        raise ValueError(f"part points need std > 0 and 0 < low < high <= 1, not {std}, {low} and {high}")
    codes, centers, widths = [], [], []
    for number, window in _numbered(scene.instances):
        parts = np.where(scene.instances[window] == number, scene.mask[window], UNLABELED)
        for code in (code for code in _codes(parts) if code != scene.background):
            codes.append(code)
            centers.append(geometry.middle(parts == code) + [side.start for side in window])
            widths.append(std * math.sqrt(parts.size))
    labeled, near = (
        geometry.discs(scene.mask.shape, centers, [width * math.sqrt(-2 * math.log(heat)) for width in widths])
        for heat in (high, low)
    )
    labels = geometry.backdrop(scene.mask.shape, scene.background)
    labels[near >= 0] = UNLABELED
    labels[labeled >= 0] = np.array([*codes, VOID], np.uint8)[labeled[labeled >= 0]]
    labels[scene.mask == VOID] = VOID
    return labels


def full(scene: Scene) -> np.ndarray:
    """Return the dense mask itself, for full supervision."""
    return scene.mask.copy()


_ALL: tuple[Callable[..., np.ndarray], ...] = (points, clicks, scribbles, blocks, boxes, part_points, full)
FORMS = {form.__name__: form for form in _ALL}


def block_scale(masks: Iterable[np.ndarray], ratio: float) -> float:
    """Return the factor (>= 1) of ``ratio`` with which blocks label that share of all pixels of a data set."""
    pixels = covered = 0
    for mask in masks:
        pixels += mask.size
        covered += sum(region.area for region in _block_regions(mask, ratio))
    return max(1.0, pixels / covered) if covered else 1.0


# --- Boxes ------------------------------------------------------------------------------------------------------------


def tight_boxes(scene: Scene, jitter: float = 0.0) -> geometry.Boxes:
    """Return the boxes of the objects.

    Without instances an object is a component of at least 0.05 % of the image; components of one class closer than
    about 5 pixels count as one. ``jitter`` is the standard deviation by which each side is moved, as a share of the
    box's height or width.
    """
    if scene.instances is None:
        codes = [code for code in _codes(scene.mask) if code != scene.background]
        clusters = [region for code in codes for region in geometry.clusters(scene.mask, code)]
        regions = [region for region in clusters if region.area >= 0.0005 * scene.mask.size]
    else:
        regions = _objects(scene)
    corners = np.array([geometry.tight_box(region) for region in regions], int).reshape(-1, 4)
    if jitter:
        sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
        corners = np.rint(corners + scene.rng.normal(size=corners.shape) * jitter * sides).astype(int)
        corners[:, :2] = np.clip(corners[:, :2], 0, np.subtract(scene.mask.shape, 1))
        corners[:, 2:] = np.clip(corners[:, 2:], corners[:, :2] + 1, scene.mask.shape)
    height, width = scene.mask.shape
    return geometry.Boxes((height, width), [region.code for region in regions], corners)


# --- Regions ----------------------------------------------------------------------------------------------------------


def _smallest(mask: np.ndarray) -> float:
    """Pixels of the smallest component that is an object."""
    return max(32, 0.0005 * mask.size)


def _codes(mask: np.ndarray) -> list[int]:
    """Classes in a mask, in ascending order."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1)[:UNLABELED]).tolist()


def _numbered(instances: np.ndarray) -> list[tuple[int, tuple[slice, ...]]]:
    """Numbers of the objects and their tight windows."""
    windows = enumerate(ndimage.find_objects(instances.astype(np.int64)), start=1)
    return [(number, window) for number, window in windows if window is not None and number != VOID]


def _objects(scene: Scene) -> list[Region]:
    """Instances, each cut to its most frequent class; without instances, large enough components of every class."""
    mask, instances, background = scene.mask, scene.instances, scene.background
    if instances is None:
        codes = [code for code in _codes(mask) if code != background]
        return [region for code in codes for region in geometry.components(mask, code, _smallest(mask))]
    objects = []
    for number, tight in _numbered(instances):
        window = geometry.margin(tight)
        inside = instances[window] == number
        counts = np.bincount(mask[window][inside], minlength=VOID)[:UNLABELED]
        if background is not None:
            counts[background] = 0
        if counts.any():
            code = int(counts.argmax())
            objects.append(Region(code, window, inside & (mask[window] == code)))
    return objects


def _block_regions(mask: np.ndarray, ratio: float) -> list[Region]:
    """Components large enough for a block."""
    return [region for code in _codes(mask) for region in geometry.components(mask, code, 64 if ratio <= 0.2 else 1)]


def _paint(labels: np.ndarray, region: Region, drawn: np.ndarray) -> None:
    """Write a region's class where it is ``drawn``, a (h, w) bool array of the region's window."""
    labels[region.window][drawn & region.inside] = region.code

"""Sparse labels: their codes, their forms, and how each is simulated from a dense mask.

Every form is a function ``form(mask, rng, *, instances=None, background=0, **options)`` that returns ``(H, W)`` uint8
labels; ``simulate`` looks it up by name. Except for boxes and part points, no label ever contradicts the mask, and none
touches its ``VOID`` pixels. Distances are in pixels, positions are (row, column), components are 4-connected.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import label as label_regions

from agmm.codes import UNLABELED, VOID
from agmm.labels import geometry as regions


@dataclass(frozen=True, eq=False)
class Boxes:
    """Annotated boxes of an image, as ``paint_boxes`` takes them.

    Attributes
    ----------
    size : (int, int)
        Height and width of the image.
    codes : sequence of int
        Class of each box.
    corners : (N, 4) integer array
        Top, left, bottom, right; zero-based, bottom and right exclusive.
    """

    size: tuple[int, int]
    codes: Sequence[int]
    corners: np.ndarray


def generator(seed: int, dataset: str, image_id: str, form: str) -> np.random.Generator:
    """Random generator of one label: the same on every machine and in every order of the images.

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
    """Simulate one weak label from a dense mask.

    Parameters
    ----------
    form : {"points", "clicks", "scribbles", "blocks", "boxes", "part_points", "full"}
        Name of the function that makes the label.
    mask : (H, W) integer array
        Dense mask, 0 … K-1 or ``VOID``.
    rng : numpy.random.Generator
        See ``generator``.
    instances : (H, W) integer array, optional
        Object numbers, 0 or ``VOID`` for none. Where given, these are the objects; else components are.
    background : int or None
        The class that means "background"; None if every class is to be treated as foreground.
    **options
        Passed to the form.

    Returns
    -------
    (H, W) uint8 array
        0 … K-1 where annotated, ``UNLABELED`` elsewhere (``"full"`` and ``"part_points"`` keep the mask's ``VOID``).

    Raises
    ------
    ValueError
        If the form is unknown, the mask is not a two-dimensional array of codes, or the instances' shape differs.
    """
    if form not in FORMS:
        raise ValueError(f"unknown label form {form!r}; choose one of {', '.join(FORMS)}")
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or (mask.size and (mask.min() < 0 or mask.max() > VOID)):
        raise ValueError(f"a mask is an (H, W) array of codes 0 … {VOID}, this is {mask.dtype} of shape {mask.shape}")
    if instances is not None and instances.shape != mask.shape:
        raise ValueError(f"instances have shape {instances.shape}, the mask has {mask.shape}; they must be equal")
    return FORMS[form](mask.astype(np.uint8), rng, instances=instances, background=background, **options)


# --- Forms ------------------------------------------------------------------------------------------------------------


def points(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    placement: str = "human",
    width: float = 3,
    background_points: int | None = None,
) -> np.ndarray:
    """One click per object and a few on the background.

    Parameters
    ----------
    mask, rng, instances, background
        As in ``simulate``.
    placement : {"human", "center", "random", "inside", "uniform"}
        With D the distance to the region's complement, the image's border included. ``"center"``: largest D;
        ``"human"``: a Gaussian step of 0.35 max D away from there; ``"random"``: uniform where D >= 0.3 max D;
        ``"inside"``: uniform where the distance to other regions, the image's border not included, is at least half
        of its maximum; ``"uniform"``: anywhere. The last two hold for the background as well; with the others its
        first click is at the center of its largest component, the following ones are uniform where D >= 5 and, if
        possible, a quarter of the shorter side apart.
    width : float
        Diameter of the disc drawn at a click, clipped to the object; 1 is the single pixel.
    background_points : int, optional
        Clicks on the background; by default as many as objects, but at least one and at most three.
    """
    if placement not in regions.PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(regions.PLACEMENTS)}")
    labels = np.full(mask.shape, UNLABELED, np.uint8)
    objects = _objects(mask, instances, background)
    for region in objects:
        _paint(
            labels, region, regions.stroke(region.inside.shape, [regions.place(region.inside, rng, placement)], width)
        )
    if background is not None and (mask == background).any():
        count = min(3, max(1, len(objects))) if background_points is None else background_points
        whole = regions.Region(background, (slice(None), slice(None)), mask == background)
        for position in regions.spread_out(mask == background, rng, placement, count):
            _paint(labels, whole, regions.stroke(mask.shape, [position], width))
    return labels


def clicks(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    n: int = 20,
) -> np.ndarray:
    """``n`` single pixels, uniform among the annotated ones and not per class (AGMM on Cityscapes: 20, 50, 100).

    With one seed the sets are nested: they are the first ``n`` pixels of one random permutation.
    """
    if n < 0:
        raise ValueError(f"the number of clicks is {n}; it must not be negative")
    annotated = np.flatnonzero(mask < UNLABELED)
    keys = rng.random(annotated.size)  # sorting by random keys permutes; only the n smallest are needed
    first = np.argpartition(keys, n)[:n] if n < annotated.size else slice(None)
    labels = np.full(mask.shape, UNLABELED, np.uint8)
    labels.flat[annotated[first]] = mask.flat[annotated[first]]
    return labels


def scribbles(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    length: float = 1.0,
    width: float = 3,
) -> np.ndarray:
    """One stroke along the medial path of each object and of the three largest background components.

    Parameters
    ----------
    mask, rng, instances, background
        As in ``simulate``.
    length : float
        Share of each stroke that is kept, 0 … 1, in ScribbleSup 1, 0.8, 0.5, 0.3 and 0 (a disc). With one seed, shorter
        strokes lie within longer ones.
    width : float
        Width of the stroke, clipped to the object. Objects below 64 pixels or with a path below 8 get a disc.
    """
    if not 0 <= length <= 1:
        raise ValueError(f"the length of scribbles is {length}; it is a share between 0 and 1")
    objects = _objects(mask, instances, background)
    if background is not None:
        objects += sorted(regions.components(mask, background, _smallest(mask)), key=lambda region: -region.area)[:3]
    labels = np.full(mask.shape, UNLABELED, np.uint8)
    for region in objects:
        path = regions.scribble(region.inside, rng)
        stroke = regions.stroke(region.inside.shape, path, width) & region.inside
        anchor = rng.random()  # drawn for every length, so that the lengths share all other random numbers
        if length < 1 and len(path) > 1:
            full = np.argwhere(stroke)
            nearest = full[np.square(full - regions.part_of(path, anchor, anchor)[0]).sum(axis=1).argmin()]
            stroke = regions.stroke(
                stroke.shape, regions.part_of(path, anchor * (1 - length), anchor * (1 - length) + length), width
            )
            stroke[tuple(nearest)] = True  # where the path leaves the object, so that no object loses its label
        _paint(labels, region, stroke)
    return labels


def blocks(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    ratio: float = 0.1,
    scale: float = 1.0,
    shape: str = "interior",
) -> np.ndarray:
    """The innermost ``ratio`` of every component (tree energy loss: 10, 20 and 50 % of the pixels).

    Parameters
    ----------
    mask, rng, instances, background
        As in ``simulate``.
    ratio : float
        Share of a component's pixels that is labelled. Components below 64 pixels stay without up to a ratio of 0.2.
    scale : float
        Factor of the ratio that makes up for components without label: ``block_scale`` of the whole data set.
    shape : {"interior", "rect"}
        The pixels farthest from the component's boundary (the image's border is none), or random axis-parallel
        rectangles inside it, of at most the same area.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"the ratio of blocks is {ratio}; it must be above 0 and at most 1")
    if shape not in ("interior", "rect"):
        raise ValueError(f"unknown shape of blocks {shape!r}; choose interior or rect")
    labels = np.full(mask.shape, UNLABELED, np.uint8)
    for region in _block_regions(mask, ratio):
        count = min(region.area, math.ceil(ratio * scale * region.area - 1e-9))
        block = (
            regions.rectangles(region.inside, rng, count)
            if shape == "rect"
            else regions.innermost(region.inside, count)
        )
        _paint(labels, region, block)
    return labels


def boxes(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    inner: float | None = None,
    jitter: float = 0.0,
    boxes: Boxes | None = None,
) -> np.ndarray:
    """Boxes of the objects, painted as pixel labels, and background outside (UNLABELED if there is none).

    Parameters
    ----------
    mask, rng, instances, background, jitter
        As in ``tight_boxes``.
    inner : float, optional
        Share of each side that carries the class, centered (``Box-i``: 0.2); the rest of the box is UNLABELED.
    boxes : object with codes and corners, optional
        What annotators drew, to be painted instead of tight boxes; then the mask is not looked at.
    """
    if boxes is not None:
        return paint_boxes(mask.shape, boxes.codes, boxes.corners, background=background, inner=inner)
    codes, corners = tight_boxes(mask, rng, instances=instances, background=background, jitter=jitter)
    labels = paint_boxes(mask.shape, codes, corners, background=background, inner=inner)
    labels[mask == VOID] = UNLABELED
    return labels


def part_points(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    std: float = 0.06,
    high: float = 0.9,
    low: float = 0.02,
) -> np.ndarray:
    """Three zones around a point in the middle of every part of every object (SPML, keypoints of DensePose).

    A Gaussian heat map of height 1 stands on the point, as wide as the object is large. Where it is high the part is
    labeled, where all maps are low is background, and between is UNLABELED. SPML does not tell its numbers; these are
    ours. Labels may contradict the mask, because who annotates points sees no outlines: where a part is thinner than
    its labeled disc, and where it is longer than its map is wide. Its ``VOID`` pixels stay ``VOID``.

    Parameters
    ----------
    mask, rng, instances, background
        As in ``simulate``; instances are needed, and nothing is random. The middle of a part is that of its pixels of
        one object, or the nearest of them.
    std : float
        Standard deviation of a heat map in units of the square root of the area of the object's tight box.
    high, low : float
        Least heat that labels a part, and least heat that is not background, 0 < low < high <= 1. The defaults are
        discs of 0.46 and 2.8 standard deviations. Where labeled discs overlap, the nearest point's part is taken.
    """
    if instances is None:
        raise ValueError(
            "part points are drawn in every object, and this mask has no instances; choose labels='points'"
        )
    if std <= 0 or not 0 < low < high <= 1:
        raise ValueError(f"part points need std > 0 and 0 < low < high <= 1, not {std}, {low} and {high}")
    codes, centers, widths = [], [], []
    for number, window in enumerate(ndimage.find_objects(instances.astype(np.int64)), start=1):
        if window is None or number == VOID:
            continue
        parts = np.where(instances[window] == number, mask[window], UNLABELED)
        for code in (code for code in _codes(parts) if code != background):
            codes.append(code)
            centers.append(regions.middle(parts == code) + [part.start for part in window])
            widths.append(std * math.sqrt(parts.size))
    labeled, near = (
        regions.discs(mask.shape, centers, [width * math.sqrt(-2 * math.log(heat)) for width in widths])
        for heat in (high, low)
    )
    labels = np.full(mask.shape, UNLABELED if background is None else background, np.uint8)
    labels[near >= 0] = UNLABELED
    labels[labeled >= 0] = np.array([*codes, VOID], np.uint8)[labeled[labeled >= 0]]
    labels[mask == VOID] = VOID
    return labels


def full(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
) -> np.ndarray:
    """The dense mask itself, for full supervision."""
    return mask.copy()


FORMS: dict[str, Callable[..., np.ndarray]] = {
    "points": points,
    "clicks": clicks,
    "scribbles": scribbles,
    "blocks": blocks,
    "boxes": boxes,
    "part_points": part_points,
    "full": full,
}


# --- What is done with labels -----------------------------------------------------------------------------------------


def tight_boxes(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    jitter: float = 0.0,
) -> tuple[list[int], np.ndarray]:
    """Boxes of the objects, as ``paint_boxes`` takes them: the class of each and corners (N, 4).

    Without instances an object is a component of at least 0.05 % of the image; components of one class closer than
    about 5 pixels count as one.

    Parameters
    ----------
    mask, rng, instances, background
        As in ``simulate``.
    jitter : float
        Standard deviation by which each side is moved, as a share of the box's height or width.
    """
    found = _clusters(mask, background) if instances is None else _objects(mask, instances, background)
    corners = np.array([regions.tight_box(region) for region in found], int).reshape(-1, 4)
    if jitter:
        sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
        corners = np.rint(corners + rng.normal(size=corners.shape) * jitter * sides).astype(int)
        corners[:, :2] = np.clip(corners[:, :2], 0, np.subtract(mask.shape, 1))
        corners[:, 2:] = np.clip(corners[:, 2:], corners[:, :2] + 1, mask.shape)
    return [region.code for region in found], corners


def paint_boxes(
    shape: tuple[int, ...],
    codes: Sequence[int],
    corners: np.ndarray,
    *,
    background: int | None = 0,
    inner: float | None = None,
) -> np.ndarray:
    """Labels from boxes: larger ones first, so that smaller ones are in front (SDI's Box, with ``inner`` its Box-i).

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    codes : (N,) sequence of int
        Class of each box.
    corners : (N, 4) integer array
        Top, left, bottom, right; zero-based, bottom and right exclusive.
    background : int or None
        Class outside the boxes; None leaves it UNLABELED.
    inner : float, optional
        Share of each side, 0 … 1, that carries the class, centered; the rest of the box is UNLABELED.
    """
    labels = np.full(shape, UNLABELED if background is None else background, np.uint8)
    corners = np.asarray(corners, int).reshape(-1, 4)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    for index in np.argsort(-areas, kind="stable"):
        top, left, bottom, right = corners[index]
        if inner is not None:
            labels[top:bottom, left:right] = UNLABELED
            height, width = (max(1, round(inner * side)) for side in (bottom - top, right - left))
            top, left = top + (bottom - top - height) // 2, left + (right - left - width) // 2
            bottom, right = top + height, left + width
        labels[top:bottom, left:right] = codes[index]
    return labels


def block_scale(masks: Iterable[np.ndarray], ratio: float) -> float:
    """Factor (>= 1) of ``ratio`` with which blocks label that share of all pixels of a data set."""
    pixels = covered = 0
    for mask in masks:
        pixels += mask.size
        covered += sum(region.area for region in _block_regions(mask, ratio))
    return max(1.0, pixels / covered) if covered else 1.0


def image_tags(mask: np.ndarray, num_classes: int, min_share: float = 0.0) -> np.ndarray:
    """Classes that a dense mask shows, on at least one pixel and at least ``min_share`` of the image: (K,) bool.

    The background, if the data set has one, is listed like any other class; a tag vector leaves it out.
    """
    counts = _counts(mask, num_classes)
    return counts >= max(1.0, min_share * np.asarray(mask).size)


def image_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Classes annotated anywhere in a sparse label: (K,) bool."""
    return _counts(labels, num_classes) > 0


def resize_labels(labels: np.ndarray, size: tuple[int, int], clicks: str = "move") -> np.ndarray:
    """Resize labels by nearest-neighbor sampling, by default without losing clicks.

    Parameters
    ----------
    labels : (H, W) uint8 array
        Sparse labels.
    size : (int, int)
        Height and width of the result.
    clicks : {"move", "nearest"}
        ``"nearest"`` samples with Pillow and nothing else, as the papers' code does: shrinking loses single pixels.
        ``"move"`` samples too; then every region (8-connected pixels of one class) of which no pixel was sampled gets
        back its middle one, in row order, at the scaled coordinates. If that place holds the last pixel of another
        region, the nearest place that does not is taken, so no region is lost as long as the result has a pixel for
        each.
    """
    if clicks not in ("move", "nearest"):
        raise ValueError(f"unknown way {clicks!r} to resize clicks; choose move or nearest")
    if min(size) < 1:
        raise ValueError(f"labels cannot be resized to {size}; height and width must be at least 1")
    resized = _sample(labels, size)
    if clicks == "nearest":
        return resized
    annotated = np.where(labels == VOID, UNLABELED, labels)
    regions, number = label_regions(annotated, background=UNLABELED, return_num=True, connectivity=2)
    left = _sample(regions.astype(np.int32), size)
    counts = np.bincount(left.ravel(), minlength=number + 1)
    counts[0] = left.size + 1  # the rest, which may always be overwritten
    windows = ndimage.find_objects(regions)
    for region in np.flatnonzero(counts == 0):
        window = windows[region - 1]
        pixels = np.argwhere(regions[window] == region)
        middle = pixels[len(pixels) // 2] + [part.start for part in window]
        target = tuple(((middle + 0.5) * size / labels.shape).astype(int))
        if counts[left[target]] == 1:
            free = np.argwhere(counts[left] > 1)
            if not len(free):
                break
            target = tuple(free[np.square(free - target).sum(axis=1).argmin()])
        counts[left[target]] -= 1
        counts[region] = 1
        left[target] = region
        resized[target] = labels[tuple(middle)]
    return resized


def nearest(length: int, new_length: int) -> np.ndarray:
    """Pixels that Pillow's nearest-neighbor sampling takes along a side of ``length``: (new_length,) int32."""
    pixels = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.array(pixels.resize((new_length, 1), Image.Resampling.NEAREST))[0]


def _sample(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much a set of labels annotates.

    Attributes
    ----------
    pixel_share : float
        Labelled pixels among all pixels, 0 … 1.
    pixels_per_image : float
        Labelled pixels per image.
    pair_share : float
        Share of the pairs (image, class) present in the truth that carry a label; NaN if there is none.
    class_pixels, class_images : (K,) integer arrays
        Labelled pixels, and images with a label, of each class.
    """

    pixel_share: float
    pixels_per_image: float
    pair_share: float
    class_pixels: np.ndarray
    class_images: np.ndarray


def coverage(labels: Iterable[np.ndarray], truth: Iterable[np.ndarray], num_classes: int) -> Coverage:
    """Count what a set of sparse labels annotates of the dense masks of the same images."""
    class_pixels = np.zeros(num_classes, int)
    class_images = np.zeros(num_classes, int)
    images = pixels = pairs = labeled_pairs = 0
    for label, mask in zip(labels, truth, strict=True):
        counts, present = _counts(label, num_classes), _counts(mask, num_classes) > 0
        class_pixels += counts
        class_images += counts > 0
        images, pixels = images + 1, pixels + label.size
        pairs, labeled_pairs = pairs + int(present.sum()), labeled_pairs + int((present & (counts > 0)).sum())
    if not images:
        raise ValueError("there is no label to count; pass at least one image")
    labeled, share = int(class_pixels.sum()), labeled_pairs / pairs if pairs else math.nan
    return Coverage(labeled / pixels, labeled / images, share, class_pixels, class_images)


def _counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.bincount(np.asarray(labels).ravel(), minlength=VOID + 1)
    unknown = [
        code for code in np.flatnonzero(counts).tolist() if code >= num_classes and code not in (UNLABELED, VOID)
    ]
    if unknown:
        code = unknown[0]
        raise ValueError(f"code {code} is no class of {num_classes}; translate the label's codes or raise num_classes")
    return counts[:num_classes]


# --- Regions ----------------------------------------------------------------------------------------------------------


def _smallest(mask: np.ndarray) -> float:
    return max(32, 0.0005 * mask.size)


def _codes(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1)[:UNLABELED]).tolist()


def _objects(mask: np.ndarray, instances: np.ndarray | None, background: int | None) -> list[regions.Region]:
    """Instances, each cut to its most frequent class; without instances, large enough components of every class."""
    if instances is None:
        codes = [code for code in _codes(mask) if code != background]
        return [region for code in codes for region in regions.components(mask, code, _smallest(mask))]
    found = []
    for number, window in enumerate(ndimage.find_objects(instances.astype(np.int64)), start=1):
        if window is None or number == VOID:
            continue
        window = regions.margin(window)
        inside = instances[window] == number
        counts = np.bincount(mask[window][inside], minlength=VOID)[:UNLABELED]
        if background is not None:
            counts[background] = 0
        if counts.any():
            code = int(counts.argmax())
            found.append(regions.Region(code, window, inside & (mask[window] == code)))
    return found


def _clusters(mask: np.ndarray, background: int | None) -> list[regions.Region]:
    """Components of one class, joined where their surroundings of 2.5 pixels touch, from 0.05 % of the image on."""
    found = []
    for code in _codes(mask):
        if code == background:
            continue
        numbered, _ = ndimage.label(ndimage.distance_transform_edt(mask != code) < 2.5, np.ones((3, 3)))
        numbered[mask != code] = 0
        for number, window in enumerate(ndimage.find_objects(numbered), start=1):
            region = regions.Region(code, window, numbered[window] == number)
            if region.area >= 0.0005 * mask.size:
                found.append(region)
    return found


def _block_regions(mask: np.ndarray, ratio: float) -> list[regions.Region]:
    return [region for code in _codes(mask) for region in regions.components(mask, code, 64 if ratio <= 0.2 else 1)]


def _paint(labels: np.ndarray, region: regions.Region, drawn: np.ndarray) -> None:
    labels[region.window][drawn & region.inside] = region.code

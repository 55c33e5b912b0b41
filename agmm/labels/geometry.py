"""Geometry of labels; ``inside`` is always a boolean (h, w) window of a region, positions are (row, column)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.measure import label as label_regions

from agmm.codes import UNLABELED, VOID

PLACEMENTS = ("human", "center", "random", "inside", "uniform")


@dataclass(frozen=True, eq=False)
class Region:
    """An object or component: its class, and its pixels within a window that leaves a pixel around where it can."""

    code: int
    window: tuple[slice, ...]
    inside: np.ndarray

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.inside))


def margin(window: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the window with one more pixel on every side, as far as there is one at the upper left."""
    return tuple(slice(max(0, part.start - 1), part.stop + 1) for part in window)


def components(mask: np.ndarray, code: int, smallest: float) -> list[Region]:
    """Return the connected regions of a code without those of fewer pixels than the smallest."""
    numbered, _ = ndimage.label(mask == code)
    areas = np.bincount(numbered.ravel())
    return [
        Region(code, margin(window), numbered[margin(window)] == number)
        for number, window in enumerate(ndimage.find_objects(numbered), start=1)
        if areas[number] >= smallest
    ]


def clusters(mask: np.ndarray, code: int) -> list[Region]:
    """Return the regions of a code, joined where their surroundings of 2.5 pixels touch."""
    numbered, _ = ndimage.label(ndimage.distance_transform_edt(mask != code) < 2.5, np.ones((3, 3)))
    numbered[mask != code] = 0
    windows = enumerate(ndimage.find_objects(numbered), start=1)
    return [Region(code, window, numbered[window] == number) for number, window in windows]


def tight_box(region: Region) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of a region in its image; bottom and right exclusive."""
    rows, columns = (np.flatnonzero(region.inside.any(axis=axis)) for axis in (1, 0))
    top, left = (part.start or 0 for part in region.window)
    return top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1


def depth_inside(inside: np.ndarray) -> np.ndarray:
    """Return the distance of every pixel to the region's complement; beyond the window is outside."""
    return ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]


def _distance_to_others(inside: np.ndarray) -> np.ndarray:
    """Distance of every pixel to other regions, of which the image's edge is none; 1 where there is none."""
    return np.ones(inside.shape) if inside.all() else ndimage.distance_transform_edt(inside)


def peak(values: np.ndarray) -> np.ndarray:
    """Return row and column of the largest value."""
    return np.array(np.unravel_index(values.argmax(), values.shape))


def place(inside: np.ndarray, rng: np.random.Generator, placement: str) -> np.ndarray:
    """Return row and column of a click in a region."""
    depth = depth_inside(inside)
    center, deepest = peak(depth), depth.max()
    if placement == "center":
        return center
    if placement == "human":
        for _ in range(20):
            position = np.rint(center + rng.normal(0, 0.35 * deepest, 2)).astype(int)
            if holds(inside, position):
                return position
        return center
    if placement == "random":
        candidates = np.argwhere(inside & (depth >= 0.3 * deepest))
    else:
        candidates = _well_inside(inside, 0.5 if placement == "inside" else 0.0)
    return candidates[rng.integers(len(candidates))]


def _well_inside(inside: np.ndarray, share: float) -> np.ndarray:
    """Pixels (M, 2) at least a share of the largest distance away from other regions."""
    depth = _distance_to_others(inside)
    return np.argwhere(inside & (depth >= share * depth.max()))


def spread_out(inside: np.ndarray, rng: np.random.Generator, placement: str, count: int) -> np.ndarray:
    """Return up to ``count`` different clicks (n, 2) on the background, see `agmm.labels.forms.points`."""
    if placement in ("inside", "uniform"):
        candidates = _well_inside(inside, 0.5 if placement == "inside" else 0.0)
        return candidates[rng.choice(len(candidates), min(count, len(candidates)), replace=False)]
    depth = depth_inside(inside)
    numbered, _ = ndimage.label(inside)
    largest = 1 + np.bincount(numbered.ravel())[1:].argmax()
    chosen = [peak(np.where(numbered == largest, depth, 0))][:count]
    apart = np.inf
    candidates = np.argwhere(depth >= 5) if depth.max() >= 5 else np.argwhere(inside)
    while 0 < len(chosen) < count:
        apart = np.minimum(apart, np.linalg.norm(candidates - chosen[-1], axis=1))
        spread = candidates[apart >= max(1, min(inside.shape) / 4)]
        spread = spread if len(spread) else candidates[apart > 0]
        if not len(spread):
            break
        chosen.append(spread[rng.integers(len(spread))])
    return np.array(chosen).reshape(-1, 2)


def holds(inside: np.ndarray, position: np.ndarray) -> bool:
    """Tell whether a position is in the mask and set there."""
    return bool((position >= 0).all() and (position < inside.shape).all() and inside[tuple(position)])


def stroke(shape: tuple[int, ...], path: Sequence[np.ndarray] | np.ndarray, width: float) -> np.ndarray:
    """Return the pixels (h, w) whose centers are within width / 2 of the polyline. A single vertex makes a disc.

    Unlike a rasterized line, a part of the path always draws a part of the pixels.
    """
    if width < 1:
        raise ValueError(f"the width is {width} pixels; it must be at least 1")
    drawn = np.zeros(shape, bool)
    path = np.asarray(path, float)
    reach = width / 2 + 1e-9
    for start, end in zip(path, np.vstack([path[1:], path[-1:]]), strict=True):
        low = np.maximum(np.ceil(np.minimum(start, end) - reach), 0).astype(int)
        high = np.maximum(np.floor(np.maximum(start, end) + reach) + 1, 0).astype(int)
        rows, columns = np.ogrid[low[0] : min(high[0], shape[0]), low[1] : min(high[1], shape[1])]
        down, right = end - start
        along = ((rows - start[0]) * down + (columns - start[1]) * right) / max(down**2 + right**2, 1e-12)
        along = np.clip(along, 0, 1)
        near = (rows - start[0] - along * down) ** 2 + (columns - start[1] - along * right) ** 2 <= reach**2
        drawn[low[0] : high[0], low[1] : high[1]] |= near
    return drawn


def middle(inside: np.ndarray) -> np.ndarray:
    """Return row and column of the pixel of a region nearest to the mean of its pixels, the first of several."""
    pixels = np.argwhere(inside)
    offsets = len(pixels) * pixels - pixels.sum(axis=0)  # whole numbers, as many are equally near
    return pixels[np.square(offsets).sum(axis=1).argmin()]


def discs(shape: tuple[int, ...], centers: Sequence[np.ndarray], radii: Sequence[float]) -> np.ndarray:
    """Return the number (H, W) of the disc that holds a pixel, of several the nearest, then the first; -1 for none."""
    disc, nearest = np.full(shape, -1), np.full(shape, np.inf)
    for number, (center, radius) in enumerate(zip(centers, radii, strict=True)):
        rows, columns = (
            np.arange(max(math.ceil(position - radius - 1e-9), 0), min(math.floor(position + radius + 1e-9) + 1, side))
            for position, side in zip(center, shape, strict=True)
        )
        window = np.ix_(rows, columns)
        distance = np.square(rows - center[0])[:, None] + np.square(columns - center[1])
        held = (distance <= radius**2 + 1e-9) & (distance < nearest[window])
        disc[window] = np.where(held, number, disc[window])
        nearest[window] = np.where(held, distance, nearest[window])
    return disc


def part_of(path: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the stretch of a polyline between two shares of its length."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    start, end = start * arc[-1], end * arc[-1]
    ends = np.stack([np.interp([start, end], arc, path[:, axis]) for axis in (0, 1)], axis=1)
    return np.vstack([ends[:1], path[(arc > start) & (arc < end)], ends[1:]])


def scribble(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the vertices (M, 2) of a stroke through a region, a single one if it is small."""
    depth = depth_inside(inside)
    path = _medial_path(depth) if np.count_nonzero(inside) >= 64 else np.empty((0, 2))
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    if arc[-1] < 8:
        return place(inside, rng, "human")[None]
    stations = np.linspace(0.1 * arc[-1], 0.9 * arc[-1], 1 + max(1, round(0.8 * arc[-1] / 8)))
    vertices = path[np.searchsorted(arc, stations)]
    spread = np.minimum(1.5, 0.25 * depth[tuple(vertices.T)])
    jittered = np.rint(vertices + rng.normal(size=vertices.shape) * spread[:, None]).astype(int)
    in_region = [position for position in jittered if holds(inside, position)]
    return np.array(in_region) if in_region else vertices[:1]


def _medial_path(depth: np.ndarray) -> np.ndarray:
    """Pixels (M, 2) of the longest cheapest path: the deeper in the region, the cheaper a step."""
    graph = MCP_Geometric(np.where(depth >= min(3, 0.5 * depth.max()), (depth + 1) ** -2.0, -1))
    start = end = tuple(peak(depth))
    for _ in range(2):  # the farthest pixel from the pole, then the farthest from there
        start = end
        costs, _unused = graph.find_costs([start])
        end = tuple(peak(np.where(np.isfinite(costs), costs, -1)))
    return np.array(graph.traceback(end))


def innermost(inside: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` pixels farthest from the region's boundary; ties by row and column."""
    depth = _distance_to_others(inside)
    pixels = np.flatnonzero(inside)
    chosen = np.zeros(inside.shape, bool)
    chosen.flat[pixels[np.argsort(-depth.flat[pixels], kind="stable")[:count]]] = True
    return chosen


def rectangles(inside: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw random rectangles inside a region, at most ``count`` pixels together."""
    chosen = np.zeros(inside.shape, bool)
    pixels = np.argwhere(inside)
    for _ in range(64):
        rest = count - int(chosen.sum())
        if not rest:
            break
        row, column = pixels[rng.integers(len(pixels))]
        stretch = np.exp(rng.uniform(-0.7, 0.7))
        height = max(1, math.floor(min(rest, math.sqrt(rest) * stretch)))
        width = max(1, rest // height)
        while True:
            top, left = max(0, row - height // 2), max(0, column - width // 2)
            part = slice(top, top + height), slice(left, left + width)
            if inside[part].all():
                break
            height, width = max(1, 3 * height // 4), max(1, 3 * width // 4)
        chosen[part] = True
    return chosen


# --- Labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of objects in an image."""

    size: tuple[int, int]  # height and width of the image
    codes: Sequence[int]  # class of each box
    corners: np.ndarray  # (N, 4) int: top, left, bottom, right; zero-based, bottom and right exclusive


def paint_boxes(boxes: Boxes, *, background: int | None = 0, inner: float | None = None) -> np.ndarray:
    """Paint boxes, larger ones first, so that smaller ones are in front (SDI's Box, with ``inner`` its Box-i).

    Outside is the class ``background``; None leaves it UNLABELED. ``inner`` is the share of each side, 0 … 1, that
    carries the class, centered; the rest of the box is UNLABELED.
    """
    labels = backdrop(boxes.size, background)
    for index in largest_first(boxes.corners):
        top, left, bottom, right = boxes.corners[index]
        if inner is not None:
            labels[top:bottom, left:right] = UNLABELED
            height, width = (max(1, round(inner * side)) for side in (bottom - top, right - left))
            top, left = top + (bottom - top - height) // 2, left + (right - left - width) // 2
            bottom, right = top + height, left + width
        labels[top:bottom, left:right] = boxes.codes[index]
    return labels


def backdrop(shape: tuple[int, ...], background: int | None) -> np.ndarray:
    """Return labels (H, W) of background alone, UNLABELED where no class means that."""
    return np.full(shape, UNLABELED if background is None else background, np.uint8)


def largest_first(corners: np.ndarray) -> np.ndarray:
    """Return the order (N,) in which boxes with corners (N, 4) are painted."""
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.argsort(-areas, kind="stable")


def resize_labels(labels: np.ndarray, size: tuple[int, int], clicks: str = "move") -> np.ndarray:
    """Resize sparse labels (H, W) uint8 to another height and width by nearest-neighbor sampling, without losing
    clicks.

    ``clicks="nearest"`` samples with Pillow and nothing else, as the papers' code does: shrinking loses single pixels.
    ``"move"`` samples too; then every region (8-connected pixels of one class) of which no pixel was sampled gets back
    its middle one, in row order, at the scaled coordinates. If that place holds the last pixel of another region, the
    nearest place that does not is taken, so no region is lost as long as the result has a pixel for each.
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
    sampled = _sample(regions.astype(np.int32), size)
    counts = np.bincount(sampled.ravel(), minlength=number + 1)
    counts[0] = sampled.size + 1  # the rest, which may always be overwritten
    windows = ndimage.find_objects(regions)
    for region in np.flatnonzero(counts == 0):
        window = windows[region - 1]
        pixels = np.argwhere(regions[window] == region)
        middle = pixels[len(pixels) // 2] + [side.start for side in window]
        target = tuple(((middle + 0.5) * size / labels.shape).astype(int))
        if counts[sampled[target]] == 1:
            free = np.argwhere(counts[sampled] > 1)
            if not len(free):
                break
            target = tuple(free[np.square(free - target).sum(axis=1).argmin()])
        counts[sampled[target]] -= 1
        counts[region] = 1
        sampled[target] = region
        resized[target] = labels[tuple(middle)]
    return resized


def nearest(length: int, new_length: int) -> np.ndarray:
    """Return the pixels (new_length,) that Pillow's nearest-neighbor sampling takes along a side of ``length``."""
    pixels = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.array(pixels.resize((new_length, 1), Image.Resampling.NEAREST))[0]


def _sample(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's nearest-neighbor sampling of an (H, W) array to a height and width."""
    return np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


# --- Counts: the classes of an image, and the share of pixels and classes that labels annotate ------------------------


def image_tags(mask: np.ndarray, num_classes: int, min_share: float = 0.0) -> np.ndarray:
    """Return the classes (K,) on at least one pixel and ``min_share`` of a dense mask, background like any other."""
    counts = _counts(mask, num_classes)
    return counts >= max(1.0, min_share * np.asarray(mask).size)


def image_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes (K,) annotated anywhere in a sparse label (H, W)."""
    return _counts(labels, num_classes) > 0


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much a set of labels annotates."""

    pixel_share: float  # labeled pixels among all pixels, 0 … 1
    pixels_per_image: float  # labeled pixels per image
    pair_share: float  # of the pairs (image, class) in the truth those with a label; NaN if there is none
    class_pixels: np.ndarray  # (K,) labeled pixels of each class
    class_images: np.ndarray  # (K,) images with a label of each class


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
    labeled, pair_share = int(class_pixels.sum()), labeled_pairs / pairs if pairs else math.nan
    return Coverage(labeled / pixels, labeled / images, pair_share, class_pixels, class_images)


def _counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels (K,) of each class; ValueError where a code is neither a class nor `VOID` nor `UNLABELED`."""
    counts = np.bincount(np.asarray(labels).ravel(), minlength=VOID + 1)
    unknown = [code for code in np.flatnonzero(counts).tolist() if code >= num_classes]
    unknown = [code for code in unknown if code not in (UNLABELED, VOID)]
    if unknown:
        code = unknown[0]
        raise ValueError(f"code {code} is no class of {num_classes}; translate the label's codes or raise num_classes")
    return counts[:num_classes]

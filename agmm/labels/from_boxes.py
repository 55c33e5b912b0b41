"""Pixel labels from boxes: GrabCut on the image, class activation maps (CAMs), and where the two agree.

Every form is a function ``form(image, codes, corners, rng, *, background=0, **options)`` that returns ``(H, W)`` uint8
labels in the codes of `agmm.labels`; ``simulate`` looks it up by name and finds the boxes where none are given. Unlike
the forms of `agmm.labels` they see the image, and their labels may be wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType

import numpy as np

from agmm import labels
from agmm.codes import UNLABELED, VOID

Cams = Mapping[int, np.ndarray]
"""Class activation maps of an image: class code -> (H, W) float, larger where the class is more likely."""

SMALLEST = 0.15
"""IoU with its box below which a segment is given up (SDI), and share of it that CAMs must confirm."""


def simulate(
    form: str,
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    boxes: labels.Boxes | None = None,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    **options: object,
) -> np.ndarray:
    """Labels of one image.

    Parameters
    ----------
    form : {"grabcut", "boxcam", "grabcut_cam", "cam"}
        Name of the function that makes the label.
    image : (H, W, 3) uint8 array
        RGB.
    mask : (H, W) integer array
        Dense mask, from which boxes are drawn if none are given; then its ``VOID`` pixels stay UNLABELED.
    rng : numpy.random.Generator
        See `agmm.labels.generator`.
    boxes : agmm.labels.Boxes, optional
        What annotators drew.
    instances, background
        As in `agmm.labels.simulate`.
    **options
        Passed to the form.
    """
    make = partial(FORMS[form], background=background, **options)
    if boxes is not None:
        return make(image, boxes.codes, np.asarray(boxes.corners, int).reshape(-1, 4), rng)
    made = make(image, *labels.tight_boxes(mask, rng, instances=instances, background=background), rng)
    made[mask == VOID] = UNLABELED
    return made


# --- Forms ------------------------------------------------------------------------------------------------------------


def grabcut(
    image: np.ndarray,
    codes: Sequence[int],
    corners: np.ndarray,
    rng: np.random.Generator,
    *,
    background: int | None = 0,
    runs: int = 1,
) -> np.ndarray:
    """The segment that GrabCut finds in each box, and background elsewhere.

    Larger segments are painted first, so that smaller ones are in front.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    codes, corners
        As in `agmm.labels.paint_boxes`.
    rng : numpy.random.Generator
        Seeds OpenCV's, and moves the boxes of an ensemble.
    background : int or None
        Class of what is no segment; None leaves it UNLABELED.
    runs : int
        1 is GrabCut (SDI's baseline). More are an ensemble like SDI's GrabCut+-i, which has about 150 and edges of
        a network besides; 15 do. Then pixels of a box on which it does not agree are UNLABELED (`grabcut_votes`).
    """
    if runs < 1:
        raise ValueError(f"the number of runs of GrabCut is {runs}; it must be at least 1")
    segments = []
    for box in corners:
        if runs == 1:
            segment = grabcut_segment(image, box, _seed(rng))
            segments.append((segment, np.zeros_like(segment)))
        else:
            votes = grabcut_votes(image, box, rng, runs)
            segments.append((votes > 0.7, (votes <= 0.7) & (votes >= 0.2)))
    return _painted(image.shape[:2], codes, segments, background)


def boxcam(
    image: np.ndarray,
    codes: Sequence[int],
    corners: np.ndarray,
    rng: np.random.Generator,
    *,
    background: int | None = 0,
    cams: Cams | None = None,
    threshold: float = 0.5,
) -> np.ndarray:
    """The class of each box where its CAM, scaled to 0 … 1 within the box, exceeds a threshold (SPML).

    The rest of a box is UNLABELED, all of it where the class has no CAM or a flat one. Smaller boxes are in front.

    Parameters
    ----------
    image, codes, corners, rng, background
        As in `grabcut`; the random generator is not used.
    cams : Cams
        Of the image, in its size.
    threshold : float
        0 … 1.
    """
    cams = _checked(cams, image)
    shape = image.shape[:2]
    result = np.full(shape, UNLABELED if background is None else background, np.uint8)
    for index in np.argsort(-_areas(corners), kind="stable"):
        window = _window(corners[index])
        result[window] = UNLABELED
        if (cam := cams.get(codes[index])) is not None and np.ptp(cam[window]) > 0:
            inside = cam[window] - cam[window].min()
            result[window][inside > threshold * inside.max()] = codes[index]
    return result


def grabcut_cam(
    image: np.ndarray,
    codes: Sequence[int],
    corners: np.ndarray,
    rng: np.random.Generator,
    *,
    background: int | None = 0,
    cams: Cams | None = None,
    threshold: float = 0.3,
) -> np.ndarray:
    """Where GrabCut and the CAMs agree on a box's class: our reading of AGMM++, whose rule is not published.

    Within a box the class is where GrabCut finds foreground and the CAMs' label is the class; UNLABELED where just one
    of both says so. Where they agree on less than 15 % of GrabCut's segment, that is taken alone. Larger segments are
    painted first; the rest is background.

    Parameters
    ----------
    image, codes, corners, rng, background
        As in `grabcut`.
    cams : Cams
        Of the image, in its size.
    threshold : float
        Score of the background, see `cam_labels`.
    """
    seen = cam_labels(_checked(cams, image), image.shape[:2], threshold)
    segments = []
    for code, box in zip(codes, corners, strict=True):
        segment, confirmed = grabcut_segment(image, box, _seed(rng)), np.zeros(image.shape[:2], bool)
        confirmed[_window(box)] = seen[_window(box)] == code
        both = segment & confirmed
        alone = both.sum() < SMALLEST * segment.sum()
        segments.append((segment, np.zeros_like(segment)) if alone else (both, segment ^ confirmed))
    return _painted(image.shape[:2], codes, segments, background)


def cam(
    image: np.ndarray,
    codes: Sequence[int],
    corners: np.ndarray,
    rng: np.random.Generator,
    *,
    background: int | None = 0,
    cams: Cams | None = None,
    exponent: float = 6.0,
) -> np.ndarray:
    """The class with the largest CAM, or background where that has the larger score, (1 - largest CAM)^exponent (SPML).

    No pixel stays UNLABELED: with an exponent of 6 the better score is at least 0.22, above SPML's threshold of 0.2.

    Parameters
    ----------
    image, codes, corners, rng, background
        As in `grabcut`; of an image's tags nothing but the CAMs is used.
    cams : Cams
        Of the image, in its size; values 0 … 1.
    exponent : float
    """
    cams = _checked(cams, image)
    largest = np.max([np.zeros(image.shape[:2]), *cams.values()], axis=0)
    found = cam_labels(cams, image.shape[:2], (1 - largest) ** exponent)
    return np.where(found == 0, UNLABELED if background is None else background, found).astype(np.uint8)


FORMS: dict[str, Callable[..., np.ndarray]] = {
    "grabcut": grabcut,
    "boxcam": boxcam,
    "grabcut_cam": grabcut_cam,
    "cam": cam,
}
"""Forms that need the image, not only the mask."""

NEED_CAMS = ("boxcam", "grabcut_cam", "cam")


# --- GrabCut ----------------------------------------------------------------------------------------------------------


def grabcut_segment(image: np.ndarray, box: np.ndarray, seed: int = 0, iterations: int = 5) -> np.ndarray:
    """Foreground in a box by OpenCV's GrabCut (Rother et al. 2004), or the whole box where it fails: (H, W) bool.

    Outside the box everything is background; foreground is what ends as certain or probable. By SDI's rules the whole
    box is taken if the segment is empty or its IoU with the box is below 0.15, and here also if the box leaves no
    background to learn from.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    box : (4,) integer array
        Top, left, bottom, right; zero-based, bottom and right exclusive.
    seed : int
        Of OpenCV's generator, which starts the mixtures: the same seed finds the same segment.
    iterations : int

    Raises
    ------
    RuntimeError
        Without OpenCV.
    """
    cv2 = _opencv()
    whole = np.zeros(image.shape[:2], bool)
    whole[_window(box)] = True
    if whole.all():
        return whole
    top, left, bottom, right = (int(side) for side in box)
    cv2.setRNGSeed(seed)
    found, models = np.zeros(whole.shape, np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
    rectangle = left, top, right - left, bottom - top
    cv2.grabCut(np.ascontiguousarray(image), found, rectangle, *models, iterations, cv2.GC_INIT_WITH_RECT)
    segment = (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)
    return segment if segment.sum() >= SMALLEST * whole.sum() else whole  # it never leaves the box


def grabcut_votes(image: np.ndarray, box: np.ndarray, rng: np.random.Generator, runs: int = 15) -> np.ndarray:
    """Share of GrabCut runs that call a pixel of a box foreground, 0 outside it: (H, W) float.

    Every run moves the box's sides by up to 5 % of its height or width, and sees as background a margin of 10 to 60 %
    of them around it.
    """
    height, width = image.shape[:2]
    sides = np.tile(box[2:] - box[:2], 2)
    votes = np.zeros((height, width))
    for _ in range(runs):
        moved = np.rint(box + rng.uniform(-0.05, 0.05, 4) * sides).astype(int)
        moved[:2] = np.clip(moved[:2], 0, np.subtract((height, width), 1))
        moved[2:] = np.clip(moved[2:], moved[:2] + 1, (height, width))
        margin = np.maximum(1, np.rint(rng.uniform(0.1, 0.6) * sides[:2])).astype(int)
        first, last = np.maximum(moved[:2] - margin, 0), np.minimum(moved[2:] + margin, (height, width))
        seen = slice(first[0], last[0]), slice(first[1], last[1])
        votes[seen] += grabcut_segment(image[seen], moved - np.tile(first, 2), _seed(rng))
    inside = np.zeros_like(votes)
    inside[_window(box)] = votes[_window(box)] / runs
    return inside


def _opencv() -> ModuleType:
    try:
        import cv2  # here, as only GrabCut needs it
    except ImportError as error:
        raise RuntimeError("GrabCut needs OpenCV: install opencv-python-headless, or choose labels='boxes'") from error
    return cv2


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


# --- CAMs -------------------------------------------------------------------------------------------------------------


def cam_labels(cams: Cams, size: tuple[int, ...], threshold: float | np.ndarray) -> np.ndarray:
    """Class with the largest CAM where that exceeds a background score, 0 elsewhere: (H, W) uint8."""
    best, result = np.broadcast_to(threshold, size).astype(float), np.zeros(size, np.uint8)
    for code, cam in cams.items():
        result[cam > best] = code
        best = np.maximum(best, cam)
    return result


def _checked(cams: Cams | None, image: np.ndarray) -> Cams:
    if cams is None:
        raise ValueError("these labels need class activation maps, and there are none; choose labels='grabcut'")
    for code, cam in cams.items():
        if cam.shape != image.shape[:2]:
            raise ValueError(f"the CAM of class {code} has shape {cam.shape}, its image {image.shape[:2]}; resize it")
    return cams


# --- Painting ---------------------------------------------------------------------------------------------------------


def _painted(
    shape: tuple[int, ...],
    codes: Sequence[int],
    segments: Sequence[tuple[np.ndarray, np.ndarray]],
    background: int | None,
) -> np.ndarray:
    """Segments with the pixels that are uncertain, larger segments first."""
    result = np.full(shape, UNLABELED if background is None else background, np.uint8)
    for index in np.argsort([-segment.sum() for segment, _ in segments], kind="stable"):
        segment, uncertain = segments[index]
        result[uncertain] = UNLABELED
        result[segment] = codes[index]
    return result


def _window(box: np.ndarray) -> tuple[slice, slice]:
    return slice(box[0], box[2]), slice(box[1], box[3])


def _areas(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])

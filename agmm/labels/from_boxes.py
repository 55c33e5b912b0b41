"""Pixel labels from boxes: GrabCut on the image, class activation maps (CAMs), and where the two agree.

Every form is a function ``form(scene, **options)`` that returns ``(H, W)`` uint8 labels in the codes of `agmm.codes`;
`simulate` looks it up by name and finds the boxes where none are given. Unlike the forms of `agmm.labels.forms` they
see the image, and their labels may be wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agmm.codes import UNLABELED, VOID
from agmm.labels import forms, geometry

Cams = Mapping[int, np.ndarray]  # class activation maps: code -> (H, W) float, larger where it is more likely

SMALLEST = 0.15  # IoU with its box below which a segment is given up (SDI), and share of it that CAMs must confirm


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """An image with boxes, and whatever else its labels are made of."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    boxes: geometry.Boxes
    rng: np.random.Generator  # seeds OpenCV's, and moves the boxes of an ensemble
    background: int | None = 0  # class of what is in no box; None leaves it UNLABELED
    cams: Cams | None = None  # of the image, in its size, with values 0 … 1

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width."""
        return self.image.shape[:2]


def simulate(
    form: str,
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    boxes: geometry.Boxes | None = None,
    cams: Cams | None = None,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    **options: object,
) -> np.ndarray:
    """Make the labels (H, W) of one image by the form of that name, to which the options are passed.

    Without ``boxes`` that annotators drew, boxes are drawn from the dense mask (H, W), whose ``VOID`` pixels then stay
    UNLABELED. For the image and its CAMs see `BoxedImage`, for the others `agmm.labels.Scene`.
    """
    drawn = boxes or forms.tight_boxes(forms.Scene(mask, rng, instances, background))
    labels = FORMS[form](BoxedImage(image, drawn, rng, background, cams), **options)
    if boxes is None:
        labels[mask == VOID] = UNLABELED
    return labels


def grabcut(scene: BoxedImage, *, runs: int = 1) -> np.ndarray:
    """Paint the segment that GrabCut finds in each box, and background elsewhere.

    Larger segments are painted first, so that smaller ones are in front. One run is SDI's baseline. More are an
    ensemble like SDI's GrabCut+-i, which has about 150 and edges of a network besides; 15 do. Then pixels of a box on
    which it does not agree are UNLABELED (`grabcut_votes`).
    """
    if runs < 1:
        raise ValueError(f"the number of runs of GrabCut is {runs}; it must be at least 1")
    segments = []
    for box in scene.boxes.corners:
        if runs == 1:
            segment = grabcut_segment(scene.image, box, _seed(scene.rng))
            segments.append((segment, np.zeros_like(segment)))
        else:
            votes = grabcut_votes(scene.image, box, scene.rng, runs)
            segments.append((votes > 0.7, (votes <= 0.7) & (votes >= 0.2)))
    return _painted(scene, segments)


def boxcam(scene: BoxedImage, *, threshold: float = 0.5) -> np.ndarray:
    """Paint the class of each box where its CAM, scaled to 0 … 1 within the box, exceeds a threshold (SPML).

    The rest of a box is UNLABELED, all of it where the class has no CAM or a flat one. Smaller boxes are in front.
    """
    cams, labels = _cams_of(scene), geometry.backdrop(scene.size, scene.background)
    for index in geometry.largest_first(scene.boxes.corners):
        window, code = _window(scene.boxes.corners[index]), scene.boxes.codes[index]
        labels[window] = UNLABELED
        if code in cams and np.ptp(cams[code][window]) > 0:
            inside = cams[code][window] - cams[code][window].min()
            labels[window][inside > threshold * inside.max()] = code
    return labels


def grabcut_cam(scene: BoxedImage, *, threshold: float = 0.3) -> np.ndarray:
    """Label where GrabCut and CAMs agree on a box's class: our reading of AGMM++, whose rule is not published.

    Within a box the class is where GrabCut finds foreground and the CAMs' label is the class (`cam_labels` with the
    threshold); UNLABELED where just one of both says so. Where they agree on less than 15 % of GrabCut's segment, that
    is taken alone. Larger segments are painted first; the rest is background.
    """
    best, segments = cam_labels(_cams_of(scene), scene.size, threshold), []
    for code, box in zip(scene.boxes.codes, scene.boxes.corners, strict=True):
        segment, confirmed = grabcut_segment(scene.image, box, _seed(scene.rng)), np.zeros(scene.size, bool)
        confirmed[_window(box)] = best[_window(box)] == code
        both = segment & confirmed
        alone = both.sum() < SMALLEST * segment.sum()
        segments.append((segment, np.zeros_like(segment)) if alone else (both, segment ^ confirmed))
    return _painted(scene, segments)


def cam(scene: BoxedImage, *, exponent: float = 6.0) -> np.ndarray:
    """Label the class of the largest CAM, or background where (1 - largest CAM)^exponent, its score, is larger (SPML).

    Boxes are not looked at. No pixel stays UNLABELED: with an exponent of 6 the better score is at least 0.22, above
    SPML's threshold of 0.2.
    """
    cams = _cams_of(scene)
    largest = np.max([np.zeros(scene.size), *cams.values()], axis=0)
    best = cam_labels(cams, scene.size, (1 - largest) ** exponent)
    return np.where(best == 0, geometry.backdrop(scene.size, scene.background), best)


_ALL: tuple[Callable[..., np.ndarray], ...] = (grabcut, boxcam, grabcut_cam, cam)
FORMS = {form.__name__: form for form in _ALL}  # those that need the image, not only the mask
NEED_CAMS = ("boxcam", "grabcut_cam", "cam")


def grabcut_segment(image: np.ndarray, box: np.ndarray, seed: int = 0, iterations: int = 5) -> np.ndarray:
    """Find the foreground (H, W) in a box by OpenCV's GrabCut (Rother et al. 2004), the whole box where it fails.

    The box (4,) is top, left, bottom, right; zero-based, bottom and right exclusive. Outside everything is background;
    foreground is what ends as certain or probable. By SDI's rules the whole box is taken if the segment is empty or its
    IoU with the box is below 0.15, and here also if the box leaves no background to learn from. The seed is that of
    OpenCV's generator, which starts the mixtures: the same seed finds the same segment. Without OpenCV raise
    RuntimeError.
    """
    try:
        import cv2  # here, as only GrabCut needs it
    except ImportError as error:
        raise RuntimeError("GrabCut needs OpenCV: install opencv-python-headless, or choose labels='boxes'") from error
    whole = np.zeros(image.shape[:2], bool)
    whole[_window(box)] = True
    if whole.all():
        return whole
    top, left, bottom, right = (int(side) for side in box)
    cv2.setRNGSeed(seed)
    states, models = np.zeros(whole.shape, np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
    rectangle = left, top, right - left, bottom - top
    cv2.grabCut(np.ascontiguousarray(image), states, rectangle, *models, iterations, cv2.GC_INIT_WITH_RECT)
    segment = (states == cv2.GC_FGD) | (states == cv2.GC_PR_FGD)
    return segment if segment.sum() >= SMALLEST * whole.sum() else whole  # it never leaves the box


def grabcut_votes(image: np.ndarray, box: np.ndarray, rng: np.random.Generator, runs: int = 15) -> np.ndarray:
    """Return the share (H, W) of GrabCut runs that call a pixel of a box foreground, 0 outside it.

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


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def cam_labels(cams: Cams, size: tuple[int, ...], threshold: float | np.ndarray) -> np.ndarray:
    """Return the class (H, W) with the largest CAM where that exceeds a background score, 0 elsewhere."""
    best, labels = np.broadcast_to(threshold, size).astype(float), np.zeros(size, np.uint8)
    for code, cam in cams.items():
        labels[cam > best] = code
        best = np.maximum(best, cam)
    return labels


def _cams_of(scene: BoxedImage) -> Cams:
    if scene.cams is None:
        raise ValueError("these labels need class activation maps, and there are none; choose labels='grabcut'")
    for code, cam in scene.cams.items():
        if cam.shape != scene.size:
            raise ValueError(f"the CAM of class {code} has shape {cam.shape}, its image {scene.size}; resize it")
    return scene.cams


def _painted(scene: BoxedImage, segments: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Paint each box's segment and uncertain pixels, both (H, W) bool, larger segments first."""
    labels = geometry.backdrop(scene.size, scene.background)
    for index in np.argsort([-segment.sum() for segment, _ in segments], kind="stable"):
        segment, uncertain = segments[index]
        labels[uncertain] = UNLABELED
        labels[segment] = scene.boxes.codes[index]
    return labels


def _window(box: np.ndarray) -> tuple[slice, slice]:
    return slice(box[0], box[2]), slice(box[1], box[3])

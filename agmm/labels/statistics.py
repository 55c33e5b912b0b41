"""Statistics of labels: the classes of an image, and the share of pixels and classes that labels annotate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from agmm.codes import UNLABELED, VOID


def image_tags(mask: np.ndarray, num_classes: int, min_share: float = 0.0) -> np.ndarray:
    """Return the classes (K,) that a dense mask shows, on at least one pixel and ``min_share`` of the image.

    The background, if the data set has one, is listed like any other class; a tag vector leaves it out.
    """
    counts = _counts(mask, num_classes)
    return counts >= max(1.0, min_share * np.asarray(mask).size)


def image_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes (K,) annotated anywhere in a sparse label (H, W)."""
    return _counts(labels, num_classes) > 0


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much a set of labels annotates.

    Attributes
    ----------
    pixel_share : float
        Labeled pixels among all pixels, 0 … 1.
    pixels_per_image : float
        Labeled pixels per image.
    pair_share : float
        Share of the pairs (image, class) present in the truth that carry a label; NaN if there is none.
    class_pixels, class_images : (K,) integer arrays
        Labeled pixels, and images with a label, of each class.
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

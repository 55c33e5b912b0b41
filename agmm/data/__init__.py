"""Data sets: what a training needs from one, whichever it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    dataset : str
        Name of the data set, part of the seed of every simulated label.
    class_names : tuple of str
        Names of the K classes, in the order of their codes.
    ids : tuple of str
        One name per image.
    images : sequence of (H, W, 3) uint8 arrays
        RGB images; one (N, H, W, 3) array when all have one size.
    truth : sequence of (H, W) uint8 arrays
        Dense masks, 0 … K-1 or ``VOID``. For evaluation and for simulating sparse labels; never used in a loss.
    background : int or None
        Code of the class that means "background", None where every class is a thing or stuff of its own.
    instances : sequence of (H, W) uint8 arrays, optional
        Object masks: 0 for none, 1, 2 … for the objects of an image.
    """

    dataset: str
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    images: np.ndarray | Sequence[np.ndarray]
    truth: np.ndarray | Sequence[np.ndarray]
    background: int | None
    instances: np.ndarray | Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

"""The mixture that clicks on one image make, step by step, as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from agmm import gmm
from agmm.codes import UNLABELED, VOID
from agmm.figures.trained import Trained, forward


class Click(NamedTuple):
    """A labeled pixel: row, column, class."""

    y: int
    x: int
    label: int


class Mixture(NamedTuple):
    """What clicks make of an image with N clicked classes, h x w feature cells and H x W pixels."""

    classes: np.ndarray
    """(N,) clicked classes, ascending."""
    means: np.ndarray
    """(N, C) class means (Eq. 4)."""
    distances: np.ndarray
    """(N, h, w) distance of every feature to the means (Eq. 6)."""
    sigma: np.ndarray
    """(N,) spreads by Eq. 5, also where the scores do not use them."""
    scores: np.ndarray
    """(N, H, W) scores G (Eq. 7)."""

    @property
    def prediction(self) -> np.ndarray:
        """(H, W) class with the largest score."""
        return self.classes[self.scores.argmax(0)].astype(np.uint8)


def clicked(features: Tensor, logits: Tensor, clicks: Sequence[Click], spread: bool = False) -> Mixture:
    """The mixture of one image.

    Parameters
    ----------
    features : Tensor (1, C, h, w)
    logits : Tensor (1, K, H, W)
    clicks : sequence of Click
        At least one; of two on one pixel the later counts.
    spread : bool
        Scores with the spreads of Eq. 5, or without as in the released code.

    Raises
    ------
    ValueError
        If there is no click, or one lies outside the image or names a class that does not exist.
    """
    labels = click_labels(clicks, tuple(logits.shape[2:]), logits.shape[1])
    parts = gmm.components(labels, logits.shape[1])
    means, d = gmm.means_and_distances(features, labels, parts)
    sigma = gmm.spread(d, logits, labels, parts.present, parts, "adaptive")
    scores = gmm.scores(d, sigma if spread else None, labels.shape[1:], parts)
    return Mixture(*(one[0].numpy() for one in (parts.classes, means, d, sigma, scores)))


def click_labels(clicks: Sequence[Click], size: tuple[int, ...], num_classes: int) -> Tensor:
    """Labels (1, H, W) of clicks on an image of size (H, W); ValueError for impossible ones."""
    if not clicks:
        raise ValueError("without a click there is no mixture: click on at least one pixel")
    labels = torch.full((1, *size), UNLABELED)
    for y, x, label in clicks:
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            raise ValueError(f"the click at row {y}, column {x} is outside the image of {size[0]} x {size[1]} pixels")
        if not 0 <= label < num_classes:
            raise ValueError(f"there is no class {label}; classes are 0 to {num_classes - 1}")
        labels[0, y, x] = label
    return labels


def central_clicks(truth: np.ndarray) -> list[Click]:
    """A click on every class of a dense mask, where it is farthest from other classes and the border."""
    clicks = []
    for label in np.unique(truth[(truth != VOID) & (truth != UNLABELED)]):
        depth = ndimage.distance_transform_edt(np.pad(truth == label, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        clicks.append(Click(int(y), int(x), int(label)))
    return clicks


def click_mixture(trained: Trained, index: int, clicks: Sequence[Click], spread: bool = False) -> Mixture:
    """`clicked` on a training image of a complete run."""
    features, logits = forward(trained, trained.data, slice(index, index + 1))
    return clicked(features, logits, clicks, spread)

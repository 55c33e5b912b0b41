"""Random walk of class scores over the pixels of an image, along similar embeddings (SPML, Algorithms 1 and 2)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Walk = Literal["code", "paper"]

STEPS: dict[Walk, int] = {"code": 64, "paper": 6}
"""Steps of the whole walk. The released code squares the matrix six times."""

GAMMA, BETA = 5.0, 20.0
"""Sharpness of affinities, and the power that they are raised to."""


def affinity(views: Sequence[Tensor]) -> Tensor:
    """Average exp(gamma (cosine - 1)) over embeddings (C, h, w) of several views of an image: (h w, h w)."""
    units = [F.normalize(embeddings.flatten(1), dim=0) for embeddings in views]
    return torch.stack([(GAMMA * (unit.T @ unit - 1)).exp() for unit in units]).mean(0)


def transitions(affinities: Tensor, beta: float = BETA, walk: Walk = "code") -> Tensor:
    """Return the transition matrix (P, P) of the whole walk, whose columns sum to 1, from affinities A (P, P).

    ``(A^beta / column sums)^steps``, with the power beta of each entry and the `STEPS` of the walk. The paper
    normalizes before the power and not after it; columns normalized after it are the same either way.
    """
    powers = affinities**beta
    return torch.linalg.matrix_power(powers / powers.sum(0), STEPS[walk])


def class_scores(logits: Sequence[Tensor], size: tuple[int, int], image_classes: Tensor) -> Tensor:
    """Return a classifier's scores (K, h, w) on the grid of the walk, from logits (K, H, W) of views, `scaled`."""
    return scaled([_resized(view, size).softmax(0) for view in logits], image_classes)


def scaled(shares: Sequence[Tensor], image_classes: Tensor) -> Tensor:
    """Average several views (K, h, w), each class's largest value 1; 0 for all but the image's classes (K,)."""
    mean = torch.stack(list(shares)).mean(0)
    return mean / mean.amax((1, 2), keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny) * image_classes[:, None, None]


def cam_scores(cams: Tensor, scale: float = 1 / 8, exponent: float = 6.0) -> Tensor:
    """Return scores (K, h, w) of CAMs (K - 1, H, W) in 0 … 1 on the grid of the walk, the background's first."""
    background = (1 - cams.amax(0, keepdim=True)) ** exponent
    scores = torch.cat([background, cams])[None]
    return F.interpolate(scores, scale_factor=scale, mode="bilinear", align_corners=False)[0]


def spread(scores: Tensor, walk: Tensor) -> Tensor:
    """Return scores (K, h, w) after the walk: those of every pixel are a mean of all pixels' scores."""
    return (scores.flatten(1) @ walk).view_as(scores)


def on_grid(embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """Embeddings (C, H, W) on the grid of the walk."""
    return _resized(embeddings, size)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]

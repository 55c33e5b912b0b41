"""One image with a segmentation to go through the equations on, and pictures of what each of them computes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from agmm.codes import UNLABELED
from agmm.data import sets
from agmm.data.synthetic.shapes import SHAPES
from agmm.figures.style import WIDTH, class_colors, panels


class Example(NamedTuple):
    """A batch of one image, and what is known of it."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    names: tuple[str, ...]
    """All classes, of which the image shows a few."""
    features: Tensor
    """(1, C, h, w): colors of each cell and of its surroundings."""
    logits: Tensor
    """(1, K, H, W) of a linear classifier of the features, trained with the clicks."""
    labels: Tensor
    """(1, H, W) int64: a few clicks."""
    image_classes: Tensor
    """(1, K) bool."""


def example(index: int, size: int, seed: int, steps: int = 300) -> Example:
    """Return an embedded training image of ``size`` pixels with clicks, features and a segmentation.

    There is no network: features are colors averaged over 1, 3 and 7 cells of 4 x 4 pixels. The segmentation is a
    linear classifier of them that has learned the clicked pixels for some steps, with partial cross-entropy.
    """
    data = SHAPES.make("train", index + 1, size=size)
    clicks = np.asarray(sets.weak_labels(data, "points", {}, seed))
    image, labels = np.asarray(data.images[index]), torch.from_numpy(clicks[index : index + 1]).long()
    cells = F.avg_pool2d(torch.from_numpy(image).movedim(-1, 0)[None] / 255, 4)
    features = torch.cat([F.avg_pool2d(cells, k, 1, k // 2, count_include_pad=False) for k in (1, 3, 7)], 1)
    fine = F.interpolate(features, size=(size, size), mode="bilinear", align_corners=False)
    clicked, target = fine[0].movedim(0, -1)[labels[0] < UNLABELED], labels[labels < UNLABELED]
    torch.manual_seed(seed)
    classifier = torch.nn.Linear(features.shape[1], data.num_classes)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier(clicked), target).backward()
        optimizer.step()
    logits = classifier(fine.movedim(1, -1)).movedim(-1, 1).detach()
    shown = torch.isin(torch.arange(data.num_classes), labels)[None]
    return Example(image, data.class_names, features, logits, labels, shown)


def draw_example(example: Example) -> Figure:
    """Draw the image with its clicks, and the most probable class of every pixel."""
    figure, axes = panels(1, 2, height=WIDTH / 3, width=2 * WIDTH / 3)
    labels = example.labels[0].numpy()
    y, x = (labels < UNLABELED).nonzero()
    colors = class_colors(labels[y, x])
    axes[0, 0].imshow(example.image)
    axes[0, 0].scatter(x, y, s=40, c="white")
    axes[0, 0].scatter(x, y, s=14, c=colors)
    axes[0, 0].set_title("image and clicks")
    axes[0, 1].imshow(class_colors(example.logits[0].argmax(0).numpy()), interpolation="nearest")
    axes[0, 1].set_title("segmentation, argmax P")
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def draw_classes(example: Example, symbol: str, maps: Tensor, numbers: Tensor | None = None) -> Figure:
    """Draw a map of every class of the image from maps (1, K, h, w), with a number of each from (1, K)."""
    codes = example.image_classes[0].nonzero().flatten().tolist()
    figure, axes = panels(1, len(codes), height=WIDTH / max(len(codes), 4) + 0.35)
    top = float(maps[0, codes].max())
    for axis, code in zip(axes[0], codes, strict=True):
        number = "" if numbers is None else f"\n$\\sigma$ = {numbers[0, code]:.3f}"
        drawn = axis.imshow(maps[0, code].numpy(), vmin=0, vmax=top, cmap="cividis", interpolation="nearest")
        axis.set_title(example.names[code] + number)
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label=symbol, shrink=0.8, aspect=12)
    return figure


def draw_matrix(example: Example, values: Tensor, symbol: str, columns: str | None = None) -> Figure:
    """Draw a matrix from (1, K, ·) with a row of each class of the image, and a column of each if none are named."""
    codes = example.image_classes[0].nonzero().flatten().tolist()
    rows = values[0, codes] if columns else values[0][codes][:, codes]
    names = [example.names[code] for code in codes]
    figure, axes = panels(1, 1, height=0.35 * len(codes) + 0.9, width=0.6 * WIDTH)
    drawn = axes[0, 0].imshow(rows.numpy(), cmap="cividis", aspect="auto")
    axes[0, 0].set_yticks(range(len(codes)), names)
    axes[0, 0].set_xticks([] if columns else range(len(codes)), None if columns else names)
    axes[0, 0].set_xlabel(columns or "")
    figure.colorbar(drawn, ax=axes, label=symbol)
    return figure


def side_by_side(**terms: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return a table with a row of each term and a column of each formulation."""
    return pd.DataFrame({name: {k: float(v) for k, v in one.items()} for name, one in terms.items()})

"""Segments beside those that are nearest to them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agmm.figures.retrieval import Cutout
from agmm.figures.style import WIDTH, save, style

PALE = 0.35
"""Contrast of an image around its segment."""


def retrieval(rows: Sequence[Sequence[Cutout]], stem: Path) -> Figure:
    """SPML, Fig. 10: on the left a segment of an image, then its neighbors, the nearest first.

    Parameters
    ----------
    rows : sequence of sequences of Cutout
        See `agmm.figures.retrieved`.
    stem : Path
        Folder and name of the files to write, without ending; the CSV names what is shown.
    """
    style()
    number, gap = len(rows[0]), 0.15
    side = WIDTH / (number + gap)
    height, width = rows[0][0].image.shape[:2]
    size = (WIDTH, len(rows) * (side * height / width + 0.28) + 0.4)
    ratios = [1, gap, *[1] * (number - 1)]
    figure, axes = plt.subplots(len(rows), number + 1, figsize=size, squeeze=False, width_ratios=ratios)
    for line, row in zip(axes, rows, strict=True):
        line[1].set_axis_off()
        for rank, (axis, cutout) in enumerate(zip([line[0], *line[2:]], row, strict=True)):
            _draw(axis, cutout, rank)
    for rank, axis in enumerate([axes[0, 0], *axes[0, 2:]]):
        axis.set_title(str(rank) if rank else "query", size=8)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02)
    figure.supxlabel("below: the segment's predicted class and cosine to the query; true classes of the image", size=7)
    save(figure, _listed(rows), stem)
    return figure


def _draw(axis: Axes, cutout: Cutout, rank: int) -> None:
    """A segment in its image, whose other pixels are pale."""
    image = cutout.image / 255
    axis.imshow(np.where(cutout.mask[..., None], image, 1 - PALE * (1 - image)), interpolation="nearest")
    # A frame of pixels outside closes the outline of a segment at the border of the image.
    axis.contour(*_grid(cutout.mask), np.pad(cutout.mask, 1), levels=[0.5], colors="black", linewidths=0.9)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    axis.spines[:].set_visible(False)
    near = f", {cutout.cosine:.3f}" if rank else ""
    axis.set_xlabel(f"{cutout.predicted}{near}\n{', '.join(cutout.tags) or 'none'}", size=6.5, labelpad=2)


def _grid(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the columns and rows of a mask with a frame of one pixel."""
    rows, columns = mask.shape
    return np.arange(-1, columns + 1), np.arange(-1, rows + 1)


def _listed(rows: Sequence[Sequence[Cutout]]) -> pd.DataFrame:
    """Every segment that is shown; rank 0 is the query."""
    lines = [
        [number, rank, one.name, one.predicted, one.cosine, " ".join(one.tags), float(one.mask.mean())]
        for number, row in enumerate(rows)
        for rank, one in enumerate(row)
    ]
    return pd.DataFrame(lines, columns=["query", "rank", "image", "predicted", "cosine", "tags", "share"])

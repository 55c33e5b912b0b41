"""The mixture that clicks on one image make."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agmm.figures import Click, Mixture
from agmm.figures.plot_networks import class_colors
from agmm.figures.style import WIDTH, save, style


def click_figure(
    image: np.ndarray, clicks: Sequence[Click], mixture: Mixture, names: Sequence[str], stem: Path | None = None
) -> Figure:
    """Clicks, what the mixture predicts, its means, and for every clicked class the distances and scores.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    clicks, mixture
        See `agmm.figures.clicked`.
    names : sequence of str
        Names of all classes.
    stem : Path, optional
        Folder and name of the files to write, without ending; the CSV holds class, sigma and means.
    """
    style()
    columns = max(len(mixture.classes), 3)
    figure, axes = plt.subplots(3, columns, figsize=(WIDTH, 3 * WIDTH / columns), squeeze=False)
    _clicks(axes[0, 0], image, clicks)
    axes[0, 1].imshow(class_colors(mixture.prediction), interpolation="nearest")
    axes[0, 1].set_title("largest score")
    axes[0, 2].imshow(mixture.means, aspect="auto", cmap="cividis", interpolation="nearest")
    axes[0, 2].set_title("class means")
    axes[0, 2].set_yticks(range(len(mixture.classes)), [names[k] for k in mixture.classes])
    axes[0, 2].set(xticks=[], xlabel="channels")
    farthest = float(mixture.distances.max())
    for slot, label in enumerate(mixture.classes):
        axes[1, slot].imshow(mixture.distances[slot], vmin=0, vmax=farthest, cmap="cividis", interpolation="nearest")
        axes[1, slot].set_title(
            f"{names[label]}\nd ≤ {mixture.distances[slot].max():.2f}, σ = {mixture.sigma[slot]:.2f}"
        )
        axes[2, slot].imshow(mixture.scores[slot], vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
        axes[2, slot].set_title(f"G ≤ {mixture.scores[slot].max():.2f}")
    for axis in axes.flat:
        axis.spines[:].set_visible(False)
        axis.set_visible(axis.has_data())
        if axis is not axes[0, 2]:
            axis.set(xticks=[], yticks=[])
    if stem is not None:
        save(figure, _numbers(mixture, names), stem)
    return figure


def _clicks(axis: Axes, image: np.ndarray, clicks: Sequence[Click]) -> None:
    axis.imshow(image, interpolation="nearest")
    colors = class_colors(np.array([click.label for click in clicks]))
    axis.scatter([c.x for c in clicks], [c.y for c in clicks], s=28, c=colors, edgecolors="white", linewidths=0.9)
    axis.set_title("clicks")


def _numbers(mixture: Mixture, names: Sequence[str]) -> pd.DataFrame:
    means = pd.DataFrame(mixture.means).add_prefix("mean_")
    means.insert(0, "sigma", mixture.sigma)
    means.insert(0, "class", [names[k] for k in mixture.classes])
    return means

"""Figures of trained networks: pixels by their distance, features, predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from agmm.plots.style import MARKERS, WIDTH, save, style


def similarity(values: pd.DataFrame, stem: Path) -> Figure:
    """AGMM, Fig. 2b: IoU of unlabeled pixels per class, similar (bar) and dissimilar (bar) ones and all (line).

    Parameters
    ----------
    values : DataFrame
        See `agmm.figures.similarity`; a panel per method.
    stem : Path
        Folder and name of the files to write, without ending.
    """
    style()
    methods, classes_ = list(values["method"].unique()), list(values["class"].unique())
    figure, axes = plt.subplots(1, len(methods), figsize=(WIDTH, 2.4), squeeze=False, sharey=True)
    names = {"similar": "d < σ", "dissimilar": "d > σ"}
    for axis, method in zip(axes[0], methods, strict=True):
        panel = values[values["method"] == method].pivot(index="class", columns="subset", values="iou").loc[classes_]
        for number, (subset, name) in enumerate(names.items()):
            places = [place + (number - 0.5) * 0.38 for place in range(len(classes_))]
            axis.bar(places, panel[subset], 0.38, color=f"C{number}", alpha=0.8, label=name)
        axis.plot(range(len(classes_)), panel["all"], "o-", color="0.2", ms=3, lw=1, label="all")
        axis.set_xticks(range(len(classes_)), classes_, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_title(method)
    axes[0, 0].set_ylabel("IoU (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, values, stem)
    return figure


def embedding(points: pd.DataFrame, stem: Path) -> Figure:
    """AGMM, supplementary Fig. 3: t-SNE of pixel features, a panel per method, a color and a marker per class.

    Parameters
    ----------
    points : DataFrame
        See `agmm.figures.embed`.
    stem : Path
        Folder and name of the files to write, without ending.
    """
    style()
    methods, names = list(points["method"].unique()), list(points["class"].unique())
    figure, axes = plt.subplots(1, len(methods), figsize=(WIDTH, 2.8), squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        panel = points[points["method"] == method]
        for number, name in enumerate(names):
            part = panel[panel["class"] == name]
            marker = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}"}
            axis.scatter(part["x"], part["y"], s=7, lw=0.3, label=name, **marker)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{method}\nsilhouette {panel['silhouette'].iloc[0]:.2f}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=1.5)
    save(figure, points, stem)
    return figure


def gallery(pictures: Sequence[Mapping[str, np.ndarray]], num_classes: int, stem: Path) -> Figure:
    """Rows of pictures with their masks in one palette; sparse labels are drawn enlarged on the image.

    Parameters
    ----------
    pictures : sequence of mappings
        Name of a column to an (H, W, 3) uint8 image or an (H, W) uint8 mask; see `agmm.figures`.
    num_classes : int
    stem : Path
        Folder and name of the files to write, without ending; the CSV holds every mask's share of each class.
    """
    style()
    names = [name for name in pictures[0] if name != "labels"]
    side = WIDTH / len(names)
    height, width = pictures[0]["image"].shape[:2]
    size = (WIDTH, side * height / width * len(pictures) + 0.25)
    figure, axes = plt.subplots(len(pictures), len(names), figsize=size, squeeze=False)
    palette = np.array([*sns.color_palette("colorblind", 10), *sns.color_palette("dark", 10)])
    rows = []
    for number, (line, picture) in enumerate(zip(axes, pictures, strict=True)):
        for axis, name in zip(line, names, strict=True):
            content = picture[name]
            if content.ndim == 2:
                rows += [[number, name, k, float((content == k).mean())] for k in range(num_classes)]
                content = np.where((content < num_classes)[..., None], palette[content % 20], 1.0)
            axis.imshow(content, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if number == 0:
                axis.set_title(name)
        if "labels" in picture:
            y, x = np.nonzero(picture["labels"] < num_classes)
            color = palette[picture["labels"][y, x] % 20]
            line[names.index("image")].scatter(x, y, s=22, c=color, edgecolors="white", linewidths=0.8)
    save(figure, pd.DataFrame(rows, columns=["picture", "column", "class", "share"]), stem)
    return figure

"""Figures of trained networks: pixels by their distance, features, predictions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from agmm.codes import UNLABELED
from agmm.figures.style import MARKERS, WIDTH, save, style

PALE = 0.3
"""Contrast of an image below its partial labels."""


def similarity(values: pd.DataFrame, stem: Path, quantity: str = "iou") -> Figure:
    """AGMM, Fig. 2b and AGMM++, Fig. 2c: similar (bar) and dissimilar (bar) pixels of every class, and all (line).

    Parameters
    ----------
    values : DataFrame
        See `agmm.figures.similarity` and `agmm.figures.label_accuracy`; a panel per method.
    stem : Path
        Folder and name of the files to write, without ending.
    quantity : {"iou", "accuracy"}
        Column of the values.
    """
    style()
    methods, classes_ = list(values["method"].unique()), list(values["class"].unique())
    figure, axes = plt.subplots(1, len(methods), figsize=(WIDTH, 2.4), squeeze=False, sharey=True)
    names = {"similar": "d < σ", "dissimilar": "d > σ"}
    for axis, method in zip(axes[0], methods, strict=True):
        panel = values[values["method"] == method].pivot(index="class", columns="subset", values=quantity)
        panel = panel.loc[classes_]
        for number, (subset, name) in enumerate(names.items()):
            places = [place + (number - 0.5) * 0.38 for place in range(len(classes_))]
            axis.bar(places, panel[subset], 0.38, color=f"C{number}", alpha=0.8, label=name)
        axis.plot(range(len(classes_)), panel["all"], "o-", color="0.2", ms=3, lw=1, label="all")
        axis.set_xticks(range(len(classes_)), classes_, rotation=45, ha="right", rotation_mode="anchor")
        # Classes without pixels have neither bars nor a dot that would make room for them.
        axis.set_xlim(-0.6, len(classes_) - 0.4)
        axis.set_title(method)
    axes[0, 0].set_ylabel({"iou": "IoU (%)", "accuracy": "accuracy (%)"}[quantity])
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
    size = (WIDTH, 2.8) if len(methods) > 1 else (0.75 * WIDTH, 4.2)
    figure, axes = plt.subplots(1, len(methods), figsize=size, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        panel = points[points["method"] == method]
        for number, name in enumerate(names):
            part = panel[panel["class"] == name]
            axis.scatter(part["x"], part["y"], s=7, lw=0.3, label=name, **_look(number))
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{method}\nsilhouette {panel['silhouette'].iloc[0]:.2f}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=1.5)
    save(figure, points, stem)
    return figure


def mixture_projection(points: pd.DataFrame, stem: Path) -> Figure:
    """AGMM, Fig. 4: mixtures in a plane that all panels share; pixels, means of every image, and a Gaussian per class.

    The ellipses are one standard deviation wide, about the mean of a class's means.

    Parameters
    ----------
    points : DataFrame
        See `agmm.figures.project`.
    stem : Path
        Folder and name of the files to write, without ending.
    """
    style()
    methods, names = list(points["method"].unique()), list(points["class"].unique())
    size = (WIDTH, WIDTH / len(methods) + 0.75)
    figure, axes = plt.subplots(1, len(methods), figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, method in zip(axes[0], methods, strict=True):
        panel = points[points["method"] == method]
        for number, name in enumerate(names):
            look = _look(number)
            pixels, means, pooled = (
                panel[(panel["class"] == name) & (panel["kind"] == kind)] for kind in ("pixel", "mean", "component")
            )
            axis.scatter(pixels["x"], pixels["y"], s=2, color=look["color"], alpha=0.35, lw=0)
            axis.scatter(means["x"], means["y"], s=7, alpha=0.7, lw=0, **look)
            for _, one in pooled.iterrows():
                _ellipse(axis, one, look["color"])
                axis.scatter(one["x"], one["y"], s=34, edgecolors="black", lw=0.7, zorder=4, label=name, **look)
        about = panel.iloc[0]
        axis.set_title(f"{method}\nsilhouette {about['silhouette']:.2f}, {100 * about['explained']:.0f} % of variance")
        axis.set(xticks=[], yticks=[], aspect="equal", xlabel="component 1")
    axes[0, 0].set_ylabel("component 2")
    handles = {label: handle for axis in axes[0] for handle, label in _handles(axis)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7)
    save(figure, points, stem)
    return figure


def _look(number: int) -> dict[str, str]:
    """Color and marker of a class; no two of the first hundred share both."""
    return {"color": f"C{number % 10}", "marker": MARKERS[(number + number // 10) % len(MARKERS)]}


def _handles(axis: Axes) -> Iterator[tuple[Artist, str]]:
    return zip(*axis.get_legend_handles_labels(), strict=True)


def _ellipse(axis: Axes, gaussian: "pd.Series[float]", color: str) -> None:
    """One standard deviation of a Gaussian in the plane."""
    variances, directions = np.linalg.eigh([[gaussian["xx"], gaussian["xy"]], [gaussian["xy"], gaussian["yy"]]])
    width, height = 2 * np.sqrt(np.maximum(variances, 0))
    angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
    center = (gaussian["x"], gaussian["y"])
    axis.add_patch(Ellipse(center, width, height, angle=angle, fill=False, ec=color, lw=1.3, zorder=3))


def gallery(
    pictures: Sequence[Mapping[str, np.ndarray]],
    num_classes: int,
    stem: Path,
    rows: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Rows of pictures with their masks in one palette.

    Sparse labels called ``"labels"`` are drawn enlarged on the image; in other masks unlabeled pixels show the image,
    pale, and void ones are white.

    Parameters
    ----------
    pictures : sequence of mappings
        Name of a column to an (H, W, 3) uint8 image or an (H, W) uint8 mask; see `agmm.figures`.
    num_classes : int
    stem : Path
        Folder and name of the files to write, without ending; the CSV holds every mask's share of each class.
    rows : sequence of str
        What is written beside every row.
    notes : mapping, optional
        What is written below the names of some columns.
    """
    style()
    names = [name for name in pictures[0] if name != "labels"]
    side = WIDTH / len(names)
    height, width = pictures[0]["image"].shape[:2]
    size = (WIDTH, side * height / width * len(pictures) + (0.4 if notes else 0.25))
    figure, axes = plt.subplots(len(pictures), len(names), figsize=size, squeeze=False)
    found = []
    for number, (line, picture) in enumerate(zip(axes, pictures, strict=True)):
        for axis, name in zip(line, names, strict=True):
            content = picture[name]
            if content.ndim == 2:
                found += [[number, name, k, float((content == k).mean())] for k in range(num_classes)]
                content = _colored(content, picture["image"], num_classes)
            axis.imshow(content, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if number == 0:
                axis.set_title(f"{name}\n{notes[name]}" if notes and name in notes else name)
        line[0].set_ylabel(rows[number] if rows else "")
        if "labels" in picture:
            y, x = np.nonzero(picture["labels"] < num_classes)
            color = _palette()[picture["labels"][y, x] % 20]
            line[names.index("image")].scatter(x, y, s=22, c=color, edgecolors="white", linewidths=0.8)
    save(figure, pd.DataFrame(found, columns=["picture", "column", "class", "share"]), stem)
    return figure


def _palette() -> np.ndarray:
    return np.array([*sns.color_palette("colorblind", 10), *sns.color_palette("dark", 10)])


def class_colors(codes: np.ndarray) -> np.ndarray:
    """Color (…, 3) of every class code."""
    return _palette()[codes % 20]


def _colored(mask: np.ndarray, image: np.ndarray, num_classes: int) -> np.ndarray:
    """Colors (H, W, 3) in [0, 1] of a mask."""
    pale = 1 - PALE * (1 - image.mean(2, keepdims=True) / 255)
    ground = np.where((mask == UNLABELED)[..., None], pale, 1.0)
    return np.where((mask < num_classes)[..., None], _palette()[mask % 20], ground)

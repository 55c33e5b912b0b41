"""Figures: one style, vector and PNG, the numbers in a CSV beside them."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agmm import storage

WIDTH = 7.0
"""Inches: the text width of a two-column paper."""


def style() -> None:
    """The look of all figures: small sans-serif text, few lines, colors that the color-blind tell apart."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 200, "figure.constrained_layout.use": True})


def save(figure: Figure, data: pd.DataFrame, stem: Path) -> None:
    """Write ``<stem>.pdf``, ``.png`` and, with the numbers that are drawn, ``.csv``."""
    with storage.writable(stem.parent):
        for ending in ("pdf", "png"):
            # A fixed date keeps the files of equal figures equal.
            metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, metadata=metadata)
            storage.write(stem.parent / f"{stem.name}.{ending}", buffer.getvalue())
        storage.write_text(stem.parent / f"{stem.name}.csv", data.to_csv(index=False))


def training_curves(curves: pd.DataFrame, stem: Path, baseline: str = "Baseline") -> Figure:
    """AGMM supplement, Fig. 2: mIoU of segmentation P and mixture G on training images over the epochs.

    A panel per method, each with the baseline; below it the lead of G over P, and over P restricted to the classes
    among which G chooses, in the colors of these two. Bands are standard deviations over seeds.

    Parameters
    ----------
    curves : DataFrame
        See `agmm.tables.curves`.
    stem : Path
        Folder and name of the files to write, without ending.
    baseline : str
        Row that every panel repeats.

    Raises
    ------
    ValueError
        If there is no curve to draw.
    """
    methods = [row for row in curves["row"].unique() if row != baseline]
    if not methods:
        raise ValueError("there are no training curves yet; train the runs of this figure first")
    style()
    looks = {"G": ("C0", "-"), "P": ("C1", "-"), "P among labeled classes": ("C2", "--")}
    figure, axes = plt.subplots(
        2, len(methods), figsize=(WIDTH, 3.9), sharex=True, sharey="row", squeeze=False, height_ratios=(2.2, 1)
    )
    for (top, bottom), method in zip(axes.T, methods, strict=True):
        _line(top, curves, baseline, "P", ("0.4", ":"), f"{baseline}: P")
        for curve, look in looks.items():
            _line(top, curves, method, curve, look, curve)
        means = curves[curves["row"] == method].pivot(index="epoch", columns="curve", values="mean")
        for curve in ("P", "P among labeled classes"):
            color, dashes = looks[curve]
            bottom.plot(means.index, means["G"] - means[curve], color=color, ls=dashes)
        bottom.axhline(0, color="0.7", lw=0.8, zorder=0)
        top.set_title(method)
        bottom.set_xlabel("epoch")
        bottom.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("mIoU on training images (%)")
    axes[1, 0].set_ylabel("G minus P\n(points)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, curves, stem)
    return figure


def _line(axis: Axes, curves: pd.DataFrame, row: str, curve: str, look: tuple[str, str], label: str) -> None:
    part = curves[(curves["row"] == row) & (curves["curve"] == curve)]
    axis.plot(part["epoch"], part["mean"], color=look[0], ls=look[1], label=label)
    spread = part["std"].fillna(0)
    axis.fill_between(part["epoch"], part["mean"] - spread, part["mean"] + spread, color=look[0], alpha=0.2, lw=0)

"""Figures of what runs report: mIoU over a hyperparameter, gains, classes, training curves."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agmm.figures.style import WIDTH, save, style

START = {"tags": "from tag pretraining", "imagenet": "from ImageNet", "scratch": "from scratch"}


def sweep(values: pd.DataFrame, symbol: str, stem: Path) -> Figure:
    """mIoU over one hyperparameter: a panel per kind of labels, a line per objective, the published numbers in gray.

    Parameters
    ----------
    values : DataFrame
        See `agmm.papers.tables.sweep_values`.
    symbol : str
        Name of the hyperparameter.
    stem : Path
        Folder and name of the files to write, without ending.
    """
    style()
    columns = values["column"].unique()
    figure, axes = plt.subplots(1, len(columns), figsize=(WIDTH, 2.6), squeeze=False, sharex=True)
    for axis, column in zip(axes[0], columns, strict=True):
        panel = values[values["column"] == column]
        for number, (objective, line) in enumerate(panel.groupby("objective", sort=False)):
            fixed, color = line.dropna(subset=["value", "mean"]).sort_values("value"), f"C{number}"
            if len(fixed):
                axis.plot(fixed["value"], fixed["mean"], "o-", ms=3, color=color, label=objective or "ours")
                axis.fill_between(fixed["value"], *_band(fixed), color=color, alpha=0.2, lw=0)
            for _, level in line[line["value"].isna()].dropna(subset="mean").iterrows():
                axis.axhline(level["mean"], color=color, ls="--", lw=1, label=f"{objective}, {level['row']}")
        printed = panel.dropna(subset=["value", "published"]).drop_duplicates("value").sort_values("value")
        axis.plot(printed["value"], printed["published"], "s:", ms=3, color="0.6", label="published (VOC)")
        axis.set(title=column, xlabel=symbol)
    axes[0, 0].set_ylabel("mIoU (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, values, stem)
    return figure


def gains(values: pd.DataFrame, stem: Path) -> Figure:
    """Points above the baseline: bars are means over seeds, dots single seeds; a panel per labels and initialization.

    Parameters
    ----------
    values : DataFrame
        See `agmm.papers.tables.gains`.
    stem : Path
        Folder and name of the files to write, without ending.

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    if values.empty:
        raise ValueError("there are no gains yet; train the runs of this figure first")
    style()
    values = values.assign(bar=values["row"] + values["objective"].map({"": ""}).fillna("\n" + values["objective"]))
    columns, inits = values["column"].unique(), values["init"].unique()
    bars = {init: list(values.loc[values["init"] == init, "bar"].unique()) for init in inits}
    heights = [0.5 + 0.27 * len(bars[init]) for init in inits]
    figure, axes = plt.subplots(
        len(inits),
        len(columns),
        figsize=(WIDTH, 0.4 + sum(heights)),
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=heights,
    )
    for line, init in zip(axes, inits, strict=True):
        for axis, column in zip(line, columns, strict=True):
            panel = values[(values["column"] == column) & (values["init"] == init)]
            common: dict[str, Any] = {"data": panel, "x": "gain", "y": "bar", "order": bars[init], "ax": axis}
            sns.barplot(**common, errorbar=None, color="C0", alpha=0.6)
            sns.stripplot(**common, color="0.2", size=3, jitter=False)
            axis.axvline(0, color="0.7", lw=0.8)
            axis.set(title=f"{column}, {START[init]}", xlabel="", ylabel="")
            axis.tick_params(axis="y", labelsize=6)
    for axis in axes[-1]:
        axis.set_xlabel("mIoU above the baseline (points)")
    save(figure, values, stem)
    return figure


def classes(frame: pd.DataFrame, stem: Path) -> Figure:
    """IoU of every class as bars, a color per column of the table; AGMM as released.

    Parameters
    ----------
    frame : DataFrame
        Long form of a table whose rows are classes, see `agmm.papers.tables.collect`.
    stem : Path
        Folder and name of the files to write, without ending.

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    data = frame[frame["absent"]].dropna(subset="ours_mean")
    if data.empty:
        raise ValueError("there are no results yet; train the runs of this figure first")
    style()
    rows, columns = list(dict.fromkeys(data["row"])), list(dict.fromkeys(data["column"]))
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4))
    width = 0.8 / len(columns)
    for number, column in enumerate(columns):
        part = data[data["column"] == column].set_index("row").reindex(rows)
        places = [place + (number - (len(columns) - 1) / 2) * width for place in range(len(rows))]
        bars = {"color": f"C{number}", "alpha": 0.8, "label": column}
        axis.bar(places, part["ours_mean"], width, yerr=part["ours_std"].fillna(0), error_kw={"lw": 0.8}, **bars)
    axis.set_xticks(range(len(rows)), rows, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_ylabel("IoU (%)")
    figure.legend(loc="outside upper right", ncols=len(columns))
    save(figure, data, stem)
    return figure


def label_quality(values: pd.DataFrame, stem: Path) -> Figure:
    """AGMM++, Fig. 9: mIoU of weak labels and of what training makes of them; bars are means, dots single seeds.

    Parameters
    ----------
    values : DataFrame
        See `agmm.figures.label_quality`.
    stem : Path
        Folder and name of the files to write, without ending.

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    if values.empty:
        raise ValueError("there are no pseudo labels yet; train the runs of this figure first")
    style()
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4))
    common: dict[str, Any] = {"data": values, "x": "row", "y": "miou", "hue": "labels", "ax": axis, "legend": False}
    sns.barplot(**common | {"legend": True}, errorbar="sd", alpha=0.7, err_kws={"lw": 0.9, "color": "0.2"})
    sns.stripplot(**common, palette=["0.2"] * values["labels"].nunique(), size=3, jitter=False, dodge=True)
    axis.set(xlabel="", ylabel="mIoU on training images (%)")
    sns.move_legend(axis, "upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, title="", frameon=False)
    save(figure, values, stem)
    return figure


def training_curves(curves: pd.DataFrame, stem: Path, baseline: str = "Baseline") -> Figure:
    """AGMM supplement, Fig. 2: mIoU of segmentation P and mixture G on training images over the epochs.

    A panel per method, each with the baseline; below it the lead of G over P, and over P restricted to the classes
    among which G chooses, in the colors of these two. Bands are standard deviations over seeds.

    Parameters
    ----------
    curves : DataFrame
        See `agmm.papers.tables.curves`.
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


def _band(line: pd.DataFrame) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    spread = line["std"].fillna(0)
    return line["mean"] - spread, line["mean"] + spread


def _line(axis: Axes, curves: pd.DataFrame, row: str, curve: str, look: tuple[str, str], label: str) -> None:
    part = curves[(curves["row"] == row) & (curves["curve"] == curve)]
    axis.plot(part["epoch"], part["mean"], color=look[0], ls=look[1], label=label)
    axis.fill_between(part["epoch"], *_band(part), color=look[0], alpha=0.2, lw=0)

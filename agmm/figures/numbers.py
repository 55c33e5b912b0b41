"""Figures of numbers: mIoU over a hyperparameter, gains, classes, curves, claims, differences, ratios of speed."""

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from agmm.figures.style import MARKERS, WIDTH, panels, require, save
from agmm.training.run import STARTS

# --- Tables -----------------------------------------------------------------------------------------------------------


def draw_sweep(values: pd.DataFrame, symbol: str, stem: Path) -> Figure:
    """Draw mIoU over one hyperparameter: a panel per kind of labels, a line per objective, published numbers in gray.

    The values are those of `agmm.papers.tables.sweep_values`, the symbol is the name of the hyperparameter.
    """
    columns = values.groupby("column", sort=False)
    figure, axes = panels(1, len(columns), height=2.6, sharex=True)
    for axis, (column, panel) in zip(axes[0], columns, strict=True):
        for number, (objective, rows) in enumerate(panel.groupby("objective", sort=False)):
            fixed, color = rows.dropna(subset=["value", "mean"]).sort_values("value"), f"C{number}"
            if len(fixed):
                _draw_line(axis, fixed, "value", marker="o", ms=3, color=color, label=objective or "ours")
            for _, level in rows[rows["value"].isna()].dropna(subset="mean").iterrows():
                axis.axhline(level["mean"], color=color, ls="--", lw=1, label=f"{objective}, {level['row']}")
        printed = panel.dropna(subset=["value", "published"]).drop_duplicates("value").sort_values("value")
        axis.plot(printed["value"], printed["published"], "s:", ms=3, color="0.6", label="published (VOC)")
        axis.set(title=column, xlabel=symbol)
    axes[0, 0].set_ylabel("mIoU (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return save(figure, values, stem)


def draw_gains(values: pd.DataFrame, stem: Path, above: str = "the baseline") -> Figure:
    """Draw `agmm.papers.tables.gains` above a row, a panel per labels and start: bars are means, dots single seeds."""
    require(values, "gains")
    values = values.assign(bar=(values["row"] + "\n" + values["objective"]).str.rstrip("\n"))
    columns, starts = values["column"].unique(), values["init"].unique()
    bars = {start: list(values.loc[values["init"] == start, "bar"].unique()) for start in starts}
    heights = [0.5 + 0.27 * len(bars[start]) for start in starts]
    shared: dict[str, Any] = {"sharex": True, "sharey": "row", "height_ratios": heights}
    figure, axes = panels(len(starts), len(columns), height=0.4 + sum(heights), **shared)
    for line, start in zip(axes, starts, strict=True):
        for axis, column in zip(line, columns, strict=True):
            panel = values[(values["column"] == column) & (values["init"] == start)]
            common: dict[str, Any] = {"data": panel, "x": "gain", "y": "bar", "order": bars[start], "ax": axis}
            sns.barplot(**common, errorbar=None, color="C0", alpha=0.6)
            sns.stripplot(**common, color="0.2", size=3, jitter=False)
            axis.axvline(0, color="0.7", lw=0.8)
            axis.set(title=f"{column}, {STARTS[start]}", xlabel="", ylabel="")
            axis.tick_params(axis="y", labelsize=6)
    for axis in axes[-1]:
        axis.set_xlabel(f"mIoU above {above} (points)")
    return save(figure, values, stem)


def draw_areas(values: pd.DataFrame, stem: Path) -> Figure:
    """Draw mIoU over the area given to objects, a panel per kind of labels: a dot for each row, its mean over seeds.

    The values are those of `agmm.papers.tables.areas`; of several starts of the network the first is drawn.
    """
    values = values[values["init"].isin(values["init"].head(1))]
    require(values, "results")
    values = values.assign(dot=(values["row"] + ", " + values["objective"]).str.removesuffix(", "))
    means = values.groupby(["column", "dot"], sort=False)[["area", "miou"]].mean().reset_index()
    several = means.duplicated("column", keep=False)
    means = means[several] if several.any() else means  # a dot alone in its panel compares nothing
    columns, dots = means["column"].unique(), list(means["dot"].unique())
    figure, axes = panels(1, len(columns), height=2.6 + 0.09 * len(dots))
    for axis, column in zip(axes[0], columns, strict=True):
        for number, dot in enumerate(dots):
            one = means[(means["column"] == column) & (means["dot"] == dot)]
            look = {"color": f"C{number % 10}", "marker": MARKERS[number % 9]}
            axis.scatter(one["area"], one["miou"], s=22, label=dot, **look)
        axis.axvline(1, color="0.7", lw=0.8, zorder=0)
        axis.set(title=column, xlabel="area of objects: predicted / true")
    axes[0, 0].set_ylabel("mIoU (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=6)
    return save(figure, values, stem)


def draw_classes(frame: pd.DataFrame, stem: Path) -> Figure:
    """Draw the IoU of AGMM as released from a collected table whose rows are classes, a color per column."""
    data = frame[frame["absent"]].dropna(subset="ours_mean")
    require(data, "results")
    rows, columns = data["row"].unique(), data.set_index("row").groupby("column", sort=False)
    figure, axes = panels(height=2.4)
    axis, width = axes[0, 0], 0.8 / len(columns)
    for number, (column, part) in enumerate(columns):
        part = part.reindex(rows)
        places = np.arange(len(rows)) + (number - (len(columns) - 1) / 2) * width
        errors = {"yerr": part["ours_std"].fillna(0), "error_kw": {"lw": 0.8}}
        axis.bar(places, part["ours_mean"], width, color=f"C{number}", alpha=0.8, label=column, **errors)
    axis.set_xticks(range(len(rows)), rows, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_ylabel("IoU (%)")
    figure.legend(loc="outside upper right", ncols=len(columns))
    return save(figure, data, stem)


def draw_training_curves(curves: pd.DataFrame, stem: Path, baseline: str = "Baseline") -> Figure:
    """Draw mIoU of segmentation P and mixture G on training images over the epochs (AGMM, supplementary Fig. 2).

    A panel per method of `agmm.papers.tables.curves`, each with the baseline's row; below it the lead of G over P, and
    over P restricted to the classes among which G chooses. Bands are standard deviations over seeds.
    """
    require(curves[curves["row"] != baseline], "training curves")
    methods = [row for row in curves["row"].unique() if row != baseline]
    looks = {"G": ("C0", "-"), "P": ("C1", "-"), "P among labeled classes": ("C2", "--")}
    figure, axes = panels(2, len(methods), height=3.9, sharex=True, sharey="row", height_ratios=(2.2, 1))
    for (top, bottom), method in zip(axes.T, methods, strict=True):
        ours, theirs = (curves[curves["row"] == row] for row in (method, baseline))
        _draw_line(top, theirs[theirs["curve"] == "P"], "epoch", color="0.4", ls=":", label=f"{baseline}: P")
        for curve, (color, dashes) in looks.items():
            _draw_line(top, ours[ours["curve"] == curve], "epoch", color=color, ls=dashes, label=curve)
        means = ours.pivot(index="epoch", columns="curve", values="mean")
        for curve in ("P", "P among labeled classes"):
            color, dashes = looks[curve]
            bottom.plot(means.index, means["G"] - means[curve], color=color, ls=dashes)
        bottom.axhline(0, color="0.7", lw=0.8, zorder=0)
        top.set_title(_typeset(textwrap.fill(method, 18)))
        bottom.set_xlabel("epoch")
        bottom.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("mIoU on training images (%)")
    axes[1, 0].set_ylabel("G minus P\n(points)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return save(figure, curves, stem)


def draw_spreads(curves: pd.DataFrame, stem: Path) -> Figure:
    """Draw mIoU of AGMM++'s mixtures on training images over the epochs, a panel per row of the curves.

    G of the labels' means, of the re-estimated ones as trained, and of these with one spread for all classes, beside P
    among the classes of the labels. Bands are standard deviations over seeds.
    """
    looks = {"P among labeled classes": ("C2", "--"), "G of the labels' means": ("C7", "-")}
    looks |= {"G": ("C0", "-"), "G, its means with one spread": ("C3", "-")}
    drawn = curves[curves["curve"].isin(looks)]
    require(drawn, "training curves")
    rows = drawn["row"].unique()
    figure, axes = panels(1, len(rows), height=2.8, sharey=True)
    for axis, row in zip(axes[0], rows, strict=True):
        for curve, (color, dashes) in looks.items():
            one = drawn[(drawn["row"] == row) & (drawn["curve"] == curve)]
            _draw_line(axis, one, "epoch", color=color, ls=dashes, label=curve)
        axis.set_title(row)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("mIoU on training images (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return save(figure, drawn, stem)


def _draw_line(axis: Axes, values: pd.DataFrame, x: str, **look: Any) -> None:
    """Draw the mean over a column, in a band of one standard deviation."""
    axis.plot(values[x], values["mean"], **look)
    spread = values["std"].fillna(0)
    axis.fill_between(values[x], values["mean"] - spread, values["mean"] + spread, color=look["color"], alpha=0.2, lw=0)


def draw_differences(frame: pd.DataFrame, stem: Path) -> Figure:
    """Draw the mean differences of `agmm.tools.compare.compare` with their intervals; right of zero ours is ahead.

    A color and marker per column. Rows without a seed are left out, intervals of a single one too.
    """
    drawn = frame[frame["seeds"] > 0]
    require(drawn, "differences", ": no row of the table has a seed in common with the method")
    names, columns = list(drawn["row"].unique()), drawn.groupby("column", sort=False)
    figure, axes = panels(height=0.9 + 0.22 * len(names))
    axis = axes[0, 0]
    for number, (column, part) in enumerate(columns):
        shift = 0.3 * ((number + 0.5) / len(columns) - 0.5)
        ends = np.abs(part[["low", "high"]].to_numpy().T - part["difference"].to_numpy())
        look: dict[str, Any] = {"fmt": MARKERS[number], "color": f"C{number}", "ms": 4, "label": column}
        places = [names.index(name) + shift for name in part["row"]]
        axis.errorbar(part["difference"], places, xerr=np.where(np.isfinite(ends), ends, 0), **look)
    axis.axvline(0, color="0.6", lw=0.8, zorder=0)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("difference to the row, points of mIoU (95 % interval)")
    figure.legend(loc="outside upper center", ncols=len(columns))
    return save(figure, drawn, stem)


def draw_speed(table: pd.DataFrame, stem: Path) -> Figure:
    """Draw the ratios of `agmm.tools.bench.measure` on logarithmic axes, a panel per group; a tick marks the target."""
    drawn = table[(table["against"] != "itself") & ~table["unit"].isin(["relative", "ppm"])]
    groups = drawn.groupby("group", sort=False)
    rows = groups.size().to_list()
    figure, axes = panels(len(groups), height=0.17 * sum(rows) + 0.55 * len(groups), height_ratios=rows)
    colors = {"yes": "C2", "no": "C3", "": "0.6"}
    for axis, (group, part) in zip(axes[:, 0], groups, strict=True):
        names = part["case"] + ", " + part["precision"] + ": " + part["unit"] + ", to " + part["against"]
        places = range(len(part))
        axis.barh(places, part["ratio"], color=[colors[met] for met in part["met"]], height=0.65, left=0)
        for place, target, ratio in zip(places, part["target"], part["ratio"], strict=True):
            if target:
                axis.plot([float(target.split()[1])] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
            axis.annotate(f"{ratio:.3g}", (ratio, place), (2, 0), textcoords="offset points", va="center", fontsize=6)
        axis.set_yticks(places, names, fontsize=6)
        axis.invert_yaxis()
        axis.set_xscale("log")
        wide = part["ratio"].max() > 50 * min(1, part["ratio"].min())
        axis.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axvline(1, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(group, loc="left", fontsize=8)
        axis.margins(x=0.12)
    figure.supxlabel("ratio; black: target (green: met, orange: missed)", fontsize=8)
    return save(figure, drawn, stem)


# --- Claims -----------------------------------------------------------------------------------------------------------

VERDICTS = {"reproduced": ("C0", "o"), "not reproduced": ("C3", "X"), "inconclusive": ("0.55", "s")}
"""Verdict -> color and marker, so that neither is needed to tell them apart."""
ROW, TEXT = 0.12, 5.8  # height of a row in inches, size of its text in points
LEFT, MARGIN, ABOVE, TITLES, AXIS = 3.15, 0.06, 0.36, 0.2, 0.5
"""Width of the names and the margin before them, height of the legend, of titles and of a panel's axis, in inches."""


def draw_claims(frame: pd.DataFrame, stem: Path) -> Figure:
    """Draw effect and interval of every claim and setting: a column per objective, verdicts by color and marker.

    Claims in points of mIoU are above, those in correlations, shares, ratios and silhouettes below. Claims without any
    number are left out and named at the bottom. The frame is that of `agmm.papers.verdicts.collect`.
    """
    keys = ["claim", "setting"]
    known = frame.groupby(keys)["effect"].transform("count") > 0
    drawn = frame[known]
    require(drawn, "effects", "; train the runs of some claims first")
    in_points = drawn.groupby(keys)["unit"].transform("first") == "mIoU"
    parts = {"points of mIoU": drawn[in_points], "correlation, share, ratio, silhouette": drawn[~in_points]}
    # The row of a claim and setting is its number in the order of the frame.
    parts = {
        label: part.assign(place=part.groupby(keys, sort=False).ngroup()) for label, part in parts.items() if len(part)
    }
    rows = [int(part["place"].max()) + 1 for part in parts.values()]
    missing = sorted(set(frame["claim"]) - set(drawn["claim"]))
    remark = f"Left out, as there are no numbers for them yet: {', '.join(missing)}." if missing else ""
    remark = textwrap.fill(remark, 150)
    below = 1.3 * TEXT / 72 * len(remark.splitlines()) + 0.06
    height = ABOVE + TITLES + sum(ROW * count + AXIS for count in rows) + below
    inside = (LEFT / WIDTH, below / height, 1 - LEFT / WIDTH, 1 - (ABOVE + below) / height)
    objectives = drawn["objective"].unique()
    shared: dict[str, Any] = {"sharex": "row", "sharey": "row", "height_ratios": rows}
    layout = ConstrainedLayoutEngine(rect=inside)
    figure, axes = panels(len(parts), len(objectives), height=height, layout=layout, **shared)
    for line, (label, part), count in zip(axes, parts.items(), rows, strict=True):
        first = part.drop_duplicates(keys)
        first = first.assign(new=first["claim"] != first["claim"].shift())
        for axis, objective in zip(line, objectives, strict=True):
            _draw_effects(axis, part[part["objective"] == objective], first)
            axis.set(xlim=_limits(part), ylim=(count - 0.5, -0.5), yticks=[])
            axis.tick_params(labelsize=TEXT, length=2, pad=2)
            axis.set_xlabel(textwrap.fill(label, 20), fontsize=TEXT, labelpad=2)
        _write_names(line[0], first)
    for axis, objective in zip(axes[0], objectives, strict=True):
        axis.set_title(_typeset(textwrap.fill(objective, 18)), fontsize=7, pad=4)
    _draw_legend(figure)
    figure.text(MARGIN / WIDTH, 0.04 / height, remark, fontsize=TEXT, color="0.35")
    return save(figure, drawn, stem)


def _draw_effects(axis: Axes, part: pd.DataFrame, first: pd.DataFrame) -> None:
    """Draw effects, intervals, seeds and published numbers of a panel, with lines between claims."""
    for place in first.loc[first["new"], "place"].iloc[1:]:
        axis.axhline(place - 0.5, color="0.9", lw=0.5, zorder=0)
    axis.axvline(0, color="0.6", lw=0.6, zorder=1)
    for _, row in part.dropna(subset="effect").iterrows():
        place, (color, marker) = row["place"], VERDICTS[row["verdict"]]
        if math.isfinite(row["low"]) and math.isfinite(row["high"]):
            axis.plot([row["low"], row["high"]], [place] * 2, color=color, lw=1.1, solid_capstyle="butt", zorder=3)
        seeds = [float(each) for each in str(row["each"]).split()]
        axis.plot(seeds, [place] * len(seeds), "|", color=color, ms=3.2, mew=0.5, alpha=0.7, zorder=2)
        axis.plot(row["effect"], place, marker, color=color, ms=3.6, mec="white", mew=0.3, zorder=4)
        axis.plot(row["claimed"], place, "D", mfc="none", mec="0.1", ms=3, mew=0.6, zorder=5)


def _write_names(axis: Axes, first: pd.DataFrame) -> None:
    """Write claim and sentence at the left, once per claim, and the settings beside the panel."""
    for _, row in first.iterrows():
        setting = row["setting"] if row["unit"] == "mIoU" else f"{row['setting']} ({row['unit']})"
        texts = [(setting, -3.0, "right", "0.25")]
        if row["new"]:
            texts.append((f"{row['claim']}  {row['sentence']}", -72 * (LEFT - MARGIN), "left", "0.1"))
        for text, away, side, color in texts:
            look: dict[str, Any] = {"ha": side, "va": "center", "color": color, "fontsize": TEXT, "in_layout": False}
            look |= {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points"}
            axis.annotate(_typeset(text), (0, row["place"]), (away, 0), **look)


def _limits(part: pd.DataFrame) -> tuple[float, float]:
    """Return limits around means, published numbers and intervals of at least three seeds; those of two are cut off."""
    ends = part.loc[part["n_seeds"] != 2, ["low", "high"]]
    values = np.concatenate([part["effect"], part["claimed"], ends.to_numpy().ravel(), [0.0]])
    values = values[np.isfinite(values)]
    margin = 0.04 * (values.max() - values.min() or 1)
    return values.min() - margin, values.max() + margin


def _draw_legend(figure: Figure) -> None:
    looks: dict[str, dict[str, Any]] = {
        verdict: {"color": color, "marker": marker, "ms": 4, "mec": "white", "mew": 0.3, "lw": 1.1}
        for verdict, (color, marker) in VERDICTS.items()
    }
    looks["single seed"] = {"color": "0.3", "marker": "|", "ms": 4, "mew": 0.5, "lw": 0}
    published = {"marker": "D", "mfc": "none", "mec": "0.1", "mew": 0.6, "ms": 3.4, "lw": 0}
    looks["published (other data, network)"] = published
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="upper center", ncols=5, fontsize=6.2, handlelength=1.6, columnspacing=1.4)


def _typeset(text: str) -> str:
    """Write names of losses with a subscript."""
    return re.sub(r"L_(\w+)", r"$L_{\\mathrm{\1}}$", text)

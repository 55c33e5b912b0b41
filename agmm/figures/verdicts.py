"""The figure of the claims: effects with their intervals, colored by verdict."""

import math
import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from agmm.figures.style import WIDTH, save, style

LOOKS = {"reproduced": ("C0", "o"), "not reproduced": ("C3", "X"), "inconclusive": ("0.55", "s")}
"""Verdict -> color and marker, so that neither is needed to tell them apart."""
ROW, TEXT = 0.12, 5.8
"""Height of a row in inches, size of its text in points."""
LEFT, MARGIN, ABOVE, AXIS = 3.15, 0.06, 0.36, 0.38
"""Width of the names and the margin before them, height of the legend with titles and of a panel's axis, in inches."""


def claims(frame: pd.DataFrame, stem: Path) -> Figure:
    """Effect and interval of every claim and setting: a column per objective, verdicts by color and marker.

    Above those in points of mIoU, below correlations, shares, ratios and silhouettes. Claims without any number are
    left out and named at the bottom.

    Parameters
    ----------
    frame : DataFrame
        See `agmm.papers.verdicts.collect`.
    stem : Path
        Folder and name of the files to write, without ending.

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    keys = ["claim", "setting"]
    known = frame.groupby(keys)["effect"].transform(lambda effects: effects.notna().any())
    drawn, lost = frame[known], sorted(set(frame["claim"]) - set(frame.loc[known, "claim"]))
    if drawn.empty:
        raise ValueError("there are no effects yet; train the runs of some claims first")
    style()
    points = drawn.groupby(keys)["unit"].transform("first") == "mIoU"
    parts = {"points of mIoU": drawn[points], "correlation, share, ratio, silhouette": drawn[~points]}
    parts = {label: part for label, part in parts.items() if len(part)}
    orders = [_order(part) for part in parts.values()]
    objectives = list(dict.fromkeys(drawn["objective"]))
    remark = textwrap.fill(f"Left out, as there are no numbers for them yet: {', '.join(lost)}.", 150) if lost else ""
    below = 1.3 * TEXT / 72 * len(remark.splitlines()) + 0.06
    height = ABOVE + sum(ROW * len(order) + AXIS for order in orders) + below
    inside = (LEFT / WIDTH, below / height, 1 - LEFT / WIDTH, 1 - (ABOVE + below) / height)
    figure, axes = plt.subplots(
        len(parts),
        len(objectives),
        figsize=(WIDTH, height),
        squeeze=False,
        sharex="row",
        sharey="row",
        height_ratios=[len(order) for order in orders],
        layout=ConstrainedLayoutEngine(rect=inside),
    )
    for line, (label, part), order in zip(axes, parts.items(), orders, strict=True):
        for axis, objective in zip(line, objectives, strict=True):
            _panel(axis, part[part["objective"] == objective], order)
            axis.set(xlim=_limits(part), ylim=(len(order) - 0.5, -0.5), yticks=[])
            axis.tick_params(labelsize=TEXT, length=2, pad=2)
            axis.set_xlabel(label, fontsize=TEXT, labelpad=2)
        _names(line[0], part, order)
    for axis, objective in zip(axes[0], objectives, strict=True):
        axis.set_title(_typeset(objective), fontsize=7, pad=4)
    _legend(figure)
    figure.text(MARGIN / WIDTH, 0.04 / height, remark, fontsize=TEXT, color="0.35")
    save(figure, drawn, stem)
    return figure


def _order(part: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Claim and setting -> row."""
    pairs = dict.fromkeys(zip(part["claim"], part["setting"], strict=True))
    return {pair: row for row, pair in enumerate(pairs)}


def _panel(axis: Axes, part: pd.DataFrame, order: dict[tuple[str, str], int]) -> None:
    claims_ = [claim for claim, _ in order]
    for row in range(1, len(order)):
        if claims_[row] != claims_[row - 1]:
            axis.axhline(row - 0.5, color="0.9", lw=0.5, zorder=0)
    axis.axvline(0, color="0.6", lw=0.6, zorder=1)
    for _, found in part.dropna(subset="effect").iterrows():
        row, (color, marker) = order[found["claim"], found["setting"]], LOOKS[found["verdict"]]
        if math.isfinite(found["low"]) and math.isfinite(found["high"]):
            axis.plot([found["low"], found["high"]], [row, row], color=color, lw=1.1, solid_capstyle="butt", zorder=3)
        seeds = [float(each) for each in str(found["each"]).split()]
        axis.plot(seeds, [row] * len(seeds), "|", color=color, ms=3.2, mew=0.5, alpha=0.7, zorder=2)
        axis.plot(found["effect"], row, marker, color=color, ms=3.6, mec="white", mew=0.3, zorder=4)
        axis.plot(found["claimed"], row, "D", mfc="none", mec="0.1", ms=3, mew=0.6, zorder=5)


def _names(axis: Axes, part: pd.DataFrame, order: dict[tuple[str, str], int]) -> None:
    """Claim and sentence at the left, once per claim; the settings beside the panel."""
    first, before = part.drop_duplicates(["claim", "setting"]).set_index(["claim", "setting"]), ""
    for (claim, setting), row in order.items():
        sentence, unit = first.loc[(claim, setting), ["sentence", "unit"]]
        text = setting if unit == "mIoU" else f"{setting} ({unit})"
        texts = [(text, -3.0, "right", "0.25")]
        if claim != before:
            texts.append((f"{claim}  {sentence}", -72 * (LEFT - MARGIN), "left", "0.1"))
        for text, away, side, color in texts:
            note = axis.annotate(
                _typeset(text), (0, row), (away, 0), xycoords=axis.get_yaxis_transform(), textcoords="offset points"
            )
            note.set(ha=side, va="center", color=color, fontsize=TEXT, in_layout=False)
        before = claim


def _limits(part: pd.DataFrame) -> tuple[float, float]:
    """All means, published numbers and intervals of at least three seeds; those of two are cut off."""
    ends = part.loc[part["n_seeds"] != 2, ["low", "high"]]
    values = np.concatenate([part["effect"], part["claimed"], ends.to_numpy().ravel(), [0.0]])
    values = values[np.isfinite(values)]
    margin = 0.04 * (values.max() - values.min() or 1)
    return values.min() - margin, values.max() + margin


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, ms=4, mec="white", mew=0.3, lw=1.1, label=verdict)
        for verdict, (color, marker) in LOOKS.items()
    ]
    handles.append(Line2D([], [], color="0.3", marker="|", ms=4, mew=0.5, lw=0, label="single seed"))
    published = {"marker": "D", "mfc": "none", "mec": "0.1", "mew": 0.6, "ms": 3.4, "lw": 0}
    handles.append(Line2D([], [], label="published (other data, network)", **published))  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="upper center", ncols=5, fontsize=6.2, handlelength=1.6, columnspacing=1.4)


def _typeset(text: str) -> str:
    """Names of losses with a subscript."""
    return re.sub(r"L_(\w+)", r"$L_{\\mathrm{\1}}$", text)

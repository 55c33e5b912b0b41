"""The figure of the benchmarks: ratios with their targets."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from agmm.figures.style import WIDTH, save, style

COLORS = {"yes": "C2", "no": "C3", "": "0.6"}
ROW = 0.17
"""Height of a row in inches."""


def speed(table: pd.DataFrame, stem: Path) -> Figure:
    """Ratio of every figure on a logarithmic axis, a panel per group; a tick marks the target.

    Parameters
    ----------
    table : DataFrame
        See `agmm.tools.bench.measure`.
    stem : Path
        Folder and name of the files to write, without ending.
    """
    style()
    drawn = table[(table["against"] != "itself") & ~table["unit"].isin(["relative", "ppm"])]
    groups = list(dict.fromkeys(drawn["group"]))
    rows = [int((drawn["group"] == group).sum()) for group in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(WIDTH, ROW * sum(rows) + 0.55 * len(groups)), height_ratios=rows, squeeze=False
    )
    for ax, group in zip(axes[:, 0], groups, strict=True):
        part = drawn[drawn["group"] == group]
        names = part["case"] + ", " + part["precision"] + ": " + part["unit"] + ", to " + part["against"]
        places = range(len(part))
        ax.barh(places, part["ratio"], color=[COLORS[met] for met in part["met"]], height=0.65, left=0)
        for place, target, ratio in zip(places, part["target"], part["ratio"], strict=True):
            if target:
                ax.plot([float(target.split()[1])] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
            ax.annotate(f"{ratio:.3g}", (ratio, place), (2, 0), textcoords="offset points", va="center", fontsize=6)
        ax.set_yticks(places, names, fontsize=6)
        ax.invert_yaxis()
        ax.set_xscale("log")
        wide = part["ratio"].max() > 50 * min(1, part["ratio"].min())
        ax.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.axvline(1, color="0.8", linewidth=0.8, zorder=0)
        ax.set_title(group, loc="left", fontsize=8)
        ax.margins(x=0.12)
    figure.supxlabel("ratio; black: target (green: met, orange: missed)", fontsize=8)
    save(figure, drawn, stem)
    return figure

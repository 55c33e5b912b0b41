"""Differences between a method and the rows of a table, with their intervals."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agmm.figures.style import MARKERS, WIDTH, save, style

ROW = 0.22
"""Height of a row in inches."""


def differences(frame: pd.DataFrame, stem: Path) -> Figure:
    """Mean difference of every row with its interval, a color and marker per column; right of zero ours is ahead.

    Parameters
    ----------
    frame : DataFrame
        See `agmm.tools.compare.compare`. Rows without a seed are left out, intervals of a single one too.
    stem : Path
        Folder and name of the files to write, without ending.

    Raises
    ------
    ValueError
        If no row has a seed.
    """
    drawn = frame[frame["seeds"] > 0]
    if drawn.empty:
        raise ValueError("there are no differences yet: no row of the table has a seed in common with the method")
    style()
    names = list(dict.fromkeys(drawn["row"]))
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + ROW * len(names)))
    labels = list(dict.fromkeys(drawn["column"]))
    for number, label in enumerate(labels):
        part = drawn[drawn["column"] == label]
        heights = [names.index(name) + 0.3 * ((number + 0.5) / len(labels) - 0.5) for name in part["row"]]
        ends = np.abs(part[["low", "high"]].to_numpy().T - part["difference"].to_numpy())
        reach = np.where(np.isfinite(ends), ends, 0)
        axis.errorbar(
            part["difference"], heights, xerr=reach, fmt=MARKERS[number], color=f"C{number}", ms=4, label=label
        )
    axis.axvline(0, color="0.6", lw=0.8, zorder=0)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("difference to the row, points of mIoU (95 % interval)")
    figure.legend(loc="outside upper center", ncols=len(labels))
    save(figure, drawn, stem)
    return figure

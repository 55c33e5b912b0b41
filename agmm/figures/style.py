"""What all figures share: one look, vector and PNG, the numbers in a CSV beside them."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from agmm.host import atomic_files

MARKERS = "os^vDP*X<>"
WIDTH = 7.0  # inches: the text width of a two-column paper


def panels(
    rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns) with small sans-serif text and colors the color-blind tell apart.

    Height and width are in inches; the options are those of `matplotlib.pyplot.subplots`.
    """
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 200, "figure.constrained_layout.use": True})
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    return figure, axes


def save(figure: Figure, data: pd.DataFrame, stem: Path) -> Figure:
    """Write ``<stem>.pdf``, ``<stem>.png`` and, with the numbers in the figure, ``<stem>.csv``; return the figure."""
    with atomic_files.writable(stem.parent):
        for ending in ("pdf", "png"):
            # A fixed date keeps the files of equal figures equal.
            metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
            draw = partial(figure.savefig, format=ending, metadata=metadata)
            atomic_files.save(stem.parent / f"{stem.name}.{ending}", draw)
        atomic_files.write_text(stem.parent / f"{stem.name}.csv", data.to_csv(index=False))
    return figure


def require(data: pd.DataFrame, what: str, remedy: str = "; train the runs of this figure first") -> None:
    """Raise ValueError if there is nothing to draw."""
    if data.empty:
        raise ValueError(f"there are no {what} yet{remedy}")


def class_colors(codes: np.ndarray) -> np.ndarray:
    """Return the color (..., 3) of every class code (...), the same in all figures."""
    palette = np.array([*sns.color_palette("colorblind", 10), *sns.color_palette("dark", 10)])
    return palette[codes % len(palette)]

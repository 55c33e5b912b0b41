"""What all figures share: one style, vector and PNG, the numbers in a CSV beside them."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from agmm.host import atomic_files

MARKERS = "os^vDP*X<>"
WIDTH = 7.0
"""Inches: the text width of a two-column paper."""


def style() -> None:
    """The look of all figures: small sans-serif text, few lines, colors that the color-blind tell apart."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 200, "figure.constrained_layout.use": True})


def save(figure: Figure, data: pd.DataFrame, stem: Path) -> None:
    """Write ``<stem>.pdf``, ``.png`` and, with the numbers that are drawn, ``.csv``."""
    with atomic_files.writable(stem.parent):
        for ending in ("pdf", "png"):
            # A fixed date keeps the files of equal figures equal.
            metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, metadata=metadata)
            atomic_files.write(stem.parent / f"{stem.name}.{ending}", buffer.getvalue())
        atomic_files.write_text(stem.parent / f"{stem.name}.csv", data.to_csv(index=False))

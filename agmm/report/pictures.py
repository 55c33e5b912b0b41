"""The pictures of the page: figures from files, training curves drawn here."""

import base64
import csv
import math
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from agmm.papers import tables, verdicts
from agmm.report.records import Record

ELSEWHERE = {"agmm_supp_figure5": "agmm_supp_figure6"}  # figure -> table whose notebook draws it, if named otherwise
SHAPE, EDGE = (160, 90), 6  # width and height of a panel of curves, and the margin inside


class Picture(NamedTuple):
    """A figure of the results folder: its address, its size in pixels, and what else there is of it."""

    name: str
    caption: str
    source: str
    width: int
    height: int
    files: tuple[str, ...]


class Panel(NamedTuple):
    """Training curves of P and G for a cell of a table: points of two polylines, and where they begin and end."""

    title: str
    p: str
    g: str
    ends: dict[str, tuple[float, float]]
    epochs: int
    low: float
    high: float


def figures(folder: Path, embed: bool) -> tuple[dict[str, list[Picture]], list[str]]:
    """Return the figures of ``results/<preset>``, and a sentence for every file that is no picture.

    Keys are names of tables, titles of papers for figures of claims, and the empty string for others; ``embed`` puts
    the pictures into the page instead of linking their files.
    """
    found: dict[str, list[Picture]] = {}
    problems = []
    for path in sorted((folder / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError as error:
            problems.append(f"figures/{path.name} is damaged ({type(error).__name__})")
            continue
        owner, caption = _owner(path.stem)
        files = [path.with_suffix(ending) for ending in (".pdf", ".png", ".csv")]
        there = tuple(f"figures/{file.name}" for file in files if file.exists())
        source = quote(f"figures/{path.name}")
        if embed:
            source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        found.setdefault(owner, []).append(Picture(path.stem, caption, source, width, height, there))
    return found, problems


def _owner(stem: str) -> tuple[str, str]:
    """Return the table or paper that a figure belongs to, and its caption."""
    for paper in verdicts.PAPERS:
        if stem == paper.figure:
            return paper.title, f"{paper.title}: effects and intervals of the claims, by verdict"
    name = ELSEWHERE.get(stem, stem)
    owners = [table for table in tables.TABLES if name == table or name.startswith(f"{table}_")]
    if not owners:
        return "", stem.replace("_", " ")
    table = tables.TABLES[max(owners, key=len)]
    more = f" ({stem.removeprefix(table.name).strip('_').replace('_', ' ')})" if stem != table.name else ""
    return table.name, f"{table.paper}, {table.title}{more}"


def panels(
    runs: dict[tuple[str, str], tuple[str, ...]], records: dict[str, Record], folder: Path
) -> tuple[list[Panel], list[str]]:
    """Return a panel with the curves, means over seeds on one scale, of every distinct set of runs that has P and G.

    ``runs`` are identities by (row, column), ``folder`` is ``results/<preset>``. With them comes a sentence for every
    damaged history.
    """
    problems: dict[str, None] = {}
    means: dict[tuple[str, ...], tuple[str, np.ndarray]] = {}
    for (row, column), ids in runs.items():
        there = tuple(one for one in ids if one in records and "history.csv" in records[one].files)
        if there and there not in means:
            try:
                seeds = [_history(folder / "runs" / one / "history.csv") for one in there]
            except ValueError as error:
                problems[str(error)] = None
                continue
            if shortest := min(curves.shape[1] for curves in seeds):
                means[there] = f"{row}, {column}", np.mean([curves[:, :shortest] for curves in seeds], axis=0)
    if not means:
        return [], list(problems)
    values = np.concatenate([curves.ravel() for _, curves in means.values()])
    low, high = 10 * math.floor(values.min() / 10), max(10 * math.ceil(values.max() / 10), 10)
    made = []
    for title, curves in means.values():
        ends = {name: (curve[0], curve[-1]) for name, curve in zip("pg", curves, strict=True)}
        p, g = (_points(curve, low, high) for curve in curves)
        made.append(Panel(title, p, g, ends, curves.shape[1], low, high))
    return made, list(problems)


def _history(path: Path) -> np.ndarray:
    """Return P and G (2, epochs); no epochs where the run measured only one of them."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(line.get("p_miou"), line.get("g_miou")) for line in csv.DictReader(file)]
        curves = np.array([row for row in rows if all(row)], float).reshape(-1, 2).T
        if not np.isfinite(curves).all():
            raise ValueError("a number that is not finite")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"runs/{path.parent.name}/{path.name} is damaged ({type(error).__name__}: {error})") from error
    return curves


def _points(curve: np.ndarray, low: float, high: float) -> str:
    x = np.linspace(EDGE, SHAPE[0] - EDGE, len(curve))
    y = EDGE + (SHAPE[1] - 2 * EDGE) * (high - curve) / (high - low or 1)
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))

"""The pictures of the page: figures from files, training curves drawn here."""

import base64
import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from agmm.papers import tables, verdicts
from agmm.report.records import Record

ELSEWHERE = {"agmm_supp_figure5": "agmm_supp_figure6"}
"""Figure -> the table whose notebook draws it, where its name does not begin with that table's."""
SHAPE, EDGE = (160, 90), 6
"""Width and height of a panel of curves, and the margin inside."""


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
        source = _embedded(path) if embed else quote(f"figures/{path.name}")
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


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def panels(
    runs: dict[tuple[str, str], tuple[str, ...]], records: dict[str, Record], folder: Path
) -> tuple[list[Panel], list[str]]:
    """Return a panel with the curves, means over seeds on one scale, of every distinct set of runs that has P and G.

    ``runs`` are identities by (row, column), ``folder`` is ``results/<preset>``. With them comes a sentence for every
    damaged history.
    """
    problems: dict[str, None] = {}
    means: dict[tuple[str, ...], tuple[str, dict[str, list[float]]]] = {}
    for (row, column), ids in runs.items():
        there = tuple(one for one in ids if one in records and "history.csv" in records[one].files)
        if there and there not in means:
            try:
                curves = [_history(folder / "runs" / one / "history.csv") for one in there]
            except ValueError as error:
                problems[str(error)] = None
                continue
            if all(curve is not None for curve in curves):
                means[there] = f"{row}, {column}", _mean([curve for curve in curves if curve])
    values = [value for _, curve in means.values() for line in curve.values() for value in line]
    if not values:
        return [], list(problems)
    low, high = 10 * math.floor(min(values) / 10), max(10 * math.ceil(max(values) / 10), 10)
    return [_panel(title, curve, low, high) for title, curve in means.values()], list(problems)


def _history(path: Path) -> dict[str, list[float]] | None:
    """Return P and G epoch by epoch; None where the run measured only one of them."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [line for line in csv.DictReader(file) if line.get("p_miou") and line.get("g_miou")]
        curves = {name: [float(line[f"{name}_miou"]) for line in rows] for name in ("p", "g")}
        if not all(math.isfinite(value) for line in curves.values() for value in line):
            raise ValueError("a number that is not finite")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"runs/{path.parent.name}/{path.name} is damaged ({type(error).__name__}: {error})") from error
    return curves if rows else None


def _mean(curves: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    return {
        name: [sum(values) / len(values) for values in zip(*(curve[name] for curve in curves), strict=False)]
        for name in ("p", "g")
    }


def _panel(title: str, curve: dict[str, list[float]], low: float, high: float) -> Panel:
    ends = {name: (line[0], line[-1]) for name, line in curve.items()}
    return Panel(
        title, _points(curve["p"], low, high), _points(curve["g"], low, high), ends, len(curve["p"]), low, high
    )


def _points(line: Iterable[float], low: float, high: float) -> str:
    values = list(line)
    width, height = SHAPE[0] - 2 * EDGE, SHAPE[1] - 2 * EDGE
    step = width / max(len(values) - 1, 1)
    return " ".join(
        f"{EDGE + step * i:.1f},{EDGE + height * (high - value) / (high - low or 1):.1f}"
        for i, value in enumerate(values)
    )

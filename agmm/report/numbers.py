"""The numbers of the page, as their CSV files have them: tables, ours beside published, and claims with verdicts."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from agmm.papers import verdicts
from agmm.papers.results import COLUMNS, KEY
from agmm.papers.table import OBJECTIVES
from agmm.papers.tables import Cell, Table, about
from agmm.training import presets

TONES = (1.0, 5.0, 15.0)  # points from which a difference is small, medium and large; below the first it is level


class Entry(NamedTuple):
    """One number of ours beside the published one, as printed."""

    published: str
    ours: str
    spread: str
    seeds: int
    difference: str
    tone: str
    runs: tuple[str, ...]


class Line(NamedTuple):
    """A row: its name, what is said of it, and its entries by column; None where the table has no such cell."""

    row: str
    about: str
    entries: list[Entry | None]


class Column(NamedTuple):
    """A column, and which of published, ours and difference stand in it."""

    label: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A table as the page shows it."""

    table: Table
    columns: list[Column]
    lines: list[Line]
    notes: list[str]
    runs: dict[tuple[str, str], tuple[str, ...]]  # (row with what is said of it, column) -> identities of its runs

    @property
    def ids(self) -> set[str]:
        """Identities of all runs behind it."""
        return {one for ids in self.runs.values() for one in ids}


def sentence(table: Table) -> str:
    """Return what a table shows: the first paragraph of the description of its rows."""
    return " ".join(cleandoc(table.cells.__doc__ or "").split("\n\n")[0].split())


def read(table: Table, preset: str, folder: Path) -> View | None:
    """Return the table as its CSV file has it, so that page and file agree; None without one, ValueError if damaged."""
    path = folder / f"{table.name}.csv"
    if not path.exists():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        entries = [(_cell(line), _entry(line)) for line in found]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"tables/{path.name} is damaged ({type(error).__name__}: {error})") from error
    notes = {_key(cell): cell.note for cell in table.cells(presets.named(preset))}
    columns = [_column(label, entries) for label in dict.fromkeys(cell.column for cell, _ in entries)]
    lines: dict[tuple[str, str], dict[str, Entry]] = {}
    for cell, entry in entries:
        said = about(cell, preset, notes.get(_key(cell), ""))
        lines.setdefault((cell.row, said), {})[cell.column] = entry
    return View(
        table,
        columns,
        [Line(row, said, [line.get(column.label) for column in columns]) for (row, said), line in lines.items()],
        _notes(path.with_suffix(".md")),
        {
            (f"{row} ({said})" if said else row, column): entry.runs
            for (row, said), line in lines.items()
            for column, entry in line.items()
            if entry.runs
        },
    )


def _cell(line: dict[str, str]) -> Cell:
    """Return the cell that a line of the file describes, without its run."""
    if missing := [name for name in COLUMNS if line.get(name) is None]:
        raise ValueError(f"no {missing[0]}")
    given: dict[str, Any] = {name: line[name] for name in KEY}
    return Cell(**(given | {"training_id": "", "run": None, "absent": line["absent"] == "True"}))


def _key(cell: Cell) -> tuple[str, ...]:
    return tuple(str(getattr(cell, name)) for name in KEY)


def _entry(line: dict[str, str]) -> Entry:
    ours, spread, published = (_float(line[name]) for name in ("ours_mean", "ours_std", "published"))
    points = round(ours - published, 1) + 0.0  # as printed, so that tone and number agree; no minus before zero
    return Entry(
        _one_decimal(published),
        _one_decimal(ours),
        _one_decimal(spread),
        int(line["n_seeds"]),
        difference(points),
        tone(points),
        tuple(line["run_ids"].split()),
    )


def _float(text: str) -> float:
    value = float(text) if text else math.nan
    if math.isinf(value):
        raise ValueError("an infinite number")
    return value


def _one_decimal(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def difference(points: float) -> str:
    """Return a difference with its sign, also where it is nothing but that; empty if it is missing."""
    return "" if math.isnan(points) else f"{points:+.1f}".replace("-", "−")


def tone(points: float) -> str:
    """Return sign and size of a difference in a word, for its color."""
    size = sum(abs(points) >= bound for bound in TONES)
    return ("up" if points > 0 else "down") + str(size) if size else "level"


def _column(label: str, entries: Iterable[tuple[Cell, Entry]]) -> Column:
    inside = [entry for cell, entry in entries if cell.column == label]
    published = any(entry.published for entry in inside)
    both = any(entry.difference for entry in inside)
    ours = any(entry.ours for entry in inside) or not published
    kinds = {"published": published, "ours": ours, "difference": both}
    return Column(label, tuple(kind for kind, shown in kinds.items() if shown))


def _notes(path: Path) -> list[str]:
    """Return the footnotes of the table's printed form."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.removeprefix("- ").replace("`", "") for line in lines if line.startswith("- ")]


# --- Claims -----------------------------------------------------------------------------------------------------------

MARKS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}  # verdict -> sign, in the order of the page


class Judged(NamedTuple):
    """The claims of a paper."""

    title: str
    objectives: list[str]
    sentences: list[dict[Any, Any]]  # claims with their verdicts for every objective of AGMM, "" without rows of it
    counts: dict[str, int]  # verdict -> number of claims with it, as AGMM is released
    numbers: dict[str, list[dict[Any, Any]]]  # verdict -> claims setting by setting, with effects as printed


def claims(folder: Path) -> list[Judged]:
    """Return papers with their claims as ``claims.csv`` has them, none without it; ValueError if it is damaged."""
    path = folder / "claims.csv"
    if not path.exists():
        return []
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)[verdicts.COLUMNS]
        numeric = ["n_seeds", "effect", "low", "high", "p", "claimed"]
        frame = text.assign(**{name: pd.to_numeric(text[name].replace("", math.nan)) for name in numeric})
        return [_judged(str(title), part) for title, part in frame.groupby("paper", sort=False)]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"claims.csv is damaged ({type(error).__name__}: {error})") from error


def _judged(title: str, frame: pd.DataFrame) -> Judged:
    if unknown := set(frame["verdict"]) - set(MARKS):
        raise ValueError(f"there is no verdict {unknown.pop()!r}")
    combined = verdicts.verdicts(frame)
    names = list(OBJECTIVES)
    sentences = [row | {"verdicts": [row[name] for name in names]} for row in combined.to_dict("records")]
    rows = frame.assign(effect=[verdicts.effect(line) for _, line in frame.iterrows()]).to_dict("records")
    return Judged(
        title,
        names if (frame["objective"] != "").any() else [],
        sentences,
        {verdict: sum(row["verdicts"][0] == verdict for row in sentences) for verdict in MARKS},
        {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in MARKS},
    )

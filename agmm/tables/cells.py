"""What a table is made of: cells, each a run and the number that the paper prints for it."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from agmm.presets import Preset
from agmm.runs import Run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table.

    Attributes
    ----------
    row, column : str
        Labels as the paper prints them.
    training_id : str
        Run of ``published/training_runs.csv`` that this is (``"O012"``), or ``"extra:<reason>"``.
    run : Run or None
        What is trained, with seed 0; None where the method is not in this version.
    method, variant, absent, init, dataset, labels, protocol
        Description of the run, also where there is none yet; ``variant`` is empty for methods without variants.
    metric : str
        Key of `agmm.tables.aggregate.METRICS`.
    published : float or None
        As printed, in per cent, on the paper's data set.
    published_source : str
        Table, row, data set and backbone of the published number.
    """

    row: str
    column: str
    training_id: str
    run: Run | None
    method: str
    variant: str
    absent: bool
    init: str
    dataset: str
    labels: str
    protocol: str
    metric: str = "mIoU"
    published: float | None = None
    published_source: str = ""

    @property
    def objective(self) -> str:
        """What is minimized, where rows of the same name differ in it."""
        if self.method == "AGMM" and self.variant == "official":
            name = "released code" if self.absent else "released code without L_absent"
        elif self.method == "AGMM":
            name = "equations as printed" + (" + L_absent" if self.absent else "")
        else:
            name = "with L_absent" if self.absent else ""
        return name


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes
    ----------
    name : str
        For the command line and for file names.
    title, paper : str
    notebook : str
        Path from the repository's root.
    cells : callable
        Preset to the cells, in the order in which the rows are printed.
    """

    name: str
    title: str
    paper: str
    notebook: str
    cells: Callable[[Preset], tuple[Cell, ...]]


def describe(run: Run) -> dict[str, Any]:
    """The descriptive fields of a run's cells."""
    options = dict(run.options)
    return {
        "method": run.method,
        "variant": options.get("variant", "official") if run.method == "AGMM" else "",
        "absent": "absent" in options.get("terms", ()) or bool(options.get("absent", False)),
        "init": run.init,
        "dataset": run.dataset,
        "labels": run.labels,
        "protocol": protocol(run),
    }


def protocol(run: Run) -> str:
    """Which model is tested, and how, in words."""
    parts = ["last epoch" if run.selection == "last" else "best epoch on the test split"]
    parts.append("single scale" if run.scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in run.scales)}")
    parts += ["flip"] if run.flip else []
    parts += [f"sliding window {run.tile}"] if run.tile else []
    return ", ".join(parts)


def published(table: str, row: int, column: str) -> tuple[float, str]:
    """Number printed in a paper, with its source.

    Parameters
    ----------
    table : str
        Name of a file in ``published/``, without its ending.
    row : int
        Printed row, from 1.
    column : str
        Kind of supervision as in that file.

    Raises
    ------
    KeyError
        If the table prints no such number.
    """
    for line in _lines(table):
        if line["row"] == str(row) and line["supervision"] == column:
            place = f"{line['paper']} {line['table']}, row {row}"
            return float(line["value"]), f"{place} ({line['dataset']} {line['split']}, {line['backbone']})"
    raise KeyError(f"{table} prints no number for row {row} and {column}")


@cache
def _lines(name: str) -> tuple[dict[str, str], ...]:
    text = (files("agmm.tables") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))

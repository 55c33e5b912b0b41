"""What a table is made of: cells, each a run and the number that the paper prints for it."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from agmm.training.presets import Preset
from agmm.training.run import Init, Run

QUOTED = "quoted"
"""Training id of numbers that the authors of a paper took from others."""

CLASS_IOU = "IoU: "
"""Prefix of the metric of one class."""

SINGLE_SCALE = "mIoU, single scale"
"""Metric of ablations: mIoU from one scale without flips, also where a run is tested at several."""


WVF = "WvF"
"""Metric of SPML: mIoU as a share of that of full supervision, in per cent."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table.

    Attributes
    ----------
    row, column : str
        Labels as the paper prints them.
    training_id : str
        Run of ``published/training_runs.csv`` that this is (``"O012"``), ``"extra:<reason>"``, or `QUOTED`.
    run : Run or None
        What is trained, with seed 0; None where the number is quoted.
    method, variant, absent, init, dataset, labels, protocol
        Description of the run, also where there is none yet; ``variant`` is empty for methods without variants.
    metric : str
        See `agmm.papers.results.read`.
    full : Run or None
        What is 100 % of the metric `WVF`, with seed 0.
    note : str
        What is said of the row beside its objective, such as where a quoted number comes from.
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
    full: Run | None = None
    published: float | None = None
    published_source: str = ""
    note: str = ""

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


class Column(NamedTuple):
    """A column as printed, the kind of labels in it, and what singles it out in the published file."""

    label: str
    labels: str
    printed: dict[str, str] | None = None
    """Default: the label is the kind of supervision."""
    in_paper: bool = True


class Row(NamedTuple):
    """A row to be set in every column; where the paper prints nothing in one, its id is empty and the cell left out.

    ``ids`` are the trainings of the columns, one for all if there is just one; ``printed`` is what singles the row out
    in the published file, None where the paper has no such row. ``refined`` is tested as the paper tests its best
    numbers, at several scales and with a DenseCRF.
    """

    label: str
    ids: tuple[str, ...]
    printed: dict[str, str] | None = None
    method: str = "Baseline"
    options: dict[str, Any] = {}
    init: Init | None = None
    second_stage: bool = False
    note: str = ""
    network: str = "resnet"
    refined: bool = False


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
    data, published_on : str
        What the published numbers were measured on, in a word and in full.
    """

    name: str
    title: str
    paper: str
    notebook: str
    cells: Callable[[Preset], tuple[Cell, ...]]
    data: str = "VOC"
    published_on: str = "PASCAL VOC 2012 val, ResNet-101 with ImageNet weights"


def cells(preset: Preset, table: str, rows: Iterable[Row], columns: Sequence[Column]) -> tuple[Cell, ...]:
    """Rows times columns; a preset leaves out what it lacks: kinds of labels, networks, refined tests."""
    made = []
    for row in rows:
        ids = row.ids * len(columns) if len(row.ids) == 1 else row.ids
        for column, training_id in zip(columns, ids, strict=True):
            if column.labels not in preset.labels or not training_id or row.network not in preset.networks:
                continue
            refined = preset.networks[row.network].refined
            if row.refined and not refined:
                continue
            if row.method == "SPML" and preset.embedding is None:
                continue
            make = preset.spml if row.method == "SPML" else preset.at
            run = make(column.labels, row.method, init=row.init, network=row.network, **row.options)
            run = run.second_stage() if row.second_stage else run
            run = run.tested(**refined) if row.refined else run
            where = column.printed or {"supervision": column.label}
            value, source = published(table, **where, **row.printed) if row.printed and column.in_paper else (None, "")
            made.append(
                Cell(
                    row=row.label,
                    column=column.label,
                    training_id=training_id,
                    run=run,
                    published=value,
                    published_source=source,
                    note=row.note,
                    **describe(run),
                )
            )
    return tuple(made)


def describe(run: Run) -> dict[str, Any]:
    """The descriptive fields of a run's cells; those of a second stage tell of its first."""
    if run.method == "SPMLClassifier":
        assert run.teacher is not None
        return describe(run.teacher) | {"protocol": f"second classifier, {protocol(run)}"}
    if run.teacher is not None:
        stage = "second stage" if run.restrict else "second stage on predictions of all classes"
        return describe(run.teacher) | {"protocol": f"{stage}, {protocol(run)}"}
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
    last = f"epoch {run.stop_after} of {run.epochs}" if run.stop_after else "last epoch"
    parts = [last if run.selection == "last" else "best epoch on the test split"]
    parts.append("single scale" if run.scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in run.scales)}")
    parts += ["flip"] if run.flip else []
    parts += ["largest logits of the scales"] if run.scale_merge == "max" and run.scales[1:] else []
    parts += [f"sliding window {run.tile}"] if run.tile else []
    parts += [f"long side {run.long_side}"] if run.long_side else []
    parts += [f"DenseCRF ({run.crf})"] if run.crf else []
    return ", ".join(parts)


def published(table: str, **where: str) -> tuple[float, str]:
    """Number printed in a paper, with its source.

    Parameters
    ----------
    table : str
        Name of a file in ``published/``, without its ending.
    **where : str
        Values of that file's columns that single out one line, such as ``row="3", supervision="point"``.

    Raises
    ------
    KeyError
        If they fit no line, or several.
    """
    found = [line for line in lines(table) if all(line[name] == value for name, value in where.items())]
    if len(found) != 1:
        raise KeyError(f"{table} prints {len(found)} numbers for {where}")
    (line,) = found
    return float(line["value"]), source(line)


def source(line: dict[str, str]) -> str:
    """Where a published number stands: table, row, data set and backbone."""
    return f"{line['paper']} {line['table']}, row {line['row']} ({line['dataset']} {line['split']}, {line['backbone']})"


@cache
def lines(name: str) -> tuple[dict[str, str], ...]:
    """Lines of a file in ``published/``, without its ending."""
    text = (files("agmm.papers") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))

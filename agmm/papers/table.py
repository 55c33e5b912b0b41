"""What a table is made of: cells, each a run and the number that the paper prints for it."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
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

TRAINING = "training mIoU: "
"""Prefix of the metrics of training curves, mIoU on training images."""


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
    value : float or None
        Value of the hyperparameter that the table's rows vary.
    note : str
        Remark on the row beside its objective, such as where a quoted number comes from.
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
    variant: str = ""
    absent: bool = False
    init: str = ""
    dataset: str
    labels: str
    protocol: str = ""
    metric: str = "mIoU"
    full: Run | None = None
    value: float | None = None
    published: float | None = None
    published_source: str = ""
    note: str = ""

    @property
    def trained_run(self) -> Run:
        """Run of a cell that is known to have one; ValueError where the number is quoted."""
        if self.run is None:
            raise ValueError(f"nothing is trained for the cell {self.row}, {self.column}: its number is quoted")
        return self.run

    @property
    def objective(self) -> str:
        """What is minimized, where rows of the same name differ in it."""
        if self.method == "AGMM" and self.variant == "official":
            return "released code" if self.absent else "released code without L_absent"
        if self.method == "AGMM":
            return "equations as printed" + (" + L_absent" if self.absent else "")
        return "with L_absent" if self.absent else ""


class Column(NamedTuple):
    """A column as printed, the kind of labels in it, and the fields that single it out in the published file."""

    label: str
    labels: str
    printed: dict[str, str] | None = None
    """Default: the label is the kind of supervision."""
    in_paper: bool = True


@dataclass(frozen=True)
class Row:
    """A row to be set in every column.

    Attributes
    ----------
    label : str
    ids : tuple of str
        Trainings of the columns, one for all if there is just one; cells with an empty id are left out.
    method, options, init, network
        See `agmm.training.presets.Preset.at`.
    printed : dict of str to str
        Fields that single the row out in the published file; empty where the paper has no such row.
    value : float or None
        Value of the hyperparameter that the table's rows vary.
    second_stage : bool
        Whether the run is trained on predictions of another one.
    refined : bool
        Whether it is tested as the paper tests its best numbers, at several scales and with a DenseCRF.
    note : str
        See `Cell`.
    """

    label: str
    ids: tuple[str, ...]
    _: KW_ONLY
    method: str = "Baseline"
    options: dict[str, Any] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    value: float | None = None
    init: Init | None = None
    network: str = "resnet"
    second_stage: bool = False
    refined: bool = False
    note: str = ""


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


def table(cells: Callable[[Preset], tuple[Cell, ...]], title: str, paper: str, **published: str) -> Table:
    """Return the table of a function of cells, named after the function and the folder of its module."""
    folder, name = cells.__module__.split(".")[-2], cells.__name__
    return Table(f"{folder}_{name}", title, paper, f"notebooks/{folder}/{name}.ipynb", cells, **published)


def cells(preset: Preset, table: str, rows: Iterable[Row], columns: Sequence[Column]) -> tuple[Cell, ...]:
    """Set rows in columns; a preset leaves out what it lacks: kinds of labels, networks, refined tests, SPML."""
    made = []
    for row in rows:
        ids = row.ids * len(columns) if len(row.ids) == 1 else row.ids
        for column, training_id in zip(columns, ids, strict=True):
            if column.labels not in preset.labels or not training_id or not _possible(row, preset):
                continue
            run = _run(row, column.labels, preset)
            value, source = None, ""
            if row.printed and column.in_paper:
                value, source = published(table, **column.printed or {"supervision": column.label}, **row.printed)
            made.append(
                Cell(
                    row=row.label,
                    column=column.label,
                    training_id=training_id,
                    run=run,
                    value=row.value,
                    published=value,
                    published_source=source,
                    note=row.note,
                    **describe(run),
                )
            )
    return tuple(made)


def figure_cells(preset: Preset, *rows: tuple[str, Row]) -> tuple[Cell, ...]:
    """Return a cell for each kind of labels with its row, as far as the preset has both."""
    return tuple(cell for kind, row in rows for cell in cells(preset, "", [row], [Column("mIoU", kind)]))


def curve_cells(cells: Iterable[Cell], columns: Sequence[str] = ()) -> tuple[Cell, ...]:
    """Return cells of training curves for each cell: by default of segmentation P and mixture G, if it has one."""
    made = []
    for cell in cells:
        mixture = ("G", "G - P, first epoch", "G - P, last epoch") if cell.method in ("AGMM", "AGMMpp") else ()
        protocol = f"{cell.trained_run.history_images} training images, single scale"
        for column in columns or ("P", "P among labeled classes", *mixture):
            made.append(replace(cell, column=column, metric=TRAINING + column, protocol=protocol))
    return tuple(made)


def _possible(row: Row, preset: Preset) -> bool:
    if row.network not in preset.networks or (row.refined and not preset.networks[row.network].refined):
        return False
    return row.method != "SPML" or preset.embedding is not None


def _run(row: Row, labels: str, preset: Preset) -> Run:
    make = preset.spml if row.method == "SPML" else preset.at
    run = make(labels, row.method, init=row.init, network=row.network, **row.options)
    run = run.second_stage() if row.second_stage else run
    return run.tested(**preset.networks[row.network].refined) if row.refined else run


def describe(run: Run) -> dict[str, Any]:
    """Return the descriptive fields of a run's cells; those of a second stage describe its first."""
    if run.teacher is not None:
        if run.method == "SPMLClassifier":
            stage = "second classifier"
        else:
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
    """Return which model is tested, and how, in words."""
    last = f"epoch {run.stop_after} of {run.epochs}" if run.stop_after else "last epoch"
    words = [last if run.selection == "last" else "best epoch on the test split"]
    words.append("single scale" if run.scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in run.scales)}")
    words += ["flip"] if run.flip else []
    words += ["largest logits of the scales"] if run.scale_merge == "max" and run.scales[1:] else []
    words += [f"sliding window {run.tile}"] if run.tile else []
    words += [f"long side {run.long_side}"] if run.long_side else []
    words += [f"DenseCRF ({run.crf})"] if run.crf else []
    return ", ".join(words)


# --- Published numbers ------------------------------------------------------------------------------------------------


def published(table: str, **where: str) -> tuple[float, str]:
    """Return a number printed in a paper, with its source.

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
    fitting = [line for line in lines(table) if all(line[name] == value for name, value in where.items())]
    if len(fitting) != 1:
        raise KeyError(f"{table} prints {len(fitting)} numbers for {where}")
    (line,) = fitting
    return float(line["value"]), source(line)


def source(line: dict[str, str]) -> str:
    """Return where a published number stands: table, row, data set and backbone."""
    return f"{line['paper']} {line['table']}, row {line['row']} ({line['dataset']} {line['split']}, {line['backbone']})"


@cache
def lines(name: str) -> tuple[dict[str, str], ...]:
    """Return the lines of a file in ``published/``, given without its ending."""
    text = (files("agmm.papers") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def lines_of_others(table: str, cells: Iterable[Cell]) -> list[dict[str, str]]:
    """Return the lines of a published table that stand beside none of these cells, at this preset at least."""
    shown = {cell.published_source for cell in cells}
    return [line for line in lines(table) if source(line) not in shown]


_EXTRAS = {"extra_data": "extra data", "mt": "multi-stage", "crf": "DenseCRF", "ms_test": "several scales"}


def quoted(lines: Iterable[dict[str, str]], column: str = "{supervision}") -> tuple[Cell, ...]:
    """Return cells of published lines that are shown and never trained.

    Their trainings have no specification, or the paper took them from elsewhere. ``column`` is the label of the column
    with fields of the line.
    """
    made = []
    for line in lines:
        about = [line["backbone"]] + ([line["publication"]] if line.get("publication") else [])
        about += [words for name, words in _EXTRAS.items() if line.get(name) == "true"]
        made.append(
            Cell(
                row=f"{line['method']} ({line['backbone']})",
                column=column.format(**line),
                training_id=QUOTED,
                run=None,
                method=line["method"],
                dataset=line["dataset"],
                labels=line["supervision"],
                published=float(line["value"]),
                published_source=f"{line['paper']} {line['table']}, row {line['row']}, quoted there",
                note=f"quoted: {', '.join(about)}",
            )
        )
    return tuple(made)

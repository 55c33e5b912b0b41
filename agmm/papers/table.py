"""What a table is made of: cells, each a run and the number that the paper prints for it."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from agmm.training.presets import Preset
from agmm.training.run import Init, Run

QUOTED = "quoted"  # training id of numbers that the authors of a paper took from others

CLASS_IOU = "IoU: "  # prefix of the metric of one class
SINGLE_SCALE = "mIoU, single scale"  # metric of ablations: mIoU from one scale without flips, however a run is tested
WVF = "WvF"  # metric of SPML: mIoU as a share of that of full supervision, in per cent
TRAINING = "training mIoU: "  # prefix of the metrics of training curves, mIoU on training images

VARIANTS = {
    "official": "released code",
    "paper": "as printed, present classes",
    "paper, all classes": "as printed, all classes",
}
"""Variants of AGMM: its release, and its equations in both readings of Eq. 8, which has no class index."""
RELEASED, *READINGS = VARIANTS.values()
OBJECTIVES = (RELEASED, f"{RELEASED} without L_absent", *reversed(READINGS))
"""What AGMM minimizes in the tables of results."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table: labels as printed, a run with its description, and the published number."""

    row: str
    column: str
    training_id: str  # run of ``published/training_runs.csv`` (``"O012"``), ``"extra:<reason>"``, or `QUOTED`
    run: Run | None  # with seed 0; None where the number is quoted
    method: str
    variant: str = ""  # of methods that have variants
    absent: bool = False
    init: str = ""
    dataset: str
    labels: str
    protocol: str = ""
    metric: str = "mIoU"  # see `agmm.papers.results.read`
    full: Run | None = None  # run that is 100 % of the metric `WVF`, with seed 0
    value: float | None = None
    published: float | None = None  # as printed, in per cent, on the paper's data set
    published_source: str = ""  # table, row, data set and backbone
    note: str = ""  # remark on the row beside its objective, such as where a quoted number comes from

    @property
    def trained_run(self) -> Run:
        """Run of a cell that is known to have one; ValueError where the number is quoted."""
        if self.run is None:
            raise ValueError(f"nothing is trained for the cell {self.row}, {self.column}: its number is quoted")
        return self.run

    @property
    def objective(self) -> str:
        """What is minimized, where rows of the same name differ in it."""
        if self.method != "AGMM" or not self.variant:
            return "with L_absent" if self.absent else ""
        with_, without = (" + L_absent", "") if self.variant != "official" else ("", " without L_absent")
        return VARIANTS[self.variant] + (with_ if self.absent else without)


class Column(NamedTuple):
    """A column as printed, the kind of labels in it, and the fields that single it out in the published file."""

    label: str
    labels: str
    printed: dict[str, str] | None = None  # default: the label is the kind of supervision
    in_paper: bool = True


@dataclass(frozen=True)
class Row:
    """A row to be set in every column; method, options, init and network are those of `Preset.at`."""

    label: str
    ids: tuple[str, ...]  # trainings of the columns, or one for all; cells with an empty id are left out
    _: KW_ONLY
    method: str = "Baseline"
    options: dict[str, Any] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)  # fields of its published line; empty where there is none
    value: float | None = None  # value of the hyperparameter that the table's rows vary
    init: Init | None = None
    network: str = "resnet"
    second_stage: bool = False  # trained on predictions of another run
    refined: bool = False  # tested as the papers test their best numbers: at several scales, with a DenseCRF
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper, named as on the command line and in file names."""

    name: str
    title: str
    paper: str
    notebook: str  # path from the repository's root
    cells: Callable[[Preset], tuple[Cell, ...]]  # cells of a preset, in the order in which the rows are printed
    data: str = "VOC"  # data set of the published numbers in a word, below with split and network
    published_on: str = "PASCAL VOC 2012 val, ResNet-101 with ImageNet weights"


def table(cells: Callable[[Preset], tuple[Cell, ...]], title: str, paper: str, **published: str) -> Table:
    """Return the table of a function of cells, named after the function and the folder of its module."""
    folder, name = cells.__module__.split(".")[-2], cells.__name__
    return Table(f"{folder}_{name}", title, paper, f"notebooks/{folder}/{name}.ipynb", cells, **published)


def figure(name: str, title: str, *rows: tuple[str, Row], paper: str, curves: Sequence[str] | None = None) -> Table:
    """Return the figure with this name (``"agmm_figure2"``) of `figure_cells`, or of their `curve_cells` if given."""

    def cells_of(preset: Preset) -> tuple[Cell, ...]:
        cells = figure_cells(preset, *rows)
        return cells if curves is None else curve_cells(cells, curves)

    return Table(name, title, paper, f"notebooks/{name.replace('_', '/', 1)}.ipynb", cells_of)


def cells(preset: Preset, table: str, rows: Iterable[Row], columns: Sequence[Column]) -> tuple[Cell, ...]:
    """Set rows in columns; a preset leaves out what it lacks: kinds of labels, networks, refined tests, SPML."""
    made = []
    for row in rows:
        ids = row.ids * len(columns) if len(row.ids) == 1 else row.ids
        for column, training_id in zip(columns, ids, strict=True):
            run = _run(row, column.labels, preset) if training_id else None
            if run is None:
                continue
            about = describe(run) | {"note": row.note, "value": row.value}
            if row.printed and column.in_paper:
                about |= published(table, **column.printed or {"supervision": column.label}, **row.printed)
            made.append(Cell(row=row.label, column=column.label, training_id=training_id, run=run, **about))
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


def _run(row: Row, labels: str, preset: Preset) -> Run | None:
    """Return the run of a row; None where the preset lacks the labels, the network, the refined test or SPML."""
    if labels not in preset.labels or row.network not in preset.networks:
        return None
    if row.refined and not preset.networks[row.network].refined:
        return None
    if row.method == "SPML" and preset.embedding is None:
        return None
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
    variant = options.get("variant", "official") + (", all classes" if options.get("self_classes") == "all" else "")
    return {
        "method": run.method,
        "variant": variant if run.method == "AGMM" else "",
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


def published(table: str, **where: str) -> dict[str, Any]:
    """Return a number printed in a paper and its source, as fields of a `Cell`.

    The fields, such as ``row="3", supervision="point"``, single out one line of a file in ``published/``: KeyError if
    they fit none or several.
    """
    fitting = [line for line in lines(table) if where.items() <= line.items()]
    if len(fitting) != 1:
        raise KeyError(f"{table} prints {len(fitting)} numbers for {where}")
    return of_line(fitting[0])


def of_line(line: dict[str, str]) -> dict[str, Any]:
    """Return number and source of a published line, as fields of a `Cell`: table, row, data set and backbone."""
    where = f"{line['paper']} {line['table']}, row {line['row']}"
    source = f"{where} ({line['dataset']} {line['split']}, {line['backbone']})"
    return {"published": float(line["value"]), "published_source": source}


@cache
def lines(name: str) -> tuple[dict[str, str], ...]:
    """Return the lines of a file in ``published/``, given without its ending."""
    text = (files("agmm.papers") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def lines_of_others(table: str, cells: Iterable[Cell]) -> list[dict[str, str]]:
    """Return the lines of a published table that stand beside none of these cells, at this preset at least."""
    shown = {cell.published_source for cell in cells}
    return [line for line in lines(table) if of_line(line)["published_source"] not in shown]


_EXTRAS = {"extra_data": "extra data", "mt": "multi-stage", "crf": "DenseCRF", "ms_test": "several scales"}


def quoted(lines: Iterable[dict[str, str]], column: str = "{supervision}") -> tuple[Cell, ...]:
    """Return cells of published lines that are shown, not trained: without specification, or taken from elsewhere.

    ``column`` is the label of the column with fields of the line.
    """
    made = []
    for line in lines:
        about = [line["backbone"]] + ([line["publication"]] if line.get("publication") else [])
        about += [words for name, words in _EXTRAS.items() if line.get(name) == "true"]
        fields: dict[str, Any] = {name: line[name] for name in ("method", "dataset")} | {"labels": line["supervision"]}
        fields |= {"row": f"{line['method']} ({line['backbone']})", "column": column.format(**line)}
        fields |= {"published": float(line["value"]), "note": f"quoted: {', '.join(about)}"}
        place = f"{line['paper']} {line['table']}, row {line['row']}, quoted there"
        made.append(Cell(training_id=QUOTED, run=None, published_source=place, **fields))
    return tuple(made)

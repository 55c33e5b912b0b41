"""What a claim is: a statement about cells of tables, judged on the numbers of complete runs, paired over seeds."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from agmm import figures
from agmm.data import sets
from agmm.host import atomic_files
from agmm.papers import rules, table
from agmm.papers.results import complete_result, complete_seeds, read
from agmm.papers.rules import Finding, Numbers
from agmm.papers.table import Cell
from agmm.papers.tables import TABLES
from agmm.training.presets import Preset
from agmm.training.result import MEASURED, load_history
from agmm.training.run import Run, build_objective

Columns = Mapping[str, str]  # setting of a claim, as printed -> column of the tables


class Entry(NamedTuple):
    """A row of a table, or the second stage on the predictions of its runs."""

    table: str
    row: str
    second_stage: bool = False


@dataclass(frozen=True)
class Claim:
    """A checkable sentence of a paper, judged where the baseline of its labels and network clearly beats a constant."""

    id: str
    where: str  # table or figure
    sentence: str
    published: str  # the numbers behind it, in the order of the settings
    judge: "Judge"
    labels: str = "points"  # a kind on the data set
    network: str = "resnet"
    fact: bool = False  # true or false whatever the baseline is worth
    agmm: bool = True  # whether AGMM takes part, whose objectives are judged each


@dataclass(frozen=True)
class Evidence:
    """The complete runs of a preset, as they are when they are first asked for."""

    preset: Preset
    results: Path
    objective: str = table.RELEASED  # what AGMM minimizes: one of `agmm.papers.table.OBJECTIVES`
    data_root: Path | None = None  # folder of the data set, to measure trained networks; embedded ones need none

    def cells(self, entries: Iterable[Entry], column: str) -> list[Cell]:
        """Return the cells of some rows in a column; an empty list where the preset lacks one of them."""
        cells = []
        for entry in entries:
            same = [cell for cell in self._table(entry.table) if (cell.row, cell.column) == (entry.row, column)]
            # AGMM as it is judged; of other methods with L_absent and without it the one that goes with it.
            absent = self.objective == table.RELEASED
            fitting = [cell for cell in same if cell.method == "AGMM" and cell.objective == self.objective]
            fitting += sorted((c for c in same if c.method != "AGMM"), key=lambda cell: cell.absent != absent)
            if not fitting:
                return []
            cell = fitting[0]
            cells.append(replace(cell, run=cell.trained_run.second_stage()) if entry.second_stage else cell)
        return cells

    def runs(self, entries: Iterable[Entry], column: str) -> list[Run]:
        """Return the runs of `cells`."""
        return [cell.trained_run for cell in self.cells(entries, column)]

    @cached_property
    def _table(self) -> Callable[[str], list[Cell]]:
        return cache(lambda name: [cell for cell in TABLES[name].cells(self.preset) if cell.run is not None])

    def seeds(self, *runs: Run) -> list[int]:
        """Return the seeds for which all runs are complete."""
        return sorted(frozenset.intersection(*map(self._complete, runs)))

    @cached_property
    def _complete(self) -> Callable[[Run], frozenset[int]]:
        """Complete seeds of a run; looked for once, as many claims share their runs."""
        return cache(lambda run: frozenset(one.seed for one in complete_seeds(run, self.results)))

    def values(self, *cells: Cell) -> Numbers:
        """Return the numbers of cells, (seeds, cells), for the seeds for which all their runs are complete."""
        rows = []
        for seed in self.seeds(*(cell.trained_run for cell in cells)):
            rows.append([read(cell, replace(cell.trained_run, seed=seed), self.results) for cell in cells])
        return np.array(rows, dtype=float).reshape(len(rows), len(cells))

    def lead(self, better: Cell, worse: Cell) -> Numbers:
        """Return the points by which one cell is ahead of another, per seed."""
        values = self.values(better, worse)
        return values[:, 0] - values[:, 1]

    def curves(self, column: str, *runs: Run) -> Numbers:
        """Return a column of the histories of several runs, (seeds, runs, epochs)."""
        rows = []
        for seed in self.seeds(*runs):
            rows.append([load_history(replace(run, seed=seed), self.results)[column].to_list() for run in runs])
        return np.array(rows, dtype=float).reshape(len(rows), len(runs), -1 if rows else 1)

    def measured(
        self, quantity: str, measure: Callable[..., Sequence[Any]], runs: Sequence[Run]
    ) -> tuple[list[list[Any]], str]:
        """Measure a quantity on the networks of some runs, once per seed; a sentence says why there is nothing.

        Numbers are kept in `MEASURED` beside the first run, so that they are there without weights; so is NaN, as null.
        """
        found, seeds = [], self.seeds(*runs)
        for seed in seeds:
            first, *others = own = [replace(run, seed=seed) for run in runs]
            path, key = first.folder(self.results) / MEASURED, " ".join([quantity, *(run.id for run in others)])
            known = _load_measured(path)
            if key not in known and not self._cannot_measure(own):
                values = measure(*(figures.load(run, self.results, self.data_root) for run in own))
                known[key] = [None if np.isnan(one).any() else one for one in values]
                atomic_files.write_json(path, known)
            if key in known:
                found.append([np.nan if one is None else one for one in known[key]])
        why = self._cannot_measure([replace(run, seed=seeds[0]) for run in runs]) if seeds else "no seeds"
        return found, "" if found else why

    def _cannot_measure(self, runs: Sequence[Run]) -> str:
        """Return what networks lack to be measured: weights, of the objectives that learn some, too, or data."""
        files = [run.folder(self.results) / name for run in runs for name in _weights(run)]
        if not all(file.exists() for file in files):
            return "no weights kept"
        missing = runs[0].dataset not in sets.GENERATED and self.data_root is None
        return "weights kept, but no folder of the data set given" if missing else ""

    def too_weak(self, baseline: Run) -> Finding | None:
        """Return the finding of all claims beside a baseline below 1.5 times a constant prediction, else None."""
        for run in complete_seeds(baseline, self.results):
            result = complete_result(run, self.results)
            pixels = np.array(result.confusion).sum(1)
            constant = 100 * pixels.max() / pixels.sum() / (pixels > 0).sum()
            if result.miou < 1.5 * constant:
                note = f"preset too weak: baseline {result.miou:.1f}, constant prediction {constant:.1f}"
                return Finding("inconclusive", note=note)
        return None


def _load_measured(path: Path) -> dict[str, Any]:
    """Return what was measured before; raise ValueError where the file is damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to measure the weights again") from error
    if not isinstance(known, dict):
        raise ValueError(f"{path} is damaged (no dictionary); delete it to measure the weights again")
    return known


def _weights(run: Run) -> tuple[str, ...]:
    """Return the files without which a run's network cannot be measured."""
    learns = run.from_tags or isinstance(build_objective(run.method, 2, **dict(run.options)), nn.Module)
    return ("model.safetensors", "objective.safetensors") if learns else ("model.safetensors",)


# --- Comparisons ------------------------------------------------------------------------------------------------------

Judge = Callable[[Evidence], dict[str, Finding]]
Rule = Callable[[Numbers], Finding]


def better(
    a: Entry,
    b: Entry,
    columns: Columns,
    claimed: Sequence[float] = (),
    *,
    which: str = "",
    least: int = rules.MIN_SEEDS,
    sized: Sequence[str] = (),
) -> Judge:
    """Judge whether row A is better than row B in the columns that the preset has.

    ``claimed`` are the leads that the paper claims, where those are not the differences of its printed cells; ``which``
    names the comparison in claims with several; the size of ``sized`` settings is judged, too, on the papers' data.
    """

    def judge(evidence: Evidence) -> dict[str, Finding]:
        findings: dict[str, Finding] = {}
        for number, (setting, column) in enumerate(columns.items()):
            cells = evidence.cells((a, b), column)
            if not cells:
                continue
            lead, size = evidence.lead(*cells), claimed[number] if claimed else printed_lead(*cells)
            comparable = setting in sized and cells[0].dataset in sets.PAPERS
            finding = rules.size(lead, size) if comparable else rules.direction(lead, size, least=least)
            findings[f"{setting}, {which}" if which else setting] = finding
        return findings

    return judge


def printed_lead(better: Cell, worse: Cell) -> float:
    """Return the points by which one printed number is ahead of another; NaN where one is not printed."""
    if better.published is None or worse.published is None:
        return np.nan
    return round(better.published - worse.published, 1)


def together(*judges: Judge) -> Judge:
    """Join several comparisons that make one claim."""
    return lambda evidence: {name: found for judge in judges for name, found in judge(evidence).items()}


def compare(rows: Sequence[Entry], columns: Columns, rule: Rule) -> Judge:
    """Judge the values of several rows together, (seeds, rows), column by column."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        settings = {setting: evidence.cells(rows, column) for setting, column in columns.items()}
        return {setting: rule(evidence.values(*cells)) for setting, cells in settings.items() if cells}

    return judge


def across(rows: Sequence[Entry], columns: Iterable[str], rule: Rule, setting: str) -> Judge:
    """Judge the values of several rows in several columns together, (seeds, rows, columns), if the preset has all."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        by_column = [evidence.cells(rows, column) for column in columns]
        if not all(by_column):
            return {}
        values = evidence.values(*(cell for row in zip(*by_column, strict=True) for cell in row))
        return {setting: rule(values.reshape(len(values), len(rows), len(by_column)))}

    return judge


def rising(values: Numbers) -> Finding:
    """Judge whether the first row rises from the first to the last column."""
    return rules.trend(values[:, 0])


def gain_shrinks(values: Numbers) -> Finding:
    """Judge whether the lead of the first over the second of two rows falls from the first to the last column."""
    return rules.trend((values[:, 0] - values[:, 1])[:, ::-1])


def helps_first_more(values: Numbers, claimed: float) -> Finding:
    """Judge whether the lead of the first over the second of two rows is larger in the first of two columns."""
    return rules.direction(values[:, 0, 0] - values[:, 1, 0] - values[:, 0, 1] + values[:, 1, 1], claimed)


def claims_of(paper: str, judges: Mapping[str, Judge]) -> tuple[Claim, ...]:
    """Return the claims of a paper, as its ``claims.csv`` lists them.

    A line that names a table compares two of its rows, see `better`; any other is judged by the function of its id:
    KeyError without one. Claims with several comparisons have a line for each, of which the first has the text.
    """
    text = (files("agmm.papers") / paper / "claims.csv").read_text(encoding="utf-8")
    first: dict[str, dict[str, str]] = {}
    claims = []
    for line in csv.DictReader(text.splitlines()):
        head = first.setdefault(line["id"], line)
        fields: dict[str, Any] = {name: head[name] for name in ("id", "where", "sentence", "published")}
        fields |= {"labels": line["labels"] or "points", "network": line["network"] or "resnet"}
        fields |= {name: line[name] == "yes" for name in ("fact", "agmm")}
        claims.append(Claim(judge=_comparison(line) if line["table"] else judges[line["id"]], **fields))
    return tuple(claims)


def _comparison(line: dict[str, str]) -> Judge:
    settings = [part.partition(": ") for part in line["settings"].split("; ")]
    columns = {setting: column or setting for setting, _, column in settings}
    a, b = Entry(line["table"], line["a"]), Entry(line["table"], line["b"])
    claimed = [float(number) for number in line["claimed"].split("; ")] if line["claimed"] else ()
    least, sized = int(line["least"] or rules.MIN_SEEDS), line["sized"].split("; ")
    return better(a, b, columns, claimed, which=line["which"], least=least, sized=sized)


def of_networks(
    evidence: Evidence,
    quantity: str,
    runs: Sequence[Run],
    measure: Callable[..., Sequence[Any]],
    judged: Mapping[str, Rule],
) -> dict[str, Finding]:
    """Judge what is measured on the networks of some runs, once per seed: by a rule for each number, or row of numbers.

    What is NaN is left out, as there was nothing to measure. Where there are no networks a note says why.
    """
    measured, why = evidence.measured(quantity, measure, runs)
    findings = {}
    for place, (setting, rule) in enumerate(judged.items()):
        finding = rule(np.array([one[place] for one in measured if not np.isnan(one[place]).any()], dtype=float))
        findings[setting] = replace(finding, note=why or finding.note)
    return findings

"""All tables and figures: which runs they need, and how the results are set beside the published numbers."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from agmm.data import sets
from agmm.host import atomic_files
from agmm.papers import photographs
from agmm.papers.agmm import tables as agmm
from agmm.papers.agmmpp import tables as agmmpp

# Notebooks find areas, curves, gains and sweep_values here.
from agmm.papers.results import (  # noqa: F401
    KEY,
    RESULTS,
    areas,
    collect,
    complete_result,
    complete_seeds,
    curves,
    gains,
    sweep_values,
)
from agmm.papers.spml import tables as spml
from agmm.papers.table import QUOTED, SINGLE_SCALE, TRAINING, Cell, Table
from agmm.training import presets, sweep
from agmm.training.presets import Preset
from agmm.training.run import STARTS, Run
from agmm.training.train import step_memory
from agmm.training.where import at, label_sources

_PAPERS = {
    "agmm": (*agmm.TABLES, *agmm.FIGURES),
    "agmmpp": (*agmmpp.TABLES, *agmmpp.FIGURES),
    "spml": (*spml.TABLES, *spml.FIGURES),
    "photographs": photographs.TABLES,
}
TABLES: dict[str, Table] = {table.name: table for tables in _PAPERS.values() for table in tables}
GROUPS: dict[str, tuple[str, ...]] = {paper: tuple(table.name for table in tables) for paper, tables in _PAPERS.items()}


def select(names: Iterable[str]) -> list[str]:
    """Return names of tables from names of tables and groups; ValueError with close matches for unknown ones."""
    chosen: dict[str, None] = {}
    for name in names:
        _known("table", name, (*TABLES, *GROUPS))
        chosen |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(chosen)


def preset(name: str) -> Preset:
    """Return a preset by name, changed where words follow it; ValueError with close matches for an unknown one."""
    _known("preset", name.partition("+")[0], tuple(presets.PRESETS))
    return presets.named(name)


def _trained_cells(names: Iterable[str], preset: str) -> Iterator[tuple[Cell, Run]]:
    """Yield the cells of some tables that have a run, with it."""
    for name in names:
        for cell in TABLES[name].cells(presets.named(preset)):
            if cell.run is not None:
                yield cell, cell.run


def needed(names: Iterable[str], preset: str, seeds: int) -> list[Run]:
    """Return the distinct runs of some tables for the seeds 0 … ``seeds`` - 1, what others start from first."""
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; it must be a whole number from 1 (papermill: -p seeds 3; -r gives text)")
    runs = [run for cell, own in _trained_cells(names, preset) for run in (own, cell.full) if run is not None]
    return sweep.distinct([replace(run, seed=seed) for run in runs for seed in range(seeds)])


def runs(name: str, preset: str) -> dict[str, Run]:
    """Return the runs behind a figure, with seed 0, by row."""
    return {cell.row: run for cell, run in _trained_cells([name], preset)}


def panels(name: str, preset: str) -> dict[str, dict[str, Run]]:
    """Return the runs behind a figure whose columns are panels, with seed 0, by column and row."""
    columns: dict[str, dict[str, Run]] = {}
    for cell, run in _trained_cells([name], preset):
        columns.setdefault(cell.column, {})[cell.row] = run
    return columns


def trainings(names: Iterable[str], preset: str) -> dict[str, str]:
    """Return which training of the papers (``"O012"``) or extra every run with seed 0 is, by the run's identity."""
    # What is an extra of one table may be a training of another.
    cells = sorted(_trained_cells(names, preset), key=lambda pair: not pair[0].training_id.startswith("extra:"))
    return {run.id: cell.training_id for cell, run in cells}


def published(names: Iterable[str], preset: str) -> dict[str, str]:
    """Return the printed mIoU of every run with seed 0, by its identity; joined by "or" where places conflict."""
    printed: dict[str, dict[str, None]] = {}
    for cell, run in _trained_cells(names, preset):
        if cell.published is not None and cell.metric in ("mIoU", SINGLE_SCALE):
            printed.setdefault(run.id, {})[f"{cell.published:.1f}"] = None
    return {run: " or ".join(values) for run, values in printed.items()}


def costs(name: str, preset: str) -> pd.DataFrame:
    """Return what the trainings of a table cost by forecast: hours, and the memory of a step without its losses."""
    known, rows = trainings([name], preset), []
    for run in needed([name], preset, 1):
        images, memory = step_memory(run, len(sets.class_names(run.dataset)))
        row = {"training": known.get(run.id, ""), "run": sweep.describe(run), "hours": sweep.estimate(run, {}) / 3600}
        rows.append(row | {"images at once": images, "GiB": memory / 2**30})
    return pd.DataFrame(rows).round(1)


def train(
    name: str,
    preset: str,
    seeds: int,
    results: str | Path = "results",
    data_root: str | Path | None = None,
    *,
    device: str = "auto",
    jobs: int | None = None,
    engine: str | Executor = "local",
    report: Callable[[str], object] = print,
) -> None:
    """Train what a table still lacks, if the preset has runs of it; raise RuntimeError at the end if a run failed."""
    wanted = needed([name], preset, seeds)
    if not wanted:
        report(nothing_to_train(preset))
        return
    where = at(results, data_root, device)
    for line in label_sources(sweep.missing(wanted, results), where):
        report(line)
    failed = sweep.train_all(wanted, where, jobs=jobs, engine=engine, report=report)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(wanted)} runs failed: {'; '.join(failed.values())}")
    report(f"all {len(wanted)} runs of {name} are complete")


def _known(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    close = get_close_matches(name, known, 3, 0.5)
    remedy = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    raise ValueError(f"unknown {kind} {name!r}; {remedy}")


# --- As printed -------------------------------------------------------------------------------------------------------

REFERENCE = RESULTS / "reference"  # committed results; the column is left out where there are none


def write(table: Table, preset: str, results: str | Path = "results") -> tuple[Path, Path]:
    """Write ``<results>/<preset>/tables/<name>.csv`` and ``.md`` and return both paths."""
    folder = Path(results) / preset / "tables"
    frame = collect(table, preset, results)
    with atomic_files.writable(folder):
        atomic_files.write_text(folder / f"{table.name}.csv", frame.to_csv(index=False))
        atomic_files.write_text(folder / f"{table.name}.md", markdown(table, preset, results, frame) + "\n")
    return folder / f"{table.name}.csv", folder / f"{table.name}.md"


def nothing_to_train(preset: str) -> str:
    """Return the sentence for a table without a single run of ours."""
    return f"Nothing of this table can be trained at the preset `{preset}`, which lacks its labels, data or networks."


def markdown(table: Table, preset: str, results: str | Path = "results", frame: pd.DataFrame | None = None) -> str:
    """Return a table as the paper prints it: ours beside the published and the committed numbers, with footnotes."""
    frame = collect(table, preset, results) if frame is None else frame
    cells = table.cells(presets.named(preset))
    reference = {} if Path(results).resolve() == REFERENCE else _reference(table, preset)
    printed_on = f"published ({table.data})"
    # Kinds of numbers -> columns of the table that have them.
    kinds: dict[str, set[str]] = {}
    if frame["published"].notna().any():
        kinds[printed_on] = set(frame.loc[frame["published"].notna(), "column"])
    kinds |= dict.fromkeys(["ours", *(["reference"] if reference else [])], {c.column for c in cells if c.run})
    columns = dict.fromkeys(cell.column for cell in cells)
    heads = [f"{column}, {kind}" for column in columns for kind, having in kinds.items() if column in having]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell, (_, line) in zip(cells, frame.iterrows(), strict=True):
        numbers = {
            printed_on: _number(line["published"]),
            "ours": _number(line["ours_mean"], line["ours_std"], line["n_seeds"]),
            "reference": reference.get(_key(line), ""),
        }
        row = rows.setdefault((cell.row, about(cell, preset, cell.note)), {})
        row.update({f"{cell.column}, {kind}": numbers[kind] for kind in kinds})
    lines = [f"# {table.paper}, {table.title} (preset `{preset}`)", ""]
    if rows:
        printed = [{"row": label, "objective": words, **numbers} for (label, words), numbers in rows.items()]
        lines += [*as_lines(pd.DataFrame(printed, columns=["row", "objective", *heads]).fillna("")), ""]
    return "\n".join([*lines, *(f"- {note}" for note in _footnotes(table, frame, preset, results))])


def about(cell: Cell, preset: str, note: str) -> str:
    """Return the words beside a row's name: objective, start where that is not the usual one, note."""
    start = STARTS[cell.init] if cell.init not in ("", presets.named(preset).inits[0]) else ""
    return ", ".join(part for part in (cell.objective, start, note) if part)


def _footnotes(table: Table, frame: pd.DataFrame, preset: str, results: str | Path) -> list[str]:
    cells = [cell for cell in table.cells(presets.named(preset)) if cell.training_id != QUOTED]
    datasets = {cell.column: cell.dataset for cell in cells}
    elsewhere = any(dataset not in sets.PAPERS for dataset in datasets.values())
    other = " Another data set and network than ours: for orientation, not for subtraction." if elsewhere else ""
    published = [f"Published: {table.published_on}.{other}"] if frame["published"].notna().any() else []
    if not cells:
        return [nothing_to_train(preset), *published]
    details = _details(cells, results)
    seeds = sorted({int(seed) for text in frame["seeds"] for seed in str(text).split()})
    notes = [
        *_measured(cells, details),
        f"Mean ± standard deviation over seeds (number of seeds); seeds found: {', '.join(map(str, seeds)) or 'none'}. "
        "A seed changes labels, head initialization and order; data and pretraining are fixed. Blank: not trained.",
        *published,
    ]
    if any(dataset in sets.GENERATED for dataset in datasets.values()):
        notes.append(
            "Embedded data: a demonstration, not evidence for the papers; the setting was chosen because the effects "
            "show." + (" `smoke` tests the plumbing and promises nothing about accuracy." if preset == "smoke" else "")
        )
    if "+" in preset:
        notes.append(f"All runs are changed alike: {', '.join(preset.split('+')[1:])}.")
    if normalized := {one["normalized_images"]: None for one in details.values() if "normalized_images" in one}:
        notes.append(f"Batch normalization extends over {' or '.join(map(str, normalized))} images.")
    if sources := _label_sources(cells, results):
        notes.append(f"Labels: {'; '.join(sources)}.")
    if covered := _coverage(cells, results):
        notes.append(f"Label coverage, the share of an image's classes that its labels name: {covered}.")
    return notes


def _coverage(cells: list[Cell], results: str | Path) -> str:
    """Return the coverage of each column, or of the rows of a single one whose labels differ."""
    shares: dict[str, dict[str, str]] = {}
    for cell in cells:
        if cell.dataset != "shapes" and (runs := complete_seeds(cell.trained_run, results)):
            share = complete_result(runs[0], results).details["coverage"]
            shares.setdefault(cell.column, {})[cell.row] = f"{100 * share:.1f} %"
    if len(shares) == 1 and len(set((rows := next(iter(shares.values()))).values())) > 1:
        return ", ".join(f"{row} {share}" for row, share in rows.items())
    return ", ".join(f"{column} {next(iter(rows.values()))}" for column, rows in shares.items())


def _measured(cells: list[Cell], details: dict[str, dict[str, Any]]) -> list[str]:
    """Return what was measured, on which data and how: a note for each group of columns that differ in it."""
    groups: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for cell in cells:
        metric = "mean IoU on training images" if cell.metric.startswith(TRAINING) else "IoU on the test split"
        columns, protocols = groups.setdefault((metric, cell.dataset), ({}, {}))
        columns[cell.column] = protocols[cell.protocol] = None
    notes = []
    for (metric, dataset), (columns, protocols) in groups.items():
        detail = next((details[column] for column in columns if column in details), None)
        sizes = _sizes(dataset, detail) if detail else ""
        whose = f"Ours, {', '.join(columns)}" if len(groups) > 1 else "Ours"
        notes.append(f"{whose}: {metric} in per cent, data set `{dataset}`{sizes}; {'; '.join(protocols)}.")
    return notes


def _sizes(dataset: str, detail: dict[str, Any]) -> str:
    """Return the numbers of images behind a result, with the published ones where a folder holds only part of them."""
    words = []
    for split, key, name in (("train", "train_images", "training"), ("val", "test_images", "test")):
        whole = sets.PUBLIC[dataset].counts[split] if dataset in sets.PUBLIC else detail[key]
        words.append(f"{detail[key]} {f'of {whole} ' if whole != detail[key] else ''}{name}")
    return f", {' and '.join(words)} images"


def _details(cells: list[Cell], results: str | Path) -> dict[str, dict[str, Any]]:
    """Return the details of one complete run of every column that has one."""
    details: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.column not in details and (runs := complete_seeds(cell.trained_run, results)):
            details[cell.column] = complete_result(runs[0], results).details
    return details


def _label_sources(cells: list[Cell], results: str | Path) -> list[str]:
    """Return where the labels come from, over all rows and seeds, with the columns where those differ."""
    columns: dict[str, dict[str, None]] = {}
    for cell in cells:
        for run in complete_seeds(cell.trained_run, results):
            details = complete_result(run, results).details
            if "label_source" in details:
                columns.setdefault(details["label_source"], {})[cell.column] = None
    return [f"{', '.join(names)} {source}" if len(columns) > 1 else source for source, names in columns.items()]


def _reference(table: Table, preset: str) -> dict[tuple[str, ...], str]:
    path = REFERENCE / preset / "tables" / f"{table.name}.csv"
    if not path.exists():
        return {}
    frame = pd.read_csv(path, keep_default_na=False, na_values={"ours_mean": "", "ours_std": ""})
    return {_key(line): _number(line["ours_mean"], line["ours_std"], line["n_seeds"]) for _, line in frame.iterrows()}


def _key(line: "pd.Series[Any]") -> tuple[str, ...]:
    return tuple(str(line[name]) for name in KEY)


def _number(mean: float, std: float = math.nan, count: int = 0) -> str:
    if math.isnan(mean):
        return ""
    spread = "" if math.isnan(std) else f" ± {std:.1f}"
    return f"{mean:.1f}{spread}" + (f" ({count})" if count else "")


def as_lines(frame: pd.DataFrame) -> list[str]:
    """Return a frame as lines of Markdown."""
    head = list(frame.columns)
    body = frame.astype(str).to_numpy().tolist()
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]

"""All tables and figures: which runs they need, and how the results are set beside the published numbers."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from agmm.papers.agmm import tables as agmm
from agmm.papers.agmmpp import tables as agmmpp
from agmm.papers.printed import markdown, nothing_to_train, write
from agmm.papers.results import RESULTS, collect, complete_seeds, curves, gains, sweep_values
from agmm.papers.spml import tables as spml
from agmm.papers.table import SINGLE_SCALE, Cell, Table
from agmm.training import sweep
from agmm.training.presets import PRESETS, Preset
from agmm.training.run import Run
from agmm.training.where import at

__all__ = [
    "GROUPS",
    "RESULTS",
    "TABLES",
    "Cell",
    "Table",
    "collect",
    "complete_seeds",
    "curves",
    "gains",
    "markdown",
    "needed",
    "panels",
    "preset",
    "published",
    "runs",
    "select",
    "sweep_values",
    "train",
    "trainings",
    "write",
]

_PAPERS = {
    "agmm": (*agmm.TABLES, *agmm.FIGURES),
    "agmmpp": (*agmmpp.TABLES, *agmmpp.FIGURES),
    "spml": (*spml.TABLES, *spml.FIGURES),
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
    """Return a preset by name; ValueError with close matches for an unknown one."""
    _known("preset", name, tuple(PRESETS))
    return PRESETS[name]


def _trained_cells(names: Iterable[str], preset: str) -> Iterator[tuple[Cell, Run]]:
    """Yield the cells of some tables that have a run, with it."""
    for name in names:
        for cell in TABLES[name].cells(PRESETS[preset]):
            if cell.run is not None:
                yield cell, cell.run


def needed(names: Iterable[str], preset: str, seeds: int) -> list[Run]:
    """Return the distinct runs of some tables for the seeds 0 … ``seeds`` - 1, what others start from first."""
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
    cells = list(_trained_cells(names, preset))
    # What is an extra of one table may be a training of another.
    cells.sort(key=lambda pair: not pair[0].training_id.startswith("extra:"))
    return {run.id: cell.training_id for cell, run in cells}


def published(names: Iterable[str], preset: str) -> dict[str, str]:
    """Return the mIoU that the paper prints for every run with seed 0, by the run's identity.

    Several joined by "or" where the paper's places conflict.
    """
    printed: dict[str, dict[str, None]] = {}
    for cell, run in _trained_cells(names, preset):
        if cell.published is not None and cell.metric in ("mIoU", SINGLE_SCALE):
            printed.setdefault(run.id, {})[f"{cell.published:.1f}"] = None
    return {run: " or ".join(values) for run, values in printed.items()}


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
    """Train what a table still lacks; nothing where all its runs are complete, or where the preset has none of them.

    Other arguments are those of `agmm.training.sweep.train_all`.

    Raises
    ------
    RuntimeError
        If a run failed, after all others have been trained.
    """
    wanted = needed([name], preset, seeds)
    if not wanted:
        report(nothing_to_train(preset))
        return
    failed = sweep.train_all(
        wanted,
        at(results, data_root, device),
        jobs=jobs,
        engine=engine,
        report=report,
    )
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(wanted)} runs failed: {'; '.join(failed.values())}")
    report(f"all {len(wanted)} runs of {name} are complete")


def _known(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    close = get_close_matches(name, known, 3, 0.5)
    remedy = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    raise ValueError(f"unknown {kind} {name!r}; {remedy}")

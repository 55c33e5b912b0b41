"""Rows of every table and figure: which runs they need, and how the results are set beside the published numbers."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from agmm.papers.agmm import figures as agmm_figures
from agmm.papers.agmm import tables as agmm
from agmm.papers.agmm import tables_cityscapes, tables_voc
from agmm.papers.agmmpp import figures as agmmpp_figures
from agmm.papers.agmmpp import tables as agmmpp
from agmm.papers.printed import markdown, nothing_to_train, write
from agmm.papers.results import RESULTS, collect, complete_seeds, curves, gains, sweep_values
from agmm.papers.spml import figures as spml_figures
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

_AGMM = agmm.TABLES | tables_voc.TABLES | tables_cityscapes.TABLES | agmm_figures.TABLES
_AGMMPP = agmmpp.TABLES | agmmpp_figures.TABLES
_SPML = spml.TABLES | spml_figures.TABLES
TABLES: dict[str, Table] = _AGMM | _AGMMPP | _SPML
GROUPS: dict[str, tuple[str, ...]] = {"agmm": tuple(_AGMM), "agmmpp": tuple(_AGMMPP), "spml": tuple(_SPML)}


def select(names: Iterable[str]) -> list[str]:
    """Names of tables from names of tables and groups; ValueError with close matches for unknown ones."""
    chosen: dict[str, None] = {}
    for name in names:
        _known("table", name, (*TABLES, *GROUPS))
        chosen |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(chosen)


def preset(name: str) -> Preset:
    """Preset by name; ValueError with close matches for an unknown one."""
    _known("preset", name, tuple(PRESETS))
    return PRESETS[name]


def needed(names: Iterable[str], preset: str, seeds: int) -> list[Run]:
    """Distinct runs of some tables for the seeds 0 … ``seeds`` - 1, what others start from first."""
    found = [
        replace(run, seed=seed)
        for name in names
        for cell in TABLES[name].cells(PRESETS[preset])
        for run in (cell.run, cell.full)
        if run is not None
        for seed in range(seeds)
    ]
    return sweep.distinct(found)


def runs(name: str, preset: str) -> dict[str, Run]:
    """The runs behind a figure, with seed 0, by row."""
    return {cell.row: cell.run for cell in TABLES[name].cells(PRESETS[preset]) if cell.run is not None}


def panels(name: str, preset: str) -> dict[str, dict[str, Run]]:
    """The runs behind a figure whose columns are panels, with seed 0, by column and row."""
    found: dict[str, dict[str, Run]] = {}
    for cell in TABLES[name].cells(PRESETS[preset]):
        if cell.run is not None:
            found.setdefault(cell.column, {})[cell.row] = cell.run
    return found


def trainings(names: Iterable[str], preset: str) -> dict[str, str]:
    """Which training of the papers (``"O012"``) or extra every run with seed 0 is, by the run's identity."""
    cells = [cell for name in names for cell in TABLES[name].cells(PRESETS[preset]) if cell.run is not None]
    # What is an extra of one table may be a training of another.
    cells.sort(key=lambda cell: not cell.training_id.startswith("extra:"))
    return {cell.run.id: cell.training_id for cell in cells if cell.run is not None}


def published(names: Iterable[str], preset: str) -> dict[str, str]:
    """The mIoU that the paper prints for every run with seed 0, by the run's identity; several where they conflict."""
    found: dict[str, dict[str, None]] = {}
    for cell in (cell for name in names for cell in TABLES[name].cells(PRESETS[preset])):
        if cell.run is not None and cell.published is not None and cell.metric in ("mIoU", SINGLE_SCALE):
            found.setdefault(cell.run.id, {})[f"{cell.published:.1f}"] = None
    return {run: " or ".join(values) for run, values in found.items()}


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

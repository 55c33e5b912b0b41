"""From complete runs to a table: the long form, and the form that the paper prints."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pandas as pd

from agmm.data import sets
from agmm.papers.table import CLASS_IOU, SINGLE_SCALE, WVF, Cell, Table
from agmm.training.presets import PRESETS
from agmm.training.run import Run, load_history, load_result

SEEDS = range(32)
"""Seeds that are looked for; every complete one counts."""

_CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "results"
"""The checkout's results folder, from wherever a notebook is executed; below the current folder without a checkout."""

KEY = ["row", "column", "method", "variant", "absent", "init", "dataset", "labels", "protocol", "metric"]
COLUMNS = [
    "table",
    *KEY,
    "n_seeds",
    "seeds",
    "ours_mean",
    "ours_std",
    "published",
    "published_source",
    "run_ids",
]
CURVES = {"p_miou": "P", "p_restricted_miou": "P among labeled classes", "g_miou": "G", "cam_miou": "CAM"}
"""Column of a run's history -> curve."""


def _miou(run: Run, results: Path) -> float:
    result = load_result(run, results)
    assert result is not None
    return result.miou


def _single_scale(run: Run, results: Path) -> float:
    if run.scales == (1.0,) and not run.flip:
        return _miou(run, results)
    result = load_result(run, results)
    assert result is not None
    return float(result.details.get("single_scale_miou", math.nan))


def _curve(column: str, epoch: int) -> Callable[[Run, Path], float]:
    return lambda run, results: float(load_history(run, results)[column].iloc[epoch])


def _lead(epoch: int) -> Callable[[Run, Path], float]:
    return lambda run, results: _curve("g_miou", epoch)(run, results) - _curve("p_miou", epoch)(run, results)


METRICS: dict[str, Callable[[Run, Path], float]] = {
    "mIoU": _miou,
    SINGLE_SCALE: _single_scale,
    WVF: _miou,
    "training mIoU: P": _curve("p_miou", -1),
    "training mIoU: P among labeled classes": _curve("p_restricted_miou", -1),
    "training mIoU: G": _curve("g_miou", -1),
    "training mIoU: CAM": _curve("cam_miou", -1),
    "training mIoU: G - P, first epoch": _lead(0),
    "training mIoU: G - P, last epoch": _lead(-1),
}
"""Metric -> how it is read from a complete run, in per cent; of a share (`WVF`), its numerator."""


def read(metric: str) -> Callable[[Run, Path], float]:
    """How a metric is read from a complete run: one of `METRICS`, or ``"IoU: <class>"`` in per cent."""
    if not metric.startswith(CLASS_IOU):
        return METRICS[metric]

    def class_iou(run: Run, results: Path) -> float:
        result = load_result(run, results)
        assert result is not None
        iou = result.iou[sets.class_names(run.dataset).index(metric.removeprefix(CLASS_IOU))]
        return math.nan if iou is None else iou

    return class_iou


def complete_seeds(run: Run, results: str | Path) -> list[Run]:
    """The run's complete repetitions over seeds."""
    if not run.folder(results).parent.is_dir():
        return []
    return [one for one in _repeated(run) if (one.folder(results) / "result.json").exists()]


@cache
def _repeated(run: Run) -> tuple[Run, ...]:
    """Kept, as a table asks for them several times and each has its identity computed once."""
    return tuple(replace(run, seed=seed) for seed in SEEDS)


def collect(table: Table, preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Long form of a table.

    Parameters
    ----------
    table : Table
    preset : str
    results : path

    Returns
    -------
    DataFrame
        A row per cell with `COLUMNS`; our numbers are missing, never invented, where no seed is complete. The standard
        deviation is the sample's (n - 1), missing for one seed.
    """
    rows = []
    for cell in table.cells(PRESETS[preset]):
        runs = _measured(cell, results)
        values = pd.Series([_value(cell, run, Path(results)) for run in runs], dtype=float)
        fields = asdict(replace(cell, run=None, full=None))
        rows.append(
            {name: fields[name] for name in (*KEY, "published", "published_source")}
            | {
                "table": table.name,
                "n_seeds": len(runs),
                "seeds": " ".join(str(run.seed) for run in runs),
                "ours_mean": values.mean(),
                "ours_std": values.std(ddof=1),
                "run_ids": " ".join(run.id for run in runs),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"published": float})


def _measured(cell: Cell, results: str | Path) -> list[Run]:
    """Complete repetitions of a cell's run; of a share, those whose full supervision is complete, too."""
    runs = complete_seeds(cell.run, results) if cell.run else []
    if cell.full is None:
        return runs
    seeds = {run.seed for run in complete_seeds(cell.full, results)}
    return [run for run in runs if run.seed in seeds]


def _value(cell: Cell, run: Run, results: Path) -> float:
    if cell.full is None:
        return read(cell.metric)(run, results)
    return 100 * _miou(run, results) / _miou(replace(cell.full, seed=run.seed), results)


def curves(table: Table, preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Training curves of a table's runs.

    Returns
    -------
    DataFrame
        Columns row, curve (values of `CURVES`), epoch, n_seeds, mean, std; mIoU on training images in per cent.
    """
    runs = {cell.row: cell.run for cell in table.cells(PRESETS[preset]) if cell.run}
    parts = [
        load_history(seed, results)
        .reindex(columns=["epoch", *CURVES])
        .melt("epoch", var_name="curve")
        .assign(row=row, seed=seed.seed)
        for row, run in runs.items()
        for seed in complete_seeds(run, results)
    ]
    if not parts:
        return pd.DataFrame(columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    values = pd.concat(parts).dropna(subset="value").replace({"curve": CURVES})
    groups = values.groupby(["row", "curve", "epoch"], sort=False)["value"]
    return groups.agg(n_seeds="size", mean="mean", std="std").reset_index()


def sweep_values(table: Table, preset: str, results: str | Path, symbol: str) -> pd.DataFrame:
    """A table over one hyperparameter, whose rows are named ``<symbol> = <value>``.

    Returns
    -------
    DataFrame
        Columns column, objective, row, value (missing for rows with another name, such as an estimated one), n_seeds,
        mean, std, published; mIoU in per cent.
    """
    cells = table.cells(PRESETS[preset])
    frame = collect(table, preset, results).rename(columns={"ours_mean": "mean", "ours_std": "std"})
    frame["objective"] = [cell.objective for cell in cells]
    frame["value"] = pd.to_numeric(frame["row"].str.removeprefix(f"{symbol} = "), errors="coerce")
    return frame[["column", "objective", "row", "value", "n_seeds", "mean", "std", "published"]]


def gains(table: Table, preset: str, results: str | Path, baseline: str) -> pd.DataFrame:
    """Points of mIoU above the row ``baseline`` of the same column and initialization, paired over seeds.

    Returns
    -------
    DataFrame
        Columns column, init, row, objective, seed, gain.
    """
    cells = [cell for cell in table.cells(PRESETS[preset]) if cell.run is not None]
    start = {(cell.column, cell.init): cell.run for cell in cells if cell.row == baseline}
    rows = []
    for cell in cells:
        base = start[cell.column, cell.init]
        assert cell.run is not None
        assert base is not None
        seeds = {run.seed for run in complete_seeds(base, results)}
        for run in complete_seeds(cell.run, results) if cell.run != base else []:
            if run.seed in seeds:
                gain = _miou(run, Path(results)) - _miou(replace(base, seed=run.seed), Path(results))
                rows.append([cell.column, cell.init, cell.row, cell.objective, run.seed, gain])
    return pd.DataFrame(rows, columns=["column", "init", "row", "objective", "seed", "gain"])

"""From complete runs to a table: the long form, and the form that the paper prints."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from agmm.data import sets
from agmm.papers.table import CLASS_IOU, SINGLE_SCALE, TRAINING, Cell, Table
from agmm.training import presets
from agmm.training.result import Result, load_history, load_result
from agmm.training.run import Run

SEEDS = range(32)  # seeds that are looked for; every complete one counts

_CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "results"
"""The checkout's results folder, from wherever a notebook is executed; below the current folder without a checkout."""

KEY = ["row", "column", "method", "variant", "absent", "init", "dataset", "labels", "protocol", "metric"]
COLUMNS = ["table", *KEY, "n_seeds", "seeds", "ours_mean", "ours_std", "published", "published_source", "run_ids"]
"""Columns of a table's long form; those of `KEY` describe the cell."""

CURVES = {"p_miou": "P", "p_restricted_miou": "P among labeled classes", "g_miou": "G", "cam_miou": "CAM"}
CURVES |= {"g_labels_miou": "G of the labels' means", "g_pooled_miou": "G, its means with one spread"}
"""Column of a run's history -> curve."""


def complete_result(run: Run, results: str | Path) -> Result:
    """Return the result of a complete run; FileNotFoundError if it is not complete."""
    result = load_result(run, results)
    if result is None:
        raise FileNotFoundError(f"the run {run.id} is not complete in {results}; train it first")
    return result


def read(cell: Cell, run: Run, results: str | Path) -> float:
    """Return the number of a cell from one of its complete runs, in per cent.

    The cell's metric is one of ``"mIoU"``, `SINGLE_SCALE`, `agmm.papers.table.WVF`, ``"IoU: <class>"``, and
    ``"training mIoU: <curve>"`` with a curve of `CURVES` in its last epoch or ``"G - P, first epoch"`` and the like.
    NaN where the run has no such number, such as the IoU of a class that is nowhere; ValueError for other metrics.
    """
    if cell.metric.startswith(TRAINING):
        return _curve_value(cell.metric.removeprefix(TRAINING), load_history(run, results))
    result = complete_result(run, results)
    if cell.metric.startswith(CLASS_IOU):
        iou = result.iou[sets.class_names(run.dataset).index(cell.metric.removeprefix(CLASS_IOU))]
        return math.nan if iou is None else iou
    if cell.full is not None:
        return 100 * result.miou / complete_result(replace(cell.full, seed=run.seed), results).miou
    if cell.metric == SINGLE_SCALE and (run.scales != (1.0,) or run.flip):
        return float(result.details.get("single_scale_miou", math.nan))
    if cell.metric not in ("mIoU", SINGLE_SCALE):
        raise ValueError(f"there is no metric {cell.metric!r} of the cell {cell.row}, {cell.column}")
    return result.miou


def _curve_value(name: str, history: pd.DataFrame) -> float:
    columns = {curve: column for column, curve in CURVES.items()}
    if name in columns:
        return float(history[columns[name]].iloc[-1])
    difference, epoch = name.split(", ")
    above, below = difference.split(" - ")
    at = {"first epoch": 0, "last epoch": -1}[epoch]
    return float(history[columns[above]].iloc[at]) - float(history[columns[below]].iloc[at])


def complete_seeds(run: Run, results: str | Path) -> list[Run]:
    """Return the run's complete repetitions over seeds."""
    if not run.folder(results).parent.is_dir():
        return []
    return [one for one in _repeated(run) if (one.folder(results) / "result.json").exists()]


@cache
def _repeated(run: Run) -> tuple[Run, ...]:
    """Return the run with every seed; cached, as a run computes its identity once and many cells share it."""
    return tuple(replace(run, seed=seed) for seed in SEEDS)


def complete_runs(cell: Cell, results: str | Path) -> list[Run]:
    """Return the complete repetitions of a cell's run; of a share, those whose full supervision is complete, too."""
    runs = complete_seeds(cell.run, results) if cell.run else []
    if cell.full is None:
        return runs
    seeds = {run.seed for run in complete_seeds(cell.full, results)}
    return [run for run in runs if run.seed in seeds]


def collect(table: Table, preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Return the long form of a table, a row per cell with `COLUMNS`.

    Our numbers are missing, never invented, where no seed is complete. The standard deviation is the sample's (n - 1),
    missing for one seed.
    """
    rows = []
    for cell in table.cells(presets.named(preset)):
        runs = complete_runs(cell, results)
        values = pd.Series([read(cell, run, results) for run in runs], dtype=float)
        row = {name: getattr(cell, name) for name in (*KEY, "published", "published_source")}
        row |= {"table": table.name, "n_seeds": len(runs), "ours_mean": values.mean(), "ours_std": values.std(ddof=1)}
        row |= {"seeds": " ".join(str(run.seed) for run in runs), "run_ids": " ".join(run.id for run in runs)}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"published": float})


def curves(table: Table, preset: str, results: str | Path = "results", of: str = "") -> pd.DataFrame:
    """Return the training curves of a table's runs: mIoU on training images in per cent.

    Columns are row, curve (values of `CURVES`), epoch, n_seeds, mean, std. If ``of`` names a row, the curves are those
    of its columns, whose names stand in their place.
    """
    cells = [(cell, cell.run) for cell in table.cells(presets.named(preset)) if cell.run and of in ("", cell.row)]
    parts = []
    for row, run in {cell.column if of else cell.row: run for cell, run in cells}.items():
        for one in complete_seeds(run, results):
            history = load_history(one, results).reindex(columns=["epoch", *CURVES])
            parts.append(history.melt("epoch", var_name="curve").assign(row=row, seed=one.seed))
    if not parts:
        return pd.DataFrame(columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    values = pd.concat(parts).dropna(subset="value").replace({"curve": CURVES})
    groups = values.groupby(["row", "curve", "epoch"], sort=False)["value"]
    return groups.agg(n_seeds="size", mean="mean", std="std").reset_index()


def sweep_values(table: Table, preset: str, results: str | Path) -> pd.DataFrame:
    """Return a table over one hyperparameter, mIoU in per cent.

    Columns are column, objective, row, value (missing where it is estimated), n_seeds, mean, std, published.
    """
    cells = table.cells(presets.named(preset))
    frame = collect(table, preset, results).rename(columns={"ours_mean": "mean", "ours_std": "std"})
    frame["objective"] = [cell.objective for cell in cells]
    frame["value"] = pd.Series([cell.value for cell in cells], dtype=float)
    return frame[["column", "objective", "row", "value", "n_seeds", "mean", "std", "published"]]


def gains(table: Table, preset: str, results: str | Path, baseline: str) -> pd.DataFrame:
    """Return the points of mIoU above the row ``baseline`` of the same column and initialization, paired over seeds.

    Columns are column, init, row, objective, seed, gain.
    """
    cells = [(cell, cell.run) for cell in table.cells(presets.named(preset)) if cell.run is not None]
    start = {(cell.column, cell.init): run for cell, run in cells if cell.row == baseline}
    rows = []
    for cell, run in cells:
        base = start[cell.column, cell.init]
        others = {one.seed: complete_result(one, results).miou for one in complete_seeds(base, results)}
        for ours in complete_seeds(run, results) if run != base else ():
            if ours.seed in others:
                gain = complete_result(ours, results).miou - others[ours.seed]
                rows.append([cell.column, cell.init, cell.row, cell.objective, ours.seed, gain])
    return pd.DataFrame(rows, columns=["column", "init", "row", "objective", "seed", "gain"])


def areas(table: Table, preset: str, results: str | Path) -> pd.DataFrame:
    """Return mIoU in per cent of a table's runs beside the area of the test images that they give to objects.

    Columns are column, init, row, objective, seed, area, miou. The area is the number of pixels that are predicted as
    any class but the background, divided by the true one. Runs on data without a background are left out.
    """
    rows = []
    for cell in table.cells(presets.named(preset)):
        if cell.run is None or sets.class_names(cell.run.dataset)[0] != "background":
            continue
        for run in complete_seeds(cell.run, results):
            result = complete_result(run, results)
            confusion = np.array(result.confusion)  # truth by prediction
            area = confusion[:, 1:].sum() / confusion[1:].sum()
            rows.append([cell.column, cell.init, cell.row, cell.objective, run.seed, area, result.miou])
    return pd.DataFrame(rows, columns=["column", "init", "row", "objective", "seed", "area", "miou"])

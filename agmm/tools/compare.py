"""A user's method beside those of a table: trained under the same conditions, paired over seeds."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agmm.papers import rules, tables
from agmm.training import presets, sweep
from agmm.training.result import load_result
from agmm.training.run import Run
from agmm.training.where import Where, at

COLUMNS = ["column", "row", "ours", "theirs", "difference", "low", "high", "seeds", "seeds_needed"]
MOST_SEEDS = 1000


class Pair(NamedTuple):
    """A cell of a table, a method trained as it is trained, and the run of the cell itself, with seed 0."""

    column: str
    row: str
    mine: Run
    theirs: Run


def pairs(method: str, table: str, preset: str = "quick") -> list[Pair]:
    """Set a method beside the rows of a table; those that take several stages, or are quoted, are left out.

    Network, start, data, labels, schedule and test are those of the row. The method is a user's objective,
    ``"module:Name"``, or one of `agmm.training.run.METHODS`.
    """
    tables.preset(preset)
    (name,) = tables.select([table])
    cells = []
    for cell in tables.TABLES[name].cells(presets.named(preset)):
        run = cell.run
        if run is not None and run.trained is None and run.teacher is None and cell.metric == "mIoU":
            about = tables.about(cell, preset, "")
            row = f"{cell.row} ({about})" if about else cell.row
            cells.append(Pair(cell.column, row, replace(run, method=method, options=()), run))
    return cells


def compare(
    pairs: Sequence[Pair],
    seeds: int,
    where: Where,
    *,
    rivals: bool = False,
    jobs: int | None = None,
    report: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Train what is missing of a method, and compare it with the rows of its table.

    A row's numbers are those of its complete runs in the folder of results, or in the committed reference, which were
    made on another machine; with ``rivals`` they, too, are trained with the seeds 0 … ``seeds`` - 1 where they are not
    complete. For ``jobs`` and ``report`` see `agmm.training.sweep.train_all`.

    Return a row per cell of the table with `COLUMNS`: mean mIoU of both in per cent over the seeds that both have, the
    mean of the differences with its 95 % t interval, and the `seeds_needed` to see it. Raise RuntimeError if a run
    failed, after all others have been trained.
    """
    wanted = [pair.mine for pair in pairs] + ([pair.theirs for pair in pairs] if rivals else [])
    todo = sweep.distinct(replace(run, seed=seed) for run in wanted for seed in range(seeds))
    failed = sweep.train_all(todo, where, jobs=jobs, report=report)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed.values())}")
    rows = [(pair.column, pair.row, *_difference(pair, seeds, where.results)) for pair in pairs]
    return pd.DataFrame(rows, columns=COLUMNS)


def _difference(pair: Pair, seeds: int, results: Path) -> tuple[float, ...]:
    """Return the numbers of a row from the seeds that both runs have; NaN without any."""
    both = np.array([[_miou(run, seed, results) for run in (pair.mine, pair.theirs)] for seed in range(seeds)])
    both = both[~np.isnan(both).any(1)]
    if not len(both):
        return *(math.nan,) * 5, 0, math.nan
    differences = both[:, 0] - both[:, 1]
    return *both.mean(0), *rules.interval(differences), len(both), seeds_needed(differences)


def _miou(run: Run, seed: int, results: Path) -> float:
    one = replace(run, seed=seed)
    result = load_result(one, results) or load_result(one, tables.REFERENCE)
    return math.nan if result is None else result.miou


def seeds_needed(differences: np.ndarray, power: float = 0.8) -> float:
    """Return the seeds with which a paired t test at 5 % finds differences (n,) of this mean and spread with ``power``.

    With fewer than two the spread is not known, and the answer NaN. It is infinite above `MOST_SEEDS`.
    """
    if len(differences) < 2:
        return math.nan
    spread = max(float(differences.std(ddof=1)), rules.SMALLEST_ERROR)
    effect, n = abs(float(differences.mean())) / spread, np.arange(2, MOST_SEEDS + 1)
    critical = stats.t.ppf(0.975, n - 1)
    t = stats.nct(n - 1, effect * np.sqrt(n))  # distribution of the statistic if the difference is as it was seen
    enough = n[t.sf(critical) + t.cdf(-critical) >= power]
    return float(enough[0]) if len(enough) else math.inf


def markdown(frame: pd.DataFrame) -> str:
    """Return the comparison as a table for readers."""
    lines = ["| labels | beside | ours | theirs | difference (95 %) | seeds | to see it |", "|---" * 7 + "|"]
    for _, row in frame.iterrows():
        if not row["seeds"]:
            values = ["", "", "not trained", "0", ""]
        else:
            known = row["seeds"] > 1
            span = f" ({row['low']:+.1f} … {row['high']:+.1f})" if known else ""
            many = f"more than {MOST_SEEDS}" if math.isinf(row["seeds_needed"]) else f"{row['seeds_needed']:.0f}"
            values = [f"{row['ours']:.1f}", f"{row['theirs']:.1f}", f"{row['difference']:+.1f}{span}"]
            values += [f"{row['seeds']:.0f}", many if known else "unknown"]
        lines.append("| " + " | ".join([row["column"], row["row"], *values]) + " |")
    return "\n".join(lines)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``agmm compare`` takes."""
    add = parser.add_argument
    add("method", help="an objective of yours, such as my_method:Focal, or one of the package")
    add("table", help="the table to compare with, such as agmm_table1")
    add("--preset", default="quick", help="scale of everything (default: quick)")
    add("--seeds", type=int, default=3, metavar="N", help="train the seeds 0 to N - 1 (default: 3)")
    add("--rivals", action="store_true", help="train the rows of the table, too, where they are not complete")
    add("--results", type=Path, default=tables.RESULTS, metavar="DIR", help="folder of results (default: results)")
    add("--data-root", type=Path, metavar="DIR", help="folder of the data set; the embedded ones need none")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--jobs", type=int, metavar="N", help="trainings at a time (default: as many as the machine holds)")


def command(args: argparse.Namespace) -> int:
    """Print the comparison as Markdown; how far the trainings are goes to the standard error."""
    report = partial(print, file=sys.stderr, flush=True)
    where = at(args.results, args.data_root, args.device)
    chosen = pairs(args.method, args.table, args.preset)
    print(markdown(compare(chosen, args.seeds, where, rivals=args.rivals, jobs=args.jobs, report=report)))
    return 0

"""What claims are judged on: numbers of complete runs, paired over seeds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agmm.claims.rules import Finding, Numbers
from agmm.presets import Preset
from agmm.runs import Result, Run, load_history, load_result
from agmm.tables.aggregate import complete_seeds


@dataclass(frozen=True)
class Evidence:
    """The complete runs of a preset.

    Attributes
    ----------
    preset : Preset
    results : Path
    absent : bool
        Whether AGMM is the released code as it is, with its absent-class loss, or without that loss.
    """

    preset: Preset
    results: Path
    absent: bool

    def agmm(self, labels: str, *terms: str, **options: Any) -> Run:
        """AGMM with some of its terms (default: the four of the paper), and the absent-class loss or not."""
        chosen = (*(terms or ("seg", "self", "spar", "con")), *(("absent",) if self.absent else ()))
        return self.preset.at(labels, "AGMM", **{"variant": "official", "terms": chosen} | options)

    def miou(self, *runs: Run) -> Numbers:
        """mIoU on the test split in per cent, (seeds, runs), of the seeds for which all runs are complete."""
        return self.paired(lambda result: result.miou, *runs)

    def paired(self, value: Callable[[Result], float], *runs: Run) -> Numbers:
        """A number of every complete run, (seeds, runs)."""
        seeds = set.intersection(*({one.seed for one in complete_seeds(run, self.results)} for run in runs))
        rows = [[value(self._result(replace(run, seed=seed))) for run in runs] for seed in sorted(seeds)]
        return np.array(rows, dtype=float).reshape(len(rows), len(runs))

    def lead(self, better: Run, worse: Run) -> Numbers:
        """Points of mIoU by which one run is ahead of another, per seed."""
        values = self.miou(better, worse)
        return values[:, 0] - values[:, 1]

    def curves(self, column: str, *runs: Run) -> Numbers:
        """A column of the histories of several runs, (seeds, runs, epochs)."""
        seeds = set.intersection(*({one.seed for one in complete_seeds(run, self.results)} for run in runs))
        rows = [
            [load_history(replace(run, seed=seed), self.results)[column].to_list() for run in runs]
            for seed in sorted(seeds)
        ]
        return np.array(rows, dtype=float).reshape(len(rows), len(runs), -1 if rows else 1)

    def too_weak(self, baseline: Run) -> Finding | None:
        """The guard: a baseline below 1.5 times a constant prediction supports no verdict."""
        for run in complete_seeds(baseline, self.results):
            result = self._result(run)
            pixels = np.array(result.confusion).sum(1)
            constant = 100 * pixels.max() / pixels.sum() / (pixels > 0).sum()
            if result.miou < 1.5 * constant:
                note = f"preset too weak: baseline {result.miou:.1f}, constant prediction {constant:.1f}"
                return Finding("inconclusive", note=note)
        return None

    def num_classes(self, run: Run) -> int:
        """K of a complete run; 0 where there is none."""
        complete = complete_seeds(run, self.results)
        return len(self._result(complete[0]).confusion) if complete else 0

    def _result(self, run: Run) -> Result:
        result = load_result(run, self.results)
        assert result is not None
        return result

"""What claims are judged on: numbers of complete runs, paired over seeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from agmm import figures
from agmm.data import sets
from agmm.papers.results import complete_seeds
from agmm.papers.rules import Finding, Numbers
from agmm.training import methods
from agmm.training.presets import Preset
from agmm.training.run import Result, Run, load_history, load_result


@dataclass(frozen=True)
class Evidence:
    """The complete runs of a preset, as they are when they are first asked for.

    Attributes
    ----------
    preset : Preset
    results : Path
    absent : bool
        Whether AGMM is the released code as it is, with its absent-class loss, or without that loss.
    data_root : Path or None
        Folder of the data set, for what is measured on trained networks; the embedded ones need none.
    """

    preset: Preset
    results: Path
    absent: bool
    data_root: Path | None = None

    def agmm(self, labels: str, *terms: str, **options: Any) -> Run:
        """AGMM with some of its terms (default: the four of the paper), and the absent-class loss or not."""
        chosen = (*(terms or ("seg", "self", "spar", "con")), *(("absent",) if self.absent else ()))
        return self.preset.at(labels, "AGMM", **{"variant": "official", "terms": chosen} | options)

    def sized(self, labels: str) -> bool:
        """Whether the paper's sizes can be expected with a kind of labels: on a data set of the papers."""
        return self.preset.at(labels).dataset in sets.PAPERS

    def seeds(self, *runs: Run) -> list[int]:
        """The seeds for which all runs are complete."""
        return sorted(frozenset.intersection(*map(self._complete, runs)))

    @cached_property
    def _complete(self) -> Callable[[Run], frozenset[int]]:
        """A run's complete seeds; looked for once, as many claims share their runs."""
        return cache(lambda run: frozenset(one.seed for one in complete_seeds(run, self.results)))

    def miou(self, *runs: Run) -> Numbers:
        """mIoU on the test split in per cent, (seeds, runs), of the seeds for which all runs are complete."""
        return self.paired(lambda result: result.miou, *runs)

    def paired(self, value: Callable[[Result], float], *runs: Run) -> Numbers:
        """A number of every complete run, (seeds, runs)."""
        rows = [[value(self._result(replace(run, seed=seed))) for run in runs] for seed in self.seeds(*runs)]
        return np.array(rows, dtype=float).reshape(len(rows), len(runs))

    def lead(self, better: Run, worse: Run) -> Numbers:
        """Points of mIoU by which one run is ahead of another, per seed."""
        values = self.miou(better, worse)
        return values[:, 0] - values[:, 1]

    def curves(self, column: str, *runs: Run) -> Numbers:
        """A column of the histories of several runs, (seeds, runs, epochs)."""
        rows = [
            [load_history(replace(run, seed=seed), self.results)[column].to_list() for run in runs]
            for seed in self.seeds(*runs)
        ]
        return np.array(rows, dtype=float).reshape(len(rows), len(runs), -1 if rows else 1)

    def final(self, *columns: tuple[str, Run]) -> Numbers:
        """Values of columns of histories in the last epoch, (seeds, columns)."""
        rows = [
            [load_history(replace(run, seed=seed), self.results)[column].iloc[-1] for column, run in columns]
            for seed in self.seeds(*(run for _, run in columns))
        ]
        return np.array(rows, dtype=float).reshape(len(rows), len(columns))

    def networks(self, *runs: Run) -> Iterator[list[figures.Trained]]:
        """The networks of several runs with their data, for every seed for which all weights are kept."""
        for seed in self._kept(*runs):
            yield [figures.load(replace(run, seed=seed), self.results, self.data_root) for run in runs]

    def no_networks(self, *runs: Run) -> str:
        """Why `networks` would yield nothing; empty where it yields something."""
        if not self.seeds(*runs):
            return "no seeds"
        if not self._kept(*runs):
            return "no weights kept"
        missing = runs[0].dataset not in sets.GENERATED and self.data_root is None
        return "weights kept, but no folder of the data set given" if missing else ""

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

    def _kept(self, *runs: Run) -> list[int]:
        """Complete seeds with all weights: of the networks, and of objectives that learn some."""
        return [
            seed
            for seed in self.seeds(*runs)
            if all(
                (replace(run, seed=seed).folder(self.results) / name).exists() for run in runs for name in _files(run)
            )
        ]

    def _result(self, run: Run) -> Result:
        result = load_result(run, self.results)
        assert result is not None
        return result


def _files(run: Run) -> tuple[str, ...]:
    """Weights without which a run's network cannot be measured."""
    learns = run.from_tags or isinstance(methods.build(run.method, 2, **dict(run.options)), nn.Module)
    return ("model.safetensors", "objective.safetensors") if learns else ("model.safetensors",)

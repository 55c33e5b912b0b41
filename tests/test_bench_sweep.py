"""The figures on processes and threads, with the trainings done in this process."""

from typing import Any

import pytest

from agmm.tools.bench import sweep as bench
from agmm.tools.bench.figure import Setting
from agmm.training import sweep, train
from agmm.training.run import Run, load_result
from agmm.training.where import Where


def test_figures_train_the_same_runs_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, set[int]]] = []
    made: list[int] = []

    def train_all(runs: list[Run], where: Where, *, jobs: int, **options: Any) -> dict[str, str]:
        results = where.results
        kept = set((results / "cache").iterdir())
        if not calls:
            train.complete(runs[0], where)
            assert load_result(runs[0], results) is not None
        made.append(len(set((results / "cache").iterdir()) - kept))
        calls.append((jobs, {run.threads for run in runs}))
        return {}

    monkeypatch.setattr(sweep, "train_all", train_all)
    figures = list(bench.figures(Setting(repeats=1, small=True)))
    assert calls == [(1, {1}), (2, {1}), (1, {2})]
    assert made == [0, 0, 0]
    assert [figure.against for figure in figures] == ["one process", "one thread", "two threads"]
    assert all(figure.value > 0 and figure.ratio > 0 and figure.met is None for figure in figures)
    assert figures[0].ratio == pytest.approx(figures[0].value / figures[0].against_value)


def test_a_target_needs_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "train_all", lambda *arguments, **options: {})
    monkeypatch.setattr(bench, "prepare", lambda runs, cache: cache.mkdir())
    for cores in (1, 2):
        monkeypatch.setattr(sweep, "default_jobs", lambda device, cores=cores: cores)
        targets = [figure.target for figure in bench.figures(Setting(repeats=1))]
        assert targets == ["", "", ">= 1" if cores > 1 else ""]


def test_a_failed_training_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "train_all", lambda *arguments, **options: {"a1": "Baseline: disk on fire"})
    monkeypatch.setattr(bench, "prepare", lambda runs, cache: cache.mkdir())
    with pytest.raises(RuntimeError, match="disk on fire"):
        next(bench.figures(Setting(repeats=1, small=True)))


def test_trainings_differ_in_their_seeds_only() -> None:
    runs = bench.trainings(Setting())
    assert len({run.id for run in runs}) == bench.TRAININGS
    assert {run.train_images for run in runs} == {1000}
    assert all(run.requires == () for run in runs)

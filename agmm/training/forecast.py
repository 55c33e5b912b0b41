"""A run in a few words, and how long it will take."""

import contextlib
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from agmm.training.presets import PRESETS
from agmm.training.run import Run

Work = tuple[str, int, str, str]
"""Preset, number of epochs, network, and task of a run: they decide how long it takes."""

_OF_THE_PRESET = ("clusters", "regions", "grid_labels")
"""Options that a preset sets, of which nothing is said in a few words."""


def describe(run: Run) -> str:
    """Return a run in a few words."""
    if run.trained is not None:
        changed = [name for name, _ in run.trained_test] + (["crf"] if run.crf else [])
        return f"{describe(run.trained)}, tested with " + ", ".join(f"{name} {getattr(run, name)}" for name in changed)
    network = "" if run.network == "small" else f" with {run.network}"
    if run.method == "ImageTags":
        return f"pretraining on image tags ({run.dataset}){network}"
    if run.teacher is not None:
        stage = "classifier on the embeddings" if run.method == "SPMLClassifier" else "second stage"
        return f"{stage} of {describe(run.teacher)}"
    options = {name: value for name, value in run.options if name not in _OF_THE_PRESET}
    words = [run.method]
    words += [name for name in (options.get("variant"), "+".join(options.get("terms", ()))) if name]
    words += [name for name in ("stop_gradient", "absent") if options.get(name)]
    words += [f"{k} {v}" for k, v in options.items() if k not in ("variant", "terms", "stop_gradient", "absent")]
    label_options = dict(run.label_options)
    shares = [f"{100 * label_options[name]:g} % " for name in ("ratio", "length") if name in label_options]
    amount = "".join(shares) or (f"{label_options['n']} " if "n" in label_options else "")
    words += [f"{amount}{run.labels} of {run.dataset}{network}", f"init {run.init}", f"seed {run.seed}"]
    return " ".join([*words, *([f"epoch {run.stop_after} of {run.epochs}"] if run.stop_after else [])])


def measured(results: str | Path) -> dict[Work, list[float]]:
    """Return the seconds of all complete runs by what they did; what cannot be read is left out."""
    seconds: dict[Work, list[float]] = {}
    for path in Path(results).glob("*/runs/*/result.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            run = Run.from_dict(json.loads((path.parent / "run.json").read_text()))
            seconds.setdefault(work(run), []).append(json.loads(path.read_text())["seconds"])
    return seconds


def estimate(run: Run, past: dict[Work, list[float]]) -> float:
    """Return the expected seconds: the median of complete runs that did the same, else what the preset says."""
    if seconds := past.get(work(run)):
        return statistics.median(seconds)
    stated = PRESETS[run.preset].seconds if run.preset in PRESETS else {}
    special = f"{run.dataset}, {_slower(run) or run.network}"
    whole = stated.get(special, stated.get(run.dataset, 60.0))
    return whole * (0.1 if run.trained is not None else run.last_epoch / run.epochs)


def total(runs: Iterable[Run], past: dict[Work, list[float]], jobs: int) -> float:
    """Return the expected seconds of several runs on ``jobs`` processes: what others require first, then the rest."""
    todo = {run.id: run for run in runs}
    stages: dict[str, int] = {}

    def stage(run: Run) -> int:
        """Return how many of the runs must be complete, one after the other, before this one."""
        if run.id not in stages:
            stages[run.id] = max((1 + stage(need) for need in run.requires if need.id in todo), default=0)
        return stages[run.id]

    seconds: dict[int, list[float]] = {}
    for run in todo.values():
        seconds.setdefault(stage(run), []).append(estimate(run, past))
    return sum(max(sum(values) / jobs, max(values)) for values in seconds.values())


def duration(seconds: float) -> str:
    """Return seconds in the unit that a reader would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def work(run: Run) -> Work:
    """Return what a run does, as far as its time depends on it."""
    if run.trained is not None:
        return run.preset, run.last_epoch, run.network, "test"
    task = "pretraining" if run.method == "ImageTags" else _slower(run) or "training"
    return run.preset, run.last_epoch, run.network, task


def _slower(run: Run) -> str:
    """Return what makes the steps of a run longer than those of others; empty if nothing does."""
    if run.method == "SPMLClassifier":
        return "SPMLClassifier, neighbors" if dict(run.options).get("neighbors") else run.method
    return "tags" if run.from_tags else run.method if run.method == "SPML" else ""

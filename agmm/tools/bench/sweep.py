"""Several short trainings through `train_all`: two processes beside one, and two threads beside one.

Small networks have little to share out within a step. Times are those of `train_all` as a whole, start of the processes
and their imports included; data and labels lie in the cache beforehand.
"""

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from agmm.data import sets
from agmm.tools.bench.figure import Figure, Setting, in_turn, median_ratio
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.run import Run
from agmm.training.where import Where

TRAININGS = 4
MOST_REPEATS = 3


def figures(setting: Setting) -> Iterator[Figure]:
    """Two processes and, on a CPU, two threads; a target only where there are two cores."""
    several = sweep.default_jobs("cpu") > 1
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        prepare(trainings(setting), cache)
        number = count()

        def train(threads: int, jobs: int) -> None:
            results = Path(folder) / str(next(number))
            shutil.copytree(cache, results / "cache")
            runs = [replace(run, threads=threads) for run in trainings(setting)]
            failed = sweep.train_all(runs, Where(results, device=setting.device), jobs=jobs, report=lambda line: None)
            if failed:
                raise RuntimeError(f"a training of the benchmark failed: {next(iter(failed.values()))}")

        ways = {"one": partial(train, 1, 1), "processes": partial(train, 1, 2)}
        if setting.device == "cpu":
            ways["threads"] = partial(train, 2, 1)
        seconds = in_turn(ways, replace(setting, repeats=min(setting.repeats, MOST_REPEATS)), warmup=0)
    rates = {name: [TRAININGS / value for value in values] for name, values in seconds.items()}
    about = f"{TRAININGS} trainings of preset quick's network, " + "two {}"
    yield figure(about.format("processes"), rates["processes"], "one process", rates["one"])
    if "threads" in rates:
        yield figure(about.format("threads"), rates["threads"], "one thread", rates["one"])
        target = ">= 1" if several and not setting.small else ""
        yield figure(about.format("processes"), rates["processes"], "two threads", rates["threads"], target)


def figure(case: str, rates: list[float], against: str, others: list[float], target: str = "") -> Figure:
    """Trainings per minute beside others."""
    value, other = (60 * statistics.median(values) for values in (rates, others))
    return Figure("sweep", case, value, "runs/min", against, other, median_ratio(rates, others), target)


def trainings(setting: Setting) -> list[Run]:
    """Runs that differ in their seeds: four epochs of preset quick each, or next to nothing."""
    quick = PRESETS["quick"].at("points", "AGMM", init="scratch")
    template = replace(quick, epochs=4, warmup=1, history_images=100)
    if setting.small:
        template = replace(template, epochs=1, train_images=32, test_images=16)
    return [replace(template, seed=seed) for seed in range(TRAININGS)]


def prepare(runs: list[Run], cache: Path) -> None:
    """Generate the images and simulate the labels of all runs."""
    for run in runs:
        train, _ = (
            sets.load(run.dataset, split, count=images, cache=cache)
            for split, images in (("train", run.train_images), ("test", run.test_images))
        )
        sets.weak_labels(train, run.labels, dict(run.label_options), run.seed, cache)

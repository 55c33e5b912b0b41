"""The group "sweep": several short trainings through `train_all`, two processes or two threads beside one.

Small networks have little to share out within a step. Times are those of `train_all` as a whole, start of the processes
and their imports included; data and labels lie in the cache beforehand.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from agmm.data import sets
from agmm.host import timing
from agmm.tools.bench.figure import Figure, Setting, compared
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.run import Run
from agmm.training.where import Where

TRAININGS = 4
MOST_REPEATS = 3


def figures(setting: Setting) -> Iterator[Figure]:
    """Two processes and, on a CPU, two threads; a target only where there are two cores."""
    with tempfile.TemporaryDirectory() as folder:
        cache, number = Path(folder) / "cache", count()
        prepare(trainings(setting), cache)

        def train(threads: int, jobs: int) -> None:
            results = Path(folder) / str(next(number))
            shutil.copytree(cache, results / "cache")
            runs = [replace(run, threads=threads) for run in trainings(setting)]
            failed = sweep.train_all(runs, Where(results, device=setting.device), jobs=jobs, report=lambda _: None)
            if failed:
                raise RuntimeError(f"a training of the benchmark failed: {next(iter(failed.values()))}")

        ways = {"one": partial(train, 1, 1), "processes": partial(train, 1, 2)}
        if setting.device == "cpu":
            ways["threads"] = partial(train, 2, 1)
        seconds = timing.in_turn(ways, setting.device, min(setting.repeats, MOST_REPEATS), warmup=0)
    rates = {name: [60 * TRAININGS / value for value in values] for name, values in seconds.items()}
    processes, threads = (f"{TRAININGS} trainings of preset quick's network, two {w}" for w in ("processes", "threads"))
    yield compared(processes, rates["processes"], "one process", rates["one"], unit="runs/min")
    if "threads" in rates:
        yield compared(threads, rates["threads"], "one thread", rates["one"], unit="runs/min")
        target = ">= 1" if sweep.default_jobs("cpu") > 1 and not setting.small else ""
        yield compared(processes, rates["processes"], "two threads", rates["threads"], unit="runs/min", target=target)


def trainings(setting: Setting) -> list[Run]:
    """Runs that differ in their seeds: four epochs of preset quick each, or next to nothing."""
    template = replace(PRESETS["quick"].at("points", "AGMM", init="scratch"), epochs=4, warmup=1, history_images=100)
    if setting.small:
        template = replace(template, epochs=1, train_images=32, test_images=16)
    return [replace(template, seed=seed) for seed in range(TRAININGS)]


def prepare(runs: list[Run], cache: Path) -> None:
    """Generate the images and simulate the labels of all runs."""
    for run in runs:
        train = sets.load(run.dataset, "train", count=run.train_images, cache=cache)
        sets.load(run.dataset, "test", count=run.test_images, cache=cache)
        sets.weak_labels(train, run.labels, dict(run.label_options), run.seed, cache)

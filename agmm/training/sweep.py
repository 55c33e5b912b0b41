"""Many trainings: what must come first, how long it will take, a process for each, and what happens when one fails."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from filelock import FileLock, Timeout

from agmm.host import atomic_files, machine
from agmm.training import loop, slurm, train
from agmm.training.presets import PRESETS
from agmm.training.result import check_description, load_result
from agmm.training.run import Run
from agmm.training.where import Where

Report = Callable[[str], object]
Work = tuple[str, int, str, str, float]
"""Preset, number of epochs, network, task and forecast of a run: they decide how long it takes."""

_OF_THE_PRESET = ("clusters", "regions", "grid_labels")  # options that a preset sets, which `describe` leaves out


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Return runs without repetitions, with those that they require before them."""
    ordered: dict[str, Run] = {}
    for run in runs:
        if run.id not in ordered:
            ordered |= {one.id: one for one in [*distinct(run.requires), run] if one.id not in ordered}
    return list(ordered.values())


def missing(runs: Iterable[Run], results: str | Path) -> list[Run]:
    """Return the runs without a result; raise ValueError if a result file is damaged."""
    return [run for run in runs if load_result(run, results) is None]


def tidy(runs: Iterable[Run], results: str | Path) -> None:
    """Remove what killed processes have left, and refuse descriptions that were edited."""
    for run in distinct(runs):
        check_description(run, results)
        if load_result(run, results) is not None:
            train.drop_checkpoints(run.folder(results))
    atomic_files.tidy(Path(results))


def train_all(
    runs: Iterable[Run],
    where: Where,
    *,
    jobs: int | None = None,
    engine: str | Executor = "local",
    report: Report = print,
) -> dict[str, str]:
    """Train what is missing, several runs at a time, and go on past failures.

    A run that requires another one waits for it; otherwise the longest come first. A run whose process dies is tried
    once more in a fresh one. The devices ``"auto"`` and ``"cuda"`` deal the runs out over all GPUs. Without ``jobs``,
    the trainings at a time, there are `default_jobs`, and all that may start on Slurm. The ``engine`` is processes of
    this machine, jobs of Slurm with its defaults, or those of `agmm.training.slurm.slurm`; it is shut down. Ctrl-C ends
    the processes and cancels the jobs; what they had finished, checkpoints included, is kept. Return the identity of
    every run that failed -> why.
    """
    sweep = _Sweep(runs, where.results, report)
    if not sweep.waiting:
        return {}
    new, devices = _slots(engine, where, jobs, sweep.total)
    others = set(multiprocessing.active_children())
    with mock.patch.dict(os.environ, slurm.ONE_THREAD):  # libraries of processes that start inside read it
        # A pool per process: when one breaks, it is known whose run it was.
        pools = [new() for _ in devices]
        try:
            while sweep.waiting or sweep.running:
                for slot in set(range(len(pools))) - {slot for _, slot in sweep.running.values()}:
                    if (run := sweep.next()) is not None:
                        job = _submit(pools, slot, new, run, replace(where, device=devices[slot]))
                        sweep.running[job] = run, slot
                sweep.tell_forecasts()
                for job in wait(sweep.running, timeout=60, return_when=FIRST_COMPLETED).done:
                    slot = sweep.end(job, len(pools))
                    if isinstance(job.exception(), BrokenExecutor):
                        pools[slot] = new()
        except KeyboardInterrupt:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            raise
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
    return sweep.failed


class _Sweep:
    """State of a sweep: runs by identity that wait, running jobs with their run and slot, failures."""

    def __init__(self, runs: Iterable[Run], results: str | Path, report: Report) -> None:
        self.results, self.report = results, report
        self.past = measured(results)
        todo = sorted(missing(distinct(runs), results), key=lambda run: -estimate(run, self.past))
        self.waiting = {run.id: run for run in todo}
        self.running: dict[Future[str | None], tuple[Run, int]] = {}
        self.failed: dict[str, str] = {}
        self.retried: set[str] = set()
        self.total = len(todo)
        self.told: set[str] = set()

    def next(self) -> Run | None:
        """Take the next run that requires nothing unfinished; what others require comes first."""
        unfinished = {*self.waiting, *(run.id for run, _ in self.running.values())}
        ready = [run for run in self.waiting.values() if not unfinished & {need.id for need in run.requires}]
        required = {need.id for run in self.waiting.values() for need in run.requires}
        ready.sort(key=lambda run: run.id not in required)
        return self.waiting.pop(ready[0].id) if ready else None

    def tell_forecasts(self) -> None:
        """Report once of every long training what its log says of the time left."""
        for run, _ in self.running.values():
            line, _ = left(run, self.results)
            if line and run.id not in self.told:
                self.told.add(run.id)
                self.report(f"{describe(run)}: {line}")

    def end(self, job: "Future[str | None]", jobs: int) -> int:
        """Record how a job has ended; returns its slot."""
        run, slot = self.running.pop(job)
        error = job.exception()
        problem = str(error) if error else job.result()
        if isinstance(error, BrokenProcessPool):
            problem = "its process died (killed, or out of memory)"
        if problem is None:
            self._report_success(run, jobs)
        elif isinstance(error, BrokenExecutor) and run.id not in self.retried:
            self.retried.add(run.id)
            self.waiting[run.id] = run
            self.report(f"{describe(run)}: {problem}; once more")
        else:
            self._fail(run, problem)
        return slot

    def _report_success(self, run: Run, jobs: int) -> None:
        result = load_result(run, self.results)
        assert result is not None
        self.past.setdefault(work(run), []).append(result.seconds)
        busy = {run.id: left(run, self.results)[1] for run, _ in self.running.values()}
        todo = [*self.waiting.values(), *(run for run, _ in self.running.values())]
        eta = f" · ETA {machine.duration(total(todo, self.past, jobs, busy))}" if todo else ""
        seconds = machine.duration(result.seconds)
        self.report(f"{self._counter()} {describe(run)}: {result.miou:.1f} ({seconds}){eta}")

    def _fail(self, run: Run, problem: str) -> None:
        """Record a failure, and that of the runs that require this one."""
        self.failed[run.id] = f"{describe(run)}: {problem}"
        self.report(f"{self._counter()} {self.failed[run.id]}")
        for other in list(self.waiting.values()):
            if other.id in self.waiting and run.id in {need.id for need in other.requires}:
                self._fail(self.waiting.pop(other.id), "not trained, as a run that it starts from failed")

    def _counter(self) -> str:
        return f"[{self.total - len(self.waiting) - len(self.running)}/{self.total}]"


def default_jobs(device: str = "auto") -> int:
    """Return a process per GPU, or per CPU core that this process may use."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count() if device in ("auto", "cuda") else 1
    return machine.cores()


def set_aside(runs: Iterable[Run], results: str | Path) -> list[Path]:
    """Move the runs' folders to ``<results>/<preset>/replaced`` so that they are trained again; return the new places.

    Raise ValueError, and move nothing, if another process is training one of them.
    """
    folders = [run.folder(results) for run in runs if run.folder(results).exists()]
    with contextlib.ExitStack() as locks:
        for folder in folders:
            try:
                locks.enter_context(FileLock(folder / "lock", timeout=0))
            except Timeout:
                raise ValueError(f"{folder} is being trained by another process; wait for it or end it") from None
        moved = []
        for folder in folders:
            target = folder.parents[1] / "replaced" / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            moved.append(folder.rename(target))
    return moved


def _train(run: Run, where: Where) -> str | None:
    """Train in a process of its own; returns what went wrong, or None, as not all exceptions survive pickling."""
    try:
        train.complete(run, where)
    except Exception as error:
        with contextlib.suppress(OSError):
            loop.log(run.folder(where.results), traceback.format_exc())
        expected = isinstance(error, ValueError | OSError | RuntimeError)
        return str(error) if expected else f"{type(error).__name__}: {error}"
    return None


def _start() -> None:
    """Prepare a process: it leaves Ctrl-C to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.end_with_parent()


def pool() -> ProcessPoolExecutor:
    """Return a process of its own for trainings."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start)


def _slots(
    engine: str | Executor, where: Where, jobs: int | None, total: int
) -> tuple[Callable[[], Executor], list[str]]:
    """Return what makes an executor, and the device of every training that may run at a time."""
    if engine == "local":
        return pool, _devices(where.device, min(jobs or default_jobs(where.device), total))
    executor = slurm.slurm(where.results) if engine == "slurm" else engine
    if not isinstance(executor, Executor):
        raise ValueError(f"engine must be local, slurm or an executor, not {engine!r}")
    return lambda: executor, [where.device] * min(jobs or total, total)


def _submit(
    pools: list[Executor], slot: int, new: Callable[[], Executor], run: Run, where: Where
) -> "Future[str | None]":
    """Submit to the slot's process, or to a new one if it died while it had nothing to do."""
    try:
        return pools[slot].submit(_train, run, where)
    except BrokenProcessPool:
        pools[slot] = new()
        return pools[slot].submit(_train, run, where)


def _devices(device: str, jobs: int) -> list[str]:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{i % torch.cuda.device_count()}" for i in range(jobs)]
    return [device] * jobs


# --- A run in words, and how long it will take ------------------------------------------------------------------------


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
    return _stated(run)


def _stated(run: Run) -> float:
    """Return the seconds that the preset of a run says: of its steps, and of what comes on top of them."""
    preset = run.preset.partition("+")[0]
    stated = PRESETS[preset].seconds if preset in PRESETS else {}

    def of(what: str, otherwise: float) -> float:
        return stated.get(f"{run.dataset}, {run.network}, {what}", stated.get(f"{run.dataset}, {what}", otherwise))

    if run.trained is not None:
        return of("test", 0.1 * _stated(run.trained))
    steps = of(_slower(run), of(run.network, stated.get(run.dataset, 60.0))) * run.last_epoch / run.epochs
    if run.method == "TreeEnergy":
        return steps + of("trees", 0.0)
    second_stage = run.teacher is not None and run.method != "SPMLClassifier"
    return steps + (of("pseudo labels", 0.0) if second_stage else 0.0)


def left(run: Run, results: str | Path) -> tuple[str, float]:
    """Return the last line of a run's log that tells the seconds left, and these; no line and 0 without one."""
    try:
        log = (run.folder(results) / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0.0
    lines = re.findall(r"  (.*, ETA ([\d.]+) (s|min|h))\n", log) or [("", "0", "s")]
    line, number, unit = lines[-1]
    return line, float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def total(
    runs: Iterable[Run], past: dict[Work, list[float]], jobs: int, busy: Mapping[str, float] | None = None
) -> float:
    """Return the expected seconds of several runs on ``jobs`` processes: what others require first, then the rest.

    ``busy`` are the seconds that running ones still take, by their identity; 0 where that is not known yet.
    """
    todo = {run.id: run for run in runs}
    stages: dict[str, int] = {}

    def stage(run: Run) -> int:
        """Return how many of the runs must be complete, one after the other, before this one."""
        if run.id not in stages:
            stages[run.id] = max((1 + stage(need) for need in run.requires if need.id in todo), default=0)
        return stages[run.id]

    seconds: dict[int, list[float]] = {}
    for run in todo.values():
        seconds.setdefault(stage(run), []).append((busy or {}).get(run.id) or estimate(run, past))
    return sum(max(sum(values) / jobs, max(values)) for values in seconds.values())


def work(run: Run) -> Work:
    """Return what a run does, as far as its time depends on it."""
    task = "pretraining" if run.method == "ImageTags" else _slower(run) or "training"
    return run.preset, run.last_epoch, run.network, "test" if run.trained is not None else task, _stated(run)


def _slower(run: Run) -> str:
    """Return what makes the steps of a run longer than those of others; empty if nothing does."""
    if run.method == "SPMLClassifier":
        return "SPMLClassifier, neighbors" if dict(run.options).get("neighbors") else run.method
    return "tags" if run.from_tags else run.method if run.method == "SPML" else ""

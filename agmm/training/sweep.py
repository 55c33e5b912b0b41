"""Many trainings: what must come first, a process for each, how long it will take, and what happens when one fails."""

import contextlib
import json
import multiprocessing
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from agmm.host import atomic_files, machine
from agmm.training import loop, slurm, train
from agmm.training.presets import PRESETS
from agmm.training.run import Run, check_description, load_result
from agmm.training.where import Where

Report = Callable[[str], object]


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Runs without repetitions, with those that they require before them."""
    ordered: dict[str, Run] = {}
    for run in runs:
        if run.id not in ordered:
            ordered |= {one.id: one for one in [*distinct(run.requires), run] if one.id not in ordered}
    return list(ordered.values())


def missing(runs: Iterable[Run], results: str | Path) -> list[Run]:
    """Those that are not complete; ValueError where what is there is damaged."""
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
    once more in a fresh one.

    Parameters
    ----------
    runs : iterable of Run
    where : Where
        The devices ``"auto"`` and ``"cuda"`` deal the runs out over all GPUs.
    jobs : int, optional
        Trainings at a time; see `default_jobs`. Slurm receives all that may start where nothing is given.
    engine : {"local", "slurm"} or Executor
        Processes of this machine, jobs of Slurm with its defaults, or those of `agmm.training.slurm.slurm`; it is shut
        down.
    report : callable
        Receives a line per finished run.

    Returns
    -------
    dict of str to str
        Identity of every run that failed -> why.

    Raises
    ------
    KeyboardInterrupt
        After the processes have been ended and jobs cancelled; what they had finished, checkpoints included, is kept.
    """
    sweep = _Sweep(runs, where.results, report)
    if not sweep.waiting:
        return {}
    new, devices = _slots(engine, where, jobs, sweep.total)
    strangers = set(multiprocessing.active_children())
    with _worker_environment():
        # A pool per process: when one breaks, it is known whose run it was.
        pools = [new() for _ in devices]
        try:
            while sweep.waiting or sweep.running:
                for slot in set(range(len(pools))) - sweep.busy():
                    if (run := sweep.next()) is not None:
                        job = _submit(pools, slot, new, run, replace(where, device=devices[slot]))
                        sweep.running[job] = run, slot
                for job in wait(sweep.running, return_when=FIRST_COMPLETED).done:
                    slot = sweep.settle(job, len(pools))
                    if isinstance(job.exception(), BrokenExecutor):
                        pools[slot] = new()
        except KeyboardInterrupt:
            for child in set(multiprocessing.active_children()) - strangers:
                child.kill()
            raise
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
    return sweep.failed


class _Sweep:
    """Where a sweep stands: runs by identity that wait, running jobs with their run and slot, failures."""

    def __init__(self, runs: Iterable[Run], results: str | Path, report: Report) -> None:
        self.results, self.report = results, report
        self.measured = measure(results)
        todo = sorted(missing(distinct(runs), results), key=lambda run: -estimate(run, self.measured))
        self.waiting = {run.id: run for run in todo}
        self.running: dict[Future[str | None], tuple[Run, int]] = {}
        self.failed: dict[str, str] = {}
        self.retried: set[str] = set()
        self.total = len(todo)

    def busy(self) -> set[int]:
        """Slots that train."""
        return {slot for _, slot in self.running.values()}

    def next(self) -> Run | None:
        """Take the next run that requires nothing unfinished; what others require comes first."""
        unfinished = {*self.waiting, *(run.id for run, _ in self.running.values())}
        ready = [run for run in self.waiting.values() if not unfinished & {need.id for need in run.requires}]
        needed = {need.id for run in self.waiting.values() for need in run.requires}
        ready.sort(key=lambda run: run.id not in needed)
        return self.waiting.pop(ready[0].id) if ready else None

    def settle(self, job: "Future[str | None]", jobs: int) -> int:
        """Book a finished job; returns its slot."""
        run, slot = self.running.pop(job)
        error = job.exception()
        died = isinstance(error, BrokenExecutor)
        problem = str(error) if error else job.result()
        if isinstance(error, BrokenProcessPool):
            problem = "its process died (killed, or out of memory)"
        if died and run.id not in self.retried:
            self.retried.add(run.id)
            self.waiting[run.id] = run
            self.report(f"{describe(run)}: {problem}; once more")
        elif problem is not None:
            self.fail(run, problem)
        else:
            self.finish(run, jobs)
        return slot

    def finish(self, run: Run, jobs: int) -> None:
        """Book a success."""
        result = load_result(run, self.results)
        assert result is not None
        self.measured.setdefault(_kind(run), []).append(result.seconds)
        left = [*self.waiting.values(), *(busy for busy, _ in self.running.values())]
        eta = f" · ETA {duration(forecast(left, self.measured, jobs))}" if left else ""
        self.report(f"{self.counter()} {describe(run)}: {result.miou:.1f} ({duration(result.seconds)}){eta}")

    def fail(self, run: Run, problem: str) -> None:
        """Book a failure, and that of the runs that require this one."""
        self.failed[run.id] = f"{describe(run)}: {problem}"
        self.report(f"{self.counter()} {self.failed[run.id]}")
        for other in list(self.waiting.values()):
            if other.id in self.waiting and run.id in {need.id for need in other.requires}:
                self.fail(self.waiting.pop(other.id), "not trained, as a run that it starts from failed")

    def counter(self) -> str:
        """How many runs are settled, of how many."""
        return f"[{self.total - len(self.waiting) - len(self.running)}/{self.total}]"


def default_jobs(device: str = "auto") -> int:
    """A process per GPU, or per CPU core that this process may use."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count() if device in ("auto", "cuda") else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_OF_THE_PRESET = ("clusters", "regions", "grid_labels")
"""Options that a preset sets, of which nothing is said in a few words."""


def describe(run: Run) -> str:
    """A run in a few words."""
    if run.trained is not None:
        changed = [name for name, _ in run.trained_test] + (["crf"] if run.crf else [])
        return f"{describe(run.trained)}, tested with " + ", ".join(f"{name} {getattr(run, name)}" for name in changed)
    if run.method == "ImageTags":
        return f"pretraining on image tags ({run.dataset}){_network(run)}"
    if run.teacher is not None:
        stage = "classifier on the embeddings" if run.method == "SPMLClassifier" else "second stage"
        return f"{stage} of {describe(run.teacher)}"
    options = {name: value for name, value in run.options if name not in _OF_THE_PRESET}
    words = [run.method]
    words += [name for name in (options.get("variant"), "+".join(options.get("terms", ()))) if name]
    words += [name for name in ("stop_gradient", "absent") if options.get(name)]
    words += [f"{k} {v}" for k, v in options.items() if k not in ("variant", "terms", "stop_gradient", "absent")]
    given = dict(run.label_options)
    shares = [f"{100 * given[name]:g} % " for name in ("ratio", "length") if name in given]
    amount = "".join(shares) or (f"{given['n']} " if "n" in given else "")
    words += [f"{amount}{run.labels} of {run.dataset}{_network(run)}", f"init {run.init}", f"seed {run.seed}"]
    return " ".join([*words, *([f"epoch {run.stop_after} of {run.epochs}"] if run.stop_after else [])])


def _network(run: Run) -> str:
    return "" if run.network == "small" else f" with {run.network}"


Kind = tuple[str, int, str, str]


def measure(results: str | Path) -> dict[Kind, list[float]]:
    """Seconds of all complete runs, by preset, number of epochs, network, and what they do."""
    measured: dict[Kind, list[float]] = {}
    for path in Path(results).glob("*/runs/*/result.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            run = Run.from_dict(json.loads((path.parent / "run.json").read_text()))
            measured.setdefault(_kind(run), []).append(json.loads(path.read_text())["seconds"])
    return measured


def estimate(run: Run, measured: dict[Kind, list[float]]) -> float:
    """Expected seconds: median of the runs of the same kind, else what the preset says."""
    known = measured.get(_kind(run))
    if known:
        return statistics.median(known)
    stated = PRESETS[run.preset].seconds if run.preset in PRESETS else {}
    special = f"{run.dataset}, {_slower(run) or run.network}"
    seconds = stated.get(special, stated.get(run.dataset, 60.0))
    return seconds * (0.1 if run.trained is not None else run.last_epoch / run.epochs)


def forecast(runs: Iterable[Run], measured: dict[Kind, list[float]], jobs: int) -> float:
    """Expected seconds of several runs on ``jobs`` processes: what others require first, the rest in parallel."""
    runs = list(runs)
    given = {run.id for run in runs}
    stages: dict[str, int] = {}
    seconds: dict[int, list[float]] = {}
    for run in (run for run in distinct(runs) if run.id in given):
        stages[run.id] = 1 + max((stages[need.id] for need in run.requires if need.id in stages), default=-1)
        seconds.setdefault(stages[run.id], []).append(estimate(run, measured))
    return sum(max(sum(stage) / jobs, max(stage)) for stage in seconds.values())


def duration(seconds: float) -> str:
    """Seconds in the unit that a reader would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def set_aside(runs: Iterable[Run], results: str | Path) -> list[Path]:
    """Move the runs' folders to ``<results>/<preset>/replaced`` so that they are trained again; returns the new places.

    Raises
    ------
    ValueError
        If another process is training one of them; nothing has been moved then.
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
    """In a process of its own: None, or what went wrong. Exceptions stay here, as not all survive pickling."""
    try:
        train.complete(run, where)
    except Exception as error:
        with contextlib.suppress(OSError):
            loop.log(run.folder(where.results), traceback.format_exc())
        expected = isinstance(error, ValueError | OSError | RuntimeError)
        return str(error) if expected else f"{type(error).__name__}: {error}"
    return None


def _start() -> None:
    """Of a process: Ctrl-C is the parent's business, and no training outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.end_with_parent()


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start)


def _slots(
    engine: str | Executor, where: Where, jobs: int | None, total: int
) -> tuple[Callable[[], Executor], list[str]]:
    """What hands out an executor, and the device of every training that may run at a time."""
    if engine == "local":
        return _pool, _devices(where.device, min(jobs or default_jobs(where.device), total))
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


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """One thread for the libraries of processes started inside, which read it when they are loaded."""
    before = {name: os.environ.get(name) for name in slurm.ONE_THREAD}
    os.environ.update(slurm.ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _devices(device: str, jobs: int) -> list[str]:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{i % torch.cuda.device_count()}" for i in range(jobs)]
    return [device] * jobs


def _kind(run: Run) -> Kind:
    tests = run.trained is not None
    work = "pretraining" if run.method == "ImageTags" else _slower(run) or "training"
    return run.preset, run.last_epoch, run.network, "test" if tests else work


def _slower(run: Run) -> str:
    """What makes the steps of a run longer than those of others; empty if nothing does."""
    if run.method == "SPMLClassifier":
        return "SPMLClassifier, neighbors" if dict(run.options).get("neighbors") else run.method
    return "tags" if run.from_tags else run.method if run.method == "SPML" else ""

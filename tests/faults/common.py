"""What the groups share: starting the command, comparing two results folders, counting."""

import atexit
import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

import run_all
from tests.helpers import ROOT

TABLE = "agmm_figure2"
"""A figure with a table: a pretraining and two runs that start from it."""

PER_RUN = ("model.safetensors", "result.json", "history.csv")
_TIMES = ("seconds", "images_per_second", "peak_memory_mb")


class Tally:
    """Faults and survived ones by kind, and what went wrong."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str | None]] = []

    def add(self, kind: str, problem: str | None) -> None:
        """Book one fault; ``problem`` is None where it was survived."""
        self.faults.append((kind, problem))

    @property
    def total(self) -> int:
        return len(self.faults)

    @property
    def survived(self) -> int:
        return sum(problem is None for _, problem in self.faults)

    def show(self) -> None:
        survived = Counter(kind for kind, problem in self.faults if problem is None)
        for kind, count in Counter(kind for kind, _ in self.faults).items():
            print(f"  {kind}: {count} faults, {survived[kind]} survived")
        for kind, problem in self.faults:
            if problem is not None:
                print(f"  HARM {kind}: {problem}")
        sys.stdout.flush()


def command(results: Path, *more: str) -> list[str]:
    args = ["--preset", "smoke", "--only", TABLE, "--device", "cpu", "--results", str(results), *more]
    return [sys.executable, "-u", str(ROOT / "run_all.py"), *args]


def start(results: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start it in a session of its own; what it prints goes to ``said`` and ``complained``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(output(results, "out"), "wb") as out, open(output(results, "err"), "wb") as err:
        process = subprocess.Popen(
            command(results, *more), stdout=out, stderr=err, cwd=ROOT, env=environment, start_new_session=True
        )
    atexit.register(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def output(results: Path, name: str) -> Path:
    """Where the output of the last `start` lies: ``out`` or ``err``."""
    return results.with_name(f"{results.name}.{name}")


def finish(results: Path, *more: str) -> str | None:
    """Run the command to its end; what went wrong, if anything."""
    code = start(results, *more).wait(timeout=600)
    said = output(results, "err").read_text()
    return f"exit code {code}: {said[-500:]}" if code or said else None


def undisturbed(results: Path) -> None:
    if problem := finish(results):
        raise RuntimeError(f"the command fails without any fault: {problem}")


def in_process(main: Callable[[list[str]], int], *args: object) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue()


def again(results: Path, *more: str) -> tuple[int, str]:
    """The command within this process, without its notebook."""
    return in_process(run_all.main, *command(results, *more)[3:], "--no-notebooks")


def different(results: Path, whole: Path) -> str | None:
    """The first difference to undisturbed results: numbers, weights, tables, leftovers, locks."""
    return next(_differences(results, whole), None)


def _differences(results: Path, whole: Path) -> Iterator[str]:
    for path in sorted(whole.glob("smoke/runs/*/*")):
        if path.name in PER_RUN and essence(results / path.relative_to(whole)) != essence(path):
            yield f"{path.relative_to(whole)} is not that of undisturbed results"
    for path in sorted(whole.glob("smoke/tables/*")):
        if essence(results / path.relative_to(whole)) != path.read_bytes():
            yield f"{path.relative_to(whole)} is not that of undisturbed results"
    for path in results.rglob("*"):
        if path.name.startswith(".") or path.name in ("checkpoint.pt", "best.safetensors"):
            yield f"{path.relative_to(results)} is left over"
    for path in results.rglob("lock"):
        try:
            FileLock(path, timeout=0).acquire().lock.release()
        except Timeout:
            yield f"{path.relative_to(results)} is still held"


def essence(path: Path) -> object:
    """Content of a file without times; None if there is no such file."""
    if not path.exists():
        return None
    if path.name == "result.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in _TIMES}
    if path.name == "history.csv":
        with open(path, newline="") as file:
            return [{name: v for name, v in row.items() if "seconds" not in name} for row in csv.DictReader(file)]
    return path.read_bytes()


def complaint(said: str, *named: object) -> str | None:
    """What is wrong with what a program says of a fault: a traceback, several sentences, or the file unnamed."""
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    if (lines := len(said.strip().splitlines())) != 1 or len(said) > 700:
        return f"{lines} lines, {len(said)} characters: {said[:300]}"
    missing = [str(name) for name in named if str(name) not in said]
    return f"{missing[0]} is not named: {said[:300]}" if missing else None

"""``kill -9`` at random moments of every phase, then completion with the same results."""

import argparse
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import safetensors

from tests.faults.common import Tally, different, finish, output, start
from tests.helpers import wait

PHASES = ("start-up", "checkpoint write", "training", "result write", "worker", "table write", "notebook")
"""In the order in which one results folder meets them; the worker's death is followed by that of all."""

_DELAYS = {"start-up": 5.0, "training": 3.0, "notebook": 8.0}
"""Seconds up to which a kill is drawn after its phase has begun; in the others it strikes at once."""


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """Results folders one after the other, each killed in every phase, until there have been enough kills."""
    chance, number = random.Random(args.seed), 0
    while tally.total < args.kills:
        results, number = work / f"killed-{number}", number + 1
        met = []
        for phase in PHASES:
            if (seen := _kill(results, phase, chance)) is not None:
                met += [seen] if phase != "worker" else ["one worker", seen]
        problem = finish(results) or different(results, work / "whole")
        for seen in met:
            tally.add(seen, problem)
        print(f"  {results.name}: killed in {', '.join(met)}; {problem or 'then completed, identical'}", flush=True)


def _kill(results: Path, phase: str, chance: random.Random) -> str | None:
    """Start the command and kill it, all its processes or the first alone; the phase it was in, None if it had ended.

    Kernels of notebooks have sessions of their own and are ended by nothing but the death of their parents.
    """
    before = set(_temporaries(results))
    process = start(results)
    try:
        _await(process, lambda: _began(results, "training" if phase == "worker" else phase))
        if phase in _DELAYS:
            time.sleep(chance.uniform(0, _DELAYS[phase]))
        if phase == "worker":
            _kill_worker(process, results)
            time.sleep(chance.uniform(0, 6))
        ended = process.poll() is not None
        if phase in _DELAYS and chance.random() < 0.5:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        ended = True
    process.wait()
    _await_session(process.pid)
    if problem := _torn(results):
        raise RuntimeError(f"{problem} was torn by a kill in {phase}")
    return None if ended else _phase(results, set(_temporaries(results)) - before)


def _await(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def _began(results: Path, phase: str) -> bool:
    """Whether a phase has begun, from the state of the folder or what was printed."""
    runs = results / "smoke" / "runs"
    if phase == "start-up":
        return True
    if phase == "training":  # after the pretraining, which is over in no time
        begun = list(runs.glob("*/run.json"))
        return len(begun) > 1 and any(not (path.parent / "result.json").exists() for path in begun)
    if phase == "checkpoint write":
        return any(runs.glob("*/.tmp-*-checkpoint.pt"))
    if phase == "result write":
        return any(not (path.parent / "result.json").exists() for path in runs.glob("*/model.safetensors"))
    if phase == "table write":
        return any((results / "smoke" / "tables").glob(".*"))
    return "/tables/" in output(results, "out").read_text()


def _phase(results: Path, temporaries: set[Path]) -> str:
    """The phase in which a command was killed: what it was writing, else what it had done and said."""
    names = " ".join(str(path.relative_to(results)) for path in temporaries)
    for sign, phase in (("-checkpoint.pt", "checkpoint write"), ("/tables/.tmp", "table write")):
        if sign in names:
            return phase
    if "/tables/" in output(results, "out").read_text():
        return "notebook"
    runs = [path.parent for path in (results / "smoke" / "runs").glob("*/run.json")]
    open_runs = [folder for folder in runs if not (folder / "result.json").exists()]
    if any((folder / "model.safetensors").exists() for folder in open_runs):
        return "result write"
    return "training" if open_runs and output(results, "out").read_text() else "start-up or between runs"


def _kill_worker(process: "subprocess.Popen[bytes]", results: Path) -> None:
    """Kill one process that trains, and wait until the command has noticed."""
    workers = [pid for pid in _session(process.pid) if b"spawn_main" in _command(pid)]
    if workers:
        os.kill(workers[-1], signal.SIGKILL)
        wait(lambda: "once more" in output(results, "out").read_text(), 20)


def _session(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(path.parent.name))
    return sorted(found)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _await_session(leader: int) -> None:
    if not wait(lambda: not _session(leader), 30):
        raise RuntimeError(f"the processes {_session(leader)} have outlived the killed command")


def _temporaries(results: Path) -> list[Path]:
    return list(results.rglob(".tmp-*")) if results.exists() else []


def _torn(results: Path) -> Path | None:
    """A file under its final name that is not whole."""
    for path in [*(results / "smoke").rglob("*.json"), *(results / "smoke").rglob("*.safetensors")]:
        try:
            json.loads(path.read_bytes()) if path.suffix == ".json" else safetensors.safe_open(path, "pt")
        except (ValueError, safetensors.SafetensorError):
            return path
    return None

"""The engine Slurm against a real Slurm, which this command starts as one node on loopback: ``python -m tests.slurm``.

It needs munged, slurmctld and slurmd (on Debian the packages slurm-wlm and munge), as root, and the Python package
submitit; where they cannot start it says why and ends. A table goes through jobs and through processes; then runs whose
jobs are queued again, cancelled, killed, and told that their time ends, each after its first checkpoint. All must end
alike. Ctrl-C must leave no job behind.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agmm.papers import tables
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.run import Run
from agmm.training.where import Where
from tests.faults.common import essence
from tests.helpers import ROOT, wait

DAEMONS = ("munged", "slurmctld", "slurmd")
TABLE = "agmm_table2"
LONG = replace(PRESETS["smoke"].run, init="scratch", epochs=60)

INTERRUPTIONS: dict[str, tuple[str, ...]] = {
    "preempted": ("scontrol", "requeue"),
    "cancelled": ("scancel",),
    "killed": ("scancel", "--signal=KILL"),
    "out of time": ("scancel", "--signal=USR2"),
}

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there is no Slurm to test with."""


def main() -> int:
    """Returns 0, also where Slurm cannot start, and 1 if something differs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with the daemons
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        try:
            with cluster(folder):
                failures = [*table(folder / "results"), *interrupted(folder / "results")]
        except CannotStart as reason:
            print(f"skipped: {reason}")
            return 0
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """One node, in the environment of the commands inside; ended with the block."""
    if lacking := [name for name in (*DAEMONS, "sbatch") if shutil.which(name) is None]:
        raise CannotStart(f"there is no {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)")
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise CannotStart("submitit is not installed") from None
    if os.geteuid():
        raise CannotStart("slurmd must be started by root")
    configure(folder)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", socket.gethostname()],
    )
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(daemon(command, folder))
            time.sleep(1)
        if not wait(lambda: "idle" in said("sinfo", "--noheader", "--format=%t"), 30):
            raise CannotStart(f"no node is idle; {last_words(folder)}")
        try:
            yield
        finally:
            # Jobs outlive the daemons.
            said("scancel", "--partition=all")
            wait(lambda: not said("squeue", "--noheader"), 30)


def configure(folder: Path) -> None:
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in taken]
    text = CONFIGURATION.format(host=socket.gethostname(), user="root", folder=folder, ports=ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)


@contextlib.contextmanager
def daemon(command: list[str], folder: Path) -> Iterator[None]:
    """A daemon in the foreground, ended with the block."""
    with open(folder / f"{command[0]}.out", "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def last_words(folder: Path) -> str:
    lines = {name: (folder / f"{name}.out").read_text().splitlines() or ["nothing"] for name in DAEMONS}
    return "; ".join(f"{name}: {said[-1]}" for name, said in lines.items())


def table(results: Path) -> Iterator[str]:
    """A table through `run_all.py`, by both engines; by Slurm, it is interrupted after some runs and repeated."""
    yield from stopped(results)
    for engine in ("slurm", "local"):
        started = time.monotonic()
        code = subprocess.run(command_line(results, engine), cwd=ROOT, check=False).returncode
        print(f"{TABLE} by {engine}: {time.monotonic() - started:.0f} s", flush=True)
        if code:
            yield f"run_all.py --engine {engine} ended with {code}"
    yield from alike(tables.needed([TABLE], "smoke", 1), results)


def stopped(results: Path) -> Iterator[str]:
    """Ctrl-C after a few runs: what is complete stays, the queue empties."""
    process = subprocess.Popen(command_line(results, "slurm"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("[3/"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate()
    empty = wait(lambda: not said("squeue", "--noheader"), 30)
    kept = len(list(results.glob("slurm/smoke/runs/*/result.json")))
    print(f"Ctrl-C: code {process.returncode}, {kept} runs kept, queue {'empty' if empty else 'not empty'}", flush=True)
    if process.returncode != 130 or not empty or kept < 3:
        yield "Ctrl-C did not end the jobs or lost runs"


def command_line(results: Path, engine: str) -> list[str]:
    command = [sys.executable, str(ROOT / "run_all.py"), "--preset", "smoke", "--only", TABLE, "--no-notebooks"]
    return [*command, "--engine", engine, "--results", str(results / engine)]


def interrupted(results: Path) -> Iterator[str]:
    runs = {name: replace(LONG, seed=seed) for seed, name in enumerate(INTERRUPTIONS)}
    stoppers = [
        threading.Thread(target=interrupt, args=(run, results / "slurm", INTERRUPTIONS[name]))
        for name, run in runs.items()
    ]
    for stopper in stoppers:
        stopper.start()
    for engine in ("slurm", "local"):
        failed = sweep.train_all(runs.values(), Where(results / engine, device="cpu"), engine=engine)
        yield from (f"{engine}: {problem}" for problem in failed.values())
    for name, run in runs.items():
        starts = [
            line.split(": ")[-1]
            for line in (run.folder(results / "slurm") / "log.txt").read_text().splitlines()
            if f" of {LONG.epochs}" in line
        ]
        print(f"{name}: started at {', then at '.join(starts)}", flush=True)
        if len(starts) != 2 or starts[1].startswith("epoch 0 "):
            yield f"{name}: did not resume once from a checkpoint"
    yield from alike(list(runs.values()), results)


def interrupt(run: Run, results: Path, command: tuple[str, ...]) -> None:
    """Once the run has a checkpoint, apply the command to its job, which is the one that its log was written by."""
    wait((run.folder(results) / "checkpoint.pt").exists, 300)
    subprocess.run([*command, job_of(run, results)], check=True)


def job_of(run: Run, results: Path) -> str:
    """The job that was submitted to train a run."""
    from submitit.core.utils import DelayedSubmission

    for path in (results / "slurm").glob("*/*_submitted.pkl"):
        if DelayedSubmission.load(path).args[0].id == run.id:
            return path.parent.name
    raise LookupError(run.id)


def alike(runs: list[Run], results: Path) -> Iterator[str]:
    """Which files of the results differ between the engines."""
    different = []
    for run in runs:
        for name in ("result.json", "model.safetensors")[: 2 if run.trained is None else 1]:
            one, other = (essence(run.folder(results / engine) / name) for engine in ("slurm", "local"))
            if one is None or one != other:
                different.append(f"{run.id}: {name} is missing or another one by the other engine")
    print(f"{len(runs)} runs by both engines; {len(different)} of their files differ", flush=True)
    yield from different


def said(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())

"""Trainings beyond this machine: jobs of Slurm as an executor of `concurrent.futures`, through submitit."""

import getpass
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

LOOK_EVERY = 10.0  # seconds between two looks at the jobs, as squeue is a burden for Slurm
GRACE = 30.0  # seconds that the result of a job that is over may take to show on a shared file system
MINUTES = 240  # time limit of a job that is given none; what needs more goes on in the same job, started again
TIMEOUTS = 100  # how often a job may reach its time limit

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
"""Environment of a training: its libraries read it when they are loaded."""

Value = str | int | bool | list[str]
Alive = Callable[[list[Any]], set[str] | None]


class JobLost(BrokenExecutor):
    """Raised for a job that ended without a result, or could not be submitted."""


class Submitted(Executor):
    """Jobs of a `submitit.Executor` as futures, which raise `JobLost` where a job ends without a result.

    ``alive``: jobs of submitit -> identities of those that wait or run, perhaps among others; None if not known.
    """

    def __init__(self, cluster: Any, alive: Alive) -> None:
        self.cluster, self.alive = cluster, alive
        self.jobs: dict[Future[Any], Any] = {}
        self.closed = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a job; when it is started again, `function` finds nothing but what it has left in files."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            self.jobs[future] = self.cluster.submit(_Restartable(function), *args, **kwargs)
        except RuntimeError as error:  # of sbatch, in several lines
            errors = [line for line in str(error).splitlines() if line.startswith("sbatch: error: ")]
            future.set_exception(JobLost(f"Slurm refused the job: {(errors or [str(error)])[-1]}"))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the jobs that are not over if asked, and wait for none."""
        self.closed.set()
        for job in self.jobs.values() if cancel_futures else ():
            job.cancel(check=False)
        self.jobs = {}

    def _follow(self) -> None:
        """Set the futures of the jobs that are over; runs in a thread."""
        missed: dict[str, float] = {}
        while not self.closed.wait(LOOK_EVERY):
            # In this order: what has been submitted is alive, what is not alive any more has written its result.
            jobs = dict(self.jobs)
            alive = self.alive(list(jobs.values())) if jobs else None
            for future, job in jobs.items():
                if alive is None or job.job_id in alive:
                    missed.pop(job.job_id, None)
                waited = time.monotonic() - missed.setdefault(job.job_id, time.monotonic())
                if os.path.exists(job.paths.result_pickle) or waited > GRACE:
                    self.jobs.pop(future, None)
                    _set(future, job)


def slurm(results: str | Path = "results", **parameters: Value) -> Submitted:
    """Return what runs a training in a job of Slurm each, with logs in ``<results>/slurm``.

    A job that is preempted, or reaches its time limit, is queued again and resumes from the checkpoint of its run. The
    results, the data, and this package with its Python lie on a file system that all nodes share, which locks files.
    Parameters are those of sbatch, as submitit's ``update_parameters`` takes them: ``partition``, ``time`` in minutes,
    ``gpus_per_node``, ``cpus_per_task``, ``mem``, ``account`` … Raise ValueError without sbatch, submitit or an answer
    of Slurm, and for parameters that submitit does not know.
    """
    if shutil.which("sbatch") is None:
        remedy = "run it where you submit jobs to Slurm, or use --engine local"
        raise ValueError(f"--engine slurm needs sbatch on this machine; {remedy}")
    try:
        import submitit
    except ImportError:
        raise ValueError("--engine slurm needs submitit: pip install 'agmm[slurm]'") from None
    if queued([]) is None:
        raise ValueError("--engine slurm needs Slurm, but squeue gets no answer from it")
    # requeue, as a cluster's default may be not to queue a job again.
    options: dict[str, Any] = {"job_name": "agmm", "time": MINUTES, "additional_parameters": {"requeue": True}}
    options |= parameters
    options["setup"] = [*_environment(), *options.get("setup", [])]
    if not isinstance(options["time"], int) or options["time"] < 1:
        raise ValueError(f"--slurm takes time in whole minutes, not {options['time']!r}")
    cluster = submitit.SlurmExecutor(Path(results) / "slurm" / "%j", max_num_timeout=TIMEOUTS)
    try:
        cluster.update_parameters(**options)
    except ValueError as error:  # a line for each parameter that there is
        first, *others = str(error).splitlines()
        known = ", ".join(line.split()[1] for line in others if line.startswith("  - "))
        raise ValueError(f"--slurm: {first}; known: {known}") from None
    return Submitted(cluster, queued)


def engine(name: str, results: str | Path, pairs: list[str]) -> str | Submitted:
    """Return ``"local"``, or Slurm with parameters of the form ``KEY=VALUE``."""
    if name == "slurm":
        return slurm(results, **parameters(pairs))
    if pairs:
        raise ValueError("--slurm belongs to --engine slurm")
    return name


def parameters(pairs: list[str]) -> dict[str, Value]:
    """Return pairs ``KEY=VALUE`` as `slurm` takes them; raise ValueError for anything else."""
    values: dict[str, Value] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise ValueError(f"--slurm takes KEY=VALUE, not {pair!r}")
        if key in ("setup", "teardown", "srun_args"):
            values[key] = [value] if key != "srun_args" else shlex.split(value)
        else:
            values[key] = int(value) if value.isdecimal() else value == "true" or value
    return values


def queued(jobs: list[Any]) -> set[str] | None:
    """Return this user's jobs that wait or run, from squeue as sacct needs accounting; None if Slurm is silent."""
    command = ["squeue", "--noheader", "--format=%i", f"--user={getpass.getuser()}"]
    try:
        return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    except (OSError, subprocess.SubprocessError):
        return None


class _Restartable:
    """A function that a job which is started again simply calls again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.process = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.process = os.getpid()
        return self.function(*args, **kwargs)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Return what submitit queues again when a signal announces the end of the job."""
        from submitit.helpers import DelayedSubmission

        # The signal reaches processes that read images, too, which must not queue the job a second time.
        if os.getpid() != self.process:
            os._exit(0)
        return DelayedSubmission(self, *args, **kwargs)


def _set(future: Future[Any], job: Any) -> None:
    """Give a future the result of a job that is over, or its error in one sentence."""
    if not os.path.exists(job.paths.result_pickle):
        early = f"its job {job.job_id} ended early (killed, cancelled, or out of memory)"
        future.set_exception(JobLost(f"{early}; its log is {job.paths.stderr}"))
        return
    try:
        future.set_result(job.result())
    except Exception as error:
        # submitit's text is a traceback between lines of its own.
        lines = [line for line in str(error).splitlines() if line and not line.startswith(("-", " ", "You can check"))]
        future.set_exception(RuntimeError(f"{lines[-1]}; its log is {job.paths.stderr}"))


def _environment() -> list[str]:
    """Return lines of the shell that set what processes inherit; not every cluster exports it to its jobs."""
    root = shlex.quote(str(Path(__file__).resolve().parents[2]))
    threads = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
    return [f"export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}", *threads]

"""Jobs of submitit as an executor: on this machine, as submitit has an executor for that; Slurm itself: tests.slurm."""

import multiprocessing
import os
import pickle
import signal
import sys
from dataclasses import replace

import pytest

import agmm
import run_all
from agmm.training import slurm, sweep
from agmm.training.presets import PRESETS
from agmm.training.where import Where
from tests.helpers import threads

submitit = pytest.importorskip("submitit", reason="submitit is not installed")

SMOKE = PRESETS["smoke"]
TAGGED = replace(SMOKE.run, init="tags")


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(slurm, "GRACE", 0.2)
    cluster = submitit.LocalExecutor(tmp_path / "slurm" / "%j")
    cluster.update_parameters(setup=slurm._environment(), timeout_min=10)
    executor = slurm.Submitted(cluster, lambda jobs: {job.job_id for job in jobs if job.state == "RUNNING"})
    yield executor
    executor.shutdown(cancel_futures=True)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise KeyError("gone")


def test_runs_land_in_the_same_folders(tmp_path, local):
    """One that requires another one: the bits of a training in this process."""
    lines: list[str] = []
    assert sweep.train_all([TAGGED], Where(tmp_path / "jobs", device="cpu"), engine=local, report=lines.append) == {}
    assert [line.split("]")[0] for line in lines] == ["[1/2", "[2/2"]
    with threads(1):
        agmm.run(TAGGED, results=tmp_path / "here", device="cpu")
    for run in (TAGGED.pretraining, TAGGED):
        one, other = (run.folder(tmp_path / name) for name in ("jobs", "here"))
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_lost_job_is_tried_again_once(tmp_path, local, monkeypatch):
    monkeypatch.setattr(sweep, "_train", lambda run, where: die())
    lines: list[str] = []
    failed = sweep.train_all([TAGGED.pretraining], Where(tmp_path), engine=local, report=lines.append)
    assert [("once more" in line, "ended early" in line) for line in lines] == [(True, True), (False, True)]
    assert "_log.err" in failed[TAGGED.pretraining.id]


def test_errors_become_a_sentence(local):
    with pytest.raises(RuntimeError, match=r"^KeyError: 'gone'; its log is .*_0_log\.err$"):
        local.submit(fail).result(60)


def test_a_restarted_job_calls_again():
    call = slurm._Restartable(divmod)
    assert call(7, 2) == (3, 1)
    again = call.checkpoint(7, 2)
    assert (again.function, again.args) == (call, (7, 2))
    assert pickle.loads(pickle.dumps(call))(7, 2) == (3, 1)
    # A process that reads images and receives the signal, too, ends and queues nothing.
    child = multiprocessing.get_context("fork").Process(target=lambda: (call.checkpoint(7, 2), os._exit(3)))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Make a command of Slurm that is a shell script."""

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: (tmp_path / "bin" / name).exists() or None)
    return make


def test_mistakes_are_sentences(tmp_path, commands, capfd, monkeypatch):
    def sentence(*args: str) -> str:
        given = ["--preset", "smoke", "--only", "agmm_table2", "--results", str(tmp_path / "results")]
        assert run_all.main([*given, *args]) == 2
        printed = capfd.readouterr().err
        assert (printed.startswith("run_all.py: "), printed.count("\n")) == (True, 1)
        return printed

    assert "--slurm belongs to --engine slurm" in sentence("--slurm", "time=5")
    assert "--engine slurm needs sbatch on this machine" in sentence("--engine", "slurm")
    with monkeypatch.context() as patch:
        commands(sbatch="exit 1")
        patch.setitem(sys.modules, "submitit", None)
        assert "needs submitit: pip install" in sentence("--engine", "slurm")
    commands(sbatch="exit 1", srun="exit 1", squeue="exit 1")
    assert "squeue gets no answer" in sentence("--engine", "slurm")
    commands(squeue="exit 0")
    assert "takes KEY=VALUE, not 'gpu'" in sentence("--engine", "slurm", "--slurm", "gpu")
    assert "whole minutes, not '4:00:00'" in sentence("--engine", "slurm", "--slurm", "time=4:00:00")
    unknown = sentence("--engine", "slurm", "--slurm", "partitoin=gpu", "mem=8GB")
    assert "['partitoin']" in unknown
    assert "known: account, " in unknown
    with pytest.raises(ValueError, match="engine must be local, slurm or an executor, not 'slrum'"):
        sweep.train_all([TAGGED], Where(tmp_path), engine="slrum")


def test_what_slurm_is_asked_for(tmp_path, commands):
    commands(
        sbatch=f'cp "$1" {tmp_path}/asked; echo "sbatch: error: invalid partition" >&2; exit 1',
        srun="exit 1",
        squeue="echo 17; echo 18",
    )
    assert slurm.queued([]) == {"17", "18"}
    given = slurm.parameters(["gpus_per_node=1", "setup=module load x", "exclusive=true", "mem=8GB"])
    executor = slurm.slurm(tmp_path, **given)
    refused = executor.submit(fail).exception(10)
    executor.shutdown()
    assert isinstance(refused, slurm.JobLost)
    assert str(refused) == "Slurm refused the job: sbatch: error: invalid partition"
    asked = (tmp_path / "asked").read_text().splitlines()
    for option in ("time=240", "gpus-per-node=1", "mem=8GB", "exclusive", "requeue", "job-name=agmm", "signal=USR2@90"):
        assert f"#SBATCH --{option}" in asked
    assert "module load x" in asked
    assert {f"export {name}=1" for name in slurm.ONE_THREAD} < set(asked)

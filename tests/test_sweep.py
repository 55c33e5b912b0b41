"""Many trainings: order, failures, dying processes, estimates."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.where import Where
from tests.helpers import wait
from tests.test_tables import complete

SMOKE = PRESETS["smoke"]
FINE, REFUSED, DIES_ONCE, DIES = (replace(SMOKE.run, init="scratch", seed=seed) for seed in range(4))


def fake(run, where):
    """Stands in for a training, in a process of its own."""
    results = where.results
    with open(Path(results) / "order.txt", "a") as file:
        file.write(f"{run.id} {os.environ['OMP_NUM_THREADS']}\n")
    if run.seed == REFUSED.seed and run.init == "scratch" and run.method != "ImageTags":
        return "no such thing"
    marker = Path(results) / f"died-{run.id}"
    if run.id == DIES.id or (run.id == DIES_ONCE.id and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    complete(results, run, 50.0)
    return None


def fail(run, where):
    return "disk on fire"


def test_goes_on_past_failures_and_deaths(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_train", fake)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tagged = [replace(SMOKE.run, init="tags", seed=seed) for seed in (0, 1)]
    lines: list[str] = []
    failed = sweep.train_all(
        [DIES, DIES_ONCE, REFUSED, FINE, *tagged], Where(tmp_path, device="cpu"), jobs=2, report=lines.append
    )
    assert set(failed) == {REFUSED.id, DIES.id}
    assert "no such thing" in failed[REFUSED.id]
    assert "its process died" in failed[DIES.id]
    assert sweep.missing([DIES_ONCE, FINE, *tagged], tmp_path) == []
    started = [line.split() for line in (tmp_path / "order.txt").read_text().splitlines()]
    order = [run_id for run_id, _ in started]
    assert {threads for _, threads in started} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ
    assert order.count(DIES.id) == order.count(DIES_ONCE.id) == 2
    assert order.count(tagged[0].pretraining.id) == 1
    assert order.index(tagged[0].pretraining.id) < min(order.index(run.id) for run in tagged)
    # 6 runs and one pretraining, settled once each.
    assert [line.split("]")[0] for line in lines if line.startswith("[")] == [f"[{i}/7" for i in range(1, 8)]
    assert sum("once more" in line for line in lines) == 2


def test_failure_fails_what_depends_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_train", fail)
    run = replace(SMOKE.run, init="tags")
    second = run.second_stage()
    failed = sweep.train_all([second], Where(tmp_path, device="cpu"), report=lambda line: None)
    assert set(failed) == {run.pretraining.id, run.id, second.id}
    for dependent in (run, second):
        assert "a run that it starts from failed" in failed[dependent.id]


def test_a_run_tested_again_says_what_is_different():
    run = replace(SMOKE.run, scales=(0.5, 1.0))
    again = run.tested(flip=True, crf="toco")
    assert sweep.describe(again) == sweep.describe(run) + ", tested with flip True, crf toco"
    assert sweep.distinct([again]) == [run.pretraining, run, again]


def test_stages_follow_each_other_in_order_and_forecast():
    teacher = replace(SMOKE.run, init="tags")
    runs = [teacher.second_stage(), teacher, replace(teacher, seed=1)]
    ordered = sweep.distinct(runs)
    assert ordered == [teacher.pretraining, teacher, teacher.second_stage(), replace(teacher, seed=1)]
    seconds = {run.id: float(10**i) for i, run in enumerate(ordered)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "estimate", lambda run, measured: seconds[run.id])
        # The pretraining, then both first stages on two processes, then the second stage.
        assert sweep.total(ordered, {}, 2) == 1 + 1000 + 100
        # What is complete already is not among the runs and costs nothing.
        assert sweep.total([teacher.second_stage()], {}, 2) == 100


def test_nothing_to_do_starts_nothing(tmp_path, monkeypatch):
    complete(tmp_path, FINE, 1.0)
    monkeypatch.setattr(sweep, "pool", None)
    assert sweep.train_all([FINE], Where(tmp_path)) == {}


def test_training_error_becomes_a_sentence(tmp_path):
    run = replace(PRESETS["camvid"].run, seed=5)
    problem = sweep._train(run, Where(tmp_path, device="cpu"))
    assert "--data-root" in problem
    assert "Traceback" in (run.folder(tmp_path) / "log.txt").read_text()


def test_estimates(tmp_path):
    """The median of comparable runs, else the preset's own figure."""
    quick = PRESETS["quick"].at("points")
    assert sweep.estimate(quick, {}) == PRESETS["quick"].seconds["shapes"]
    for seed, seconds in enumerate((10.0, 30.0, 500.0)):
        run = replace(quick, seed=seed)
        complete(tmp_path, run, 50.0)
        path = run.folder(tmp_path) / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
    measured = sweep.measured(tmp_path)
    assert sweep.estimate(replace(quick, seed=9), measured) == 30.0
    assert sweep.estimate(replace(quick, epochs=99), measured) == PRESETS["quick"].seconds["shapes"]
    assert sweep.estimate(replace(quick, stop_after=7), measured) == PRESETS["quick"].seconds["shapes"] / 2
    complete(tmp_path, stopped := replace(quick, stop_after=7), 50.0)
    assert sweep.estimate(replace(stopped, seed=9), sweep.measured(tmp_path)) == 3.0
    # The pretraining (60 s) comes first, then three runs on two processes.
    runs = sweep.distinct(replace(quick, seed=seed) for seed in (9, 10, 11))
    assert sweep.estimate(quick.tested(crf="deeplab"), measured) == PRESETS["quick"].seconds["shapes"] / 10
    assert sweep.total(runs, measured, 2) == 60 + 45
    assert sweep.total(runs[-1:], measured, 2) == 30


def test_set_aside_moves_what_no_other_process_trains(tmp_path):
    complete(tmp_path, FINE, 1.0)
    complete(tmp_path, REFUSED, 1.0)
    with FileLock(REFUSED.folder(tmp_path) / "lock"), pytest.raises(ValueError, match="another process"):
        sweep.set_aside([FINE, REFUSED], tmp_path)
    assert (FINE.folder(tmp_path) / "result.json").exists()
    (moved,) = sweep.set_aside([FINE, DIES], tmp_path)
    assert (moved / "result.json").exists()
    assert moved.parent == tmp_path / "smoke" / "replaced"
    assert not FINE.folder(tmp_path).exists()


def test_workers_do_not_outlive_their_parent(tmp_path):
    """Kill -9 on the parent; the process that trains goes too."""
    code = (
        "import tests.test_sweep as t, sys; t.sweep._train = t.sleep; "
        "__name__ == '__main__' and t.sweep.train_all([t.FINE], t.Where(t.Path(sys.argv[1]), device='cpu'), jobs=1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    pid = tmp_path / "pid"
    assert wait(lambda: pid.exists() and pid.read_text()), "no training has begun"
    parent.kill()
    parent.wait()
    assert wait(lambda: not _runs(int(pid.read_text()))), "the worker is still there"


def _runs(pid):
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def sleep(run, where):
    (where.results / "pid").write_text(str(os.getpid()))
    time.sleep(3600)


def test_runs_are_dealt_out_over_gpus(monkeypatch):
    monkeypatch.setattr(sweep.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: 2)
    assert sweep.default_jobs("auto") == 2
    assert sweep._devices("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert sweep._devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert sweep._devices("cpu", 2) == ["cpu", "cpu"]

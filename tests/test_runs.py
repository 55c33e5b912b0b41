"""Runs: identity, folders, train-or-load, two processes, damaged files."""

import errno
import json
import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import agmm
from agmm.host import atomic_files
from agmm.host.atomic_files import StorageError
from agmm.papers import tables
from agmm.training import sweep, train
from agmm.training.presets import PRESETS
from agmm.training.result import MEASURED, check_description, load_history, load_result
from tests.helpers import ROOT

SMOKE = PRESETS["smoke"]
TINY = replace(SMOKE.at("points", "AGMM", init="scratch"), epochs=1, history_images=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        agmm.run(replace(TINY, seed=seed), results=results)
    return results


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


POINTS = SMOKE.at("points", "AGMM", seed=1, terms=("seg", "self"), sigma=0.5)
RUNS = [POINTS, replace(POINTS, stop_after=1), POINTS.second_stage(), SMOKE.spml("cam")]
RUNS += [POINTS.second_stage().tested(crf="deeplab", scales=(1.0, 1.25, 1.5), flip=True)]


@pytest.mark.parametrize("run", RUNS)
def test_identity_survives_json_and_pickle(run: agmm.Run) -> None:
    again = agmm.Run.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again == run
    assert hash(again) == hash(run)
    assert again.id == pickle.loads(pickle.dumps(run)).id == run.id
    assert replace(run, seed=2).id != run.id  # which is kept with the run, but not handed on to its variants


def test_identity_does_not_depend_on_spelling_out_a_default() -> None:
    assert SMOKE.at("points", "AGMM").id == SMOKE.at("points", "AGMM", variant="official", lambda_gmm=1.0).id
    assert SMOKE.at("points", "AGMM").id != SMOKE.at("points", "AGMM", lambda_gmm=0.5).id


def test_every_field_changes_the_identity() -> None:
    changes = {"seed": 1, "epochs": 9, "lr": 0.004, "batch_size": 32, "init": "scratch", "labels": "full"}
    for field, value in {**changes, "schema": 99, "pretrain_epochs": 9}.items():
        assert replace(SMOKE.run, **{field: value}).id != SMOKE.run.id, field


def test_committed_runs_keep_their_identity() -> None:
    """Fields that came later have defaults that rename nothing."""
    paths = list((ROOT / "results" / "reference").glob("*/runs/*/run.json"))
    assert len(paths) > 100
    for path in paths:
        assert agmm.Run.from_dict(json.loads(path.read_text())).id == path.parent.name


@pytest.mark.parametrize("preset", PRESETS)
def test_records_that_a_correction_replaced_are_in_no_table(preset: str) -> None:
    """Results of AGMM by Eq. 5, of AGMM++ and of what learned from them, before gradients flowed through sigma."""
    replaced = set((ROOT / "tests/golden/replaced_runs.txt").read_text().split())
    assert len(replaced) == 149
    assert not replaced & {run.id for run in tables.needed(tables.TABLES, preset, 3)}
    assert not any((ROOT / "results/reference" / preset / "runs" / one).exists() for one in replaced)


def test_runs_that_share_a_pretraining_require_the_same_run() -> None:
    first, second = SMOKE.at("points", seed=1), SMOKE.at("scribbles", "AGMM", seed=2)
    others = second, SMOKE.at("points", "SPML"), replace(first, stop_after=1)
    assert all(run.requires == first.requires == (first.pretraining,) for run in others)
    assert first.pretraining.requires == ()
    assert SMOKE.at("points", init="scratch").requires == ()


def test_a_run_tested_again_requires_the_one_that_it_tests() -> None:
    base = replace(SMOKE.at("points", "AGMM", seed=1), scales=(0.5, 1.0), flip=True).second_stage()
    refined = base.tested(crf="deeplab")
    other = base.tested(scales=(1.0, 1.25, 1.5), flip=False, scale_merge="max")
    assert base.requires == (base.pretraining, base.teacher)
    for run in (refined, other):
        assert run.trained == base
        assert run.requires == (base,)
        assert (run.pretraining, run.teacher) == (base.pretraining, base.teacher)
        assert replace(run, seed=2).trained == replace(base, seed=2)
        with pytest.raises(ValueError, match="call trained.second_stage"):
            run.second_stage()
    assert refined == replace(base, crf="deeplab")
    assert (other.scales, other.flip, other.scale_merge) == ((1.0, 1.25, 1.5), False, "max")
    assert other.tested(crf="toco") == replace(other, crf="toco")
    assert other.tested(crf="toco").trained == base
    assert other.tested(scales=base.scales, flip=True, scale_merge="mean") == base == base.tested()
    # As trained, the same protocol is a training of its own.
    assert len({base.id, refined.id, other.id, replace(other, trained_test=()).id}) == 4


def test_second_stage_requires_its_teacher_and_shares_its_pretraining() -> None:
    teacher = SMOKE.at("points", "AGMM", seed=1, lambda_gmm=0.5)
    second = teacher.second_stage()
    assert (second.method, second.options, second.seed) == ("Baseline", (), 1)
    assert second.teacher == teacher
    assert second.requires == (teacher.pretraining, teacher)
    others = [SMOKE.at("points", seed=1), SMOKE.at("points", "AGMM", seed=1).second_stage(), teacher]
    assert len({second.id, *(run.id for run in others)}) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crf": "magic"}, "crf is 'magic'; known: , deeplab, toco"),
        ({"scale_merge": "min"}, "scale_merge is 'min'; known: mean, max"),
        ({"batch_size": 10}, "batch_size 10 is not a multiple of microbatch 16"),
        ({"stop_after": 2}, "stop_after 2 is not between 1 and 1; leave it out to train all epochs"),
        ({"stop_after": 0}, "stop_after 0 is not between 1 and 1"),
        ({"method": "Magic"}, "method is 'Magic'; known: Baseline, AGMM, LabelAssignment"),
        ({"method": "AGMM", "options": {"sgima": 1.0}}, "option of AGMM is 'sgima'"),
        ({"method": "AGMM", "options": {"sigma": -1.0}}, "sigma must be positive"),
    ],
)
def test_impossible_runs_are_refused_with_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SMOKE.run, **change)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown field of a run: epoch"):
        agmm.Run.from_dict({"preset": "smoke", "dataset": "shapes", "epoch": 3})


def test_a_complete_run_is_loaded_not_trained(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained again"))
    assert agmm.run(TINY, results=results) == load_result(TINY, results)
    folder = TINY.folder(results)
    files = {path.name for path in folder.iterdir()}
    assert {"run.json", "history.csv", "result.json", "model.safetensors", "environment.json", "log.txt"} <= files
    assert "checkpoint.pt" not in files
    assert agmm.Run.from_dict(json.loads((folder / "run.json").read_text())) == TINY
    history = load_history(TINY, results)
    assert list(history["epoch"]) == [1]
    assert {"loss", "seg", "self", "spar", "con", "absent", "p_miou", "p_restricted_miou", "g_miou"} <= set(history)


def _train_in_process(results: str) -> float:
    return agmm.run(TINY, results=results).seconds


def test_two_processes_train_a_run_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_train_in_process, [str(tmp_path)] * 2)
    assert first == second, "wall times differ: it was trained twice"
    starts = [line for line in (TINY.folder(tmp_path) / "log.txt").read_text().splitlines() if "epoch 0 of" in line]
    assert len(starts) == 1


def test_result_of_something_else_is_refused(results: Path) -> None:
    path = TINY.folder(results) / "result.json"
    plain = json.loads(path.read_text())
    for edit, words in (
        ('{"run_id": ', "result.json is damaged"),
        (plain | {"loss": 1}, "unknown field 'loss'"),
        ({"run_id": TINY.id}, "it lacks 8 required"),
        ([plain], "result.json is damaged"),
        (plain | {"miou": float("nan")}, "see miou"),
        (plain | {"confusion": None}, "see confusion"),
        (plain | {"run_id": "0123456789"}, f"is of run 0123456789, not of {TINY.id}"),
    ):
        path.write_text(edit if isinstance(edit, str) else json.dumps(edit))
        with pytest.raises(ValueError, match=words):
            load_result(TINY, results)
        with pytest.raises(ValueError, match="delete the folder"):
            sweep.missing([TINY], results)


def test_edited_description_is_refused(tmp_path: Path) -> None:
    path = TINY.folder(tmp_path) / "run.json"
    check_description(TINY, tmp_path)
    path.parent.mkdir(parents=True)
    for edit, words in ((TINY.to_dict() | {"seed": 9}, "describes run"), ({"seed": 0}, "does not describe a run")):
        path.write_text(json.dumps(edit))
        with pytest.raises(ValueError, match=words):
            sweep.tidy([TINY], tmp_path)
    path.write_text(json.dumps(TINY.to_dict()))
    sweep.tidy([TINY], tmp_path)


@pytest.mark.parametrize(
    "text", ["", "epoch,loss\n1,0.5\n2,0.", "epoch,loss\n1,0.5\n3,0.4\n", "epoch,loss\n1,a\n", "x\n1\n"]
)
def test_damaged_history_is_named(tmp_path: Path, text: str) -> None:
    folder = TINY.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text(text)
    with pytest.raises(ValueError, match="history.csv is damaged"):
        load_history(TINY, tmp_path)


def test_weights_of_another_run_are_refused_and_those_that_are_damaged_or_gone(results: Path) -> None:
    """They fit the network, and the table would hold their number."""
    other = replace(TINY, seed=1)
    path = TINY.folder(results) / "model.safetensors"
    path.write_bytes((other.folder(results) / path.name).read_bytes())
    with pytest.raises(ValueError, match=f"model.safetensors holds the weights of run {other.id}, not of {TINY.id}"):
        agmm.run(TINY.tested(flip=True), results=results)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        agmm.run(TINY.tested(flip=True), results=results)
    path.unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing, and another run starts from it; delete its"):
        agmm.run(TINY.tested(flip=True), results=results)


def test_killed_during_the_last_test_trains_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            agmm.run(TINY, results=tmp_path)
    (TINY.folder(tmp_path) / MEASURED).touch()  # on weights that this training replaces
    agmm.run(TINY, results=tmp_path)
    log = (TINY.folder(tmp_path) / "log.txt").read_text()
    assert (log.count("  epoch 1  "), log.count("  done: ")) == (1, 1)
    assert not any((TINY.folder(tmp_path) / name).exists() for name in ("checkpoint.pt", MEASURED))


def test_leftovers_of_a_kill_are_removed(results: Path) -> None:
    folder = TINY.folder(results)
    (folder / "checkpoint.pt").touch()
    atomic_files.temporary_beside(folder / "result.json").touch()
    sweep.tidy([TINY], results)
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.name == "checkpoint.pt"]


def test_file_system_without_locks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError, match="gives no locks; choose another folder"):
        agmm.run(TINY, results=tmp_path)

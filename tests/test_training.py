"""Training: resume to the last bit, reproducibility, divergence, accumulation, several processes."""

import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import agmm
from agmm import cli, evaluation, objectives
from agmm.data import sets
from agmm.evaluation.crf import PARAMETERS, mean_field
from agmm.training import batches, loop, pseudo_labels, train, weights
from agmm.training.presets import PRESETS
from agmm.training.result import load_history, load_result
from agmm.training.run import build_objective
from agmm.training.where import Where
from tests.helpers import interrupt, resumes_to_same_bits, same_weights, saved_weights, start

SMOKE = PRESETS["smoke"]
SCRATCH = SMOKE.at("points", "AGMM", init="scratch")
DENSE = replace(SCRATCH, labels="full", label_options=(), method="Baseline", epochs=20, warmup=2, history_images=32)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    run = replace(SCRATCH, epochs=10, train_images=64)
    agmm.run(run, results=tmp_path / "whole")
    chance = random.Random(0)
    checkpoint = run.folder(tmp_path / "killed") / "checkpoint.pt"
    for _ in range(2):
        process = start(run, tmp_path / "killed")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    resumed = agmm.run(run, results=tmp_path / "killed")
    whole = agmm.run(run, results=tmp_path / "whole")
    assert same_weights(saved_weights(run, tmp_path / "whole"), saved_weights(run, tmp_path / "killed"))
    assert resumed.confusion == whole.confusion
    assert load_history(run, tmp_path / "killed").equals(load_history(run, tmp_path / "whole"))


def test_same_seed_repeats_with_labels_made_again_and_another_seed_does_not(tmp_path: Path) -> None:
    first = agmm.run(SCRATCH, results=tmp_path)
    assert first.details["label_source"] == "simulated from dense masks and objects"
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (tmp_path / "cache").rename(fresh / "cache")
    assert agmm.run(SCRATCH, results=fresh).confusion == first.confusion
    assert same_weights(saved_weights(SCRATCH, tmp_path), saved_weights(SCRATCH, fresh))
    assert agmm.run(replace(SCRATCH, seed=1), results=tmp_path).confusion != first.confusion


def test_plain_epochs_are_those_of_the_baseline(tmp_path: Path) -> None:
    """After the first of two epochs the mixture's losses begin; before, all is as without them."""
    baseline, agmm_run = replace(SCRATCH, method="Baseline"), replace(SCRATCH, plain_epochs=1)
    for run in (baseline, agmm_run):
        agmm.run(run, results=tmp_path)
    plain, mixed = (load_history(run, tmp_path) for run in (baseline, agmm_run))
    assert mixed["self"].isna().tolist() == [True, False]
    assert mixed["seg"][0] == plain["seg"][0]
    assert not same_weights(*(saved_weights(run, tmp_path) for run in (baseline, agmm_run)))
    with pytest.raises(ValueError, match="plain_epochs is 3; it must lie between 0 and the 2 epochs"):
        replace(SCRATCH, plain_epochs=3)
    agmm.run(replace(SCRATCH, plain_epochs=2), results=tmp_path)
    assert same_weights(*(saved_weights(run, tmp_path) for run in (baseline, replace(SCRATCH, plain_epochs=2))))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with `DENSE`, trained long enough to predict several classes."""
    results = tmp_path_factory.mktemp("dense")
    agmm.run(DENSE, results=results)
    return results


def test_training_lowers_the_loss_and_beats_a_constant_prediction(dense: Path) -> None:
    history, confusion = load_history(DENSE, dense), load_result(DENSE, dense).confusion
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history["p_miou"].iloc[-1] > 100 * np.sum(confusion[0]) / np.sum(confusion) / 7


def test_pretraining_is_trained_first_and_shared(tmp_path: Path) -> None:
    run = replace(SMOKE.at("points"), epochs=1)
    agmm.run(run, results=tmp_path)
    pretrained = saved_weights(run.pretraining, tmp_path)
    net = weights.build_network(run, 7)
    assert net.backbone.state_dict().keys() == pretrained.keys()
    stamp = (run.pretraining.folder(tmp_path) / "result.json").stat().st_mtime_ns
    agmm.run(replace(run, seed=1), results=tmp_path)
    assert (run.pretraining.folder(tmp_path) / "result.json").stat().st_mtime_ns == stamp


def test_second_stage_of_clicks_learns_classes_that_were_not_clicked(tmp_path: Path) -> None:
    first = replace(SMOKE.at("clicks20"), epochs=1)
    second = first.second_stage()
    assert (second.restrict, second.teacher) == (False, first)
    assert replace(second, restrict=True).id != second.id
    agmm.run(first, results=tmp_path)
    context = pseudo_labels.prepare(second, Where(tmp_path), torch.device("cpu"))
    sparse = context.sparse
    net = weights.load_network(first, tmp_path, context.data.num_classes, torch.device("cpu"))
    found = {
        restrict: pseudo_labels.pseudo_labels(net, first, replace(context, run=replace(second, restrict=restrict)))
        for restrict in (True, False)
    }
    with torch.no_grad():
        logits = net(torch.from_numpy(np.asarray(context.data.images)).movedim(-1, 1) / 255)[1]
    free = np.asarray(sparse) == agmm.UNLABELED
    assert (found[False][free] == logits.argmax(1).numpy()[free]).mean() > 0.99
    for label, dense in zip(sparse, found[True], strict=True):
        assert set(np.unique(dense)) <= set(np.unique(label[label < agmm.UNLABELED]))
        assert (dense[label < agmm.UNLABELED] == label[label < agmm.UNLABELED]).all()
    assert (found[True] != found[False]).any()


@pytest.mark.parametrize(
    ("method", "options", "term"), [("TreeEnergy", {}, "tree"), ("DenseCRFLoss", {"size_rule": "scaled_sigma"}, "crf")]
)
def test_rivals_train_and_leave_a_plain_network(tmp_path: Path, method: str, options: dict, term: str) -> None:
    """The layer that only their loss needs is trained and resumed, and gone from the weights."""
    run = replace(SCRATCH, method=method, options=options, epochs=2)
    agmm.run(run, results=tmp_path)
    history = load_history(run, tmp_path)
    assert {"loss", "seg", term} <= set(history.columns)
    assert np.isfinite(history[term]).all()
    assert history["loss"].iloc[-1] != history["seg"].iloc[-1]
    assert saved_weights(run, tmp_path).keys() == weights.build_network(run, 7).state_dict().keys()
    assert resumes_to_same_bits(run, tmp_path, tmp_path / "broken")


@pytest.mark.parametrize("where", ["loss", "logits"])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = replace(SCRATCH, epochs=4)
    calls = 0
    whole = objectives.AGMM.__call__

    def poisoned(self: objectives.AGMM, *args: object, **given: object) -> objectives.Output:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 5 and where == "logits":
            args = (args[0], args[1] * torch.nan, *args[2:])
        output = whole(self, *args, **given)
        if calls == 5:
            output.loss, output.terms["self"] = output.loss * torch.nan, output.terms["self"] * torch.nan
        return output

    monkeypatch.setattr(objectives.AGMM, "__call__", poisoned)
    seen = 1 if where == "logits" else 2  # losses are looked at now and then
    with pytest.raises(loop.TrainingDiverged, match=f"at epoch 3, step {seen}; the checkpoint of epoch 2 is kept"):
        agmm.run(run, results=tmp_path)
    state = torch.load(run.folder(tmp_path) / "checkpoint.pt", weights_only=True)
    assert state["progress"]["epoch"] == 2
    assert all(torch.isfinite(value).all() for value in state["net"].values())
    monkeypatch.undo()
    assert agmm.run(run, results=tmp_path).epoch == 4


@pytest.mark.parametrize("selection", ["last", "best"])
def test_a_run_that_stops_early_is_the_beginning_of_the_whole_one(tmp_path: Path, selection: str) -> None:
    """To the last bit, as it follows the same schedule; and it reports what it trained."""
    whole = replace(SCRATCH, epochs=4, warmup=2, selection=selection)
    stopped = replace(whole, stop_after=2)
    agmm.run(whole, results=tmp_path)
    result = agmm.run(stopped, results=tmp_path)
    history = load_history(stopped, tmp_path)
    assert history.equals(load_history(whole, tmp_path)[:2])
    assert result.epoch == (2 if selection == "last" else int(history["test_miou"].idxmax()) + 1)
    assert selection == "last" or result.miou == pytest.approx(history["test_miou"].max(), abs=1e-9)
    log = (stopped.folder(tmp_path) / "log.txt").read_text()
    assert "epoch 0 of 2" in log
    assert "epoch 0 of 4" in (whole.folder(tmp_path) / "log.txt").read_text()


def test_throughput_counts_the_epochs_that_were_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(SCRATCH, epochs=4, stop_after=1)
    monkeypatch.setattr(train.loop, "fit", lambda *_: loop.Progress(epoch=1, seconds=9.0, train_seconds=8.0))
    run.folder(tmp_path).mkdir(parents=True)
    assert train.train(run, Where(tmp_path)).images_per_second == 32 / 8


def test_schedule_follows_the_poly_formula() -> None:
    run = replace(SCRATCH, warmup=0, power=0.9)
    assert loop.schedule(run, 0, 100) == 1
    assert loop.schedule(run, 50, 100) == pytest.approx(0.5**0.9)
    assert loop.schedule(replace(run, warmup=10), 4, 100) == 0.5
    from_tenth = [loop.schedule(replace(run, warmup=50, warmup_from=0.1), step, 100) for step in range(100)]
    assert from_tenth[0] == pytest.approx(0.1)
    assert from_tenth[25] == pytest.approx(0.55)
    # Past the crossing of both lines, still in the warm-up, the decay is the smaller one.
    assert from_tenth[45] == pytest.approx(0.55**0.9)
    assert from_tenth[60] == pytest.approx(0.4**0.9)


@pytest.mark.parametrize("scope", ["microbatch", "effective"])
def test_accumulated_microbatches_average_as_their_scope_says(scope: str) -> None:
    """Plain sums over microbatches against the whole batch, without batch normalization between them."""
    run = replace(SCRATCH, microbatch=4, loss_scope=scope, options={"terms": ("seg", "self", "absent")})
    split = sets.load("shapes", "train", count=16)
    sparse = sets.sparse_labels(split, "points", dict(run.label_options), 0)
    net = weights.build_network(run, 7).eval()
    tensors = (
        torch.from_numpy(np.asarray(split.images)),
        torch.from_numpy(sparse),
        torch.from_numpy(np.stack([agmm.labels.image_classes(label, 7) for label in sparse])),
    )
    objective = build_objective("AGMM", 7, **dict(run.options))

    def total(run: agmm.Run) -> torch.Tensor:
        (step,) = batches.InMemory(run, *tensors).epoch(0)
        parts = [objective(*net(b.images), b.labels, b.image_classes, b.counts).loss / len(step) for b in step]
        return torch.stack(parts).sum()

    whole, parts = total(replace(run, microbatch=16)), total(run)
    if scope == "effective":
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)
    else:
        assert abs(parts - whole) > 1e-4 * whole


def test_a_single_training_by_its_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "smoke", "--seed", "1", "--results", str(tmp_path)]
    assert cli.main(["run", "O030", *arguments]) == 0
    run = SMOKE.at("clicks20", seed=1)
    result = load_result(run, tmp_path)
    source, end = capfd.readouterr().out.splitlines()
    assert source == "labels of streets: simulated from dense masks, seed = the run's"
    assert end == f"O030: {result.miou:.2f}, in {run.folder(tmp_path)}"
    assert cli.find(replace(run, seed=0).id, "smoke") == replace(run, seed=0)
    assert cli.main(["run", "O076", *arguments]) == 2
    assert "the preset smoke has no training 'O076'; `python run_all.py" in capfd.readouterr().err
    assert cli.main(["run", "O001", "--preset", "smok"]) == 2
    assert "did you mean smoke?" in capfd.readouterr().err


def test_weights_are_tested_again_without_training(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refined, views = DENSE.tested(crf="deeplab"), DENSE.tested(scales=(1.0, 1.25), flip=True, scale_merge="max")
    monkeypatch.setattr(loop, "fit", lambda *_, **__: pytest.fail("trained again"))
    first, second = (agmm.run(run, results=dense) for run in (refined, views))
    trained = load_result(DENSE, dense)
    files = {path.name for path in refined.folder(dense).iterdir()}
    assert files == {"run.json", "result.json", "environment.json", "log.txt", "lock"}
    assert (first.epoch, first.details["tested_run"]) == (trained.epoch, DENSE.id)
    assert first.details["crf"] == {**asdict(PARAMETERS["deeplab"]), "backend": "lattice"}
    assert load_history(refined, dense).equals(load_history(DENSE, dense))
    test = sets.load("shapes", "test", count=DENSE.test_images)
    net = weights.build_network(DENSE, 7)
    net.load_state_dict(saved_weights(DENSE, dense))
    net.eval()
    rgb = torch.from_numpy(np.asarray(test.images)).movedim(-1, 1).float()
    with torch.no_grad():
        probabilities = net(rgb / 255)[1].softmax(1)
        maps = []
        for size in (64, 80):
            scaled = F.interpolate(rgb / 255, size=(size, size), mode="bilinear", align_corners=True)
            logits = net(scaled)[1] + net(scaled.flip(3))[1].flip(3)
            maps.append(F.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=True))
    expected = (mean_field(probabilities, rgb, PARAMETERS["deeplab"]), torch.stack(maps).max(0).values)
    for result, map_ in zip((first, second), expected, strict=True):
        matrix = evaluation.confusion_matrix(map_.argmax(1), torch.from_numpy(np.asarray(test.truth)), 7)
        assert np.abs(matrix.numpy() - result.confusion).sum() < 0.002 * matrix.sum()  # a class may win by a rounding
        assert result.miou == pytest.approx(evaluation.mean_iou(torch.tensor(result.confusion)))
    assert first.confusion != trained.confusion
    assert second.confusion != trained.confusion


@pytest.mark.parametrize("damaged", [True, False])
def test_a_damaged_checkpoint_or_another_run_s_is_refused(tmp_path: Path, damaged: bool) -> None:
    """The other one fits the network, and training would go on from it."""
    other = replace(SCRATCH, seed=1)
    if not damaged:
        interrupt(other, tmp_path)
    path = SCRATCH.folder(tmp_path) / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint" if damaged else (other.folder(tmp_path) / path.name).read_bytes())
    with pytest.raises(ValueError, match="checkpoint.pt is damaged or of another run; delete it"):
        agmm.run(SCRATCH, results=tmp_path)

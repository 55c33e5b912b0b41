"""The benchmarks: what is compared is the same work, ratios are of turns, and every group gives its figures."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from agmm import evaluation
from agmm.codes import UNLABELED
from agmm.papers import notebooks
from agmm.rivals.spml.segments import directions, grid_clusters, spherical_kmeans, with_location
from agmm.tools import bench
from agmm.tools.bench import images as measured
from agmm.tools.bench import objective, step
from agmm.tools.bench.objective import Figure, Setting
from agmm.training import sweep as trainer
from agmm.training import timing, train
from agmm.training.result import load_result
from agmm.training.run import Run
from agmm.training.timing import FORMS, Shapes, random_labels, random_outputs
from agmm.training.where import Where
from tests.helpers import ROOT, one_thread, tool  # noqa: F401

COMMITTED = pd.read_csv(ROOT / "results/reference/bench/cpu.csv")
QUICKLY = Setting(repeats=1, small=True)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_functions_are_called_in_turn():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = timing.in_turn(functions, "cpu", repeats=3, warmup=2)
    assert calls == ["a", "b"] * 5
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert timing.median_ratio([1, 2, 9], [1, 1, 3]) == 2


def test_targets_and_table(tmp_path, monkeypatch, capsys):
    first = [Figure("one", 2.0, "s", "the floor", 1.0, 2.0, "<= 3"), Figure("two", 2.0, "s", "loop", 5.0, 0.4, ">= 5")]
    third = [Figure("3", 1.0, "s", "baseline", 1.0, 1.0)]
    monkeypatch.setattr(bench, "GROUPS", {"branch": lambda how: first, "step": lambda how: third})
    table = bench.measure(QUICKLY)
    assert list(table) == list(COMMITTED)
    text = capsys.readouterr().out
    assert "target <= 3: met" in text
    assert "target >= 5: missed" in text
    bench.write(table, tmp_path / "sub" / "cpu.csv")
    found = pd.read_csv(tmp_path / "sub" / "cpu.csv", keep_default_na=False)
    assert found["case"].tolist() == ["one", "two", "3"]
    assert found["met"].tolist() == ["yes", "no", ""]
    assert found["torch"].eq(torch.__version__).all()
    assert found["hardware"].str.len().min() > 0
    lines = (tmp_path / "sub" / "cpu.md").read_text().splitlines()
    assert "| two, float32 | 2 s | 0.4 × | loop | >= 5 (missed) |" in lines
    assert [line for line in lines if line.startswith("###")] == ["### branch", "### step"]


def test_notebook(tmp_path):
    given = {"device": "cpu", "repeats": 1, "small": True, "groups": "step", "results": str(tmp_path)}
    notebooks.execute(ROOT / "notebooks/explore/benchmarks.ipynb", tmp_path / "out.ipynb", given)
    table = pd.read_csv(tmp_path / "bench" / "cpu.csv")
    drawn = pd.read_csv(tmp_path / "bench" / "cpu_speed.csv")
    assert drawn["ratio"].tolist() == pytest.approx(table["ratio"].tolist())
    assert (tmp_path / "bench" / "cpu_speed.png").stat().st_size > 10_000


def test_command(tmp_path):
    options = ("--device", "cpu", "--small", "--repeats", 1)
    assert tool(bench, "step", *options, "--csv", tmp_path / "cpu.csv") == 0
    steps = pd.read_csv(tmp_path / "cpu.csv")
    assert set(steps["group"]) == {"step"}
    assert steps["precision"].tolist() == 3 * ["float32"] + 3 * ["bfloat16"]
    assert steps["case"].str.split(",").str[0].tolist() == 2 * ["AGMM", "AGMM++", "baseline"]
    assert (steps["ratio"] > 0).all()
    assert tool(bench, *options, "--profile", tmp_path / "profile.txt") == 0
    text = (tmp_path / "profile.txt").read_text()
    assert text.startswith("Three steps of AGMM, quick, small network, float32")
    assert "convolution" in text


def test_wrong_options_are_one_sentence(capsys):
    for arguments, sentence in (
        (["speed"], "known: dense, branch, step, input, evaluation, sweep, spml"),
        (["--csv", "speed.txt"], "does not end in .csv"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no GPU; use the device cpu")]),
    ):
        assert tool(bench, *arguments) == 2
        assert sentence in capsys.readouterr().err


def test_floors_count_features_and_logits_three_times(monkeypatch):
    monkeypatch.setattr(objective, "bandwidth", lambda setting: 1e9)
    figures = {figure.case: figure for figure in objective.branch(QUICKLY)}
    features, logits = 4 * 32 * 16 * 16, 4 * 7 * 64 * 64
    assert figures["VOC, 10 clicks, spar, con"].against_value == pytest.approx(12 * features / 1e9)
    for case in ("VOC, 10 clicks, all five terms", "Cityscapes, dense, all five terms", "AGMM++, VOC, clicks"):
        figure = figures[case]
        assert figure.against_value == pytest.approx(12 * (features + logits) / 1e9)
        assert figure.ratio == pytest.approx(figure.value / figure.against_value)
    assert set(COMMITTED.query("group == 'branch'")["case"]) <= set(figures)


def test_dense_and_fast_agree(monkeypatch):
    # Fresh processes only serve the honesty of the memory figures.
    monkeypatch.setattr(objective, "in_new_process", lambda function, *arguments: function(*arguments))
    figures, right = list(objective.dense(QUICKLY)), objective.dense_agmm
    assert [figure.unit for figure in figures] == ["s", "GB", "relative"] * 3
    assert all(figure.value < 1e-5 and figure.met == "yes" for figure in figures[2::3])
    assert [figure.case for figure in figures] == COMMITTED.query("group == 'dense'")["case"].tolist()
    monkeypatch.setattr(objective, "dense_agmm", lambda *given, **how: (1.001 * right(*given, **how)[0], {}))
    with pytest.raises(RuntimeError, match="differs from its dense formulation"):
        list(objective.dense(QUICKLY))


def peaks():
    """Process, and memory beyond what is held before: with a block of 200 MB, and after a reset without it."""
    before = objective.reset_peak("cpu")
    block = torch.ones(50_000_000)
    del block
    return os.getpid(), objective.peak_bytes("cpu") - before, objective.reset_peak("cpu") - before


def test_peak_of_memory_is_that_of_a_new_process_since_its_reset():
    process, with_block, after = objective.in_new_process(peaks)
    assert process != os.getpid()
    assert 190e6 < with_block < 260e6
    assert after < 60e6 or not objective.LINUX.exists()


@pytest.mark.parametrize("form", FORMS)
def test_random_labels_have_the_classes_and_the_form_asked_for(form):
    shapes = Shapes(4, 7, 32, 16, 64, form=form)
    features, logits = random_outputs(shapes)
    assert features.shape == (4, 32, 16, 16)
    assert logits.shape == (4, 7, 64, 64)
    assert features.min() == 0
    labels, image_classes = random_labels(shapes)
    assert image_classes.sum(1).tolist() == [2, 3, 4, 2]
    pixels = (labels != UNLABELED).sum(dim=(1, 2))
    low, high = {"clicks": (8, 10), "scribbles": (60, 2000), "blocks": (100, 600), "dense": (4096, 4096)}[form]
    assert low <= pixels.min() <= pixels.max() <= high
    for label, classes in zip(labels, image_classes, strict=True):
        assert classes[label[label != UNLABELED].unique()].all()


def test_figures_of_spml():
    clustering, training = step.spml(QUICKLY)
    assert clustering.case == "k-means, 16 x 16 x 18, 36 clusters"
    assert clustering.against == "scikit-learn (CPU)"
    assert training.against == "step of the baseline, small"
    assert all(figure.value > 0 and figure.ratio > 0 and not figure.met for figure in (clustering, training))


def test_the_library_clusters_the_same_vectors():
    maps = torch.nn.functional.normalize(step.embeddings(1, 16, 24), dim=1)
    vectors = with_location(maps).flatten(2).mT
    first = grid_clusters((24, 24), (3, 3)).flatten()[None]
    found = spherical_kmeans(vectors, first, 9)[0].numpy()
    other = step.library_kmeans(vectors[0].numpy(), directions(vectors[0], first[0], 9).numpy())
    moved = found != first[0].numpy()
    assert moved.mean() > 0.1
    assert np.mean(found == other) > 0.8
    assert np.mean(found[moved] == other[moved]) > 0.6


def test_every_way_of_reading_is_set_beside_the_network(monkeypatch):
    def in_turn(functions, *_options):
        for function in functions.values():
            function()
        # Times of 2, 3 and 4 seconds, then half of them twice.
        return {name: [2.0 + n, 1 + n / 2, 1 + n / 2] for n, name in enumerate(functions)}

    monkeypatch.setattr(timing, "in_turn", in_turn)
    figures = list(measured.reading(Setting(repeats=3, small=True)))
    ways = [(title, way) for title in ("VOC", "Cityscapes") for way in ("from files", "decoded images kept")]
    assert [figure.case for figure in figures] == [f"{title} at 33, 1 process, {way}" for title, way in ways]
    for figure, slower in zip(figures, (3, 4) * 2, strict=True):
        assert figure.against_value == 2 / 1  # images of a step by its median time
        assert figure.value == pytest.approx(4 / (slower / 2))  # images of an epoch
        assert figure.ratio == pytest.approx(2 / slower * 4 / 2)


def test_figures_of_every_test_procedure():
    figures = list(measured.evaluation(QUICKLY))
    assert [figure.target for figure in figures] == [">= 5", "", "<= 1"] * 3
    for speed, limit, difference in zip(figures[::3], figures[1::3], figures[2::3], strict=True):
        assert min(speed.value, speed.ratio) > 0
        assert speed.against == limit.against == "one view or tile at a time"
        assert difference.met == "yes"


def test_a_difference_of_predictions_is_reported(monkeypatch):
    original = evaluation.predictor

    def predictor(net, protocol):
        """The worst class instead of the best one where views are predicted one at a time."""
        right = original(net, protocol)
        return right if protocol.pixels > 1 else lambda inputs: -right(inputs)

    monkeypatch.setattr(evaluation, "predictor", predictor)
    monkeypatch.setattr(measured, "SMALL", measured.SMALL[:1])
    *_, difference = measured.evaluation(QUICKLY)
    assert difference.met == "no"
    assert difference.value > 5e5


def test_forward_passes_repeat_what_a_test_does():
    case = replace(measured.SMALL[2], images=2)
    images, truths = measured.data(case)
    net = measured.network(case, images[:1], "cpu")
    shapes: list[tuple[int, ...]] = []
    net.register_forward_pre_hook(lambda module, arguments: shapes.append(tuple(arguments[0].shape)))

    def evaluate() -> object:
        return evaluation.evaluate(net, images, truths, case.num_classes, case.protocol, batch_size=2, device="cpu")

    with torch.no_grad():
        measured.forward_passes(net, evaluate)()
    assert shapes[: len(shapes) // 2] == shapes[len(shapes) // 2 :]
    tiles = 2 * len(evaluation.tile_positions(case.height, case.width, case.protocol.tile))
    assert sum(shape[0] for shape in shapes) == 2 * tiles


def test_the_same_runs_are_trained_each_way(monkeypatch):
    calls: list[tuple[int, set[int], int]] = []

    def train_all(runs: list[Run], where: Where, *, jobs: int, **options: Any) -> dict[str, str]:
        before = set(where.cache.iterdir())
        if not calls:
            train.run(runs[0], results=where.results, device=where.device)
            assert load_result(runs[0], where.results) is not None
        calls.append((jobs, {run.threads for run in runs}, len(set(where.cache.iterdir()) - before)))
        return {}

    monkeypatch.setattr(trainer, "train_all", train_all)
    figures = list(step.trainings(QUICKLY))
    assert calls == [(1, {1}, 0), (2, {1}, 0), (1, {2}, 0)], "what they share is made before"
    assert [figure.against for figure in figures] == ["one process", "one thread", "two threads"]
    assert all(figure.value > 0 and figure.ratio > 0 and not figure.met for figure in figures)
    assert figures[0].ratio == pytest.approx(figures[0].value / figures[0].against_value)


def test_a_target_needs_two_cores_and_a_figure_complete_trainings(monkeypatch):
    monkeypatch.setattr(step, "prepare", lambda runs, cache: cache.mkdir())
    monkeypatch.setattr(trainer, "train_all", lambda *arguments, **options: {})
    for cores in (1, 2):
        monkeypatch.setattr(trainer, "default_jobs", lambda device, cores=cores: cores)
        targets = [figure.target for figure in step.trainings(Setting(repeats=1))]
        assert targets == ["", "", ">= 1" if cores > 1 else ""]
    monkeypatch.setattr(trainer, "train_all", lambda *arguments, **options: {"a1": "Baseline: disk on fire"})
    with pytest.raises(RuntimeError, match="disk on fire"):
        next(step.trainings(QUICKLY))

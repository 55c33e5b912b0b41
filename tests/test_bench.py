import os

import pandas as pd
import pytest
import torch

from agmm.codes import UNLABELED
from agmm.papers import notebooks
from agmm.tools import bench
from agmm.tools.bench import branch, dense, groups, step
from agmm.tools.bench.figure import Figure, Setting, bandwidth, in_turn, median_ratio, show
from agmm.tools.bench.inputs import FORMS, SMALL, tensors
from tests.helpers import ROOT, tool

QUICKLY = Setting(repeats=1, small=True)


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_this_process(monkeypatch):
    """Skip the fresh processes, which only serve the honesty of the memory figures."""
    monkeypatch.setattr(dense, "in_new_process", lambda function, *arguments: function(*arguments))


def test_dense_and_fast_agree(in_this_process):
    figures = list(dense.figures(QUICKLY))
    assert [figure.unit for figure in figures] == ["s", "GB", "relative"] * 3
    assert all(figure.value < 1e-5 and figure.met for figure in figures[2::3])


def test_disagreement_is_an_error(in_this_process, monkeypatch):
    right = dense.dense_agmm

    def wrong(*arguments, **options):
        loss, terms = right(*arguments, **options)
        return 1.001 * loss, terms

    monkeypatch.setattr(dense, "dense_agmm", wrong)
    with pytest.raises(RuntimeError, match="differs from its dense formulation"):
        list(dense.figures(QUICKLY))


def test_a_flipped_sign_in_a_million_is_no_difference():
    expected = torch.ones(3_000_000)
    found = expected.clone()
    found[7] = -1
    assert dense.relative(found, expected) == 0
    found[:1000] = -1
    assert dense.relative(found, expected) == pytest.approx(2 * (997 / 3e6) ** 0.5)
    assert dense.relative(torch.tensor(1.5), torch.tensor(1.0)) == 0.5


def peaks():
    """Beyond what is held before: with a block of 200 MB, and after a reset without it."""
    before = dense.reset_peak("cpu")
    block = torch.ones(50_000_000)
    del block
    return dense.peak_bytes("cpu") - before, dense.reset_peak("cpu") - before


def test_peak_of_memory_is_that_since_its_reset():
    with_block, after = dense.in_new_process(peaks)
    assert 190e6 < with_block < 260e6
    assert after < 60e6 or not dense.LINUX.exists()


def test_a_new_process_is_another_one():
    assert dense.in_new_process(os.getpid) != os.getpid()


def test_floors_count_features_and_logits_three_times(monkeypatch):
    monkeypatch.setattr(branch, "bandwidth", lambda setting: 1e9)
    figures = {figure.case: figure for figure in branch.figures(QUICKLY)}
    features, logits = 4 * 32 * 16 * 16, 4 * 7 * 64 * 64
    assert figures["VOC, 10 clicks, spar, con"].against_value == pytest.approx(12 * features / 1e9)
    for case in ("VOC, 10 clicks, all five terms", "Cityscapes, dense, all five terms"):
        figure = figures[case]
        assert figure.against_value == pytest.approx(12 * (features + logits) / 1e9)
        assert figure.ratio == pytest.approx(figure.value / figure.against_value)


def test_bandwidth_is_that_of_a_memory():
    assert 1e8 < bandwidth(QUICKLY) < 1e12


@pytest.mark.parametrize("form", FORMS)
def test_inputs_have_the_classes_and_the_form_asked_for(form):
    features, logits, labels, image_classes = tensors(SMALL, form)
    assert features.shape == (4, 32, 16, 16)
    assert logits.shape == (4, 7, 64, 64)
    assert features.min() == 0
    assert image_classes.sum(1).tolist() == [2, 3, 4, 2]
    pixels = (labels != UNLABELED).sum(dim=(1, 2))
    low, high = {"clicks": (8, 10), "scribbles": (60, 2000), "blocks": (100, 600), "dense": (4096, 4096)}[form]
    assert (low <= pixels).all()
    assert (pixels <= high).all()
    for label, classes in zip(labels, image_classes, strict=True):
        assert classes[label[label != UNLABELED].unique()].all()


def test_steps_of_both_methods_are_compared():
    figures = list(step.figures(QUICKLY))
    assert [figure.precision for figure in figures] == 3 * ["float32"] + 3 * ["bfloat16"]
    assert [figure.case.split(",")[0] for figure in figures] == 2 * ["AGMM", "AGMM++", "baseline"]
    assert all(figure.ratio > 0 for figure in figures)


def test_operations_of_a_network_are_counted_twice_per_multiplication(monkeypatch):
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1)
    monkeypatch.setattr(step.networks, "build", lambda *args, **kwargs: convolution)
    assert step.forward_operations("any", 2, torch.zeros(1, 3, 8, 6)) == 2 * 8 * 6 * 5 * 3 * 9


def test_functions_are_called_in_turn():
    calls = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, Setting(repeats=3), warmup=2)
    assert calls == ["a", "b"] * 5
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert median_ratio([1, 2, 9], [1, 1, 3]) == 2


def three_figures(setting):
    yield Figure("branch", "one", 2.0, "s", "the floor", 1.0, 2.0, "<= 3")
    yield Figure("branch", "two", 2.0, "s", "the loop", 5.0, 0.4, ">= 5")
    yield Figure("step", "three", 1.0, "s", "baseline", 1.0, 1.0)


def test_targets_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(groups, "GROUPS", {"three": three_figures})
    table = bench.measure(QUICKLY)
    text = capsys.readouterr().out
    assert "target <= 3: met" in text
    assert "target >= 5: missed" in text
    bench.write(table, tmp_path / "sub" / "cpu.csv")
    found = pd.read_csv(tmp_path / "sub" / "cpu.csv", keep_default_na=False)
    assert found["case"].tolist() == ["one", "two", "three"]
    assert found["met"].tolist() == ["yes", "no", ""]
    assert found["torch"].eq(torch.__version__).all()
    assert found["hardware"].str.len().min() > 0
    lines = (tmp_path / "sub" / "cpu.md").read_text().splitlines()
    assert "| two, float32 | 2 s | 0.4 × | the loop | >= 5 (missed) |" in lines
    assert [line for line in lines if line.startswith("###")] == ["### branch", "### step"]
    assert [figure.met for figure in show(three_figures(QUICKLY))] == [True, False, None]


def test_command(tmp_path, capsys):
    path = tmp_path / "cpu.csv"
    assert tool(bench, "step", "--device", "cpu", "--small", "--repeats", 1, "--csv", path) == 0
    assert set(pd.read_csv(path)["group"]) == {"step"}


def test_notebook(tmp_path):
    given = {"device": "cpu", "repeats": 1, "small": True, "groups": "step", "results": str(tmp_path)}
    notebooks.execute(ROOT / "notebooks/explore/benchmarks.ipynb", tmp_path / "out.ipynb", given)
    table = pd.read_csv(tmp_path / "bench" / "cpu.csv")
    drawn = pd.read_csv(tmp_path / "bench" / "cpu_speed.csv")
    assert drawn["ratio"].tolist() == pytest.approx(table["ratio"].tolist())
    assert (tmp_path / "bench" / "cpu_speed.png").stat().st_size > 10_000


def test_profile(tmp_path):
    assert tool(bench, "--device", "cpu", "--small", "--profile", tmp_path / "profile.txt") == 0
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

import csv
import os

import pytest
import torch

from agmm import bench
from agmm.labels import UNLABELED


@pytest.fixture
def in_this_process(monkeypatch):
    """Skip the fresh processes, which only serve the honesty of the memory figures."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "in_new_process", lambda function, *arguments: function(*arguments))
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("form", bench.FORMS)
def test_both_formulations_agree_and_are_tabulated(form, in_this_process, tmp_path, capsys):
    path = tmp_path / "bench.csv"
    assert bench.main(["--size", "small", "--labels", form, "--repeats", "3", "--csv", str(path)]) == 0
    text = capsys.readouterr().out
    for part in bench.PARTS:
        assert part in text
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["formulation"]) for row in rows] == [
        (part, formulation) for part in bench.PARTS for formulation in ("dense", "agmm")
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert [int(row["repeats"]) for row in rows] == [2, 3] * 3


def test_disagreement_is_reported(in_this_process, monkeypatch, capsys):
    dense = bench.dense_agmm

    def wrong(*arguments):
        loss, terms = dense(*arguments)
        return 1.001 * loss, terms

    monkeypatch.setattr(bench, "dense_agmm", wrong)
    assert bench.main(["--size", "small", "--repeats", "1"]) == 1


@pytest.mark.parametrize("form", bench.FORMS)
def test_inputs_have_two_to_four_classes_and_the_form_asked_for(form):
    size = bench.SIZES["small"]
    features, logits, labels, image_classes = bench.inputs(size, form)
    assert features.shape == (4, 32, 16, 16)
    assert logits.shape == (4, 7, 64, 64)
    assert features.min() == 0
    assert image_classes.sum(1).tolist() == [2, 3, 4, 2]
    share = (labels != UNLABELED).double().mean(dim=(1, 2))
    low, high = {"points": (8, 10), "scribbles": (60, 2000), "dense": (4096, 4096)}[form]
    assert (low <= share * 4096).all()
    assert (share * 4096 <= high).all()
    for label, classes in zip(labels, image_classes, strict=True):
        found = label[label != UNLABELED].unique()
        assert classes[found].all()


def test_step_prints_both_and_their_ratio(capsys):
    threads = torch.get_num_threads()
    assert bench.main(["--step", "--repeats", "1"]) == 0
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["baseline", "agmm", "ratio"]
    assert 0.5 < float(lines[2].split()[1]) < 5


def test_a_new_process_is_another_one():
    assert bench.in_new_process(os.getpid) != os.getpid()

"""The presets of photographs: their runs train on VOC's layout, and what is measured on it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

from agmm import figures, objectives
from agmm.codes import UNLABELED, VOID
from agmm.data import augment
from agmm.figures import pull
from agmm.papers import tables
from agmm.training import train
from agmm.training.presets import PRESETS
from agmm.training.run import Run
from tests import layouts
from tests.test_public_data import animals


def tiny(run: Run) -> Run:
    """One epoch of two images at a time, by a network without weights of ImageNet."""
    options = tuple(pair for pair in run.network_options if pair[0] != "frozen_stages")
    run = replace(run, init="scratch", network_options=options, epochs=1, batch_size=2, microbatch=2, crop=32)
    return replace(run, long_side=32, history_images=2)


def row(name: str) -> Run:
    cells = tables.TABLES["photographs_methods"].cells(PRESETS["voc_animals"])
    return next(cell.trained_run for cell in cells if (cell.row, cell.column) == (name, "point"))


@pytest.mark.filterwarnings("ignore:PASCAL VOC, animals")
@pytest.mark.parametrize("name", ["baseline + MT", "AGMM", "TEL", "DenseCRF Loss", "AGMM++", "SPML"])
def test_rows_train_on_the_layout_of_voc(name: str, tmp_path: Path) -> None:
    truth = animals(tmp_path / "voc_animals")
    result = train.run(tiny(row(name)), results=tmp_path, data_root=tmp_path, device="cpu")
    assert result.details["label_source"] == "simulated from dense masks"
    assert np.sum(result.confusion) == sum((truth[image] != VOID).sum() for image in layouts.VOC_VAL[1:])


def test_smaller_augmentations_draw_the_same_at_seven_tenths_of_the_size() -> None:
    for draw, last in ((augment.draw, False), (augment.draw_spml, True)):
        whole, smaller = (draw((375, 500), 224, np.random.default_rng(3), last, factor) for factor in (1.0, 0.7))
        assert max(smaller.size) == pytest.approx(0.7 * max(whole.size), abs=2)
    sizes = [max(augment.draw((375, 500), 224, np.random.default_rng(s), False, 0.7).size) for s in range(200)]
    assert 175 <= min(sizes) < 200 < 650 < max(sizes) <= 700


def test_a_table_says_which_part_of_the_images_was_there() -> None:
    part, whole = {"train_images": 437, "test_images": 445}, {"train_images": 439, "test_images": 445}
    assert tables._sizes("voc_animals", part) == ", 437 of 439 training and 445 test images"
    assert tables._sizes("voc_animals", whole) == ", 439 training and 445 test images"
    assert tables._sizes("shapes", {"train_images": 9, "test_images": 4}) == ", 9 training and 4 test images"


@pytest.mark.filterwarnings("ignore:PASCAL VOC, animals")
def test_pull_of_trained_runs_and_what_is_left_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = animals(tmp_path / "voc_animals")
    run, stem = tiny(row("AGMM")), tmp_path / "figures" / "pull"
    train.run(run, results=tmp_path, data_root=tmp_path, device="cpu")
    values = figures.pull_of_runs({"AGMM": run}, tmp_path, tmp_path, stem)
    assert 0 < values["pixels"].sum() < sum(truth[image].size for image in layouts.VOC_TRAIN)
    assert values[["P", "G"]].isin([np.nan]).sum().sum() == 0
    assert values[["P", "G", "right"]].stack().between(0, 100).all()
    figures.draw_pull(values, stem)
    (run.folder(tmp_path) / "model.safetensors").unlink()
    again = figures.pull_of_runs({"AGMM": run}, tmp_path, tmp_path, stem)
    pd.testing.assert_frame_equal(again, values)
    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_the_pull_of_self_supervision_is_what_a_small_step_does(variant: Literal["official", "paper"]) -> None:
    """Against finite differences; G and P are right where their best labeled class is the true one."""
    generator = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(shape, generator=generator) for shape in ((1, 8, 6, 6), (1, 4, 24, 24)))
    truth, labels = torch.randint(4, (1, 24, 24), generator=generator), torch.full((1, 24, 24), UNLABELED)
    labels[0, 3, 3], labels[0, 10, 10], labels[0, 20, 5] = 0, 1, 3
    mixture = objectives.AGMM(4, variant=variant, terms=("seg", "self"))
    _, p, g, score, rightful, every = pull._of_pixels(mixture, features, logits, labels, truth)
    scores, logits = mixture(features, logits, labels).scores, logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(mixture(features.double(), logits, labels).terms["self"], logits)
    step = 1e-4 / gradient.abs().max()
    before, after = (
        z.log_softmax(1).gather(1, truth[:, None])[:, 0].detach() for z in (logits, logits - step * gradient)
    )
    change = ((after - before) / step).float()
    torch.testing.assert_close(rightful, change.clamp_min(0), rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(every, change.abs(), rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(score, scores.gather(1, truth[:, None])[:, 0])
    named = [0, 1, 3]
    for right, maps in ((p, logits), (g, scores)):
        best = torch.tensor(named)[maps[:, named].argmax(1)]
        assert torch.equal(right.bool(), best == truth)

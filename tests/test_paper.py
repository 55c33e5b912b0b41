"""The preset of the papers: its protocol, its estimated hours, and two iterations of it on fixtures."""

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import agmm
import run_all
from agmm import evaluation, figures, networks
from agmm.codes import UNLABELED, VOID
from agmm.data import image_files, sets
from agmm.training import sweep, trial
from agmm.training.presets import PRESETS
from agmm.training.result import load_history, load_result
from agmm.training.where import at, label_sources
from tests import layouts
from tests.helpers import train_in_two_processes

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")
PAPER, OFFICIAL = PRESETS["paper"], PRESETS["paper_official"]
SMALL = {"network": "small", "network_options": (("stem", 8), ("feature_channels", 8)), "init": "scratch"}


def trained(run: agmm.Run, results: Path, root: Path) -> tuple[agmm.Result, pd.DataFrame]:
    """Result and history of a run: finite, with every pixel tested that is not void."""
    result = agmm.run(run, results=results, data_root=root, device="cpu")
    history = load_history(run, results)
    assert np.isfinite(history.to_numpy()).all()
    test = sets.load(run.dataset, "test", data_root=root)
    assert np.sum(result.confusion) == sum((mask != VOID).sum() for mask in test.truth)
    return result, history


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return layouts.data_root(tmp_path_factory.mktemp("data"), "voc", "cityscapes")


def short(run: agmm.Run, **changes: object) -> agmm.Run:
    """Two iterations of a run: one epoch, or two of one batch where an epoch has no more images."""
    size = {"crop": 33, "batch_size": 2, "microbatch": 2, "epochs": 1 if run.dataset == "voc" else 2}
    size |= {"tile": 33} if run.tile else {"scales": (0.5, 1.0)}
    size["label_options"] = tuple(pair for pair in run.label_options if pair[0] != "source")
    return replace(run, **SMALL | size | changes)  # type: ignore[arg-type]


def test_protocols_are_those_of_the_papers_and_of_the_released_code():
    voc, city = PAPER.at("points"), PAPER.at("clicks20")
    assert (voc.network, voc.crop, voc.epochs, voc.lr, voc.head_factor) == ("resnet101", 321, 80, 0.001, 10)
    assert (city.network, city.crop, city.epochs, city.lr, city.head_factor) == ("resnet50", 769, 240, 0.004, 10)
    assert (voc.scales, voc.flip, voc.tile) == ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), True, None)
    assert (city.scales, city.flip, city.tile) == ((1.0,), False, 769)
    assert 10_582 // voc.batch_size * voc.epochs == 13_200  # steps on four GPUs
    common = {(r.optimizer, r.momentum, r.weight_decay, r.power, r.warmup, r.init) for r in (voc, city)}
    assert common == {("sgd", 0.9, 1e-4, 0.9, 0, "imagenet")}
    released = OFFICIAL.at("clicks20")
    assert (released.crop, released.tile, released.lr, released.head_factor) == (721, 721, 0.005, 1)
    assert {r.selection for r in (voc, city)} == {"last"}
    assert {r.selection for r in (OFFICIAL.at("points"), released)} == {"best"}


@pytest.mark.parametrize(
    "run",
    [
        *(PAPER.at(labels, "Baseline") for labels in ("points", "clicks20", "parts_full")),
        *(PAPER.at(labels, "SPML") for labels in ("scribbles", "parts")),
        OFFICIAL.at("clicks20"),
    ],
)
def test_hours_follow_from_operations(run):
    """Forward and twice as much backward, each multiply-add two operations, 23 TFLOP/s."""
    with torch.device("meta"):
        net = networks.build(run.network, len(sets.class_names(run.dataset)), **dict(run.network_options)).eval()
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, run.crop, run.crop))
    images = run.epochs * {"voc": 10_582, "cityscapes": 2_975, "densepose": 26_437}[run.dataset]
    expected = 3 * counter.get_total_flops() * images / 23e12
    assert sweep.estimate(run, {}) == pytest.approx(expected, rel=0.02)


RUNS = {
    "agmm": {*range(1, 65)},
    "agmmpp": {*range(65, 132)} - {73, 76, 78, 80, 84, 86},  # Seminar, TSCD; SPML's own two
    "spml": {29, 73, 84, *range(132, 149)},
}
PRINTED = {"agmm": {5: 69.6, 44: 73.4}, "agmmpp": {}, "spml": {137: 31.3, 138: 44.2, 139: 60.3, 140: 57.3}}


@pytest.mark.parametrize("preset", ["paper", "paper_official"])
@pytest.mark.parametrize("papers", RUNS)
def test_plan_names_every_training_with_time_and_published_number(preset, papers, tmp_path, capfd):
    assert run_all.main(["--preset", preset, "--only", papers, "--dry-run", "--results", str(tmp_path)]) == 2
    printed = capfd.readouterr()
    assert "name it with --data-root" in printed.err  # said after the list, as the trainings themselves would
    lines = printed.out.splitlines()
    assert "not measured" in lines[1]
    ours = {int(line.split()[0][1:]): line for line in lines if re.match(r"  O\d", line)}
    assert RUNS[papers] <= ours.keys()
    assert all("  about " in ours[training] for training in RUNS[papers])
    assert papers != "agmm" or all("(published" in ours[training] for training in RUNS[papers])
    assert all(f"(published {value})" in ours[training] for training, value in PRINTED[papers].items())


RIVALS = ("LabelAssignment", "TreeEnergy", "DenseCRFLoss")
SOURCES = {"points": "published: What's the Point", "full": "dense masks", "clicks_full": "dense masks"}


@pytest.mark.parametrize(
    ("labels", "method"),
    [
        *((labels, "AGMM") for labels in ("points", "scribbles", "full", "clicks50", "clicks_full")),
        *((labels, "Baseline") for labels in ("scribbles", "full", "clicks_full")),
        *((labels, method) for labels in ("points", "clicks50") for method in RIVALS),
    ],
)
def test_two_iterations_on_every_kind_of_labels(root, tmp_path, labels, method):
    options = {"size_rule": "scaled_sigma"} if method == "DenseCRFLoss" else {}
    run = short(PAPER.at(labels, method, **options))
    result, history = trained(run, tmp_path, root)
    assert 0 < history["labeled_pixels"].iloc[0] <= 33 * 33
    assert result.details["label_source"].startswith(SOURCES.get(labels, "simulated"))
    assert ("single_scale_miou" in result.details) == (run.dataset == "voc")


def test_a_run_reads_decoded_images_or_files(root, tmp_path):
    run = short(PAPER.at("points"), history_images=0)
    losses = []
    for keep in (True, False):
        results = tmp_path / str(keep)
        agmm.run(run, results=results, data_root=root, device="cpu", keep_decoded=keep)
        assert len(list((results / "cache").glob("decoded-*.bin"))) == keep
        losses.append(load_history(run, results)["loss"].tolist())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("labels", "network"), [("points", "resnet101"), ("clicks20", "resnet50")])
def test_an_iteration_of_the_papers_networks(root, tmp_path, labels, network):
    preset = PAPER.at(labels, "AGMM")
    own = {"network": network, "network_options": preset.network_options, "epochs": 1, "scales": (1.0,), "flip": False}
    run = short(preset, **own, history_images=1, batch_size=4 if labels == "points" else 2)
    assert run.network == preset.network
    result = agmm.run(run, results=tmp_path, data_root=root, device="cpu")
    assert "deep stem, random weights" in result.details["network"]


def test_best_epoch_with_sliding_windows_is_one_of_the_last(root, tmp_path):
    run = short(OFFICIAL.at("clicks20"), epochs=23, history_images=0)
    result = agmm.run(run, results=tmp_path, data_root=root, device="cpu")
    tested = load_history(run, tmp_path)["test_miou"]
    assert tested.isna().tolist() == [True] * 3 + [False] * 20
    assert result.epoch == int(tested.idxmax()) + 1


def test_second_stage_reads_pseudo_labels_and_keeps_those_already_written(root, tmp_path):
    first = short(PAPER.at("points", "AGMM"))
    agmm.run(first, results=tmp_path, data_root=root, device="cpu")
    second = first.second_stage()
    folder = second.folder(tmp_path) / "pseudo_labels"
    folder.mkdir(parents=True)
    kept = np.full(layouts.size(layouts.TRAIN_AUG[0]), 7, np.uint8)
    Image.fromarray(kept).save(folder / f"{layouts.TRAIN_AUG[0]}.png")
    agmm.run(second, results=tmp_path, data_root=root, device="cpu")
    data = sets.load("voc", "train", data_root=root)
    sparse = sets.weak_labels(data, "points", {}, 0)
    assert (image_files.read_index(folder / f"{layouts.TRAIN_AUG[0]}.png") == kept).all()
    for name, label in list(zip(data.ids, sparse, strict=True))[1:]:
        pseudo, labeled = image_files.read_index(folder / f"{name}.png"), label < UNLABELED
        assert labeled.any()
        assert (pseudo[labeled] == label[labeled]).all()
        assert set(np.unique(pseudo)) <= set(np.unique(label[labeled]))


def test_figures_read_images_of_any_size_from_disk(root, tmp_path):
    run = short(PAPER.at("points", "AGMM"))
    agmm.run(run, results=tmp_path, data_root=root, device="cpu")
    one = figures.load(run, tmp_path, root)
    similar = figures.measure_similarity({"AGMM": one})
    unlabeled = sum((label == UNLABELED).sum() for label in one.sparse)
    assert 0 < similar.loc[similar["subset"] == "all", "pixels"].max() <= unlabeled
    features, classes = figures.sample_features(one)
    assert len(features) == len(classes)
    (picture,) = figures.mixtures(one, [1])
    assert {array.shape[:2] for array in picture.values()} == {layouts.size(one.data.ids[1])}
    (picture,) = figures.predictions({"AGMM": one}, [0])
    assert picture["AGMM"].shape == picture["truth"].shape


def test_two_processes_train_from_disk_as_one_does(root, tmp_path):
    """Without batch statistics in the way the losses are equal: the same crops, divided by the same counts."""
    run = short(PAPER.at("points", "AGMM"), batch_size=4, microbatch=2, loss_scope="effective", history_images=4)
    train_in_two_processes(run, tmp_path, root)
    single = agmm.run(run, results=tmp_path / "single", data_root=root, device="cpu")
    result = load_result(run, tmp_path)
    assert np.sum(result.confusion) == np.sum(single.confusion)  # each process tests its share
    ours, theirs = load_history(run, tmp_path), load_history(run, tmp_path / "single")
    for term in ("loss", "seg", "self", "spar", "con", "absent", "labeled_pixels"):
        assert ours[term].iloc[0] == pytest.approx(theirs[term].iloc[0], rel=1e-4), term


@pytest.mark.parametrize(("labels", "microbatch"), [("points", 2), ("tags", 4)])
def test_a_trial_on_the_layout_of_agmm_s_readme(tmp_path, labels, microbatch):
    """With the paper's network and without its weights; published points are found where they lie."""
    layouts.agmm_voc(tmp_path / "voc")
    run = replace(PAPER.at(labels, "AGMM"), crop=65, batch_size=4, microbatch=microbatch, scales=(1.0,))
    (line,) = label_sources([run], at(data_root=tmp_path))
    said = "published: points published by the authors of AGMM (point/)" if labels == "points" else "image tags"
    assert said in line
    found = trial.attempt(run, at(tmp_path / "results", tmp_path, "cpu"), 1)
    assert found.step > 0
    assert found.hours > 80 * found.step / 3600 * (labels == "points")
    assert not (tmp_path / "results").exists()


def test_augmentations_that_cannot_be_are_refused(root, tmp_path):
    for augmentation, sentence in {
        "dihedral": "stay on disk and are augmented one by one: choose the augmentation official",
        "offical": "augmentation is 'offical'; known: dihedral, crop_flip, official",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            agmm.run(
                short(PAPER.at("points"), augmentation=augmentation), results=tmp_path, data_root=root, device="cpu"
            )


def test_missing_and_damaged_data_are_named_before_hours_are_spent(tmp_path, capfd):
    arguments = ["--preset", "paper", "--only", "agmm_table1", "--results", str(tmp_path / "results")]
    rooted = [*arguments, "--data-root", str(tmp_path), "--labels", "simulated", "--dry-run"]
    assert run_all.main(arguments) == 2
    assert "name it with --data-root" in capfd.readouterr().err
    assert run_all.main(rooted) == 2
    assert f"VOC: no folder VOCdevkit/VOC2012 in {tmp_path}" in capfd.readouterr().err
    layouts.voc(tmp_path / "voc")
    image = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{layouts.TRAIN_AUG[0]}.jpg"
    image.write_bytes(image.read_bytes()[:200])
    assert run_all.main(rooted) == 2
    assert str(image) in capfd.readouterr().err


@pytest.mark.parametrize(("tile", "tiles"), [(769, 7), (4096, 1), (33, 3851)])
def test_tiles_predicted_together_are_bounded(monkeypatch, tile, tiles):
    window = Mock(side_effect=lambda predict, images, tile, **rest: images)
    monkeypatch.setattr(evaluation.views, "sliding_window", window)
    evaluation.predictor(torch.nn.Identity(), evaluation.Protocol(tile=tile))(torch.zeros(1, 3, 40, 60))
    assert [call.kwargs["batch"] for call in window.call_args_list] == [tiles]

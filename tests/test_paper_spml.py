"""SPML under the papers' protocol: published regions, and two iterations on fixtures of VOC and DensePose."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agmm
import run_all
from agmm.codes import VOID
from agmm.data import image_files, sets
from agmm.papers.agmm.tables import SCALED
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.result import load_history, load_result
from tests import layouts
from tests.helpers import saved_weights, train_in_two_processes
from tests.test_paper import trained

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")
PAPER, OFFICIAL = PRESETS["paper"], PRESETS["paper_official"]
SIZES = {
    "voc": {name: layouts.size(name) for name in layouts.TRAIN_AUG},
    "densepose": {f"COCO_train2014_{n:012d}": (60, 80) for n in layouts.DENSEPOSE_IMAGES["train"]},
}


def write_regions(root: Path, names: dict[str, tuple[int, int]], below: str = "") -> dict[str, np.ndarray]:
    """Regions of images by name and size, numbered up to the last number that there may be."""
    written = {}
    for name, (height, width) in names.items():
        written[name] = np.random.default_rng(len(written)).integers(0, 255, (height, width), dtype=np.uint8)
        written[name][0, 0] = 254
        layouts.save_index(root / "regions" / "spml" / below / f"{name}.png", written[name])
    return written


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return layouts.data_root(tmp_path_factory.mktemp("data"), "voc", "densepose")


def short(run: agmm.Run, **changes: object) -> agmm.Run:
    embedding = dict(run.network_options).get("embedding")
    small = [("stem", 8), ("feature_channels", 8), *([("embedding", 8)] if embedding else [])]
    size = {"crop": 48, "batch_size": 2, "microbatch": 2, "warmup": 1, "history_images": 2, "long_side": 64}
    size |= {"network": "small", "network_options": tuple(small), "init": "scratch"}
    size |= {"epochs": 1 if run.dataset == "voc" else 2}
    size["label_options"] = tuple(pair for pair in run.label_options if pair[0] != "source")
    first = tuple((name, size.get(name, value)) for name, value in run.teacher_changes)
    return replace(run, teacher_changes=first, **size | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", [PAPER, OFFICIAL])
def test_protocol_is_that_of_the_released_scripts(preset):
    for labels, images, iterations in (("scribbles", 10_582, 30_000), ("parts", 26_437, 45_000)):
        second = preset.spml(labels)
        first = second.teacher
        for run in (first, second):
            assert (run.network, run.init, run.normalize) == ("resnet101", "imagenet", True)
            assert (run.crop, run.batch_size) == (512, 16)
            assert (run.optimizer, run.lr, run.momentum, run.weight_decay) == ("sgd", 0.003, 0.9, 5e-4)
            assert (run.head_factor, run.bias_factor, run.warmup, run.warmup_from) == (10, 2, 100, 0.1)
            assert (run.scales, run.flip, run.selection) == ((1.0,), False, "last")
        assert images // 16 * first.epochs == pytest.approx(iterations, rel=0.02)
        # The nearest whole number of epochs, which on DensePose is far.
        steps = images // 16
        assert abs(steps * second.epochs - 4_000) < steps / 2
        assert (first.augmentation, second.augmentation) == ("spml", "spml_classifier")
    voc, parts = preset.at("scribbles", "SPML"), preset.at("parts", "SPML")
    assert dict(voc.network_options) == {"embedding": 64}
    assert dict(parts.network_options) == {"embedding": 32, "decoder": "pyramid"}
    assert (voc.long_side, parts.long_side) == (512, 640)
    assert dict(preset.at("parts_full").network_options) == {"decoder": "pyramid"}


def test_weights_are_the_printed_ones_or_those_of_the_scripts():
    def weights(preset: agmm.training.presets.Preset, labels: str) -> list[float]:
        objective = agmm.training.run.build_objective("SPML", 21, **dict(preset.at(labels, "SPML").options))
        return [getattr(objective, f"lambda_{name}") for name in "cioa"] + [objective.kappa_o, objective.memory]  # type: ignore[union-attr]

    scribbles, spots, guesses = [1.0, 0.1, 0.5, 0.0, 12, 2], [1.0, 1.0, 1.0, 0.0, 8, 2], [1.0, 0.3, 1.0, 0.0, 8, 2]
    scripts, guessed = [0.1, 0.1, 0.1, 0.0, 8, 2], [0.3, 0.1, 0.3, 0.0, 8, 2]
    printed = dict.fromkeys(("scribbles", "scribbles50"), (scribbles, scribbles))
    printed |= dict.fromkeys(("points", "scribbles0"), (spots, scripts))
    printed |= dict.fromkeys(("boxes", "boxcam", "cam"), (guesses, guessed))
    for labels, expected in printed.items():
        assert (weights(PAPER, labels), weights(OFFICIAL, labels)) == expected
    for preset, affinity, memory in ((PAPER, 0.5, 2), (OFFICIAL, 0.0, 0)):
        assert weights(preset, "parts")[:4] == [1.0, 0.1, 0.0, affinity]
        assert weights(preset, "parts")[5] == memory
    assert weights(PAPER, "full")[:4] == weights(PAPER, "parts_full")[:4] == [1.0, 0.0, 0.0, 0.0]


def test_published_regions_are_read_where_they_are(root, tmp_path):
    for dataset, sizes in SIZES.items():
        plain = sets.load(dataset, "train", data_root=root)
        assert plain.regions is None
        assert sets.chosen_regions(plain, "auto") == "felzenszwalb"
        with pytest.raises(ValueError, match=rf"published regions of {dataset} .* no folder regions/spml below"):
            sets.regions(plain, "published")
        shutil.copytree(root / dataset, tmp_path / dataset)
        written = write_regions(tmp_path / dataset, sizes, below="train")
        split = sets.load(dataset, "train", data_root=tmp_path)
        assert sets.load(dataset, "test", data_root=tmp_path).regions is None
        for method in ("auto", "published"):
            found = sets.regions(split, method)
            for name, regions in zip(split.ids, found, strict=True):
                np.testing.assert_array_equal(regions, written[name])
        assert sets.chosen_regions(split, "felzenszwalb") == "felzenszwalb"
        assert sets.check(dataset, tmp_path) == []


@pytest.mark.parametrize("dataset", ["voc", "densepose"])
def test_wrong_regions_are_named_before_training(root, tmp_path, dataset, capfd):
    shutil.copytree(root, tmp_path / "data")
    folder = tmp_path / "data" / dataset
    written = write_regions(folder, SIZES[dataset])
    one, other = sorted(written)[:2]
    paths = [folder / "regions" / "spml" / f"{name}.png" for name in (one, other)]
    written[one][3, 3] = 255
    layouts.save_index(paths[0], written[one])
    layouts.save_index(paths[1], written[other][:-1])
    split = sets.load(dataset, "train", data_root=tmp_path / "data")
    padding = r"holds the region 255, which stands for padding; number its regions 0 … 254"
    with pytest.raises(ValueError, match=f"{paths[0]} {padding}"):
        split.regions[split.ids.index(one)]
    problems = sets.check(dataset, tmp_path / "data")
    assert [str(path) in problem for path, problem in zip(paths, problems, strict=True)] == [True, True]
    assert all("\n" not in problem for problem in problems)
    table = "spml_table8" if dataset == "voc" else "spml_table4"
    arguments = ["--preset", "paper+simulated", "--only", table, "--results", str(tmp_path / "r"), "--dry-run"]
    assert run_all.main([*arguments, "--data-root", str(tmp_path / "data"), "--no-notebooks"]) == 2
    assert padding[:18] in capfd.readouterr().err
    paths[1].unlink()
    missing = f"1 of {len(written)} images have no regions, {other}.png first; complete the folder or move it"
    for read in (sets.check, lambda name, root: sets.load(name, "train", data_root=root)):
        with pytest.raises(ValueError, match=missing):
            read(dataset, tmp_path / "data")


def test_a_run_learns_from_published_regions_and_says_so(root, tmp_path):
    voc = shutil.copytree(root / "voc", tmp_path / "voc")
    write_regions(voc, SIZES["voc"])
    run = short(PAPER.at("scribbles", "SPML"), history_images=0)
    low_level = []
    for folder, said in ((root / "voc", "felzenszwalb"), (voc, "published (regions/spml)")):
        result = agmm.run(run, results=tmp_path / said, data_root=folder, device="cpu")
        assert result.details["regions"] == said
        low_level.append(load_history(run, tmp_path / said)["low_level"][0])
    assert abs(np.subtract(*low_level)) > 0.01


def pseudo_labels(run: agmm.Run, results: Path, root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The labels that a second stage has learned from, beside the true ones."""
    data, folder = sets.load(run.dataset, "train", data_root=root), run.folder(results) / "pseudo_labels"
    pairs = zip(data.ids, data.truth, strict=True)
    return [(image_files.read_index(folder / f"{name}.png", mask.shape), mask) for name, mask in pairs]


@pytest.mark.parametrize("labels", ["points", "scribbles", "scribbles0", "full", "parts", "parts_full"])
def test_two_iterations_of_every_kind_of_labels(root, tmp_path, labels):
    run = short(PAPER.spml(labels))
    result, _ = trained(run, tmp_path, root)
    assert result.details["regions"] == "felzenszwalb"
    first = run.teacher or run
    assert (run.method, first.method) == ("SPML" if "full" in labels else "SPMLClassifier", "SPML")
    history = load_history(first, tmp_path)
    assert np.isfinite(history.to_numpy()).all()
    expected = {"classifier", "annotation"} | (set() if "full" in labels else {"low_level"})
    assert expected <= set(history)
    assert ("cooccurrence" in history) == (labels in ("points", "scribbles", "scribbles0"))
    assert ("affinity" in history) == (labels == "parts")
    if run is first:
        return
    for pseudo, _ in pseudo_labels(run, tmp_path, root):
        assert set(np.unique(pseudo)) <= {*range(len(result.iou)), VOID}
    before, after = saved_weights(first, tmp_path), saved_weights(run, tmp_path)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(name.startswith("head.classifier.") for name in changed)


@pytest.mark.parametrize("labels", ["cam", "boxcam"])
def test_two_iterations_from_image_tags_and_boxes(root, tmp_path, labels):
    plain = PAPER.at(labels, "SPML")
    tested = {"tile": 48, "scales": (0.5, 1.0), "long_side": None} if labels == "cam" else {}
    embedding = short(plain, history_images=0, **tested).with_cams_of(short(PAPER.at("tags"), long_side=None))
    run = replace(PAPER.embedding, classifier_changes={"epochs": 1, "augmentation": "spml_classifier"})
    last = run.classified(embedding)
    stages = [stage for stage in sweep.distinct([last]) if stage.labels == labels]
    assert len(stages) == (3 if labels == "cam" else 2)
    if labels == "cam":
        assert (plain.scales, plain.flip, plain.tile, plain.long_side) == ((0.5, 0.75, 1, 1.25, 1.5), True, 512, None)
        assert [dict(stage.options).get("neighbors") for stage in stages] == [None, 20, 20]
    result = agmm.run(last, results=tmp_path, data_root=root, device="cpu")
    assert f"class activation maps of run {last.cams_of.id}" in result.details["label_source"]
    assert result.details["regions"] == "felzenszwalb"
    assert {path.stem for path in (last.cams_of.folder(tmp_path) / "cams").iterdir()} == set(layouts.TRAIN_AUG)
    for pseudo, mask in pseudo_labels(last, tmp_path, root):
        assert set(np.unique(pseudo)) <= {0, *np.unique(mask), VOID}


def test_image_tags_become_maps_before_spml_learns_from_them():
    for preset in (PAPER, PRESETS["quick"]):
        with pytest.raises(ValueError, match="SPML learns from maps .* choose the labels cam, not tags"):
            preset.at("tags", "SPML")


def test_a_second_test_refines_with_a_crf_in_squares(root, tmp_path):
    run = short(PAPER.at("scribbles", "SPML"), history_images=0)
    plain = agmm.run(run, results=tmp_path, data_root=root, device="cpu")
    refined = run.tested(**PAPER.networks["resnet"].refined)
    assert refined.long_side == run.long_side
    again = agmm.run(refined, results=tmp_path, data_root=root, device="cpu")
    assert again.details["tested_run"] == run.id
    assert np.sum(again.confusion) == np.sum(plain.confusion)


@pytest.mark.parametrize("preset", [PAPER.at("parts", "SPML"), PAPER.at("parts", "DenseCRFLoss", **SCALED)])
def test_an_iteration_of_the_papers_networks(root, tmp_path, preset):
    network = {"network": "resnet50", "network_options": preset.network_options}
    result, _ = trained(short(preset, epochs=1, **network, history_images=1), tmp_path, root)
    assert "deep stem, random weights" in result.details["network"]


def test_two_processes_train_both_stages(root, tmp_path):
    """The low-level relation and the labels are those of one process: the same crops, each image by itself."""
    run = short(PAPER.spml("scribbles"), batch_size=4, history_images=0)
    train_in_two_processes(run, tmp_path, root)
    single = agmm.run(run, results=tmp_path / "single", data_root=root, device="cpu")
    assert np.sum(load_result(run, tmp_path).confusion) == np.sum(single.confusion)
    ours, theirs = (load_history(run.teacher, folder).iloc[0] for folder in (tmp_path, tmp_path / "single"))
    for term in ("low_level", "labeled_pixels"):
        assert ours[term] == pytest.approx(theirs[term], rel=1e-4), term
    # In one process the second microbatch contrasts with the first as it is remembered, the first with itself alone.
    assert abs(ours["annotation"] - theirs["annotation"]) > 1e-3


@pytest.mark.filterwarnings("ignore:CamVid")
def test_road_scenes_on_a_gpu_have_a_counterpart(tmp_path):
    layouts.camvid(tmp_path / "data")
    preset = PRESETS["camvid_r50"].spml("points")
    assert (preset.network, dict(preset.network_options)) == ("resnet50", {"embedding": 64})
    run = short(preset, long_side=None, image_size=(60, 80), precision="bfloat16")
    result = agmm.run(run, results=tmp_path, data_root=tmp_path / "data", device="cpu")
    assert result.details["regions"] == "felzenszwalb"
    history = load_history(run.teacher, tmp_path)
    assert {"annotation", "low_level", "cooccurrence"} <= set(history)
    assert np.isfinite(history.to_numpy()).all()

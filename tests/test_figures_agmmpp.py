"""Figures of AGMM++: their trainings against the paper's list, their numbers against loops over pixels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import agmm
from agmm import figures
from agmm.codes import UNLABELED, VOID
from agmm.figures.pixels import partial_miou
from agmm.figures.trained import weak_labels
from agmm.papers import tables
from agmm.rivals import cams
from agmm.training.presets import PRESETS
from agmm.training.result import load_history
from tests import loops, loops_em
from tests.helpers import mean_iou, one_thread, same_weights, saved_weights  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

SIGMA_MIN = 1e-3
SHORT = {"epochs": 1, "train_images": 32, "test_images": 4, "history_images": 6}
TAGS = {"high": 0.55, "low": 0.5, "warmup_steps": 0, "reg": 0.0, "photometric": False, "dilations": (1, 2)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def runs(results) -> dict[str, agmm.Run]:
    """AGMM++ on tags and on scribbles, with a small least spread so that some pixels are farther away."""
    made = {
        kind: replace(PRESETS["smoke"].at(kind, "AGMMpp", init="scratch", sigma_min=SIGMA_MIN), **SHORT)
        for kind in ("tags", "scribbles")
    }
    made["tags"] = replace(made["tags"], label_options=tuple(TAGS.items()))
    for run in made.values():
        agmm.run(run, results=results)
    return made


@pytest.fixture(scope="module")
def trained(runs, results) -> dict[str, figures.Trained]:
    return {kind: figures.load(run, results) for kind, run in runs.items()}


def inputs(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float() / 255


def problem(one: figures.Trained, index: int) -> SimpleNamespace:
    objective = getattr(one.objective, "inner", one.objective)
    weight, bias = (p.detach().double().numpy() for p in (objective.squeeze.weight[..., 0, 0], objective.squeeze.bias))
    with torch.no_grad():
        features = one.net(inputs(one.data.images[index : index + 1]))[0].double().numpy()
    squeezed = np.einsum("dc,bchw->bdhw", weight, features) + bias[:, None, None]
    labels = weak_labels(one, slice(index, index + 1)).numpy()
    return SimpleNamespace(features=squeezed, labels=labels, num_classes=7)


def test_a_preset_without_labels_or_network_leaves_rows_out():
    paper = PRESETS["paper"]
    rows = lambda preset, name: [cell.row for cell in tables.TABLES[name].cells(preset)]  # noqa: E731
    assert rows(paper, "agmmpp_figure12") == ["image tags", "boxes", "points", "scribbles"]
    few = replace(paper, labels={kind: paper.labels[kind] for kind in ("tags", "points")})
    assert rows(few, "agmmpp_figure12") == ["image tags", "points"]
    assert rows(replace(paper, networks={"resnet": paper.networks["resnet"]}), "agmmpp_figure11") == []
    assert rows(paper, "agmmpp_figure11") == ["ToCo", "AGMM++ without OEM", "AGMM++"]


def test_the_squeeze_is_the_one_that_was_trained(trained, results):
    for one in trained.values():
        assert same_weights(one.objective.state_dict(), saved_weights(one.run, results, "objective"))


def test_weak_labels(trained):
    """Sparse labels as they are; from tags the refined labels of the CAMs, of classes that the image shows."""
    scribbles = weak_labels(trained["scribbles"], slice(3, 6))
    assert (scribbles.numpy() == trained["scribbles"].sparse[3:6]).all()
    one = trained["tags"]
    labels, images = weak_labels(one, slice(0, 6)), inputs(one.data.images[:6])
    tags = torch.stack([torch.tensor([(mask == k).any() for k in range(1, 7)]) for mask in one.data.truth[:6]])
    maps, _ = cams.multi_scale(one.net, images, one.objective.classifier.weight, None, (1.0, 0.5, 1.5))
    expected = cams.refined_labels(maps * tags[..., None, None], tags, images, 0.55, 0.5, 0.5, (1, 2))
    assert (labels == expected).float().mean() > 0.999
    assert {0, UNLABELED} < set(labels.unique().tolist())


@pytest.mark.parametrize("kind", ["tags", "scribbles"])
def test_mixtures_equal_loops(trained, kind):
    one = trained[kind]
    for index, picture in enumerate(figures.mixtures(one, range(3), "weak labels")):
        assert list(picture) == ["image", "weak labels", "segmentation", "mixture", "truth"]
        given = problem(one, index)
        assert (picture["weak labels"] == given.labels[0]).all()
        _, present, d, variance, _ = loops_em.mixture(given, sigma_min=SIGMA_MIN)
        scores = loops.resize(loops_em.scores(d, variance, present), (64, 64))
        best = np.where(present[..., None, None], scores, -1)[0].argmax(0)
        assert (best == picture["mixture"]).mean() > 0.999


def test_mixtures_side_by_side(trained):
    """Each method by its own labels; shown are those of the last."""
    runs = {"a": trained["scribbles"], "b": trained["tags"]}
    pictures = figures.compare_mixtures(runs, range(2))
    alone = {name: figures.mixtures(one, range(2)) for name, one in runs.items()}
    for index, picture in enumerate(pictures):
        assert list(picture) == ["image", "weak labels", "a", "b", "truth"]
        assert (picture["weak labels"] == alone["b"][index]["labels"]).all()
        assert all((picture[name] == alone[name][index]["mixture"]).all() for name in runs)


def test_no_mixture(trained):
    plain = replace(trained["scribbles"], run=PRESETS["smoke"].at("points"), objective=agmm.objectives.Baseline(7))
    with pytest.raises(ValueError, match="Baseline has no mixture; choose a run of AGMM or AGMMpp"):
        figures.mixtures(plain, [0])
    old = replace(trained["scribbles"], run=PRESETS["smoke"].at("points", "AGMM"), objective=agmm.objectives.AGMM(7))
    assert figures.mixtures(old, [0])
    with pytest.raises(ValueError, match="choose a run of AGMMpp"):
        figures.measure_label_accuracy({"AGMM": old})


def test_label_accuracy_equals_a_loop_over_pixels(trained):
    one, images = trained["tags"], 3
    # Nothing says that a pixel is void in these data.
    truth = np.array(one.data.truth)
    truth[:, :9] = VOID
    one = replace(one, data=replace(one.data, truth=truth))
    values = figures.measure_label_accuracy({"tags": one}, images).set_index(["class", "subset"])
    right = {key: [] for key in values.index}
    for index in range(images):
        given = problem(one, index)
        _, _, d, variance = loops_em.from_labels(given, SIGMA_MIN)
        fine = loops.resize(d, (64, 64))
        for y, x in np.argwhere((given.labels[0] != UNLABELED) & (truth[index] != VOID)):
            k = given.labels[0, y, x]
            close = "similar" if fine[0, k, y, x] < variance[0, k] ** 0.5 else "dissimilar"
            for subset in (close, "all"):
                right[one.data.class_names[k], subset].append(truth[index, y, x] == k)
    assert {subset for (_, subset), pixels in right.items() if len(pixels) > 50} == set(figures.SUBSETS)
    for key, pixels in right.items():
        # A pixel as far away as the spread may fall on either side.
        assert values.loc[key, "pixels"] == pytest.approx(len(pixels), abs=3)
        if values.loc[key, "pixels"] == len(pixels):
            accuracy = 100 * np.mean(pixels) if pixels else np.nan
            assert values.loc[key, "accuracy"] == pytest.approx(accuracy, nan_ok=True)


def test_mean_iou_of_partial_labels(trained):
    """Unlabeled pixels are missed by their class; void ones count nowhere."""
    data, rng = trained["scribbles"].data, np.random.default_rng(0)
    truth = np.where(rng.random((5, 64, 64)) < 0.1, VOID, data.truth[:5]).astype(np.uint8)
    sparse = rng.choice([0, 1, 4, UNLABELED, VOID], (5, 64, 64)).astype(np.uint8)
    assert partial_miou(sparse, replace(data, truth=truth)) == pytest.approx(mean_iou(sparse, truth))
    assert partial_miou(truth, replace(data, truth=truth)) == 100


def test_label_quality(runs, trained, results):
    """Mixture and segmentation as they were at the end of the training, measured again; labels by sets of pixels."""
    values = figures.measure_label_quality({kind: [run] for kind, run in runs.items()}, results)
    found = values.set_index(["row", "labels"])["miou"]
    assert list(found.loc["tags"].index) == ["weak labels", "mixture G", "segmentation P"]
    for kind, one in trained.items():
        pictures = figures.mixtures(one, range(6))
        masks = {name: np.stack([picture[name] for picture in pictures]) for name in pictures[0]}
        for name, column in {"mixture": "mixture G", "segmentation": "segmentation P"}.items():
            assert found[kind, column] == pytest.approx(mean_iou(masks[name], masks["truth"]), abs=0.2)
    last = load_history(runs["tags"], results).iloc[-1]
    assert found["tags", "weak labels"] == last["cam_miou"]
    one = trained["scribbles"]
    assert found["scribbles", "weak labels"] == pytest.approx(mean_iou(one.sparse[:6], one.data.truth[:6]))

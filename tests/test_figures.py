"""Figures' data against slow loops and scikit-learn, on a network trained for a moment."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

import agmm
from agmm import figures, gmm, objectives
from agmm.codes import UNLABELED
from agmm.training.presets import PRESETS
from tests import loops
from tests.helpers import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> tuple[figures.Trained, agmm.Result]:
    results = tmp_path_factory.mktemp("results")
    run = replace(PRESETS["smoke"].at("points", "AGMM", init="scratch"), epochs=1)
    result = agmm.run(run, results=results)
    return figures.load(run, results), result


@pytest.fixture(scope="module")
def trained(complete) -> figures.Trained:
    return complete[0]


def outputs(trained: figures.Trained, images) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return trained.net(torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 255)


def test_predictions_are_those_of_the_result(complete):
    (trained, result), confusion = complete, np.zeros((7, 7), int)
    for index, picture in enumerate(figures.predictions({"AGMM": trained}, range(len(trained.test)))):
        assert (picture["image"] == trained.test.images[index]).all()
        np.add.at(confusion, (picture["truth"], picture["AGMM"]), 1)
    reported = np.array(result.confusion)
    # Batches of another size may round the logits of two classes alike.
    assert abs(confusion - reported).sum() <= 1e-3 * reported.sum()


def test_similarity_equals_a_loop_over_pixels(trained):
    images = 3
    values = figures.measure_similarity({"AGMM": trained}, images).set_index(["class", "subset"])
    pixels = {key: [] for key in values.index}
    for index in range(images):
        label = torch.from_numpy(trained.sparse[index : index + 1]).long()
        features, logits = outputs(trained, trained.data.images[index : index + 1])
        present = gmm.components(label, 7).present
        components, d, sigma = objectives.LabelAssignment(7).distances(features, logits, label, present)
        predicted = logits.argmax(1)[0]
        for slot in range(int(components.filled[0].sum())):
            k = int(components.classes[0, slot])
            for y, x in np.argwhere(trained.sparse[index] == UNLABELED):
                close = "similar" if d[0, slot, y, x] < sigma[0, slot] else "dissimilar"
                hit_and_true = int(predicted[y, x]) == k, int(trained.data.truth[index][y, x]) == k
                for subset in (close, "all"):
                    pixels[trained.data.class_names[k], subset].append(hit_and_true)
    for key, found in pixels.items():
        assert values.loc[key, "pixels"] == len(found)
        both, either = sum(map(all, found)), sum(map(any, found))
        expected = 100 * both / either if either else np.nan
        assert values.loc[key, "iou"] == pytest.approx(expected, nan_ok=True)


def test_sampled_pixels(trained, monkeypatch):
    """Of every class all, or as many as asked for; each a different pixel; whatever batches and network."""
    dense = outputs(trained, trained.test.images[:10])[0].numpy().transpose(0, 2, 3, 1)
    truth = np.stack(list(trained.test.truth[:10]))[:, ::4, ::4]
    features, classes = figures.sample_features(trained, per_class=30, images=10)
    for k in range(7):
        own, sample = dense[truth == k], features[classes == k]
        assert len(sample) == min(30, len(own))
        gaps = np.abs(sample[:, None] - own).max(2)
        assert gaps.min(1).max() < 1e-4
        assert len(set(gaps.argmin(1))) > 0.9 * len(sample)  # a few pixels may look alike
    monkeypatch.setattr(figures.trained, "BATCH", 3)
    again, same = figures.sample_features(trained, per_class=30, images=10)
    assert (same == classes).all()
    np.testing.assert_allclose(again, features, atol=1e-4)
    other = replace(trained, net=copy.deepcopy(trained.net))
    torch.nn.init.normal_(other.net.backbone.stem[0].weight)
    changed, same = figures.sample_features(other, per_class=30, images=10)
    assert (same == classes).all()
    assert (features != changed).any()


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 30), st.booleans())
def test_silhouette_is_that_of_scikit_learn(seed, classes, pixels, positive):
    rng = np.random.default_rng(seed)
    own = np.concatenate([np.arange(classes), rng.integers(classes, size=pixels)])
    features = rng.normal(size=(len(own), 3)) + np.eye(8, 3)[own]
    features = np.maximum(features, 0) if positive else features  # features are outputs of a ReLU, zeros included
    expected = silhouette_score(features, own, metric="cosine")
    assert figures.silhouette(features, own) == pytest.approx(expected, abs=1e-9)


def test_embedding(trained):
    points = figures.embed({"AGMM": trained}, per_class=12)
    features, classes = figures.sample_features(trained, per_class=12)
    assert list(points["class"]) == [trained.test.class_names[k] for k in classes]
    expected = silhouette_score(features, classes, metric="cosine")
    assert points["silhouette"].unique() == pytest.approx([expected], abs=1e-5)


@pytest.fixture(scope="module")
def states(trained):
    """The network, and the same with other weights: two states of one training, as it were."""
    other = replace(trained, net=copy.deepcopy(trained.net))
    torch.manual_seed(0)
    torch.nn.init.normal_(other.net.head.fuse[1][0].weight, std=0.1)
    return {"a": trained, "b": other}


def test_projection_is_on_principal_components(states):
    frame = figures.project(states, images=8, per_class=20)
    samples = {name: figures.sample_features(one, 20, 8, one.data) for name, one in states.items()}
    centered = {name: features - features.mean(0) for name, (features, _) in samples.items()}
    pca = PCA(2).fit(np.concatenate(list(centered.values())))
    for name, (features, classes) in samples.items():
        part = frame[(frame["method"] == name) & (frame["kind"] == "pixel")]
        expected = pca.transform(centered[name])
        np.testing.assert_allclose(np.abs(part[["x", "y"]]), np.abs(expected), rtol=1e-3, atol=1e-4)
        assert list(part["class"]) == [states[name].data.class_names[k] for k in classes]
        lost = centered[name] - pca.inverse_transform(expected)
        explained = 1 - (lost**2).sum() / (centered[name] ** 2).sum()
        assert part["explained"].unique() == pytest.approx([explained], abs=1e-4)
        expected = silhouette_score(features, classes, metric="cosine")
        assert part["silhouette"].unique() == pytest.approx([expected], abs=1e-5)
    # The same pixels in every panel.
    assert (samples["a"][1] == samples["b"][1]).all()


def test_projected_mixtures_equal_loops(states):
    frame, trained = figures.project(states, images=3, per_class=20), states["b"]
    features, _ = figures.sample_features(trained, 20, 3, trained.data)
    pixels = frame[(frame["method"] == "b") & (frame["kind"] == "pixel")][["x", "y"]]
    axes = np.linalg.lstsq(features - features.mean(0), pixels, rcond=None)[0]
    rows = []
    for index in range(3):
        f, logits = (one.double().numpy() for one in outputs(trained, trained.data.images[index : index + 1]))
        label = trained.sparse[index][None]
        mu, present = loops.means(f, label, 7)
        probability = loops.resize(loops.softmax(logits)[0], f.shape[2:])
        free = loops.resize((label[0] == UNLABELED).astype(float), f.shape[2:])
        for k in np.flatnonzero(present[0]):
            weight = probability[k] * free
            away = np.einsum("cyx,cd->yxd", f[0] - mu[0, k][:, None, None], axes)
            spread = np.einsum("yx,yxi,yxj->ij", weight, away, away) / weight.sum()
            mean = (mu[0, k] - features.mean(0)) @ axes
            rows.append([trained.data.class_names[k], *mean, *spread[[0, 0, 1], [0, 1, 1]], weight.sum()])
    numbers = ["x", "y", "xx", "xy", "yy"]
    expected = pd.DataFrame(rows, columns=["class", *numbers, "mass"])
    found = frame[(frame["method"] == "b") & (frame["kind"] == "mean")]
    assert list(found["class"]) == list(expected["class"])
    np.testing.assert_allclose(found[numbers], expected[numbers], rtol=2e-3, atol=1e-4)
    pooled = frame[(frame["method"] == "b") & (frame["kind"] == "component")].set_index("class")
    for name, part in expected.groupby("class"):
        mean, spread = part[["x", "y"]].mean(), np.average(part[["xx", "xy", "yy"]], axis=0, weights=part["mass"])
        np.testing.assert_allclose(pooled.loc[name, numbers].astype(float), [*mean, *spread], rtol=2e-3, atol=1e-4)


def test_mixture_chooses_among_labeled_classes(trained):
    for index, picture in enumerate(figures.mixtures(trained, range(5))):
        assert (picture["truth"] == trained.data.truth[index]).all()
        labeled = set(np.unique(picture["labels"])) - {UNLABELED}
        assert set(np.unique(picture["mixture"])) <= labeled

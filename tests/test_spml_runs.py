"""SPML as runs: regions beside labels, the embedding, and the second classifier on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import agmm
from agmm import labels, networks
from agmm.codes import UNLABELED, VOID
from agmm.data import augment, sets
from agmm.data.synthetic import shapes
from agmm.networks import segmenter
from agmm.rivals.spml import FirstStage, SPMLClassifier
from agmm.training import batches
from agmm.training.presets import PRESETS
from tests.helpers import resumes_to_same_bits, saved_weights, skeleton

CPU = torch.device("cpu")
SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[agmm.Run, Path]:
    results = tmp_path_factory.mktemp("results")
    run = SMOKE.spml("points", init="scratch")
    agmm.run(run, results=results)
    return run, results


def test_the_second_classifier_is_new_and_learns_on_frozen_embeddings(trained: tuple[agmm.Run, Path]) -> None:
    run, results = trained
    first, second = saved_weights(run.teacher, results), saved_weights(run, results)
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(name.startswith("head.classifier.") for name in changed)
    history = [agmm.training.result.load_history(one, results) for one in (run.teacher, run)]
    assert {"classifier", "annotation", "low_level", "cooccurrence"} <= set(history[0].columns)
    assert "annotation" not in history[1].columns
    assert len(history[1]) == dict(run.teacher_changes)["epochs"] - 1 == run.epochs


def test_resumed_after_an_epoch_it_ends_with_the_same_bits(trained: tuple[agmm.Run, Path], tmp_path: Path) -> None:
    """The memory of segments is no part of a checkpoint, and begins anew with each epoch."""
    run, results = trained
    assert resumes_to_same_bits(run.teacher, results, tmp_path)


def test_pseudo_labels_are_of_the_classes_that_an_image_has() -> None:
    split = shapes.SHAPES.make("train", 4)
    sparse = np.stack([labels.simulate("points", mask, np.random.default_rng(0)) for mask in split.truth])
    sparse[0, :5] = VOID
    named = np.stack([labels.image_classes(mask, 7) for mask in sparse])
    net = networks.build("small", 7, stem=8, feature_channels=8, embedding=4).eval()
    for walk, crf in (("code", ""), ("paper", ""), ("none", "deeplab_64")):
        objective = SPMLClassifier(7, walk=walk, stride=8, crf=crf)
        made = objective.pseudo_labels(FirstStage(net, CPU), split.images, sparse, named)
        assert made.shape == split.truth.shape
        assert (made[0, :5] == VOID).all()
        for label, classes in zip(made, named, strict=True):
            assert set(np.unique(label)) - {VOID} <= set(np.flatnonzero(classes))


def test_a_smaller_image_is_padded_and_cut_again() -> None:
    """With a network that looks at single pixels padding changes nothing."""
    split = shapes.SHAPES.make("train", 2)
    named = np.ones((2, 7), bool)

    class Pointwise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = torch.cat([images, -images, images[:, :1]], 1)
            return logits[..., ::4, ::4], 9 * logits

    objective = SPMLClassifier(7, walk="none", stride=1, crf="")
    plain, padded = (
        objective.pseudo_labels(FirstStage(Pointwise(), CPU, side), split.images, split.truth, named)
        for side in (0, 80)
    )
    np.testing.assert_array_equal(plain, padded)


@pytest.mark.parametrize("walk", ["none", "code"])
def test_segments_take_the_class_of_the_nearest_annotated_one(walk: str) -> None:
    """Four parts of an image with embeddings of their own, and a click in three of them."""
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((16, 16), int))
    directions = torch.eye(4)
    directions[3] = torch.tensor([0.1, 0.9, 0.0, 0.2])  # without a click; most like the second part

    class Parts(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            plain = directions[torch.from_numpy(quarters[::2, ::2].copy())].movedim(-1, 0)
            return torch.stack([plain, plain.flip(-1)]), torch.zeros(2, 5, 32, 32)

    sparse = np.full((1, 32, 32), UNLABELED, np.uint8)
    sparse[0, 3, 3], sparse[0, 3, 20], sparse[0, 20, 3] = 4, 2, 3
    named = np.ones((1, 5), bool)
    objective = SPMLClassifier(5, walk=walk, stride=2, crf="", first="nearest", clusters=(4, 4), colors=False)
    made = objective.pseudo_labels(FirstStage(Parts(), CPU), np.zeros((1, 32, 32, 3), np.uint8), sparse, named)
    inner = np.tile(np.pad(np.ones((12, 12), bool), 2), (2, 2))
    np.testing.assert_array_equal(made[0][inner], np.array([4, 2, 3, 2])[quarters][inner])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["dihedral", "crop_flip", "official"]))
def test_labels_and_regions_move_together(seed: int, how: str) -> None:
    """Both come from one number for every pixel, which the augmentation moves."""
    rng = np.random.default_rng(seed)
    regions = rng.integers(0, 255, (2, 16, 12)).astype(np.uint8)
    sparse = rng.choice([0, 1, UNLABELED, VOID], (2, 16, 12)).astype(np.uint8)
    codes = sets.with_regions(sparse, regions)
    pictures = np.repeat(sparse[..., None], 3, 3)

    def moved(labels: np.ndarray) -> torch.Tensor:
        if how == "official":
            pairs = zip(pictures, labels, strict=True)
            drawn = [augment.official(*pair, 20, np.random.default_rng(seed), color=False)[1] for pair in pairs]
            return torch.from_numpy(np.stack(drawn))
        tensors, generator = map(torch.from_numpy, (pictures, labels)), torch.Generator().manual_seed(seed % 2**31)
        if how == "dihedral":
            return augment.dihedral(*tensors, generator)[1]
        return augment.crop_flip(*tensors, 20, generator)[1]

    found, places = batches._unpacked(moved(codes))
    alone, none = batches._unpacked(moved(sparse))
    assert none is None
    assert torch.equal(found, alone)
    assert torch.equal(places[found != VOID], moved(regions)[found != VOID].long())


def test_regions_follow_the_borders_of_objects(tmp_path: Path) -> None:
    split = shapes.SHAPES.make("train", 10)
    made, shares = sets.regions(split, "felzenszwalb_small", tmp_path), []
    for regions, truth in zip(made, split.truth, strict=True):
        majority = sum(np.bincount(truth[regions == region]).max() for region in np.unique(regions))
        shares.append(majority / truth.size)
    assert np.mean(shares) > 0.98
    assert 10 < np.mean([len(np.unique(r)) for r in made]) < 100
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(sets.regions(split, "felzenszwalb_small", tmp_path), made)
    with pytest.raises(ValueError, match="regions are 'edges'; known: felzenszwalb"):
        sets.regions(split, "edges")


def test_an_image_of_noise_has_regions_that_fit_into_eight_bits() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    assert sets.oversegment(noise, "felzenszwalb_small").max() < sets.MOST_REGIONS


@pytest.mark.parametrize("decoder", ["aspp", "pyramid"])
def test_published_embeddings_have_their_size(decoder: str) -> None:
    net = skeleton("resnet50", 21, embedding=32, decoder=decoder)
    embeddings, logits = net(torch.empty(1, 3, 64, 96, device="meta"))
    assert embeddings.shape == (1, 32, 16, 24)
    assert logits.shape == (1, 21, 64, 96)
    momenta = {module.momentum for module in net.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert momenta == {3e-4}


def test_the_classifier_gives_the_embedding_no_gradient() -> None:
    net = networks.build("small", 3, stem=8, feature_channels=8, embedding=4)
    net(torch.rand(2, 3, 32, 32))[1].sum().backward()
    with_gradient = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in net.named_parameters() if name.startswith("head.classifier.")}


def test_summed_aspp_is_the_sum_of_its_branches() -> None:
    decoder, high = segmenter.SummedASPP(4, 3, (1, 2)), torch.rand(1, 4, 8, 8)
    total = sum(branch(high) for branch in decoder.branches)
    expected = torch.nn.functional.interpolate(total, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder(high, high), expected)


def test_a_frozen_network_stays_in_eval_mode() -> None:
    net = networks.build("small", 3, stem=8, feature_channels=8, embedding=4)
    net.freeze()
    net.train()
    assert net.head.classifier.training
    assert not net.backbone.training
    backbone, head = networks.parameter_groups(net, 1.0, 10.0)
    assert not backbone["params"]
    assert set(head["params"]) == set(net.head.classifier.parameters())


def test_only_embeddings_can_be_classified() -> None:
    with pytest.raises(ValueError, match="Baseline has no embeddings to classify; begin with SPML"):
        SMOKE.at("points").classified()

"""The objective of SPML beside loops, and its properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm.codes import UNLABELED, VOID
from agmm.rivals.spml import SPML, classifier, relations
from tests import loops_spml as loops

RELATIONS = ("annotation", "low_level", "cooccurrence", "affinity")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def call(objective, features, labels, regions, tags):
    logits = torch.zeros(len(labels), objective.num_classes, *labels.shape[1:], dtype=features.dtype)
    return objective(features, logits, labels, tags, regions=regions)


def batch(seed=0):
    """Annotated, unlabeled and void pixels, four regions; both images show class 0, and no other one together."""
    rng = np.random.default_rng(seed)
    labels = np.full((2, 8, 9), UNLABELED)
    chance = rng.random(labels.shape)
    labels[chance < 0.3] = rng.integers(4, size=labels.shape)[chance < 0.3]
    labels[chance > 0.9] = VOID
    tags = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    return loops.Batch(rng.normal(size=(2, 5, 8, 9)), labels, rng.integers(4, size=labels.shape), tags)


def example(seed=0):
    return batch(seed).tensors()


@settings(deadline=None, max_examples=40)
@given(loops.problems())
def test_terms_of_consecutive_batches_equal_loops(problem):
    k, options, batches = problem
    objective = SPML(k, lambda_c=0.7, lambda_i=0.3, lambda_o=0.2, lambda_a=0.1, **options)
    remembered = []
    for step in batches:
        memory = [segment for segments in remembered[: options["memory"]] for segment in segments]
        expected, segments = loops.terms(step, memory, k, options)
        features, *rest = step.tensors()
        output = call(objective, features, *rest)
        for name in RELATIONS:
            assert output.terms[name].item() == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
        weights = {"classifier": 0.7, "annotation": 0.7, "low_level": 0.3, "cooccurrence": 0.2, "affinity": 0.1}
        assert output.loss.item() == pytest.approx(sum(w * output.terms[n].item() for n, w in weights.items()))
        assert torch.autograd.grad(output.loss, features)[0].isfinite().all()
        remembered.insert(0, segments)


@pytest.mark.parametrize("lost", [(), (0,), (0, 1)], ids=["labels", "an image without", "none"])
@pytest.mark.parametrize("affinity", ["image", "batch"])
def test_the_gradient_of_affinity_is_the_slope_of_loops(affinity, lost):
    shown = batch()
    shown.labels[list(lost)] = UNLABELED
    options = {"affinity": affinity, "threshold": 0.5, "kappa_a": 6.0, "clusters": (2, 3), "iterations": 2}

    def term(features):
        segments = loops.cut(replace(shown, features=features), options["clusters"], options["iterations"])
        return loops.affinity(segments, 4, 6.0, 0.5, affinity)

    features, *rest = shown.tensors()
    found = call(SPML(4, lambda_a=1.0, **options), features, *rest).terms["affinity"]
    assert found.item() == pytest.approx(term(shown.features), rel=1e-9, abs=1e-12)
    assert (found.item() == 0) == (len(lost) == 2)
    gradient = torch.autograd.grad(found, features)[0]
    for seed in range(3):
        step = 1e-6 * random(*gradient.shape, seed=seed)
        slope = (term(shown.features + step.numpy()) - term(shown.features - step.numpy())) / 2
        assert (gradient * step).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("affinity", ["image", "batch"])
def test_nothing_to_learn_from_is_zero_with_a_zero_gradient(affinity):
    features, labels, regions, tags = example()
    for shown, named in ((torch.full_like(labels, VOID), tags), (torch.full_like(labels, UNLABELED), tags & False)):
        output = call(SPML(4, lambda_i=0, lambda_a=0.5, affinity=affinity), features, shown, regions, named)
        assert output.loss.item() == 0
        assert not torch.autograd.grad(output.loss, features)[0].any()


def segmentation(pixels=12, segments=7, channels=3, groups=5, seed=0, dtype=torch.float64):
    """Unit vectors of pixels and segments, own segments, groups, positive segments of the groups, weights."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(random(pixels, channels, seed=seed, dtype=dtype), dim=1).requires_grad_()
    prototypes = torch.nn.functional.normalize(random(segments, channels, seed=seed + 1, dtype=dtype), dim=1)
    own = torch.randint(segments, (pixels,), generator=generator)
    group = torch.randint(groups, (pixels,), generator=generator)
    positive = torch.rand(groups, segments, generator=generator) < 0.4
    positive[0] = torch.arange(segments) == own[group == 0][0] if (group == 0).any() else False
    positive[1], positive[2] = True, False
    weights = torch.rand(pixels, generator=generator, dtype=dtype)
    return vectors, prototypes.requires_grad_(), own, group, positive, weights


def test_blocks_change_nothing(monkeypatch):
    vectors, prototypes, *rest, weights = segmentation(pixels=50)

    def found():
        loss = relations.contrast(vectors, prototypes, *rest, 8.0, weights)
        return loss, *torch.autograd.grad(loss, (vectors, prototypes))

    expected = found()
    for entries in (1, 7 * 9, 7 * 49):
        monkeypatch.setitem(relations.ENTRIES, "cpu", entries)
        for a, b in zip(found(), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("concentration", [16.0, 30.0, 80.0, 300.0])
def test_contrast_is_stable_in_float32(concentration):
    results = []
    for dtype in (torch.float32, torch.float64):
        vectors, prototypes, *rest, weights = segmentation(pixels=300, segments=60, dtype=torch.float32)
        vectors, prototypes = (x.detach().to(dtype).requires_grad_() for x in (vectors, prototypes))
        loss = relations.contrast(vectors, prototypes, *rest, concentration, weights.to(dtype))
        results.append((loss, *torch.autograd.grad(loss, (vectors, prototypes))))
    for single, double in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert (single.double() - double).norm() <= 1e-5 * double.norm()


def test_remembered_segments_are_constants_of_the_steps_before():
    objective = SPML(4, memory=2)
    for seed in range(4):
        features, labels, regions, tags = example(seed=seed)
        call(objective, features, labels, regions, tags)
        counts = [len(known.labels) for known in objective.remembered]
        assert len(counts) == min(seed + 1, 2)
        assert not any(known.vectors.requires_grad for known in objective.remembered)
    with torch.no_grad():
        call(objective, features, labels, regions, tags)
    assert [len(known.labels) for known in objective.remembered] == counts


def test_a_forgetful_objective_equals_a_fresh_one():
    batch, other = example(), example(seed=1)
    objective = SPML(4)
    call(objective, *other)
    remembering = call(objective, *batch)
    objective.begin_epoch()
    forgetful, fresh = call(objective, *batch), call(SPML(4), *batch)
    assert forgetful.loss.item() == fresh.loss.item() != remembering.loss.item()
    assert call(SPML(4, memory=0), *batch).loss.item() == fresh.loss.item()


def test_the_classifier_leaves_detached_embeddings_alone():
    features, labels, regions, tags = example()
    weight = random(4, 5).requires_grad_()
    logits = torch.einsum("kc,bchw->bkhw", weight, torch.nn.functional.normalize(features.detach(), dim=1))
    output = SPML(4)(features, logits, labels, tags, regions=regions)
    classifier, embedding = torch.autograd.grad(output.terms["classifier"], (weight, features), allow_unused=True)
    assert classifier.any()
    assert embedding is None


def test_terms_without_weight_are_left_out():
    assert call(SPML(4, lambda_i=0, lambda_o=0), *example()).terms.keys() == {"classifier", "annotation"}


def test_wrong_options_are_refused():
    for options, sentence in (
        ({"kappa_i": 0}, "kappa_i must be positive"),
        ({"kappa_o": 400}, "kappa_o must be positive and at most 300"),
        ({"clusters": (0, 6)}, "clusters are rows and columns"),
        ({"affinity": "images"}, "affinity is 'images'; known: image, batch"),
    ):
        with pytest.raises(ValueError, match=sentence):
            SPML(4, **options)


def test_the_walk_of_the_paper_has_normalized_affinities_and_fewer_steps():
    affinities = classifier.affinity([random(6, 2, 3)]).numpy()
    base = (affinities / affinities.sum(0)) ** 20
    expected = np.linalg.matrix_power(base / base.sum(0), 6)
    np.testing.assert_allclose(classifier.transitions(torch.tensor(affinities), walk="paper"), expected, rtol=1e-9)


def test_retrieval_finds_the_largest_dot_products():
    queries, prototypes = random(7, 4), random(30, 4, seed=1)
    expected = np.argsort(-(queries @ prototypes.T).numpy(), axis=1)[:, :5]
    np.testing.assert_array_equal(classifier.nearest(queries, prototypes, 5, block=3), expected)
    assert classifier.nearest(queries[:0], prototypes, 5).shape == (0, 5)
    with pytest.raises(ValueError, match="30 segments are fewer than the 31 neighbors"):
        classifier.nearest(queries, prototypes, 31)


def test_the_segments_of_an_image_vote_with_their_most_frequent_class():
    """Beside a loop over pixels; void pixels do not vote, and a segment without a vote is not there."""
    embeddings = random(4, 12, 10)
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, VOID], (12, 10), p=[0.5, 0.2, 0.2, 0.1]))
    own, prototypes = classifier.image_clusters(embeddings, (3, 2))
    labels[own == 1] = VOID
    found = classifier.bank(embeddings, labels, (3, 2), 3)
    kept, classes = [], []
    for segment in range(6):
        members = own == segment
        total = (embeddings / embeddings.norm(dim=0))[:, members].sum(1)
        torch.testing.assert_close(prototypes[segment], total / total.norm() if members.any() else total)
        counts = [int((labels[members] == k).sum()) for k in range(3)]
        if sum(counts):
            kept.append(segment)
            classes.append(int(np.argmax(counts)))
    assert kept == [0, 2, 3, 4, 5]
    torch.testing.assert_close(found.vectors, prototypes[kept])
    assert found.classes.tolist() == classes


def test_pixels_have_the_votes_of_the_segments_nearest_to_theirs():
    embeddings = random(4, 6, 8)
    known = classifier.Bank(torch.nn.functional.normalize(random(30, 4, seed=1), dim=1), torch.arange(30) % 3)
    found = classifier.votes(embeddings, known, (2, 2), 5, 3)
    own, prototypes = classifier.image_clusters(embeddings, (2, 2))
    for row, column in np.ndindex(6, 8):
        nearest = np.argsort(-(known.vectors @ prototypes[own[row, column]]).numpy())[:5]
        expected = np.bincount(nearest % 3, minlength=3) / 5
        np.testing.assert_allclose(found[:, row, column], expected)

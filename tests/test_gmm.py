import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm import gmm
from agmm.codes import UNLABELED, VOID
from tests import loops
from tests.loops import problems, random_problem

SIGMAS = ("adaptive", "code_a", "code_b")


def close(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_components_list_the_present_classes_in_order(problem):
    labels = torch.tensor(problem.labels)
    components = gmm.components(labels, problem.num_classes)
    for b, image in enumerate(problem.labels):
        codes, counts = np.unique(image[image < UNLABELED], return_counts=True)
        assert components.per_image[b] == len(codes)
        np.testing.assert_array_equal(components.classes[b, components.filled[b]], codes)
        np.testing.assert_array_equal(components.counts[b, : len(codes)], counts)
        assert not components.counts[b, len(codes) :].any()
        assert len(set(components.classes[b].tolist())) == components.classes.shape[1]
        np.testing.assert_array_equal(torch.where(components.present[b])[0], codes)
    assert components.classes.shape[1] == max(1, *components.per_image)


@settings(deadline=None, max_examples=25)
@given(problems())
def test_to_classes_and_from_classes_are_inverse_on_filled_slots(problem):
    components = gmm.components(torch.tensor(problem.labels), problem.num_classes)
    slots = torch.rand(*components.classes.shape, 2) * components.filled[..., None]
    spread = components.to_classes(slots)
    assert spread.shape == (len(problem.labels), problem.num_classes, 2)
    assert torch.equal(components.from_classes(spread), slots)
    assert not spread[~components.present].any()


@settings(deadline=None, max_examples=60)
@given(problems())
def test_means_and_distances_equal_loops(problem):
    features, _, labels, _ = problem.tensors()
    expected, present = loops.means(problem.features, problem.labels, problem.num_classes)
    means, found_present = gmm.class_means(features, labels, problem.num_classes)
    close(means, expected)
    np.testing.assert_array_equal(found_present, present)

    d_expected = loops.distances(problem.features, expected, present)
    components = gmm.components(labels, problem.num_classes)
    means, d = gmm.means_and_distances(features, labels, components)
    close(components.to_classes(means), expected)
    close(components.to_classes(d), d_expected)
    close(components.to_classes(gmm.distances(features, means, components)), d_expected)
    assert not d[~components.filled].any()


def test_one_gradient_for_means_and_distances_equals_two():
    features, _, labels, _ = random_problem().tensors()
    components = gmm.components(labels, 5)

    def gradient(means, d):
        weights = torch.linspace(0.1, 2, d.numel(), dtype=d.dtype).view_as(d)
        return torch.autograd.grad((weights * d.square()).sum() + means.pow(3).sum(), features)[0]

    means = gmm.component_means(features, labels, components)
    expected = gradient(means, gmm.distances(features, means, components))
    close(gradient(*gmm.means_and_distances(features, labels, components)), expected, 1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_spread_equals_loops(sigma, problem):
    features, logits, labels, image_classes = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    _, d = gmm.means_and_distances(features, labels, components)
    if sigma != "adaptive":
        d = d * gmm.validity(labels, d.shape[2:], d.dtype)
    _, present = loops.means(problem.features, problem.labels, problem.num_classes)
    expected = loops.spreads(components.to_classes(d).detach().numpy(), problem, present, sigma)
    spread = gmm.spread(d, logits, labels, image_classes, components, sigma)
    close(components.to_classes(spread), expected)
    assert torch.autograd.grad(spread.sum(), features)[0].isfinite().all()


def test_spread_without_unlabeled_mass_is_one():
    problem = random_problem(batch=1)
    problem.labels[problem.labels == UNLABELED] = VOID
    features, logits, labels, image_classes = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    _, d = gmm.means_and_distances(features, labels, components)
    spread = gmm.spread(d, logits, labels, image_classes, components, "adaptive")
    assert torch.equal(spread, torch.ones_like(spread))


@pytest.mark.parametrize(
    ("variant", "sigma"), [("official", None), ("paper", None), ("paper", 0.3), ("official", "code_a")]
)
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_scores_equal_loops(variant, sigma, problem):
    features, logits, labels, image_classes = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    _, d = gmm.means_and_distances(features, labels, components)
    if variant == "official":
        d = d * gmm.validity(labels, d.shape[2:], d.dtype)
    estimate = "adaptive" if (variant, sigma) == ("paper", None) else sigma
    if isinstance(estimate, str):
        estimate = gmm.spread(d, logits, labels, image_classes, components, estimate)
    g = components.to_classes(gmm.scores(d, estimate, labels.shape[1:], components))
    _, present, expected = loops.mixture(problem, variant, sigma)
    close(g, expected)
    assert g.min() >= 0
    assert g.max() <= 1 + 1e-12
    assert not g[~torch.tensor(present)].any()


def test_empty_slots_have_no_distance_and_no_score():
    problem = random_problem()
    problem.labels[0][problem.labels[0] < UNLABELED] = UNLABELED
    features, _, labels, _ = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    assert components.per_image[0] == 0
    means, d = gmm.means_and_distances(features, labels, components)
    g = gmm.scores(d, None, labels.shape[1:], components)
    for values in (means[0], d[0], g[0]):
        assert not values.any()


def test_a_constant_shift_of_the_features_leaves_distances_alone():
    features, _, labels, _ = random_problem().tensors()
    components = gmm.components(labels, 5)
    _, d = gmm.means_and_distances(features, labels, components)
    _, shifted = gmm.means_and_distances(features + 3, labels, components)
    _, scaled = gmm.means_and_distances(2.5 * features, labels, components)
    close(shifted, d.detach().numpy(), 1e-5)  # the 1e-6 in the divisor of the means
    close(scaled, 2.5 * d.detach().numpy())

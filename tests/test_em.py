"""Mixtures of labels and of an EM round, beside loops."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agmm import em, gmm
from agmm.codes import UNLABELED
from tests import loops, loops_em
from tests.loops import problems, random_problem


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


DISTANCES = ("absolute", "signed", "rms")
ASSIGNMENTS = ("argmax", "responsibility", "soft")


def setting(problem):
    features, _, labels, _ = problem.tensors()
    return features, labels, gmm.components(labels, problem.num_classes)


@settings(deadline=None, max_examples=60)
@given(
    problems(), st.sampled_from(ASSIGNMENTS), st.booleans(), st.sampled_from(DISTANCES), st.sampled_from([0.01, 0.1])
)
def test_mixture_of_the_labels_and_em_round_equal_loops(problem, assignment, keep_labels, distance, sigma_min):
    assume(not loops_em.undecided(problem, sigma_min, distance))
    features, labels, components = setting(problem)
    old = em.from_labels(features, labels, components, sigma_min, distance)
    members = em.assign(old.log_scores(components), labels, components, assignment, keep_labels)
    new = em.reestimate(features, old, members, components, sigma_min, distance)
    expected = loops_em.from_labels(problem, sigma_min, distance)

    def equal(mixture, means, d, variance):
        close(components.to_classes(mixture.means), means, 1e-6)
        close(components.to_classes(mixture.d), d, 1e-6)
        # The loops divide by a count, ours by the count + 1e-6.
        close(components.to_classes(mixture.variance), variance, 1e-5)
        close(components.to_classes(mixture.scores(components)), loops_em.scores(d, variance, present), 1e-4)

    means, present, d, variance = expected
    equal(old, means, d, variance)
    log_g = loops_em.exponents(d, variance)
    close(components.to_classes(members), loops_em.assign(problem, log_g, present, assignment, keep_labels), 1e-4)
    members = components.to_classes(members).numpy()
    means, _, d, variance = loops_em.reestimate(problem, expected, members, sigma_min, distance)
    equal(new, means, d, variance)


@settings(deadline=None, max_examples=30)
@given(problems())
def test_em_round_with_one_spread_never_decreases_the_likelihood(problem):
    """With equal spreads, the argmax is the most likely component: E and M step together are a step of k-means."""
    features, labels, components = setting(problem)
    old = em.from_labels(features, labels, components, 0.5, "rms")
    old = replace(old, variance=torch.ones_like(old.variance))
    members = em.assign(old.log_scores(components), labels, components, keep_labels=False)
    new = em.reestimate(features, old, members, components, 0.5, "rms")
    again = em.assign(replace(new, variance=old.variance).log_scores(components), labels, components, keep_labels=False)
    errors = [(m * mixture.d**2).sum() for m, mixture in ((members, old), (members, new), (again, new))]
    assert errors[0] + 1e-9 >= errors[1]
    assert errors[1] + 1e-9 >= errors[2]


def test_pixels_far_from_all_means_belong_to_the_nearest_one():
    features, _, labels, _ = random_problem(k=3, grid=(6, 6), size=(6, 6)).tensors(torch.float32)
    labels[:] = UNLABELED
    labels[:, 0, 0], labels[:, 5, 5] = 0, 1
    components = gmm.components(labels, 3)
    features, near = 100 * features, em.from_labels(features, labels, components, 0.1)
    far = em.from_labels(features, labels, components, 0.1)
    assert (far.scores(components).sum(1) == 0).any()
    equal = replace(far, variance=torch.ones_like(far.variance)), replace(near, variance=torch.ones_like(near.variance))
    members, expected = (em.assign(mixture.log_scores(components), labels, components) for mixture in equal)
    assert torch.equal(members, expected)

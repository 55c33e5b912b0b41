from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agmm import em, gmm
from agmm.codes import UNLABELED, VOID
from tests import loops_em
from tests.loops import problems, random_problem

DISTANCES = ("absolute", "signed", "rms")
ASSIGNMENTS = ("argmax", "responsibility", "soft")


def close(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def em_round(features, labels, components, assignment="argmax", sigma_min=0.1, distance="absolute", keep_labels=True):
    """The labels' mixture, what belongs to which of its components, and the mixture of these members."""
    old = em.from_labels(features, labels, components, sigma_min, distance)
    members = em.assign(old.log_scores(components), labels, components, assignment, keep_labels)
    return old, members, em.reestimate(features, old, members, components, sigma_min, distance)


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
    old, members, new = em_round(features, labels, components, assignment, sigma_min, distance, keep_labels)
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


def clusters(share=0.0, seed=0, side=12, channels=8):
    """Three far clusters of features with one labeled pixel each; ``share`` of the labels' pixels is atypical."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(3, channels))
    truth = np.arange(side)[:, None] * 3 // side + np.zeros((side, side), int)
    features = centers[truth] + rng.normal(size=(side, side, channels))
    labels = np.full((1, side, side), UNLABELED)
    for code in range(3):
        place = rng.integers(side // 3) + code * side // 3, rng.integers(side)
        labels[0, *place] = code
        features[place] += share * rng.normal(size=channels)
    features, labels = torch.tensor(features).permute(2, 0, 1)[None], torch.tensor(labels)
    return features, labels, torch.tensor(truth)[None], gmm.components(labels, 3)


@pytest.mark.parametrize("seed", range(5))
def test_em_moves_means_from_single_labels_to_the_clusters(seed):
    features, labels, truth, components = clusters(1.0, seed)
    old, _, new = em_round(features, labels, components)
    wanted = gmm.class_means(features, truth, 3)[0]
    before, after = ((mixture.means - wanted).norm() for mixture in (old, new))
    assert after < 0.5 * before
    assert (new.variance > 0.1**2).all()


def test_soft_assignment_collapses_the_means():
    features, labels, _, components = clusters()
    # Scores of trained features are similar; a wide spread makes these so.
    (old, _, argmax), (_, _, soft) = (em_round(features, labels, components, how, 3.0) for how in ("argmax", "soft"))
    apart = [torch.pdist(mixture.means[0]).mean() for mixture in (old, argmax, soft)]
    assert apart[1] > 0.8 * apart[0]
    assert apart[2] < 0.5 * apart[0]


@settings(deadline=None, max_examples=30)
@given(problems())
def test_one_hot_scores_give_class_means_whatever_the_assignment(problem):
    features, labels, components = setting(problem)
    grid = features.shape[-2:]
    rng = np.random.default_rng(problem.num_classes)
    slots = torch.tensor(rng.integers(np.array(components.per_image).clip(1)[:, None, None], size=(len(labels), *grid)))
    g = (
        torch.nn.functional.one_hot(slots, components.classes.shape[1]).movedim(-1, 1)
        * components.filled[..., None, None]
    )
    old = em.from_labels(features, labels, components, 0.1)
    cells = em.labels_of_cells(labels, tuple(grid))
    code = components.classes.gather(1, slots.flatten(1)).view_as(slots).where(cells != VOID, torch.tensor(VOID))
    code = code.where(components.filled.any(1)[:, None, None], torch.tensor(VOID))
    wanted, there = gmm.class_means(features, code, problem.num_classes)
    for how in ASSIGNMENTS:
        members = em.assign(g.double().log(), labels, components, how, keep_labels=False)
        new = em.reestimate(features, old, members, components, 0.1, "absolute")
        found = components.to_classes(new.means)
        close(found[there], wanted[there].detach().numpy(), 1e-5)


def log_likelihood(weights, d, variance, channels):
    """Of the pixels, given what belongs to which component, under isotropic Gaussians, without constants."""
    return -(weights.flatten(2) * channels / 2 * (variance.log()[..., None] + d.flatten(2) ** 2 / variance[..., None]))


@settings(deadline=None, max_examples=30)
@given(problems(), st.sampled_from(ASSIGNMENTS))
def test_m_step_never_decreases_the_expected_likelihood(problem, assignment):
    """Of the root mean square distance, for which the mean and the mean square are its maximum."""
    features, labels, components = setting(problem)
    old, members, new = em_round(features, labels, components, assignment, 1e-2, "rms")
    values = [
        log_likelihood(members, mixture.d, mixture.variance, features.shape[1]).sum(2)[components.filled].detach()
        for mixture in (old, new)
    ]
    assert (values[1] >= values[0] - 1e-6 * (1 + values[0].abs())).all()


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


@settings(deadline=None, max_examples=30)
@given(problems(max_classes=4), st.permutations(range(4)), st.sampled_from(ASSIGNMENTS))
def test_em_does_not_depend_on_the_order_of_classes(problem, order, assignment):
    assume(not loops_em.undecided(problem))
    features, _, labels, _ = problem.tensors()
    order = torch.tensor([*order, *range(4, UNLABELED), UNLABELED, VOID])
    found = []
    for named in (labels, order[labels]):
        components = gmm.components(named, 4)
        _, members, new = em_round(features, named, components, assignment)
        found.append([components.to_classes(x) for x in (new.means, new.d, new.variance, members)])
    for first, second in zip(*found, strict=True):
        # Ties of the argmax are the only thing that may differ; random features have none.
        close(second[:, order[:4]], first.detach().numpy())


def test_components_without_members_keep_their_parameters_and_void_belongs_to_none():
    features, labels, components = setting(random_problem())
    old = em.from_labels(features, labels, components, 0.1)
    nothing = em.assign(old.log_scores(components), torch.full_like(labels, VOID), components)
    assert not nothing.any()
    new = em.reestimate(features, old, nothing, components, 0.1, "absolute")
    for name in ("means", "d", "variance"):
        assert torch.equal(getattr(new, name), getattr(old, name))


def test_pixels_far_from_all_means_belong_to_the_nearest_one():
    features, labels, _, components = clusters()
    features, near = 100 * features.float(), em.from_labels(features.float(), labels, components, 0.1)
    far = em.from_labels(features, labels, components, 0.1)
    assert (far.scores(components).sum(1) == 0).any()
    equal = replace(far, variance=torch.ones_like(far.variance)), replace(near, variance=torch.ones_like(near.variance))
    members, expected = (em.assign(mixture.log_scores(components), labels, components) for mixture in equal)
    assert torch.equal(members, expected)


def test_scores_in_empty_slots_and_absent_classes_stay_zero():
    features, labels, components = setting(random_problem(batch=3, k=6))
    assert not components.filled.all()
    _, _, new = em_round(features, labels, components, "soft")
    assert not new.scores(components)[~components.filled].any()
    assert not components.to_classes(new.scores(components))[~components.present].any()
    assert torch.isfinite(new.scores(components)).all()

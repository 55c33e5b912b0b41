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


def setting(problem):
    features, _, labels, _ = problem.tensors()
    return features, labels, gmm.components(labels, problem.num_classes)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(DISTANCES), st.sampled_from([0.01, 0.3]))
def test_mixture_of_the_labels_equals_loops(problem, distance, sigma_min):
    features, labels, parts = setting(problem)
    mixture = em.from_labels(features, labels, parts, sigma_min, distance)
    means, present, d, variance = loops_em.from_labels(problem, sigma_min, distance)
    close(parts.to_classes(mixture.means), means)
    close(parts.to_classes(mixture.d), d, 1e-7)
    close(parts.to_classes(mixture.variance), variance, 1e-5)  # the loops divide by a count, ours by the count + 1e-6
    close(parts.to_classes(mixture.scores(parts)), loops_em.scores(d, variance, present), 1e-4)


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(ASSIGNMENTS), st.booleans(), st.sampled_from(DISTANCES))
def test_em_round_equals_loops(problem, assignment, keep_labels, distance):
    assume(not loops_em.undecided(problem, how=distance))
    features, labels, parts = setting(problem)
    old = em.from_labels(features, labels, parts, 0.1, distance)
    members = em.assign(old.log_scores(parts), labels, parts, assignment, keep_labels)
    expected_old = loops_em.from_labels(problem, 0.1, distance)
    log_g = loops_em.exponents(*expected_old[2:])
    expected = loops_em.assign(problem, log_g, expected_old[1], assignment, keep_labels)
    close(parts.to_classes(members), expected, 1e-4)
    new = em.reestimate(features, old, members, parts, 0.1, distance)
    members = parts.to_classes(members).numpy()
    means, _, d, variance = loops_em.reestimate(problem, expected_old, members, 0.1, distance)
    close(parts.to_classes(new.means), means, 1e-6)
    close(parts.to_classes(new.d), d, 1e-6)
    close(parts.to_classes(new.variance), variance, 1e-5)


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
    features, labels, truth, parts = clusters(1.0, seed)
    old = em.from_labels(features, labels, parts, 0.1)
    new = em.reestimate(features, old, em.assign(old.log_scores(parts), labels, parts), parts, 0.1, "absolute")
    wanted = gmm.class_means(features, truth, 3)[0]
    before, after = ((mixture.means - wanted).norm() for mixture in (old, new))
    assert after < 0.5 * before
    assert (new.variance > 0.1**2).all()


def test_soft_assignment_collapses_the_means():
    features, labels, _, parts = clusters()
    # Scores of trained features are similar; a wide spread makes these so.
    old = em.from_labels(features, labels, parts, 3.0)
    apart = [
        em.reestimate(features, old, em.assign(old.log_scores(parts), labels, parts, how), parts, 3.0, "absolute")
        for how in ("argmax", "soft")
    ]
    spread = [torch.pdist(mixture.means[0]).mean() for mixture in (old, *apart)]
    assert spread[2] < 0.5 * spread[0]
    assert spread[1] > 0.8 * spread[0]


@settings(deadline=None, max_examples=40)
@given(problems())
def test_one_hot_scores_give_class_means_whatever_the_assignment(problem):
    features, labels, parts = setting(problem)
    grid = features.shape[-2:]
    rng = np.random.default_rng(problem.num_classes)
    slots = torch.tensor(rng.integers(np.array(parts.per_image).clip(1)[:, None, None], size=(len(labels), *grid)))
    g = torch.nn.functional.one_hot(slots, parts.classes.shape[1]).movedim(-1, 1) * parts.filled[..., None, None]
    old = em.from_labels(features, labels, parts, 0.1)
    cells = em.labels_of_cells(labels, tuple(grid))
    code = parts.classes.gather(1, slots.flatten(1)).view_as(slots).where(cells != VOID, torch.tensor(VOID))
    code = code.where(parts.filled.any(1)[:, None, None], torch.tensor(VOID))
    wanted, there = gmm.class_means(features, code, problem.num_classes)
    for how in ASSIGNMENTS:
        members = em.assign(g.double().log(), labels, parts, how, keep_labels=False)
        new = em.reestimate(features, old, members, parts, 0.1, "absolute")
        found = parts.to_classes(new.means)
        close(found[there], wanted[there].detach().numpy(), 1e-5)


def log_likelihood(weights, d, variance, channels):
    """Of the pixels, given what belongs to which component, under isotropic Gaussians, without constants."""
    return -(weights.flatten(2) * channels / 2 * (variance.log()[..., None] + d.flatten(2) ** 2 / variance[..., None]))


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(ASSIGNMENTS))
def test_m_step_never_decreases_the_expected_likelihood(problem, assignment):
    """Of the root mean square distance, for which the mean and the mean square are its maximum."""
    features, labels, parts = setting(problem)
    old = em.from_labels(features, labels, parts, 1e-2, "rms")
    members = em.assign(old.log_scores(parts), labels, parts, assignment)
    new = em.reestimate(features, old, members, parts, 1e-2, "rms")
    values = [
        log_likelihood(members, m.d, m.variance, features.shape[1]).sum(2)[parts.filled].detach() for m in (old, new)
    ]
    assert (values[1] >= values[0] - 1e-6 * (1 + values[0].abs())).all()


@settings(deadline=None, max_examples=40)
@given(problems())
def test_em_round_with_one_spread_never_decreases_the_likelihood(problem):
    """With equal spreads, the argmax is the most likely component: E and M step together are a step of k-means."""
    features, labels, parts = setting(problem)
    old = em.from_labels(features, labels, parts, 0.5, "rms")
    old = replace(old, variance=torch.ones_like(old.variance))
    members = em.assign(old.log_scores(parts), labels, parts, keep_labels=False)
    new = em.reestimate(features, old, members, parts, 0.5, "rms")
    again = em.assign(replace(new, variance=old.variance).log_scores(parts), labels, parts, keep_labels=False)
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
        parts = gmm.components(named, 4)
        old = em.from_labels(features, named, parts, 0.1)
        members = em.assign(old.log_scores(parts), named, parts, assignment)
        new = em.reestimate(features, old, members, parts, 0.1, "absolute")
        found.append([parts.to_classes(x) for x in (new.means, new.d, new.variance, members)])
    for first, second in zip(*found, strict=True):
        # Ties of the argmax are the only thing that may differ; random features have none.
        close(second[:, order[:4]], first.detach().numpy())


def test_components_without_members_keep_their_parameters_and_void_belongs_to_none():
    features, labels, parts = setting(random_problem())
    old = em.from_labels(features, labels, parts, 0.1)
    nothing = em.assign(old.log_scores(parts), torch.full_like(labels, VOID), parts)
    assert not nothing.any()
    new = em.reestimate(features, old, nothing, parts, 0.1, "absolute")
    for name in ("means", "d", "variance"):
        assert torch.equal(getattr(new, name), getattr(old, name))


def test_pixels_far_from_all_means_belong_to_the_nearest_one():
    features, labels, _, parts = clusters()
    features, near = 100 * features.float(), em.from_labels(features.float(), labels, parts, 0.1)
    far = em.from_labels(features, labels, parts, 0.1)
    assert (far.scores(parts).sum(1) == 0).any()
    equal = replace(far, variance=torch.ones_like(far.variance)), replace(near, variance=torch.ones_like(near.variance))
    members, expected = (em.assign(mixture.log_scores(parts), labels, parts) for mixture in equal)
    assert torch.equal(members, expected)


def test_scores_in_empty_slots_and_absent_classes_stay_zero():
    features, labels, parts = setting(random_problem(batch=3, k=6))
    assert not parts.filled.all()
    old = em.from_labels(features, labels, parts, 0.1)
    new = em.reestimate(features, old, em.assign(old.log_scores(parts), labels, parts, "soft"), parts, 0.1, "absolute")
    assert not new.scores(parts)[~parts.filled].any()
    assert not parts.to_classes(new.scores(parts))[~parts.present].any()
    assert torch.isfinite(new.scores(parts)).all()

"""What follows from how the papers are read: gradients through spreads, the classes of Eq. 8, the members of EM."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm import gmm
from agmm.codes import EPS, UNLABELED, VOID
from agmm.objectives import AGMM
from tests.helpers import one_sentence
from tests.loops import one_hot, problems, random_problem
from tests.test_agmmpp import identity
from tests.test_dense import same

paper, plus = partial(AGMM, num_classes=5, variant="paper"), partial(identity, 5, 6)
PROBLEM = random_problem()
LABELS, SHOWN = PROBLEM.labels, PROBLEM.image_classes
ALL_LABELED = replace(PROBLEM, labels=np.where(LABELS == UNLABELED, LABELS.min((1, 2), keepdims=True), LABELS))
NO_PROBABILITY = replace(PROBLEM, logits=PROBLEM.logits - 60 * SHOWN[..., None, None])


def at_scale(objective, scale=1.0, problem=PROBLEM):
    """Terms where all features are multiplied by a number, and their derivatives by it."""
    features, *others = problem.tensors()
    factor = torch.tensor(scale, dtype=features.dtype, requires_grad=True)
    terms = {name: x for name, x in objective(factor * features, *others).terms.items() if name != "seg"}
    slopes = {name: torch.autograd.grad(x, factor, retain_graph=True)[0].item() for name, x in terms.items()}
    return {name: x.item() for name, x in terms.items()}, slopes


@pytest.mark.parametrize("options", [{}, {"self_classes": "all"}])
@pytest.mark.parametrize("make", [paper, plus, partial(plus, sigma="pooled")])
def test_estimated_spreads_follow_the_features_scale_along_which_scores_have_no_gradient(make, options):
    (once, slopes), (thrice, _) = (at_scale(make(**options), scale) for scale in (1.0, 3.0))
    _, detached = at_scale(make(**options, detach_sigma=True))
    for name in once.keys() - {"con"}:
        assert thrice[name] == pytest.approx(once[name], rel=1e-4), name
        assert abs(slopes[name]) < 1e-4 * abs(detached[name]), name
    assert abs(slopes["con"]) > 0.05 < abs(thrice["con"] - once["con"])


def test_fixed_and_least_spreads_do_not_follow_it_nor_those_without_mass_which_are_one():
    for problem in (ALL_LABELED, NO_PROBABILITY):
        estimated, one = (at_scale(paper(sigma=sigma), problem=problem) for sigma in (None, 1.0))
        assert estimated == tuple(pytest.approx(numbers, rel=1e-4) for numbers in one)
    for numbers in (estimated, one, *map(at_scale, (paper(sigma=1.0), plus(sigma=1.0), plus(sigma_min=5.0)))):
        assert all(abs(slope) > 0.01 for slope in numbers[1].values())


def eq_8(problem, sigma=None):
    """Over all classes, and as a sum over components with the absent-class loss."""
    inputs, make = problem.tensors(), partial(AGMM, problem.num_classes, "paper", sigma)
    everywhere = make(terms=("self",), self_classes="all")
    return inputs[:2], everywhere(*inputs), make(terms=("self", "absent"), self_reduction="sum")(*inputs)


@pytest.mark.parametrize("sigma", [None, 1.0])
@settings(deadline=None, max_examples=20)
@given(problem=problems())
def test_eq_8_over_all_classes_is_a_sum_with_the_absent_class_loss_where_the_crop_holds_them_all(sigma, problem):
    problem.image_classes = one_hot(problem.labels, problem.num_classes).any((2, 3))
    inputs, everywhere, released = eq_8(problem, sigma)
    same((released.loss, everywhere.terms), everywhere, inputs)


def test_else_it_pushes_down_the_lost_class_which_the_absent_class_loss_spares():
    lost = ~SHOWN & ((~SHOWN).cumsum(1) == 1)
    inputs, everywhere, released = eq_8(replace(PROBLEM, image_classes=SHOWN | lost))
    lost, valid, logits = torch.tensor(lost)[..., None, None], torch.tensor(LABELS != VOID), inputs[1]
    pushed = (-(1 - logits.softmax(1) + EPS).log() * lost).sum(1)[valid].mean()
    push, spared = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (pushed, released.terms["absent"]))
    assert ((push > 0) == (lost & valid[:, None])).all()
    assert (spared * lost <= 0).all()
    same((released.loss + pushed, everywhere.terms), everywhere, inputs)


def test_what_contradicts_a_sum_over_all_classes_is_refused():
    with one_sentence(ValueError, "self_reduction"):
        paper(self_classes="all", self_reduction="mean")
    for make in (partial(AGMM, 5), partial(paper, terms=("self", "absent")), partial(plus, terms=("self", "absent"))):
        with one_sentence(ValueError, "self_classes"):
            make(self_classes="all")


@pytest.mark.parametrize("objective", [AGMM(2, "paper"), identity(2, 1), identity(2, 1, sigma="pooled")])
def test_gradients_of_a_component_whose_cells_lie_at_its_mean_are_finite(objective):
    features, logits = (torch.tensor([x]).double().requires_grad_() for x in ([[[0, 0, 0, 1, 2]]], [[[0] * 5]] * 2))
    loss = objective(features, logits, torch.tensor([[[0, UNLABELED, UNLABELED, 1, 1]]])).loss
    loss.backward()
    assert all(torch.isfinite(x).all() for x in (loss, features.grad, logits.grad))


@pytest.mark.parametrize(("kept", "first", "pooled"), [({}, 0, 1 / 3), ({"keep_labels": True}, 10 / 3, 103 / 9)])
def test_by_hand_where_a_pixel_of_the_first_class_resembles_the_second(kept, first, pooled):
    """Which it joins unless labels are kept; a pooled variance is that of all members, and has its floor after."""
    features, labels = torch.tensor([[[[0, 0, 10, 9, 11, 10]]]]).double(), torch.tensor([[[0, 0, 0, 1, 1, UNLABELED]]])
    for sigma_min, variance in ((0.5, pooled), (5.0, 25.0)):
        how = identity(2, 1, sigma="pooled", sigma_min=sigma_min, **kept)
        found, _ = how.mixture(features, labels, gmm.components(labels, 2))
        np.testing.assert_allclose(found.means.detach().flatten(), [first, 10], atol=1e-4)
        np.testing.assert_allclose(found.variance.detach(), [[variance] * 2], rtol=1e-4)


def test_a_pooled_spread_of_one_class_is_its_own():
    alone = replace(PROBLEM, labels=np.where(LABELS < UNLABELED, 2, LABELS)).tensors()
    torch.testing.assert_close(*(plus(sigma=sigma)(*alone).terms for sigma in (None, "pooled")))


def test_old_and_new_members_of_the_contrast_differ_where_the_largest_scores_do():
    features, _, labels, _ = PROBLEM.tensors()
    components = gmm.components(labels, 5)
    kinds = ({"oem": False}, {}, {"con_members": "old"})
    (old, _), (new, second), (_, first) = (plus(**kind).mixture(features, labels, components) for kind in kinds)
    moved = (old.log_scores(components).argmax(1) != new.log_scores(components).argmax(1)) & first.any(1)
    assert moved.any()
    assert torch.equal((first != second).any(1), moved)

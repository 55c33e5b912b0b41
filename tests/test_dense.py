import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm import objectives
from agmm.codes import UNLABELED
from agmm.dense import TERMS, dense_agmm
from tests import loops
from tests.helpers import golden
from tests.loops import problems, random_problem
from tests.test_objectives import GOLDEN, golden_problem, relative

VARIANTS = ("official", "paper")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name):
    arrays, info = golden(name)
    features, logits, labels, image_classes = golden_problem(arrays, info).tensors()
    loss, terms = dense_agmm(features, logits, labels, image_classes)
    if not np.isnan(arrays["total_loss_f64pure"]).any():
        assert relative(loss, arrays["total_loss_f64pure"]) < 1e-9
    assert relative(terms["con"], arrays["proto_loss_f64pure"]) < 1e-9
    assert relative(terms["absent"], arrays["cls_loss_f64pure"]) < 1e-9
    assert relative(torch.autograd.grad(loss, features)[0], arrays["grad_feat_f64pure"]) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_dense_formulation_equals_loops(variant, problem):
    _, terms = dense_agmm(*problem.tensors(), variant)
    expected = loops.terms(problem, variant)
    assert tuple(terms) == TERMS
    for name, value in terms.items():
        np.testing.assert_allclose(value.item(), expected[name], rtol=1e-8, atol=1e-9)


def same_as_the_objective(problem, variant, terms, detach_sigma=True):
    """Values and gradients agree."""
    features, logits, labels, image_classes = problem.tensors()
    loss, values = dense_agmm(features, logits, labels, image_classes, variant, terms, detach_sigma)
    objective = objectives.AGMM(problem.num_classes, variant=variant, terms=terms, detach_sigma=detach_sigma)
    output = objective(features, logits, labels, image_classes)
    assert set(values) == set(output.terms) == set(terms)
    assert relative(output.loss, loss) < 1e-9
    dense, fast = (torch.autograd.grad(total, (features, logits), allow_unused=True) for total in (loss, output.loss))
    for expected, value in zip(dense, fast, strict=True):
        assert (expected is None) == (value is None)
        assert expected is None or relative(value, expected) < 1e-9


@pytest.mark.parametrize("terms", [("spar", "con"), ("seg", "absent"), ("self",), TERMS])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_term_is_that_of_the_objective(variant, terms):
    same_as_the_objective(random_problem(), variant, terms)


@pytest.mark.parametrize("detach_sigma", [True, False])
def test_the_printed_equations_are_those_of_the_objective_with_and_without_gradient_of_the_spread(detach_sigma):
    for seed in range(5):
        problem = random_problem(seed)
        if seed == 4:  # an image without unlabeled pixels, whose spreads are 1
            problem.labels[0][problem.labels[0] == UNLABELED] = 0
            problem.image_classes[0, 0] = True
        same_as_the_objective(problem, "paper", TERMS, detach_sigma)

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from agmm import objectives
from agmm.dense import TERMS, TERMS_PP, dense_agmm, dense_agmmpp
from tests import loops_em
from tests.loops import problems
from tests.test_agmmpp import identity

FORMS = [("official", {}), ("paper", {}), ("paper", {"detach_sigma": True}), ("paper", {"self_classes": "all"})]


def same(dense, fast, inputs):
    """Loss, terms and gradients of two formulations."""
    (loss, values), output = dense, fast
    assert set(values) == set(output.terms)
    np.testing.assert_allclose(output.loss.item(), loss.item(), rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(total, inputs, allow_unused=True) for total in (loss, output.loss))
    for expected, value in zip(*gradients, strict=True):
        # No gradient and one of zeros are the same.
        pair = [torch.zeros(()) if x is None else x for x in (value, expected)]
        np.testing.assert_allclose(*torch.broadcast_tensors(*pair), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("terms", [("spar", "con"), ("seg", "absent"), ("self",), TERMS])
@pytest.mark.parametrize(("variant", "options"), FORMS)
@settings(deadline=None, max_examples=10)
@given(problem=problems())
def test_values_and_gradients_are_those_of_the_objective(variant, options, terms, problem):
    if "self_classes" in options:
        terms = tuple(term for term in terms if term != "absent")
    features, logits, labels, image_classes = problem.tensors()
    dense = dense_agmm(features, logits, labels, image_classes, variant, terms, **options)
    objective = objectives.AGMM(problem.num_classes, variant, terms=terms, **options)
    same(dense, objective(features, logits, labels, image_classes), (features, logits))


@pytest.mark.parametrize("terms", [("self",), ("weak",), ("con",), TERMS_PP])
@pytest.mark.parametrize("oem", [True, False])
@pytest.mark.parametrize("sigma", [None, "pooled"])
@settings(deadline=None, max_examples=15)
@given(problem=problems())
def test_values_and_gradients_of_agmmpp(sigma, oem, terms, problem):
    assume(not loops_em.undecided(problem, sigma=sigma))
    features, logits, labels, _ = problem.tensors()
    dense = dense_agmmpp(features, logits, labels, terms, oem, pooled=sigma is not None)
    objective = identity(problem.num_classes, features.shape[1], terms=terms, oem=oem, sigma=sigma)
    same(dense, objective(features, logits, labels), (features, logits))

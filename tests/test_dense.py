import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm import objectives
from agmm.dense import TERMS, dense_agmm
from tests.loops import problems


@pytest.mark.parametrize("terms", [("spar", "con"), ("seg", "absent"), ("self",), TERMS])
@pytest.mark.parametrize(("variant", "detach_sigma"), [("official", True), ("paper", True), ("paper", False)])
@settings(deadline=None, max_examples=10)
@given(problem=problems())
def test_values_and_gradients_are_those_of_the_objective(variant, detach_sigma, terms, problem):
    features, logits, labels, image_classes = problem.tensors()
    loss, values = dense_agmm(features, logits, labels, image_classes, variant, terms, detach_sigma)
    objective = objectives.AGMM(problem.num_classes, variant=variant, terms=terms, detach_sigma=detach_sigma)
    output = objective(features, logits, labels, image_classes)
    assert set(values) == set(output.terms) == set(terms)
    np.testing.assert_allclose(output.loss.item(), loss.item(), rtol=1e-9, atol=1e-9)
    dense, fast = (torch.autograd.grad(total, (features, logits), allow_unused=True) for total in (loss, output.loss))
    for expected, value in zip(dense, fast, strict=True):
        assert (expected is None) == (value is None)
        if expected is not None:
            np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-9)

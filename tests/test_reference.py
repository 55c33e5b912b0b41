import numpy as np
import pytest
import torch
from hypothesis import given, settings

from agmm import objectives
from agmm.dense import TERMS, dense_agmm
from tests import loops
from tests.helpers import golden
from tests.loops import problems, random_problem
from tests.test_objectives import GOLDEN, golden_problem, relative


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name):
    arrays, info = golden(name)
    features, logits, labels, image_classes = golden_problem(arrays, info).tensors()
    loss, terms = dense_agmm(features, logits, labels, image_classes, logits.shape[1])
    if not np.isnan(arrays["total_loss_f64pure"]).any():
        assert relative(loss, arrays["total_loss_f64pure"]) < 1e-9
    assert relative(terms["con"], arrays["proto_loss_f64pure"]) < 1e-9
    assert relative(terms["absent"], arrays["cls_loss_f64pure"]) < 1e-9
    assert relative(torch.autograd.grad(loss, features)[0], arrays["grad_feat_f64pure"]) < 1e-9


@settings(deadline=None, max_examples=60)
@given(problems())
def test_dense_formulation_equals_loops(problem):
    features, logits, labels, image_classes = problem.tensors()
    _, terms = dense_agmm(features, logits, labels, image_classes, problem.num_classes)
    expected = loops.terms(problem)
    assert tuple(terms) == TERMS
    for name, value in terms.items():
        np.testing.assert_allclose(value.item(), expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("terms", [("spar", "con"), ("seg", "absent"), ("self",), TERMS])
def test_dense_formulation_equals_the_objective(terms):
    features, logits, labels, image_classes = random_problem().tensors()
    loss, found = dense_agmm(features, logits, labels, image_classes, 5, terms)
    output = objectives.AGMM(5, terms=terms)(features, logits, labels, image_classes)
    assert set(found) == set(output.terms) == set(terms)
    assert relative(output.loss, loss) < 1e-12
    dense = torch.autograd.grad(loss, (features, logits), allow_unused=True)
    fast = torch.autograd.grad(output.loss, (features, logits), allow_unused=True)
    for expected, value in zip(dense, fast, strict=True):
        assert (expected is None) == (value is None)
        assert expected is None or relative(value, expected) < 1e-12

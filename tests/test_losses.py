from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from agmm import gmm, losses
from agmm.codes import UNLABELED, VOID
from tests import loops
from tests.loops import Problem, problems, random_problem

quick = settings(deadline=None, max_examples=40)


def close(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def setting(problem):
    """Components, counts, means and official scores of the library, and the same three of the loops."""
    features, _, labels, _ = problem.tensors()
    parts = gmm.components(labels, problem.num_classes)
    means, d = gmm.means_and_distances(features, labels, parts)
    g = gmm.scores(d * gmm.validity(labels, d.shape[2:], d.dtype), None, labels.shape[1:], parts)
    return parts, losses.count(labels, problem.num_classes), means, g, loops.mixture(problem)


@given(problems())
@quick
def test_counts(problem):
    counts = losses.count(torch.tensor(problem.labels), problem.num_classes)
    assert counts.labeled == max(1, (problem.labels < UNLABELED).sum())
    assert counts.valid == max(1, (problem.labels != VOID).sum())


@given(problems())
@quick
def test_partial_cross_entropy(problem):
    _, logits, labels, _ = problem.tensors()
    counts = losses.count(labels, problem.num_classes)
    found = losses.partial_cross_entropy(logits, labels, counts)
    close(found, loops.seg(problem))
    if (problem.labels < UNLABELED).any():
        ignored = labels.where(labels < UNLABELED, -100)
        close(found, F.cross_entropy(logits, ignored, ignore_index=-100).item())
    else:
        assert found == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("half", [True, False])
@given(problem=problems())
@quick
def test_self_supervision(half, reduction, problem):
    _, logits, labels, _ = problem.tensors()
    parts, counts, _, g, (_, present, scores) = setting(problem)
    weight = losses.self_weight(parts, half, reduction, g.dtype)
    p = parts.from_classes(logits.softmax(1))
    found = losses.self_supervision(g, p, labels, weight, counts)
    close(found, loops.self_(problem, present, scores, 0.5 if half else 1.0, reduction))


@pytest.mark.parametrize("negatives", [True, False])
@given(problem=problems())
@quick
def test_sparse_supervision(negatives, problem):
    parts, counts, _, g, (_, present, scores) = setting(problem)
    labels, weight = torch.tensor(problem.labels), losses.self_weight(parts, True, "mean", g.dtype)
    found = losses.sparse_supervision(g, labels, parts, weight, counts, negatives)
    close(found, loops.spar(problem, present, scores, negatives))


@pytest.mark.parametrize("vectors", ["sum", "mean"])
@given(problem=problems())
@quick
def test_contrast_of_a_batch(vectors, problem):
    parts, _, means, _, (mu, present, _) = setting(problem)
    close(losses.contrast_batch(means, parts, vectors), loops.con_batch(mu, present, vectors))


@given(problems())
@quick
def test_contrast_within_images(problem):
    parts, _, means, _, (mu, present, _) = setting(problem)
    close(losses.contrast_image(means, parts), loops.con_image(mu, present))


@given(problems())
@quick
def test_absent_classes(problem):
    _, logits, labels, image_classes = problem.tensors()
    counts = losses.count(labels, problem.num_classes)
    close(losses.absent_classes(logits.softmax(1), labels, image_classes, counts), loops.absent(problem))


def test_printed_factor_of_the_contrast():
    """Three identical means: 3 pairs of similarity 1, times 2 / (3 * 4)."""
    labels = torch.tensor([[[0, 1, 2]]])
    parts = gmm.components(labels, 4)
    assert losses.contrast_image(torch.ones(1, 3, 5), parts).item() == pytest.approx(0.5)
    assert losses.contrast_batch(torch.ones(1, 3, 5), parts, "sum").item() == pytest.approx(1)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_label_assignment(problem):
    features, logits, labels, image_classes = problem.tensors()
    parts = gmm.components(labels, problem.num_classes)
    d = gmm.distances(features, gmm.component_means(features, labels, parts), parts)
    sigma = gmm.spread(d, logits, labels, image_classes, parts, "adaptive")
    fine = F.interpolate(d, size=labels.shape[1:], mode="bilinear", align_corners=False)
    found = losses.assign_labels(fine, sigma, labels, parts)
    np.testing.assert_array_equal(found, loops.assign(problem))


@cache
def clear_assignment():
    """Two classes far apart and an unlabeled pixel on either: the assignment is known."""
    features = np.array([0.0, 0.1, 5.0, 5.1]).reshape(1, 1, 1, 4)
    labels = np.array([0, UNLABELED, 1, UNLABELED]).reshape(1, 1, 4)
    return Problem(features, np.zeros((1, 3, 1, 4)), labels, np.array([[True, True, False]]))


def test_clear_label_assignment():
    features, logits, labels, image_classes = clear_assignment().tensors()
    parts = gmm.components(labels, 3)
    d = gmm.distances(features, gmm.component_means(features, labels, parts), parts)
    sigma = gmm.spread(d, logits, labels, image_classes, parts, "adaptive")
    assert losses.assign_labels(d, sigma, labels, parts).tolist() == [[[VOID, 0, VOID, 1]]]


def test_losses_of_nothing_are_zero_with_a_graph():
    problem = random_problem()
    problem.labels[:] = VOID
    features, logits, labels, image_classes = problem.tensors()
    parts = gmm.components(labels, problem.num_classes)
    counts = losses.count(labels, problem.num_classes)
    means, d = gmm.means_and_distances(features, labels, parts)
    g = gmm.scores(d, None, labels.shape[1:], parts)
    weight = losses.self_weight(parts, True, "mean", g.dtype)
    p = logits.softmax(1)
    for loss in (
        losses.partial_cross_entropy(logits, labels, counts),
        losses.self_supervision(g, parts.from_classes(p), labels, weight, counts),
        losses.sparse_supervision(g, labels, parts, weight, counts, negatives=True),
        losses.contrast_batch(means, parts, "sum"),
        losses.contrast_batch(means, parts, "mean"),
        losses.contrast_image(means, parts),
        losses.absent_classes(p, labels, image_classes, counts),
    ):
        assert loss.item() == 0
        for gradient in torch.autograd.grad(loss, (features, logits), allow_unused=True, retain_graph=True):
            assert gradient is None or not gradient.any()


def test_a_pixel_on_the_edge_of_another_class_is_not_assigned():
    """Beyond sigma means strictly beyond, as inside means strictly inside."""
    labels = torch.tensor([[[0, 1, UNLABELED, UNLABELED, UNLABELED]]])
    parts = gmm.components(labels, 2)
    d = torch.tensor([[[[0.0, 2, 0.5, 0.5, 1.0]], [[2.0, 0, 1.0, 1.5, 1.5]]]])
    found = losses.assign_labels(d, torch.ones(1, 2), labels, parts)
    assert found.tolist() == [[[VOID, VOID, VOID, 0, VOID]]]

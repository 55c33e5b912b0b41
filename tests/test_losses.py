import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from agmm import gmm, losses
from agmm.codes import UNLABELED, VOID
from tests import loops
from tests.loops import Problem, problems, random_problem

quick = settings(deadline=None, max_examples=30)


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def components_and_means(problem):
    features, _, labels, _ = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    return components, gmm.component_means(features, labels, components)


@given(problems())
@quick
def test_counts_and_partial_cross_entropy(problem):
    _, logits, labels, _ = problem.tensors()
    counts = losses.count(labels, problem.num_classes)
    assert counts.labeled == max(1, (problem.labels < UNLABELED).sum())
    assert counts.valid == max(1, (problem.labels != VOID).sum())
    found = losses.partial_cross_entropy(logits, labels, counts)
    close(found, loops.seg(problem))
    if (problem.labels < UNLABELED).any():
        ignored = labels.where(labels < UNLABELED, -100)
        close(found, F.cross_entropy(logits, ignored, ignore_index=-100).item())


@given(problems())
@quick
def test_contrast_of_a_batch_and_within_images(problem):
    components, means = components_and_means(problem)
    mu, present = loops.means(problem.features, problem.labels, problem.num_classes)
    for vectors in ("sum", "mean"):
        close(losses.contrast_batch(means, components, vectors), loops.con_batch(mu, present, vectors))
    close(losses.contrast_image(means, components), loops.con_image(mu, present))


def test_printed_factor_of_the_contrast():
    """Three identical means: 3 pairs of similarity 1, times 2 / (3 * 4)."""
    components = gmm.components(torch.tensor([[[0, 1, 2]]]), 4)
    assert losses.contrast_image(torch.ones(1, 3, 5), components).item() == pytest.approx(0.5)
    assert losses.contrast_batch(torch.ones(1, 3, 5), components, "sum").item() == pytest.approx(1)


def assigned(problem):
    features, logits, labels, image_classes = problem.tensors()
    components, means = components_and_means(problem)
    d = gmm.distances(features, means, components)
    sigma = gmm.spread(d, logits, labels, image_classes, components, "adaptive")
    fine = F.interpolate(d, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return losses.assign_labels(fine, sigma, labels, components)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_label_assignment(problem):
    np.testing.assert_array_equal(assigned(problem), loops.assign(problem))


def test_clear_label_assignment():
    """Two classes far apart and an unlabeled pixel on either."""
    features = np.array([0.0, 0.1, 5.0, 5.1]).reshape(1, 1, 1, 4)
    labels = np.array([0, UNLABELED, 1, UNLABELED]).reshape(1, 1, 4)
    problem = Problem(features, np.zeros((1, 3, 1, 4)), labels, np.array([[True, True, False]]))
    assert assigned(problem).tolist() == [[[VOID, 0, VOID, 1]]]


def test_a_pixel_on_the_edge_of_another_class_is_not_assigned():
    """Beyond sigma means strictly beyond, as inside means strictly inside."""
    labels = torch.tensor([[[0, 1, UNLABELED, UNLABELED, UNLABELED]]])
    components = gmm.components(labels, 2)
    d = torch.tensor([[[[0.0, 2, 0.5, 0.5, 1.0]], [[2.0, 0, 1.0, 1.5, 1.5]]]])
    found = losses.assign_labels(d, torch.ones(1, 2), labels, components)
    assert found.tolist() == [[[VOID, VOID, VOID, 0, VOID]]]


def test_losses_of_nothing_are_zero_with_a_graph():
    problem = random_problem()
    problem.labels[:] = VOID
    features, logits, labels, _ = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    means = gmm.component_means(features, labels, components)
    counts = losses.count(labels, problem.num_classes)
    for loss in (
        losses.partial_cross_entropy(logits, labels, counts),
        losses.contrast_batch(means, components, "sum"),
        losses.contrast_batch(means, components, "mean"),
        losses.contrast_image(means, components),
    ):
        assert loss.item() == 0
        for gradient in torch.autograd.grad(loss, (features, logits), allow_unused=True, retain_graph=True):
            assert gradient is None or not gradient.any()

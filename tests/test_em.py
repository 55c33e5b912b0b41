"""Components of labels, and properties of an EM round; `tests.test_agmmpp` has its numbers beside loops."""

import numpy as np
import torch
from hypothesis import given, settings

from agmm import em, gmm
from agmm.codes import UNLABELED
from tests.loops import problems, random_problem


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


@settings(deadline=None, max_examples=30)
@given(problems())
def test_em_round_with_one_spread_never_decreases_the_likelihood(problem):
    """With equal spreads, the argmax is the most likely component: E and M step together are a step of k-means."""
    features, _, labels, _ = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    how = em.Estimator("rms", sigma=1.0)
    old = em.from_labels(features, labels, components, how)
    members = em.assign(old, labels, components)
    new = em.reestimate(features, old, members, components, how)
    again = em.assign(new, labels, components)
    errors = [(m * mixture.d**2).sum() for m, mixture in ((members, old), (members, new), (again, new))]
    assert errors[0] + 1e-9 >= errors[1]
    assert errors[1] + 1e-9 >= errors[2]


def test_pixels_far_from_all_means_belong_to_the_nearest_one():
    features, _, labels, _ = random_problem(k=3, grid=(6, 6), size=(6, 6)).tensors(torch.float32)
    labels[:] = UNLABELED
    labels[:, 0, 0], labels[:, 5, 5] = 0, 1
    components = gmm.components(labels, 3)
    near, far = (em.from_labels(x, labels, components, em.Estimator(sigma=1.0)) for x in (features, 100 * features))
    assert (far.scores(components).sum(1) == 0).any()
    assert torch.equal(em.assign(far, labels, components), em.assign(near, labels, components))

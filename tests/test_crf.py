"""Mean field, held to sums over all pairs of pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm.evaluation import crf
from agmm.evaluation.crf import PARAMETERS
from tests.helpers import golden
from tests.test_crf_loss import brute_kernel, random_images, random_maps


def brute_mean_field(p, image, parameters):
    """Mean field of (K, H, W) probabilities, from all pairs of pixels."""
    u = -np.log(np.clip(p.reshape(len(p), -1).T, 1e-5, 1))
    kernels = []
    for weight, sigmas in (
        (parameters.w_spatial, (parameters.sigma_spatial,)),
        (parameters.w_bilateral, (parameters.sigma_xy, parameters.sigma_rgb)),
    ):
        kernel = brute_kernel(image, *sigmas)
        norm = kernel.sum(1)
        kernels.append(weight * kernel / np.sqrt(np.outer(norm, norm)))
    q = np.exp(-u) / np.exp(-u).sum(1, keepdims=True)
    for _ in range(parameters.iterations):
        e = np.exp(-u + sum(kernel @ q for kernel in kernels))
        q = e / e.sum(1, keepdims=True)
    return q.T.reshape(p.shape)


@pytest.mark.parametrize("name", PARAMETERS)
def test_mean_field_equals_brute_force(name):
    p, images = random_maps((6, 7), batch=2, k=4), random_images((6, 7), batch=2)
    p[0, :, 2, 3] = torch.tensor([1.0, 0, 0, 0])
    found = crf.mean_field(p, images, PARAMETERS[name], "exact")
    for q, probabilities, image in zip(found, p, images, strict=True):
        expected = brute_mean_field(probabilities.numpy(), image.numpy(), PARAMETERS[name])
        np.testing.assert_allclose(q, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["deeplab", "cam"])
def test_golden_mean_field(name):
    arrays, _ = golden("pydensecrf_mean_field")
    p, image = torch.tensor(arrays["probabilities"]), torch.tensor(arrays["image"])
    found = crf.mean_field(p[None], image[None], PARAMETERS[name])[0]
    assert torch.equal(found.argmax(0), torch.tensor(arrays[name]).argmax(0))
    np.testing.assert_allclose(found, arrays[name], atol=1e-3)


@pytest.mark.parametrize("name", ["deeplab", "cam"])
def test_lattice_and_exact_mean_field_agree(name):
    """From a coarse segmentation of three levels of brightness, as a network's, which both sharpen."""
    images = random_images((32, 40))
    level = (images.mean(1) / 86).long()
    coarse = F.avg_pool2d(F.one_hot(level, 3).movedim(3, 1).float(), 4)
    p = F.interpolate(coarse, size=(32, 40), mode="bilinear")
    lattice, exact = (crf.mean_field(p, images, PARAMETERS[name], b).argmax(1) for b in ("lattice", "exact"))
    assert (lattice == exact).float().mean() > 0.99
    assert (exact == level).float().mean() > (p.argmax(1) == level).float().mean()


@settings(deadline=None, max_examples=15)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    k=st.integers(1, 5),
    name=st.sampled_from(sorted(PARAMETERS)),
    backend=st.sampled_from(["lattice", "exact"]),
)
def test_mean_field_returns_probabilities(size, k, name, backend):
    p = random_maps(size, 2, k, dtype=torch.float32)
    p[:, 0, 0, 0] = 0
    q = crf.mean_field(p, random_images(size, 2), PARAMETERS[name], backend)
    assert q.shape == p.shape
    assert (q >= 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(2, *size))


@pytest.mark.parametrize("backend", ["lattice", "exact"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_lone_pixel_is_corrected_and_an_edge_kept(name, backend):
    image = torch.full((1, 3, 20, 24), 60.0)
    image[..., 12:] = 180
    truth = (torch.arange(24) >= 12).long().expand(1, 20, 24).clone()
    flipped = truth.clone()
    flipped[0, 7, 5], flipped[0, 12, 17] = 1, 0
    probabilities = 0.3 + 0.4 * F.one_hot(flipped, 2).movedim(3, 1).float()
    q = crf.mean_field(probabilities, image, PARAMETERS[name], backend)
    assert torch.equal(q.argmax(1), truth)

"""Mean field and the loss of the dense CRF: released vectors, sums over all pairs of pixels, and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from agmm.codes import UNLABELED, VOID
from agmm.evaluation import crf, lattice
from agmm.evaluation.crf import PARAMETERS
from agmm.objectives import Baseline
from agmm.rivals import crf_loss
from agmm.rivals.crf_loss import DenseCRFLoss
from tests.helpers import golden
from tests.loops import random_problem
from tests.test_objectives import relative

LOSSES = ("rloss_empty_roi", "rloss_fullres", "rloss_local_kernel", "rloss_smooth_image", "rloss_voc_scale05")
BANDWIDTHS = ((15, 100), (15, 50), (30, 10), (60, 4))


def elevate_in_float32(features):
    """`lattice.elevate` rounded as in the original, which thereby decides ties between simplices."""
    column = np.arange(1, features.shape[1] + 1)
    width = np.float32((2 / 3) ** 0.5 * (len(column) + 1))
    scaled = features.float().numpy() * np.float32(width / (column * (column + 1)) ** 0.5)
    sums = scaled[:, ::-1].cumsum(1)[:, ::-1]
    return torch.from_numpy(np.pad(sums, ((0, 0), (0, 1))) - np.pad(np.float32(column) * scaled, ((0, 0), (1, 0))))


SETTINGS = {
    "official": ("official", "lattice", torch.float32, elevate_in_float32, 2e-6),
    "official, ties in float64": ("official", "lattice", torch.float32, lattice.elevate, 1e-2),
    "exact": ("exact", "exact", torch.float64, lattice.elevate, 1e-10),
}


def rows(maps):
    """(B, K, H, W) maps as (B, H W, K) values."""
    return maps.flatten(2).transpose(1, 2)


def random_images(size, batch=1, seed=0):
    """Piecewise smooth colors with noise: blobs, as in photographs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    images = np.empty((batch, 3, *size))
    for image in images:
        image[:] = rng.uniform(40, 215, (3, 1, 1)) + 30 * x
        for _ in range(6):
            cy, cx, radius = rng.uniform(0, 1, 3)
            image[:, (y - cy) ** 2 + (x - cx) ** 2 < (radius / 3) ** 2] = rng.uniform(0, 255, (3, 1))
    return torch.tensor((images + rng.normal(0, 4, images.shape)).round().clip(0, 255))


def random_maps(size, batch=1, k=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, k, *size, generator=generator, dtype=dtype)).softmax(1)


def brute_kernel(image, sigma_xy, sigma_rgb=None):
    """Kernel values of all pairs of pixels of a (3, H, W) image."""
    places, colors = np.indices(image.shape[1:]).reshape(2, -1).T, image.reshape(3, -1).T
    distances = cdist(places, places, "sqeuclidean") / (2 * sigma_xy**2)
    if sigma_rgb is not None:
        distances += cdist(colors, colors, "sqeuclidean") / (2 * sigma_rgb**2)
    return np.exp(-distances)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("sigma_rgb", "sigma_xy"), BANDWIDTHS)
def test_golden_filter(sigma_rgb, sigma_xy, setting, monkeypatch):
    kind, backend, dtype, elevate, tolerance = SETTINGS[setting]
    monkeypatch.setattr(lattice, "elevate", elevate)
    arrays, _ = golden("rloss_bilateral_filter")
    images, signal = torch.tensor(arrays["image"]), torch.tensor(arrays["signal"], dtype=dtype)
    kernel = crf.gaussian_filter(crf.pixel_features(images, sigma_xy, sigma_rgb), backend)
    expected = rows(torch.tensor(arrays[f"{kind}_srgb{sigma_rgb}_sxy{sigma_xy}"]))
    found = kernel(rows(signal))
    for channel in range(3):
        assert relative(found[..., channel], expected[..., channel]) < tolerance


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", LOSSES)
def test_golden_loss_and_gradient(name, setting, monkeypatch):
    kind, backend, dtype, elevate, tolerance = SETTINGS[setting]
    monkeypatch.setattr(lattice, "elevate", elevate)
    arrays, info = golden(name)
    arguments = info["arguments"]
    segmentation = torch.tensor(arrays["segmentation"], dtype=dtype, requires_grad=True)
    images, region = torch.tensor(arrays["image"]).float(), torch.tensor(arrays["roi"]) > 0
    options = {name: arguments[name] for name in ("sigma_rgb", "sigma_xy")} | {"scale": arguments["scale_factor"]}
    loss = crf_loss.pairwise_energy(segmentation, images, region, **options, backend=backend)
    (arguments["weight"] * loss).backward()
    assert relative(loss, arrays[f"{kind}_loss_unweighted"]) < tolerance
    assert relative(segmentation.grad, arrays[f"{kind}_grad_segmentation"]) < tolerance


@pytest.mark.parametrize("block", [1, 60, 100, 899])
def test_chunks_do_not_change_the_exact_filter(block, monkeypatch):
    features = crf.pixel_features(random_images((5, 6), 3), 3.0, 30.0)
    values = rows(random_maps((5, 6), 3, dtype=torch.float32))
    whole = crf.exact_filter(features, values)
    monkeypatch.setitem(crf.BLOCK, "cpu", block)
    torch.testing.assert_close(crf.exact_filter(features, values), whole, rtol=1e-6, atol=1e-6)


def test_images_of_a_batch_do_not_meet():
    features, values = crf.pixel_features(random_images((9, 12), 3), 5.0, 30.0), rows(random_maps((9, 12), 3))
    for backend in ("lattice", "exact"):
        together = crf.gaussian_filter(features, backend)(values)
        for i in range(3):
            alone = crf.gaussian_filter(features[i : i + 1], backend)(values[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone)


def test_features_too_wide_for_the_lattice_are_refused():
    with pytest.raises(ValueError, match="larger standard deviations"):
        crf.gaussian_filter(crf.pixel_features(random_images((9, 9)), 1e-4, 1e-4))
    with pytest.raises(ValueError, match="backend is 'dense'"):
        crf.gaussian_filter(torch.zeros(1, 2, 2), "dense")


def loss_problem(size=(8, 8), batch=2):
    region = torch.ones(batch, *size, dtype=torch.bool)
    region[0, :, 6:] = region[1, :3] = False
    return random_maps(size, batch).requires_grad_(), random_images(size, batch), region


@pytest.mark.parametrize("backend", ["lattice", "exact"])
def test_padding_takes_no_part(backend):
    maps, images, region = loss_problem()

    def run(maps):
        loss = crf_loss.pairwise_energy(maps, images, region, scale=1, backend=backend)
        return loss, torch.autograd.grad(loss, maps)[0]

    loss, gradient = run(maps)
    assert not gradient[~region[:, None].expand_as(gradient)].any()
    assert gradient[region[:, None].expand_as(gradient)].all()
    changed = torch.where(region[:, None], maps, 7.0)
    assert torch.equal(run(changed)[0], loss)


@pytest.mark.parametrize("backend", ["lattice", "exact"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_empty_region_is_zero_with_a_graph(scale, backend):
    maps, images, region = loss_problem()
    loss = crf_loss.pairwise_energy(maps, images, torch.zeros_like(region), scale=scale, backend=backend)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, maps)[0].any()


def test_loss_computes_in_float32_under_autocast():
    maps, images, region = loss_problem((16, 16))
    maps = maps.detach().float()
    plain = crf_loss.pairwise_energy(maps, images, region)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crf_loss.pairwise_energy(maps, images, region), plain)
        assert crf_loss.pairwise_energy(maps.bfloat16(), images, region).dtype == torch.float32


def test_second_derivatives_are_refused():
    maps, images, region = loss_problem()
    loss = crf_loss.pairwise_energy(maps, images, region).square()
    (gradient,) = torch.autograd.grad(loss, maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def objective_problem():
    problem = random_problem(size=(18, 24))
    return problem.tensors(), random_images((18, 24), batch=3) / 255


@pytest.mark.parametrize("backend", ["lattice", "exact"])
def test_objective_adds_the_weighted_loss(backend):
    inputs, images = objective_problem()
    _, logits, labels, _ = inputs
    output = DenseCRFLoss(5, weight=1e-3, sigma_xy=9.0, size_rule="as_given", backend=backend)(*inputs, images=images)
    crf = crf_loss.pairwise_energy(logits.softmax(1), 255 * images, labels != VOID, sigma_xy=9.0, backend=backend)
    assert list(output.terms) == ["seg", "crf"]
    assert output.terms["seg"] == Baseline(5)(*inputs).loss
    assert output.terms["crf"].item() == pytest.approx(crf.item(), rel=1e-9)
    assert output.loss == output.terms["seg"] + 1e-3 * output.terms["crf"]
    assert torch.autograd.grad(output.loss, logits)[0].isfinite().all()


def test_objective_without_labels_or_image_is_finite():
    inputs, images = objective_problem()
    for code in (UNLABELED, VOID):
        inputs[2][:] = code
        output = DenseCRFLoss(5)(*inputs, images=images)
        assert output.terms["seg"] == 0
        assert (output.terms["crf"] == 0) == (code == VOID)
        assert torch.autograd.grad(output.loss, inputs[1])[0].isfinite().all()


def test_weight_follows_the_crop():
    at = crf_loss.at_crop_size
    for rule in ("as_given", "fixed_sigma", "scaled_sigma"):
        assert at(2.4e-8, 100.0, (513, 513), rule) == (2.4e-8, 100.0)
    assert at(1.0, 100.0, (171, 171), "as_given") == (1.0, 100.0)
    assert at(1.0, 100.0, (171, 171), "fixed_sigma") == (9.0, 100.0)
    assert at(1.0, 99.0, (171, 171), "scaled_sigma") == (81.0, 33.0)


def test_objective_takes_the_weight_of_its_backend():
    inputs, images = objective_problem()
    ratio = 513**2 / (18 * 24)
    for backend, weight in (("lattice", 2.4e-8), ("exact", 1.3e-8)):
        output = DenseCRFLoss(5, backend=backend)(*inputs, images=images)
        expected = output.terms["seg"] + weight * ratio * output.terms["crf"]
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    "options", [{"backend": "dense"}, {"sigma_rgb": 0}, {"sigma_xy": -1}, {"scale": 2}, {"size_rule": "scaled"}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DenseCRFLoss(5, **options)


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

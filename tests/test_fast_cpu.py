"""The compiled loops in float32 against the plain ones in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm import fast
from agmm.codes import UNLABELED, VOID
from agmm.fast import cpu, cpu_kernels, plain


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def channels_last(x):
    """The same numbers with the channels of a pixel side by side."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def close(found, expected, tolerance=2e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= tolerance * expected.norm().clamp_min(1e-6)


def test_which_tensors_are_for_these_loops():
    assert fast.loops(torch.zeros(1)) is cpu
    assert fast.loops(torch.zeros(1, dtype=torch.int64)) is cpu
    assert fast.loops(torch.zeros(1, dtype=torch.float64)) is plain


def test_exp_and_log_are_exact_to_single_precision():
    x = np.random.default_rng(0).uniform(-86, 0, 5_000).astype(np.float32)
    found = np.array([cpu_kernels.exp(v) for v in x])
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=4e-7)
    x = np.exp(np.random.default_rng(1).uniform(-30, 5, 5_000)).astype(np.float32)
    found = np.array([cpu_kernels.log(v) for v in x])
    np.testing.assert_allclose(found, np.log(x.astype(np.float64)), rtol=3e-7, atol=1e-7)
    assert cpu_kernels.exp(np.float32(-1000)) < 1e-37
    assert np.isnan(cpu_kernels.exp(np.float32("nan")))
    assert np.isnan(cpu_kernels.log(np.float32("nan")))


@pytest.mark.parametrize("shape", [(3, 4, 20, 300), (2, 1, 1, 5), (1, 2, 33, 1), (5, 3, 256, 40)])
def test_differences(shape, threads):
    batch, slots, channels, pixels = shape
    torch.manual_seed(0)
    features = torch.randn(batch, channels, pixels, dtype=torch.float64).relu()
    means, grad = torch.rand(batch, slots, channels).double(), torch.randn(batch, slots, pixels).double()
    features[:, :, 0] = means[:, 0]  # the kink
    per_image = tuple((b + slots) % (slots + 1) for b in range(batch))
    filled = torch.arange(slots) < torch.tensor(per_image)[:, None]
    f = channels_last(features.float())
    close(
        cpu.differences(f, means.float(), per_image)[filled],
        plain.differences(features, means, per_image)[filled],
    )
    grad *= filled[..., None]
    expected = plain.differences_backward(f.double(), means.float().double(), per_image, grad)
    found = cpu.differences_backward(f, means.float(), per_image, grad.float())
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def test_weighted_sums(threads):
    torch.manual_seed(0)
    features = torch.randn(3, 20, 50)
    weights = torch.rand(3, 4, 50) * (torch.rand(3, 4, 50) < 0.2)
    grad, sums = torch.randn(3, 20, 50), torch.randn(3, 4, 20)
    close(
        cpu.weighted_sums(channels_last(features), weights),
        plain.weighted_sums(features.double(), weights.double()),
    )
    found, expected = channels_last(grad), grad.double()
    cpu.add_weighted(found, weights, sums)
    plain.add_weighted(expected, weights.double(), sums.double())
    close(found, expected)


@pytest.mark.parametrize(
    ("size", "fine"), [((5, 7), (17, 23)), ((81, 81), (321, 321)), ((1, 1), (3, 2)), ((6, 4), (3, 4))]
)
def test_interpolation(size, fine, threads):
    torch.manual_seed(0)
    maps, grad = torch.randn(2, 3, *size), torch.randn(2, 3, *fine)
    close(cpu.interpolate(maps, fine, (3, 3)), plain.interpolate(maps.double(), fine, (3, 3)))
    found = cpu.interpolate_backward(grad, maps.shape, (3, 3))
    close(found, plain.interpolate_backward(grad.double(), maps.shape, (3, 3)))
    assert not cpu.interpolate(maps, fine, (3, 1))[1, 1:].any()
    assert not cpu.interpolate_backward(grad, maps.shape, (3, 1))[1, 1:].any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_labels_are_counted_and_spread(seed, num_classes, height, width):
    rng = np.random.default_rng(seed)
    codes = [*range(num_classes), UNLABELED, VOID, num_classes, -1]
    labels = torch.from_numpy(rng.choice(codes, (2, height, width)))
    found = fast.census(labels, num_classes)
    for b in range(2):
        expected = [int((labels[b] == code).sum()) for code in codes[:-2]]
        assert found[b].tolist() == [*expected, height * width - sum(expected)]
    assert torch.equal(plain.count_codes(labels.flatten(1), num_classes), found)

    classes = torch.stack([torch.randperm(num_classes) for _ in range(2)])
    share, size = torch.rand(2, num_classes), (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    share[0, 0] = 0
    weights = fast.mean_weights(labels, classes, share, size)
    close(weights, plain.adjoint_weights(labels, classes, share.double(), size))
    maps = torch.randn(2, num_classes, *size).double()
    upsampled = torch.nn.functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    mask = (labels[:, None] == classes[..., None, None]) * share[..., None, None].double()
    close((weights.unflatten(2, size) * maps).sum((2, 3)), (upsampled * mask).sum((2, 3)), 1e-4)


def problem(batch=3, num_classes=21, slots=4, pixels=700):
    torch.manual_seed(0)
    labels = torch.randint(num_classes, (batch, pixels))
    labels[torch.rand(batch, pixels) < 0.7] = UNLABELED
    labels[torch.rand(batch, pixels) < 0.1] = VOID
    classes = torch.stack([torch.randperm(num_classes)[:slots] for _ in range(batch)])
    filled = torch.arange(slots) < torch.tensor([4, 2, 0])[:, None]
    absent = torch.rand(batch, num_classes) < 0.6
    given = fast.Supervision(
        labels, classes, torch.rand(batch, slots) * filled, torch.rand(batch, slots) * filled, True, absent, True
    )
    return 3 * torch.randn(batch, num_classes, pixels), torch.rand(batch, slots, pixels), given


def both(logits, scores, given, upstream=(0.7, 1.3, 0.9, 0.4)):
    """Sums and gradients of the compiled loops, and of the others in float64."""
    doubled = replace(given, self_weight=given.self_weight.double(), spar_weight=given.spar_weight.double())
    grad = torch.tensor(upstream)
    found = cpu.segmentation(logits, scores, given), *cpu.segmentation_backward(logits, scores, given, grad)
    doubles = logits.double(), scores.double(), doubled
    return found, (plain.segmentation(*doubles), *plain.segmentation_backward(*doubles, grad.double()))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"negatives": False},
        {"seg": False},
        {"absent": None},
        {"absent": None, "seg": False},
        {"absent": None, "seg": False, "self_weight": torch.zeros(3, 4)},
        {"self_weight": torch.zeros(3, 4), "spar_weight": torch.zeros(3, 4)},
    ],
)
def test_segmentation(change, threads):
    logits, scores, given = problem()
    found, expected = both(channels_last(logits), scores, replace(given, **change))
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    for a, b in zip(found[0], expected[0], strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-5, abs=1e-6)


def test_segmentation_without_components():
    logits, scores, given = problem()
    nothing = torch.zeros(3, 0)
    given = replace(given, classes=given.classes[:, :0], self_weight=nothing, spar_weight=nothing)
    found, expected = both(logits, scores[:, :0], given)
    close(found[0], expected[0])
    close(found[1], expected[1])


def test_threads_do_not_change_a_bit():
    logits, scores, given = problem()
    before, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(both(logits, scores, given)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_network_is_noticed(value):
    logits, scores, given = problem()
    given.labels[1, 13] = UNLABELED
    for k in (0, 5, 20):
        broken = channels_last(logits.clone())
        broken[1, k, 13] = value
        alone = replace(given, self_weight=torch.zeros_like(given.self_weight))
        assert not cpu.segmentation(broken, scores, alone)[3].isfinite()
        assert not cpu.segmentation(broken, scores, replace(given, absent=None))[1].isfinite()
        gradient, _ = cpu.segmentation_backward(broken, scores, given, torch.ones(4))
        assert not gradient[1, :, 13].isfinite().all()
    features = torch.zeros(1, 20, 7)
    features[0, 3, 2] = value
    assert not cpu.differences(channels_last(features), torch.ones(1, 2, 20), (2,))[0, :, 2].isfinite().any()

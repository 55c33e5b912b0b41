"""The functions of `agmm.fast`: the plain loops in float64, and the compiled ones in float32 beside them."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm import fast
from agmm.codes import UNLABELED, VOID
from agmm.fast import cpu, plain
from tests.helpers import threads


def close(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def problem(pixels=700):
    torch.manual_seed(0)
    labels = torch.randint(21, (3, pixels))
    labels[torch.rand(3, pixels) < 0.7] = UNLABELED
    labels[torch.rand(3, pixels) < 0.1] = VOID
    classes = torch.stack([torch.randperm(21)[:4] for _ in range(3)])
    weights = torch.rand(2, 3, 4) * (torch.arange(4) < torch.tensor([4, 2, 0])[:, None])
    given = fast.Supervision(labels, classes, *weights, True, torch.rand(3, 21) < 0.6, True)
    return 3 * torch.randn(3, 21, pixels), torch.rand(3, 4, pixels), given


def doubled(given):
    return replace(given, self_weight=given.self_weight.double(), spar_weight=given.spar_weight.double())


@pytest.fixture
def inputs():
    """Arguments of `segmentation_terms`, which require gradients where they can."""
    logits, scores, given = problem(pixels=140)
    maps = (x.double().unflatten(2, (10, 14)).requires_grad_() for x in (logits, scores))
    return *maps, doubled(given)


def with_gradients(function, arguments, upstream=(0.7, 1.3, 0.9, 0.4)):
    values = function(*arguments)
    loss = sum(u * v for u, v in zip(upstream, values, strict=True))
    return *values, *torch.autograd.grad(loss, arguments[:2])


@pytest.mark.parametrize("block", [1, 50])
@pytest.mark.parametrize("negatives", [True, False])
def test_blocks_do_not_change_segmentation_terms(inputs, negatives, block, monkeypatch):
    inputs = *inputs[:2], replace(inputs[2], negatives=negatives)
    expected = with_gradients(fast.segmentation_terms, inputs)
    monkeypatch.setitem(plain.BLOCK, "cpu", block)
    close(with_gradients(fast.segmentation_terms, inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confident_wrong_prediction_has_a_finite_loss_and_gradient(dtype):
    """All mass on one absent class: the product over classes must neither underflow nor lose its gradient."""
    logits = torch.full((1, 150, 2, 2), -200.0, dtype=dtype).requires_grad_()
    with torch.no_grad():
        logits[:, 3] = 200
    labels, nothing = torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 0, dtype=dtype)
    absent = torch.ones(1, 150, dtype=torch.bool)
    given = fast.Supervision(labels, labels[:, :0], nothing, nothing, True, absent, False)
    *_, value = fast.segmentation_terms(logits, torch.zeros(1, 0, 2, 2, dtype=dtype), given)
    # In float32 one less a number that close to 1 is rounded to an eighth of itself.
    assert value.item() == pytest.approx(4 * -np.log(1e-6), rel=0.02)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_the_kink_has_slope_zero():
    features = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    means = torch.tensor([[[1.0]]], requires_grad=True)
    d = fast.mean_absolute_difference(features, means, (1,))
    gradients = torch.autograd.grad(d.sum(), (features, means))
    assert d.tolist() == [[[0, 1]]]
    assert [g.flatten().tolist() for g in gradients] == [[0, 1], [-1]]


def test_second_derivatives_are_refused(inputs):
    features = torch.rand(2, 3, 5, requires_grad=True)
    means = torch.rand(2, 2, 3, requires_grad=True)
    for value, leaf in (
        (fast.mean_absolute_difference(features, means, (2, 2)).square().sum(), features),
        (fast.means_and_differences(features, torch.rand(2, 2, 5), (2, 2))[1].square().sum(), features),
        (fast.segmentation_terms(*inputs)[1].square(), inputs[0]),
        (fast.upsample(features[None], (7, 9), (2,)).square().sum(), features),
    ):
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


@pytest.mark.parametrize("block", [1, 50])
@pytest.mark.parametrize("per_image", [(3, 1, 0, 2), (3, 3, 3, 3)])
def test_blocks_do_not_change_differences(per_image, block, monkeypatch):
    torch.manual_seed(1)
    features = torch.rand(4, 6, 35).double().requires_grad_()
    filled = (torch.arange(3) < torch.tensor(per_image)[:, None])[..., None]
    weights, upstream = (torch.rand(4, 3, 35).double() * filled for _ in range(2))

    def found():
        means, d = fast.means_and_differences(features, weights, per_image)
        return d * filled, *torch.autograd.grad((d * upstream).sum() + means.square().sum(), features)

    expected = found()
    monkeypatch.setitem(plain.BLOCK, "cpu", block)
    close(found(), expected)


WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import torch
from agmm import fast, objectives
labels = torch.randint(3, (1, 8, 8))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        loss = objectives.AGMM(3)(torch.rand(1, 4, 2, 2), torch.rand(1, 3, 8, 8), labels, torch.ones(1, 3) > 0).loss
assert loss.isfinite() and fast.loops(loss) is fast.plain
print(*(warning.message for warning in caught), sep="\\n")
"""


def test_without_numba_the_plain_loops_run_and_one_sentence_says_so():
    run = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (sentence,) = run.stdout.splitlines()
    assert sentence == "numba is not installed, so the losses take several times longer: pip install 'agmm[fast]'"


@pytest.fixture(params=[1, 2])
def one_or_two_threads(request):
    with threads(request.param):
        yield


def channels_last(x):
    """The same numbers with the channels of a pixel side by side."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def near(found, expected, tolerance=2e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= tolerance * expected.norm().clamp_min(1e-6)


def test_which_tensors_are_for_these_loops():
    assert fast.loops(torch.zeros(1)) is cpu
    assert fast.loops(torch.zeros(1, dtype=torch.int64)) is cpu
    assert fast.loops(torch.zeros(1, dtype=torch.float64)) is plain


@pytest.mark.parametrize("shape", [(3, 4, 20, 300), (2, 1, 1, 5), (1, 2, 33, 1), (5, 3, 256, 40)])
def test_differences(shape, one_or_two_threads):
    batch, slots, channels, pixels = shape
    torch.manual_seed(0)
    features = torch.randn(batch, channels, pixels, dtype=torch.float64).relu()
    means, grad = torch.rand(batch, slots, channels).double(), torch.randn(batch, slots, pixels).double()
    features[:, :, 0] = means[:, 0]  # the kink
    per_image = tuple((b + slots) % (slots + 1) for b in range(batch))
    filled = torch.arange(slots) < torch.tensor(per_image)[:, None]
    f = channels_last(features.float())
    near(cpu.differences(f, means.float(), per_image)[filled], plain.differences(features, means, per_image)[filled])
    grad *= filled[..., None]
    expected = plain.differences_backward(f.double(), means.float().double(), per_image, grad)
    found = cpu.differences_backward(f, means.float(), per_image, grad.float())
    for a, b in zip(found, expected, strict=True):
        near(a, b)


def test_weighted_sums(one_or_two_threads):
    torch.manual_seed(0)
    features = torch.randn(3, 20, 50)
    weights = torch.rand(3, 4, 50) * (torch.rand(3, 4, 50) < 0.2)
    grad, sums = torch.randn(3, 20, 50), torch.randn(3, 4, 20)
    near(cpu.weighted_sums(channels_last(features), weights), plain.weighted_sums(features.double(), weights.double()))
    found, expected = channels_last(grad), grad.double()
    cpu.add_weighted(found, weights, sums)
    plain.add_weighted(expected, weights.double(), sums.double())
    near(found, expected)


@pytest.mark.parametrize(
    ("size", "fine"), [((5, 7), (17, 23)), ((81, 81), (321, 321)), ((1, 1), (3, 2)), ((6, 4), (3, 4))]
)
def test_interpolation(size, fine, one_or_two_threads):
    torch.manual_seed(0)
    maps, grad = torch.randn(2, 3, *size), torch.randn(2, 3, *fine)
    near(cpu.interpolate(maps, fine, (3, 3)), plain.interpolate(maps.double(), fine, (3, 3)))
    found = cpu.interpolate_backward(grad, maps.shape, (3, 3))
    near(found, plain.interpolate_backward(grad.double(), maps.shape, (3, 3)))
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
    near(weights, plain.adjoint_weights(labels, classes, share.double(), size))


def both(logits, scores, given, upstream=(0.7, 1.3, 0.9, 0.4)):
    """Sums and gradients of the compiled loops, and of the others in float64."""
    grad, doubles = torch.tensor(upstream), (logits.double(), scores.double(), doubled(given))
    found = cpu.segmentation(logits, scores, given), *cpu.segmentation_backward(logits, scores, given, grad)
    return found, (plain.segmentation(*doubles), *plain.segmentation_backward(*doubles, grad.double()))


ALONE, EMPTY = {"self_weight": torch.zeros(3, 4)}, torch.zeros(3, 0)
CHANGES = [{}, {"negatives": False}, {"seg": False}, {"absent": None}, {"absent": None, "seg": False}]
CHANGES += [ALONE | {"absent": None, "seg": False}, ALONE | {"spar_weight": torch.zeros(3, 4)}]
CHANGES += [{"classes": EMPTY.long(), "self_weight": EMPTY, "spar_weight": EMPTY}]


@pytest.mark.parametrize("change", CHANGES)
def test_segmentation(change, one_or_two_threads):
    logits, scores, given = problem()
    given = replace(given, **change)
    found, expected = both(channels_last(logits), scores[:, : given.classes.shape[1]], given)
    for a, b in zip(found, expected, strict=True):
        near(a, b)
    for a, b in zip(found[0], expected[0], strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-5, abs=1e-6)


def test_threads_do_not_change_a_bit():
    logits, scores, given = problem()
    results = []
    for count in (1, 3):
        with threads(count):
            results.append(both(logits, scores, given)[0])
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

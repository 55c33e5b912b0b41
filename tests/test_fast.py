"""The functions of `agmm.fast`, with the plain loops in float64."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from agmm import fast, gmm, losses
from agmm.codes import EPS, VOID
from agmm.fast import plain
from tests.loops import random_problem

BLOCKS = (1, 50, 2000)


def close(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.fixture
def inputs():
    """Arguments of `segmentation_terms`, which require gradients where they can."""
    problem = random_problem()
    _, logits, labels, image_classes = problem.tensors()
    components = gmm.components(labels, problem.num_classes)
    generator = torch.Generator().manual_seed(0)
    g = torch.rand(*components.classes.shape, *labels.shape[1:], generator=generator, dtype=torch.float64)
    weight, _ = losses.component_weights(components, losses.Form(0.5, "mean", True), torch.float64)
    supervision = fast.Supervision(
        labels.flatten(1), components.classes, weight, 0.3 * weight, True, ~image_classes, True
    )
    return logits, g.requires_grad_(), supervision


def dense_terms(logits, g, given):
    """The same four sums, one operation per symbol."""
    log_p, g = logits.flatten(2).log_softmax(1), g.flatten(2)
    p, valid = log_p.exp(), (given.labels != VOID)[:, None]
    chosen = torch.stack([p[b, codes] for b, codes in enumerate(given.classes)])
    cross = -g * (chosen + EPS).log() - (1 - g) * (1 - chosen + EPS).log()
    labeled = (given.labels < logits.shape[1]).nonzero().tolist()
    seg = -sum(log_p[b, given.labels[b, x], x] for b, x in labeled)
    spar = logits.new_zeros(())
    for b, x in labeled:
        for n, weight in enumerate(given.spar_weight[b]):
            hit = given.classes[b, n] == given.labels[b, x]
            if hit or given.negatives:
                spar = spar - weight * ((g[b, n, x] if hit else 1 - g[b, n, x]) + EPS).log()
    outside = -(1 - p + EPS).log() * given.absent[..., None] * valid
    return seg, (cross * given.self_weight[..., None] * valid).sum(), spar, outside.sum()


def with_gradients(function, arguments, upstream=(0.7, 1.3, 0.9, 0.4)):
    values = function(*arguments)
    loss = sum(u * v for u, v in zip(upstream, values, strict=True))
    return *values, *torch.autograd.grad(loss, arguments[:2])


@pytest.mark.parametrize("negatives", [True, False])
def test_segmentation_terms_equal_dense_operations(inputs, negatives):
    logits, g, given = inputs
    inputs = logits, g, replace(given, negatives=negatives)
    close(with_gradients(fast.segmentation_terms, inputs), with_gradients(dense_terms, inputs))


def test_terms_left_out_are_zero_and_have_no_gradient(inputs):
    logits, g, given = inputs
    alone = replace(given, absent=None, seg=False, spar_weight=torch.zeros_like(given.spar_weight))
    without, full = fast.segmentation_terms(logits, g, alone), fast.segmentation_terms(*inputs)
    assert without[0] == without[2] == without[3] == 0
    assert without[1] == full[1]
    for term in (0, 2, 3):
        assert not torch.autograd.grad(without[term], logits, retain_graph=True)[0].any()


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


def test_gradients_equal_finite_differences(inputs):
    logits, g, given = inputs
    logits, g = logits[:, :, :4, :3].detach().requires_grad_(), g[:, :, :4, :3].detach().requires_grad_()
    labels = given.labels.unflatten(1, (17, 23))[:, :4, :3].clone()
    labels[0, 0, 0], labels[0, 1, 1] = int(given.classes[0, 0]), VOID
    given = replace(given, labels=labels.flatten(1))
    assert torch.autograd.gradcheck(lambda z, g: fast.segmentation_terms(z, g, given), (logits, g))

    generator = torch.Generator().manual_seed(1)
    features = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    means = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 2, 5, generator=generator, dtype=torch.float64)
    weights[:, :, 1::2] = 0
    assert torch.autograd.gradcheck(lambda f, m: fast.mean_absolute_difference(f, m, (2, 2)), (features, means))
    assert torch.autograd.gradcheck(lambda f: fast.means_and_differences(f, weights, (2, 2)), (features,))


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


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_do_not_change_segmentation_terms(inputs, block, monkeypatch):
    whole = with_gradients(fast.segmentation_terms, inputs)
    monkeypatch.setitem(plain.BLOCK, "cpu", block)
    close(with_gradients(fast.segmentation_terms, inputs), whole)


@pytest.mark.parametrize("block", [1, 50, plain.BLOCK["cpu"]])
@pytest.mark.parametrize("per_image", [(3, 1, 0, 2), (3, 3, 3, 3)])
def test_blocks_do_not_change_differences(per_image, block, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(4, 6, 35, generator=generator, dtype=torch.float64, requires_grad=True)
    filled = (torch.arange(3) < torch.tensor(per_image)[:, None])[..., None]
    weights, upstream = (torch.rand(4, 3, 35, generator=generator, dtype=torch.float64) * filled for _ in range(2))

    def gradient(means, d):
        return torch.autograd.grad((d * upstream).sum() + means.sum(), features)

    means = weights @ features.transpose(1, 2)
    dense = (features.unsqueeze(1) - means.unsqueeze(3)).abs().mean(2)
    expected = dense * filled, *gradient(means, dense)
    monkeypatch.setitem(plain.BLOCK, "cpu", block)
    means, d = fast.means_and_differences(features, weights, per_image)
    close((d * filled, *gradient(means, d)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_memory_layout_gives_the_same_numbers(inputs, dtype):
    logits, g = (x.detach().to(dtype) for x in inputs[:2])
    supervision = replace(
        inputs[2], self_weight=inputs[2].self_weight.to(dtype), spar_weight=inputs[2].spar_weight.to(dtype)
    )

    def laid_out(x):
        yield x.contiguous(memory_format=torch.channels_last)
        yield x
        yield x.transpose(2, 3).contiguous().transpose(2, 3)
        yield torch.cat([x] * 2, 3)[..., : x.shape[3]]

    results = [
        with_gradients(fast.segmentation_terms, (z.requires_grad_(), s.requires_grad_(), supervision))
        for z, s in zip(laid_out(logits), laid_out(g), strict=True)
    ]
    for result in results[1:]:
        close(result, results[0])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(5, 3, 11), (1, 60, 100), (3, 0, 4), (2, 7, 1)])
def test_blocks_cover_every_pixel_once_and_stay_small(shape, block, monkeypatch):
    monkeypatch.setitem(plain.BLOCK, "cpu", block)
    visits = torch.zeros(shape[0], shape[2])
    for images, pixels in plain._blocks(torch.empty(shape)):
        visits[images, pixels] += 1
        assert visits[images, pixels].numel() * shape[1] <= max(block, shape[1])
    assert (visits == 1).all()


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

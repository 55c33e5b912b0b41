from dataclasses import replace

import numpy as np
import pytest
import torch

from agmm import fast, gmm, losses
from agmm.codes import VOID
from tests.loops import random_problem

BLOCKS = (1, 7, 50, 400, 2000)


def close(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.fixture
def inputs():
    """Arguments of `segmentation_terms`, which require gradients where they can."""
    problem = random_problem()
    _, logits, labels, image_classes = problem.tensors()
    parts = gmm.components(labels, problem.num_classes)
    generator = torch.Generator().manual_seed(0)
    g = torch.rand(*parts.classes.shape, *labels.shape[1:], generator=generator, dtype=torch.float64)
    weight, _ = losses.component_weights(parts, losses.Form(0.5, "mean", True), torch.float64)
    given = fast.Supervision(
        labels.flatten(1), parts.classes, weight, 0.3 * weight, True, ~image_classes, True, gmm.EPS
    )
    return logits, g.requires_grad_(), given


def plain_terms(logits, g, given):
    """The same four sums in plain operations."""
    log_p, g, eps = logits.flatten(2).log_softmax(1), g.flatten(2), given.eps
    p, valid = log_p.exp(), (given.labels != VOID)[:, None]
    chosen = torch.stack([p[b, codes] for b, codes in enumerate(given.classes)])
    cross = -g * (chosen + eps).log() - (1 - g) * (1 - chosen + eps).log()
    labeled = (given.labels < logits.shape[1]).nonzero().tolist()
    seg = -sum(log_p[b, given.labels[b, x], x] for b, x in labeled)
    spar = logits.new_zeros(())
    for b, x in labeled:
        for n, weight in enumerate(given.spar_weight[b]):
            hit = given.classes[b, n] == given.labels[b, x]
            if hit or given.negatives:
                spar = spar - weight * ((g[b, n, x] if hit else 1 - g[b, n, x]) + eps).log()
    outside = -(1 - p + eps).log() * given.absent[..., None] * valid
    return seg, (cross * given.self_weight[..., None] * valid).sum(), spar, outside.sum()


def with_gradients(function, arguments, upstream=(0.7, 1.3, 0.9, 0.4)):
    values = function(*arguments)
    loss = sum(u * v for u, v in zip(upstream, values, strict=True))
    return *values, *torch.autograd.grad(loss, arguments[:2])


@pytest.mark.parametrize("negatives", [True, False])
def test_segmentation_terms_equal_plain_operations(inputs, negatives):
    logits, g, given = inputs
    inputs = logits, g, replace(given, negatives=negatives)
    close(with_gradients(fast.segmentation_terms, inputs), with_gradients(plain_terms, inputs))


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
    given = fast.Supervision(labels, labels[:, :0], nothing, nothing, True, absent, False, 1e-6)
    *_, value = fast.segmentation_terms(logits, torch.zeros(1, 0, 2, 2, dtype=dtype), given)
    # In float32 one less a number that close to 1 is rounded to an eighth of itself.
    assert value.item() == pytest.approx(4 * -np.log(1e-6), rel=0.02)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_segmentation_terms_gradcheck(inputs):
    logits, g, given = inputs
    logits, g = logits[:, :, :4, :3].detach().requires_grad_(), g[:, :, :4, :3].detach().requires_grad_()
    labels = given.labels.unflatten(1, (17, 23))[:, :4, :3].clone()
    labels[0, 0, 0], labels[0, 1, 1] = int(given.classes[0, 0]), VOID
    given = replace(given, labels=labels.flatten(1))
    assert torch.autograd.gradcheck(lambda z, g: fast.segmentation_terms(z, g, given), (logits, g))


def test_difference_gradchecks():
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
    monkeypatch.setitem(fast.BLOCK, "cpu", block)
    close(with_gradients(fast.segmentation_terms, inputs), whole)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("per_image", [(3, 1, 0, 2), (3, 3, 3, 3)])
def test_blocks_do_not_change_differences(per_image, block, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(4, 6, 35, generator=generator, dtype=torch.float64, requires_grad=True)
    filled = torch.arange(3) < torch.tensor(per_image)[:, None]
    weights = torch.rand(4, 3, 35, generator=generator, dtype=torch.float64) * filled[..., None]
    upstream = torch.rand(4, 3, 35, generator=generator, dtype=torch.float64) * filled[..., None]

    def run():
        means, d = fast.means_and_differences(features, weights, per_image)
        plain = (features.unsqueeze(1) - means.unsqueeze(3)).abs().mean(2)
        close([d[filled]], [plain[filled]])
        return means, d * filled[..., None], *torch.autograd.grad((d * upstream).sum() + means.sum(), features)

    assert fast.BLOCK["cpu"] > features.numel()
    whole = run()
    monkeypatch.setitem(fast.BLOCK, "cpu", block)
    close(run(), whole)


def test_any_memory_layout_gives_the_same_numbers(inputs):
    logits, g, *rest = inputs

    def laid_out(x):
        yield x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        yield x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
        yield torch.cat([x.detach()] * 2, 3)[..., : x.shape[3]].requires_grad_()

    expected = with_gradients(fast.segmentation_terms, inputs)
    for z, s in zip(laid_out(logits), laid_out(g), strict=True):
        assert not z.is_contiguous()
        close(with_gradients(fast.segmentation_terms, (z, s, *rest)), expected)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(5, 3, 11), (1, 60, 100), (3, 0, 4), (2, 7, 1)])
def test_blocks_cover_every_pixel_once_and_stay_small(shape, block, monkeypatch):
    monkeypatch.setitem(fast.BLOCK, "cpu", block)
    visits = torch.zeros(shape[0], shape[2])
    for images, pixels in fast._blocks(torch.empty(shape)):
        visits[images, pixels] += 1
        assert visits[images, pixels].numel() * shape[1] <= max(block, shape[1])
    assert (visits == 1).all()

"""Class activation maps and pseudo labels: definitions, properties, and that a network is left as it was."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agmm import networks
from agmm.codes import UNLABELED
from agmm.rivals import cams


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_maps_of_several_scales_are_summed_and_normalized() -> None:
    """A backbone that averages 4 x 4 pixels, at scales that divide the image: written out."""

    class Averages(torch.nn.Module):
        def forward(self, images: Tensor, views: tuple[Tensor, ...]) -> tuple[networks.Tokens]:
            pooled = F.avg_pool2d(images, 4)
            return (networks.Tokens(pooled, pooled.square()),)

    net, images, weight = Averages(), _random(2, 3, 16, 24), _random(4, 3, 1, 1, seed=1) - 0.4
    maps, middle = cams.multi_scale(net, images, weight, weight, (1.0, 0.5))

    def cam(view: Tensor, power: int) -> Tensor:
        tokens = F.avg_pool2d(view, 4) ** power
        return F.interpolate(torch.einsum("kc,bchw->bkhw", weight[:, :, 0, 0], tokens), (16, 24), mode="bilinear")

    scaled = [F.interpolate(images, scale_factor=scale, mode="bilinear") for scale in (1.0, 0.5)]
    for found, power in ((maps, 1), (middle, 2)):
        both = [torch.maximum(cam(view, power), cam(view.flip(-1), power).flip(-1)) for view in scaled]
        total = torch.stack(both).relu().sum(0)
        low = total.amin((2, 3), keepdim=True)
        expected = (total - low) / ((total - low).amax((2, 3), keepdim=True) + 1e-5)
        torch.testing.assert_close(found, expected)
        assert found.min() >= 0
        assert found.max() < 1


@pytest.mark.parametrize("training", [True, False])
def test_maps_leave_the_network_as_it_was(training: bool) -> None:
    net = networks.build("small", 5, stem=8, feature_channels=8).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weight = _random(4, net.token_channels, 1, 1).requires_grad_()
    maps, middle = cams.multi_scale(net, _random(2, 3, 32, 40), weight, None, (1.0, 1.5))
    assert middle is None
    assert not maps.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training == training for module in net.modules())


def test_plain_labels_by_definition() -> None:
    maps = torch.tensor([[0.9, 0.70, 0.3, 0.25, 0.0], [0.2, 0.71, 0.5, 0.1, 0.0]])[None, :, None]
    assert cams.plain_labels(maps, 0.7, 0.25).tolist() == [[[1, 2, UNLABELED, 0, 0]]]
    with_background = cams.with_background(maps, 0.5).max(1).indices
    assert with_background.tolist() == [[[1, 2, 0, 0, 0]]], "at the threshold itself it is background"


@settings(max_examples=15, deadline=None)
@given(st.floats(0.4, 0.8), st.floats(0, 0.19), st.floats(0.05, 0.39), st.booleans(), st.integers(0, 9))
def test_labels_are_monotone_in_their_thresholds(high: float, more: float, low: float, refine: bool, seed: int) -> None:
    """A higher ``high`` adds no foreground, a lower ``low`` no background; each label is one of an image's classes."""
    tags = torch.tensor([[True, False, True], [False, True, False]])
    maps, images = _random(2, 3, 12, 12, seed=seed) * tags[..., None, None], _random(2, 3, 12, 12, seed=seed + 1)

    def labels(high: float, low: float) -> Tensor:
        if not refine:
            return cams.plain_labels(maps, high, low)
        return cams.refined_labels(maps, tags, images, high, low, dilations=(1, 2))

    found, higher, lower = labels(high, low), labels(high + more, low), labels(high, low / 2)
    foreground = (found > 0) & (found != UNLABELED)
    # Refined masks compete with the background's: at equal scores rounding decides.
    tolerance = 0.01 if refine else 0.0
    assert ((higher > 0) & (higher != UNLABELED) & ~foreground).float().mean() <= tolerance
    assert ((lower == 0) & (found != 0)).float().mean() <= tolerance
    for label, shown in zip(found, tags, strict=True):
        assert set(label.unique().tolist()) <= {0, UNLABELED, *(shown.nonzero()[:, 0] + 1).tolist()}


def test_refined_labels_without_averaging_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cams, "refine", lambda images, masks, dilations: masks)
    tags = torch.tensor([[True, False, True, True], [False, False, True, False], [False] * 4])
    maps, images = _random(3, 4, 9, 8) * tags[..., None, None], _random(3, 3, 9, 8, seed=1)
    found = cams.refined_labels(maps, tags, images, 0.7, 0.25, scale=1.0)
    assert torch.equal(found, cams.plain_labels(maps, 0.7, 0.25))
    assert (found[2] == 0).all(), "an image without tags is background"


def _refined(image: Tensor, masks: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """One image (3, h, w) and its masks (n, h, w), by the places of every pixel's neighbors."""
    offsets = torch.tensor([(d * y, d * x) for d in dilations for y, x in product((-1, 0, 1), repeat=2) if y or x])
    height, width = image.shape[1:]
    rows = (torch.arange(height)[:, None] + offsets[:, 0, None, None]).clip(0, height - 1)
    columns = (torch.arange(width) + offsets[:, 1, None, None]).clip(0, width - 1)
    distance, around = offsets.float().norm(dim=1), image[:, rows, columns]
    place = -((distance / (distance.std() + 1e-8) / 0.3) ** 2)
    color = -(((around - image[:, None]) / (around.std(1, keepdim=True) + 1e-8) / 0.3) ** 2).mean(0)
    weights = color.softmax(0) + 0.01 * place.softmax(0)[:, None, None]
    for _ in range(iterations):
        masks = (weights * masks[:, rows, columns]).sum(1)
    return masks


def test_refinement_averages_over_neighbors_of_similar_color() -> None:
    images, masks = _random(2, 3, 6, 5), _random(2, 3, 6, 5, seed=1)
    images[0, 1, :3] = 0.5  # neighborhoods of one value, whose spread is 0
    found = cams.refine(images, masks, (1, 2, 8), iterations=2)
    for image, mask, result in zip(images, masks, found, strict=True):
        torch.testing.assert_close(result, _refined(image, mask, (1, 2, 8), 2), rtol=1e-4, atol=1e-6)

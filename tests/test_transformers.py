import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from agmm import networks
from agmm.networks import backbones, transformers
from tests.helpers import build, random_images, skeleton


def of_timm(depth: int = 4, grid: int = 4) -> tuple[nn.Module, transformers.VisionTransformer]:
    """A small transformer of timm, every weight random, and ours with the same weights; patches of 8 pixels."""
    torch.manual_seed(2)
    theirs = timm.models.VisionTransformer(
        img_size=8 * grid, patch_size=8, embed_dim=48, depth=depth, num_heads=3, num_classes=0
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = transformers.VisionTransformer(nn.Conv2d(3, 48, 8, 8), patch=8, dim=48, depth=depth, heads=3, grid=grid)
    ours.load_state_dict(transformers.renamed(theirs.state_dict()))
    return theirs, ours.eval()


def grid_of(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def test_tokens_equal_those_of_timm() -> None:
    theirs, ours = of_timm()
    images = random_images(2, 3, 32, 32)
    with torch.no_grad():
        middle, final, summary = ours(images)
        tokens = theirs.forward_features(images)
        between = theirs.forward_intermediates(images, indices=[1], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(final, grid_of(tokens[:, 1:], (4, 4)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(summary, tokens[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(middle, between, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(3, 4), (4, 8), (7, 5)])
def test_position_embeddings_are_resized_as_timm_does_without_smoothing(size: tuple[int, int]) -> None:
    _, ours = of_timm()
    expected = resample_abs_pos_embed(ours.pos_embed, new_size=size, old_size=(4, 4), antialias=False)
    torch.testing.assert_close(torch.cat(ours.positions(size), dim=1), expected)


def test_sines_and_cosines_tell_all_cells_apart() -> None:
    positions = build("small_vit").backbone.pos_embed[0]
    assert torch.equal(positions[0], torch.zeros_like(positions[0]))
    cells = positions[1:].double()
    # Of two cells only their offset counts: cos(a - b) summed over the frequencies of both coordinates.
    side, dim = math.isqrt(len(cells)), cells.shape[1]
    angle = torch.tensor([10000 ** (-4 * i / dim) for i in range(dim // 4)], dtype=torch.double)
    both = torch.cartesian_prod(torch.arange(side), torch.arange(side)).T
    offset = sum((((a[:, None] - a)[..., None] * angle).cos().sum(2) for a in both), torch.zeros(()))
    torch.testing.assert_close(cells @ cells.T, offset, atol=1e-4, rtol=1e-4)
    assert (offset - torch.diag(offset.diag())).max() < dim / 2 - 0.1


def test_images_of_other_sizes_are_enlarged_to_whole_patches() -> None:
    _, ours = of_timm()
    images = random_images(1, 3, 33, 23)
    enlarged = F.interpolate(images, size=(40, 24), mode="bilinear", align_corners=False)
    with torch.no_grad():
        for found, expected in zip(ours(images), ours(enlarged), strict=True):
            assert torch.equal(found, expected)
        assert ours(images)[1].shape == (1, 48, 5, 3)


@pytest.mark.parametrize("training", [False, True])
def test_an_image_does_not_see_its_batch(training: bool) -> None:
    net = build("small_vit").train(training)
    images = random_images(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[1][1:2], net(images[1:2])[1], atol=1e-5, rtol=1e-4)
    assert not [m for m in skeleton("vit_base").modules() if isinstance(m, nn.Dropout | nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "size", "grid"), [("small_vit", (64, 64), (8, 8)), ("vit_base", (448, 224), (28, 14))]
)
def test_shapes(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    net = skeleton(name)
    images, views = torch.empty(2, 3, *size, device="meta"), [torch.empty(16, 3, 96, 96, device="meta")]
    features, logits, grid_logits, inner_features, tokens = net(images, inner=True, views=views)
    dim = 768 if name == "vit_base" else net.feature_channels
    assert (net.feature_channels, net.token_channels, net.head.high_channels) == (dim, dim, dim)
    assert features.shape == (2, dim, *grid)
    assert logits.shape == (2, 7, *size)
    assert grid_logits.shape == (2, 7, *grid)
    assert inner_features.shape == (2, 512 if name == "vit_base" else net.head.classifier.in_channels, *grid)
    assert tokens.final.shape == tokens.middle.shape == features.shape
    assert [summary.shape for summary in tokens.summaries] == [(2, dim), (16, dim)]


def test_parameters_of_the_small_transformer() -> None:
    assert sum(p.numel() for p in skeleton("small_vit").parameters()) == 699_840


@pytest.mark.parametrize("size", [(64, 64), (61, 75), (30, 96)])
def test_decoder_equals_its_description(size: tuple[int, int]) -> None:
    net, images = build("small_vit"), random_images(2, 3, *size)
    rate = net.head.conv1.dilation[0]
    with torch.no_grad():
        features, logits, grid_logits, inner_features = net(images, inner=True)
        x = F.conv2d(features, net.head.conv1.weight, padding=rate, dilation=rate).relu()
        x = F.conv2d(x, net.head.conv2.weight, padding=rate, dilation=rate).relu()
        torch.testing.assert_close(inner_features, x, atol=1e-5, rtol=1e-4)
        low = torch.einsum("bchw,kc->bkhw", x, net.head.classifier.weight[..., 0, 0])
        torch.testing.assert_close(grid_logits, low, atol=1e-5, rtol=1e-4)
        expected = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(net(images)[1], logits)
    assert features.shape[-2:] == tuple(math.ceil(side / net.backbone.patch) for side in size)
    assert features.min() < 0 < features.max()


def test_tokens_are_of_the_images_and_of_every_view() -> None:
    net, images = build("small_vit"), random_images(2, 3, 64, 64)
    views = [random_images(2, 3, 64, 64).flip(3), random_images(5, 3, 24, 24)]
    with torch.no_grad():
        features, _, tokens = net(images, views=views)
        middle, final, _ = net.backbone(images)
        assert torch.equal(tokens.middle, middle)
        assert torch.equal(tokens.final, features)
        assert torch.equal(final, features)
        assert not torch.allclose(middle, final)
        for found, of in zip(tokens.summaries, (images, *views), strict=True):
            torch.testing.assert_close(found, net.backbone(of)[2])
        assert len(net(images, views=())[2].summaries) == 1


def test_decoder_of_the_papers_network() -> None:
    head = skeleton("vit_base", 21).head
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [(512, 768, 3, 3), (512, 512, 3, 3), (21, 512, 1, 1)]
    assert [(m.dilation[0], m.padding[0]) for m in convolutions] == [(5, 5), (5, 5), (1, 0)]
    assert all(m.bias is None for m in convolutions)


def test_gradients_reach_every_parameter_from_the_logits_alone() -> None:
    """What several processes that share a step need; position embeddings are no parameters."""
    net = build("small_vit").train()
    net(random_images(2, 3, 64, 64))[1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    tagger = networks.TagClassifier(build("small_vit"), 6)
    tagger(random_images(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None for p in tagger.parameters())
    assert "backbone.pos_embed" in net.state_dict()
    assert "backbone.pos_embed" not in dict(net.named_parameters())


def test_imagenet_weights_are_those_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way of a download, with timm's random weights in its place."""
    assert set(transformers.WEIGHTS.values()) <= set(timm.list_pretrained())
    create, asked = timm.create_model, []

    def without_download(name: str, pretrained: bool, **options) -> nn.Module:
        torch.manual_seed(3)
        asked.append((name, pretrained, create(name, pretrained=False, **options).eval()))
        return asked[-1][2]

    monkeypatch.setattr(timm, "create_model", without_download)
    monkeypatch.setattr(backbones, "_reach", lambda repository: None)
    net, images = build("vit_base", 21, init="imagenet"), random_images(1, 3, 224, 224)
    ((name, pretrained, theirs),) = asked
    assert (name, pretrained) == ("deit_base_patch16_224.fb_in1k", True)
    assert net.provenance.startswith("ViT-B/16, timm deit_base_patch16_224.fb_in1k, sha256 ")
    assert skeleton("vit_base").provenance == "ViT-B/16, random weights"
    with torch.no_grad():
        tokens = theirs.forward_features(images)
        features, _, seen = net(images, views=())
    torch.testing.assert_close(features, grid_of(tokens[:, 1:], (14, 14)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(seen.summaries[0], tokens[:, 0], atol=1e-4, rtol=1e-3)

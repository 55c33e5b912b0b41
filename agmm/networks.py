"""Segmentation networks: a backbone, a head, and the features on which the mixture works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import transformers

DEEP_STEM = {"resnet50": "resnet50s.gluon_in1k", "resnet101": "resnet101s.gluon_in1k"}
NAMES = ("small", *DEEP_STEM, "small_vit", "vit_base")

_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "stem": (16, ("small",)),
    "feature_channels": (32, ("small",)),
    "rates": ((6, 12, 18), tuple(DEEP_STEM)),
    "multi_grid": ((1, 1, 1), tuple(DEEP_STEM)),
    "weights": ("deit", ("vit_base",)),
}
"""Default of every option of `build`, and the networks that it belongs to."""


@dataclass(frozen=True)
class Tokens:
    """What a backbone says of image patches and of whole images: image tags are learned from it.

    Attributes
    ----------
    final : Tensor (B, C, h, w)
        The last stage: after the last ReLU of a convolutional backbone, the last LayerNorm of a transformer.
    middle : Tensor (B, C, h, w) or None
        Patch tokens of an earlier block, not normalized; None without a transformer.
    summaries : tuple of Tensor (B', C)
        Class tokens of the images, then of every further view; empty without a transformer.
    """

    final: Tensor
    middle: Tensor | None = None
    summaries: tuple[Tensor, ...] = ()


class Segmenter(nn.Module):
    """A backbone and a head.

    In training mode the image pooling of `DeepLabHead` normalizes over the batch alone: it needs at least two images
    per step.

    Parameters
    ----------
    backbone : nn.Module
        images -> (low, high): the stage at stride 4 and the last stage. Or images -> (middle, final, summary), see
        `agmm.transformers.VisionTransformer`.
    head : DeepLabHead or LargeFOV
        (low, high) -> (features, logits, features before the last convolution), all on one grid.
    provenance : str
        Which stem and which weights; part of what a result must report.
    """

    def __init__(self, backbone: nn.Module, head: "DeepLabHead | transformers.LargeFOV", provenance: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.provenance = provenance

    @property
    def feature_channels(self) -> int:
        """C, the channels of the features."""
        return self.head.feature_channels

    @property
    def token_channels(self) -> int:
        """Channels of `Tokens`."""
        return self.head.high_channels

    def forward(self, images: Tensor, inner: bool = False, views: Sequence[Tensor] | None = None) -> tuple[Any, ...]:
        """Features and logits of a batch.

        Parameters
        ----------
        images : (B, 3, H, W) float tensor
            In [0, 1], or normalized as the backbone's weights expect.
        inner : bool
            Return what the decoder holds besides, too.
        views : sequence of (B', 3, H', W') tensors, optional
            Return `Tokens`, too, with the class tokens of these further images. Convolutional backbones have no such
            tokens and leave them out.

        Returns
        -------
        features : (B, C, h, w) tensor
            At stride 4, after the last ReLU and directly before the classifier, hence >= 0. Of a transformer the final
            patch tokens, of either sign.
        logits : (B, K, H, W) tensor
            Before softmax, upsampled to the size of the images.
        grid_logits, fused : (B, K, h, w) and (B, C', h, w) tensors
            Only with ``inner``: the logits on the grid of the features, and the features before the decoder's last
            convolution (of C' = C channels), with a transformer the input of its classifier.
        tokens : Tokens
            Only with ``views``.
        """
        low, high, *summary = self.backbone(images)
        features, grid_logits, fused = self.head(low, high)
        logits = _resize(grid_logits, images.shape[-2:], self.head.align_corners)
        outputs: tuple[Any, ...] = (features, logits)
        outputs += (grid_logits, fused) if inner else ()
        if views is None:
            return outputs
        if not summary:
            return (*outputs, Tokens(high))
        return (*outputs, Tokens(high, low, (*summary, *(self.backbone(view)[2] for view in views))))


class DeepLabHead(nn.Module):
    """DeepLabV3+ decoder: ASPP on the last stage, fused with the stage at stride 4.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, with plain instead of separable
    convolutions as in the AGMM paper. Convolutions keep PyTorch's default initialization.

    Parameters
    ----------
    low_channels, high_channels : int
        Channels of the two stages.
    num_classes : int
        K.
    rates : sequence of int
        Dilations of the 3x3 branches of the ASPP.
    aspp_channels, reduced_channels, feature_channels : int
        Width of every ASPP branch and their projection, of the reduced low stage, and of the features.
    dropout : float
        Dropout2d after the ASPP projection, the only dropout.
    align_corners : bool
        Of every bilinear interpolation inside the network.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        num_classes: int,
        *,
        rates: Sequence[int],
        aspp_channels: int,
        reduced_channels: int,
        feature_channels: int,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.high_channels = high_channels
        self.feature_channels = feature_channels
        self.align_corners = align_corners
        branches = [_conv(high_channels, aspp_channels, 1)]
        branches += [_conv(high_channels, aspp_channels, 3, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv(high_channels, aspp_channels, 1))
        self.project = nn.Sequential(_conv((len(rates) + 2) * aspp_channels, aspp_channels, 1), nn.Dropout2d(dropout))
        self.reduce = _conv(low_channels, reduced_channels, 1)
        self.fuse = nn.Sequential(
            _conv(reduced_channels + aspp_channels, feature_channels, 3), _conv(feature_channels, feature_channels, 3)
        )
        self.classifier = nn.Conv2d(feature_channels, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, C, h, w), logits (B, K, h, w), features before the last convolution; on the grid of ``low``."""
        pooled = self.pooling(high).expand(-1, -1, *high.shape[-2:])  # bilinear from 1x1 is a broadcast
        aspp = self.project(torch.cat([*(branch(high) for branch in self.branches), pooled], dim=1))
        aspp = _resize(aspp, low.shape[-2:], self.align_corners)
        fused = self.fuse[0](torch.cat([self.reduce(low), aspp], dim=1))
        features = self.fuse[1](fused)
        return features, self.classifier(features), fused


class SmallBackbone(nn.Module):
    """Stem at stride 2 and four residual blocks at strides 2, 4, 8 and 8 (the last dilated by 2).

    Returns the second stage (2 x stem channels, stride 4) and the last one (8 x stem channels, stride 8). Convolutions
    keep PyTorch's default initialization: full supervision reached 86 mIoU on the embedded data with it, 82 with the
    ResNets' fan-out.
    """

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.stem = _conv(3, stem, 3, stride=2)
        self.stage1 = ResidualBlock(stem, stem)
        self.stage2 = ResidualBlock(stem, 2 * stem, stride=2)
        self.stage3 = ResidualBlock(2 * stem, 4 * stem, stride=2)
        self.stage4 = ResidualBlock(4 * stem, 8 * stem, dilation=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, 2 stem, H/4, W/4), (B, 8 stem, H/8, W/8), sizes rounded up."""
        low = self.stage2(self.stage1(self.stem(images)))
        return low, self.stage4(self.stage3(low))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv(in_channels, channels, 3, stride=stride, dilation=dilation),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h / stride, w / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


class TagClassifier(nn.Module):
    """Image tags from a backbone: global max pooling and one linear layer.

    The embedded data's counterpart of ImageNet classification: train this, then hand
    ``tagger.backbone.state_dict()`` to the backbone of a new `Segmenter`.

    Parameters
    ----------
    net : Segmenter
        Its backbone is shared, not copied; its head is not used.
    num_tags : int
        Classes that an image can have; usually K without the background.
    """

    def __init__(self, net: Segmenter, num_tags: int) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.classifier = nn.Linear(net.head.high_channels, num_tags)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images -> (B, num_tags) logits, one binary decision per tag."""
        return self.classifier(self.backbone(images)[1].amax(dim=(2, 3)))


def build(
    name: str,
    num_classes: int,
    *,
    stem: int = 16,
    feature_channels: int = 32,
    init: str = "scratch",
    rates: Sequence[int] = (6, 12, 18),
    multi_grid: Sequence[int] = (1, 1, 1),
    weights: str = "deit",
) -> Segmenter:
    """Network by name.

    Parameters
    ----------
    name : {"small", "resnet50", "resnet101", "small_vit", "vit_base"}
        A network for small images, or the paper's: a ResNet with deep stem at output stride 8 and 256 features. And
        their counterparts for AGMM++: a small vision transformer, and ViT-B/16, whose features are 768-channel tokens.
    num_classes : int
        K, at most 254 because 254 and 255 are label codes.
    stem : int
        Only "small": its width. Stages have 1, 2, 4 and 8 times, ASPP branches 4 times as many channels.
    feature_channels : int
        Only "small": C.
    init : {"scratch", "imagenet"}
        "imagenet" (not for the small networks) downloads classification weights for the backbone, or takes them from
        timm's cache. "scratch" draws the convolutions of a ResNet backbone from Kaiming's normal distribution
        (fan-out).
    rates : three int
        Only ResNets: dilations of the ASPP, (6, 12, 18) on VOC and (12, 24, 36) on Cityscapes.
    multi_grid : three int
        Only ResNets: factors on the dilations (2, 4, 4) of the last stage, (2, 2, 4) in the released
        Cityscapes configuration.
    weights : {"deit", "augreg"}
        Only "vit_base", with ``init="imagenet"``: those of DeiT (ImageNet-1k), or of ViT as trained on ImageNet-21k
        and fine-tuned on 1k. The latter saw images normalized with mean and standard deviation 0.5.

    Raises
    ------
    ValueError
        Unknown name or value, or an option that belongs to another network.
    RuntimeError
        The weights can be neither downloaded nor found in the cache.
    """
    if name not in NAMES:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}")
    if not 1 <= num_classes <= 254:
        raise ValueError(f"num_classes must be between 1 and 254, not {num_classes}")
    if init not in ("scratch", "imagenet"):
        raise ValueError(f"unknown init {init!r}: choose scratch or imagenet")
    given = {"stem": stem, "feature_channels": feature_channels, "rates": tuple(rates)}
    given |= {"multi_grid": tuple(multi_grid), "weights": weights}
    for option, (default, owners) in _OPTIONS.items():
        if name not in owners and given[option] != default:
            raise ValueError(f"the option {option} belongs to {' and '.join(owners)}: leave it out for {name!r}")
    if name.startswith("small") and init != "scratch":
        raise ValueError(f"no ImageNet weights exist for {name!r}: choose init='scratch'")
    if name == "small":
        return _small(num_classes, stem, feature_channels)
    if name == "small_vit":
        return Segmenter(*transformers.small(num_classes), "small vision transformer, random weights")
    if name == "vit_base":
        return _vit_base(num_classes, init == "imagenet", weights)
    return _resnet(name, num_classes, init == "imagenet", rates, multi_grid)


@torch.no_grad()
def has_class_tokens(net: nn.Module) -> bool:
    """Whether the `Tokens` of a network are those of a transformer; looked up by a small image of nothing."""
    training, like = net.training, next(net.parameters())
    tokens = net.eval()(like.new_zeros(1, 3, 64, 64), views=())[-1]
    net.train(training)
    return tokens.middle is not None


def parameter_groups(net: Segmenter, lr: float, head_factor: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: the backbone with rate ``lr``, everything else with ``head_factor * lr``."""
    rest = [parameter for name, parameter in net.named_parameters() if not name.startswith("backbone.")]
    return [{"params": list(net.backbone.parameters()), "lr": lr}, {"params": rest, "lr": head_factor * lr}]


def _small(num_classes: int, stem: int, feature_channels: int) -> Segmenter:
    backbone = SmallBackbone(stem)
    head = DeepLabHead(
        2 * stem,
        8 * stem,
        num_classes,
        rates=(2, 4),
        aspp_channels=4 * stem,
        reduced_channels=stem,
        feature_channels=feature_channels,
        dropout=0.0,
        align_corners=False,
    )
    return Segmenter(backbone, head, f"small network, stem {stem}, {feature_channels} features, random weights")


def _resnet(
    name: str, num_classes: int, pretrained: bool, rates: Sequence[int], multi_grid: Sequence[int]
) -> Segmenter:
    if len(rates) != 3 or len(multi_grid) != 3 or min(*rates, *multi_grid) < 1:
        raise ValueError(f"rates and multi_grid are three positive integers each, not {rates} and {multi_grid}")
    tag = DEEP_STEM[name]
    # Zero-initialized residual branches are timm's default, not the paper's.
    backbone = _from_timm(
        tag, pretrained, features_only=True, output_stride=8, out_indices=(1, 4), zero_init_last=False
    )
    for block, factor in zip(backbone.layer4, multi_grid, strict=True):
        dilation = factor * block.conv2.dilation[0]
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    low_channels, high_channels = backbone.feature_info.channels()
    head = DeepLabHead(
        low_channels,
        high_channels,
        num_classes,
        rates=rates,
        aspp_channels=256,
        reduced_channels=48,
        feature_channels=256,
        dropout=0.5,
        align_corners=True,
    )
    weights = f"timm {tag}, deep stem" if pretrained else f"timm {tag.split('.')[0]}, deep stem, random weights"
    return Segmenter(backbone, head, weights)


def _vit_base(num_classes: int, pretrained: bool, weights: str) -> Segmenter:
    if weights not in transformers.WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}: choose one of {', '.join(transformers.WEIGHTS)}")
    backbone, head = transformers.base(num_classes)
    if not pretrained:
        return Segmenter(backbone, head, "ViT-B/16, random weights")
    tag = transformers.WEIGHTS[weights]
    backbone.load_state_dict(transformers.renamed(_from_timm(tag, True, num_classes=0).state_dict()))
    return Segmenter(backbone, head, f"ViT-B/16, timm {tag}")


def _from_timm(tag: str, pretrained: bool, **options: Any) -> Any:
    """A model of timm; RuntimeError where its weights can be neither downloaded nor found in the cache."""
    import timm  # takes seconds, and the small networks do without

    try:
        return timm.create_model(tag, pretrained=pretrained, **options)
    except Exception as error:  # every cause of a failed download has a type of its own
        if not pretrained:
            raise
        raise RuntimeError(
            f"the ImageNet weights {tag} could not be loaded: run once with network access to fill timm's cache, "
            "or choose init='scratch'"
        ) from error


def _conv(in_channels: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size up to the stride, batch normalization, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)

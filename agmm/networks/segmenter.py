"""Segmentation networks: a backbone, a head, and the features on which the mixture works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.networks import transformers
from agmm.networks.heads import (
    DeepLabEmbedding,
    DeepLabHead,
    EmbeddingHead,
    PyramidHead,
    PyramidPooling,
    SummedASPP,
    convolution,
    resize,
)

DEEP_STEM = {"resnet50": "resnet50s.gluon_in1k", "resnet101": "resnet101s.gluon_in1k"}
NAMES = ("small", *DEEP_STEM, "small_vit", "vit_base")

_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "stem": (16, ("small",)),
    "feature_channels": (32, ("small",)),
    "rates": ((6, 12, 18), tuple(DEEP_STEM)),
    "multi_grid": ((1, 1, 1), tuple(DEEP_STEM)),
    "weights": ("deit", ("vit_base",)),
    "embedding": (0, ("small", *DEEP_STEM)),
    "decoder": ("aspp", tuple(DEEP_STEM)),
}
"""Default of every option of `build`, and the networks that it belongs to."""

OF_THE_HEAD = ("embedding", "decoder")
"""Options of `build` that leave the backbone as it is."""


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
        `agmm.networks.transformers.VisionTransformer`.
    head : DeepLabHead, EmbeddingHead, PyramidHead or LargeFOV
        (low, high) -> (features, logits, features before the last convolution), all on one grid.
    provenance : str
        Which stem and which weights; part of what a result must report.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: DeepLabHead | EmbeddingHead | PyramidHead | transformers.LargeFOV,
        provenance: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.provenance = provenance
        self.frozen = False

    def train(self, mode: bool = True) -> "Segmenter":
        """As of every module; what is frozen stays as it is tested."""
        super().train(mode and not self.frozen)
        self.head.classifier.train(mode)
        return self

    def freeze(self) -> None:
        """Train nothing but the classifier from now on."""
        self.frozen = True
        self.requires_grad_(False)
        self.head.classifier.requires_grad_(True)

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
        logits = resize(grid_logits, images.shape[-2:], self.head.align_corners)
        outputs: tuple[Any, ...] = (features, logits)
        outputs += (grid_logits, fused) if inner else ()
        if views is None:
            return outputs
        if not summary:
            return (*outputs, Tokens(high))
        return (*outputs, Tokens(high, low, (*summary, *(self.backbone(view)[2] for view in views))))


class SmallBackbone(nn.Module):
    """Stem at stride 2 and four residual blocks at strides 2, 4, 8 and 8 (the last dilated by 2).

    Returns the second stage (2 x stem channels, stride 4) and the last one (8 x stem channels, stride 8). Convolutions
    keep PyTorch's default initialization: full supervision reached 86 mIoU on the embedded data with it, 82 with the
    ResNets' fan-out.
    """

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.stem = convolution(3, stem, 3, stride=2)
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
            convolution(in_channels, channels, 3, stride=stride, dilation=dilation),
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
    embedding: int = 0,
    decoder: str = "aspp",
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

    embedding : int
        Only "small" and ResNets: channels of the embeddings of SPML, 64 on VOC and 32 on DensePose; 0 for a network
        without.
    decoder : {"aspp", "pyramid"}
        Only ResNets: of embeddings as SPML has it on VOC or on DensePose; without embeddings DeepLabV3+ or PSPNet.

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
    given |= {"multi_grid": tuple(multi_grid), "weights": weights, "embedding": embedding, "decoder": decoder}
    for option, (default, owners) in _OPTIONS.items():
        if name not in owners and given[option] != default:
            raise ValueError(f"the option {option} belongs to {' and '.join(owners)}: leave it out for {name!r}")
    if name.startswith("small") and init != "scratch":
        raise ValueError(f"no ImageNet weights exist for {name!r}: choose init='scratch'")
    if name == "small":
        return _small(num_classes, stem, feature_channels, embedding)
    if name == "small_vit":
        return Segmenter(*transformers.small(num_classes), "small vision transformer, random weights")
    if name == "vit_base":
        return _vit_base(num_classes, init == "imagenet", weights)
    if decoder not in ("aspp", "pyramid"):
        raise ValueError(f"unknown decoder {decoder!r}: choose aspp or pyramid")
    if embedding or decoder == "pyramid":
        return _resnet_of_spml(name, num_classes, init == "imagenet", embedding, decoder)
    return _resnet(name, num_classes, init == "imagenet", rates, multi_grid)


@torch.no_grad()
def has_class_tokens(net: nn.Module) -> bool:
    """Whether the `Tokens` of a network are those of a transformer; looked up by a small image of nothing."""
    training, like = net.training, next(net.parameters())
    tokens = net.eval()(like.new_zeros(1, 3, 64, 64), views=())[-1]
    net.train(training)
    return tokens.middle is not None


def parameter_groups(net: Segmenter, lr: float, head_factor: float, bias_factor: float = 1.0) -> list[dict[str, Any]]:
    """Groups for an optimizer: the backbone with rate ``lr``, everything else with ``head_factor * lr``.

    With another ``bias_factor`` than 1 the biases are groups of their own: with so many times the rate of the weights
    beside them, and no decay (2 in SPML's released code).
    """
    rest = [(name, parameter) for name, parameter in net.named_parameters() if not name.startswith("backbone.")]
    groups: list[dict[str, Any]] = []
    for named, rate in ((net.backbone.named_parameters(), lr), (rest, head_factor * lr)):
        learned = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        apart = {name for name, _ in learned if bias_factor != 1 and name.endswith("bias")}
        groups.append({"params": [p for name, p in learned if name not in apart], "lr": rate})
        if apart:
            biases = [p for name, p in learned if name in apart]
            groups.append({"params": biases, "lr": bias_factor * rate, "weight_decay": 0.0})
    return groups


def _small(num_classes: int, stem: int, feature_channels: int, embedding: int) -> Segmenter:
    backbone = SmallBackbone(stem)
    decoder = DeepLabHead(
        2 * stem,
        8 * stem,
        embedding or num_classes,
        rates=(2, 4),
        aspp_channels=4 * stem,
        reduced_channels=stem,
        feature_channels=feature_channels,
        dropout=0.0,
        align_corners=False,
    )
    about = f"small network, stem {stem}, {feature_channels} features"
    if not embedding:
        return Segmenter(backbone, decoder, f"{about}, random weights")
    head = EmbeddingHead(DeepLabEmbedding(decoder), 8 * stem, embedding, num_classes)
    return Segmenter(backbone, head, f"{about}, {embedding}-d embeddings, random weights")


def _resnet(
    name: str, num_classes: int, pretrained: bool, rates: Sequence[int], multi_grid: Sequence[int]
) -> Segmenter:
    if len(rates) != 3 or len(multi_grid) != 3 or min(*rates, *multi_grid) < 1:
        raise ValueError(f"rates and multi_grid are three positive integers each, not {rates} and {multi_grid}")
    backbone, weights = _resnet_backbone(name, pretrained)
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
    return Segmenter(backbone, head, weights)


def _resnet_of_spml(name: str, num_classes: int, pretrained: bool, channels: int, decoder: str) -> Segmenter:
    """The networks of SPML: embeddings of so many channels, or PSPNet where there are none."""
    backbone, weights = _resnet_backbone(name, pretrained)
    high_channels = backbone.feature_info.channels()[-1]
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 3e-4
    if pretrained:
        # As released: the stem and the first stage keep their weights.
        for module_name, module in backbone.named_children():
            if module_name not in ("layer2", "layer3", "layer4"):
                module.requires_grad_(False)
    if not channels:
        return Segmenter(backbone, PyramidHead(high_channels, num_classes), f"{weights}, pyramid pooling")
    made = PyramidPooling(high_channels, channels) if decoder == "pyramid" else SummedASPP(high_channels, channels)
    return Segmenter(
        backbone, EmbeddingHead(made, high_channels, channels, num_classes), f"{weights}, {channels}-d embeddings"
    )


def _resnet_backbone(name: str, pretrained: bool) -> tuple[Any, str]:
    """A ResNet with deep stem at output stride 8, and where its weights come from."""
    tag = DEEP_STEM[name]
    # Zero-initialized residual branches are timm's default, not the papers'.
    backbone = _from_timm(
        tag, pretrained, features_only=True, output_stride=8, out_indices=(1, 4), zero_init_last=False
    )
    return backbone, f"timm {tag}, deep stem" if pretrained else f"timm {tag.split('.')[0]}, deep stem, random weights"


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

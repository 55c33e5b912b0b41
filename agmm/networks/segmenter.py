"""Segmentation networks: heads, a small backbone, and both together with the features on which the mixture works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.networks.transformers import LargeFOV

# --- Heads: from the stages of a backbone to features and logits ------------------------------------------------------


class DeepLabHead(nn.Module):
    """DeepLabV3+ decoder: ASPP on the last stage, fused with the stage at stride 4.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, with plain instead of separable
    convolutions as in the AGMM paper. Convolutions keep PyTorch's default initialization.

    ``stages`` are the channels of the stage at stride 4 and of the last one, ``rates`` the dilations of the 3x3
    branches of the ASPP. Every branch and their projection are ``aspp_channels`` wide, the low stage is reduced to
    ``reduced_channels``, the features have ``feature_channels``. Dropout2d after the ASPP projection is the only
    dropout; ``align_corners`` holds for every bilinear interpolation inside the network. Defaults are the paper's.
    """

    def __init__(
        self,
        stages: tuple[int, int],
        num_classes: int,
        *,
        rates: Sequence[int],
        aspp_channels: int = 256,
        reduced_channels: int = 48,
        feature_channels: int = 256,
        dropout: float = 0.5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        low_channels, high_channels = stages
        self.high_channels = high_channels
        self.feature_channels = feature_channels
        self.align_corners = align_corners
        branches = [convolution(high_channels, aspp_channels, 1)]
        branches += [convolution(high_channels, aspp_channels, 3, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(high_channels, aspp_channels, 1))
        joined = (len(rates) + 2) * aspp_channels
        self.project = nn.Sequential(convolution(joined, aspp_channels, 1), nn.Dropout2d(dropout))
        self.reduce = convolution(low_channels, reduced_channels, 1)
        self.fuse = nn.Sequential(
            convolution(reduced_channels + aspp_channels, feature_channels, 3),
            convolution(feature_channels, feature_channels, 3),
        )
        self.classifier = nn.Conv2d(feature_channels, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, C, h, w), logits (B, K, h, w), inner features (B, C, h, w); on the grid of ``low``."""
        pooled = self.pooling(high).expand(-1, -1, *high.shape[-2:])  # bilinear from 1x1 is a broadcast
        aspp = self.project(torch.cat([*(branch(high) for branch in self.branches), pooled], dim=1))
        aspp = resize(aspp, low.shape[-2:], self.align_corners)
        inner_features = self.fuse[0](torch.cat([self.reduce(low), aspp], dim=1))
        features = self.fuse[1](inner_features)
        return features, self.classifier(features), inner_features


class EmbeddingHead(nn.Module):
    """Embeddings of pixels, and a classifier that learns from them without changing them (SPML, Sec. 3.4).

    The decoder is (low, high) -> embeddings (B, C, h, w), linear in the last layer; ``feature_channels`` is C.
    """

    align_corners = False

    def __init__(self, decoder: nn.Module, high_channels: int, feature_channels: int, num_classes: int) -> None:
        super().__init__()
        self.high_channels = high_channels
        self.feature_channels = feature_channels
        self.decoder = decoder
        self.classifier = nn.Sequential(
            nn.Conv2d(feature_channels, 128, 3, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Dropout(0.65),
            nn.Conv2d(128, num_classes, 1),
        )

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings before they are normalized, twice, and between the logits of detached unit embeddings."""
        embeddings = self.decoder(low, high)
        return embeddings, self.classifier(F.normalize(embeddings.detach(), dim=1)), embeddings


class DeepLabEmbedding(nn.Module):
    """The decoder of `DeepLabHead` with embeddings in the place of its logits: SPML on small images (ours)."""

    def __init__(self, head: DeepLabHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return embeddings on the grid of ``low``."""
        return self.head(low, high)[1]


class SummedASPP(nn.Module):
    """The sum of 3x3 convolutions with several dilations, at twice the resolution of the last stage (SPML on VOC)."""

    def __init__(self, high_channels: int, channels: int, rates: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        branches = [nn.Conv2d(high_channels, channels, 3, padding=rate, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)

    def forward(self, _: Tensor, high: Tensor) -> Tensor:
        """Return embeddings at twice the resolution of ``high``."""
        return _doubled(torch.stack([branch(high) for branch in self.branches]).sum(0))


class Pyramid(nn.Module):
    """Means over ever larger parts of the image beside the last stage: (B, C', h, w) -> (B, width, h, w).

    Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017. Means over a whole image are normalized over the batch
    alone, so training needs two images.
    """

    def __init__(self, high_channels: int, bins: Sequence[int] = (1, 2, 3, 6), width: int = 512) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bin), convolution(high_channels, width, 1)) for bin in bins
        )
        self.fuse = convolution(high_channels + len(bins) * width, width, 3)

    def forward(self, high: Tensor) -> Tensor:
        """Return features after the last ReLU."""
        pooled = [resize(pool(high), high.shape[-2:], align_corners=False) for pool in self.pools]
        return self.fuse(torch.cat([high, *pooled], 1))


class PyramidPooling(nn.Module):
    """Embeddings from a `Pyramid`, at twice the resolution of the last stage (SPML on DensePose)."""

    def __init__(self, high_channels: int, channels: int, width: int = 512) -> None:
        super().__init__()
        self.pyramid = Pyramid(high_channels, width=width)
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, _: Tensor, high: Tensor) -> Tensor:
        """Return embeddings at twice the resolution of ``high``."""
        return _doubled(self.project(self.pyramid(high)))


class PyramidHead(nn.Module):
    """PSPNet: classes from a `Pyramid`, at the resolution of the last stage; without its auxiliary loss."""

    align_corners = False

    def __init__(self, high_channels: int, num_classes: int, width: int = 512) -> None:
        super().__init__()
        self.high_channels = high_channels
        self.feature_channels = width
        self.pyramid = Pyramid(high_channels, width=width)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, _: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, width, h, w), logits (B, K, h, w), and the last stage in place of earlier features."""
        features = self.pyramid(high)
        return features, self.classifier(self.dropout(features)), high


def convolution(in_channels: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Make a convolution without bias that keeps the size up to the stride, batch normalization, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Interpolate bilinearly to (h, w)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


# --- Backbone and head ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Tokens of image patches and of whole images, from which image tags are learned."""

    final: Tensor  # (B, C, h, w): after the last ReLU of a convolutional backbone, a transformer's last LayerNorm
    middle: Tensor | None = None  # (B, C, h, w) of an earlier block, not normalized; None without a transformer
    summaries: tuple[Tensor, ...] = ()  # class tokens (B', C) of the images and of every view; none without it


class Segmenter(nn.Module):
    """A backbone and a head; a `DeepLabHead` needs two images per training step, as its pooling normalizes over them.

    The backbone makes of images (low, high), the stage at stride 4 and the last one, or (middle, final, summary), see
    `agmm.networks.transformers.VisionTransformer`; the head of (low, high) (features, logits, inner features), all on
    one grid. ``provenance`` says which stem and which weights; it is part of what a result must report.
    """

    def __init__(
        self, backbone: nn.Module, head: DeepLabHead | EmbeddingHead | PyramidHead | LargeFOV, provenance: str
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.provenance = provenance
        self.frozen = False

    def train(self, mode: bool = True) -> "Segmenter":
        """Like `nn.Module.train`, but what is frozen stays in eval mode."""
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
        """Return features and logits of images (B, 3, H, W), in [0, 1] or normalized as the backbone's weights expect.

        Features (B, C, h, w) are those at stride 4, after the last ReLU and directly before the classifier, hence >= 0;
        of a transformer the final patch tokens, of either sign. Logits (B, K, H, W) are upsampled to the images.

        With ``inner`` follow what the decoder holds besides: the logits (B, K, h, w) on the grid of the features, and
        the features (B, C', h, w) before the decoder's last convolution (of C' = C channels), with a transformer the
        input of its classifier. With ``views``, (B', 3, H', W') each, follow the `Tokens`, with the class tokens of
        these further images; convolutional backbones have no such tokens and leave them out.
        """
        low, high, *summary = self.backbone(images)
        features, grid_logits, inner_features = self.head(low, high)
        logits = resize(grid_logits, images.shape[-2:], self.head.align_corners)
        outputs: tuple[Any, ...] = (features, logits)
        outputs += (grid_logits, inner_features) if inner else ()
        if views is None:
            return outputs
        if not summary:
            return (*outputs, Tokens(high))
        return (*outputs, Tokens(high, low, (*summary, *(self.backbone(view)[2] for view in views))))


class SmallBackbone(nn.Module):
    """Stem at stride 2 and four residual blocks at strides 2, 4, 8 and 8 (the last dilated by 2).

    Convolutions keep PyTorch's default initialization: full supervision reached a higher mIoU on the embedded data than
    with the ResNets' fan-out.
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
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h / stride, w / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


class TagClassifier(nn.Module):
    """Image tags from a backbone: global max pooling and one linear layer.

    The embedded data's counterpart of ImageNet classification: train this, then hand ``tagger.backbone.state_dict()``
    to the backbone of a new `Segmenter`. The backbone of ``net`` is shared, not copied; its head is not used. Tags are
    the classes that an image can have, usually K without the background.
    """

    def __init__(self, net: Segmenter, num_tags: int) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.classifier = nn.Linear(net.head.high_channels, num_tags)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images -> (B, num_tags) logits, one binary decision per tag."""
        return self.classifier(self.backbone(images)[1].amax(dim=(2, 3)))


@torch.no_grad()
def has_class_tokens(net: nn.Module) -> bool:
    """Tell whether the `Tokens` of a network are those of a transformer, by showing it a small image of nothing."""
    training, like = net.training, next(net.parameters())
    tokens = net.eval()(like.new_zeros(1, 3, 64, 64), views=())[-1]
    net.train(training)
    return tokens.middle is not None


def parameter_groups(net: Segmenter, lr: float, head_factor: float, bias_factor: float = 1.0) -> list[dict[str, Any]]:
    """Return groups for an optimizer: the backbone with rate ``lr``, everything else with ``head_factor * lr``.

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

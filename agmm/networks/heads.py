"""Heads of segmentation networks: from the stages of a backbone to features and logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeepLabHead(nn.Module):
    """DeepLabV3+ decoder: ASPP on the last stage, fused with the stage at stride 4.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, with plain instead of separable
    convolutions as in the AGMM paper. Convolutions keep PyTorch's default initialization.

    ``stages`` are the channels of the stage at stride 4 and of the last one, ``rates`` the dilations of the 3x3
    branches of the ASPP. Every branch and their projection are ``aspp_channels`` wide, the low stage is reduced to
    ``reduced_channels``, the features have ``feature_channels``. Dropout2d after the ASPP projection is the only
    dropout; ``align_corners`` holds for every bilinear interpolation inside the network.
    """

    def __init__(
        self,
        stages: tuple[int, int],
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
        low_channels, high_channels = stages
        self.high_channels = high_channels
        self.feature_channels = feature_channels
        self.align_corners = align_corners
        branches = [convolution(high_channels, aspp_channels, 1)]
        branches += [convolution(high_channels, aspp_channels, 3, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(high_channels, aspp_channels, 1))
        self.project = nn.Sequential(
            convolution((len(rates) + 2) * aspp_channels, aspp_channels, 1), nn.Dropout2d(dropout)
        )
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
        self.branches = nn.ModuleList(
            nn.Conv2d(high_channels, channels, 3, padding=rate, dilation=rate) for rate in rates
        )

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

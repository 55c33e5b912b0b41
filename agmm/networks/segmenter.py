"""Segmentation networks: a backbone, a head, and the features on which the mixture works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.networks.heads import DeepLabHead, EmbeddingHead, PyramidHead, convolution, resize
from agmm.networks.transformers import LargeFOV


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

    Convolutions keep PyTorch's default initialization: full supervision reached 86 mIoU on the embedded data with it,
    82 with the ResNets' fan-out.
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

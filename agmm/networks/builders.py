"""Networks by name: options, backbones with weights from timm and heads that fit; and the operations that they take."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agmm.networks import backbones, segmenter, transformers
from agmm.networks.backbones import DEEP_STEM
from agmm.networks.segmenter import DeepLabHead, EmbeddingHead, PyramidHead, Segmenter, SmallBackbone

NAMES = ("small", "lite0", *DEEP_STEM, "small_vit", "vit_base")

OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "stem": (16, ("small",)),
    "feature_channels": (32, ("small", "lite0")),
    "output_stride": (16, ("lite0",)),
    "frozen_stages": (0, ("lite0",)),
    "frozen_statistics": (True, ("lite0",)),
    "rates": ((6, 12, 18), tuple(DEEP_STEM)),
    "multi_grid": ((1, 1, 1), tuple(DEEP_STEM)),
    "weights": ("deit", ("vit_base",)),
    "embedding": (0, ("small", "lite0", *DEEP_STEM)),
    "decoder": ("aspp", tuple(DEEP_STEM)),
}
"""Default of every option of `build`, and the networks that it belongs to."""

OF_THE_HEAD = ("embedding", "decoder")  # options of `build` that leave the backbone as it is


def build(name: str, num_classes: int, *, init: str = "scratch", **options: Any) -> Segmenter:
    """Build a network by name for K = ``num_classes`` classes, at most 254 because 254 and 255 are label codes.

    "small" is a network for small images; "lite0" is EfficientNet-Lite0 with a narrow DeepLabV3+ decoder, for
    photographs on a CPU; the ResNets are the paper's, with deep stem at output stride 8 and 256 features. Their
    counterparts for AGMM++ are "small_vit", a small vision transformer, and "vit_base", ViT-B/16, whose features are
    768-channel tokens.

    ``init="imagenet"`` (not for "small" and "small_vit") takes classification weights of the backbone from timm's cache
    or downloads them, those of "lite0" also from `backbones.LITE0_PACKAGE`; "scratch" draws a ResNet's convolutions
    from Kaiming's normal distribution (fan-out); "later" is "imagenet", with what that freezes, without its weights, as
    others are loaded afterwards. Options:

        stem                    int, "small": its width (stages have 1, 2, 4 and 8 times, ASPP branches 4 times as many
                                channels)
        feature_channels        int, "small" and "lite0": C
        output_stride           8 or 16, "lite0"
        frozen_stages           0 to 7, "lite0": how many stages, and with the first the stem, keep their weights
        frozen_statistics       bool, "lite0" from ImageNet: batch normalization keeps the statistics of ImageNet
        rates                   3 ints, ResNets: dilations of the ASPP, (6, 12, 18) on VOC, (12, 24, 36) on Cityscapes
        multi_grid              3 ints, ResNets: factors on the dilations (2, 4, 4) of the last stage, (2, 2, 4) in
                                the released Cityscapes configuration
        weights                 "vit_base" from ImageNet: "deit" (1k), or "augreg" (21k, fine-tuned on 1k), which saw
                                images normalized with mean and standard deviation 0.5
        embedding               int, not for transformers: channels of SPML's embeddings, 0 for none; 64 on VOC, 32
                                on DensePose
        decoder                 ResNets: "aspp" or "pyramid", of SPML's embeddings on VOC or DensePose; without
                                embeddings DeepLabV3+ or PSPNet

    Raise ValueError for an unknown name or value, or an option that belongs to another network; RuntimeError if the
    weights can be neither downloaded nor found in the cache.
    """
    if name not in NAMES:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}")
    if not 1 <= num_classes <= 254:
        raise ValueError(f"num_classes must be between 1 and 254, not {num_classes}")
    if init not in ("scratch", "imagenet", "later"):
        raise ValueError(f"unknown init {init!r}: choose scratch, imagenet or later")
    values = {option: default for option, (default, _) in OPTIONS.items()}
    for option, value in options.items():
        if option not in OPTIONS:
            raise ValueError(f"unknown option {option!r} of a network: choose from {', '.join(OPTIONS)}")
        default, owners = OPTIONS[option]
        values[option] = tuple(value) if isinstance(value, list) else value  # JSON knows lists only
        if name not in owners and values[option] != default:
            raise ValueError(f"the option {option} belongs to {' and '.join(owners)}: leave it out for {name!r}")
    if name.startswith("small") and init != "scratch":
        raise ValueError(f"no ImageNet weights exist for {name!r}: choose init='scratch'")
    if name == "small" and values["stem"] < 8:
        # Of fewer channels the backward pass of torch's strided 1x1 convolution writes beyond its memory (2.15, AVX2).
        raise ValueError(f"the option stem is {values['stem']}; it must be at least 8")
    if name == "small":
        return _small(num_classes, values["stem"], values["feature_channels"], values["embedding"])
    if name == "lite0":
        return _lite0(num_classes, init, **{name: values[name] for name in _OF_LITE0})
    if name == "small_vit":
        return Segmenter(*transformers.small(num_classes), "small vision transformer, random weights")
    if name == "vit_base":
        return _vit_base(num_classes, init, values["weights"])
    if values["decoder"] not in ("aspp", "pyramid"):
        raise ValueError(f"unknown decoder {values['decoder']!r}: choose aspp or pyramid")
    if values["embedding"] or values["decoder"] == "pyramid":
        return _resnet_of_spml(name, num_classes, init, values["embedding"], values["decoder"])
    return _resnet(name, num_classes, init, values["rates"], values["multi_grid"])


def _small(num_classes: int, stem: int, feature_channels: int, embedding: int) -> Segmenter:
    backbone = SmallBackbone(stem)
    decoder = DeepLabHead(
        (2 * stem, 8 * stem),
        embedding or num_classes,
        rates=(2, 4),
        aspp_channels=4 * stem,
        reduced_channels=stem,
        feature_channels=feature_channels,
        dropout=0.0,
        align_corners=False,
    )
    provenance = f"small network, stem {stem}, {feature_channels} features"
    if not embedding:
        return Segmenter(backbone, decoder, f"{provenance}, random weights")
    head = EmbeddingHead(segmenter.DeepLabEmbedding(decoder), 8 * stem, embedding, num_classes)
    return Segmenter(backbone, head, f"{provenance}, {embedding}-d embeddings, random weights")


_OF_LITE0 = ("feature_channels", "output_stride", "frozen_stages", "frozen_statistics", "embedding")


def _lite0(
    num_classes: int,
    init: str,
    feature_channels: int,
    output_stride: int,
    frozen_stages: int,
    frozen_statistics: bool,
    embedding: int,
) -> Segmenter:
    if output_stride not in (8, 16):
        raise ValueError(f"the option output_stride is {output_stride}; it must be 8 or 16")
    if frozen_stages not in range(8):
        raise ValueError(f"the option frozen_stages is {frozen_stages}; it must be between 0 and 7")
    maps, weights = backbones.lite0(init == "imagenet", output_stride)
    low, high = maps.feature_info.channels()
    decoder = DeepLabHead(
        (low, high),
        embedding or num_classes,
        rates=tuple(rate * 16 // output_stride for rate in (2, 4, 6)),
        aspp_channels=64,
        reduced_channels=32,
        feature_channels=feature_channels,
        dropout=0.1,
        align_corners=False,
    )
    backbone = backbones.Lite0(maps, frozen_stages, frozen_statistics and init != "scratch")
    if not embedding:
        return Segmenter(backbone, decoder, weights)
    head = EmbeddingHead(segmenter.DeepLabEmbedding(decoder), high, embedding, num_classes)
    return Segmenter(backbone, head, f"{weights}, {embedding}-d embeddings")


def _resnet(name: str, num_classes: int, init: str, rates: tuple[int, ...], multi_grid: tuple[int, ...]) -> Segmenter:
    if len(rates) != 3 or len(multi_grid) != 3 or min(*rates, *multi_grid) < 1:
        raise ValueError(f"rates and multi_grid are three positive integers each, not {rates} and {multi_grid}")
    backbone, weights = backbones.resnet(name, init == "imagenet")
    for block, factor in zip(backbone.layer4, multi_grid, strict=True):
        dilation = factor * block.conv2.dilation[0]
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    return Segmenter(backbone, DeepLabHead(tuple(backbone.feature_info.channels()), num_classes, rates=rates), weights)


def _resnet_of_spml(name: str, num_classes: int, init: str, embedding: int, decoder: str) -> Segmenter:
    """The networks of SPML: embeddings of so many channels, or PSPNet where there are none."""
    backbone, weights = backbones.resnet(name, init == "imagenet")
    channels = backbone.feature_info.channels()[-1]
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 3e-4
    if init != "scratch":  # as released, the stem and the first stage keep their weights
        for module_name, module in backbone.named_children():
            if module_name not in ("layer2", "layer3", "layer4"):
                module.requires_grad_(False)
    if not embedding:
        return Segmenter(backbone, PyramidHead(channels, num_classes), f"{weights}, pyramid pooling")
    decode = segmenter.PyramidPooling if decoder == "pyramid" else segmenter.SummedASPP
    head = EmbeddingHead(decode(channels, embedding), channels, embedding, num_classes)
    return Segmenter(backbone, head, f"{weights}, {embedding}-d embeddings")


def _vit_base(num_classes: int, init: str, weights: str) -> Segmenter:
    if weights not in transformers.WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}: choose one of {', '.join(transformers.WEIGHTS)}")
    backbone, head = transformers.base(num_classes)
    if init != "imagenet":
        return Segmenter(backbone, head, "ViT-B/16, random weights")
    tag = transformers.WEIGHTS[weights]
    backbone.load_state_dict(transformers.renamed(backbones.from_timm(tag, True, num_classes=0).state_dict()))
    return Segmenter(backbone, head, f"ViT-B/16, timm {tag}, sha256 {backbones.sha256(backbone.state_dict())}")


INTERPOLATION = 4  # multiply-accumulates of one bilinearly interpolated value: it has four neighbors


def network_macs(net: nn.Module, size: int | tuple[int, int]) -> int:
    """Count the multiply-accumulates of one image of a size: half of the floating-point operations of PyTorch's count.

    Those are of convolutions and matrix products, the two of attention among them; biases, norms, activations, softmax
    and interpolations are left out. The network takes (1, 3, H, W) images and is left as it is, whatever its weights.
    Table 11 of AGMM++ calls them FLOPs: ViT-B/16 with its decoder and two classifiers of tags has its
    83.2 G at 448 x 448.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, as it loads Triton

    height, width = (size, size) if isinstance(size, int) else size
    shapes_only = copy.deepcopy(net).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_only(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops() // 2


def saved_bytes(net: nn.Module, side: int) -> int:
    """Return the bytes that the backward pass of one square image needs of the forward pass, in float32.

    Nothing is computed, shapes are followed: the network loses its values.
    """
    saved: dict[int, Tensor] = {}  # by storage; tensors are held, as the number of a freed storage is given away again

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    net.to("meta").train()
    images = torch.empty(2, 3, side, side, device="meta")  # two, as means over an image are normalized over the batch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(images)
    for value in (*net.parameters(), *net.buffers()):
        saved.pop(value.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // len(images)


def branch_macs(
    method: Literal["AGMM", "AGMMpp"],
    channels: int,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    squeezed: int | None = None,
    classes: int = 3,
    em: bool = True,
) -> dict[str, int]:
    """Count the operations of the mixture, which works in training alone, for an image: step by step up to its scores.

    Convolutions, matrix products and interpolations count in multiply-accumulates, every elementwise multiplication,
    division, addition or subtraction as one operation, sums included. Absolute values, exponentials, comparisons, masks
    made of labels, and the losses, which read G and P without channels, are not counted. The class means are those of
    the official code: of features upsampled to the labels, at many times the cost of `agmm.gmm`.

    AGMM works on the features as they are. AGMM++ works on ``squeezed`` channels C', estimates spreads from labeled
    pixels, and with ``em`` (online EM) repeats assignment, means, spreads, distances and scores once, on the grid of
    the features. ``channels`` is C of the features, ``grid`` (h, w) theirs and ``size`` (H, W) that of the labels.
    ``classes`` is the number of Gaussians of the image: its present classes, or K where all are computed.
    """
    if method not in ("AGMM", "AGMMpp"):
        raise ValueError(f"method is {method!r}; the methods with a mixture branch are AGMM and AGMMpp")
    if (squeezed is None) != (method == "AGMM"):
        raise ValueError("squeezed is the number of channels C' of AGMMpp: give it there, and leave it out for AGMM")
    cells, pixels, width = grid[0] * grid[1], size[0] * size[1], squeezed or channels
    difference = 2 * classes * width * cells + classes * cells  # subtract, add up over the channels, divide
    bells = 2 * classes * cells  # square, and damp by validity (AGMM) or divide by the variance (AGMM++)
    steps = {
        "squeeze": channels * width * cells if squeezed else 0,
        "upsample features": INTERPOLATION * width * pixels,
        "means": classes * width * pixels + classes * width,
        "distances": difference,
        "scores": bells,
        "upsample scores": INTERPOLATION * classes * pixels,
    }
    if method == "AGMMpp":
        spread = 3 * classes * cells + classes  # square, mask, add up, divide
        steps["spreads"] = spread
        if em:
            steps["em"] = classes * width * cells + classes * width + difference + spread + bells
    return steps

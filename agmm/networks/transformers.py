"""Vision transformers: the backbone whose patch tokens are features, and the decoder that reads them.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, with what ToCo (Ru et al., CVPR 2023) and AGMM++ do
with it: frozen position embeddings that fit any size of image, tokens of an earlier block, a decoder without norms.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = {"deit": "deit_base_patch16_224.fb_in1k", "augreg": "vit_base_patch16_224.augreg_in21k_ft_in1k"}
"""ViT-B/16 as timm names it: ImageNet-1k alone, and ImageNet-21k fine-tuned on 1k."""

MIDDLE = -3  # the block whose tokens are `agmm.networks.Tokens.middle`


class VisionTransformer(nn.Module):
    """Tokens of image patches and a class token, through blocks of attention and perceptrons.

    Nothing is dropped out, and nothing looks at several images at once. Position embeddings are frozen: sines and
    cosines of two coordinates until weights bring others. They are stored for a square grid of side ``grid`` and
    interpolated (bicubic) to others. Images whose sides are no multiples of the patch are enlarged to the next ones
    (bilinear), so that the grid of tokens covers exactly the image.

    ``patch_embed`` is (B, 3, H, W) -> (B, dim, H / patch, W / patch), with a stride of ``patch`` pixels. The
    perceptrons have ``mlp_ratio`` times ``dim`` hidden channels.
    """

    pos_embed: Tensor

    def __init__(
        self, patch_embed: nn.Module, patch: int, dim: int, depth: int, heads: int, grid: int, mlp_ratio: int = 4
    ) -> None:
        super().__init__()
        self.patch = patch
        self.grid = grid
        self.patch_embed = patch_embed
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", _sines(dim, grid))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of (B, 3, H, W) images, with h = H / patch, rounded up.

        Patch tokens (B, dim, h, w) after block `MIDDLE`, not normalized; patch tokens (B, dim, h, w) after the last
        LayerNorm; and the class token (B, dim) after it.
        """
        patches = self.patch_embed(self._whole_patches(images))
        size = patches.shape[-2:]
        first, others = self.positions(size)
        x = patches.flatten(2).transpose(1, 2) + others
        x = torch.cat([(self.cls_token + first).expand(len(x), -1, -1), x], dim=1)
        middle = x
        for index, block in enumerate(self.blocks, start=-len(self.blocks)):
            x = block(x)
            middle = x if index == MIDDLE else middle
        middle, final = (tokens.transpose(1, 2).unflatten(2, size) for tokens in (middle[:, 1:], self.norm(x[:, 1:])))
        return middle, final, self.norm(x[:, 0])

    def positions(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return position embeddings of the class token (1, 1, dim) and of a grid of (h, w) patches (1, h w, dim)."""
        first, others = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if size != (self.grid, self.grid):
            stored = others.transpose(1, 2).unflatten(2, (self.grid, self.grid))
            resized = F.interpolate(stored, size=tuple(size), mode="bicubic", align_corners=False)
            others = resized.flatten(2).transpose(1, 2)
        return first, others

    def _whole_patches(self, images: Tensor) -> Tensor:
        height, width = (self.patch * math.ceil(side / self.patch) for side in images.shape[-2:])
        if (height, width) == images.shape[-2:]:
            return images
        return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)


class Block(nn.Module):
    """Attention among the tokens, then a perceptron on each, both on normalized tokens and beside a shortcut."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = _linear(dim, 3 * dim)
        self.proj = _linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = _linear(dim, mlp_ratio * dim)
        self.fc2 = _linear(mlp_ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class LargeFOV(nn.Module):
    """Decoder of two dilated 3x3 convolutions with ReLU and a 1x1 classifier, without biases and norms.

    The "large field of view" of DeepLab (Chen et al., TPAMI 2018), as in ToCo; PyTorch's default initialization.
    """

    align_corners = False

    def __init__(self, dim: int, num_classes: int, channels: int, dilation: int) -> None:
        super().__init__()
        self.high_channels = self.feature_channels = dim
        self.conv1 = nn.Conv2d(dim, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=False)

    def forward(self, middle: Tensor, final: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return final tokens (B, dim, h, w), logits (B, K, h, w), the classifier's input (B, channels, h, w)."""
        decoded = F.relu(self.conv2(F.relu(self.conv1(final))))
        return final, self.classifier(decoded), decoded


def base(num_classes: int) -> tuple[VisionTransformer, LargeFOV]:
    """Return ViT-B/16 and its decoder, with random weights: the network of ToCo and, presumably, of AGMM++."""
    backbone = VisionTransformer(nn.Conv2d(3, 768, 16, stride=16), patch=16, dim=768, depth=12, heads=12, grid=14)
    return backbone, LargeFOV(768, num_classes, channels=512, dilation=5)


def small(num_classes: int) -> tuple[VisionTransformer, LargeFOV]:
    """Return a transformer for images of 64 x 64 pixels, and its decoder: 0.70 M parameters.

    Three convolutions make patches of 8 pixels. Tokens at stride 4 (two convolutions, 48 channels, 4 blocks) cost half
    as much again and were no better on the embedded data.
    """
    channels = (3, 32, 64, 96)
    stem = nn.Sequential()
    for before, after in itertools.pairwise(channels):
        stem.extend([nn.Conv2d(before, after, 3, 2, padding=1, bias=False), nn.GroupNorm(4, after), nn.ReLU()])
    stem.append(nn.Conv2d(96, 96, 1))
    backbone = VisionTransformer(stem, patch=8, dim=96, depth=6, heads=3, grid=8, mlp_ratio=2)
    return backbone, LargeFOV(96, num_classes, channels=96, dilation=1)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate timm's names of the weights of a `VisionTransformer`."""
    return {
        name.replace("patch_embed.proj.", "patch_embed.").replace(".attn.", ".").replace(".mlp.", "."): tensor
        for name, tensor in state.items()
    }


def _linear(in_channels: int, channels: int) -> nn.Linear:
    """Make a layer that is initialized like those of timm's transformers."""
    layer = nn.Linear(in_channels, channels)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _sines(dim: int, grid: int) -> Tensor:
    """Sine and cosine of both coordinates at dim / 4 frequencies: (1, 1 + grid^2, dim), zero for the class token."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    patches = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return torch.cat([patches.new_zeros(1, dim), patches])[None].float()

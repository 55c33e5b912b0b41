"""Class activation maps (CAMs) of a network that learns image tags, and the pseudo labels made of them.

L. Ru et al., "Token Contrast for Weakly-Supervised Semantic Segmentation" (ToCo), CVPR 2023; the refinement is that of
L. Ru et al., "Learning Affinity from Attention" (AFA), CVPR 2022. B is the batch, K the classes with the background,
code 0, (h, w) the grid of the tokens, (H, W) the images. Channel k of the K - 1 of a map belongs to class k + 1.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm.codes import UNLABELED
from agmm.evaluation.views import resize

DILATIONS = (1, 2, 4, 8, 12, 24)  # distances of the neighbors that refine a pixel, eight at each
ITERATIONS = 10
_resize = partial(resize, align_corners=False)


def activation(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the CAM (B, K - 1, h, w) of every tag: its classifier applied to each token (B, C, h, w) alone.

    The logits are not its maximum, as they pool every channel before they classify. In float32, without gradient.
    """
    return F.conv2d(tokens.detach().float(), weight.detach().float())


@torch.no_grad()
def multi_scale(
    net: nn.Module, images: Tensor, weight: Tensor, auxiliary: Tensor | None, scales: Sequence[float]
) -> tuple[Tensor, Tensor | None]:
    """Sum CAMs over scales, each the larger of a view's and its mirror image's, to [0, 1) per image and class.

    (B, K - 1, H, W) float32 of network input (B, 3, H, W): those of the last tokens, with the classifier's ``weight``
    (K - 1, C, 1, 1), and those of the middle ones with that of the ``auxiliary`` one, or None. Classes that an image
    does not show reach as high as those that it does; multiply by its tags. The network, not wrapped for several
    processes, runs in eval mode, so that the views leave its batch statistics alone, and gets back the mode it had.
    """
    size, training = images.shape[-2:], net.training
    classifiers = [weight] if auxiliary is None else [weight, auxiliary]
    totals = [torch.zeros(len(images), len(w), *size, device=images.device) for w in classifiers]
    net.eval()
    for scale in scales:
        views = images if scale == 1 else _resize(images, (int(size[0] * scale), int(size[1] * scale)))
        # Not through a compiled network, which would be compiled for every size.
        tokens = net.forward(torch.cat([views, views.flip(-1)]), views=())[-1]
        with torch.autocast(images.device.type, enabled=False):
            for total, x, w in zip(totals, (tokens.final, tokens.middle), classifiers, strict=False):
                straight, mirrored = _resize(activation(x, w), size).chunk(2)
                total += torch.maximum(straight, mirrored.flip(-1)).relu()
    net.train(training)
    maps = [normalize(total) for total in totals]
    return maps[0], maps[1] if auxiliary is not None else None


def normalize(maps: Tensor) -> Tensor:
    """Shift and scale every map of (B, K - 1, H, W) to [0, 1)."""
    maps = maps - maps.amin((2, 3), keepdim=True)
    return maps / (maps.amax((2, 3), keepdim=True) + 1e-5)


def with_background(maps: Tensor, threshold: float) -> Tensor:
    """Return maps (B, K, H, W) whose largest value is the class: the background's is the threshold."""
    background = maps.new_full((maps.shape[0], 1, *maps.shape[2:]), threshold)
    return torch.cat([background, maps], 1)


def plain_labels(maps: Tensor, high: float, low: float) -> Tensor:
    """Make labels (B, H, W) from maps (B, K - 1, H, W) that are multiplied by the tags.

    The strongest class where it exceeds ``high``, background where nothing exceeds ``low``, else ``UNLABELED``.
    """
    strength, best = maps.max(1)
    return torch.where(strength > high, best + 1, torch.where(strength <= low, 0, UNLABELED))


@torch.no_grad()
def refined_labels(
    maps: Tensor,
    tags: Tensor,
    images: Tensor,
    high: float,
    low: float,
    scale: float = 0.5,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    """Make labels (B, H, W) along the image's edges: maps compete with each threshold as the background's score.

    A high score of the background leaves confident foreground only, a low one confident background only. Of the maps
    (B, K - 1, H, W) only those of the ``tags`` (B, K - 1) bool take part. ``images`` (B, 3, H, W) are RGB in [0, 1],
    not normalized, rounded to 8 bits (ours; the released code rounds down). They are refined at ``scale`` times their
    size, over neighbors at ``dilations``, see `refine`.
    """
    size = maps.shape[-2:]
    reduced = int(size[0] * scale), int(size[1] * scale)
    slots = max(int(tags.sum(1).max()), 1)
    classes = (~tags).to(torch.uint8).sort(dim=1, stable=True).indices[:, :slots]
    filled = tags.gather(1, classes)[..., None, None]
    scores = _resize(maps.gather(1, classes[..., None, None].expand(-1, -1, *size)), reduced)
    scores = scores.masked_fill(~filled, -torch.inf)
    competing = torch.cat([with_background(scores, threshold).softmax(1) for threshold in (high, low)], 1)
    colors = _resize((255 * images.float()).round() / 255, reduced)
    refined = _resize(refine(colors, competing, dilations), size)
    codes = F.pad(classes + 1, (1, 0))
    best = (scores.max(1).indices for scores in refined.chunk(2, 1))
    foreground, background = (codes.gather(1, index.flatten(1)).view(-1, *size) for index in best)
    return torch.where(foreground != 0, foreground, torch.where(background == 0, 0, UNLABELED))


def refine(images: Tensor, masks: Tensor, dilations: Sequence[int] = DILATIONS, iterations: int = ITERATIONS) -> Tensor:
    """Average masks (B, n, h, w) over neighbors of similar color, repeatedly: pixel-adaptive refinement (PAR).

    ``M_i <- sum_j w_ij M_j`` over the 3x3 neighborhoods of all dilations in images (B, 3, h, w), with the weights of
    `affinities`, which sum to 1.01 as in the released code. Beyond the border its pixels repeat.
    """
    weights = torch.cat([affinities(image, dilations) for image in images.split(1)])
    for _ in range(iterations):
        following = torch.zeros_like(masks)
        for weight, neighbor in zip(weights.split(1, 1), _neighbors(masks, dilations), strict=True):
            following.addcmul_(weight, neighbor)
        masks = following
    return masks


def affinities(images: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Weigh every neighbor by color and distance, each relative to its spread: (B, 8 x dilations, h, w).

    ``softmax_j(-mean_c (|I_ci - I_cj| / (0.3 std_ci))^2) + 0.01 softmax_j(-(|i - j| / (0.3 std))^2)``, with the
    standard deviations among a pixel's neighbors.
    """
    around = torch.stack(list(_neighbors(images, dilations)), 1)
    spread = around.std(1, keepdim=True) + 1e-8
    color = -((around - images.unsqueeze(1)) / spread / 0.3).square().mean(2)
    distance = images.new_tensor([(y * y + x * x) ** 0.5 for y, x in _offsets(dilations)])
    position = -(distance / (distance.std() + 1e-8) / 0.3).square()
    return color.softmax(1) + 0.01 * position.softmax(0)[:, None, None]


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    return [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def _neighbors(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The maps (B, n, h, w) moved by every offset, one at a time: all of them would take 48 times the memory."""
    height, width = maps.shape[-2:]
    margin = max(dilations)
    padded = F.pad(maps, (margin,) * 4, mode="replicate")
    for y, x in _offsets(dilations):
        yield padded[..., margin + y : margin + y + height, margin + x : margin + x + width]

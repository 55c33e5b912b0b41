"""Multiply-accumulates (MACs) of a network's forward pass and of the mixture branch, which works in training alone.

What Table 11 of AGMM++ calls FLOPs are MACs: those of ViT-B/16 with its decoder at 448 x 448 are its 83.2 G. Counted
are convolutions and matrix products, the two products of attention among them; not counted are biases, norms,
activations, softmax and the network's own interpolations.
"""

import copy
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

INTERPOLATION = 4  # multiply-accumulates of one bilinearly interpolated value: it has four neighbors


def network_macs(net: nn.Module, size: int | tuple[int, int]) -> int:
    """Count the multiply-accumulates of one image of a size: half of the floating-point operations of PyTorch's count.

    The network takes (1, 3, H, W) images; it is left as it is, and its weights do not matter.
    """
    height, width = (size, size) if isinstance(size, int) else size
    shapes_only = copy.deepcopy(net).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_only(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops() // 2


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
    """Count the mixture branch's operations for an image, from features to scores G at the labels' resolution, by step.

    Convolutions, matrix products and interpolations count in multiply-accumulates, every elementwise multiplication,
    division, addition or subtraction as one operation, sums included. Absolute values, exponentials, comparisons, masks
    made of labels, and the losses, which read G and P without channels, are not counted.

    The class means are those of the formulas and of the official code: the features are upsampled to the labels'
    resolution and multiplied with the labels' one-hot masks. (`agmm.gmm` finds the same means at a fraction of this
    cost.) Distances are on the grid of the features.

    AGMM works on the features as they are. AGMM++ works on ``squeezed`` channels C', estimates spreads from labeled
    pixels, and with ``em`` (online EM) repeats assignment, means, spreads, distances and scores once, on the grid of
    the features. ``channels`` is C of the features, ``grid`` (h, w) theirs and ``size`` (H, W) that of the labels.
    ``classes`` is the number of Gaussians of the image: its present classes; K where all are computed and the absent
    ones dropped.
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

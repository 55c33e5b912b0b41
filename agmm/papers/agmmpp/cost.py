"""Table 11 of AGMM++: what the mixture costs in training. Nothing of it needs a trained network."""

import statistics
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from agmm import networks, objectives
from agmm.networks import macs
from agmm.objectives.agmmpp import squeezed
from agmm.papers.table import lines
from agmm.training import timing
from agmm.training.presets import Preset
from agmm.training.timing import QUICK, Objective, Shapes, training_step

PRINTED_SIDE = 448
SHAPES = {
    "small": QUICK,
    "small_vit": Shapes(16, 7, 96, 8, 64, clicks=3, classes=3),
    "vit_base": Shapes(2, 21, 768, 28, PRINTED_SIDE, clicks=3, classes=3),
}
"""Shapes of a step of every network that is measured."""


def operations(side: int = PRINTED_SIDE, num_classes: int = 21, present: int = 3) -> pd.DataFrame:
    """Multiply-accumulates of ViT-B/16 with and without the mixture, beside the published "GFLOPs".

    The published baseline is matched by multiply-accumulates, not by twice as many operations; how its authors counted
    the elementwise work of the mixtures they do not say (see `agmm.networks.macs.branch_macs` for our rule).

    Parameters
    ----------
    side : int
        Of the image in pixels.
    num_classes : int
        K; on VOC with two further classifiers of image tags, as in the published baseline.
    present : int
        Classes of the image that have a Gaussian.

    Returns
    -------
    DataFrame
        Columns method, gmacs, over_baseline, published, published_over_baseline; in 10^9.
    """
    with torch.device("meta"):
        net = networks.build("vit_base", num_classes)
    channels, grid = net.feature_channels, (side // 16, side // 16)
    classifiers = 2 * channels * (num_classes - 1) * grid[0] * grid[1]
    alone = macs.network_macs(net, side) + classifiers
    size = (side, side)
    branches = {
        "Baseline": 0,
        "AGMM": sum(macs.branch_macs("AGMM", channels, grid, size, classes=present).values()),
        "AGMM++": sum(
            macs.branch_macs("AGMMpp", channels, grid, size, squeezed=squeezed(channels), classes=present).values()
        ),
    }
    printed = {line["method"]: float(line["value"]) for line in lines("agmmpp_table11") if line["metric"] == "GFLOPs"}
    return pd.DataFrame(
        {
            "method": name,
            "gmacs": (alone + branch) / 1e9,
            "over_baseline": branch / 1e9,
            "published": printed[name],
            "published_over_baseline": printed[name] - printed["Baseline"],
        }
        for name, branch in branches.items()
    )


def measured(preset: Preset, device: str = "cpu", repeats: int = 20) -> pd.DataFrame:
    """Time of a training step of the preset's transformer, and what it keeps for its backward pass.

    Steps of the methods take turns, so that what else the machine does concerns all of them.

    Returns
    -------
    DataFrame
        Columns method, milliseconds (median), ratio (to the baseline, median over turns), held_mb (weights included).
    """
    network = preset.at("points", network="vit").network if "vit" in preset.networks else "small"
    shapes = SHAPES[network]
    methods: dict[str, Objective] = {
        "Baseline": objectives.Baseline(shapes.num_classes),
        "AGMM": objectives.AGMM(shapes.num_classes),
        "AGMM++": objectives.AGMMpp(shapes.num_classes, shapes.channels),
    }
    steps = {
        name: training_step(networks.build(network, shapes.num_classes, init="scratch"), objective, shapes, device)
        for name, objective in methods.items()
    }
    seconds = timing.in_turn(steps, device, repeats, warmup=2)
    return pd.DataFrame(
        {
            "method": name,
            "milliseconds": 1e3 * statistics.median(times),
            "ratio": timing.median_ratio(times, seconds["Baseline"]),
            "held_mb": held(steps[name]) / 2**20,
        }
        for name, times in seconds.items()
    )


def held(step: Callable[[], None]) -> int:
    """Bytes that the forward pass of a step keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())

"""Table 11 of AGMM++: what the mixture costs in training. Nothing of it needs a trained network."""

import statistics
import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from agmm import cost, networks, objectives
from agmm.labels import UNLABELED
from agmm.objectives.agmmpp import squeezed
from agmm.presets import Preset
from agmm.tables.cells import lines

PRINTED_SIDE = 448
METHODS = {"Baseline": "Baseline", "AGMM": "AGMM", "AGMM++": "AGMMpp"}


def operations(side: int = PRINTED_SIDE, num_classes: int = 21, present: int = 3) -> pd.DataFrame:
    """Multiply-accumulates of ViT-B/16 with and without the mixture, beside the published "GFLOPs".

    The published baseline is matched by multiply-accumulates, not by twice as many operations; how its authors counted
    the elementwise work of the mixtures they do not say (see `agmm.cost.branch_macs` for our rule).

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
    alone = cost.network_macs(net, side) + classifiers
    size = (side, side)
    branches = {
        "Baseline": 0,
        "AGMM": sum(cost.branch_macs("AGMM", channels, grid, size, classes=present).values()),
        "AGMM++": sum(
            cost.branch_macs("AGMMpp", channels, grid, size, squeezed=squeezed(channels), classes=present).values()
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
    """Time of a training step, and memory that it holds between its two passes, of the preset's transformer.

    Steps of the methods take turns, so that what else the machine does concerns all of them.

    Returns
    -------
    DataFrame
        Columns method, milliseconds (median), ratio (to the baseline, median over turns), held_mb.
    """
    run = preset.at("points", network="vit" if "vit" in preset.networks else "resnet")
    steps = {name: _Step(method, run.network, dict(run.network_options), device) for name, method in METHODS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize(device)
            seconds[name] += [time.perf_counter() - started] if turn > 1 else []
    return pd.DataFrame(
        {
            "method": name,
            "milliseconds": 1e3 * statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, seconds["Baseline"], strict=True)),
            "held_mb": steps[name].held() / 2**20,
        }
        for name, times in seconds.items()
    )


class _Step:
    """Forward and backward of one batch of 64 x 64 pixels, or of one image at the printed size for ViT-B/16."""

    def __init__(self, method: str, network: str, options: dict[str, Any], device: str) -> None:
        torch.manual_seed(0)
        large = network not in ("small", "small_vit")
        batch, side, self.classes = (2, PRINTED_SIDE, 21) if large else (16, 64, 7)
        self.net = networks.build(network, self.classes, **options).to(device)
        build = {"Baseline": objectives.Baseline, "AGMM": objectives.AGMM}
        self.objective: Any = (
            build[method](self.classes)
            if method in build
            else objectives.AGMMpp(self.classes, self.net.feature_channels).to(device)
        )
        self.images = torch.rand(batch, 3, side, side, device=device)
        self.labels = torch.full((batch, side, side), UNLABELED, device=device)
        self.image_classes = torch.zeros(batch, self.classes, dtype=torch.bool, device=device)
        for code in range(3):
            self.labels[:, (code + 1) * side // 4, side // 2] = code
            self.image_classes[:, code] = True

    def loss(self) -> Tensor:
        features, logits = self.net(self.images)
        return self.objective(features, logits, self.labels, self.image_classes).loss

    def __call__(self) -> None:
        self.loss().backward()
        for module in (self.net, self.objective):
            if isinstance(module, nn.Module):
                module.zero_grad(set_to_none=True)

    def held(self) -> int:
        """Bytes that the backward pass needs of the forward pass, parameters left out."""
        own = {p.untyped_storage().data_ptr() for p in self.net.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss()
        del loss
        return sum(kept.values())

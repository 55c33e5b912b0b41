"""Operations of the mixture branch, and the measured cost of the methods (Table 11 of AGMM++)."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from agmm import networks
from agmm.papers.agmmpp import claims
from agmm.training.presets import PRESETS

aten = torch.ops.aten


class Counted(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, kind = func(*args, **(kwargs or {})), func.overloadpacket
        if kind in (aten.mul, aten.div, aten.sub, aten.add):
            self.operations += out.numel()
        elif kind is aten.sum:
            self.operations += args[0].numel()
        elif kind in (aten.mm, aten.bmm):
            self.operations += out.numel() * args[0].shape[-1]
        elif kind is aten.convolution:
            self.operations += out.numel() * args[1][0].numel()
        elif kind is aten.upsample_bilinear2d:
            self.operations += 4 * out.numel()
        return out


def branch(features: Tensor, classes: int, size: tuple[int, int], squeeze: Tensor | None, em: bool) -> None:
    """The branch as the formulas have it, for one image; labels, validity and assignments are all ones."""
    if squeeze is not None:
        features = F.conv2d(features, squeeze)
    up = partial(F.interpolate, size=size, mode="bilinear", align_corners=False)
    channels, ones = features.shape[1], torch.ones(classes, *features.shape[-2:])

    def mixture(members: Tensor, pixels: Tensor) -> Tensor:
        means = members @ pixels.flatten(2)[0].T / torch.ones(classes, channels)
        d = (features - means[:, :, None, None]).abs().sum(1) / channels
        if squeeze is None:
            return (-(d * d * ones)).exp()
        spread = (d * d * ones).sum((1, 2)) / torch.ones(classes)
        return (-(d * d) / spread[:, None, None]).exp()

    g = mixture(torch.ones(classes, size[0] * size[1]), up(features))
    if em and squeeze is not None:
        g = mixture(ones.flatten(1), features)
    up(g[None])


@pytest.mark.parametrize("em", [False, True])
@pytest.mark.parametrize("squeezed", [None, 5])
def test_branch_equals_a_count_of_its_operations(squeezed: int | None, em: bool) -> None:
    features, squeeze = torch.rand(1, 12, 3, 4), torch.rand(squeezed, 12, 1, 1) if squeezed else None
    with Counted() as counted:
        branch(features, 3, (9, 13), squeeze, em)
    method = "AGMMpp" if squeezed else "AGMM"
    steps = networks.branch_macs(method, 12, (3, 4), (9, 13), squeezed=squeezed, classes=3, em=em)
    assert sum(steps.values()) == counted.operations
    assert all(isinstance(count, int) for count in steps.values())


def test_a_branch_needs_its_channels() -> None:
    for method, squeezed in (("AGMM", 128), ("AGMMpp", None)):
        with pytest.raises(ValueError, match="squeezed is the number of channels C' of AGMMpp"):
            networks.branch_macs(method, 768, (28, 28), (448, 448), squeezed=squeezed)
    with pytest.raises(ValueError, match="method is 'Baseline'; the methods with a mixture branch are AGMM and AGMMpp"):
        networks.branch_macs("Baseline", 768, (28, 28), (448, 448))


def test_vit_base_is_the_table_s_baseline() -> None:
    """ViT-B/16 at 448, 21 classes, in closed form; with ToCo's two tag classifiers 83.2 G as printed."""
    with torch.device("meta"):
        net = networks.build("vit_base", 21)
    patches, tokens = 28 * 28, 28 * 28 + 1
    linear = 12 * tokens * 768 * (3 * 768 + 768 + 2 * 4 * 768)
    attention = 12 * 2 * tokens**2 * 768
    embedding = patches * 768 * 3 * 16**2
    decoder = patches * 512 * (9 * 768 + 9 * 512 + 21)
    assert networks.network_macs(net, 448) == linear + attention + embedding + decoder
    classifiers = 2 * patches * 768 * 20
    assert round((networks.network_macs(net, (448, 448)) + classifiers) / 1e9, 1) == 83.2


def test_network_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)).train()
    assert networks.network_macs(net, (32, 48)) == 16 * 24 * 8 * 27
    assert net.training
    assert net[0].weight.device.type == "cpu"


def test_operations_follow_the_printed_order():
    frame = claims.operations().set_index("method")
    baseline, ours, agmm = frame.loc[["Baseline", "AGMM++", "AGMM"], "gmacs"]
    assert baseline == pytest.approx(83.2, abs=0.06)  # as printed
    assert baseline < ours < agmm
    assert 0 < frame.loc["AGMM++", "over_baseline"] < 0.8 * frame.loc["AGMM", "over_baseline"]
    assert frame["published"].to_list() == [83.2, 117.5, 96.3]
    assert frame["published_over_baseline"].to_list() == pytest.approx([0, 34.3, 13.1])


def test_steps_of_all_methods_are_measured():
    frame = claims.training_steps(PRESETS["smoke"], repeats=1).set_index("method")
    assert list(frame.index) == ["Baseline", "AGMM", "AGMM++"]
    assert frame.loc["Baseline", "ratio"] == 1
    assert (frame["milliseconds"] > 0).all()
    # The mixture keeps at least the scores of three classes for 16 images of 64 x 64 pixels.
    least = 16 * 3 * 64 * 64 * 4 / 2**20
    assert (frame["held_mb"][1:] - frame.loc["Baseline", "held_mb"] > least).all()

"""Checkpoints whose names we do not know: filled exactly, or refused in one sentence."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from agmm import networks
from agmm.tools import author_checkpoints
from agmm.tools.author_checkpoints import DILATIONS
from agmm.training import loop
from tests.faults.corpus import checkpoint
from tests.helpers import one_sentence, random_images, same_weights, skeleton

# Convolution and batch norm of our head, in its order.
UNITS = (
    *((f"branches.{i}.0", f"branches.{i}.1") for i in range(4)),
    *(("pooling.1.0", "pooling.1.1"), ("project.0.0", "project.0.1"), ("reduce.0", "reduce.1")),
    *(("fuse.0.0", "fuse.0.1"), ("fuse.1.0", "fuse.1.1"), ("classifier", "")),
)
POOLING = 4

NAMINGS = {
    "sequential": (
        *((f"aspp.convs.{i}.0", f"aspp.convs.{i}.1") for i in range(4)),
        *(("aspp.convs.4.1", "aspp.convs.4.2"), ("aspp.last.0", "aspp.last.1"), ("low.0", "low.1")),
        *(("decoder.0", "decoder.1"), ("decoder.3", "decoder.4"), ("decoder.6", "")),
    ),
    "named": (
        *((f"conv_{r}", f"bn_{r}") for r in ("1x1", "r1", "r2", "r3")),
        *(("pool.conv", "pool.norm"), ("bottleneck.conv", "bottleneck.norm"), ("low_level", "low_level_bn")),
        *(("last_conv1", "last_bn1"), ("last_conv2", "last_bn2"), ("cls_seg", "")),
    ),
}


def assemble(state: dict[str, Tensor]) -> networks.Segmenter:
    return author_checkpoints.assemble(state, "voc", "x.pth")


def published(net: networks.Segmenter, names, prefix: str = "backbone.", order=range(10)) -> dict[str, Tensor]:
    """The network's tensors with other names for the head: of the units in our order, and as they are to follow."""
    state = {prefix + name: value for name, value in net.backbone.state_dict().items()}
    head = net.head.state_dict()
    for i in order:
        for ours, theirs in zip(UNITS[i], names[i], strict=True):
            found = {k: v for k, v in head.items() if ours and k.rpartition(".")[0] == ours}
            state |= {f"{theirs}.{name.rpartition('.')[2]}": value for name, value in found.items()}
    assert len(state) == len(net.state_dict())
    return state


def drawn(name: str, num_classes: int, dataset: str) -> networks.Segmenter:
    """A network no two tensors of which are equal, batch norms included."""
    torch.manual_seed(0)
    net = networks.build(name, num_classes, **DILATIONS[dataset])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.1)
            module.num_batches_tracked.fill_(7)
    return net.eval()


@pytest.fixture(scope="module")
def source() -> networks.Segmenter:
    return drawn("resnet50", 21, "voc")


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.net.resnet."])
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_any_names_in_any_order_that_keeps_units_of_equal_shape(source, prefix, data):
    parts = st.text("abcdwx019_", min_size=1, max_size=4).filter(lambda part: part not in ("weight", "bias"))
    modules = st.lists(parts, min_size=1, max_size=3).map(".".join)
    names = data.draw(st.lists(modules, min_size=19, max_size=19, unique=True))
    order = data.draw(st.permutations(range(10)))
    for alike in ((0, POOLING), (1, 2, 3)):
        places = sorted(order.index(i) for i in alike)
        for place, i in zip(places, alike, strict=True):
            order[place] = i
    net = assemble(published(source, list(zip(names[::2], [*names[1::2], ""], strict=True)), prefix, order))
    assert same_weights(net.state_dict(), source.state_dict())


def test_order_decides_between_units_of_equal_shape(source):
    net = assemble(published(source, NAMINGS["named"], order=(POOLING, 3, 2, 1, 0, *range(5, 10))))
    for mine, theirs in ((1, 3), (2, 2), (3, 1)):
        assert torch.equal(net.head.branches[mine][0].weight, source.head.branches[theirs][0].weight)
        assert torch.equal(net.head.branches[mine][1].running_var, source.head.branches[theirs][1].running_var)
    assert torch.equal(net.head.pooling[1][0].weight, source.head.branches[0][0].weight)


def test_a_bias_before_a_batch_norm_is_folded(source):
    net = drawn("resnet50", 21, "voc")
    for convolution in (net.head.get_submodule(name) for name, norm in UNITS if norm):
        convolution.bias = nn.Parameter(torch.linspace(-1, 1, convolution.out_channels))
    images = random_images(1, 3, 33, 41)
    with torch.no_grad():
        expected, plain = net(images), source(images)
        found = assemble(published(net, NAMINGS["sequential"]))(images)
    for one, two, without in zip(found, expected, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(one, without, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
@pytest.mark.parametrize(
    ("dataset", "num_classes", "rates", "last"),
    [("voc", 21, (6, 12, 18), (2, 4, 4)), ("cityscapes", 19, (12, 24, 36), (4, 8, 16))],
)
def test_the_file_tells_the_backbone_and_the_data_set_its_dilations(name, dataset, num_classes, rates, last):
    state = published(skeleton(name, num_classes), NAMINGS["named"])
    net = author_checkpoints.assemble(state, dataset, "folder/x.pth")
    assert len(net.backbone.layer3) == {"resnet50": 6, "resnet101": 23}[name]
    assert [block.conv2.dilation[0] for block in net.backbone.layer4] == list(last)
    assert [branch[0].dilation[0] for branch in net.head.branches] == [1, *rates]
    assert net.provenance == f"{name}s (deep stem), DeepLabV3+, weights of x.pth"
    assert not net.training


def test_half_precision_is_widened(source):
    state = published(source, NAMINGS["named"])
    net = assemble({name: v.half() if v.is_floating_point() else v for name, v in state.items()})
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert torch.equal(net.head.classifier.bias, source.head.classifier.bias.half().float())


def test_a_file_as_trainings_write_it_gives_the_same_bits(source, tmp_path):
    """DataParallel's prefix, a dictionary around, a leftover classifier, no counters, a score of numpy's."""
    named = published(source, NAMINGS["sequential"]).items()
    state = OrderedDict((f"module.{name}", v) for name, v in named if not name.endswith("num_batches_tracked"))
    state["module.backbone.fc.weight"], state["module.backbone.fc.bias"] = torch.ones(3, 2048), torch.ones(3)
    path = tmp_path / "point_67.80.pth"
    torch.save({"model": state, "epoch": 79, "best": np.float64(67.8), "optimizer": {"state": {}}}, path)
    net = author_checkpoints.load(path, "voc")
    assert net.provenance.endswith("weights of point_67.80.pth without its classifier fc")
    images = random_images(1, 3, 49, 65)
    with torch.no_grad():
        for found, expected in zip(net(images), source(images), strict=True):
            assert torch.equal(found, expected)


def test_weights_of_our_own_runs_are_loaded_by_name(source, tmp_path):
    loop.save_weights(source, tmp_path / "model.safetensors", "abc")
    net = author_checkpoints.load(tmp_path / "model.safetensors", "voc")
    assert same_weights(net.state_dict(), source.state_dict())


def test_files_with_code_are_refused_by_what_they_call(tmp_path):
    """That nothing is called is tested with other hostile files."""
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "x.pth")
    said = r"x.pth: holds .*torch.nn.modules.linear.Linear, and a file that could run code is not opened.*state_dict"
    with one_sentence(ValueError, said):
        author_checkpoints.read(tmp_path / "x.pth")


SAVED = [checkpoint({"a": torch.rand(999)}), checkpoint({"a": torch.rand(999)}, _use_new_zipfile_serialization=False)]
CUT = [content[: int(share * len(content))] for content in SAVED for share in (0.0, 0.01, 0.5, 0.99)]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_files_and_those_of_another_kind(tmp_path, name):
    for content in (b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n00000000", *(CUT if name == "x.pth" else ())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: no checkpoint of torch, or a damaged one; copy it again"):
            author_checkpoints.read(tmp_path / name)
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file; name a checkpoint"):
            author_checkpoints.read(missing)


def test_files_without_one_state_dict(tmp_path):
    one = {"a": torch.ones(1)}
    for content, said in (({"model": one, "ema": one}, r"2 networks \(model, ema\)"), ([one], "no state dict")):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=rf"x.pth: holds {said}; save the state dict of one network"):
            author_checkpoints.read(tmp_path / "x.pth")


def refused(state: dict[str, Tensor], message: str, dataset: str = "voc", **options) -> None:
    with one_sentence(ValueError, message) as error:
        author_checkpoints.assemble(state, dataset, "x.pth", **options)
    assert str(error.value).startswith("x.pth: ")


@pytest.fixture
def state() -> dict[str, Tensor]:
    return published(skeleton("resnet50", 21), NAMINGS["sequential"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.conv1.3.weight": None}, "there is no tensor backbone.conv1.3.weight; expected is the authors' net"),
        ({"decoder.6.bias": None}, "there is no tensor decoder.6.bias"),
        ({"aspp.convs.2.1.running_mean": None}, "no whole batch norm after one: aspp.convs.2.1.weight, aspp.convs.2.1"),
        ({"low.0.weight": None}, "no whole batch norm after one: low.1.weight"),
        ({"aux.weight": (21, 256, 1, 1), "aux.bias": (21,)}, r"place for: aux \(convolution 1x1, 256 -> 21"),
        ({"aux.weight": (256, 1024, 3, 3)}, r"has no place for: aux \(convolution 3x3, 1024 -> 256, without"),
        ({"means": (21, 256)}, "no whole batch norm after one: means"),
        ({"backbone.layer4.3.conv1.weight": (512, 2048, 1, 1)}, "no place for: backbone.layer4.3.conv1"),
        ({"copy.layer1.0.conv1.weight": (64, 128, 1, 1)}, "2 tensors end in layer1.0.conv1.weight.*several ResN"),
        ({"backbone.conv1.0.weight": (64, 3, 7, 7)}, "backbone.conv1.0.weight is 64 x 3 x 7 x 7, not 64 x 3 x 3 x 3"),
        ({"backbone.bn1.weight": (64,)}, "backbone.bn1.weight is 64, not 128"),
        ({"decoder.0.weight": (256, 512, 3, 3)}, r"lacks: convolution 3x3, 304 -> 256.*no place for: decoder.0 \(conv"),
        ({"aspp.last.0.weight": (256, 1280, 3, 3)}, "lacks: convolution 1x1, 1280 -> 256"),
        ({"decoder.4.running_var": (48,)}, "decoder.4.running_var is 48, which does not fit decoder.3.weight of 256 x"),
        ({"decoder.6.bias": (19,)}, "decoder.6.bias is 19, which does not fit decoder.6.weight of 21 x 256 x 1 x 1"),
        ({"decoder.4.num_batches_tracked": (2,)}, "decoder.4.num_batches_tracked is 2, which"),
        (
            {"low.0.weight": (256, 1280, 1, 1), "aspp.last.0.weight": (48, 256, 1, 1)},
            "aspp.last.1.weight is 256, which",
        ),
    ],
)
def test_tensors_that_do_not_fit(state, changes, message):
    lost = [name for name, shape in changes.items() if shape is None]
    changed = {name: torch.empty(shape, device="meta") for name, shape in changes.items() if shape is not None}
    refused({name: value for name, value in (state | changed).items() if name not in lost}, message)


def test_missing_units(state):
    for unit, kind in ((2, "3x3, 2048 -> 256"), (POOLING, "1x1, 2048 -> 256"), (9, "1x1, 256 -> 21")):
        lost = tuple(f"{module}." for module in NAMINGS["sequential"][unit] if module)
        refused({k: v for k, v in state.items() if not k.startswith(lost)}, f"the head lacks: convolution {kind}")


def test_classifiers_of_other_data_sets():
    city, other = (published(skeleton("resnet50", classes), NAMINGS["named"]) for classes in (19, 11))
    refused(city, "cls_seg has 19 classes, but PASCAL VOC has 21; choose the data set cityscapes")
    refused(other, "cls_seg has 11 classes, but Cityscapes has 19; evaluate it on the data set it was tr", "cityscapes")
    with pytest.raises(ValueError, match="unknown data set 'camvid'; known: voc, cityscapes"):
        author_checkpoints.assemble(other, "camvid", "x.pth")


def test_other_backbones(state):
    refused({k: v for k, v in state.items() if "backbone" not in k}, "0 tensors end in layer1.0.conv1.weight")
    block = {name: value for name, value in state.items() if "layer3.5." in name}
    more = {name.replace("layer3.5.", f"layer3.{i}."): value for name, value in block.items() for i in range(6, 36)}
    refused(state | more, "backbone.layer3 has 36 blocks, not 6 or 23")


def test_our_own_files_need_our_own_names(state):
    ours = skeleton("resnet50", 21).state_dict()
    refused(state, "there is no tensor head.branches.0.0.weight; expected are the names that a run", ours=True)
    refused(ours | {"more": torch.empty(2)}, "no place for more; expected are the names", ours=True)
    refused(ours | {"head.classifier.bias": torch.empty(19)}, "head.classifier.bias is 19, not 21", ours=True)

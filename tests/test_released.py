"""Evaluation of published checkpoints: the two protocols, the printed numbers beside them, and mistakes of the user."""

import csv
import hashlib
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import evaluation, networks
from agmm.codes import VOID
from agmm.data.public import voc
from agmm.data.public.scenes import CITYSCAPES
from agmm.tools import author_checkpoints, released
from tests import layouts
from tests.helpers import tool
from tests.test_checkpoints import NAMINGS, drawn, in_order, published

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


@pytest.fixture
def root(tmp_path):
    layouts.write_voc2012(tmp_path)
    layouts.write_cityscapes(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small network that is loaded whatever the file; returns the file."""

    def load(path, dataset):
        assert path.read_bytes() == b"weights"
        torch.manual_seed(0)
        net = networks.build("small", {"voc": 21, "cityscapes": 19}[dataset], stem=8).eval()
        with torch.no_grad():  # sure of itself, and no class is everywhere the likeliest
            net.head.classifier.weight *= 300
            net.head.classifier.bias -= net(torch.randn(1, 3, 64, 64))[1].mean(dim=(0, 2, 3))
        return net

    monkeypatch.setattr(author_checkpoints, "load", load)
    path = tmp_path / "point_67.80.pth"
    path.write_bytes(b"weights")
    return path


def silent(_line: str) -> None:
    pass


def normalized(image: np.ndarray) -> Tensor:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.tensor(((image / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)


def ious(predictions: list[np.ndarray], truths: list[np.ndarray], num_classes: int) -> list[float]:
    """Per class in per cent, pixel by pixel set."""
    counted = np.concatenate([t[t != VOID] for t in truths]).astype(int)
    found = np.concatenate([p[t != VOID] for p, t in zip(predictions, truths, strict=True)])
    pairs = [(found == k, counted == k) for k in range(num_classes)]
    return [100 * (p & t).sum() / (p | t).sum() if (p | t).any() else np.nan for p, t in pairs]


@torch.no_grad()
def seven_scales(net: networks.Segmenter, image: np.ndarray) -> np.ndarray:
    x, size = normalized(image), image.shape[:2]
    total = torch.zeros(())
    for scale in (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2):
        view = F.interpolate(x, size=[int(s * scale) for s in size], mode="bilinear", align_corners=True)
        for flipped in (False, True):
            p = net(view.flip(3))[1].softmax(1).flip(3) if flipped else net(view)[1].softmax(1)
            total = total + F.interpolate(p, size=size, mode="bilinear", align_corners=True)
    return total.argmax(1)[0].numpy()


@torch.no_grad()
def tiles(net: networks.Segmenter, image: np.ndarray, tile: int, double: bool) -> np.ndarray:
    x, (height, width) = normalized(image), image.shape[:2]
    total, count = torch.zeros(19, height, width), torch.zeros(height, width)
    for r, c in evaluation.tile_positions(height, width, tile):
        p = net(x[..., r : r + tile, c : c + tile])[1].softmax(1)
        total[:, r : r + tile, c : c + tile] += (p.softmax(1) if double else p)[0]
        count[r : r + tile, c : c + tile] += 1
    return (total / count).argmax(0).numpy()


def numbers(frame: pd.DataFrame, protocol: str) -> tuple[float, list[float]]:
    values = frame.loc[frame["protocol"] == protocol, "value"].tolist()
    return values[0], values[1:]


def test_voc_at_one_scale_and_at_seven(root, small):
    frame = released.evaluate(small, "voc", root, report=silent)
    net, val = author_checkpoints.load(small, "voc"), voc.VOC.load(root, "val")
    with torch.no_grad():
        once = [net(normalized(image))[1].argmax(1)[0].numpy() for image in val.images]
    often = [seven_scales(net, image) for image in val.images]
    assert any((a != b).any() for a, b in zip(once, often, strict=True))
    assert list(frame["protocol"].unique()) == ["single scale", "7 scales, flip"]
    for predictions, words in ((once, "single scale"), (often, "7 scales, flip")):
        miou, iou = numbers(frame, words)
        expected = ious(predictions, list(val.truth), 21)
        np.testing.assert_allclose(iou, expected, atol=0.05)
        assert miou == pytest.approx(np.nanmean(expected), abs=0.05)
    assert set(frame["images"]) == {2}
    assert set(frame["source"]) == {"point_67.80.pth"}
    assert set(frame["sha256"]) == {hashlib.sha256(b"weights").hexdigest()}


def test_cityscapes_by_sliding_window_with_one_softmax_and_two(root, small):
    frame = released.evaluate(small, "cityscapes", root, tile=24, double_softmax=True, report=silent)
    net, val = author_checkpoints.load(small, "cityscapes"), CITYSCAPES.load(root, "val")
    both = []
    for words, double in (("tiles of 24", False), ("tiles of 24, softmax twice", True)):
        expected = ious([tiles(net, val.images[0], 24, double)], list(val.truth), 19)
        both.append(numbers(frame, words)[1])
        np.testing.assert_allclose(both[-1], expected, atol=0.05)
    assert np.abs(np.subtract(*both)).max() > 0.3
    assert list(frame["metric"]) == 2 * ["mIoU", *(f"IoU: {name}" for name in CITYSCAPES.class_names)]


def test_protocols():
    assert list(released.protocols("cityscapes")) == ["tiles of 721"]
    assert [p.double_softmax for p in released.protocols("cityscapes", 769, True).values()] == [False, True]
    assert [p.tile for p in released.protocols("voc").values()] == [None, None]


def test_a_quick_look_takes_images_at_equal_distances(root, small, monkeypatch):
    folder = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{i:06}" for i in range(100, 107)]
    for name in names:
        layouts.save_index(folder / "JPEGImages" / f"{name}.jpg", np.zeros((*layouts.size(name), 3)))
        layouts.save_index(folder / "SegmentationClass" / f"{name}.png", np.zeros(layouts.size(name)))
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    (folder / "JPEGImages" / f"{names[1]}.jpg").write_text("damaged, but not looked at")
    read, original = [], voc.image_files.read_image
    monkeypatch.setattr(voc.image_files, "read_image", lambda path: read.append(path.stem) or original(path))
    lines: list[str] = []
    frame = released.evaluate(small, "voc", root, images=3, report=lines.append)
    assert read == 2 * [names[0], names[2], names[4]], "once per protocol"
    assert set(frame["images"]) == {3}
    assert "testing 3 of 7 images of PASCAL VOC val" in lines[1]
    assert "a quick look" in lines[2]


def test_printed_numbers_are_beside_ours(root, small):
    ours, paper = released.evaluate(small, "voc", root, report=silent), released.published("voc")
    assert list(ours) == list(paper)
    means = paper[paper["metric"] == "mIoU"].set_index("labels")["value"]
    assert means.to_dict() == {"points": 69.6, "scribbles": 76.4}
    assert (len(ours), len(paper)) == (2 * 22, 2 * 22)
    (boat,) = paper[(paper["metric"] == "IoU: boat") & (paper["labels"] == "points")].itertuples()
    assert (boat.value, boat.source) == (68.5, "AGMM supplementary Table 3")
    ours.loc[(ours["metric"] == "IoU: background"), "value"] = math.nan
    text = released.beside_published(ours, paper).splitlines()
    columns = ["single scale", "7 scales, flip", "published, points", "published, scribbles"]
    assert re.split("  +", text[0].strip()) == columns
    assert text[1].split()[0] == "mIoU"
    assert text[1].split()[-2:] == ["69.6", "76.4"]
    assert [line.split()[0] for line in text[2:-1]] == list(voc.CLASS_NAMES)
    assert text[2].split() == ["background", "-", "-", "91.3", "93.5"]
    assert text[-1] == "published: AGMM supplementary Table 3"


def test_printed_numbers_of_cityscapes():
    paper = released.published("cityscapes")
    means = paper[paper["metric"] == "mIoU"].set_index("labels")["value"]
    assert means.to_dict() == {"20 clicks": 62.1, "50 clicks": 68.3, "100 clicks": 71.6}
    assert len(paper) == 3 * 20
    assert (paper["metric"] == "IoU: traffic light").sum() == 3


@pytest.mark.parametrize(("dataset", "num_classes"), [("voc", 21), ("cityscapes", 19)])
def test_the_command_end_to_end(dataset, num_classes, root, capsys):
    path, table = root / "net.pth", root / "table.csv"
    state = published(drawn("resnet50", num_classes, dataset), in_order(NAMINGS["sequential"]))
    torch.save({"net": {f"module.{name}": value for name, value in state.items()}}, path)
    options = ["--tile", "33", "--double-softmax"] if dataset == "cityscapes" else ["--images", "1"]
    command = [str(path), "--dataset", dataset, "--data-root", str(root), "--device", "cpu", "--csv", str(table)]
    assert tool(released, *command, *options) == 0
    output = capsys.readouterr()
    assert output.err == ""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"net.pth: resnet50s (deep stem), DeepLabV3+, weights of net.pth, sha256 {digest}" in output.out
    assert (
        f"testing 1 of {'2 images of PASCAL VOC' if dataset == 'voc' else '1 images of Cityscapes'} val" in output.out
    )
    assert ("reading all 1 images" in output.out) == (dataset == "cityscapes")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if row["sha256"] == digest and row["metric"] == "mIoU"]
    assert len(ours) == 2
    for value in (float(row["value"]) for row in ours):
        assert 0 <= value <= 100
        assert f"{value:.2f}" in output.out


def refused(capsys, message: str, *command: object) -> None:
    assert tool(released, *command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_mistakes_are_answered_by_one_sentence(root, small, capsys, tmp_path):
    on_voc = (small, "--dataset", "voc", "--data-root", root)
    for sentence, *options in (
        ("tiles and the second softmax belong to Cityscapes", "--tile", 721),
        ("tiles and the second softmax belong to Cityscapes", "--double-softmax"),
        ("a tile has at least one pixel", "--dataset", "cityscapes", "--tile", 0),
        ("at least one image", "--images", 0),
        ("none/x.csv: cannot be written", "--csv", tmp_path / "none" / "x.csv"),
        ("cannot be written", "--csv", tmp_path),
        *((f"device '{name}' cannot be used", "--device", name) for name in ("gpu", "meta")),
        ("no folder VOCdevkit/VOC2012", "--data-root", tmp_path / "none"),
    ):
        refused(capsys, sentence, *on_voc, *options)
    if not torch.cuda.is_available():
        refused(capsys, "torch sees no GPU", *on_voc, "--device", "cuda")


def test_files_that_do_not_fit_are_answered_by_one_sentence(root, capsys):
    on_voc = ("--dataset", "voc", "--data-root", root)
    refused(capsys, "none.pth: no such file", root / "none.pth", *on_voc)
    (root / "x.pth").write_text("<html>")
    refused(capsys, "x.pth: no checkpoint of torch, or a damaged one", root / "x.pth", *on_voc)
    torch.save({"weight": torch.ones(3)}, root / "x.pth")
    refused(capsys, "x.pth: 0 tensors end in layer1.0.conv1.weight", root / "x.pth", *on_voc)


def test_damaged_data_are_found_before_anything_is_computed(root, small, capsys, monkeypatch):
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{layouts.VOC_VAL[1]}.jpg").write_text("no image")
    monkeypatch.setattr(released, "_confusion", None)
    assert tool(released, small, "--dataset", "voc", "--data-root", root) == 2
    error = capsys.readouterr().err
    assert f"{layouts.VOC_VAL[1]}.jpg: cannot be decoded" in error
    assert "Traceback" not in error

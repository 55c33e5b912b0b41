"""Evaluation of checkpoints: the two protocols, the printed numbers beside them, and mistakes of the user."""

import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from agmm import evaluation, networks
from agmm.data import sets
from agmm.data.public import voc
from agmm.evaluation import Normalization, Protocol
from agmm.tools import author_checkpoints, released
from tests import layouts
from tests.helpers import tool
from tests.test_checkpoints import NAMINGS, drawn, published

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


ONCE = Protocol(Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SEVEN = replace(ONCE, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), flip=True)
TILES = replace(ONCE, tile=24)
PROTOCOLS = {
    "voc": {"single scale": ONCE, "7 scales, flip": SEVEN},
    "cityscapes": {"tiles of 24": TILES, "tiles of 24, softmax twice": replace(TILES, double_softmax=True)},
}


@pytest.mark.parametrize("dataset", PROTOCOLS)
def test_numbers_are_those_of_the_authors_protocols(root, small, dataset):
    options = {"tile": 24, "double_softmax": True} if dataset == "cityscapes" else {}
    frame = released.evaluate(small, dataset, root, **options)
    net, val = author_checkpoints.load(small, dataset), sets.load(dataset, "test", data_root=root)
    assert list(frame["protocol"].unique()) == list(PROTOCOLS[dataset])
    both = []
    for words, protocol in PROTOCOLS[dataset].items():
        part = frame[frame["protocol"] == words]
        data = val.images, val.truth, len(val.class_names)
        confusion = evaluation.evaluate(net, *data, protocol, batch_size=1, device="cpu")
        both.append([evaluation.mean_iou(confusion), *(100 * evaluation.iou(confusion))])
        np.testing.assert_allclose(part["value"], both[-1], atol=0.05)
        assert list(part["metric"]) == ["mIoU", *(f"IoU: {name}" for name in val.class_names)]
    assert np.nanmax(np.abs(np.subtract(*both))) > 0.3
    assert set(frame["images"]) == {len(val)}
    assert set(frame["source"]) == {"point_67.80.pth"}
    assert set(frame["sha256"]) == {hashlib.sha256(b"weights").hexdigest()}


def test_protocols():
    assert list(released.protocols("cityscapes")) == ["tiles of 721"]
    assert [p.double_softmax for p in released.protocols("cityscapes", 769, True).values()] == [False, True]


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
    ours, paper = released.evaluate(small, "voc", root), released.published("voc")
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


@pytest.mark.parametrize(
    ("dataset", "num_classes", "options", "said"),
    [
        ("voc", 21, ("--images", 1), "testing 1 of 2 images of PASCAL VOC val"),
        ("cityscapes", 19, ("--tile", 33, "--double-softmax"), "reading all 1 images"),
    ],
    ids=["voc", "cityscapes"],
)
def test_the_command_end_to_end(dataset, num_classes, options, said, root, capsys):
    path, table = root / "net.pth", root / "table.csv"
    state = published(drawn("resnet50", num_classes, dataset), NAMINGS["sequential"])
    torch.save({"net": {f"module.{name}": value for name, value in state.items()}}, path)
    command = (path, "--dataset", dataset, "--data-root", root, "--device", "cpu", "--csv", table)
    assert tool(released, *command, *options) == 0
    output = capsys.readouterr()
    assert output.err == ""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"net.pth: resnet50s (deep stem), DeepLabV3+, weights of net.pth, sha256 {digest}" in output.out
    assert said in output.out
    rows = pd.read_csv(table)
    ours = rows.loc[(rows["sha256"] == digest) & (rows["metric"] == "mIoU"), "value"]
    assert len(ours) == 2
    assert ours.between(0, 100).all()
    assert all(f"{value:.2f}" in output.out for value in ours)


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


def test_damaged_data_are_found_before_anything_is_computed(root, small, capsys, monkeypatch):
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{layouts.VOC_VAL[1]}.jpg").write_text("no image")
    monkeypatch.setattr(released, "_confusion", None)
    refused(capsys, f"{layouts.VOC_VAL[1]}.jpg: cannot be decoded", small, "--dataset", "voc", "--data-root", root)

"""Data sets by name: image tags, and blocks that label their share of a whole data set."""

import json
from functools import cache

import numpy as np
import pytest

from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.synthetic import streets
from tests import layouts

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


@pytest.fixture
def coco(tmp_path):
    layouts.coco(tmp_path / "data")
    return sets.load("coco", "train", data_root=tmp_path / "data")


def test_tags_are_the_classes_of_the_masks_and_background(coco, tmp_path):
    tags = sets.image_tags(coco)
    assert (tags.shape, tags.dtype) == ((4, 81), bool)
    for row, mask in zip(tags, coco.truth, strict=True):
        assert set(np.flatnonzero(row)) == set(np.unique(mask)) - {VOID} | {0}
    layouts.ade20k(tmp_path / "ade")
    stuff = sets.load("ade20k", "train", data_root=tmp_path / "ade")
    for row, mask in zip(sets.image_tags(stuff), stuff.truth, strict=True):
        assert set(np.flatnonzero(row)) == set(np.unique(mask)) - {VOID}


def test_tags_of_data_on_disk_are_kept(coco, tmp_path):
    kept = tmp_path / "cache"
    first = sets.image_tags(coco, cache=kept)
    some = sets.image_tags(coco, 0.1, kept)
    assert (first != some).any()
    for path in coco.truth.keys:
        layouts.save_index(path, np.zeros((60, 80)))
    np.testing.assert_array_equal(sets.image_tags(coco, cache=kept), first)
    np.testing.assert_array_equal(sets.image_tags(coco, 0.1, kept), some)
    for path in kept.glob("tags-coco-*.npy"):
        path.write_bytes(b"damaged")
    assert sets.image_tags(coco, cache=kept).sum() == 4, "only background is left"
    other = sets.load("coco", "test", data_root=tmp_path / "data")
    assert sets.image_tags(other, cache=kept).shape == (2, 81)


@cache
def embedded(dataset):
    return sets.load(dataset, "train", count=40)


@pytest.mark.parametrize("dataset", ["shapes", "streets"])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5])
def test_blocks_label_their_share_of_the_whole(dataset, ratio, tmp_path):
    split = embedded(dataset)
    sparse = sets.weak_labels(split, "blocks", {"ratio": ratio}, 0, tmp_path)
    assert abs((sparse < UNLABELED).mean() - ratio) < 0.005
    assert (sparse == split.truth)[sparse < UNLABELED].all()
    (scale,) = map(np.load, tmp_path.glob(f"blocks-{dataset}-*.npy"))
    if dataset == "streets" and ratio < 0.5:
        assert scale > 1.05, "small components stay without"


def test_blocks_of_data_on_disk_label_their_share(tmp_path):
    layouts.ade20k(tmp_path / "data")
    train = sets.load("ade20k", "train", data_root=tmp_path / "data")
    for ratio in (0.1, 0.2, 0.5):
        sparse = sets.weak_labels(train, "blocks", {"ratio": ratio}, 0, tmp_path / "cache")
        assert abs(np.mean([label < UNLABELED for label in sparse]) - ratio) < 0.005
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    scales = [json.loads((folder / "labels.json").read_text())["options"]["scale"] for folder in folders]
    assert len(scales) == 3
    assert min(scales) > 1.05, "each mask has a void border"


def test_the_scale_is_found_once(tmp_path, monkeypatch):
    split = sets.load("streets", "train", count=4)
    first = sets.weak_labels(split, "blocks", {"ratio": 0.2}, 0, tmp_path)
    monkeypatch.setattr(sets.labels, "block_scale", lambda *args: pytest.fail("found again"))
    again = sets.weak_labels(split, "blocks", {"ratio": 0.2}, 1, tmp_path)
    np.testing.assert_array_equal(again, first)
    monkeypatch.undo()
    sets.weak_labels(streets.STREETS.make("train", 4, size=48), "blocks", {"ratio": 0.2}, 0, tmp_path)
    scales = {float(np.load(path)) for path in tmp_path.glob("blocks-*.npy")}
    assert len(scales) == 2, "one for each size of the images"

"""ADE20K: classes from values, blocks that were published with it, and what is said when something is missing."""

import numpy as np
import pytest

from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.public import ade20k
from tests import layouts

pytestmark = pytest.mark.filterwarnings("ignore:ADE20K .* images, not")


def test_values_become_classes(tmp_path):
    written = layouts.ade20k(tmp_path)
    assert len(ade20k.CLASS_NAMES) == len(set(ade20k.CLASS_NAMES)) == 150
    assert [ade20k.CLASS_NAMES[k] for k in (0, 49, 99, 149)] == ["wall", "fireplace", "buffet", "flag"]
    for name, part in (("train", "training"), ("test", "validation")):
        split = sets.load("ade20k", name, data_root=tmp_path)
        assert (split.dataset, split.num_classes, split.background) == ("ade20k", 150, None)
        assert split.ids == layouts.ADE_NAMES[part]
        for i, image_id in enumerate(split.ids):
            assert split.images[i].shape == (60, 80, 3)
            values = written[image_id].astype(int)
            np.testing.assert_array_equal(split.truth[i], np.where(values == 0, VOID, values - 1))
    assert sets.check("ade20k", tmp_path) == []
    assert len(ade20k.load(tmp_path / "ADEChallengeData2016", "val")) == 2


def test_published_blocks_are_taken_for_their_ratio(tmp_path):
    written = layouts.ade20k(tmp_path)
    for percent in (10, 50):
        for name in layouts.ADE_NAMES["training"]:
            values = np.zeros((60, 80), np.uint8)
            values[:percent] = written[name][:percent]
            layouts.save_index(tmp_path / "blocks" / "tel_ade20k" / f"block{percent}" / f"{name}.png", values)
    train = sets.load("ade20k", "train", data_root=tmp_path)
    for ratio, percent in ((0.1, 10), (0.5, 50)):
        source = sets.label_source(train, "blocks", {"ratio": ratio})
        assert source == f"published: blocks of {percent} % published by the authors of the tree energy loss"
        for sparse, truth in zip(sets.weak_labels(train, "blocks", {"ratio": ratio}, 0), train.truth, strict=True):
            expected = np.where(truth == VOID, UNLABELED, truth)
            expected[percent:] = UNLABELED
            np.testing.assert_array_equal(sparse, expected)
    assert "10 %" in sets.label_source(train, "blocks", {}), "the form's own ratio"
    for options in ({"ratio": 0.2}, {"ratio": 0.5, "shape": "rect"}, {"ratio": 0.5, "source": "simulated"}):
        assert sets.label_source(train, "blocks", options) == "simulated from dense masks"
    with pytest.raises(
        ValueError,
        match=r"files of ade20k hold tel_ade20k ratio 0.1 shape interior; tel_ade20k ratio 0.5 shape interior; put the",
    ):
        sets.label_source(train, "blocks", {"ratio": 0.2, "source": "tel_ade20k"})
    assert ade20k.load(tmp_path, "val").published == ()
    assert ade20k.check(tmp_path) == []

    folder = tmp_path / "blocks" / "tel_ade20k" / "block50"
    layouts.save_index(folder / "ADE_train_00000002.png", np.full((60, 80), 151))
    (problem,) = ade20k.check(tmp_path, ("train",))
    assert "ADE_train_00000002.png holds code 151" in problem
    (folder / "ADE_train_00000002.png").unlink()
    with pytest.raises(
        ValueError, match="block50: 1 of 4 training images have no labels, ADE_train_00000002.png first"
    ):
        ade20k.load(tmp_path, "train")


def test_other_numbers_of_images_warn(tmp_path):
    layouts.ade20k(tmp_path)
    with pytest.warns(UserWarning, match="ADE20K train in .* has 4 images, not 20210"):
        ade20k.load(tmp_path, "train")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no folder .*training; .* must hold ADEChallengeData2016 .*download ade"
    ):
        ade20k.load(tmp_path, "train")
    with pytest.raises(ValueError, match="unknown split 'test', choose one of train, val"):
        ade20k.load(tmp_path, "test")
    layouts.ade20k(tmp_path)
    folder = tmp_path / "ADEChallengeData2016"
    (folder / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    (folder / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    with pytest.raises(ValueError, match="extract its archive again: 2 problems found") as error:
        ade20k.load(tmp_path, "train")
    assert "ADE_train_00000001.jpg: an image without its mask" in str(error.value)
    assert "ADE_train_00000002.png: a mask without its image" in str(error.value)

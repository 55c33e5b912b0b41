"""Cityscapes: train ids from label ids, clicks, tests by sliding window, and what is said when something is missing."""

import numpy as np
import pytest
import torch
from torch import nn

from agmm import evaluation
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.augment import official
from agmm.data.public import cityscapes
from tests import layouts

pytestmark = pytest.mark.filterwarnings("ignore:Cityscapes .* images, not")


@pytest.fixture
def root(tmp_path):
    layouts.write_cityscapes(tmp_path)
    return tmp_path


class Right(nn.Module):
    """Reads the class from the red channel, where the test's images hold their label ids."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        ids = (images[:, 0] * 255).round().long()
        table = torch.zeros(256, dtype=torch.long)
        table[list(layouts.LABEL_IDS)] = torch.arange(19)
        return images, 50.0 * nn.functional.one_hot(table[ids], 19).movedim(-1, 1)


def test_names_and_colors():
    assert len(cityscapes.CLASS_NAMES) == len(cityscapes.PALETTE) == len(set(cityscapes.PALETTE)) == 19


def test_label_ids_become_train_ids(tmp_path):
    written = layouts.write_cityscapes(tmp_path)
    train, val = cityscapes.load(tmp_path, "train"), cityscapes.load(tmp_path, "val")
    assert train.ids == ("aachen_000000_000019", "ulm_000001_000019")
    assert val.ids == ("lindau_000000_000019",)
    assert (train.dataset, train.num_classes, train.background, train.instances) == ("cityscapes", 19, None, None)
    expected = np.full(256, VOID)
    for train_id, label_id in enumerate(layouts.LABEL_IDS):
        expected[label_id] = train_id
    for split in (train, val):
        for name, image, mask in zip(split.ids, split.images, split.truth, strict=True):
            np.testing.assert_array_equal(image[..., 0], written[name])
            np.testing.assert_array_equal(mask, expected[written[name]])
    assert set(np.unique(train.truth[0])) == {*range(19), VOID}
    assert cityscapes.check(tmp_path) == []


def test_license_plates_are_void(root):
    path = root / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png"
    layouts.save_index(path, np.full((32, 64), 255))
    assert (cityscapes.load(root, "val").truth[0] == VOID).all()
    layouts.save_index(path, np.full((32, 64), 34))
    with pytest.raises(ValueError, match="labelIds.png: holds code 34"):
        cityscapes.load(root, "val").truth[0]


def test_other_numbers_of_images_warn(root):
    with pytest.warns(UserWarning, match="Cityscapes train in .* has 2 images, not 2975"):
        cityscapes.load(root, "train")


def test_clicks_are_single_pixels_and_nested(root):
    train = sets.load("cityscapes", "train", data_root=root)
    assert sets.label_source(train, "clicks", {"n": 20}) == "simulated from dense masks"
    twenty, fifty, hundred = (sets.labels_on_demand(train, "clicks", {"n": n}, 0) for n in (20, 50, 100))
    for i, truth in enumerate(train.truth):
        for sparse, n in ((twenty[i], 20), (fifty[i], 50), (hundred[i], 100)):
            annotated = sparse < UNLABELED
            assert annotated.sum() == n
            assert (sparse[annotated] == truth[annotated]).all()
        assert (hundred[i][twenty[i] < UNLABELED] < UNLABELED).all()
    assert (sets.labels_on_demand(train, "clicks", {"n": 20}, 1)[0] != twenty[0]).any()


def test_published_clicks_and_blocks_are_taken_for_their_options(root):
    names = ("aachen_000000_000019", "ulm_000001_000019")
    for n in (20, 100):
        for name in names:
            clicks = np.full((32, 64), 19)
            clicks[0, : n // 10], clicks[-1] = 18, 255
            folder = root / "clicks" / "agmm_cityscapes" / str(n)
            layouts.save_index(folder / f"{name}_gtFine_labelTrainIds.png", clicks)
    for name in names:
        blocks = np.zeros((32, 64))
        blocks[3:9, 4:9], blocks[10:12], blocks[20] = 7, 33, 30
        folder = root / "blocks" / "tel_cityscapes" / "block20" / name.split("_")[0]
        layouts.save_index(folder / f"{name}_gtFine_labelIds.png", blocks)
    train = cityscapes.load(root, "train")
    for n in (20, 100):
        assert sets.label_source(train, "clicks", {"n": n}) == f"published: {n} clicks published by the authors of AGMM"
        for sparse in sets.weak_labels(train, "clicks", {"n": n}, 0):
            assert (sparse[0] == 18).sum() == (sparse < UNLABELED).sum() == n // 10
            assert (sparse == VOID).sum() == 64
    expected = np.full((32, 64), UNLABELED)
    expected[3:9, 4:9], expected[10:12] = 0, 18
    for sparse in sets.weak_labels(train, "blocks", {"ratio": 0.2}, 0):
        np.testing.assert_array_equal(sparse, expected)
    for form, options in (("clicks", {"n": 50}), ("blocks", {"ratio": 0.1}), ("blocks", {})):
        assert sets.label_source(train, form, options) == "simulated from dense masks"
    assert cityscapes.load(root, "val").published == ()
    assert cityscapes.check(root) == []

    folder = root / "clicks" / "agmm_cityscapes" / "100"
    layouts.save_index(folder / "ulm_000001_000019_gtFine_labelTrainIds.png", np.full((32, 64), 20))
    (problem,) = cityscapes.check(root)
    assert "holds code 20" in problem
    layouts.save_index(folder / "ulm_000001_000019_color.png", np.full((32, 64), 19))
    with pytest.raises(ValueError, match="labels of the same image as ulm_000001_000019_color.png; keep one of them"):
        cityscapes.load(root, "train")


def test_full_size(tmp_path):
    layouts.write_cityscapes(tmp_path, scale=32)
    train, cache = cityscapes.load(tmp_path, "train"), tmp_path / "cache"
    sparse = sets.labels_on_demand(train, "clicks", {"n": 20}, 0, cache)
    assert (sparse[0] < UNLABELED).sum() == 20
    np.testing.assert_array_equal(sparse[0], sets.labels_on_demand(train, "clicks", {"n": 20}, 0)[0])
    assert sum(path.stat().st_size for path in cache.rglob("*.png")) < 20_000
    image, labels, _ = official(train.images[0], sparse[0], 769, np.random.default_rng(0), color=False)
    assert (image.shape, labels.shape) == ((769, 769, 3), (769, 769))


@pytest.mark.parametrize("tile", [12, 24, None])
def test_sliding_window_reads_each_image_whole(root, tile):
    val, net = sets.load("cityscapes", "test", data_root=root), Right()
    protocol = evaluation.Protocol(tile=tile)
    confusion = evaluation.evaluate(net, val.images, val.truth, 19, protocol, batch_size=1, device="cpu")
    assert evaluation.mean_iou(confusion) == 100
    assert confusion.sum() == (val.truth[0] != VOID).sum()
    assert set(net.sizes) == {(32, 64) if tile is None else (tile, tile)}


def test_tiles_of_the_paper_cover_a_full_image():
    positions = evaluation.tile_positions(1024, 2048, 769)
    assert len(positions) == 12
    assert positions[-1] == (1024 - 769, 2048 - 769)


def test_missing_folders_say_where_to_get_them(tmp_path):
    message = "log in at www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
    for part in ("leftImg8bit", "gtFine"):
        with pytest.raises(FileNotFoundError, match=f"no .*{part}.*{message} into ") as error:
            cityscapes.load(tmp_path, "train")
        assert "\n" not in str(error.value)
        layouts.save_index(tmp_path / "leftImg8bit" / "train" / "ulm" / "ulm_0_0_leftImg8bit.png", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="unknown split 'test', choose one of train, val"):
        cityscapes.load(tmp_path, "test")


def test_missing_partners_are_named(root):
    (root / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png").unlink()
    (root / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(ValueError, match="extract its archives again: 2 problems found") as error:
        cityscapes.load(root, "train")
    assert "ulm_000001_000019_leftImg8bit.png: an image without its mask" in str(error.value)
    assert "aachen_000000_000019_gtFine_labelIds.png: a mask without its image" in str(error.value)


def test_check_names_bad_files(root):
    layouts.save_index(root / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png", np.ones((3, 3)))
    (problem,) = cityscapes.check(root)
    assert "lindau_000000_000019_gtFine_labelIds.png: a mask of 3 x 3 pixels for an image of 64 x 32" in problem

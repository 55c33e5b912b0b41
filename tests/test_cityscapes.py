"""Cityscapes: clicks on images of the full size, tests by sliding window."""

import numpy as np
import pytest
import torch
from torch import nn

from agmm import evaluation
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.augment import official
from agmm.data.public.scenes import CITYSCAPES
from tests import layouts

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


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


def test_full_size(tmp_path):
    layouts.write_cityscapes(tmp_path, scale=32)
    train, cache = CITYSCAPES.load(tmp_path, "train"), tmp_path / "cache"
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

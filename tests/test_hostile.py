"""Files that are out to run code, to fill the memory or to write elsewhere; `tests.faults` has many more."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from agmm.data import image_files
from agmm.data.public import label_files, masks
from agmm.tools import author_checkpoints
from agmm.training import loop
from agmm.training.presets import PRESETS
from tests.faults import corpus
from tests.helpers import one_sentence

CHANCE, SOUND = random.Random(0), b"sound" * 99


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / corpus.Touch.path).exists()


def test_the_pickle_of_these_tests_runs_code_where_it_is_trusted(tmp_path):
    (tmp_path / "a.pt").write_bytes(corpus.checkpoint(corpus.Touch()))
    torch.load(tmp_path / "a.pt", weights_only=False)
    (tmp_path / corpus.Touch.path).unlink()


@pytest.mark.parametrize("fault", [*corpus.ANY, *corpus.CHECKPOINTS, *corpus.SAFETENSORS])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_checkpoints_run_no_code(tmp_path, fault, name):
    (tmp_path / name).write_bytes((corpus.ANY | corpus.SAFETENSORS | corpus.CHECKPOINTS)[fault](SOUND, CHANCE))
    with one_sentence(ValueError, name):
        author_checkpoints.load(name, "voc")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fault", [name for name in corpus.CHECKPOINTS if "code" in name])
def test_our_own_files_run_no_code(tmp_path, fault):
    (tmp_path / "checkpoint.pt").write_bytes(corpus.CHECKPOINTS[fault](b"", CHANCE))
    net, run = nn.Linear(1, 1), PRESETS["smoke"].run
    with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
        loop._load_checkpoint(run, tmp_path / "checkpoint.pt", net, torch.optim.SGD(net.parameters()))
    with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
        loop.load_weights(net, tmp_path / "checkpoint.pt", run.id)


@pytest.mark.parametrize("fault", [*corpus.ANY, *corpus.CAMS])
def test_class_activation_maps_run_no_code(tmp_path, fault):
    (tmp_path / "a.npy").write_bytes((corpus.ANY | corpus.CAMS)[fault](SOUND, CHANCE))
    with one_sentence(ValueError, "a.npy"):
        label_files.read_cams("a.npy", (4, 4))


@pytest.mark.parametrize("fault", [name for name in corpus.PICTURES if name != "text bomb"])
def test_images_that_declare_too_much_or_want_other_programs(tmp_path, fault):
    sound = corpus.saved(Image.new("L", (8, 8)))
    (tmp_path / "a.png").write_bytes(corpus.PICTURES[fault](sound, CHANCE))
    for read in (image_files.read_image, image_files.read_index):
        with one_sentence(ValueError, "a.png"):
            read(Path("a.png"))


@pytest.mark.parametrize("fault", ["billion laughs", "an external entity", "an external document type", "nested"])
def test_xml_declares_and_fetches_nothing(tmp_path, fault):
    sound = b"<annotation><size><width>8</width><height>8</height></size></annotation>"
    (tmp_path / "a.xml").write_bytes(corpus.XML[fault](sound, CHANCE))
    for read in (label_files.read_boxes, label_files.read_scribbles):
        with pytest.raises(ValueError, match="a.xml"):
            read("a.xml", ["cat", "dog"])


@pytest.mark.parametrize("corner", [np.nan, np.inf])
def test_outlines_have_finite_corners(corner):
    with pytest.raises(ValueError, match="not a number"):
        masks.instance_mask([np.full(6, corner)], (4, 4))

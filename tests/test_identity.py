"""Images are their paths: what has one name in two folders stays apart in labels, training folder and predictions."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from agmm import own
from agmm.data import user_folder
from agmm.data.user_folder import matching
from tests.test_annotations import image_file, names_file, write

NAMES = ("background", "cat", "dog")
CAFE = unicodedata.normalize("NFC", "café")


def surveyed(folder, labels="labels"):
    return user_folder.survey(folder / "images", folder / labels, names_file(folder, NAMES))


IDS = {"a.png": "a", "x\\y\\a.JPG": "x/y/a", "../x/./a.tif": "x/a", "C:\\x\\a": "C:/x/a", "v1.2": "v1.2"}
IDS |= {"v1.2.png": "v1.2", unicodedata.normalize("NFD", "café.png"): CAFE}


@pytest.mark.parametrize(("text", "id"), IDS.items())
def test_names(text, id):
    assert matching.id_of(text) == id


MEANT = {"a.png": "a", "cam1/b.png": "cam1/b", "project/cam2/b.jpg": "cam2/b", "photos/a": "a", "c.png": "cam1/c"}
MEANT |= {"b.png": "cam1/b cam2/b", "cam3/b.png": "", "ham1/b.png": "", "cam1/a": "cam1/a", "x/d.jpg": "x/d.jpg"}
MEANT |= {"e/f": "p/e/f"}


@pytest.mark.parametrize(("text", "found"), MEANT.items())
def test_what_a_name_may_mean(text, found):
    ids = matching.by_end(["a", "cam1/b", "cam2/b", "cam1/a", "cam1/c", "x/d.jpg", "p/e/f", "f"])
    assert matching.meant(text, ids) == found.split()


@pytest.mark.parametrize("form", ["png", "labelme", "csv", "coco", "cvat"])
def test_one_name_in_two_folders(tmp_path, form):
    """Each image gets its own click, in a folder of images without a folder of labels as well."""
    for cam in ("cam1", "cam2"):
        image_file(tmp_path / "images" / cam, "x")
    (tmp_path / "labels" / "cam1").mkdir(parents=True)
    (tmp_path / "labels" / "cam2").mkdir(parents=True)
    clicks = {"cam1/x": [((3, 4), 1)], "cam2/x": [((5, 6), 2)]}
    write(form, tmp_path / "labels", clicks, NAMES, width=1)
    found = surveyed(tmp_path)
    assert not found.problems
    prepared = user_folder.prepare(found, tmp_path / "prepared", side=64, width=1, validation=0)
    split = user_folder.load(tmp_path / "prepared", "train")
    assert tuple(prepared.train) == tuple(split.ids) == ("cam1/x", "cam2/x")
    for truth, (((x, y), code),) in zip(split.truth, clicks.values(), strict=True):
        assert truth[y, x] == code
        assert (truth < 254).sum() == 1


@pytest.mark.parametrize("form", ["png", "labelme", "csv", "coco"])
def test_odd_names(tmp_path, form):
    stems = ["-dash", "100% sure", "IMG (1)", "a#1", "b;c", "o'clock", "tab,le", "v1.2.final", 120 * "x", "\u732b 1"]
    clicks = {stem: [((number, 4), 1)] for number, stem in enumerate(stems)}
    for stem in stems:
        image_file(tmp_path / "images", stem)
    write(form, tmp_path / "labels", clicks, NAMES, width=1)
    found = surveyed(tmp_path)
    assert not found.problems
    drawn = {sample.stem: np.argwhere(sample.labels == 1).tolist() for sample in user_folder.render(found, 64, width=1)}
    assert drawn == {stem: [[4, number]] for number, stem in enumerate(stems)}


def test_names_in_two_forms_of_unicode(tmp_path):
    image_file(tmp_path / "images", unicodedata.normalize("NFD", "café"))
    write("csv", tmp_path / "labels", {CAFE: [((3, 4), 1)]}, NAMES)
    assert surveyed(tmp_path).labeled == [CAFE]
    image_file(tmp_path / "images", CAFE)
    with pytest.raises(ValueError, match="a second image beside"):
        surveyed(tmp_path)


def test_folders_of_labels_and_results_are_no_images(tmp_path):
    image_file(tmp_path / "images", "x")
    write("png", tmp_path / "images" / "labels", {"x": [((3, 4), 1)]}, NAMES)
    for written in ("out/classes.csv", "model/training/data/data.json"):
        image_file(tmp_path / "images" / written.split("/")[0], "y")
        (tmp_path / "images" / written).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / written).write_text("")
    found = surveyed(tmp_path, "images/labels")
    assert list(found.images) == found.labeled == ["x"]


def test_labelme_files_beside_their_images(tmp_path):
    image_file(tmp_path / "images", "x")
    write("labelme", tmp_path / "images", {"x": [((3, 4), 1)]}, NAMES)
    assert surveyed(tmp_path, "images").labeled == ["x"]


def test_predictions_mirror_folders(tmp_path, monkeypatch):
    for cam in ("cam1", "cam2"):
        image_file(tmp_path / "images" / cam, "x")
        (tmp_path / "truth" / cam).mkdir(parents=True)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "truth" / "cam2" / "x.png")
    model = own.Model(None, NAMES, 0, 64, None, "cpu")
    monkeypatch.setattr(own.prediction, "load", lambda *_: model)
    monkeypatch.setattr(own.prediction, "mask", lambda _, image: image[..., 0] % 3)
    table = own.predict("model", tmp_path / "images", tmp_path / "out", truth=tmp_path / "truth")
    for cam in ("cam1", "cam2"):
        pixels = np.asarray(Image.open(tmp_path / "images" / cam / "x.png"))[..., 0]
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks" / cam / "x.png")), pixels % 3)
    assert table["measured_on"][0] == "1 images, dense masks"

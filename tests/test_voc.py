"""PASCAL VOC with SBD: which images, which masks, which labels, and what is said when something is missing."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from agmm import labels
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.public import voc
from agmm.data.public.voc import VOC
from agmm.data.split import OnDemand
from tests import layouts
from tests.helpers import one_sentence, shared

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


@pytest.fixture
def root(tmp_path):
    layouts.voc(tmp_path)
    return tmp_path


def test_masks_and_objects_of_voc_are_preferred_to_those_of_sbd(root):
    for split in (VOC.load(root, "train"), VOC.load(root, "val")):
        for name, mask, objects in zip(split.ids, split.truth, split.instances, strict=True):
            own = name in layouts.VOC_TRAIN + layouts.VOC_VAL
            assert (mask == VOID).any() == own
            np.testing.assert_array_equal(objects, (layouts.voc_masks if own else layouts.sbd_masks)(name)[1])


def test_a_folder_of_augmented_masks_takes_the_place_of_sbd(tmp_path):
    folder = layouts.write_voc2012(tmp_path)
    for name in layouts.TRAIN_AUG + layouts.VOC_VAL:
        layouts.save_index(folder / "SegmentationClassAug" / f"{name}.png", layouts.sbd_masks(name)[0])
    for root in (tmp_path, tmp_path / "VOCdevkit", folder):
        train, val = VOC.load(root, "train"), VOC.load(root, "val")
        assert (train.ids, val.ids) == (layouts.TRAIN_AUG, layouts.VOC_VAL)
        assert train.instances is None, "no objects are known for two of the images"
        np.testing.assert_array_equal(train.truth[2], layouts.sbd_masks(train.ids[2])[0])
        assert (train.truth[0] == VOID).any()


def test_a_folder_as_torchvision_leaves_it(tmp_path):
    layouts.write_voc2012(tmp_path)
    layouts.write_sbd(tmp_path).rename(tmp_path / "sbd")
    assert VOC.load(tmp_path, "train").ids == layouts.TRAIN_AUG


def test_nothing_is_decoded_before_it_is_asked_for(root):
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2008_000002.jpg").write_text("no image")
    (root / "benchmark_RELEASE" / "dataset" / "cls" / "2008_000008.mat").write_bytes(b"no mask")
    train = VOC.load(root, "train")
    assert train.images[0].shape == (*layouts.size(train.ids[0]), 3)
    with pytest.raises(ValueError, match="2008_000002.jpg: cannot be decoded"):
        train.images[2]
    with one_sentence(ValueError, "2008_000008.mat: cannot be read as GTcls of SBD"):
        train.truth[3]
    first, second = VOC.check(root)
    assert "2008_000002.jpg: cannot be decoded" in first
    assert "2008_000008.mat: cannot be read" in second


def test_on_demand_is_a_sequence():
    numbers = OnDemand(np.square, range(5))
    assert len(numbers) == 5
    assert numbers[-1] == 16
    assert list(numbers[1:3]) == [1, 4]
    assert isinstance(numbers[1:3], OnDemand)
    with pytest.raises(IndexError):
        numbers[5]


def test_without_published_files_labels_are_simulated_and_called_so(root):
    train = VOC.load(root, "train")
    assert train.published == ()
    assert sets.label_source(train, "points", {}) == "simulated from dense masks and objects"
    assert sets.label_source(train, "full", {}) == "dense masks"
    assert sets.labels_on_demand(train, "full", {}, 0) is train.truth
    maps = sets.labels_on_demand(train, "points", {"placement": "center"}, 0)
    for sparse, objects in zip(maps, train.instances, strict=True):
        assert {1, 2} <= set(objects[sparse < UNLABELED].tolist()), "each of two touching objects has a click"


def test_simulated_labels_are_kept_as_files(root, tmp_path):
    train, cache = VOC.load(root, "train"), tmp_path / "cache"
    first = sets.labels_on_demand(train, "points", {}, 0, cache)
    (folder,) = cache.iterdir()
    assert [path.name for path in folder.iterdir()] == ["labels.json"], "nothing is simulated before it is asked for"
    expected = [np.array(one) for one in sets.labels_on_demand(train, "points", {}, 0)]
    for _ in range(2):
        for i in range(len(train)):
            np.testing.assert_array_equal(first[i], expected[i])
    assert {path.stem for path in folder.glob("*.png")} == set(train.ids)
    marked = np.full(layouts.size(train.ids[0]), 7, np.uint8)
    layouts.save_index(folder / f"{train.ids[0]}.png", marked)
    (folder / f"{train.ids[1]}.png").write_bytes(b"damaged")
    again = sets.labels_on_demand(train, "points", {"source": "simulated"}, 0, cache)
    np.testing.assert_array_equal(again[0], marked)
    np.testing.assert_array_equal(again[1], expected[1])
    other = sets.labels_on_demand(train, "points", {}, 1, cache)
    assert any((one != two).any() for one, two in zip(other, expected, strict=True))


def test_published_clicks_are_drawn_in_other_processes_too(root):
    layouts.write_clicks(root)
    train = pickle.loads(pickle.dumps(VOC.load(root, "train")))
    assert train.images[0].shape == (*layouts.size(train.ids[0]), 3)
    assert sets.label_source(train, "points", {"width": 3}).startswith("published: What's the Point clicks and backgr")
    for name, sparse in zip(train.ids, sets.labels_on_demand(train, "points", {"width": 3}, 0), strict=True):
        assert sparse.shape == layouts.size(name)
        assert labels.image_classes(sparse, 21).nonzero()[0].tolist() == [0, 1 + int(name[-2:]) % 20]
        assert (sparse[8, 10], sparse[25, 35]) == (1 + int(name[-2:]) % 20, 0)
    assert VOC.load(root, "val").published == ()
    assert VOC.check(root) == []


def test_a_run_can_insist_on_a_source(root):
    layouts.write_clicks(root)
    train = VOC.load(root, "train")
    assert sets.label_source(train, "points", {"source": "simulated"}).startswith("simulated")
    assert sets.label_source(train, "points", {"width": 1}).startswith("simulated")
    assert sets.label_source(train, "scribbles", {}).startswith("simulated")
    for source in ("published", "whats_the_point"):
        assert sets.label_source(train, "points", {"source": source}).startswith("published")
    for form, options, message in [
        ("points", {"source": "agmm_voc"}, "points with .* asked for, but published files of voc hold whats_the_po"),
        ("points", {"source": "published", "width": 1}, "3 pixels wide"),
        ("scribbles", {"source": "published"}, "hold no scribbles.*ask for source='simulated'"),
    ]:
        for call in (sets.label_source, lambda *args: sets.labels_on_demand(*args, 0)):
            with one_sentence(ValueError, message):
                call(train, form, options)


def test_published_scribbles_are_drawn_and_preferred_to_drawings(root):
    layouts.write_scribbles(root, *layouts.TRAIN_AUG)
    for name in layouts.TRAIN_AUG:
        drawing = np.full(layouts.size(name), 255)
        drawing[2, 3] = 5
        layouts.save_index(root / "scribbles" / "rloss_scribbles" / f"{name}.png", drawing, palette=True)
    train = VOC.load(root, "train")
    assert [found.name for found in train.published] == ["scribblesup", "rloss_scribbles"]
    sparse = sets.labels_on_demand(train, "scribbles", {}, 0)[1]
    assert (sparse[9:12, 8:26] == 1).all()
    sparse = sets.labels_on_demand(train, "scribbles", {"source": "rloss_scribbles"}, 0)[1]
    assert (sparse[2, 3], (sparse == UNLABELED).sum()) == (5, sparse.size - 1)
    assert VOC.check(root) == []


def test_annotated_boxes_come_with_the_images_and_are_painted(root):
    assert VOC.load(root, "train").boxes is None
    written = layouts.write_annotations(root)
    for name in ("train", "val"):
        split = VOC.load(root, name)
        for image_id, found in zip(split.ids, pickle.loads(pickle.dumps(split)).boxes, strict=True):
            assert found.size == layouts.size(image_id)
            assert found.codes == tuple(box[0] for box in written[image_id])
            corners = [(top - 1, left - 1, bottom, right) for _, left, top, right, bottom in written[image_id]]
            assert found.corners.tolist() == [list(box) for box in corners]
    train = VOC.load(root, "train")
    assert sets.label_source(train, "boxes", {}) == "published: boxes of the data set's annotations"
    painted = [sets.weak_labels(train, "boxes", options, 0) for options in ({}, {"inner": 0.5})]
    for name, whole, inner in zip(train.ids, *painted, strict=True):
        (large, *_), (small, *_) = written[name]
        expected = np.full(layouts.size(name), large)
        expected[5:20, 5:18] = small
        np.testing.assert_array_equal(whole, expected)
        assert inner[12, 11] == small
        assert inner[5, 5] == inner[0, 0] == UNLABELED
    for source in ("published", "annotations"):
        assert sets.label_source(train, "boxes", {"source": source}).startswith("published")
    for options in ({"source": "simulated"}, {"jitter": 0.02}):
        assert sets.label_source(train, "boxes", options) == "simulated from dense masks and objects"
    with pytest.raises(ValueError, match="boxes with .* asked for, but published files of voc hold annotations; put"):
        sets.label_source(train, "boxes", {"jitter": 0.02, "source": "published"})
    assert VOC.check(root) == []
    folder = root / "VOCdevkit" / "VOC2012" / "Annotations"
    (folder / "2008_000002.xml").write_text((folder / "2007_000032.xml").read_text())
    (problem,) = VOC.check(root)
    assert "2008_000002.xml is for 72 x 34 pixels" in problem
    (folder / "2008_000002.xml").unlink()
    assert VOC.load(root, "train").boxes is None
    assert VOC.load(root, "val").boxes is not None


def test_incomplete_published_labels_are_refused(root):
    layouts.write_clicks(root)
    (root / voc.CLICKS[1]).unlink()
    with pytest.raises(FileNotFoundError, match="bg_from_scribbles.json: no such file"):
        VOC.load(root, "train")
    VOC.load(root, "val")
    layouts.write_clicks(root, layouts.TRAIN_AUG[:3])
    with pytest.raises(ValueError, match="list 3 of 4 training images; get the whole files"):
        VOC.load(root, "train")
    layouts.write_clicks(root)
    layouts.write_scribbles(root, layouts.TRAIN_AUG[0])
    with pytest.raises(ValueError, match="scribblesup: 3 of 4 images have no scribbles, 2007_000039.xml first"):
        VOC.load(root, "train")


def test_check_names_bad_published_files(root):
    layouts.write_scribbles(root, *layouts.TRAIN_AUG)
    for name in layouts.TRAIN_AUG:
        layouts.save_index(root / "points" / "agmm_voc" / f"{name}.png", np.full(layouts.size(name), 21))
    (root / "scribbles" / "scribblesup" / "2008_000002.xml").write_text("<annotation")
    layouts.save_index(root / "points" / "agmm_voc" / "2008_000002.png", np.full((3, 3), 21))
    problems = VOC.check(root)
    said = ["2008_000002.png is for 3 x 3 pixels", "3 of 3 labels of 'agmm_voc' annotate nothing", "not valid UTF-8"]
    assert [message in problem for problem, message in zip(problems, said, strict=True)] == [True] * 3


def test_missing_parts_name_the_command(tmp_path):
    layouts.write_voc2012(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no masks of SBD .*agmm download voc --data-root .*fetches them"):
        VOC.load(tmp_path, "train")
    VOC.load(tmp_path, "val")
    names = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="val.txt is no list of names"):
        VOC.load(tmp_path, "val")
    names.unlink()
    with pytest.raises(FileNotFoundError, match="no file .*val.txt, extract the archive of the data set again"):
        VOC.load(tmp_path, "val")


def test_masks_of_other_kinds_are_refused(root):
    path = root / "benchmark_RELEASE" / "dataset" / "cls" / "2008_000008.mat"
    truth = VOC.load(root, "train").truth
    for content, message in [
        ({"GTinst": {"Segmentation": np.zeros((3, 3), np.uint8)}}, "cannot be read as GTcls"),
        ({"GTcls": {"Segmentation": np.zeros((3, 3))}}, "GTcls holds float64 of shape"),
        ({"GTcls": {"Segmentation": np.full((3, 3), -1, np.int16)}}, "GTcls holds int16 of shape"),
        ({"GTcls": {"Segmentation": np.full((3, 3), 30, np.uint8)}}, "holds code 30"),
    ]:
        scipy.io.savemat(path, content)
        with pytest.raises(ValueError, match=f"2008_000008.mat: {message}"):
            truth[3]


def test_arrays_of_labels_are_for_data_in_memory(root):
    with pytest.raises(ValueError, match="the 4 images of voc stay on disk; use labels_on_demand"):
        sets.sparse_labels(VOC.load(root, "train"), "points", {}, 0)
    shapes = sets.load("shapes", "train", count=2)
    with pytest.raises(ValueError, match="published files of shapes hold no points"):
        sets.sparse_labels(shapes, "points", {"source": "published"}, 0)
    plain = sets.sparse_labels(shapes, "points", {}, 0)
    np.testing.assert_array_equal(plain, sets.sparse_labels(shapes, "points", {"source": "simulated"}, 0))
    np.testing.assert_array_equal(plain, np.stack(list(sets.labels_on_demand(shapes, "points", {}, 0))))


def test_real_animals_and_their_clicks():
    """Every image shows an animal; what is clicked on as a class is one or, rarely, another or background."""
    root = shared("data/voc_animals")
    animals = {split: sets.load("voc_animals", split, data_root=root) for split in ("train", "test")}
    assert {split: len(one) for split, one in animals.items()} == {"train": 437, "test": 223}
    right = wrong = 0
    for image in range(0, 437, 5):
        mask, clicks = animals["train"].truth[image], animals["train"].published[0].maps[image]
        assert set(np.unique(mask)) & {1, 2, 3, 4, 6}
        on_class = (clicks > 0) & (clicks < 7) & (mask < 7)
        right, wrong = right + (mask == clicks)[on_class].sum(), wrong + (mask != clicks)[on_class].sum()
    assert 0.95 < right / (right + wrong) < 1


# --- As AGMM's authors lay it out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "as TEL ships them"])
def test_the_layout_of_agmm_s_readme_is_read_as_it_lies(tmp_path, inside):
    layouts.agmm_voc(tmp_path, inside)
    train, val = (VOC.load(tmp_path, split) for split in ("train", "val"))
    assert VOC.check(tmp_path) == []
    assert (train.ids, val.ids) == (layouts.TRAIN_AUG, tuple(sorted(layouts.VOC_VAL)))
    for form, place in (("points", "point"), ("scribbles", "scribble")):
        options = {"width": 3, "source": "published"}
        said = sets.label_source(train, form, options)
        assert said.startswith(f"published: {form} published by the authors of AGMM ({place}/")
        (label, *_) = sets.labels_on_demand(train, form, options, 0)
        values, counts = np.unique(label, return_counts=True)
        assert values.tolist() == [layouts.sbd_masks(layouts.TRAIN_AUG[0])[0].max(), UNLABELED]
        assert counts[0] == 9


def test_labels_of_different_images_need_lists(tmp_path):
    (layouts.agmm_voc(tmp_path) / "scribble" / f"{layouts.TRAIN_AUG[1]}.png").unlink()
    with one_sentence(
        ValueError, rf"different images \(1, {layouts.TRAIN_AUG[1]} first\); complete them or add VOC's ImageSets"
    ):
        VOC.load(tmp_path, "train")
    shutil.rmtree(tmp_path / "point")
    shutil.rmtree(tmp_path / "scribble")
    with one_sentence(FileNotFoundError, "neither ImageSets nor labels in point or scribble"):
        VOC.load(tmp_path, "train")


def test_what_else_lies_in_the_layout_of_agmm_s_readme(tmp_path):
    """Labels in our folders, files that a Mac leaves, labels of val, too."""
    layouts.agmm_voc(tmp_path)
    shutil.rmtree(tmp_path / "scribble")
    (tmp_path / "SegmentationClass" / "._2007_000032.png").write_bytes(b"of a Mac")
    shutil.move(tmp_path / "point", tmp_path / "points" / "agmm_voc")
    assert [VOC.load(tmp_path, split).ids for split in ("train", "val")] == [layouts.TRAIN_AUG, layouts.VOC_VAL]
    for name in layouts.VOC_VAL:
        layouts.save_index(tmp_path / "points" / "agmm_voc" / f"{name}.png", np.full(layouts.size(name), 21))
    for split in ("train", "val"):
        with one_sentence(ValueError, "all masks have labels .* remove the labels of val or add VOC's ImageSets"):
            VOC.load(tmp_path, split)


def test_labels_beside_the_devkit_are_found_and_missing_ones_named(tmp_path):
    layouts.voc(tmp_path)
    train = VOC.load(tmp_path, "train")
    expected = (
        r"hold no points.*into point or points/agmm_voc \(.* of AGMM; linked in the README of AGMM-SASS; clicks in"
    )
    with one_sentence(ValueError, expected + r".*\(--labels simulated\)"):
        sets.label_source(train, "points", {"source": "published"})
    layouts.write_clicks(tmp_path)
    for folder in ("VOCdevkit", "VOCdevkit/VOC2012", "."):
        for name in layouts.TRAIN_AUG:
            layouts.save_index(tmp_path / folder / "point" / f"{name}.png", np.full(layouts.size(name), 21))
        said = sets.label_source(VOC.load(tmp_path, "train"), "points", {})
        assert said.endswith(f"of AGMM ({Path(folder) / 'point'}/)"), "not drawings of the same clicks"
        shutil.rmtree(tmp_path / folder / "point")
    for name in layouts.TRAIN_AUG:  # SPML's lists have such a folder, with other codes
        label = np.full(layouts.size(name), 255)
        layouts.save_index(tmp_path / "VOCdevkit/VOC2012/scribble/dilate_3" / f"{name}.png", label)
    clicks, scribbles = VOC.load(tmp_path, "train").published
    assert (clicks.name, scribbles.name) == ("whats_the_point", "spml")
    assert (scribbles.maps[0] == UNLABELED).all()


def test_files_that_mean_unlabeled_by_255_are_reported(tmp_path):
    layouts.agmm_voc(tmp_path)
    for path in (tmp_path / "point").iterdir():
        label = np.array(Image.open(path))
        label[1:] = np.where(label[1:] == 21, 255, label[1:])
        layouts.save_index(path, label)
    said = "4 of 4 labels of 'agmm_voc' leave no pixel unlabeled, or fewer than are void, as if 255 stood for unlabeled"
    assert any(said in problem for problem in VOC.check(tmp_path, ("train",)))
    train = VOC.load(tmp_path, "train")
    with one_sentence(ValueError, said):
        sets.labels_on_demand(train, "points", {}, 0)

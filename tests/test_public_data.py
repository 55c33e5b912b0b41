"""Public data sets by name: which images and masks are read, published labels, what is said of missing files."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.public import DataSet, coco, count_pixels, dense_labels, voc
from agmm.data.public.scenes import CAMVID, CITYSCAPES
from agmm.data.split import OnDemand, Published
from tests import layouts
from tests.helpers import one_sentence, shared

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")

Truth = dict[str, np.ndarray]


def shifted(written: Truth) -> Truth:
    return {name: np.where(values == 0, VOID, values.astype(int) - 1) for name, values in written.items()}


def train_ids(written: Truth) -> Truth:
    table = np.full(256, VOID)
    table[list(layouts.LABEL_IDS)] = range(19)
    return {name: table[values] for name, values in written.items()}


def own_lists(root: Path) -> Truth:
    masks = layouts.voc(root)
    return {name: masks[name] for name in layouts.VOC_TRAIN + layouts.VOC_VAL}


def animals(root: Path) -> Truth:
    """Horse, sheep and cat beside an aeroplane; one image of train shows a boat alone, one of val a person alone."""
    folder, truth = layouts.write_voc2012(root), {}
    names = {"train": (*layouts.VOC_TRAIN, "2008_000002"), "val": layouts.VOC_VAL}
    for name, code in zip(names["train"] + names["val"], (13, 17, 4, 15, 8), strict=True):
        mask = np.zeros(layouts.size(name), np.uint8)
        mask[2:9], mask[10:20], mask[0] = code, 1, 255
        layouts.save_index(folder / "SegmentationClass" / f"{name}.png", mask, palette=True)
        truth[name] = np.select([mask == value for value in voc.ANIMALS], range(7), VOID)
    for split, listed in names.items():
        layouts.write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(listed))
    return truth


WRITERS: dict[str, Callable[[Path], Truth]] = {
    "camvid": lambda root: {n: np.where(mask == 11, VOID, mask) for n, mask in layouts.camvid(root).items()},
    "voc": layouts.voc,
    "voc_1464": own_lists,
    "voc_animals": animals,
    "cityscapes": lambda root: train_ids(layouts.write_cityscapes(root)),
    "coco": layouts.coco,
    "ade20k": lambda root: shifted(layouts.ade20k(root)),
    "densepose": lambda root: {name: parts for name, (parts, _) in layouts.densepose(root).items()},
}
IDS = {
    "camvid": (("a", "bb"), ("ccc",)),
    "voc": (layouts.TRAIN_AUG, layouts.VOC_VAL),
    "voc_1464": (layouts.VOC_TRAIN, layouts.VOC_VAL),
    "voc_animals": (layouts.VOC_TRAIN, layouts.VOC_VAL[1:]),
    "cityscapes": (("aachen_000000_000019", "ulm_000001_000019"), ("lindau_000000_000019",)),
    "coco": (
        tuple(f"COCO_train2014_{n:012d}" for n in layouts.COCO_IMAGES["train"][:4]),
        tuple(f"COCO_val2014_{n:012d}" for n in layouts.COCO_IMAGES["val"][:2]),
    ),
    "ade20k": (layouts.ADE_NAMES["training"], layouts.ADE_NAMES["validation"]),
    "densepose": tuple(
        tuple(f"COCO_{part}2014_{n:012d}" for n in numbers) for part, numbers in layouts.DENSEPOSE_IMAGES.items()
    ),
}
every = pytest.mark.parametrize("name", sets.PUBLIC)


def test_names_and_published_numbers():
    found = {
        name: (len(data.class_names), data.counts["train"], data.counts["val"], data.background)
        for name, data in sets.PUBLIC.items()
    }
    assert found == {
        "camvid": (11, 367, 101, None),
        "voc": (21, 10_582, 1_449, 0),
        "voc_1464": (21, 1_464, 1_449, 0),
        "voc_animals": (7, 439, 445, 0),
        "cityscapes": (19, 2_975, 500, None),
        "coco": (81, 82_081, 40_137, 0),
        "ade20k": (150, 20_210, 2_000, None),
        "densepose": (15, 26_437, 1_508, 0),
    }
    assert [name for name, data in sets.PUBLIC.items() if not data.in_papers] == ["camvid", "voc_1464", "voc_animals"]
    for name, expected in {
        "coco": {0: "background", 1: "person", 10: "traffic light", 40: "bottle", 60: "bed", 80: "toothbrush"},
        "ade20k": {0: "wall", 49: "fireplace", 99: "buffet", 149: "flag"},
        "densepose": {1: "torso", 2: "right hand", 4: "left foot", 8: "right leg", 10: "left arm", 14: "head"},
    }.items():
        classes = sets.class_names(name)
        assert {number: classes[number] for number in expected} == expected
        assert len(set(classes)) == len(classes)


@every
def test_images_and_masks(name, tmp_path):
    truth, about = WRITERS[name](tmp_path / name), sets.PUBLIC[name]
    for split, ids in zip(("train", "test"), IDS[name], strict=True):
        part = {"train": "train", "test": "val"}[split]
        message = rf"{about.title} {part} in .* has {len(ids)} images, not {about.counts[part]}"
        with pytest.warns(UserWarning, match=message):
            data = sets.load(name, split, data_root=tmp_path)
        assert (data.dataset, data.ids, data.class_names) == (name, ids, sets.class_names(name))
        assert (data.background, data.published) == (about.background, ())
        pairs = about.pairs(tmp_path / name, part)
        for (path, _), image_id, image, mask in zip(pairs, data.ids, data.images, data.truth, strict=True):
            np.testing.assert_array_equal(mask, truth[image_id])
            assert path.name.startswith(image_id)
            np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))
            assert mask.dtype == image.dtype == np.uint8
    assert sets.check(name, tmp_path) == []


@every
def test_missing_data_name_the_layout_and_the_command(name, tmp_path):
    data = sets.PUBLIC[name]
    remedy = {
        "camvid": "must hold train/, trainannot/, val/ and valannot/",
        "voc": "must hold VOCdevkit/VOC2012 with JPEGImages.*agmm download voc",
        "voc_1464": "must hold VOCdevkit/VOC2012 with JPEGImages.*voc_whats_the_point.json.*agmm download voc",
        "voc_animals": "must hold VOCdevkit/VOC2012 with JPEGImages.*voc_whats_the_point.json.*agmm download voc",
        "cityscapes": "log in at www.cityscapes-dataset.com, download left.*and gtFine_tr.* into.*download cityscapes",
        "coco": "must hold coco2014/train2014.*agmm download coco .* masks that `agmm masks coco",
        "ade20k": "must hold ADEChallengeData2016 with images and annotations.*agmm download ade20k",
        "densepose": "must hold annotations/densepose_coco.*agmm download coco .* masks that `agmm masks densepose",
    }[name]
    for call in (lambda: data.load(tmp_path, "train"), lambda: data.check(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"^{data.title}: no .*{remedy}.*$"):
            call()
    with pytest.raises(ValueError, match="unknown split 'training', choose one of train, val"):
        data.load(tmp_path, "training")
    with pytest.raises(ValueError, match=f"{data.title} is read from a folder of yours: name it with --data-root"):
        sets.load(name, "train")
    with pytest.raises(ValueError, match=f"{data.title} has no images for tag pretraining"):
        sets.load(name, "pretrain", data_root=tmp_path)
    if name != "camvid":
        WRITERS[name](tmp_path)
        with pytest.raises(ValueError, match="is read at its own size"):
            sets.load(name, "train", data_root=tmp_path, size=(32, 32))


@every
def test_missing_partners_are_named(name, tmp_path):
    WRITERS[name](tmp_path)
    data = sets.PUBLIC[name]
    pairs = data.pairs(tmp_path, "train")
    (image, _), (_, mask) = pairs[0], pairs[-1]
    image.unlink()
    expected = [f"a mask without its image {image.with_suffix('')}"]
    if name not in ("coco", "densepose"):
        mask.unlink()
        wanted = tmp_path / "VOCdevkit/VOC2012/SegmentationClass" / mask.stem if "voc" in name else mask.with_suffix("")
        expected.append(f"an image without its mask {wanted}")
    count = f"{len(expected)} problem{'s' * (len(expected) > 1)} found"
    with pytest.raises(ValueError, match=rf"{data.title} train in .*: {count}") as error:
        data.load(tmp_path, "train")
    problems = data.check(tmp_path, ("train",))
    assert len(problems) == len(expected)
    for message in expected:
        assert message in str(error.value)
        assert sum(message in problem for problem in problems) == 1


def test_data_sets_are_known_by_name(tmp_path):
    known = "shapes, crowds, streets, people, camvid, voc"
    with pytest.raises(ValueError, match=f"unknown data set 'mnist'; known: {known}"):
        sets.load("mnist", "train", data_root=tmp_path)
    assert sets.check("shapes", None) == []


def test_published_blocks_are_taken_for_their_ratio(tmp_path):
    written = layouts.ade20k(tmp_path)
    for percent in (10, 50):
        for name in layouts.ADE_NAMES["training"]:
            values = np.zeros((60, 80), np.uint8)
            values[:percent] = written[name][:percent]
            folder = tmp_path / ("blocks/tel_ade20k" if percent == 50 else ".")  # or as TEL's authors have them
            layouts.save_index(folder / f"block{percent}" / f"{name}.png", values)
    train = sets.load("ade20k", "train", data_root=tmp_path)
    for ratio, percent in ((0.1, 10), (0.5, 50)):
        source = sets.label_source(train, "blocks", {"ratio": ratio})
        place = "blocks/tel_ade20k/block50/" if percent == 50 else "block10/"
        about = f"blocks of {percent} % published by the authors of the tree energy loss"
        assert source == f"published: {about} ({place})"
        for sparse, truth in zip(sets.weak_labels(train, "blocks", {"ratio": ratio}, 0), train.truth, strict=True):
            expected = np.where(truth == VOID, UNLABELED, truth)
            expected[percent:] = UNLABELED
            np.testing.assert_array_equal(sparse, expected)
    assert "10 %" in sets.label_source(train, "blocks", {}), "the form's own ratio"
    for options in ({"ratio": 0.2}, {"ratio": 0.5, "shape": "rect"}, {"ratio": 0.5, "source": "simulated"}):
        assert sets.label_source(train, "blocks", options) == "simulated from dense masks"
    message = "files of ade20k hold tel_ade20k ratio 0.1 shape interior; tel_ade20k ratio 0.5 shape interior; put "
    with pytest.raises(ValueError, match=message):
        sets.label_source(train, "blocks", {"ratio": 0.2, "source": "tel_ade20k"})
    assert sets.load("ade20k", "test", data_root=tmp_path).published == ()
    assert sets.check("ade20k", tmp_path) == []
    file = tmp_path / "blocks" / "tel_ade20k" / "block50" / "ADE_train_00000002.png"
    layouts.save_index(file, np.full((60, 80), 151))
    (problem,) = sets.check("ade20k", tmp_path, ("train",))
    assert "ADE_train_00000002.png: holds code 151" in problem
    file.unlink()
    with pytest.raises(ValueError, match="block50: 1 of 4 images have no blocks, ADE_train_00000002.png first"):
        sets.load("ade20k", "train", data_root=tmp_path)


def test_published_clicks_are_taken_for_their_number(tmp_path):
    """Their files may lie in folders of cities."""
    layouts.write_cityscapes(tmp_path)
    for n in (20, 100):
        for name in IDS["cityscapes"][0]:
            clicks = np.full((32, 64), 19)
            clicks[0, : n // 10], clicks[-1] = 18, 255
            folder = tmp_path / "clicks" / "agmm_cityscapes" / str(n) / (name.split("_")[0] if n == 20 else "")
            layouts.save_index(folder / f"{name}_gtFine_labelTrainIds.png", clicks)
    train = sets.load("cityscapes", "train", data_root=tmp_path)
    for n in (20, 100):
        said = f"published: {n} clicks published by the authors of AGMM (clicks/agmm_cityscapes/{n}/)"
        assert sets.label_source(train, "clicks", {"n": n}) == said
        for sparse in sets.weak_labels(train, "clicks", {"n": n}, 0):
            assert (sparse[0] == 18).sum() == (sparse < UNLABELED).sum() == n // 10
            assert (sparse == VOID).sum() == 64
    assert sets.label_source(train, "clicks", {"n": 50}) == "simulated from dense masks"
    folder = tmp_path / "clicks" / "agmm_cityscapes" / "100"
    layouts.save_index(folder / "ulm_000001_000019_color.png", np.full((32, 64), 19))
    with pytest.raises(ValueError, match="labels of the same image as ulm_000001_000019_color.png; keep one of them"):
        sets.load("cityscapes", "train", data_root=tmp_path)


def test_license_plates_of_cityscapes_are_void(tmp_path):
    layouts.write_cityscapes(tmp_path)
    path = tmp_path / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png"
    layouts.save_index(path, np.full((32, 64), 255))
    assert (sets.load("cityscapes", "test", data_root=tmp_path).truth[0] == VOID).all()
    layouts.save_index(path, np.full((32, 64), 34))
    with pytest.raises(ValueError, match="labelIds.png: holds code 34"):
        sets.load("cityscapes", "test", data_root=tmp_path).truth[0]


def test_folders_may_lie_elsewhere(tmp_path):
    layouts.ade20k(tmp_path / "ade")
    assert len(sets.load("ade20k", "test", data_root=tmp_path / "ade" / "ADEChallengeData2016")) == 2
    layouts.coco(tmp_path / "coco")
    for name in ("annotations", "SegmentationClass"):
        (tmp_path / "coco" / name).rename(tmp_path / "coco" / "coco2014" / name)
    assert len(sets.load("coco", "train", data_root=tmp_path)) == 4
    layouts.densepose(tmp_path / "densepose")
    for path in (tmp_path / "densepose" / "coco2014").glob("*/*.jpg"):
        path.rename(tmp_path / "coco" / "coco2014" / path.parent.name / path.name)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    assert len(sets.load("densepose", "test", data_root=tmp_path)) == 3


def test_people_of_densepose(tmp_path):
    written = layouts.densepose(tmp_path)
    for name in ("train", "test"):
        split = sets.load("densepose", name, data_root=tmp_path)
        assert split.mirrored == coco.MIRRORED
        for stem, people in zip(split.ids, split.instances, strict=True):
            np.testing.assert_array_equal(people, written[stem][1])
    names = sets.class_names("densepose")
    for name, other in zip(names, (names[k] for k in coco.MIRRORED), strict=True):
        side = {"left": "right", "right": "left"}.get(name.split()[0])
        assert other == (name if side is None else f"{side} {name.split()[1]}")
    last = max(written)
    layouts.save_index(tmp_path / "PartMasks" / "minival2014" / f"{last}.png", np.full((60, 80), 15))
    layouts.save_index(tmp_path / "PartMasks" / "minival2014_people" / f"{last}.png", np.zeros((60, 79)))
    first, second = sets.check("densepose", tmp_path, ("val",))
    assert "holds code 15" in first
    assert "79 x 60" in second


def test_published_masks_of_densepose_take_precedence(tmp_path):
    written = layouts.densepose(tmp_path)
    names = [name for name in sorted(written) if "train" in name]
    for name in names:
        layouts.save_index(tmp_path / coco.PUBLISHED / "train" / f"{name}.png", np.full((60, 80), 7))
    split = sets.load("densepose", "train", data_root=tmp_path)
    assert all((mask == 7).all() for mask in split.truth)
    np.testing.assert_array_equal(split.instances[0], written[names[0]][1])
    with pytest.raises(ValueError, match="PublishedMasks: 3 of 3 images have no mask, .* complete the folder or move"):
        sets.load("densepose", "test", data_root=tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("coco", "SegmentationClass"), ("densepose", "PartMasks")])
def test_missing_masks_are_made_by_a_command(name, folder, tmp_path):
    written = sorted(WRITERS[name](tmp_path))
    remedy = f"masks that `agmm masks {name} {tmp_path}` makes"
    lost = next(image_id for image_id in written if "train" in image_id)
    (tmp_path / folder / "train2014" / f"{lost}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"masks are missing in .*, {lost}.png first; .*{remedy}"):
        sets.load(name, "train", data_root=tmp_path)
    (tmp_path / folder / "train2014.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"no masks in .*; .*{remedy}"):
        sets.load(name, "train", data_root=tmp_path)
    (tmp_path / folder / "train2014.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="train2014.txt is no list of names .*; remove it and make the masks again"):
        sets.load(name, "train", data_root=tmp_path)


def test_camvid_may_have_a_test_split(tmp_path):
    layouts.camvid(tmp_path, ("test",))
    assert CAMVID.load(tmp_path, "test").ids == ("a", "bb")


# --- CamVid, which is read at once ------------------------------------------------------------------------------------


@pytest.fixture
def camvid(tmp_path):
    layouts.camvid(tmp_path, ("val",))
    return tmp_path


def test_other_endings_are_images_and_other_files_are_none(camvid):
    (camvid / "val" / "a.png").rename(camvid / "val" / "a.JPG")
    (camvid / "val" / ".hidden.png").write_bytes(b"")
    (camvid / "val" / "Thumbs.db").write_bytes(b"")
    assert CAMVID.load(camvid, "val").ids == ("a", "bb")
    layouts.save_index(camvid / "val" / "a.png", np.zeros((8, 12, 3)))
    with pytest.raises(ValueError, match="a.png: a second image beside a.JPG"):
        CAMVID.load(camvid, "val")


def test_resizing(camvid):
    split, whole = CAMVID.load(camvid, "val", size=(4, 6)), CAMVID.load(camvid, "val")
    assert split.images.shape == (2, 4, 6, 3)
    expected = Image.fromarray(whole.images[0]).resize((6, 4), Image.BILINEAR)
    np.testing.assert_array_equal(split.images[0], np.asarray(expected))
    np.testing.assert_array_equal(split.truth, whole.truth[:, 1::2, 1::2])
    for folder, shape in (("val", (9, 9, 3)), ("valannot", (9, 9))):
        layouts.save_index(camvid / folder / "bb.png", np.zeros(shape))
    with pytest.raises(ValueError, match="bb.png: not of the first image's size"):
        CAMVID.load(camvid, "val")
    assert CAMVID.load(camvid, "val", size=(4, 4)).images.shape == (2, 4, 4, 3)


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("val/a.png", cut, "cannot be decoded"),
        ("valannot/a.png", cut, "cannot be decoded"),
        ("val/a.png", lambda path: Image.fromarray(np.zeros((8, 12), np.uint16)).save(path), "16-bit"),
        ("valannot/a.png", lambda path: layouts.save_index(path, np.full((8, 12), 200)), "code 200"),
        ("valannot/a.png", lambda path: layouts.save_index(path, np.zeros((8, 13))), "is for 13 x 8 pixels, its"),
    ],
)
def test_bad_files_are_named(camvid, file, spoil, message):
    spoil(camvid / file)
    (problem,) = CAMVID.check(camvid, ("val",))
    assert str(camvid / file) in problem
    assert message in problem
    assert "\n" not in problem
    with pytest.raises(ValueError, match="CamVid val in .*: 1 problem found") as error:
        CAMVID.load(camvid, "val")
    assert problem in str(error.value)


def test_the_first_bad_files_and_their_number_are_told(tmp_path):
    for i in range(7):
        layouts.save_index(tmp_path / "val" / f"frame{i}.png", np.zeros((8, 12, 3)))
        layouts.save_index(tmp_path / "valannot" / f"frame{i}.png", np.full((8, 12), 200 + i))
    with pytest.raises(ValueError, match="7 problems found") as error:
        CAMVID.load(tmp_path, "val")
    lines = str(error.value).splitlines()
    assert [f"frame{i}.png" in lines[1 + i] for i in range(5)] == [True] * 5
    assert lines[6:] == ["  and 2 more"]


@pytest.mark.parametrize("call", [lambda root: CAMVID.load(root, "train"), CAMVID.check])
def test_missing_and_empty_folders_name_the_layout(tmp_path, call):
    for name in ("train", "trainannot", ""):
        message = f"no folder .*{name}" if name else "no images of train"
        with pytest.raises(FileNotFoundError, match=f"CamVid: {message}; .* must hold train/, trainannot/"):
            call(tmp_path)
        (tmp_path / name).mkdir(exist_ok=True)


def test_real_data():
    root = shared("data/camvid")
    assert len(CAMVID.pairs(root, "train")) == 367
    loaded = CAMVID.load(root, "val")
    assert loaded.images.shape == (101, 360, 480, 3)
    assert set(np.unique(loaded.truth)) == {*range(11), VOID}
    # Sky is bright and above, road below: a wrong class table or a wrong pairing would not show this.
    assert loaded.images[loaded.truth == 0].mean() > 1.5 * loaded.images[loaded.truth != 0].mean()
    assert np.bincount(loaded.truth[:, -60:].ravel(), minlength=256)[:11].argmax() == 3


def test_cityscapes_is_read_as_agmm_s_readme_draws_it(tmp_path):
    """Masks of train ids alone, and clicks in ``20clicks`` …; what is read is what label ids say."""
    layouts.write_cityscapes(tmp_path)
    by_ids = sets.load("cityscapes", "train", data_root=tmp_path)
    expected = [np.array(mask) for mask in by_ids.truth]
    for path in list((tmp_path / "gtFine").rglob("*_labelIds.png")):
        ids = np.array(Image.open(path))
        codes = np.array([CITYSCAPES.codes.get(value, VOID) for value in range(256)])
        layouts.save_index(path.with_name(path.name.replace("labelIds", "labelTrainIds")), codes[ids])
        path.unlink()
    layouts.save_index(tmp_path / "gtFine/test/bonn/bonn_000000_000019_gtFine_labelIds.png", np.zeros((32, 64)))
    for name in IDS["cityscapes"][0]:
        clicks = np.full((32, 64), 19)
        clicks[0, :20] = 18
        layouts.save_index(tmp_path / "20clicks" / f"{name}_gtFine_labelTrainIds.png", clicks)
    train = sets.load("cityscapes", "train", data_root=tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(train.truth, expected, strict=True))
    assert sets.check("cityscapes", tmp_path) == []
    said = "published: 20 clicks published by the authors of AGMM (20clicks/)"
    assert sets.label_source(train, "clicks", {"n": 20, "source": "published"}) == said
    assert [(label == 18).sum() for label in sets.weak_labels(train, "clicks", {"n": 20}, 0)] == [20, 20]
    place = r"into 50clicks or clicks/agmm_cityscapes/50 \(50 clicks .* of AGMM; linked in .*\), or ask for .*"
    with one_sentence(ValueError, place + r"\(--labels simulated\)"):
        sets.label_source(train, "clicks", {"n": 50, "source": "published"})


def test_a_check_keeps_no_label_in_memory(tmp_path, monkeypatch):
    """Those of Cityscapes are 6 GB."""
    layouts.ade20k(tmp_path)
    published = Published("blocks", "large", "", OnDemand(lambda _: np.full((2000, 2000), UNLABELED), [0] * 4))
    split = sets.load("ade20k", "train", data_root=tmp_path)
    large = OnDemand(lambda _: np.zeros((2000, 2000), np.uint8), [0] * 4)
    monkeypatch.setattr(DataSet, "_split", lambda *_: replace(split, published=(published,), instances=large))
    tracemalloc.start()
    problems = sets.check("ade20k", tmp_path, ("train",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problems == ["4 of 4 labels of 'large' annotate nothing; check codes and folder"]
    assert peak < 2 * 8 * 2000**2, "one label and a comparison"


@pytest.mark.parametrize("form", ["points", "blocks"])
def test_labels_that_leave_too_little_unlabeled(form):
    """The interior of an image of one class may be a block; a click that covers an image may not be."""
    published = Published(form, "some", "", [])
    sparse, full, void = (np.full((4, 4), code, np.uint8) for code in (UNLABELED, 3, VOID))
    sparse[0, 0] = void[0, 0] = 3
    void[0, 1] = UNLABELED
    said = [dense_labels(published, [count_pixels(x) for x in maps]) for maps in ([sparse] * 3, [sparse, full], [void])]
    assert [bool(one) for one in said] == [False, form == "points", True]

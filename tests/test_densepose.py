"""DensePose-COCO: masks of parts become masks of images, once; which images are read, what is said of missing ones."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from agmm.codes import VOID
from agmm.data import sets
from agmm.data.public import densepose, densepose_masks, label_files
from agmm.data.public import masks as coco_masks
from tests import layouts
from tests.helpers import tool

pytestmark = pytest.mark.filterwarnings("ignore:DensePose .* images, not")


def person(box, parts, area=None, outline=None):
    """Annotation of somebody with the masks of the given parts, (256, 256) bool each."""
    left, top, width, height = box
    outline = outline or [left, top, left + width, top, left + width, top + height, left, top + height]
    codes = [
        {"size": [256, 256], "counts": layouts.compress(parts[code])} if code in parts else [] for code in range(1, 15)
    ]
    area = width * height if area is None else area
    return {"category_id": 1, "bbox": box, "area": area, "segmentation": [np.array(outline, float)], "dp_masks": codes}


def test_codes_are_those_of_cocos_own_tool():
    boxes = np.zeros((6, 8), bool)
    boxes[1:4, 2:7] = boxes[5, 0] = boxes[0, 7] = True
    assert layouts.compress(boxes) == "5172L0000000ON3"
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((256, 256)).round(1) < rng.random()
        np.testing.assert_array_equal(coco_masks.decode_runs(layouts.compress(mask), (256, 256)), mask)


def test_sides_are_exchanged_in_pairs():
    mirrored, names = densepose.MIRRORED, densepose.CLASS_NAMES
    assert len(names) == len(set(names)) == 15
    for name, other in zip(names, (names[k] for k in mirrored), strict=True):
        expected = {"left": "right", "right": "left"}.get(name.split()[0])
        assert other == (name if expected is None else f"{expected} {name.split()[1]}")
    assert [names[k] for k in (1, 2, 4, 8, 10, 12, 14)] == [
        *("torso", "right hand", "left foot", "right leg", "left arm", "left forearm", "head"),
    ]


# --- Painting ---------------------------------------------------------------------------------------------------------


def test_parts_are_brought_to_the_box_by_nearest_neighbor():
    """Every pixel by itself: the mask's pixel under its center, in the rounded box cut to the image."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        codes = rng.integers(0, 15, (256, 256))
        left, top = rng.uniform(-3, 30, 2).round(2).tolist()
        width, height = rng.uniform(1, 50, 2).round(2).tolist()
        parts = {code: codes == code for code in range(1, 15)}
        mask, people = densepose_masks.part_mask((50, 60), [person([left, top, width, height], parts)])
        rows, columns = (
            (max(round(start), 0), min(round(start + length), side))
            for start, length, side in ((top, height, 50), (left, width, 60))
        )
        expected = np.zeros((50, 60), int)
        for row in range(*rows):
            for column in range(*columns):
                y = int(Fraction(2 * (row - rows[0]) + 1, 2 * (rows[1] - rows[0])) * 256)
                x = int(Fraction(2 * (column - columns[0]) + 1, 2 * (columns[1] - columns[0])) * 256)
                expected[row, column] = codes[y, x]
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(people, expected > 0)


def test_small_people_are_in_front_whatever_their_order():
    whole = np.ones((256, 256), bool)
    large, small = person([0, 0, 40, 40], {1: whole}), person([10, 10, 5, 5], {14: whole})
    for annotations in ([large, small], [small, large]):
        mask, people = densepose_masks.part_mask((40, 40), annotations)
        assert (mask == 14).sum() == 25
        assert (mask == 1).sum() == 1600 - 25
        assert people[0, 0] == 1 + annotations.index(large)
        assert people[12, 12] == 1 + annotations.index(small)


def test_people_without_parts_are_void_where_nobodys_part_is():
    half = np.zeros((256, 256), bool)
    half[:, :128] = True
    known = person([10, 10, 20, 20], {3: half})
    unknown = [person([0, 0, 15, 15], {}), person([25, 0, 15, 15], {})]
    del unknown[1]["dp_masks"]
    mask, people = densepose_masks.part_mask((40, 40), [unknown[0], known, unknown[1]])
    expected = np.zeros((40, 40), int)
    expected[:15, :15] = expected[:15, 25:] = VOID
    expected[10:30, 10:20] = 3
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(people, np.where(expected == 3, 1, expected))


def test_a_box_that_rounds_to_nothing_is_left_out():
    mask, _ = densepose_masks.part_mask((40, 40), [person([3.1, 4, 0.2, 9], {1: np.ones((256, 256), bool)})])
    assert not mask.any()


def test_masks_are_made_once(tmp_path):
    written = layouts.densepose(tmp_path, masks=False)
    lines = []
    densepose_masks.render(tmp_path, jobs=1, report=lines.append)
    assert "2 masks are there" in lines[-3] + lines[2]
    for name, masks in written.items():
        part = "train2014" if "train" in name else "minival2014"
        for folder, mask in zip((part, f"{part}_people"), masks, strict=True):
            path = tmp_path / "PartMasks" / folder / f"{name}.png"
            np.testing.assert_array_equal(label_files.read_index(path), mask)
    path.unlink()
    done = path.parent.with_name(part) / path.name
    densepose_masks.render(tmp_path, jobs=1, report=lines.append)
    assert not path.exists(), "its mask of parts is there, which is written last"
    done.unlink()
    assert tool(coco_masks, "densepose", tmp_path, "--jobs", 1) == 0
    assert path.exists()
    assert done.exists()


def test_annotations_that_are_no_annotations(tmp_path, capsys):
    assert tool(coco_masks, "densepose", tmp_path) == 2
    message = capsys.readouterr().err
    assert "DensePose: no annotations/densepose_coco_2014_train.json below" in message
    layouts.densepose(tmp_path, masks=False)
    path = tmp_path / "annotations" / "densepose_coco_2014_train.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    wrong_size = {"size": [64, 64], "counts": layouts.compress(np.ones((64, 64), bool))}
    for changed, message in [
        ({"category_id": 3}, "category 3 is none of the 1"),
        ({"dp_masks": [wrong_size] * 14}, r"000036: its outlines cannot be painted .*is of size \[64, 64\]"),
        ({"dp_masks": [wrong_size] * 3}, "dp_masks holds 3 parts, not 14"),
    ]:
        path.write_text(json.dumps(content | {"annotations": [first | changed]}))
        with pytest.raises(ValueError, match=message) as error:
            densepose_masks.render(tmp_path, jobs=1, report=lambda line: None)
        assert "\n" not in str(error.value)


# --- Splits -----------------------------------------------------------------------------------------------------------


def test_images_with_their_parts_and_people(tmp_path):
    written = layouts.densepose(tmp_path)
    for name, part in (("train", "train"), ("test", "val")):
        split = sets.load("densepose", name, data_root=tmp_path)
        assert (split.dataset, split.num_classes, split.background) == ("densepose", 15, 0)
        assert split.mirrored == densepose.MIRRORED
        assert split.ids == tuple(f"COCO_{part}2014_{n:012d}" for n in layouts.DENSEPOSE_IMAGES[part])
        assert split.instances is not None
        for i, stem in enumerate(split.ids):
            np.testing.assert_array_equal(split.truth[i], written[stem][0])
            np.testing.assert_array_equal(split.instances[i], written[stem][1])
            expected = np.asarray(Image.open(tmp_path / "coco2014" / f"{part}2014" / f"{stem}.jpg"))
            np.testing.assert_array_equal(split.images[i], expected)
    assert sets.check("densepose", tmp_path) == []


def test_images_may_be_those_of_coco_beside_it(tmp_path):
    layouts.densepose(tmp_path / "densepose")
    shutil.move(tmp_path / "densepose" / "coco2014", tmp_path / "coco")
    assert len(sets.load("densepose", "test", data_root=tmp_path)) == 3


def test_published_masks_take_precedence(tmp_path):
    written = layouts.densepose(tmp_path)
    names = [name for name in sorted(written) if "train" in name]
    for name in names:
        layouts.save_index(tmp_path / densepose.PUBLISHED / "train" / f"{name}.png", np.full((60, 80), 7))
    split = densepose.load(tmp_path, "train")
    assert all((mask == 7).all() for mask in split.truth)
    assert split.instances is not None
    np.testing.assert_array_equal(split.instances[0], written[names[0]][1])
    with pytest.raises(ValueError, match=r"DensePose val in .* is incomplete, complete the folder .*: 3 problems"):
        densepose.load(tmp_path, "val")


def test_other_numbers_of_images_warn(tmp_path):
    layouts.densepose(tmp_path)
    with pytest.warns(UserWarning, match="DensePose val in .* has 3 images, not 1508"):
        densepose.load(tmp_path, "val")


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train2014 below .*agmm download coco --data-root"):
        densepose.load(tmp_path, "train")
    with pytest.raises(ValueError, match="unknown split 'minival', choose one of train, val"):
        densepose.load(tmp_path, "minival")
    written = layouts.densepose(tmp_path, masks=False)
    command = f"`agmm masks densepose {tmp_path}` makes them"
    with pytest.raises(FileNotFoundError, match=f"DensePose val in .*: no masks in .*; {command}"):
        densepose.load(tmp_path, "val")
    layouts.densepose(tmp_path)
    name = max(written)
    layouts.save_index(tmp_path / "PartMasks" / "minival2014" / f"{name}.png", np.full((60, 80), 15))
    layouts.save_index(tmp_path / "PartMasks" / "minival2014_people" / f"{name}.png", np.zeros((60, 79)))
    problems = densepose.check(tmp_path, ("val",))
    assert [part in problem for part, problem in zip(("holds code 15", "79 x 60"), problems, strict=True)] == [True] * 2
    (tmp_path / "coco2014" / "val2014" / f"{name}.jpg").unlink()
    with pytest.raises(ValueError, match="extract its archives again: 1 problem found") as error:
        densepose.load(tmp_path, "val")
    assert f"{name}: annotated, but there is no" in str(error.value)

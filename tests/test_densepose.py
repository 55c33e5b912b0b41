"""DensePose-COCO: masks of parts become masks of images, once; which images are read, what is said of missing ones."""

import json
from fractions import Fraction

import numpy as np
import pytest

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public import densepose_masks
from agmm.data.public import masks as coco_masks
from tests import layouts
from tests.helpers import tool

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


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
            np.testing.assert_array_equal(image_files.read_index(path), mask)
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
    assert "DensePose-COCO: no annotations/densepose_coco_2014_train.json below" in message
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

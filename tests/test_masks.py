"""Masks of COCO and DensePose: outlines and run-length codes become masks of images, once."""

import json
from fractions import Fraction

import numpy as np
import pytest
from skimage import draw

from agmm.codes import VOID
from agmm.data.drawing import fill_polygon
from agmm.data.image_files import read_index
from agmm.data.public import masks
from tests import layouts
from tests.helpers import one_sentence, tool


def test_polygons_hold_the_pixels_whose_centers_they_surround():
    """By the even-odd rule, cut to the image."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(3, 30, 2).tolist())
        vertices = rng.uniform(-5, 35, (int(rng.integers(3, 9)), 2)).round(2) + 0.001  # no center on an edge
        rows, columns = draw.polygon(vertices[:, 1] - 0.5, vertices[:, 0] - 0.5, shape)
        expected = np.zeros(shape, bool)
        expected[rows, columns] = True
        np.testing.assert_array_equal(fill_polygon(vertices, shape), expected)
    for degenerate in ([(3, 3), (8, 8)], [(3, 3)], np.zeros((0, 2))):
        assert not fill_polygon(np.array(degenerate, float), (10, 10)).any()


def test_polygons_side_by_side_share_no_pixel_and_leave_no_gap():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Quarter pixels, so that many centers lie exactly on edges.
        x, y = (rng.integers(4, 36, 2) / 4).tolist()
        corners = [(0, 0), (10, 0), (10, 10), (0, 10)]
        triangles = [np.array([(x, y), corners[i - 1], corners[i]], float) for i in range(4)]
        assert (np.sum([fill_polygon(one, (10, 10)) for one in triangles], axis=0) == 1).all()


def test_run_length_codes_are_those_of_cocos_own_tool():
    """Codes made with pycocotools 2.0; and random ones, compressed by the tests."""
    boxes = np.zeros((6, 8), bool)
    boxes[1:4, 2:7] = boxes[5, 0] = boxes[0, 7] = True
    y, x = np.ogrid[:30, :40]
    disc = (y - 14) ** 2 / 3 + (x - 18) ** 2 / 4 < 30
    for text, mask in (("5172L0000000ON3", boxes), ("k77e04M2N2O0O2O0O2O000000000001N101N101N2N3LQ:", disc)):
        assert layouts.compress(mask) == text
        np.testing.assert_array_equal(masks.decode_runs(text, mask.shape), mask)
        np.testing.assert_array_equal(masks.decode_runs(layouts.run_lengths(mask), mask.shape), mask)
    with pytest.raises(ValueError, match=r"has 47 pixels, its image of \(6, 8\) has 48"):
        masks.decode_runs([40, 7], (6, 8))
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((256, 256)).round(1) < rng.random()
        np.testing.assert_array_equal(masks.decode_runs(layouts.compress(mask), (256, 256)), mask)


def outline(*corners):
    return np.array(corners, float).ravel()


def annotation(category, *outlines, crowd=0):
    return {"category_id": category, "segmentation": list(outlines), "iscrowd": crowd}


def test_small_objects_are_in_front_and_crowds_behind():
    whole, half = outline((0, 0), (8, 0), (8, 8), (0, 8)), outline((0, 0), (4, 0), (4, 8), (0, 8))
    dot, other = outline((6, 6), (7, 6), (7, 7), (6, 7)), outline((1, 1), (2, 1), (2, 2), (1, 2))
    mask = masks.class_mask((8, 10), [annotation(90, dot, other), annotation(1, half), annotation(13, whole, crowd=1)])
    expected = np.zeros((8, 10), np.uint8)
    expected[:, :8] = VOID
    expected[:, :4] = 1
    expected[6, 6] = expected[1, 1] = 80
    np.testing.assert_array_equal(mask, expected)
    front = masks.class_mask((8, 10), [annotation(13, whole), annotation(1, half)])
    np.testing.assert_array_equal(np.unique(front[:, :4]), [1])
    np.testing.assert_array_equal(np.unique(front[:, 4:8]), [12])


def person(box, parts):
    """Annotation of somebody with the masks of the given parts, (256, 256) bool each."""
    left, top, width, height = box
    outline = [left, top, left + width, top, left + width, top + height, left, top + height]
    codes = {code: {"size": [256, 256], "counts": layouts.compress(mask)} for code, mask in parts.items()}
    about = {"category_id": 1, "bbox": box, "area": width * height, "segmentation": [np.array(outline, float)]}
    return about | {"dp_masks": [codes.get(code, []) for code in range(1, 15)]}


def test_parts_are_brought_to_the_box_by_nearest_neighbor():
    """Every pixel gets that of the mask under its center, in the rounded box cut to the image."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        codes = rng.integers(0, 15, (256, 256))
        left, top = rng.uniform(-3, 30, 2).round(2).tolist()
        width, height = rng.uniform(1, 50, 2).round(2).tolist()
        parts = {code: codes == code for code in range(1, 15)}
        mask, people = masks.part_mask((50, 60), [person([left, top, width, height], parts)])
        rows, columns = (
            range(max(round(start), 0), min(round(start + length), side))
            for start, length, side in ((top, height, 50), (left, width, 60))
        )
        y, x = ([int(Fraction(2 * i + 1, 2 * len(side)) * 256) for i in range(len(side))] for side in (rows, columns))
        expected = np.zeros((50, 60), int)
        expected[np.ix_(rows, columns)] = codes[np.ix_(y, x)]
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(people, expected > 0)


def test_small_people_are_in_front_whatever_their_order():
    whole = np.ones((256, 256), bool)
    large, small = person([0, 0, 40, 40], {1: whole}), person([10, 10, 5, 5], {14: whole})
    for annotations in ([large, small], [small, large]):
        mask, people = masks.part_mask((40, 40), annotations)
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
    mask, people = masks.part_mask((40, 40), [unknown[0], known, unknown[1]])
    expected = np.zeros((40, 40), int)
    expected[:15, :15] = expected[:15, 25:] = VOID
    expected[10:30, 10:20] = 3
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(people, np.where(expected == 3, 1, expected))


def test_a_box_that_rounds_to_nothing_is_left_out():
    mask, _ = masks.part_mask((40, 40), [person([3.1, 4, 0.2, 9], {1: np.ones((256, 256), bool)})])
    assert not mask.any()


def test_classes_are_cocos_categories_in_order():
    assert masks.CATEGORY_IDS == layouts.COCO_CATEGORIES


@pytest.mark.parametrize("jobs", [1, 2])
def test_masks_are_made_once_and_only_where_they_lack(tmp_path, capsys, monkeypatch, jobs):
    monkeypatch.setattr(masks, "_CHUNK", 2)
    written = layouts.coco(tmp_path, masks=False)
    assert tool(masks, "coco", tmp_path, "--jobs", jobs) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("val2014: 2 masks are there")
    paths = {path.stem: path for path in (tmp_path / "SegmentationClass").rglob("*.png")}
    assert paths.keys() == written.keys()
    for name, path in paths.items():
        np.testing.assert_array_equal(read_index(path), written[name])
    listed = (tmp_path / "SegmentationClass" / "train2014.txt").read_text().split()
    assert listed == sorted(name for name in written if "train" in name)
    whole, lost = sorted(paths)[:2]
    layouts.save_index(paths[whole], np.full((60, 80), 7))
    paths[lost].unlink()
    masks.make("coco", tmp_path, jobs=1)
    assert (read_index(paths[whole]) == 7).all()
    np.testing.assert_array_equal(read_index(paths[lost]), written[lost])


def test_parts_and_people_are_made_together(tmp_path):
    written = layouts.densepose(tmp_path, masks=False)
    assert tool(masks, "densepose", tmp_path, "--jobs", 1) == 0
    for name, arrays in written.items():
        part = "train2014" if "train" in name else "minival2014"
        for folder, mask in zip((part, f"{part}_people"), arrays, strict=True):
            path = tmp_path / "PartMasks" / folder / f"{name}.png"
            np.testing.assert_array_equal(read_index(path), mask)
    path.unlink()
    done = path.parent.with_name(part) / path.name
    masks.make("densepose", tmp_path, jobs=1)
    assert not path.exists(), "its mask of parts is there, which is written last"
    done.unlink()
    masks.make("densepose", tmp_path, jobs=1)
    assert path.exists()
    assert done.exists()


def test_annotations_that_are_not_there(tmp_path, capsys):
    for name, sentence in {
        "coco": "must hold coco2014/train2014, coco2014/val2014 and annotations/",
        "densepose": "no annotations/densepose_coco_2014_train.json below",
    }.items():
        assert tool(masks, name, tmp_path) == 2
        assert sentence in capsys.readouterr().err


TURNED = {"size": [80, 60], "counts": [4800]}
SMALL = {"size": [64, 64], "counts": layouts.compress(np.ones((64, 64), bool))}


@pytest.mark.parametrize(
    ("dataset", "spoil", "message"),
    [
        ("coco", lambda content, first: "{", "cannot be read as instance annotations"),
        ("coco", lambda content, first: {"images": []}, "lacks 'annotations'"),
        ("coco", lambda content, first: first.update(category_id=12), "category 12 is none of the 80"),
        ("coco", lambda content, first: content.update(images=[]), "lacks 9"),
        ("coco", lambda content, first: first.update(segmentation=[[1, 2, 3]]), "000009: its outlines cannot"),
        ("coco", lambda content, first: first.update(segmentation=TURNED), r"is of size \[80, 60\]"),
        ("densepose", lambda content, first: first.update(category_id=3), "category 3 is none of the 1"),
        ("densepose", lambda content, first: first.update(dp_masks=[SMALL] * 14), r"000036: .*is of size \[64, 64\]"),
        ("densepose", lambda content, first: first.update(dp_masks=[SMALL] * 3), "dp_masks holds 3 parts, not 14"),
    ],
)
def test_annotations_that_are_no_annotations(tmp_path, dataset, spoil, message):
    getattr(layouts, dataset)(tmp_path, masks=False)
    name = {"coco": "instances_train2014", "densepose": "densepose_coco_2014_train"}[dataset]
    path = tmp_path / "annotations" / f"{name}.json"
    content = json.loads(path.read_text())
    text = spoil(content, content["annotations"][0]) or content
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with one_sentence(ValueError, message):
        masks.make(dataset, tmp_path, jobs=1)

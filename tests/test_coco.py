"""MS COCO: outlines of objects become masks of classes, once; which images are read, what is said of missing ones."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest
from PIL import Image
from skimage import draw

from agmm.codes import VOID
from agmm.data import sets
from agmm.data.public import coco, label_files, masks
from agmm.data.public.masks import fill_polygon
from tests import layouts
from tests.helpers import tool

pytestmark = pytest.mark.filterwarnings("ignore:COCO .* images, not")


def outline(*corners):
    return np.array(corners, float).ravel()


def annotation(category, *outlines, crowd=0):
    return {"category_id": category, "segmentation": list(outlines), "iscrowd": crowd}


# --- Outlines ---------------------------------------------------------------------------------------------------------


def test_polygons_hold_the_pixels_whose_centers_they_surround():
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(3, 30, 2).tolist())
        vertices = rng.uniform(-5, 35, (int(rng.integers(3, 9)), 2)).round(2) + 0.001  # no center on an edge
        rows, columns = draw.polygon(vertices[:, 1] - 0.5, vertices[:, 0] - 0.5, shape)
        expected = np.zeros(shape, bool)
        expected[rows, columns] = True
        np.testing.assert_array_equal(fill_polygon(vertices, shape), expected)


def test_polygons_side_by_side_share_no_pixel_and_leave_no_gap():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Quarter pixels, so that many centers lie exactly on edges.
        x, y = (rng.integers(4, 36, 2) / 4).tolist()
        corners = [(0, 0), (10, 0), (10, 10), (0, 10)]
        parts = [
            fill_polygon(np.array([(x, y), a, b], float), (10, 10))
            for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
        ]
        assert (np.sum(parts, axis=0) == 1).all()


def test_polygons_are_even_odd_and_cut_to_the_image():
    star = np.array([(5, 0), (8, 10), (0, 4), (10, 4), (2, 10)], float)
    inside = fill_polygon(star, (10, 10))
    assert not inside[5, 5]
    assert inside[2, 5]
    assert fill_polygon(np.array([(-5, -5), (99, -5), (99, 99), (-5, 99)], float), (7, 9)).all()
    for degenerate in ([(3, 3), (8, 8)], [(3, 3)], np.zeros((0, 2))):
        assert not fill_polygon(np.array(degenerate, float), (10, 10)).any()


def test_run_length_codes_are_those_of_cocos_own_tool():
    """Codes made with pycocotools 2.0."""
    boxes = np.zeros((6, 8), bool)
    boxes[1:4, 2:7] = boxes[5, 0] = boxes[0, 7] = True
    y, x = np.ogrid[:30, :40]
    disc = (y - 14) ** 2 / 3 + (x - 18) ** 2 / 4 < 30
    for text, mask in (
        ("5172L0000000ON3", boxes),
        ("k77e04M2N2O0O2O0O2O000000000001N101N101N2N3LQ:", disc),
    ):
        np.testing.assert_array_equal(masks.decode_runs(text, mask.shape), mask)
        changes = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0))
        runs = np.diff(changes, prepend=0, append=mask.size).tolist()
        np.testing.assert_array_equal(masks.decode_runs(runs, mask.shape), mask)
    with pytest.raises(ValueError, match=r"has 47 pixels, its image of \(6, 8\) has 48"):
        masks.decode_runs([40, 7], (6, 8))


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


# --- Masks on disk ----------------------------------------------------------------------------------------------------


def test_masks_are_made_once_and_only_where_they_lack(tmp_path, capsys):
    written = layouts.coco(tmp_path, masks=False)
    assert tool(masks, "coco", tmp_path, "--jobs", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("val2014: 2 masks are there")
    paths = {path.stem: path for path in (tmp_path / "SegmentationClass").rglob("*.png")}
    assert paths.keys() == written.keys()
    for name, path in paths.items():
        np.testing.assert_array_equal(label_files.read_index(path), written[name])

    kept, lost = sorted(paths)[:2]
    layouts.save_index(paths[kept], np.full((60, 80), 7))
    paths[lost].unlink()
    masks.render(tmp_path, jobs=1, report=lambda line: None)
    assert (label_files.read_index(paths[kept]) == 7).all()
    np.testing.assert_array_equal(label_files.read_index(paths[lost]), written[lost])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="new processes import torch: seconds")
def test_several_processes_make_the_same_masks(tmp_path, monkeypatch):
    written = layouts.coco(tmp_path, masks=False)
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forking)
    monkeypatch.setattr(masks, "_CHUNK", 2)
    tasks = masks.read(tmp_path / "annotations" / "instances_train2014.json", tmp_path)
    assert list(masks._render_all(tasks, 2)) == [2, 2]
    for target, _, _ in tasks:
        np.testing.assert_array_equal(label_files.read_index(target), written[target.stem])


def test_annotations_that_are_no_annotations(tmp_path, capsys):
    assert tool(masks, "coco", tmp_path) == 2
    assert "must hold coco2014/train2014, coco2014/val2014 and annotations/" in capsys.readouterr().err
    layouts.coco(tmp_path, masks=False)
    path = tmp_path / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    for text, message in [
        ("{", "cannot be read as instance annotations"),
        ('{"images": []}', "lacks 'annotations'"),
        (json.dumps(content | {"annotations": [first | {"category_id": 12}]}), "category 12 is none of the 80"),
        (json.dumps(content | {"images": []}), "lacks 9"),
        (json.dumps(content | {"annotations": [first | {"segmentation": [[1, 2, 3]]}]}), "000009: its outlines cannot"),
        (
            json.dumps(content | {"annotations": [first | {"segmentation": {"counts": [4800], "size": [80, 60]}}]}),
            r"is of size \[80, 60\]",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            masks.render(tmp_path, jobs=1, report=lambda line: None)
        assert "\n" not in str(error.value)


# --- Splits -----------------------------------------------------------------------------------------------------------


def test_classes_are_the_categories_in_order():
    assert len(coco.CLASS_NAMES) == len(set(coco.CLASS_NAMES)) == 81
    assert [coco.CLASS_NAMES[k] for k in (0, 1, 10, 40, 60, 80)] == [
        *("background", "person", "traffic light", "bottle", "bed", "toothbrush"),
    ]
    assert masks.CATEGORY_IDS == layouts.COCO_CATEGORIES


def test_images_with_an_annotation(tmp_path):
    written = layouts.coco(tmp_path)
    for name, part, count in (("train", "train", 4), ("test", "val", 2)):
        split = sets.load("coco", name, data_root=tmp_path)
        assert (split.dataset, split.num_classes, split.background) == ("coco", 81, 0)
        assert split.ids == tuple(f"COCO_{part}2014_{number:012d}" for number in layouts.COCO_IMAGES[part][:count])
        for i, number in enumerate(layouts.COCO_IMAGES[part][:count]):
            np.testing.assert_array_equal(split.truth[i], written[split.ids[i]])
            path = tmp_path / "coco2014" / f"{part}2014" / f"{split.ids[i]}.jpg"
            expected = np.asarray(Image.open(path))
            assert expected.ndim == (2 if number == 25 else 3)
            np.testing.assert_array_equal(split.images[i], expected.reshape(60, 80, -1) + np.zeros(3, np.uint8))
    assert sets.check("coco", tmp_path) == []


def test_folders_may_lie_in_one(tmp_path):
    layouts.coco(tmp_path)
    for name in ("annotations", "SegmentationClass"):
        shutil.move(tmp_path / name, tmp_path / "coco2014" / name)
    (tmp_path / "coco2014").rename(tmp_path / "coco")
    assert len(sets.load("coco", "train", data_root=tmp_path)) == 4
    masks.render(tmp_path / "coco", jobs=1, report=lambda line: None)
    assert not (tmp_path / "coco" / "coco2014").exists()


def test_other_numbers_of_images_warn(tmp_path):
    layouts.coco(tmp_path)
    with pytest.warns(UserWarning, match="COCO train in .* has 4 images, not 82081"):
        coco.load(tmp_path, "train")


def test_what_is_missing_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train2014 below .*agmm download coco --data-root"):
        coco.load(tmp_path, "train")
    with pytest.raises(ValueError, match="unknown split 'test', choose one of train, val"):
        coco.load(tmp_path, "test")
    written = layouts.coco(tmp_path, masks=False)
    command = f"`agmm masks coco {tmp_path}` makes them"
    with pytest.raises(FileNotFoundError, match=f"COCO val in .*: no masks in .*; {command}"):
        coco.load(tmp_path, "val")
    layouts.coco(tmp_path)
    name = min(written)
    (tmp_path / "SegmentationClass" / "train2014" / f"{name}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=f"COCO train in .*: 1 of 4 masks are missing, {name}.png first; {command}"
    ):
        coco.load(tmp_path, "train")
    (tmp_path / "coco2014" / "val2014" / f"{max(written)}.jpg").unlink()
    with pytest.raises(ValueError, match="extract its archives again: 1 problem found") as error:
        coco.load(tmp_path, "val")
    assert f"{max(written)}: annotated, but there is no" in str(error.value)

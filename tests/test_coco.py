"""MS COCO: outlines of objects become masks of classes, once; which images are read, what is said of missing ones."""

import json
import multiprocessing

import numpy as np
import pytest
from skimage import draw

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public import masks
from agmm.data.public.masks import fill_polygon
from tests import layouts
from tests.helpers import tool

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")


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
        np.testing.assert_array_equal(image_files.read_index(path), written[name])

    kept, lost = sorted(paths)[:2]
    layouts.save_index(paths[kept], np.full((60, 80), 7))
    paths[lost].unlink()
    masks.render(tmp_path, jobs=1, report=lambda line: None)
    assert (image_files.read_index(paths[kept]) == 7).all()
    np.testing.assert_array_equal(image_files.read_index(paths[lost]), written[lost])


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
        np.testing.assert_array_equal(image_files.read_index(target), written[target.stem])


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

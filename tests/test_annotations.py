"""Annotations of five formats: the same clicks and lines give the same labels; one sentence per bad file."""

import contextlib
import csv
import json
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agmm.codes import UNLABELED
from agmm.data import annotations, drawing, user_folder
from agmm.data.drawing import Shape
from tests.helpers import one_sentence

NAMES = ("background", "cat", "a \"dog\" & 'bird'")
SIZE = (20, 30)


VERTEX = st.tuples(*(st.integers(0, 100 * side - 1).map(lambda number: number / 100) for side in SIZE[::-1]))
CLICKS = st.lists(st.tuples(VERTEX, st.integers(0, 2)), min_size=1, max_size=20)
CLICKS = CLICKS.filter(lambda clicks: any(max(vertex) > 1 for vertex, _ in clicks))  # else they might be fractions
LINES = st.lists(st.tuples(st.lists(VERTEX, min_size=2, max_size=6), st.integers(0, 2)), min_size=1, max_size=4)


def image_file(folder, stem="a", size=SIZE, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([*stem.encode()]).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{stem}{suffix}")
    return folder / f"{stem}{suffix}"


def names_file(folder, names=NAMES):
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    return folder / "names.txt"


def folders(root):
    return root / "images", root / "labels", root / "names.txt"


def write(form, folder, clicks, names=NAMES, size=SIZE, width=1, lines=None, suffix=".png"):
    """Clicks {stem: [((x, y), code)]} and lines {stem: [(vertices, code)]} of images in one of the formats."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = lines or {}
    stems = sorted({*clicks, *lines})
    writer = {"png": _png, "csv": _csv, "labelme": _labelme, "coco": _coco, "cvat": _cvat}[form]
    writer(folder, [(stem, clicks.get(stem, []), lines.get(stem, [])) for stem in stems], names, size, width, suffix)
    return folder


def _png(folder, images, names, size, width, suffix):
    """Drawn as the published clicks and scribbles are."""
    for stem, clicks, lines in images:
        strokes = [Shape("line", code, tuple((int(x), int(y)) for x, y in vertices)) for vertices, code in lines]
        mask = drawing.draw(strokes, size, width)
        dots = drawing.draw([Shape("point", code, (click,)) for click, code in clicks], size, width)
        Image.fromarray(np.where(dots == UNLABELED, mask, dots)).save(folder / f"{stem}.png")


def _csv(folder, images, names, size, width, suffix):
    with open(folder / "clicks.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("class", "x", "y", "image"))
        for stem, clicks, _ in images:
            rows.writerows((names[code], x, y, stem + suffix) for (x, y), code in clicks)


def _labelme(folder, images, names, size, width, suffix):
    for stem, clicks, lines in images:
        shapes = [{"label": names[c], "points": [p], "shape_type": "point"} for p, c in clicks]
        shapes += [{"label": names[c], "points": v, "shape_type": "linestrip"} for v, c in lines]
        content = {"shapes": shapes, "imagePath": stem + suffix, "imageHeight": size[0], "imageWidth": size[1]}
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")


def _coco(folder, images, names, size, width, suffix):
    content = {"categories": [{"id": 10 + code, "name": name} for code, name in enumerate(names)]}
    content["images"] = [
        {"id": number, "file_name": f"sub/{stem}{suffix}", "height": size[0], "width": size[1]}
        for number, (stem, _, _) in enumerate(images)
    ]
    content["annotations"] = [
        {"id": 7, "image_id": number, "category_id": 10 + code, "keypoints": [x, y, 2], "num_keypoints": 1}
        for number, (_, clicks, _) in enumerate(images)
        for (x, y), code in clicks
    ]
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")


def _cvat(folder, images, names, size, width, suffix):
    text = "<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>"
    for number, (stem, clicks, lines) in enumerate(images):
        text += f"<image id='{number}' name='{stem}{suffix}' width='{size[1]}' height='{size[0]}'>"
        for kind, drawn in (("points", [([p], c) for p, c in clicks]), ("polyline", lines)):
            for vertices, code in drawn:
                points = ";".join(f"{x},{y}" for x, y in vertices)
                text += f"<{kind} label={quoteattr(names[code])} points='{points}'/>"
        text += "</image>"
    (folder / "annotations.xml").write_text(text + "</annotations>", encoding="utf-8")


@pytest.mark.parametrize(("width", "side"), [(1, 512), (3, 512), (1, 20), (3, 20)])
@settings(max_examples=25, deadline=None)
@given(clicks=CLICKS, lines=st.just([]) | LINES)
def test_the_same_labels_from_every_format(tmp_path_factory, width, side, clicks, lines):
    """At the image's size and shrunk, where no class is lost; two formats have no lines."""
    folder = tmp_path_factory.mktemp("labels")
    image_file(folder / "images")
    names_file(folder)
    found = []
    for form in ("png", "labelme", "cvat", *(() if lines else ("csv", "coco"))):
        write(form, folder / form, {"a": clicks}, lines={"a": lines}, width=width)
        listed = user_folder.survey(folder / "images", folder / form, folder / "names.txt")
        (sample,) = user_folder.render(listed, side, width)
        found.append(sample.labels)
    assert all((one == found[0]).all() for one in found)
    if width == 1 and not lines:
        by_hand = {(int(y), int(x)): code for (x, y), code in clicks}
        assert set(np.unique(found[0])) - {UNLABELED} == set(by_hand.values())
        if side == 512:
            assert {(y, x): found[0][y, x] for y, x in np.argwhere(found[0] != UNLABELED).tolist()} == by_hand


def labelme(path, *shapes, **more):
    items = [{"label": label, "points": points, "shape_type": kind} for label, kind, points in shapes]
    path.write_text(json.dumps({"shapes": items, "imageHeight": SIZE[0], "imageWidth": SIZE[1]} | more))
    return path


@pytest.mark.parametrize("form", ["labelme", "coco", "cvat"])
def test_the_same_boxes(tmp_path, form):
    path = tmp_path / ("a.xml" if form == "cvat" else "a.json")
    if form == "labelme":
        labelme(path, ("cat", "rectangle", [[12, 9], [2, 3]]))
    elif form == "coco":
        path.write_text(COCO % '{"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 6], "segmentation": []}')
    else:
        box = "<box label='cat' xtl='2' ytl='3' xbr='12' ybr='9'/>"
        path.write_text(f"<annotations><image name='a.png'>{box}</image></annotations>")
    (found,) = annotations.read(path, NAMES).values()
    boxes = annotations.boxes(found.shapes, SIZE)
    assert (boxes.codes, boxes.corners.tolist()) == ([1], [[3, 2, 9, 12]])
    assert annotations.boxes(found.shapes, (10, 15), scale=0.5).corners.tolist() == [[1, 1, 5, 6]]
    assert (annotations.draw(found.shapes, SIZE) == UNLABELED).all()


def test_tags_of_labelme_coco_and_cvat(tmp_path):
    labelme(tmp_path / "a.json", flags={"cat": True, "background": False})
    (tmp_path / "b.xml").write_text("<annotations><image name='a.png'><tag label='cat'/></image></annotations>")
    (tmp_path / "c.json").write_text(COCO % '{"image_id": 1, "category_id": 1}')
    for path in tmp_path.iterdir():
        (found,) = annotations.read(path, NAMES).values()
        assert found.shapes == [Shape("tag", 1)]


COCO = '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}], "annotations": [%s]}'
BAD = {
    "a.csv": {
        b"\xff\xfe\x00\x80": "a.csv",
        "": "has no column image, x, y, class; its first line must name",
        "image,x,y\na.png,1,2": "has no column class",
        "image,x,y,class\na.png,1": "line 2: has fewer fields",
        "image,x,y,class\na.png,1,nan,cat": "must be a number",
    },
    "a.json": {
        b"\xff\xfe\x00\x80": "a.json",
        '{"shapes": [': "is not valid JSON",
        "[1, 2]": "is neither labelme's JSON (with shapes) nor COCO's",
        '{"shapes": 3}': "shapes must be a list of objects",
        '{"shapes": [{"label": "cat", "points": [[1]]}]}': "[1] is no pair of coordinates",
        '{"shapes": [{"label": "cat", "points": [[1, 2]]}]}': "a polygon has 1 vertices; it needs 3",
        '{"shapes": [{"label": "cat", "points": [], "shape_type": "cube"}]}': "type 'cube' is not read; use point",
        '{"shapes": [{"label": ["cat"], "points": [[1, 2]], "shape_type": "point"}]}': "is not among the class names",
        '{"shapes": [], "flags": ["cat"]}': "is not laid out as its format has it",
        COCO % '{"image_id": 2, "category_id": 1}': "image_id 2 is not listed",
        COCO % '{"image_id": 1}': "has no category_id",
        COCO % '{"image_id": 1, "category_id": 1, "bbox": [1]}': "[1] is no pair of coordinates",
        COCO % '{"image_id": 1, "category_id": 1, "segmentation": {"counts": "a"}}': "is of no size that an image has",
    },
    "a.xml": {
        b"\xff\xfe\x00\x80": "a.xml",
        "<annotations><image>": "is not valid UTF-8 XML",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>": "declares a document type or entities",
        "<annotation/>": "begins with <annotation>, not <annotations>",
        "<annotations><track/></annotations>": "holds tracks of a video",
        "<annotations><image/></annotations>": "an entry {} has no name",
        "<annotations><image name='a'><cuboid label='cat'/></image></annotations>": "<cuboid> of image a is not read",
        "<annotations><image name='a'><points label='cat' points='1'/></image></annotations>": "no pair of coordinates",
        "<annotations><image name='a'><points label='cow' points='1,2'/></image></annotations>": "the class 'cow'",
        "<annotations><image name='a'><box label='cat' xtl='1'/></image></annotations>": "ytl of a <box> is None",
    },
}


@pytest.mark.parametrize(("name", "text", "said"), [(n, t, s) for n, bad in BAD.items() for t, s in bad.items()])
def test_bad_files_get_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with one_sentence(ValueError, name) as error:
        annotations.read(tmp_path / name, NAMES)
    assert said in str(error.value)


KEYS = "shapes label points shape_type flags images annotations categories id file_name image_id category_id bbox "
KEYS += "keypoints segmentation name"
WORDS = st.sampled_from(["cat", "a.png", "point", "polygon"])


@settings(max_examples=150, deadline=None)
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_of_any_form_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.json"
    coco = {"images": [content], "annotations": [content], "categories": [content]}
    for wrapped in (content, {"shapes": [content]}, coco):
        path.write_text(json.dumps(wrapped))
        with contextlib.suppress(ValueError):
            annotations.read(path, NAMES)

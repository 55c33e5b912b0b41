"""Readers of published label files: real clicks and masks, a round trip per source, one sentence per bad file."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from agmm.codes import UNLABELED, VOID
from agmm.data import drawing, image_files
from agmm.data.drawing import Shape
from agmm.data.public import label_files, voc
from agmm.data.public.scenes import ADE20K, CITYSCAPES
from agmm.labels import image_classes, paint_boxes
from tests.faults.corpus import array, saved
from tests.helpers import one_sentence, shared
from tests.layouts import save_index

SOURCES = {
    f"{source.form} {source.name} {source.folder}": source
    for data in (voc.VOC, CITYSCAPES, ADE20K)
    for source in data.sources
    if source.suffix == ".png"
}
# For each publisher: values as published -> our codes, straight from the publishers' descriptions.
ROUND_TRIPS = {
    "rloss_scribbles": {0: 0, 20: 20, 255: UNLABELED, 254: VOID},
    "spml": {0: 0, 20: 20, 21: UNLABELED, 254: UNLABELED, 255: UNLABELED},
    "agmm_voc": {0: 0, 20: 20, 21: UNLABELED, 255: VOID},
    "agmm_cityscapes": {0: 0, 18: 18, 19: UNLABELED, 255: VOID},
    "tel_cityscapes": {
        **{7: 0, 8: 1, 11: 2, 17: 5, 24: 11, 28: 15, 31: 16, 33: 18},
        **dict.fromkeys((0, 9, 34, 255), UNLABELED),
    },
    "tel_ade20k": {0: UNLABELED, 1: 0, 2: 1, 150: 149},
}
UNKNOWN = {"rloss_scribbles": 21, "agmm_voc": 22, "agmm_cityscapes": 20, "tel_ade20k": 151}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def raises_sentence(message, read, *args, kind=ValueError):
    """The call fails with a message of one line."""
    with one_sentence(kind, message):
        read(*args)


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_published_codes_are_translated(tmp_path, source, palette):
    published = np.array([list(ROUND_TRIPS[source.name])] * 3)
    labels = source.read(save_index(tmp_path / "a.png", published, palette), size=published.shape)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [list(ROUND_TRIPS[source.name].values())] * 3)
    if source.name in UNKNOWN:
        path = save_index(tmp_path / "odd.png", [[0, UNKNOWN[source.name]]])
        raises_sentence(f"odd.png: holds code {UNKNOWN[source.name]}", source.read, path)


def test_bad_png_files_get_one_sentence(tmp_path):
    for read in ("read_index", "read_image", "read_size", "read_mask"):
        for gone in (tmp_path / "gone.png", tmp_path):
            arguments = (gone, {0: 0}) if read == "read_mask" else (gone,)
            message = "no such file; check the data root"
            raises_sentence(message, getattr(image_files, read), *arguments, kind=FileNotFoundError)
    path = tmp_path / "a.png"
    noise = saved(Image.fromarray(np.random.default_rng(0).integers(0, 9, (50, 50), np.uint8)))
    for content, message in [
        *((bad, "cannot be decoded") for bad in (b"no image", noise[:300], saved(Image.new("L", (3, 2)), "JPEG"))),
        (Image.new("RGB", (3, 2)), r"holds colors \(mode RGB\), not class codes; save it as a palette or 8-bit gray"),
        (Image.new("RGBA", (3, 2)), r"holds colors \(mode RGBA\)"),
        (Image.fromarray(np.zeros((2, 3), np.uint16)), "has more than 8 bits"),
    ]:
        write(path, content if isinstance(content, bytes) else saved(content))
        raises_sentence(f"a.png:? {message}", image_files.read_index, path)
    small = save_index(tmp_path / "small.png", np.zeros((2, 3)))
    raises_sentence("small.png is for 3 x 2 pixels, its image has 5 x 4", image_files.read_index, small, (4, 5))


def point(x, y, code):
    return Shape("point", code, ((x, y),))


def test_published_clicks_agree_with_real_masks_as_counted_before():
    folder = shared("data/voc_masks")
    clicks = label_files.read_clicks(folder / "voc_whats_the_point.json")
    assert len(clicks) == 301
    counts = Counter()
    for image_id, of_image in clicks.items():
        mask = image_files.read_mask(folder / "SegmentationClassAug" / f"{image_id}.png", voc.VOC.codes)
        for click in of_image:
            ((x, y),) = click.vertices
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            code = mask[int(y), int(x)] if inside else None
            kinds = {None: "outside", 0: "background", VOID: "void", click.code: "agree"}
            counts[kinds.get(code, "other class")] += 1
    assert counts == {"agree": 717, "background": 106, "void": 28, "other class": 19, "outside": 1}


def test_background_clicks_come_last_and_are_drawn_on_top():
    folder = shared("data/voc_masks")
    foreground = label_files.read_clicks(folder / voc.CLICKS[0])
    both = label_files.read_clicks(*(folder / name for name in voc.CLICKS))
    assert both.keys() == foreground.keys()
    for image_id, clicks in both.items():
        number = len(foreground[image_id])
        assert clicks[:number] == foreground[image_id]
        assert {click.code for click in clicks[number:]} <= {0}
    drawn = drawing.draw(both["2007_000032"], (281, 500))
    assert image_classes(drawn, 21).nonzero()[0].tolist() == [0, 1, 15]
    assert drawn[136, 229] == 1
    assert drawn[55, 75] == 0


def test_clicks_are_discs_at_their_place():
    clicks = [point(10.6, 5.2, 3), point(11.4, 5.4, 7), point(0.2, 19.9, 1), point(99, 3, 2)]
    single = drawing.draw(clicks, (20, 30), width=1)
    expected = np.full((20, 30), UNLABELED)
    expected[5, 10], expected[5, 11], expected[19, 0] = 3, 7, 1
    np.testing.assert_array_equal(single, expected)
    wide = drawing.draw(clicks, (20, 30))
    assert 9 <= (wide == 7).sum() <= 12
    rows, columns = np.nonzero((wide == 3) | (wide == 7))
    assert (np.abs(rows - 5) <= 2).all()
    assert (np.abs(columns - 11) <= 2).all()
    assert not (wide == 2).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a JSON list"),
        ('{"a": 3}', "image a: clicks are a int"),
        ('{"a": [{"x": 1, "cls": 2}]}', "image a: a click needs numbers x, y and cls"),
        ('{"a": [{"x": "left", "y": 1, "cls": 2}]}', "needs numbers"),
        ('{"a": [7]}', "needs numbers"),
        ('{"a": [{"x": 1, "y": NaN, "cls": 2}]}', "coordinates are pixels"),
        ('{"a": [{"x": 1, "y": 1e300, "cls": 2}]}', "coordinates are pixels"),
        ('{"a": [{"x": 1%s, "y": 1, "cls": 2}]}' % ("0" * 400), "needs numbers"),
        ('{"a": [{"x": 1, "y": 1, "cls": 21}]}', "has cls 21; it must be 1 … 20"),
        ('{"a": [{"x": 1, "y": 1, "cls": 0}]}', "has cls 0"),
        ('{"a": [{"x": 1, "y": 1, "cls": "cat"}]}', "has cls cat"),
    ],
)
def test_bad_click_files_get_one_sentence(tmp_path, content, message):
    path = write(tmp_path / "clicks.json", content)
    raises_sentence(f"clicks.json.*{message}", label_files.read_clicks, path)


def test_images_of_one_file_only_are_kept(tmp_path):
    foreground = write(tmp_path / "f.json", json.dumps({"a": [{"x": 1.5, "y": 2, "cls": 15, "rank": 1}]}))
    background = write(tmp_path / "b.json", json.dumps({"b": [{"x": 3, "y": 4, "cls": 0}]}))
    found = label_files.read_clicks(foreground, background)
    assert found == {"a": (point(1.5, 2.0, 15),), "b": (point(3.0, 4.0, 0),)}
    raises_sentence("it must be 0 … 0", label_files.read_clicks, foreground, foreground)
    raises_sentence("none.json", label_files.read_clicks, tmp_path / "none.json", kind=FileNotFoundError)


SIZE = "<size><width>500</width><height>375</height></size>"


def polygon(tag, *points):
    listed = "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
    return f"<polygon><tag>{tag}</tag>{listed}</polygon>"


def box(name, *sides):
    left, top, right, bottom = sides
    listed = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{listed}</bndbox></object>"


def annotation(path, *parts, size=SIZE):
    return write(path, f"<?xml version='1.0' encoding='utf-8'?><annotation>{size}{''.join(parts)}</annotation>")


def test_scribbles_are_lines_of_width_3_in_file_order(tmp_path):
    lines = polygon("background", (10, 20), (60, 20)), polygon("plane", (30, 5), (30, 40)), polygon("monitor", (90, 90))
    scribbles = label_files.read_scribbles(annotation(tmp_path / "a.xml", *lines), voc.SCRIBBLESUP_CLASSES, (375, 500))
    assert scribbles[0] == Shape("line", 0, ((10, 20), (60, 20)))
    assert [scribble.code for scribble in scribbles] == [0, 1, 20]
    drawn = drawing.draw(scribbles, (375, 500))
    assert (drawn[19:22, 10:28] == 0).all()
    assert (drawn[7:39, 29:32] == 1).all()  # drawn later, so on top of the crossing
    assert (drawn[:, 45] != UNLABELED).sum() == 3
    assert drawn[90, 90] == 20
    assert 9 <= (drawn == 20).sum() <= 12
    thin = drawing.draw(scribbles, (375, 500), width=1)
    assert ((thin == 0).sum(), (thin == 1).sum(), (thin == 20).sum()) == (50, 36, 1)


def test_boxes_are_translated_cut_and_painted(tmp_path):
    objects = (
        box("tvmonitor", 11, 21, 20, 40),
        box("aeroplane", "45.7", "30.2", "99.9", "300"),
        box("cat", 0, 1, 600, 9),
    )
    found = label_files.read_boxes(annotation(tmp_path / "a.xml", *objects), voc.CLASS_NAMES)
    assert found.codes == (20, 1, 8)
    assert found.corners.tolist() == [[20, 10, 40, 20], [29, 45, 300, 100], [0, 0, 9, 500]]
    painted = paint_boxes(found)
    assert [(painted == code).sum() for code in (20, 1, 8)] == [200, 271 * 55, 9 * 500]
    for objects, corners, code in (([], [], 0), ([box("person", 1, 1, 500, 375)], [[0, 0, 375, 500]], 15)):
        found = label_files.read_boxes(annotation(tmp_path / "b.xml", *objects), voc.CLASS_NAMES, (375, 500))
        assert found.corners.tolist() == corners
        assert (paint_boxes(found) == code).all()


ENTITY = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><annotation>&x;</annotation>"


@pytest.mark.parametrize("reader", [label_files.read_scribbles, label_files.read_boxes])
def test_bad_xml_files_get_one_sentence(tmp_path, reader):
    path = tmp_path / "a.xml"
    tall, infinite = (f"<annotation>{SIZE.replace('375', value)}</annotation>" for value in ("tall", "inf"))
    for text, message in [
        ("<annotation>", "a.xml is not valid UTF-8 XML"),
        (ENTITY.encode("utf-16"), "not valid UTF-8 XML"),
        (ENTITY, "a.xml declares a document type"),
        ("<annotation/>", "a.xml: annotation has no size/height"),
        (tall, "size/height is 'tall'; it must be a number of pix"),
        (infinite, "size/height is 'inf'"),
    ]:
        raises_sentence(message, reader, write(path, text), voc.CLASS_NAMES)
    raises_sentence("is for 500 x 375 pixels, its image has 4 x 3", reader, annotation(path), voc.CLASS_NAMES, (3, 4))
    raises_sentence("b.xml", reader, tmp_path / "b.xml", voc.CLASS_NAMES, kind=FileNotFoundError)


@pytest.mark.parametrize(
    ("reader", "part", "message"),
    [
        (label_files.read_scribbles, polygon("unicorn", (1, 1)), "unknown class 'unicorn' in tag; known are backgr"),
        (label_files.read_scribbles, polygon("cat"), "a polygon has no point"),
        (label_files.read_scribbles, polygon("cat", ("a", 1)), "X is 'a'"),
        (label_files.read_boxes, box("background", 1, 1, 2, 2), "unknown class 'background' in name"),
        (label_files.read_boxes, box("cat", 40, 1, 20, 9), "holds no pixel"),
        (label_files.read_boxes, box("cat", 501, 1, 520, 9), "holds no pixel"),
        (label_files.read_boxes, "<object><name>cat</name></object>", "object has no bndbox/ymin"),
    ],
)
def test_bad_objects_get_one_sentence(tmp_path, reader, part, message):
    raises_sentence(f"a.xml.*{message}", reader, annotation(tmp_path / "a.xml", part), voc.CLASS_NAMES)


def test_maps_come_back_under_their_class_codes(tmp_path):
    rng = np.random.default_rng(0)
    maps = {0: rng.random((4, 6), np.float32), np.int64(14): np.asfortranarray(rng.random((4, 6)))}
    path = write(tmp_path / "image.npy", array(np.array(maps, object), pickled=True))
    found = label_files.read_cams(path, (4, 6))
    assert list(found) == [1, 15]
    for (_, expected), cam in zip(maps.items(), found.values(), strict=True):
        np.testing.assert_array_equal(cam, expected)
    assert list(label_files.read_cams(path, first=0)) == [0, 14]
    raises_sentence("image.npy is for 6 x 4 pixels, its image has 4 x 6", label_files.read_cams, path, (6, 4))

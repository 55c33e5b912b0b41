"""Label files of kinds that people report: read right, refused in one sentence, or noted; never wrong in silence."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from agmm import own
from agmm.codes import UNLABELED, VOID
from agmm.data import annotations, drawing, user_folder
from tests.helpers import ROOT
from tests.test_annotations import COCO, names_file

CASES = ROOT / "tests" / "cases"
COLORS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)

# What is said of a case: a problem, a note, or nothing.
PROBLEMS = {
    "03": "'cam1/frame_000000.png' and 'cam2/frame_000000.png' would both be",
    "05": "categories has the id 1 twice, for 'cat' and 'dog'",
    "12": "masks hold 0 and 255 alone, and 255 is ignored; write 1 for cat",
    "22": "'image1.png' and 'image1.jpg' would both be",
    "26": "a.json: is named as 'a', and its imagePath is of 'b'",
    "30": "line 2: the class '1' is not among the class names (background, cat, dog)",
    "38": "a.xml: begins with <annotation>, not <annotations>; export it as 'CVAT for images'",
    "43": "all coordinates lie between 0 and 1, as fractions of the image do; write pixels",
}
NOTES = {
    "14": "class15 (code 15): 384 labeled pixels",
    "15": "1 shapes reached a little outside of their images and were cut",
    "31": "1 images, images/two pages.tif first, hold 2 pages or frames, of which the first is read",
    "32": "images/twelve.png first, are of uint16 x 3, scaled to 8 bits from 241.136 … 3406.86, ",
    "37": "a.jpg first, are turned as their EXIF orientation says; no size tells",
    "40": "1 hidden points mark nothing",
    "42": "1 outlines without area mark nothing",
    "44": "if background stands where nobody labeled, write 254 there",
    "46": "1 files are left out, images/six.HEIC first: images end in .png, ",
    "48": "if all is that no outline covers, say so with --fill-background",
    "53": "a.jpg first, are turned as their EXIF orientation says; no size",
}
READ = ("02", "06", "07", "08", "09", "11", "18", "19", "24", "27", "29", "35", "45", "49")
CLICKS = ("27", "29", "31", "32", "40", "45", "46")  # which mark few pixels of what is right


def compared(case, images, **options):
    """Problems and notes of a case, and per image the pixels that are wrong and the share of those that lack."""
    given = images, case / "labels", case / "names.txt"
    problems, notes = own.check(*given, **options)
    wrong, lacking = {}, {}
    if not problems:
        found = user_folder.survey(*given, **options)
        lines = [line.strip() for line in (case / "names.txt").read_text().splitlines()]
        codes = [found.names.index(line) if line in found.names else VOID for line in lines]
        for sample in user_folder.render(found, 9999):
            right = np.asarray(Image.open(case / "right" / f"{sample.stem}.png"))
            right = np.array([*codes, *range(len(codes), 256)])[right]
            claimed, wanted = sample.labels < UNLABELED, right < UNLABELED
            wrong[sample.stem] = (claimed & (right != UNLABELED) & (sample.labels != right)).sum()
            lacking[sample.stem] = (wanted & (sample.labels != right)).sum() / wanted.sum()
    return problems, notes, wrong, lacking


@pytest.mark.parametrize("case", sorted({*PROBLEMS, *NOTES, *READ}))
def test_no_wrong_label_in_silence(tmp_path, case):
    (folder,) = CASES.glob(f"**/{case}-*")
    images = folder / "images" if (folder / "images").exists() else tmp_path
    if images == tmp_path:
        for path in (folder / "right").iterdir():
            Image.fromarray(COLORS[np.asarray(Image.open(path))]).save(tmp_path / path.name)
    problems, notes, wrong, lacking = compared(folder, images)
    assert bool(problems) == (case in PROBLEMS)
    assert (PROBLEMS | NOTES).get(case, "") in "\n".join(problems or notes).replace(f"{folder}/", "")
    assert all("\n" not in line for line in problems)
    if not problems and case not in ("37", "44", "48"):
        assert not any(wrong.values())
        assert all(share < (1 if case in CLICKS else 1e-9) for share in lacking.values())
    if case == "48":
        assert compared(folder, tmp_path, fill_background=True)[2:] == ({"a": 0}, {"a": 0})


def test_dense_masks_of_0_and_255(tmp_path):
    (folder,) = CASES.glob("12-*")
    (tmp_path / "x.csv").write_text("image,x,y,class\na,9,9,cat")
    problems, _ = own.check(folder / "right", tmp_path / "x.csv", folder / "names.txt", truth=folder / "labels")
    assert any(PROBLEMS["12"] in line for line in problems)


# --- More of the same kinds -------------------------------------------------------------------------------------------

NAMES = ("background", "cat", "dog")
SQUARE = [[2, 3], [12, 3], [12, 9], [2, 9]]
FLAT = [value for vertex in SQUARE for value in vertex]
INSIDE, OUTSIDE = (5, 5), (12, 20)  # row and column


def labelme(*shapes, **more):
    items = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    return {"a.json": json.dumps({"shapes": items} | more)}


def coco(**item):
    return {"x.json": COCO % json.dumps({"id": 5, "image_id": 1, "category_id": 1} | item)}


def cvat(*shapes):
    return {"x.xml": f"<annotations><image name='a.png'>{''.join(shapes)}</image></annotations>"}


def png(values, **options):
    image = Image.fromarray(values.astype(np.uint8))
    if options:
        image.putpalette(options["palette"])
    return image


def table(*lines):
    return {"x.csv": "\n".join(lines)}


CODES = np.where(np.arange(20)[:, None] < 10, 0, 1) * np.ones(30, int)
CLICK = ("image,x,y,class", "a,20,12,dog")
CAT = "label='cat' points='2,3;12,3;12,9;2,9'"
CAT_BOX = "<box label='cat' xtl='2' ytl='3' xbr='12' ybr='9' z_order='1'/>"
TRIED = {
    "clicks with decimal commas": (table("sep=;", "image;x;y;class", "a;5,5;5;cat"), {INSIDE: 1}, ""),
    "a spreadsheet": (table("\ufeffImage;X;Y;Class;who\r", "a.png;5.5;5;cat;me\r"), {INSIDE: 1}, ""),
    "a tab and a thousand": (table("image\tx\ty\tclass", "a\t1,200\t5\tcat"), {}, "line 2: x is '1,200'"),
    "faulty lines": (
        table("image,x,y,class", "a,5,5,cat", "a,x,5,cat", ",,,", "a,20,12,cow"),
        {},
        "line 3: x is 'x'|line 5: the class 'cow'|cat (code 1): 12 labeled pixels",
    ),
    "void clicks": (table("image,x,y,class", "a,5,5,__ignore__", "a,20,12,dog"), {INSIDE: VOID, OUTSIDE: 2}, ""),
    "void in COCO": (
        {"x.json": coco(segmentation=[FLAT])["x.json"].replace('"cat"', '"__ignore__"')} | table(*CLICK),
        {INSIDE: VOID, OUTSIDE: 2},
        "",
    ),
    "void in CVAT": (cvat(f"<polygon {CAT.replace('cat', '__ignore__')}/>"), {}, "no image has a labeled pixel"),
    "a flat polygon": (coco(segmentation=FLAT), {INSIDE: 1, OUTSIDE: 254}, ""),
    "an odd polygon": (coco(segmentation=[FLAT[:-1]]), {}, "annotation 5: [2] is no pair of coordinates"),
    "ids as text": (coco(image_id="1", category_id="1", segmentation=[FLAT]), {INSIDE: 1}, ""),
    "a crowd of runs": (
        coco(iscrowd="1", segmentation={"size": [20, 30], "counts": [100, 10, 490]}) | table(*CLICK),
        {INSIDE: VOID, OUTSIDE: 2},
        "",
    ),
    "runs of another size": (
        coco(segmentation={"size": [30, 20], "counts": [0, 600]}),
        {},
        "is for an image of 20 x 30",
    ),
    "an occluded key point": (coco(keypoints=[5, 5, 1, 20, 12, 2]), {INSIDE: 254, OUTSIDE: 1}, "1 hidden points"),
    "key points and an outline": (coco(keypoints=[20, 12, 2], segmentation=[FLAT]), {INSIDE: 1, OUTSIDE: 1}, ""),
    "a mask of CVAT": (
        cvat("<mask label='dog' rle='1, 2, 1' left='20' top='12' width='2' height='2'/>"),
        {(12, 20): 254, (12, 21): 2, (13, 20): 2, (13, 21): 254},
        "",
    ),
    "a polygon and a point": (
        labelme(("cat", "polygon", SQUARE), ("dog", "point", [[5.5, 5.5]])),
        {(3, 2): 1, (8, 11): 1, (2, 2): 254, (3, 12): 254, (9, 2): 254, INSIDE: 2},
        "",
    ),
    "an outline that is hidden": (
        labelme(("dog", "polygon", [[3, 4], [6, 4], [6, 6]]), ("cat", "polygon", SQUARE)),
        {INSIDE: 1},
        "1 outlines are hidden",
    ),
    "a line below": (
        cvat("<polyline label='dog' points='3,5;9,5' z_order='-1'/>", f"<polygon {CAT}/>"),
        {INSIDE: 1},
        "",
    ),
    "a box in front": (
        cvat("<polygon label='dog' points='0,0;30,0;30,20;0,20'/>", CAT_BOX),
        {INSIDE: 1, OUTSIDE: 2},
        "",
    ),
    "one image twice": (
        {"x.xml": "<annotations><image name='a.png'/><image name='a.png'/></annotations>"},
        {},
        "twice",
    ),
    "four corners": (labelme(("cat", "rectangle", SQUARE)), {INSIDE: 1, OUTSIDE: 0}, ""),
    "far outside": (labelme(("cat", "polygon", [*SQUARE[:3], [2, 23]])), {}, "at x 2, y 23 lies outside the image"),
    "flags": (labelme(("cat", "polygon", SQUARE), flags={"seen": True}), {INSIDE: 1}, "1 flags that are no class name"),
    "background of labelme": (labelme(("_background_", "polygon", SQUARE)), {INSIDE: 0}, ""),
    "a mask and its colors": (
        {"labelmap.txt": "# label:color_rgb\ncat:1,1,1::\nbackground:0,0,0::", "a.png": png(CODES)},
        {INSIDE: 0, OUTSIDE: 1},
        "",
    ),
    "a color that is not listed": ({"labelmap.txt": "cat:9,0,0::", "a.png": png(CODES)}, {}, "holds the color #000000"),
    "two palettes": (
        {"a.png": png(CODES, palette=b"\0\0\0\xff\0\0"), "b.png": png(CODES, palette=b"\0\0\0\0\xff\0")},
        {OUTSIDE: 1},
        "b.png: its palette has other colors than",
    ),
    "unread": ({"a.png": png(CODES), "b.jpg": png(CODES), "b.txt": "0"}, {OUTSIDE: 1}, "2 files or folders of"),
    "labels and the rest ignored": (
        {"a.png": png(np.where((np.indices((20, 30)) == 5).all(0), 1, VOID))},
        {INSIDE: 1, OUTSIDE: VOID},
        "write 254|dog (code 2): 0 labeled pixels in 0 images: it will never be predicted",
    ),
    "two files": (labelme(("cat", "polygon", SQUARE)) | table(*CLICK), {INSIDE: 1, OUTSIDE: 2}, "in several files"),
}


@pytest.mark.parametrize("tried", TRIED)
def test_more_of_the_same_kinds(tmp_path, tried):
    files, expected, said = TRIED[tried]
    pixels = np.full((20, 30, 3), 90, np.uint8)
    pixels[3:9, 2:12] = (220, 60, 60)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for stem in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{stem}.png")
    for name, content in files.items():
        path = tmp_path / "labels" / name
        content.save(path) if isinstance(content, Image.Image) else path.write_text(content)
    given = tmp_path / "images", tmp_path / "labels", names_file(tmp_path, NAMES)
    problems, notes = own.check(*given)
    assert bool(problems) == (not expected)
    for part in said.split("|"):
        assert any(part in line for line in problems + notes), problems + notes
    if expected:
        sample = next(user_folder.render(user_folder.survey(*given), 99, width=1))
        assert {at: int(sample.labels[at]) for at in expected} == expected


@pytest.mark.parametrize("turn", [0, 30, 90, 200])
def test_turned_boxes_and_ellipses(tmp_path, turn):
    """A pixel is inside where its center, turned back, is."""
    box = f"<box label='cat' xtl='8' ytl='6' xbr='20' ybr='12' rotation='{turn}'/>"
    ellipse = f"<ellipse label='dog' cx='14' cy='9' rx='6' ry='3' rotation='{turn}'/>"
    (tmp_path / "x.xml").write_text(cvat(box, ellipse)["x.xml"])
    (found,) = annotations.read(tmp_path / "x.xml", NAMES).values()
    y, x = np.indices((20, 30)) + 0.5 - np.array([9, 14])[:, None, None]
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    x, y = x * cosine + y * sine, y * cosine - x * sine
    areas = [drawing.area(shape, (20, 30)) for shape in found.shapes]
    np.testing.assert_array_equal(areas[0], (abs(x) < 6) & (abs(y) < 3))
    np.testing.assert_array_equal(areas[1], (x / 6) ** 2 + (y / 3) ** 2 < 1)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["cat", "__ignore__"], "__ignore__ is no class and has no code"),
        (["background", "_background_"], "names 'background' twice"),
        (["__ignore__", "cat"], "holds 1 class names"),
    ],
)
def test_names_that_are_refused(tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        user_folder.class_names(names_file(tmp_path, lines))

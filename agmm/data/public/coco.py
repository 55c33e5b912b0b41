"""MS COCO 2014 with 80 classes and background, and DensePose-COCO with 14 parts of people; both are read on demand.

COCO publishes outlines of objects but no masks of classes: `agmm.data.public.masks` makes them once, in
``SegmentationClass/train2014`` beside the images in ``coco2014/train2014``. Classes 1 … 80 are the categories in the
order of their ids, crowds are ``VOID``. The images are those with an annotation, as in comparisons on image tags.

DensePose's annotations belong to images of COCO 2014, which may lie in a folder ``coco`` beside the root; val is
minival. They hold a small mask of every part of most people, no masks of images: these are made once, too, in
``PartMasks``; masks in a folder `PUBLISHED` are read instead. Objects are the people; left and right are their own.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agmm.data import image_files
from agmm.data.image_files import Pair
from agmm.data.public import DataSet, codes
from agmm.data.split import OnDemand, Split

_CLASSES = (
    *("background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *("surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana"),
    *("apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
    *("teddy bear", "hair drier", "toothbrush"),
)


def _pairs(root: Path, split: str) -> list[Pair]:
    images = below(root, f"{split}2014")
    if not images.is_dir():
        raise FileNotFoundError(f"no {images.name} below {root}")
    return listed_pairs(images, names_file(root, split))


def below(root: Path, name: str) -> Path:
    """Return a folder of the data set, which lies at the root or in ``coco2014``."""
    inside = root / "coco2014" / name
    return inside if inside.exists() else root / name


def names_file(root: Path, split: str) -> Path:
    """Return the list of the images with an annotation: written with the masks, as reading the annotations is slow."""
    return below(root, "SegmentationClass") / f"{split}2014.txt"


def listed_pairs(images: Path, listed: Path) -> list[Pair]:
    """Return the images and masks of the names in a list that ``agmm masks`` writes with the masks.

    The masks lie in the folder of the list's name without suffix; FileNotFoundError if it or some of them are missing.
    """
    masks = listed.with_suffix("")
    if not listed.is_file() or not masks.is_dir():
        raise FileNotFoundError(f"no masks in {masks}")
    try:
        names = listed.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{listed} is no list of names ({error}); remove it and make the masks again") from error
    absent = set(names) - {path.stem for path in masks.iterdir() if path.suffix == ".png"}
    if absent:
        raise FileNotFoundError(f"{len(absent)} of {len(names)} masks are missing in {masks}, {min(absent)}.png first")
    return [(images / f"{name}.jpg", masks / f"{name}.png") for name in names]


COCO = DataSet(
    name="coco",
    title="MS COCO",
    class_names=_CLASSES,
    codes=codes(range(81), void=[255]),
    counts={"train": 82_081, "val": 40_137},
    pairs=_pairs,
    how_to_get=(
        "{root} must hold coco2014/train2014, coco2014/val2014 and annotations/instances_{train,val}2014.json, which "
        "`agmm download coco --data-root {root}` fetches, and the masks that `agmm masks coco {root}` makes of them"
    ),
    background=0,
)


_PARTS = (
    *("background", "torso", "right hand", "left hand", "left foot", "right foot", "right thigh", "left thigh"),
    *("right leg", "left leg", "left arm", "right arm", "left forearm", "right forearm", "head"),
)
MIRRORED = (0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14)  # class of each in the mirror image
ANNOTATED = {"train": "train", "val": "minival"}
"""Splits as their files of annotations are named; the images of minival are among those of COCO's val."""
PUBLISHED = "PublishedMasks"  # folder of masks that the authors of SPML made, a PNG per image in any subfolders


def _densepose_pairs(root: Path, split: str) -> list[Pair]:
    name = f"{split}2014"
    folders = [folder for place in (root, root.parent / "coco") if (folder := below(place, name)).is_dir()]
    if not folders:
        raise FileNotFoundError(f"no {name} below {root}")
    pairs, published = listed_pairs(folders[0], part_names_file(root, split)), below(root, PUBLISHED)
    if not published.is_dir():
        return pairs
    images = [image for image, _ in pairs]
    masks = image_files.of_images(images, {path.stem: path for path in published.rglob("*.png")}, published, "mask")
    return list(zip(images, masks, strict=True))


def part_names_file(root: Path, split: str) -> Path:
    """Return the list of the images with an annotation; masks lie in the folder of its name without suffix."""
    return below(root, "PartMasks") / f"{ANNOTATED[split]}2014.txt"


def people_file(mask: Path) -> Path:
    """Return where the people of an image are numbered, beside the folder of its mask of parts."""
    return mask.parent.with_name(f"{mask.parent.name}_people") / mask.name


def _with_people(data: Split, images: Sequence[Path], root: Path, split: str) -> Split:
    folder = part_names_file(root, split).with_suffix("")
    people = [(image, people_file(folder / f"{image.stem}.png")) for image in images]
    return replace(data, instances=OnDemand(image_files.read_index_of, people))


DENSEPOSE = DataSet(
    name="densepose",
    title="DensePose-COCO",
    class_names=_PARTS,
    codes=codes(range(15), void=[255]),
    counts={"train": 26_437, "val": 1_508},
    pairs=_densepose_pairs,
    how_to_get=(
        "{root} must hold annotations/densepose_coco_2014_{train,minival}.json from the home page of DensePose-COCO, "
        "coco2014/train2014 and coco2014/val2014, which `agmm download coco --data-root {root}` fetches, and the masks "
        "that `agmm masks densepose {root}` makes of them"
    ),
    background=0,
    regions=True,
    mirrored=MIRRORED,
    extend=_with_people,
)

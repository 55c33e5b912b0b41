"""DensePose-COCO: 26,437 training and 1,508 validation images (minival) with 14 parts of people, read on demand.

Its annotations belong to images of COCO 2014, which may lie in a folder ``coco`` beside the root. They hold a small
mask of every part of most people, no masks of images: `agmm.data.public.masks` makes these once, in ``PartMasks``.
Masks in a folder `PUBLISHED` are read instead. The objects of an image are the people; left and right are their own.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agmm.data import image_files
from agmm.data.image_files import Pair
from agmm.data.public import coco
from agmm.data.public.dataset import DataSet, codes
from agmm.data.split import OnDemand, Split

CLASS_NAMES = (
    *("background", "torso", "right hand", "left hand", "left foot", "right foot", "right thigh", "left thigh"),
    *("right leg", "left leg", "left arm", "right arm", "left forearm", "right forearm", "head"),
)
MIRRORED = (0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14)
"""Class of each in the mirror image."""

ANNOTATED = {"train": "train", "val": "minival"}
"""Splits as their files of annotations are named; the images of minival are among those of COCO's val."""

PUBLISHED = "PublishedMasks"
"""Folder of masks that the authors of SPML made, a PNG per image in any subfolders."""


def _pairs(root: Path, split: str) -> list[Pair]:
    name = f"{split}2014"
    folders = [folder for place in (root, root.parent / "coco") if (folder := coco.below(place, name)).is_dir()]
    if not folders:
        raise FileNotFoundError(f"no {name} below {root}")
    pairs, published = coco.listed_pairs(folders[0], names_file(root, split)), coco.below(root, PUBLISHED)
    if not published.is_dir():
        return pairs
    images = [image for image, _ in pairs]
    masks = image_files.of_images(images, {path.stem: path for path in published.rglob("*.png")}, published, "mask")
    return list(zip(images, masks, strict=True))


def names_file(root: Path, split: str) -> Path:
    """Return the list of the images with an annotation; masks lie in the folder of its name without suffix."""
    return coco.below(root, "PartMasks") / f"{ANNOTATED[split]}2014.txt"


def people_file(mask: Path) -> Path:
    """Return where the people of an image are numbered, beside the folder of its mask of parts."""
    return mask.parent.with_name(f"{mask.parent.name}_people") / mask.name


def _with_people(data: Split, images: Sequence[Path], root: Path, split: str) -> Split:
    folder = names_file(root, split).with_suffix("")
    people = [(image, people_file(folder / f"{image.stem}.png")) for image in images]
    return replace(data, instances=OnDemand(image_files.read_index_of, people))


DENSEPOSE = DataSet(
    name="densepose",
    title="DensePose-COCO",
    class_names=CLASS_NAMES,
    codes=codes(range(15), void=[255]),
    counts={"train": 26_437, "val": 1_508},
    pairs=_pairs,
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

"""DensePose-COCO: 26,437 training and 1,508 validation images (minival) with 14 parts of people, read on demand.

Its annotations belong to images of COCO 2014. They hold a small mask of every part of most people, no masks of images:
`agmm.data.public.densepose_masks` makes these once. Left and right are the person's own. Published over-segmentations
are found beside them (see `agmm.data.regions`).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agmm.codes import VOID
from agmm.data import image_files, regions
from agmm.data.public import coco, label_files
from agmm.data.split import OnDemand, Split

CLASS_NAMES = (
    *("background", "torso", "right hand", "left hand", "left foot", "right foot", "right thigh", "left thigh"),
    *("right leg", "left leg", "left arm", "right arm", "left forearm", "right forearm", "head"),
)
MIRRORED = (0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14)
"""Class of each in the mirror image."""

COUNTS = {"train": 26_437, "val": 1_508}
ANNOTATED = {"train": "train", "val": "minival"}
"""Splits as their files of annotations are named; the images of minival are among those of COCO's val."""

PUBLISHED = "PublishedMasks"
"""Folder of masks that the authors of SPML made, a PNG per image in any subfolders."""

_CODES = {**{k: k for k in range(len(CLASS_NAMES))}, 255: VOID}
_LAYOUT = "annotations/densepose_coco_2014_{train,minival}.json, and coco2014/train2014 and coco2014/val2014"


def load(root: Path, split: str) -> Split:
    """
    Find the files of one split; they are read when asked for.

    Parameters
    ----------
    root : Path
        Folder with ``PartMasks``, and with the images of COCO unless they are in a folder ``coco`` beside it. Masks in
        a folder `PUBLISHED` are read instead of those in ``PartMasks``.
    split : {"train", "val"}
        "val" is minival.

    Returns
    -------
    Split
        With the people as instances, those whose parts are not annotated are ``VOID``; and with the published regions
        of "train".

    Raises
    ------
    FileNotFoundError
        If a folder is missing, or masks are, which a command makes.
    ValueError
        If images, published masks or published regions are missing.

    Warns
    -----
    UserWarning
        If the number of images is not the published one.
    """
    triples = _triples(Path(root), split)
    if len(triples) != COUNTS[split]:
        warnings.warn(f"DensePose {split} in {root} has {len(triples)} images, not {COUNTS[split]}", stacklevel=2)
    images, masks, people = ([three[i] for three in triples] for i in range(3))
    return Split(
        dataset="densepose",
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in images),
        images=OnDemand(image_files.read_image, images),
        truth=OnDemand(partial(image_files.read_mask, codes=_CODES), masks),
        background=0,
        instances=OnDemand(label_files.read_index, people),
        mirrored=MIRRORED,
        regions=regions.find(Path(root), images) if split == "train" else None,
    )


def check(root: Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of the splits once and return one sentence per problem; missing files raise as in `load`."""
    triples = [three for split in splits for three in _triples(Path(root), split)]
    problems = image_files.check([(image, mask) for image, mask, _ in triples], _CODES)
    if "train" in splits:
        images = [image for image, _, _ in _triples(Path(root), "train")]
        problems += regions.check(regions.find(Path(root), images))
    for _, mask, people in triples:
        try:
            label_files.read_index(people, image_files.read_size(mask))
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    return problems


def names_file(root: Path, split: str) -> Path:
    """List of the images with an annotation; masks lie in the folder of its name without suffix."""
    return coco.below(root, "PartMasks") / f"{ANNOTATED[split]}2014.txt"


def people_file(mask: Path) -> Path:
    """Where the people of an image are numbered, beside the folder of its mask of parts."""
    return mask.parent.with_name(f"{mask.parent.name}_people") / mask.name


def missing(root: Path, name: str) -> FileNotFoundError:
    """What to say where images or annotations are missing."""
    return FileNotFoundError(
        f"DensePose: no {name} below {root}, which must hold {_LAYOUT}; its annotations are on the home page of "
        f"DensePose-COCO, and `agmm download coco --data-root {root}` fetches the images"
    )


def _triples(root: Path, split: str) -> list[tuple[Path, Path, Path]]:
    """Image, parts and people of every image of a split."""
    if split not in COUNTS:
        raise ValueError(f"DensePose: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    name = f"{split}2014"
    images = next(
        (path for path in (coco.below(root, name), coco.below(root.parent / "coco", name)) if path.is_dir()), None
    )
    if images is None:
        raise missing(root, name)
    command = f"`agmm masks densepose {root}` makes them from the annotations, once"
    what = f"DensePose {split} in {root}"
    pairs = coco.listed_pairs(what, images, names_file(root, split), command)
    people = [people_file(mask) for _, mask in pairs]
    published = coco.below(root, PUBLISHED)
    if published.is_dir():
        paths = {path.stem: path for path in published.rglob("*.png")}
        lost = [f"{image.stem}: no mask below {published}" for image, _ in pairs if image.stem not in paths]
        image_files.raise_if_bad(lost, f"{what} is incomplete, complete the folder or move it elsewhere")
        pairs = [(image, paths[image.stem]) for image, _ in pairs]
    return [(image, mask, numbered) for (image, mask), numbered in zip(pairs, people, strict=True)]

"""MS COCO 2014: 82,081 training and 40,137 validation images with 80 classes and background, read on demand.

These are the images with at least one annotation, on which methods that learn from image tags are compared. COCO
publishes outlines of objects but no masks of classes: `agmm.data.public.masks` makes them once.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.split import OnDemand, Split

CLASS_NAMES = (
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
COUNTS = {"train": 82_081, "val": 40_137}

_CODES = {**{k: k for k in range(len(CLASS_NAMES))}, 255: VOID}
_LAYOUT = "coco2014/train2014, coco2014/val2014 and annotations/instances_{train,val}2014.json"


def load(root: Path, split: str) -> Split:
    """
    Find the files of one split; they are read when asked for.

    Parameters
    ----------
    root : Path
        Folder with ``coco2014/train2014``, ``SegmentationClass/train2014`` and the same of val.
    split : {"train", "val"}

    Returns
    -------
    Split
        Classes 1 … 80 are the categories in the order of their ids, 0 is background, crowds are ``VOID``; gray images
        become RGB. Ids are ``COCO_train2014_000000000009`` and so on.

    Raises
    ------
    FileNotFoundError
        If a folder is missing, or masks are, which a command makes.
    ValueError
        If images are missing.

    Warns
    -----
    UserWarning
        If the number of images is not the published one.
    """
    pairs = _pairs(Path(root), split)
    if len(pairs) != COUNTS[split]:
        warnings.warn(f"COCO {split} in {root} has {len(pairs)} images, not {COUNTS[split]}", stacklevel=2)
    images, masks = ([two[i] for two in pairs] for i in (0, 1))
    return Split(
        dataset="coco",
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in images),
        images=OnDemand(image_files.read_image, images),
        truth=OnDemand(partial(image_files.read_mask, codes=_CODES), masks),
        background=0,
    )


def check(root: Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of the splits once and return one sentence per problem; missing files raise as in `load`."""
    return image_files.check([two for split in splits for two in _pairs(Path(root), split)], _CODES)


def below(root: Path, name: str) -> Path:
    """A folder of the data set, which lies at the root or in ``coco2014``."""
    inside = root / "coco2014" / name
    return inside if inside.exists() else root / name


def names_file(root: Path, split: str) -> Path:
    """List of the images with at least one annotation: written with the masks, as reading the annotations is slow."""
    return below(root, "SegmentationClass") / f"{split}2014.txt"


def missing(root: Path, split: str) -> FileNotFoundError:
    """What to say where images or annotations are missing."""
    return FileNotFoundError(
        f"COCO: no {split} below {root}, which must hold {_LAYOUT}; "
        f"`agmm download coco --data-root {root}` fetches them"
    )


def _pairs(root: Path, split: str) -> list[image_files.Pair]:
    if split not in COUNTS:
        raise ValueError(f"COCO: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    images, listed = below(root, f"{split}2014"), names_file(root, split)
    if not images.is_dir():
        raise missing(root, images.name)
    command = f"`agmm masks coco {root}` makes them from the annotations, once"
    return listed_pairs(f"COCO {split} in {root}", images, listed, command)


def listed_pairs(what: str, images: Path, listed: Path, command: str) -> list[image_files.Pair]:
    """
    Images and masks of the names in a list that a command writes with the masks.

    Parameters
    ----------
    what : str
        Data set, split and folder, for messages.
    images, listed : Path
        Folder of the images, and the list; the masks lie in the folder of its name without suffix.
    command : str
        What to run where masks are missing, in a sentence about "them".

    Raises
    ------
    FileNotFoundError
        If the list or masks are missing.
    ValueError
        If images are missing.
    """
    masks = listed.with_suffix("")
    if not listed.is_file() or not masks.is_dir():
        raise FileNotFoundError(f"{what}: no masks in {masks}; {command}")
    try:
        names = listed.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{listed} is no list of names ({error}); remove it; {command}") from error
    absent = set(names) - {path.stem for path in masks.iterdir() if path.suffix == ".png"}
    if absent:
        raise FileNotFoundError(
            f"{what}: {len(absent)} of {len(names)} masks are missing, {min(absent)}.png first; {command}"
        )
    lost = set(names) - {path.stem for path in images.iterdir() if path.suffix == ".jpg"}
    problems = [f"{name}: annotated, but there is no {images / name}.jpg" for name in sorted(lost)]
    image_files.raise_if_bad(problems, f"{what} is incomplete, extract its archives again")
    return [(images / f"{name}.jpg", masks / f"{name}.png") for name in names]

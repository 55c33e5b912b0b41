"""MS COCO 2014: 82,081 training and 40,137 validation images with 80 classes and background, read on demand.

These are the images with at least one annotation, on which methods that learn from image tags are compared. COCO
publishes outlines of objects but no masks of classes: `agmm.data.public.masks` makes them once, in
``SegmentationClass/train2014`` beside the images in ``coco2014/train2014``. Classes 1 … 80 are the categories in the
order of their ids, crowds are ``VOID``.
"""

from pathlib import Path

from agmm.data.image_files import Pair
from agmm.data.public.dataset import DataSet, codes

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
    """
    Return the images and masks of the names in a list that ``agmm masks`` writes with the masks.

    Parameters
    ----------
    images, listed : Path
        Folder of the images, and the list; the masks lie in the folder of its name without suffix.

    Raises
    ------
    FileNotFoundError
        If the list or masks are missing.
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
    class_names=CLASS_NAMES,
    codes=codes(range(81), void=[255]),
    counts={"train": 82_081, "val": 40_137},
    pairs=_pairs,
    how_to_get=(
        "{root} must hold coco2014/train2014, coco2014/val2014 and annotations/instances_{train,val}2014.json, which "
        "`agmm download coco --data-root {root}` fetches, and the masks that `agmm masks coco {root}` makes of them"
    ),
    background=0,
)

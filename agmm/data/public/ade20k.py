"""ADE20K, the 150 classes of the scene parsing benchmark: 20,210 training and 2,000 validation images, read on demand.

The blocks that the authors of the tree energy loss published are found in ``blocks/tel_ade20k`` below the data root, in
their folders ``block10``, ``block20`` and ``block50`` (see `agmm.data.public.published`).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public import published
from agmm.data.split import OnDemand, Published, Split

CLASS_NAMES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass"),
    *("cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair"),
    *("car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field"),
    *("armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion"),
    *("base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace"),
    *("refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table", "pillow", "screen door"),
    *("stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench"),
    *("countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine"),
    *("hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth"),
    *("television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman"),
    *("bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer"),
    *("plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle"),
    *("oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake"),
    *("dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan"),
    *("fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock"),
    "flag",
)
COUNTS = {"train": 20_210, "val": 2_000}
SOURCES = published.tel_blocks("tel_ade20k")

_CODES = {0: VOID, **{k + 1: k for k in range(len(CLASS_NAMES))}}
_PARTS = {"train": "training", "val": "validation"}
_LAYOUT = "ADEChallengeData2016 with images and annotations, each with the folders training and validation"


def load(root: Path, split: str) -> Split:
    """
    Find the files of one split; they are read when asked for.

    Parameters
    ----------
    root : Path
        Folder with ``ADEChallengeData2016`` as its archive extracts, or this folder itself.
    split : {"train", "val"}

    Returns
    -------
    Split
        Values 1 … 150 of the masks are classes 0 … 149, 0 is ``VOID``. With the published labels of "train".

    Raises
    ------
    FileNotFoundError
        If a folder is missing or empty.
    ValueError
        If an image or a mask lacks its partner, or published labels are incomplete.

    Warns
    -----
    UserWarning
        If the number of images is not the published one.
    """
    pairs = _pairs(Path(root), split)
    if len(pairs) != COUNTS[split]:
        warnings.warn(f"ADE20K {split} in {root} has {len(pairs)} images, not {COUNTS[split]}", stacklevel=2)
    images, masks = ([two[i] for two in pairs] for i in (0, 1))
    return Split(
        dataset="ade20k",
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in images),
        images=OnDemand(image_files.read_image, images),
        truth=OnDemand(partial(image_files.read_mask, codes=_CODES), masks),
        background=None,
        published=_published(Path(root), images) if split == "train" else (),
    )


def check(root: Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of the splits once, published labels included, and return one sentence per problem."""
    pairs = {split: _pairs(Path(root), split) for split in splits}
    labels = _published(Path(root), [image for image, _ in pairs.get("train", ())])
    return published.check_all(pairs.values(), _CODES, labels)


def _published(root: Path, images: Sequence[Path]) -> tuple[Published, ...]:
    return published.find(root, SOURCES, images)


def _pairs(root: Path, split: str) -> list[image_files.Pair]:
    if split not in COUNTS:
        raise ValueError(f"ADE20K: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    below = root / "ADEChallengeData2016"
    images, masks = ((below if below.is_dir() else root) / kind / _PARTS[split] for kind in ("images", "annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"ADE20K: no folder {folder}; {root} must hold {_LAYOUT}; "
                f"`agmm download ade20k --data-root {root}` fetches them"
            )
    pairs = image_files.pair(images, masks)
    if not pairs:
        raise FileNotFoundError(f"ADE20K: no images in {images}; extract its archive again")
    there = [set(folder.iterdir()) for folder in (images, masks)]
    problems = [f"{image}: an image without its mask" for image, mask in pairs if mask not in there[1]]
    problems += [f"{mask}: a mask without its image" for image, mask in pairs if image not in there[0]]
    image_files.raise_if_bad(problems, f"ADE20K {split} in {root} is incomplete, extract its archive again")
    return pairs

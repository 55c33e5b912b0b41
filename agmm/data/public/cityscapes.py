"""Cityscapes: 2,975 training and 500 validation images of 2048 x 1024 pixels with 19 classes, read on demand.

Published sparse labels are found beside the images, in folders that are named after form and publisher (see
`agmm.data.public.published`): ``clicks/agmm_cityscapes`` with a folder for each number of clicks,
``blocks/tel_cityscapes`` with one for each percentage. Their files may lie in folders of cities; their names begin as
those of the images.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public import published
from agmm.data.public.label_files import CITYSCAPES_LABEL_IDS
from agmm.data.public.published import Source
from agmm.data.split import OnDemand, Published, Split

CLASS_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
PALETTE = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)
COUNTS = {"train": 2975, "val": 500}
ARCHIVES = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")

SOURCES = (
    *(
        Source("clicks", "agmm_cityscapes", f"{n} clicks published by the authors of AGMM", str(n), drawn={"n": n})
        for n in (20, 50, 100)
    ),
    *published.tel_blocks("tel_cityscapes"),
)

# Label ids 0 … 33; 255 is how -1 (license plates) is stored in 8 bits.
_CODES = {
    **dict.fromkeys((*range(34), 255), VOID),
    **{label_id: k for k, label_id in enumerate(CITYSCAPES_LABEL_IDS)},
}
_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


def load(root: Path, split: str) -> Split:
    """
    Find the files of one split; they are read when asked for.

    Parameters
    ----------
    root : Path
        Folder with ``leftImg8bit/train/<city>/*_leftImg8bit.png``, ``gtFine/train/<city>/*_gtFine_labelIds.png`` and
        the same of val, as the archives extract.
    split : {"train", "val"}
        The truth of "test" is not public.

    Returns
    -------
    Split
        Label ids are translated into the 19 train ids, all others into ``VOID``; ids are ``<city>_<sequence>_<frame>``.
        With the published labels of "train".

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
        warnings.warn(f"Cityscapes {split} in {root} has {len(pairs)} images, not {COUNTS[split]}", stacklevel=2)
    images, masks = ([two[i] for two in pairs] for i in (0, 1))
    return Split(
        dataset="cityscapes",
        class_names=CLASS_NAMES,
        ids=tuple(path.name.removesuffix(_IMAGE) for path in images),
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


def how_to_get(root: Path) -> str:
    """One sentence: what to download and where to put it."""
    return (
        f"log in at www.cityscapes-dataset.com, download {' and '.join(ARCHIVES)} into {root} and extract them with "
        f"`agmm download cityscapes --data-root {root}`"
    )


def _pairs(root: Path, split: str) -> list[image_files.Pair]:
    if split not in COUNTS:
        raise ValueError(f"Cityscapes: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    images, masks = (
        _by_id(root, root / kind / split, suffix) for kind, suffix in (("leftImg8bit", _IMAGE), ("gtFine", _MASK))
    )
    problems = [f"{images[name]}: an image without its mask" for name in sorted(images.keys() - masks.keys())]
    problems += [f"{masks[name]}: a mask without its image" for name in sorted(masks.keys() - images.keys())]
    image_files.raise_if_bad(problems, f"Cityscapes {split} in {root} is incomplete, extract its archives again")
    return [(images[name], masks[name]) for name in sorted(images)]


def _published(root: Path, images: Sequence[Path]) -> tuple[Published, ...]:
    return published.find(root, SOURCES, images, key=_id)


def _id(path: Path) -> str:
    """City, sequence and frame, with which the name of every file of an image begins."""
    return "_".join(path.stem.split("_")[:3])


def _by_id(root: Path, folder: Path, suffix: str) -> dict[str, Path]:
    found = {path.name.removesuffix(suffix): path for path in folder.glob(f"*/*{suffix}")}
    if not found:
        raise FileNotFoundError(f"Cityscapes: no {folder}/<city>/*{suffix}; {how_to_get(root)}")
    return found

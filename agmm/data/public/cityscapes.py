"""Cityscapes: 2,975 training and 500 validation images of 2048 x 1024 pixels with 19 classes, read on demand.

Below the root lie ``leftImg8bit/train/<city>/*_leftImg8bit.png``, ``gtFine/train/<city>/*_gtFine_labelIds.png`` and the
same of val, as the archives extract. Published sparse labels are found in ``clicks/agmm_cityscapes`` with a folder for
each number of clicks, and in ``blocks/tel_cityscapes`` with one for each percentage. Their files may lie in folders of
cities; their names begin as those of the images.
"""

from pathlib import Path

from agmm.data.image_files import Pair
from agmm.data.public.dataset import DataSet, Source, codes, png, tel_blocks

CLASS_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes; masks hold 0 … 33, and 255 for -1 (license plates)."""

ARCHIVES = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
_ENDINGS = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_labelIds.png"}


def _pairs(root: Path, split: str) -> list[Pair]:
    found: set[str] = set()  # <city>/<city>_<sequence>_<frame>
    for kind, ending in _ENDINGS.items():
        folder = root / kind / split
        names = {path.relative_to(folder).as_posix().removesuffix(ending) for path in folder.glob(f"*/*{ending}")}
        if not names:
            raise FileNotFoundError(f"no {folder}/<city>/*{ending}")
        found |= names
    images, masks = (
        [root / kind / split / f"{name}{ending}" for name in sorted(found)] for kind, ending in _ENDINGS.items()
    )
    return list(zip(images, masks, strict=True))


def _id(path: Path) -> str:
    """City, sequence and frame, with which the name of every file of an image begins."""
    return "_".join(path.stem.split("_")[:3])


CITYSCAPES = DataSet(
    name="cityscapes",
    title="Cityscapes",
    class_names=CLASS_NAMES,
    codes=codes(LABEL_IDS, void=(*range(34), 255)),
    counts={"train": 2975, "val": 500},
    pairs=_pairs,
    how_to_get=(
        f"log in at www.cityscapes-dataset.com, download {' and '.join(ARCHIVES)} into {{root}} and extract them with "
        "`agmm download cityscapes --data-root {root}`"
    ),
    key=_id,
    sources=(
        *(
            Source(
                form="clicks",
                name="agmm_cityscapes",
                description=f"{n} clicks published by the authors of AGMM",
                read=png(codes(range(19), unlabeled=[19], void=[255])),
                folder=str(n),
                drawn={"n": n},
            )
            for n in (20, 50, 100)
        ),
        *tel_blocks("tel_cityscapes", codes(LABEL_IDS, unlabeled=range(256))),
    ),
)

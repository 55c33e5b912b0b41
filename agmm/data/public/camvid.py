"""CamVid in the SegNet form: 480 x 360 road scenes with 11 classes, read into memory whole."""

from pathlib import Path

from agmm.data.image_files import Pair
from agmm.data.public.dataset import DataSet, codes, in_folders

CLASS_NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist"),
)


def _pairs(root: Path, split: str) -> list[Pair]:
    return in_folders(root / split, root / f"{split}annot")


CAMVID = DataSet(
    name="camvid",
    title="CamVid",
    class_names=CLASS_NAMES,
    codes=codes(range(11), void=[11]),
    counts={"train": 367, "val": 101, "test": 233},
    pairs=_pairs,
    how_to_get=(
        "{root} must hold train/, trainannot/, val/ and valannot/ with PNG or JPEG images and 8-bit PNG masks of the "
        "same names"
    ),
    in_memory=True,
    in_papers=False,
)

"""Scenes whose pixels all have a class: CamVid, Cityscapes and ADE20K.

CamVid in the SegNet form has 480 x 360 road scenes, which are read into memory whole; the others are read on demand, as
their archives extract: Cityscapes, of 2048 x 1024 pixels, from ``leftImg8bit/train/<city>/*_leftImg8bit.png``,
``gtFine/train/<city>/*_gtFine_labelIds.png``, or ``*_labelTrainIds.png`` alone, and the same of val; ADE20K with the
150 classes of the scene parsing benchmark from ``ADEChallengeData2016``. Published sparse labels are found in
``20clicks``, ``50clicks`` and ``100clicks`` as AGMM's authors have them, or in ``clicks/agmm_cityscapes`` with a folder
for each number, and in ``blocks/tel_cityscapes`` and ``blocks/tel_ade20k`` with one for each percentage, ``block10`` ….
Those of Cityscapes may lie in folders of cities; their names begin as those of the images.
"""

from pathlib import Path

from agmm.data.image_files import Pair
from agmm.data.public import AT_AGMM, DataSet, Source, codes, in_folders, png, tel_blocks

_CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist"),
)


CAMVID = DataSet(
    name="camvid",
    title="CamVid",
    class_names=_CAMVID_CLASSES,
    codes=codes(range(11), void=[11]),
    counts={"train": 367, "val": 101, "test": 233},
    pairs=lambda root, split: in_folders(root / split, root / f"{split}annot"),
    how_to_get=(
        "{root} must hold train/, trainannot/, val/ and valannot/ with PNG or JPEG images and 8-bit PNG masks of the "
        "same names"
    ),
    in_memory=True,
    in_papers=False,
)


_CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes; masks hold 0 … 33, and 255 for -1 (license plates)."""

CITYSCAPES_ARCHIVES = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
_MASKS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")  # endings, the one preferred first


def _cityscapes_pairs(root: Path, split: str) -> list[Pair]:
    masks = [ending for ending in _MASKS if any((root / "gtFine" / split).glob(f"*/*{ending}"))]
    endings = {"leftImg8bit": "_leftImg8bit.png", "gtFine": (*masks, *_MASKS)[0]}
    found: set[str] = set()  # <city>/<city>_<sequence>_<frame>
    for kind, ending in endings.items():
        folder = root / kind / split
        names = {path.relative_to(folder).as_posix().removesuffix(ending) for path in folder.glob(f"*/*{ending}")}
        if not names:
            raise FileNotFoundError(f"no {folder}/<city>/*{ending}")
        found |= names
    image, mask = ([root / kind / split / f"{name}{end}" for name in sorted(found)] for kind, end in endings.items())
    return list(zip(image, mask, strict=True))


def _id(path: Path) -> str:
    """City, sequence and frame, with which the name of every file of an image begins."""
    return "_".join(path.stem.split("_")[:3])


_AGMM = png(codes(range(19), unlabeled=[19], void=[255]))
_BY = "published by the authors of AGMM"
_CLICKS = {n: (f"{n}clicks/**/[!.]*.png",) for n in (20, 50, 100)}

CITYSCAPES = DataSet(
    name="cityscapes",
    title="Cityscapes",
    class_names=_CITYSCAPES_CLASSES,
    codes=codes(LABEL_IDS, void=(*range(34), 255)),
    counts={"train": 2975, "val": 500},
    other_codes={_MASKS[1]: codes(range(19), void=[255])},
    pairs=_cityscapes_pairs,
    how_to_get=(
        f"log in at www.cityscapes-dataset.com, download {' and '.join(CITYSCAPES_ARCHIVES)} into {{root}} and extract "
        "them with `agmm download cityscapes --data-root {root}`"
    ),
    key=_id,
    sources=(
        *(
            Source(
                "clicks", "agmm_cityscapes", f"{n} clicks {_BY}", _AGMM, str(n), ".png", {"n": n}, _CLICKS[n], AT_AGMM
            )
            for n in (20, 50, 100)
        ),
        *tel_blocks("tel_cityscapes", codes(LABEL_IDS, unlabeled=range(256))),
    ),
)


_ADE20K_CLASSES = (
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


def _ade20k_pairs(root: Path, split: str) -> list[Pair]:
    inside, part = root / "ADEChallengeData2016", {"train": "training", "val": "validation"}[split]
    images, masks = ((inside if inside.is_dir() else root) / kind / part for kind in ("images", "annotations"))
    return in_folders(images, masks)


ADE20K = DataSet(
    name="ade20k",
    title="ADE20K",
    class_names=_ADE20K_CLASSES,
    codes=codes(range(1, 151), void=[0]),
    counts={"train": 20_210, "val": 2_000},
    pairs=_ade20k_pairs,
    how_to_get=(
        "{root} must hold ADEChallengeData2016 with images and annotations, each with the folders training and "
        "validation; `agmm download ade20k --data-root {root}` fetches them"
    ),
    sources=tel_blocks("tel_ade20k", codes(range(1, 151), unlabeled=[0])),
)

"""ADE20K, the 150 classes of the scene parsing benchmark: 20,210 training and 2,000 validation images, read on demand.

Below the root lies ``ADEChallengeData2016`` as its archive extracts, or what is in it. Blocks that the authors of the
tree energy loss published are found in the folders ``block10``, ``block20`` and ``block50`` of ``blocks/tel_ade20k``.
"""

from pathlib import Path

from agmm.data.image_files import Pair
from agmm.data.public.dataset import DataSet, codes, in_folders, tel_blocks

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


def _pairs(root: Path, split: str) -> list[Pair]:
    inside, part = root / "ADEChallengeData2016", {"train": "training", "val": "validation"}[split]
    images, masks = ((inside if inside.is_dir() else root) / kind / part for kind in ("images", "annotations"))
    return in_folders(images, masks)


ADE20K = DataSet(
    name="ade20k",
    title="ADE20K",
    class_names=CLASS_NAMES,
    codes=codes(range(1, 151), void=[0]),
    counts={"train": 20_210, "val": 2_000},
    pairs=_pairs,
    how_to_get=(
        "{root} must hold ADEChallengeData2016 with images and annotations, each with the folders training and "
        "validation; `agmm download ade20k --data-root {root}` fetches them"
    ),
    sources=tel_blocks("tel_ade20k", codes(range(1, 151), unlabeled=[0])),
)

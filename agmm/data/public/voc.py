"""PASCAL VOC 2012 with the masks of SBD: 10,582 training and 1,449 validation images of many sizes, read on demand.

Below the root lie VOC in ``VOCdevkit/VOC2012`` and SBD in ``benchmark_RELEASE/dataset``, as their archives extract, or
VOC with a folder ``SegmentationClassAug`` instead of SBD; the root may also be one of VOC's two folders itself. "train"
is VOC's train and SBD's train and val, without VOC's val. VOC's own mask is taken where there is one, then that of
``SegmentationClassAug``, then SBD's. As AGMM's authors lay it out, all masks lie in ``SegmentationClass``, and there is
no ``ImageSets``: "train" are the images with labels in ``point`` or ``scribble``, "val" the others. Published sparse
labels are found beside them: the files `CLICKS`, and folders of one file per image (``point``, ``scribble``, or
``points/agmm_voc``, ``scribbles/scribblesup`` …, see `agmm.data.public`). Boxes are those of VOC's own ``Annotations``.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm.data import drawing, image_files
from agmm.data.drawing import Shape
from agmm.data.image_files import Pair
from agmm.data.public import AT_AGMM, DataSet, Source, codes, label_files, png
from agmm.data.split import OnDemand, Published, Split
from agmm.labels import Boxes

CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SCRIBBLESUP_CLASSES = (
    *("background", "plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor"),
)

CLICKS = ("voc_whats_the_point.json", "voc_whats_the_point_bg_from_scribbles.json")  # one without the other is refused


def _pairs(root: Path, split: str) -> list[Pair]:
    voc, sbd = _voc(root), _sbd(root)
    own, augmented = (_by_stem(voc / name, ".png") for name in ("SegmentationClass", "SegmentationClassAug"))
    masks, lists = augmented | own, voc / "ImageSets" / "Segmentation"
    if lists.is_dir():
        listed = {name: _names(lists / f"{name}.txt") for name in ("train", "val")}
    else:
        train = _labeled(root)
        listed = {"train": train, "val": masks.keys() - train}
        if masks and not listed["val"]:
            problem = "all masks have labels in point or scribble, and val are those without"
            raise ValueError(f"{root}: {problem}; remove the labels of val or add VOC's ImageSets")
    names = listed[split]
    if split == "train":
        names = names | masks.keys()
        if sbd is not None:
            names |= _names(sbd / "train.txt") | _names(sbd / "val.txt")
            masks = _by_stem(sbd / "cls", ".mat") | masks
        elif lists.is_dir() and not masks.keys() - listed["train"] - listed["val"]:
            raise FileNotFoundError(f"no masks of SBD below {root}")
        names -= listed["val"]
    expected = voc / "SegmentationClass"
    return [(voc / "JPEGImages" / f"{name}.jpg", masks.get(name, expected / f"{name}.png")) for name in sorted(names)]


def _voc(root: Path) -> Path:
    folders = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
    for name in ("ImageSets/Segmentation", "JPEGImages"):
        for folder in folders:
            if (folder / name).is_dir():
                return folder
    raise FileNotFoundError(f"no folder VOCdevkit/VOC2012 in {root}")


def _labeled(root: Path) -> set[str]:
    """Return the images with labels of AGMM's authors, which must be the same for points and scribbles."""
    found = [source.files(root) for source in VOC.sources if source.name == "agmm_voc"]
    if not (stems := [{path.stem for path in there[1]} for there in found if there is not None]):
        raise FileNotFoundError(f"neither ImageSets nor labels in point or scribble below {root}")
    first, *others = stems
    if others and (different := sorted(first ^ others[0])):
        problem = f"are of different images ({len(different)}, {different[0]} first)"
        raise ValueError(f"{root}: the labels in point and scribble {problem}; complete them or add VOC's ImageSets")
    return first


def _sbd(root: Path) -> Path | None:
    """SBD where its archive extracts, where torchvision moves it, or at the root itself."""
    for folder in (root / "benchmark_RELEASE" / "dataset", root / "sbd", root):
        if (folder / "cls").is_dir():
            return folder
    return None


def _names(path: Path) -> set[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, extract the archive of the data set again")
    try:
        return set(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list of names ({error}); extract the archive of the data set again") from error


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.stem: path for path in image_files.visible(folder, (suffix,))} if folder.is_dir() else {}


def _extend(data: Split, images: Sequence[Path], root: Path, split: str) -> Split:
    """Add objects and boxes, where every image has some, and the clicks of "train"."""
    voc, sbd = _voc(root), _sbd(root)
    published = (*(_clicks(root, images) if split == "train" else ()), *data.published)
    objects = {} if sbd is None else _by_stem(sbd / "inst", ".mat")
    objects |= _by_stem(voc / "SegmentationObject", ".png")
    return replace(
        data,
        instances=_if_all(images, objects, _read_objects),
        boxes=_if_all(images, _by_stem(voc / "Annotations", ".xml"), _read_boxes),
        # Files of AGMM's authors come first: whoever has put them there wants these, not drawings that resemble them.
        published=tuple(sorted(published, key=lambda labels: labels.name != "agmm_voc")),
    )


def _if_all(images: Sequence[Path], files: Mapping[str, Path], read: Callable[[Pair], Any]) -> OnDemand | None:
    """Labels of every image, None unless all have some: labels of one run must all be made in one way."""
    if any(image.stem not in files for image in images):
        return None
    return OnDemand(read, [(image, files[image.stem]) for image in images])


def _read_objects(two: Pair) -> np.ndarray:
    image, path = two
    if path.suffix == ".mat":
        return image_files.read_sbd(path, "GTinst", image_files.read_size(image))
    return image_files.read_index_of(two)


def _read_boxes(two: Pair) -> Boxes:
    return label_files.read_boxes(two[1], CLASS_NAMES, image_files.read_size(two[0]))


def _read_scribbles(path: Path, size: tuple[int, int]) -> np.ndarray:
    return drawing.draw(label_files.read_scribbles(path, SCRIBBLESUP_CLASSES, size), size)


def _clicks(root: Path, images: Sequence[Path], classes: Sequence[int] = range(21)) -> tuple[Published, ...]:
    """Clicks on some classes and the background: without the latter, nothing would teach what is background."""
    foreground, background = (root / name for name in CLICKS)
    if not foreground.exists() and not background.exists():
        return ()
    clicks = label_files.read_clicks(foreground, background)
    count = sum(image.stem in clicks for image in images)
    if count < 0.99 * len(images):
        files = f"{foreground} and {background.name}"
        raise ValueError(f"{files} list {count} of {len(images)} training images; get the whole files")
    description = "What's the Point clicks and background clicks from scribbles, 3 pixels wide"
    return (
        Published("points", "whats_the_point", description, OnDemand(partial(_draw_clicks, clicks, classes), images)),
    )


def _draw_clicks(clicks: Mapping[str, tuple[Shape, ...]], classes: Sequence[int], image: Path) -> np.ndarray:
    of_classes = [shape for shape in clicks.get(image.stem, ()) if shape.code in classes]
    coded = [replace(shape, code=classes.index(shape.code)) for shape in of_classes]
    return drawing.draw(coded, image_files.read_size(image))


_AGMM = png(codes(range(21), unlabeled=[21], void=[255]))
_RLOSS = png(codes(range(21), unlabeled=[255], void=[254]))
_SPML = png(codes(range(21), unlabeled=range(21, 256)))  # 255 is the padding of their crops; files hold none


def _beside(*folders: str) -> tuple[str, ...]:
    """Patterns of PNG files in folders beside VOC's own, or beside its devkit."""
    places = ("", "VOCdevkit/VOC2012/", "VOCdevkit/", "VOC2012/")
    return tuple(f"{place}{folder}/[!.]*.png" for folder in folders for place in places)


# Flat as in AGMM's archives, or in a folder as TEL ships them, whose codes are taken to be the same: no document says
# them, and TEL's own drawing has 255 for unlabeled, which `agmm.data.public.dense_labels` reports. SPML's lists name
# its scribbles of width 3; where its points lie is not known.
_POINTS_AT = f"{AT_AGMM}; clicks in {' and '.join(CLICKS)} do as well"
_POINT, _SCRIBBLE = _beside("point", "point/segcls"), _beside("scribble", "scribble/seginst")
_DILATED = _beside("scribble/dilate_3")

VOC = DataSet(
    name="voc",
    title="PASCAL VOC",
    class_names=CLASS_NAMES,
    codes=codes(range(21), void=[255]),
    counts={"train": 10_582, "val": 1_449},
    pairs=_pairs,
    how_to_get=(
        "{root} must hold VOCdevkit/VOC2012 with JPEGImages, ImageSets/Segmentation and SegmentationClass, and for "
        "training also SBD in benchmark_RELEASE/dataset or the folder SegmentationClassAug in VOC2012; or, as the "
        "README of AGMM-SASS has it, JPEGImages, SegmentationClass with the masks of both, point and scribble; "
        "`agmm download voc --data-root {root}` fetches them"
    ),
    background=0,
    sources=(
        Source("points", "agmm_voc", "points published by the authors of AGMM", _AGMM, also=_POINT, home=_POINTS_AT),
        Source("points", "spml", "points published by the authors of SPML", _SPML),
        Source(
            "scribbles", "agmm_voc", "scribbles published by the authors of AGMM", _AGMM, also=_SCRIBBLE, home=AT_AGMM
        ),
        Source("scribbles", "scribblesup", "scribbles of ScribbleSup, 3 pixels wide", _read_scribbles, suffix=".xml"),
        Source("scribbles", "rloss_scribbles", "scribbles of ScribbleSup as drawn by the authors of rloss", _RLOSS),
        Source("scribbles", "spml", "scribbles published by the authors of SPML", _SPML, also=_DILATED),
    ),
    regions=True,
    extend=_extend,
)


# --- Without SBD: VOC's own lists, and the animals of them, for a CPU -------------------------------------------------

ANIMALS = (0, 8, 10, 12, 13, 15, 17)  # VOC's codes of the classes of `VOC_ANIMALS`
_ANIMALS_ALONE = tuple(code for code in ANIMALS if CLASS_NAMES[code] not in ("background", "person"))


def _listed_pairs(root: Path, split: str) -> list[Pair]:
    voc = _voc(root)
    masks = _by_stem(voc / "SegmentationClass", ".png") | _by_stem(voc / "SegmentationClassAug", ".png")
    names = sorted(_names(voc / "ImageSets" / "Segmentation" / f"{split}.txt"))
    expected = voc / "SegmentationClass"
    return [(voc / "JPEGImages" / f"{name}.jpg", masks.get(name, expected / f"{name}.png")) for name in names]


def _animal_pairs(root: Path, split: str) -> list[Pair]:
    pairs = _listed_pairs(root, split)
    with ThreadPoolExecutor() as threads:
        shown = threads.map(_shows_animal, (mask for _, mask in pairs))
        return [two for two, animal in zip(pairs, shown, strict=True) if animal]


def _shows_animal(mask: Path) -> bool:
    """A mask that is missing or damaged is named when it is asked for."""
    try:
        return bool(np.isin(image_files.read_index(mask), _ANIMALS_ALONE).any())
    except (FileNotFoundError, ValueError):
        return True


def _clicks_alone(classes: Sequence[int], data: Split, images: Sequence[Path], root: Path, split: str) -> Split:
    return replace(data, published=_clicks(root, images, classes)) if split == "train" else data


VOC_1464 = replace(
    VOC,
    name="voc_1464",
    title="PASCAL VOC, own lists",
    counts={"train": 1_464, "val": 1_449},
    pairs=_listed_pairs,
    how_to_get=(
        "{root} must hold VOCdevkit/VOC2012 with JPEGImages, ImageSets/Segmentation and SegmentationClass or "
        "SegmentationClassAug, and beside VOCdevkit the files " + " and ".join(CLICKS) + "; `agmm download voc "
        "--data-root {root}` fetches them"
    ),
    sources=(),
    regions=False,
    extend=partial(_clicks_alone, range(21)),
    in_papers=False,
)
"""The 1,464 training images of VOC's own list, without SBD's. Clicks are the published ones, all other labels are
simulated from masks."""
VOC_ANIMALS = replace(
    VOC_1464,
    name="voc_animals",
    title="PASCAL VOC, animals",
    class_names=tuple(CLASS_NAMES[code] for code in ANIMALS),
    codes=codes(ANIMALS, void=[*sorted({*range(21)} - {*ANIMALS}), 255]),
    counts={"train": 439, "val": 445},
    pairs=_animal_pairs,
    extend=partial(_clicks_alone, ANIMALS),
)
"""The images of these lists that show a cat, cow, dog, horse or sheep, of which classes each is frequent enough to be
judged; objects of others are void."""

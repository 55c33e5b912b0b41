"""PASCAL VOC 2012 with the masks of SBD: 10,582 training and 1,449 validation images of many sizes, read on demand.

Below the data root lie VOC in ``VOCdevkit/VOC2012`` and SBD in ``benchmark_RELEASE/dataset``, as their archives
extract, or VOC with a folder ``SegmentationClassAug`` instead of SBD. Published sparse labels are found beside them:
``voc_whats_the_point.json`` with ``voc_whats_the_point_bg_from_scribbles.json``, and folders of one file per image that
are named after form and publisher (``points/agmm_voc``, ``scribbles/scribblesup`` …, see `agmm.data.public.published`),
and over-segmentations (see `agmm.data.regions`). Boxes are those of VOC's own ``Annotations``.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from agmm.codes import VOID
from agmm.data import image_files, regions
from agmm.data.public import label_files, published
from agmm.data.public.label_files import Boxes, Click
from agmm.data.public.published import Source
from agmm.data.split import OnDemand, Published, Split

CLASS_NAMES = label_files.VOC_CLASSES
PALETTE = tuple(
    tuple(sum((k >> (3 * j + channel) & 1) << (7 - j) for j in range(8)) for channel in range(3))
    for k in range(len(CLASS_NAMES))
)
COUNTS = {"train": 10_582, "val": 1_449}

CLICKS = ("voc_whats_the_point.json", "voc_whats_the_point_bg_from_scribbles.json")
"""Foreground and background clicks; one without the other is refused."""

SOURCES = (
    Source("points", "agmm_voc", "points published by the authors of AGMM"),
    Source("points", "spml", "points published by the authors of SPML"),
    Source("scribbles", "scribblesup", "scribbles of ScribbleSup, 3 pixels wide", suffix=".xml"),
    Source("scribbles", "agmm_voc", "scribbles published by the authors of AGMM"),
    Source("scribbles", "rloss_scribbles", "scribbles of ScribbleSup as drawn by the authors of rloss"),
    Source("scribbles", "spml", "scribbles published by the authors of SPML"),
)
"""In the order of preference, after the clicks."""

_CODES = {**{k: k for k in range(len(CLASS_NAMES))}, 255: VOID}
_LAYOUT = (
    "VOCdevkit/VOC2012 with JPEGImages, ImageSets/Segmentation and SegmentationClass, and for training also SBD in "
    "benchmark_RELEASE/dataset or the folder SegmentationClassAug in VOC2012"
)


def load(root: Path, split: str) -> Split:
    """
    Find the files of one split; they are read when asked for.

    Parameters
    ----------
    root : Path
        Folder with ``VOCdevkit/VOC2012``, or one of these two themselves, and SBD beside.
    split : {"train", "val"}
        "train" is VOC's train and SBD's train and val, without VOC's val. VOC's own mask is taken where there is one,
        then that of ``SegmentationClassAug``, then SBD's.

    Returns
    -------
    Split
        With objects where every image of the split has an object mask, with boxes where every image has its
        annotations, and with the published labels and regions of "train".

    Raises
    ------
    FileNotFoundError
        If a folder is missing.
    ValueError
        If a listed image or mask is missing, or published labels or regions are incomplete.

    Warns
    -----
    UserWarning
        If the number of images is not the published one.
    """
    root = Path(root)
    pairs = _pairs(root, split)
    if len(pairs) != COUNTS[split]:
        warnings.warn(f"VOC {split} in {root} has {len(pairs)} images, not {COUNTS[split]}", stacklevel=2)
    images, masks = ([two[i] for two in pairs] for i in (0, 1))
    return Split(
        dataset="voc",
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in images),
        images=OnDemand(image_files.read_image, images),
        truth=OnDemand(partial(image_files.read_mask, codes=_CODES), masks),
        background=0,
        instances=_instances(root, images),
        published=_published(root, images) if split == "train" else (),
        boxes=_boxes(root, images),
        regions=regions.find(root, images) if split == "train" else None,
    )


def check(root: Path, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of the splits once, what is published included, and return one sentence per problem."""
    pairs = {split: _pairs(Path(root), split) for split in splits}
    images = [image for image, _ in pairs.get("train", ())]
    problems = published.check_all(pairs.values(), _CODES, _published(Path(root), images))
    problems += regions.check(regions.find(Path(root), images))
    boxes = _boxes(Path(root), images)
    for two in boxes.keys if boxes else ():
        try:
            _read_boxes(two)
        except ValueError as error:
            problems.append(str(error))
    return problems


# --- Images and masks -------------------------------------------------------------------------------------------------


def _pairs(root: Path, split: str) -> list[image_files.Pair]:
    if split not in COUNTS:
        raise ValueError(f"VOC: unknown split {split!r}, choose one of {', '.join(COUNTS)}")
    voc, sbd = _voc(root), _sbd(root)
    augmented = _by_stem(voc / "SegmentationClassAug", ".png")
    masks = augmented | _by_stem(voc / "SegmentationClass", ".png")
    names = val = _names(voc / "ImageSets" / "Segmentation" / "val.txt")
    if split == "train":
        names = _names(voc / "ImageSets" / "Segmentation" / "train.txt") | augmented.keys()
        if sbd is not None:
            names |= _names(sbd / "train.txt") | _names(sbd / "val.txt")
            masks = _by_stem(sbd / "cls", ".mat") | masks
        elif not augmented:
            raise FileNotFoundError(f"VOC: no masks of SBD below {root}; {_wanted(root)}")
        names -= val
    images = _by_stem(voc / "JPEGImages", ".jpg")
    problems = [f"{name}: listed, but there is no JPEGImages/{name}.jpg" for name in sorted(names - images.keys())]
    problems += [f"{name}: listed, but there is no mask of it" for name in sorted(names - masks.keys())]
    image_files.raise_if_bad(problems, f"VOC {split} in {root} is incomplete, extract its archives again")
    return [(images[name], masks[name]) for name in sorted(names)]


def _voc(root: Path) -> Path:
    for folder in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise FileNotFoundError(f"VOC: no folder VOCdevkit/VOC2012 in {root}; {_wanted(root)}")


def _sbd(root: Path) -> Path | None:
    """SBD where its archive extracts, where torchvision moves it, or at the root itself."""
    for folder in (root / "benchmark_RELEASE" / "dataset", root / "sbd", root):
        if (folder / "cls").is_dir():
            return folder
    return None


def _wanted(root: Path) -> str:
    return f"{root} must hold {_LAYOUT}; `agmm download voc --data-root {root}` fetches them"


def _names(path: Path) -> set[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; extract the archive of the data set again")
    try:
        return set(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list of names ({error}); extract the archive of the data set again") from error


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Files by name without suffix; none where there is no folder."""
    return {path.stem: path for path in folder.iterdir() if path.suffix == suffix} if folder.is_dir() else {}


def _instances(root: Path, images: Sequence[Path]) -> OnDemand | None:
    """Object masks, None unless every image has one: labels of one run must all be simulated in one way."""
    voc, sbd = _voc(root), _sbd(root)
    masks = {} if sbd is None else _by_stem(sbd / "inst", ".mat")
    masks |= _by_stem(voc / "SegmentationObject", ".png")
    if any(image.stem not in masks for image in images):
        return None
    return OnDemand(_read_objects, [masks[image.stem] for image in images])


def _boxes(root: Path, images: Sequence[Path]) -> OnDemand[Boxes] | None:
    """Annotated boxes, None unless every image has some, for the same reason."""
    found = _by_stem(_voc(root) / "Annotations", ".xml")
    if any(image.stem not in found for image in images):
        return None
    return OnDemand(_read_boxes, [(image, found[image.stem]) for image in images])


def _read_boxes(two: tuple[Path, Path]) -> Boxes:
    image, path = two
    return label_files.read_boxes(path, image_files.read_size(image))


def _read_objects(path: Path) -> np.ndarray:
    return image_files.read_sbd(path, "GTinst") if path.suffix == ".mat" else label_files.read_index(path)


# --- Published labels -------------------------------------------------------------------------------------------------


def _published(root: Path, images: Sequence[Path]) -> tuple[Published, ...]:
    found: list[Published] = []
    foreground, background = (root / name for name in CLICKS)
    if foreground.exists() or background.exists():
        drawn = partial(_draw_clicks, _read_clicks(foreground, background, images))
        description = "What's the Point clicks and background clicks from scribbles, 3 pixels wide"
        found.append(Published("points", "whats_the_point", description, OnDemand(drawn, images)))
    return (*found, *published.find(root, SOURCES, images))


def _read_clicks(foreground: Path, background: Path, images: Sequence[Path]) -> dict[str, tuple[Click, ...]]:
    """The clicks of each image, on the background as well: without those, nothing would teach what is background."""
    clicks = label_files.read_clicks(foreground, background)
    found = sum(image.stem in clicks for image in images)
    if found < 0.99 * len(images):
        raise ValueError(
            f"{foreground} and {background.name} list {found} of {len(images)} training images; get the whole files"
        )
    return clicks


def _draw_clicks(clicks: dict[str, tuple[Click, ...]], image: Path) -> np.ndarray:
    return label_files.draw_clicks(clicks.get(image.stem, ()), image_files.read_size(image))

"""A folder of the user's images with sparse labels of any of the formats: listed, checked, and drawn.

`survey` lists what belongs together and `render` makes training labels of it; `agmm.data.own.prepared` writes both to a
folder of our layout. Class codes are 0 … K-1 in the order of the class names; masks hold these, 254 (unlabeled) and 255
(void), as index or gray value.
"""

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import agmm.labels
from agmm.codes import UNLABELED, VOID
from agmm.data import image_files
from agmm.data.own import annotations
from agmm.data.own.annotations import Annotation, Shape
from agmm.labels import from_boxes

BACKGROUND = "background"
"""The class name, in any case, that means "nothing of the others"."""

NOTHING_LABELED = "no image has a labeled pixel; label a few, or correct the codes of the masks"


@dataclass
class Survey:
    """Files in the user's folders, and what is wrong with them."""

    names: tuple[str, ...]  # of the K classes
    images: dict[str, Path]  # by stem, sorted
    masks: dict[str, Path] = field(default_factory=dict)  # by stem, as are the next two
    annotated: dict[str, list[Annotation]] = field(default_factory=dict)  # one for each file
    truth: dict[str, Path] = field(default_factory=dict)  # dense masks
    problems: list[str] = field(default_factory=list)  # a sentence each; nothing is trained as long as there is one
    notes: list[str] = field(default_factory=list)  # sentences about what is odd but no mistake

    @property
    def background(self) -> int | None:
        """The code of the class that is called background, or None."""
        return next((code for code, name in enumerate(self.names) if name.lower() == BACKGROUND), None)

    @property
    def labeled(self) -> list[str]:
        """The stems of the images with labels other than tags."""
        drawn = {stem for stem in self.annotated if any(shape.kind != "tag" for shape in self.shapes(stem))}
        return sorted((self.masks.keys() | drawn) & self.images.keys())

    def shapes(self, stem: str) -> list[Shape]:
        """Return the shapes of an image in all annotation files."""
        return [shape for annotation in self.annotated[stem] for shape in annotation.shapes]


@dataclass(eq=False)
class Sample:
    """An image with its labels and its truth in the working size, or a sentence about what is wrong with them."""

    stem: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None
    problem: str = ""


def class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one a line, the first of code 0; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as class names ({error}); write a text file with a name a line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not 2 <= len(names) <= UNLABELED:
        what = f"names {twice[0]!r} twice" if twice else f"holds {len(names)} class names"
        raise ValueError(f"{path}: {what}; write 2 to {UNLABELED} different names, one a line")
    return names


def images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their stems, sorted.

    Raises
    ------
    ValueError
        If there is no such folder, no image in it, or two with one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images; check --images")
    files: dict[str, Path] = {}
    for path in _files(folder, annotations.SUFFIXES):
        if path.stem in files:
            raise ValueError(f"{path}: a second image beside {files[path.stem].name}; rename or remove one of them")
        files[path.stem] = path
    if not files:
        raise ValueError(f"{folder}: holds no image; images end in {', '.join(annotations.SUFFIXES)}")
    return files


def dense_masks(folder: Path, stems: Container[str]) -> dict[str, Path]:
    """Return the PNG masks of a folder by stem; raise ValueError if there is none of an image in ``stems``."""
    masks = {path.stem: path for path in _files(folder, (".png",)) if path.stem in stems} if folder.is_dir() else {}
    if not masks:
        raise ValueError(f"{folder}: no folder with a PNG mask named as an image; check --truth")
    return masks


def survey(folder: str | Path, labels: str | Path, classes: str | Path, truth: str | Path | None = None) -> Survey:
    """List images, labels and dense truth, and read all annotation files.

    Parameters
    ----------
    folder : path
        Folder of images.
    labels : path
        Folder of masks (PNG) and annotation files, or one such file. It may be the folder of the images; then PNG files
        are images.
    classes : path
        See `class_names`.
    truth : path, optional
        Folder of dense masks.

    Raises
    ------
    ValueError
        If a folder or the class names are missing. All other mistakes are in ``problems``.
    """
    listed = Survey(class_names(Path(classes)), images(Path(folder)))
    problems, labels = listed.problems, Path(labels)
    if not labels.exists():
        raise ValueError(f"{labels}: no such file or folder of labels; check --labels")
    if labels.is_file() or not labels.samefile(folder):
        for path in _files(labels, (".png",)):
            if path.stem in listed.images:
                listed.masks[path.stem] = path
            else:
                problems.append(f"{path}: no image has this name; add the image or remove the mask")
    for path in _files(labels, tuple(annotations.READERS)):
        _read_annotations(listed, path)
    for stem in listed.masks.keys() & listed.annotated.keys():
        other = listed.annotated[stem][0].file
        problems.append(f"{listed.masks[stem]}: its image is also in {other}; keep one of them")
    listed.truth = {} if truth is None else dense_masks(Path(truth), listed.images)
    labeled = listed.labeled
    if not labeled and not problems:
        problems.append(_nothing_labeled(listed, labels))
    tags = listed.annotated.keys() - set(labeled)
    if tags and labeled:
        listed.notes.append(f"{len(tags)} images carry no label on pixels (tags at most) and are not learned from")
    return listed


def _nothing_labeled(listed: Survey, labels: Path) -> str:
    if any(listed.shapes(stem) for stem in listed.annotated):
        return f"{labels}: holds nothing but tags of whole images, from which this cannot learn well; add a few clicks"
    kinds = ", ".join((".png", *annotations.READERS))
    return f"{labels}: labels no image of the folder; files end in {kinds} and name images as they are called"


def _read_annotations(listed: Survey, path: Path) -> None:
    """Add the annotations of a file to the survey, or the problem with it."""
    try:
        content = annotations.read(path, listed.names)
    except (ValueError, OSError) as error:
        listed.problems.append(str(error))
        return
    for stem, annotation in content.items():
        if stem in listed.images:  # tools and people may split the work over several files
            listed.annotated.setdefault(stem, []).append(annotation)
        elif annotation.shapes:
            missing = f"{path}: labels the image {stem!r}, which is not in the folder of images; add it"
            listed.problems.append(missing)


# --- Images with labels -----------------------------------------------------------------------------------------------


def render(listed: Survey, side: int, width: int = 3) -> Iterator[Sample]:
    """Yield all images with labels or dense truth, in order, with training labels in the codes of `agmm.labels`.

    Points, lines and polygons are drawn in the image's own size and shrunk with it so that no click is lost. In each
    box GrabCut finds the object; the rest of the image is background, if a class is called so, else unlabeled.

    Parameters
    ----------
    listed : Survey
    side : int
        Longer side that larger images are shrunk to.
    width : int
        Width of points and lines in pixels.
    """
    stems = sorted({*listed.labeled, *listed.truth})
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as threads:
        for start in range(0, len(stems), 64):  # the threads must not run far ahead of the caller
            yield from threads.map(partial(_sample, listed, side, width), stems[start : start + 64])


def working_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (H, W) of an image whose longer side is brought down to ``side``; smaller images keep their size."""
    scale = min(1.0, side / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Return an (H, W, 3) uint8 image in its `working_size`."""
    size = working_size(image.shape[:2], side)
    if size == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def read_mask(path: Path, names: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Read a mask in the codes of `agmm.labels`, (H, W) uint8; raise ValueError if a code or the size is wrong."""
    mask = image_files.read_index(path, size)
    known = {*range(len(names)), UNLABELED, VOID}
    if unknown := [code for code in np.unique(mask).tolist() if code not in known]:
        raise ValueError(
            f"{path}: holds code {unknown[0]}; masks hold 0 … {len(names) - 1} in the order of the class names, "
            f"{UNLABELED} where nothing is labeled, {VOID} for what is to be ignored"
        )
    return mask


def _sample(listed: Survey, side: int, width: int, stem: str) -> Sample:
    try:
        image = image_files.read_image(listed.images[stem], upright=True)
        size, small = image.shape[:2], shrink(image, side)
        sample = Sample(stem, small)
        if stem in listed.masks:
            mask = read_mask(listed.masks[stem], listed.names, size)
            sample.labels = agmm.labels.resize_labels(mask, small.shape[:2])
        elif stem in listed.annotated:
            sample.labels = _draw(listed, stem, small, size, width)
        if stem in listed.truth:
            truth = read_mask(listed.truth[stem], listed.names, size)
            sample.truth = agmm.labels.resize_labels(truth, small.shape[:2], clicks="nearest")
        return sample
    except (ValueError, OSError) as error:
        return Sample(stem, problem=str(error))


def _draw(listed: Survey, stem: str, image: np.ndarray, size: tuple[int, int], width: int) -> np.ndarray:
    """Draw labels in the size of the shrunken image: clicks, lines and polygons in front of boxes."""
    for annotation in listed.annotated[stem]:
        annotations.check_places(annotation, size)
    shapes = listed.shapes(stem)
    drawn = agmm.labels.resize_labels(annotations.draw(shapes, size, width), image.shape[:2])
    boxes = annotations.boxes(shapes, image.shape[:2], image.shape[1] / size[1])
    if not boxes.codes:
        return drawn
    rng = agmm.labels.generator(0, "own", stem, "grabcut")
    labels = from_boxes.grabcut(from_boxes.BoxedImage(image, boxes, rng, listed.background))
    return np.where(drawn == UNLABELED, labels, drawn)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the visible files of a folder with one of the endings, sorted; of a file that file, if it has one."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    return [
        path for path in files if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]

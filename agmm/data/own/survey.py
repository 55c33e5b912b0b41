"""A folder of the user's images with sparse labels of any of the formats: found, checked, and drawn.

`survey` finds what belongs together and `render` makes training labels of it; `agmm.data.own.prepared` writes both to a
folder of our layout. Class codes are 0 … K-1 in the order of the class names; masks hold these, 254 (unlabeled) and 255
(void), as index or gray value.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
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
from agmm.data.own.annotations import Annotation
from agmm.labels import from_boxes

BACKGROUND = "background"
"""The class name, in any case, that means "nothing of the others"."""

NOTHING_LABELED = "no image has a labeled pixel; label a few, or correct the codes of the masks"


@dataclass
class Survey:
    """What lies in the user's folders.

    Attributes
    ----------
    names : tuple of str
        The K class names.
    images : dict
        Stem to file, sorted.
    masks, drawn, truth : dict
        Stem to the file of its mask, to what each annotation file says of it, to the file of its dense mask.
    problems : list of str
        A sentence each; nothing is trained as long as there is one.
    notes : list of str
        What is worth knowing and no mistake.
    """

    names: tuple[str, ...]
    images: dict[str, Path]
    masks: dict[str, Path] = field(default_factory=dict)
    drawn: dict[str, list[Annotation]] = field(default_factory=dict)
    truth: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def background(self) -> int | None:
        """Code of the background, if one of the classes is called so."""
        return next((code for code, name in enumerate(self.names) if name.lower() == BACKGROUND), None)

    @property
    def labeled(self) -> list[str]:
        """Stems of the images with labels, those with nothing but tags left out."""
        drawn = [
            stem for stem, found in self.drawn.items() if any(s.kind != "tag" for one in found for s in one.shapes)
        ]
        return sorted({*self.masks, *drawn} & self.images.keys())


@dataclass(eq=False)
class Sample:
    """An image as it is learned from, in its working size, or what is wrong with it."""

    stem: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None
    problem: str = ""


def class_names(path: Path) -> tuple[str, ...]:
    """Names in a text file, one a line, the first of code 0; empty lines do not count."""
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
    """Image files of a folder by their stems, sorted.

    Raises
    ------
    ValueError
        If there is no such folder, no image in it, or two of one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images; check --images")
    found: dict[str, Path] = {}
    for path in _files(folder, annotations.SUFFIXES):
        if path.stem in found:
            raise ValueError(f"{path}: a second image beside {found[path.stem].name}; rename or remove one of them")
        found[path.stem] = path
    if not found:
        raise ValueError(f"{folder}: holds no image; images end in {', '.join(annotations.SUFFIXES)}")
    return found


def dense_masks(folder: Path, listed: dict[str, Path]) -> dict[str, Path]:
    """PNG masks of a folder by stem, those of images that are listed; ValueError where there is none."""
    masks = {path.stem: path for path in _files(folder, (".png",)) if path.stem in listed} if folder.is_dir() else {}
    if not masks:
        raise ValueError(f"{folder}: no folder with a PNG mask named as an image; check --truth")
    return masks


def survey(images_in: Path, labels: Path, classes: Path, truth: Path | None = None) -> Survey:
    """Find images, labels and dense truth, and read all annotation files.

    Parameters
    ----------
    images_in : Path
        Folder of images.
    labels : Path
        Folder of masks (PNG) and annotation files, or one such file. It may be the folder of the images; then PNG files
        are images.
    classes : Path
        See `class_names`.
    truth : Path, optional
        Folder of dense masks.

    Raises
    ------
    ValueError
        If a folder or the class names are missing. All other mistakes are in ``problems``.
    """
    found = Survey(class_names(classes), images(images_in))
    if not labels.exists():
        raise ValueError(f"{labels}: no such file or folder of labels; check --labels")
    if labels.is_file() or not labels.samefile(images_in):
        masks = {path.stem: path for path in _files(labels, (".png",))}
        found.masks = {stem: path for stem, path in masks.items() if stem in found.images}
        found.problems += [
            f"{masks[stem]}: no image has this name; add the image or remove the mask"
            for stem in masks.keys() - found.masks.keys()
        ]
    for path in _files(labels, tuple(annotations.READERS)):
        _read_annotations(found, path)
    for stem in found.masks.keys() & found.drawn.keys():
        found.problems.append(
            f"{found.masks[stem]}: its image is also in {found.drawn[stem][0].file}; keep one of them"
        )
    found.truth = {} if truth is None else dense_masks(truth, found.images)
    if not found.labeled and not found.problems:
        found.problems.append(_nothing_labeled(found, labels))
    tags = sorted(found.drawn.keys() - set(found.labeled))
    if tags and found.labeled:
        found.notes.append(f"{len(tags)} images carry no label on pixels (tags at most) and are not learned from")
    return found


def _nothing_labeled(found: Survey, labels: Path) -> str:
    if any(one.shapes for annotated in found.drawn.values() for one in annotated):
        return f"{labels}: holds nothing but tags of whole images, from which this cannot learn well; add a few clicks"
    kinds = ", ".join((".png", *annotations.READERS))
    return f"{labels}: labels no image of the folder; files end in {kinds} and name images as they are called"


def _read_annotations(found: Survey, path: Path) -> None:
    try:
        read = annotations.read(path, found.names)
    except (ValueError, OSError) as error:
        found.problems.append(str(error))
        return
    for stem, annotation in read.items():
        if stem not in found.images:
            if annotation.shapes:
                found.problems.append(
                    f"{path}: labels the image {stem!r}, which is not in the folder of images; add it"
                )
        else:  # tools and people may split the work over several files
            found.drawn.setdefault(stem, []).append(annotation)


# --- Images with labels -----------------------------------------------------------------------------------------------


def render(found: Survey, side: int, width: int = 3) -> Iterator[Sample]:
    """All labeled images and those with dense truth, in order, with training labels in the codes of `agmm.labels`.

    Points, lines and polygons are drawn in the image's own size and shrunk with it so that no click is lost. In each
    box GrabCut finds the object; the rest of the image is background, if a class is called so, else unlabeled.

    Parameters
    ----------
    found : Survey
    side : int
        Longer side that larger images are shrunk to.
    width : int
        Of points and lines.
    """
    stems = sorted({*found.labeled, *found.truth})
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as threads:
        for start in range(0, len(stems), 64):  # the threads must not run ahead of who takes the images
            yield from threads.map(partial(_sample, found, side, width), stems[start : start + 64])


def working_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is brought down to ``side``; small images stay."""
    scale = min(1.0, side / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """An (H, W, 3) uint8 image in its `working_size`."""
    size = working_size(image.shape[:2], side)
    return (
        image
        if size == image.shape[:2]
        else np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    )


def read_mask(path: Path, names: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """A mask in the codes of `agmm.labels`, (H, W) uint8; ValueError where a code or the size is another."""
    mask = image_files.read_index(path, size)
    unknown = [code for code in np.unique(mask).tolist() if code not in (*range(len(names)), UNLABELED, VOID)]
    if unknown:
        raise ValueError(
            f"{path}: holds code {unknown[0]}; masks hold 0 … {len(names) - 1} in the order of the class names, "
            f"{UNLABELED} where nothing is labeled, {VOID} for what is to be ignored"
        )
    return mask


def _sample(found: Survey, side: int, width: int, stem: str) -> Sample:
    try:
        image = image_files.read_image(found.images[stem], upright=True)
        size = image.shape[:2]
        small, sample = shrink(image, side), Sample(stem)
        if stem in found.masks:
            sample.labels = agmm.labels.resize_labels(read_mask(found.masks[stem], found.names, size), small.shape[:2])
        elif stem in found.drawn:
            sample.labels = _draw(found, stem, small, size, width)
        if stem in found.truth:
            truth = read_mask(found.truth[stem], found.names, size)
            sample.truth = agmm.labels.resize_labels(truth, small.shape[:2], clicks="nearest")
        sample.image = small
        return sample
    except (ValueError, OSError) as error:
        return Sample(stem, problem=str(error))


def _draw(found: Survey, stem: str, image: np.ndarray, size: tuple[int, int], width: int) -> np.ndarray:
    """Labels in the size of the shrunken image: clicks, lines and polygons before what boxes say."""
    for annotation in found.drawn[stem]:
        annotations.check_places(annotation, size)
    shapes = [shape for annotation in found.drawn[stem] for shape in annotation.shapes]
    drawn = agmm.labels.resize_labels(annotations.draw(shapes, size, width), image.shape[:2])
    codes, corners = annotations.boxes(shapes, image.shape[:2], image.shape[1] / size[1])
    if not codes:
        return drawn
    rng = agmm.labels.generator(0, "own", stem, "grabcut")
    labels = from_boxes.grabcut(image, codes, corners, rng, background=found.background)
    labels[drawn != UNLABELED] = drawn[drawn != UNLABELED]
    return labels


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Visible files of a folder with one of the endings, sorted; of a file that file, if it has one."""
    listed = [folder] if folder.is_file() else sorted(folder.iterdir())
    return [
        path for path in listed if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]

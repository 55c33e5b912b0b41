"""A folder of the user's images with sparse labels of any of the formats: surveyed, prepared, and read as a data set.

`survey` finds what belongs together, `render` makes training labels of it, `prepare` writes both, images brought to a
working size, to a folder of our layout, and `load` reads that as a `Split`. Class codes are 0 … K-1 in the order of the
class names; masks hold these, 254 (unlabeled) and 255 (void), as index or gray value.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import agmm.labels
from agmm import seeds, storage
from agmm.data import OnDemand, Published, Split, annotations, files, label_files
from agmm.data.annotations import Annotation
from agmm.labels import UNLABELED, VOID

BACKGROUND = "background"
"""The class name, in any case, that means "nothing of the others"."""

COMMON = 0.5
"""Images with a class that is in a smaller share of them are shown more often: sqrt(COMMON / share) times."""


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
            f"{masks[stem]}: no image has this name; add it" for stem in masks.keys() - found.masks.keys()
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
    mask = label_files.read_index(path, size)
    unknown = [code for code in np.unique(mask).tolist() if code not in (*range(len(names)), UNLABELED, VOID)]
    if unknown:
        raise ValueError(
            f"{path}: holds code {unknown[0]}; masks hold 0 … {len(names) - 1} in the order of the class names, "
            f"{UNLABELED} where nothing is labeled, {VOID} for what is to be ignored"
        )
    return mask


def _sample(found: Survey, side: int, width: int, stem: str) -> Sample:
    try:
        image = files.read_image(found.images[stem], upright=True)
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
    labels = seeds.grabcut(image, codes, corners, rng, background=found.background)
    labels[drawn != UNLABELED] = drawn[drawn != UNLABELED]
    return labels


# --- The prepared folder ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A folder that `prepare` has written, as its ``data.json`` describes it.

    Attributes
    ----------
    names, background
        As of `Survey`.
    side : int
        Longest side of an image.
    width : int
        With which points and lines were drawn.
    train : dict
        Stem to the classes that its labels name.
    validation : tuple of str
    dense : bool
        Whether the validation images have dense truth, or nothing but labels like the others.
    labeled_pixels, labeled_images : tuple of int
        Per class, of the training images.
    digest : str
        Of all that is learned from and validated on.
    """

    names: tuple[str, ...]
    background: int | None
    side: int
    width: int
    train: dict[str, list[int]]
    validation: tuple[str, ...]
    dense: bool
    labeled_pixels: tuple[int, ...]
    labeled_images: tuple[int, ...]
    digest: str


def prepare(found: Survey, folder: Path, *, side: int, width: int = 3, validation: float = 0.2) -> Prepared:
    """Write images, labels and truth in their working size, and ``data.json``, to a folder that does not exist yet.

    Parameters
    ----------
    found : Survey
    folder : Path
    side, width
        As of `render`.
    validation : float
        Share of the labeled images that are put aside to be validated on, always the same ones. If there are images
        with truth and without labels, these are taken instead.

    Raises
    ------
    ValueError
        If anything is wrong with a file; then the folder is left incomplete.
    """
    problems, classes, pixels, digests = list(found.problems), {}, {}, {}
    largest = 1
    for part in ("images", "labels", "truth"):
        (folder / part).mkdir(parents=True)
    for sample in render(found, side, width) if not problems else ():
        if sample.image is None:
            problems.append(sample.problem)
            continue
        kept = {"images": sample.image, "labels": sample.labels, "truth": sample.truth}
        for part, array in kept.items():
            if array is not None:
                _write_png(folder / part / f"{sample.stem}.png", array)
        digests[sample.stem] = [hashlib.sha256(b"" if a is None else a.tobytes()).hexdigest() for a in kept.values()]
        digests[sample.stem].append(str(sample.image.shape))
        largest = max(largest, *sample.image.shape[:2])
        if sample.labels is not None:
            counts = np.bincount(sample.labels.ravel(), minlength=VOID + 1)[: len(found.names)]
            pixels[sample.stem], classes[sample.stem] = counts, np.flatnonzero(counts).tolist()
    raise_first(problems)
    train, aside = _divided(classes, set(found.truth), validation)
    described: dict[str, Any] = {
        "names": found.names,
        "background": found.background,
        "side": largest,
        "width": width,
        "train": {stem: classes[stem] for stem in train},
        "validation": aside,
        "dense": bool(found.truth),
        "labeled_pixels": np.sum([pixels[stem] for stem in train], axis=0).tolist(),
        "labeled_images": np.sum([pixels[stem] > 0 for stem in train], axis=0).tolist(),
    }
    described["digest"] = storage.digest([described, digests], sort_keys=True)
    storage.write_json(folder / "data.json", described)
    return read_prepared(folder)


def read_prepared(folder: Path) -> Prepared:
    """What a prepared folder holds."""
    plain = json.loads((folder / "data.json").read_text())
    fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in plain.items()}
    return Prepared(**fields)


def raise_first(problems: Sequence[str]) -> None:
    """Raise a ValueError with the first problem; pass silently without any."""
    if problems:
        more = f"; and {len(problems) - 1} more problems, which `agmm check` lists" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)


def _divided(classes: dict[str, list[int]], truth: set[str], share: float) -> tuple[list[str], list[str]]:
    """Stems to train and to validate on.

    Where there is truth, only images with it are validated on. The order is that of a hash of the names, so that an
    image stays where it is when others are added; none is put aside that is the last one to train a class on.
    """
    labeled = sorted(stem for stem, named in classes.items() if named)
    if not labeled:
        raise ValueError(NOTHING_LABELED)
    if apart := sorted(truth - set(labeled)):
        return labeled, apart
    left = Counter(code for stem in labeled for code in classes[stem])
    aside: list[str] = []
    wanted = max(1, round(share * len(labeled))) if share else 0
    for stem in sorted(labeled, key=lambda stem: hashlib.sha256(stem.encode()).digest()):
        spare = all(left[code] > 1 for code in classes[stem]) and len(aside) < len(labeled) - 1
        if len(aside) < wanted and spare and (not truth or stem in truth):
            aside.append(stem)
            left.subtract(classes[stem])
    # Without a spare image those that are learned from are measured: better than nothing, and reported as such.
    measured = sorted(aside) or [stem for stem in labeled if not truth or stem in truth]
    return [stem for stem in labeled if stem not in aside], measured


def load(root: Path, split: str, count: int | None = None) -> Split:
    """Split of a prepared folder.

    Parameters
    ----------
    root : Path
        See `prepare`.
    split : {"train", "test"}
        The latter are the validation images. Their truth, and that of training images without dense masks, are labels.
    count : int, optional
        Training images in an epoch: images come several times, those with rare classes more often (`repeated`).
    """
    about = read_prepared(root)
    stems = list(about.train) if split == "train" else list(about.validation)
    if split == "train" and count is not None:
        stems = repeated(about, count)
    labels = [root / "labels" / f"{stem}.png" for stem in stems]
    truth = [
        root / "truth" / f"{stem}.png" if about.dense and split == "test" else path
        for stem, path in zip(stems, labels, strict=True)
    ]
    return Split(
        "own",
        about.names,
        tuple(stems),
        OnDemand(files.read_image, [root / "images" / f"{stem}.png" for stem in stems]),
        OnDemand(label_files.read_index, truth),
        about.background,
        published=(Published("own", "own", "labels of the user's folder", OnDemand(label_files.read_index, labels)),),
    )


def weights(about: Prepared) -> np.ndarray:
    """How often each training image is shown for one with none but common classes, (N,) float >= 1."""
    share = Counter(code for named in about.train.values() for code in named)
    rarity = {code: math.sqrt(max(1.0, COMMON * len(about.train) / number)) for code, number in share.items()}
    return np.array([max(rarity[code] for code in named) for named in about.train.values()])


def repeated(about: Prepared, count: int) -> list[str]:
    """``count`` stems, each at least once if that is possible, and as often as `weights` say."""
    ends = weights(about).cumsum()
    chosen = np.searchsorted(ends, (np.arange(count) + 0.5) * ends[-1] / count)
    return [list(about.train)[index] for index in chosen]


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Visible files of a folder with one of the endings, sorted; of a file that file, if it has one."""
    listed = [folder] if folder.is_file() else sorted(folder.iterdir())
    return [
        path for path in listed if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]


def _write_png(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())


def replace_folder(new: Path, old: Path) -> None:
    """Put a complete folder into the place of another one."""
    if old.exists():
        shutil.rmtree(old)
    os.replace(new, old)

"""A folder of the user's images with sparse labels of any of the formats: listed, checked, drawn, and read as data.

`survey` lists what belongs together, `render` makes training labels of it, `prepare` writes images and labels in their
working size to a folder of our layout, and `load` reads that as a `Split`. Class codes are 0 … K-1 in the order of the
class names; masks hold these, 254 (unlabeled) and 255 (void), as index or gray value.
"""

import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import agmm.labels
from agmm.codes import UNLABELED, VOID
from agmm.data import annotations, image_files
from agmm.data.annotations import Annotation, Shape
from agmm.data.split import OnDemand, Published, Split
from agmm.host import atomic_files
from agmm.labels import from_boxes

COMMON = 0.5
"""Images with a class that is in a smaller share of them are shown more often: sqrt(COMMON / share) times."""

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
        """The code of the class that is called background, in any case of letters, or None."""
        return next((code for code, name in enumerate(self.names) if name.lower() == "background"), None)

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
        problem = f"cannot be read as class names ({error})"
        raise ValueError(f"{path}: {problem}; write a text file with a name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not 2 <= len(names) <= UNLABELED:
        what = f"names {twice[0]!r} twice" if twice else f"holds {len(names)} class names"
        raise ValueError(f"{path}: {what}; write 2 to {UNLABELED} different names, one a line")
    return names


def images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their stems, sorted; ValueError if there are none, or two with one stem."""
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

    ``labels`` is a folder of masks (PNG) and annotation files, or one such file. It may be the folder of the images;
    then PNG files are images. ``classes`` is a file for `class_names`, ``truth`` a folder of dense masks. ValueError if
    a folder or the class names are missing; all other mistakes are in ``problems``.
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
    try:
        content = annotations.read(path, listed.names)
    except (ValueError, OSError) as error:
        listed.problems.append(str(error))
        return
    for stem, annotation in content.items():
        if stem in listed.images:  # tools and people may split the work over several files
            listed.annotated.setdefault(stem, []).append(annotation)
        elif annotation.shapes:
            listed.problems.append(f"{path}: labels the image {stem!r}, which is not in the folder of images; add it")


# --- Images with labels -----------------------------------------------------------------------------------------------


def render(listed: Survey, side: int, width: int = 3) -> Iterator[Sample]:
    """Yield all images with labels or dense truth, in order, with training labels in the codes of `agmm.labels`.

    Larger images are shrunk until their longer side is ``side``. Points and lines, ``width`` pixels wide, and polygons
    are drawn in the image's own size and shrunk with it so that no click is lost. In each box GrabCut finds the object;
    the rest of the image is background, if a class is called so, else unlabeled.
    """
    stems = sorted({*listed.labeled, *listed.truth})
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as threads:
        for start in range(0, len(stems), 64):  # the threads must not run far ahead of the caller
            yield from threads.map(partial(_sample, listed, side, width), stems[start : start + 64])


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Bring the longer side of an (H, W, 3) uint8 image down to ``side``; return smaller images as they are."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def read_mask(path: Path, names: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Read a mask in the codes of `agmm.labels`, (H, W) uint8; raise ValueError if a code or the size is wrong."""
    mask = image_files.read_index(path, size)
    known = {*range(len(names)), UNLABELED, VOID}
    if unknown := [code for code in np.unique(mask).tolist() if code not in known]:
        codes = f"0 … {len(names) - 1} in the order of the class names, {UNLABELED} where nothing is labeled"
        raise ValueError(f"{path}: holds code {unknown[0]}; masks hold {codes}, {VOID} for what is to be ignored")
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


# --- The folder that is trained on ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A folder that `prepare` has written, as its ``data.json`` describes it."""

    names: tuple[str, ...]  # of the K classes
    background: int | None  # its code
    side: int  # longest side of an image
    width: int  # of drawn points and lines, in pixels
    train: dict[str, list[int]]  # classes in the labels of each training image, by stem
    validation: tuple[str, ...]  # stems
    dense: bool  # whether the validation images have dense truth, or nothing but labels like the others
    labeled_pixels: tuple[int, ...]  # per class, of the training images
    labeled_images: tuple[int, ...]
    digest: str  # identity of all images, labels and truth


def prepare(listed: Survey, folder: Path, *, side: int, width: int = 3, validation: float = 0.2) -> Prepared:
    """Write images, labels and truth in their working size, and ``data.json``, to a folder that does not exist yet.

    ``side`` and ``width`` are those of `render`. ``validation`` is the share of the labeled images to validate on,
    always the same ones; images with truth and without labels are taken instead if there are any. ValueError if
    anything is wrong with a file; then the folder is left incomplete.
    """
    raise_first(listed.problems)
    for part in ("images", "labels", "truth"):
        (folder / part).mkdir(parents=True)
    problems, pixels, digests, largest = [], {}, {}, 1
    for sample in render(listed, side, width):
        if sample.image is None:
            problems.append(sample.problem)
            continue
        arrays = {"images": sample.image, "labels": sample.labels, "truth": sample.truth}
        for part, array in arrays.items():
            if array is not None:
                _write_png(folder / part / f"{sample.stem}.png", array)
        sums = [hashlib.sha256(b"" if array is None else array.tobytes()).hexdigest() for array in arrays.values()]
        digests[sample.stem] = [*sums, str(sample.image.shape)]
        largest = max(largest, *sample.image.shape[:2])
        if sample.labels is not None:
            pixels[sample.stem] = np.bincount(sample.labels.ravel(), minlength=VOID + 1)[: len(listed.names)]
    raise_first(problems)
    classes = {stem: np.flatnonzero(counts).tolist() for stem, counts in pixels.items()}
    train, aside = _divide(classes, set(listed.truth), validation)
    content: dict[str, Any] = {
        "names": listed.names,
        "background": listed.background,
        "side": largest,
        "width": width,
        "train": {stem: classes[stem] for stem in train},
        "validation": aside,
        "dense": bool(listed.truth),
        "labeled_pixels": np.sum([pixels[stem] for stem in train], axis=0).tolist(),
        "labeled_images": np.sum([pixels[stem] > 0 for stem in train], axis=0).tolist(),
    }
    content["digest"] = atomic_files.digest([content, digests], sort_keys=True)
    atomic_files.write_json(folder / "data.json", content)
    return read_prepared(folder)


def read_prepared(folder: Path) -> Prepared:
    """Read the description of a prepared folder."""
    content = json.loads((folder / "data.json").read_text())
    fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in content.items()}
    return Prepared(**fields)


def raise_first(problems: Sequence[str]) -> None:
    """Raise a ValueError with the first problem; pass silently without any."""
    if problems:
        more = f"; and {len(problems) - 1} more problems, which `agmm check` lists" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)


def _divide(classes: dict[str, list[int]], truth: set[str], share: float) -> tuple[list[str], list[str]]:
    """Return stems to train and to validate on; where there is truth, only images with it are validated on."""
    labeled = sorted(stem for stem, codes in classes.items() if codes)
    if not labeled:
        raise ValueError(NOTHING_LABELED)
    if apart := sorted(truth - set(labeled)):
        return labeled, apart
    left = Counter(code for stem in labeled for code in classes[stem])
    aside: list[str] = []
    wanted = max(1, round(share * len(labeled))) if share else 0
    # Sorted by a hash, an image stays where it is when others are added; a class keeps its last training image.
    for stem in sorted(labeled, key=lambda stem: hashlib.sha256(stem.encode()).digest()):
        spare = all(left[code] > 1 for code in classes[stem]) and len(aside) < len(labeled) - 1
        if len(aside) < wanted and spare and (not truth or stem in truth):
            aside.append(stem)
            left.subtract(classes[stem])
    # Without a spare image those that are learned from are measured: better than nothing, and reported as such.
    measured = sorted(aside) or [stem for stem in labeled if not truth or stem in truth]
    return [stem for stem in labeled if stem not in aside], measured


def load(root: Path, split: str, count: int | None = None) -> Split:
    """Return a split of a folder that `prepare` has written; "test" are the validation images.

    Truth are dense masks for "test" where there are some, else labels. ``count`` is the number of training images in an
    epoch: they come several times, those with rare classes more often (`repeated`).
    """
    data = read_prepared(root)
    stems = list(data.train) if split == "train" else list(data.validation)
    if split == "train" and count is not None:
        stems = repeated(data, count)
    labels = [root / "labels" / f"{stem}.png" for stem in stems]
    truth = [root / "truth" / path.name for path in labels] if data.dense and split == "test" else labels
    return Split(
        "own",
        data.names,
        tuple(stems),
        OnDemand(image_files.read_image, [root / "images" / f"{stem}.png" for stem in stems]),
        OnDemand(image_files.read_index, truth),
        data.background,
        published=(Published("own", "own", "labels of the user's folder", OnDemand(image_files.read_index, labels)),),
    )


def weights(data: Prepared) -> np.ndarray:
    """Return how often each training image is shown, relative to one with common classes only, (N,) float >= 1."""
    images = Counter(code for codes in data.train.values() for code in codes)
    rarity = {code: math.sqrt(max(1.0, COMMON * len(data.train) / count)) for code, count in images.items()}
    return np.array([max(rarity[code] for code in codes) for codes in data.train.values()])


def repeated(data: Prepared, count: int) -> list[str]:
    """Return ``count`` stems, each at least once if that is possible, and as often as `weights` say."""
    ends = weights(data).cumsum()
    chosen = np.searchsorted(ends, (np.arange(count) + 0.5) * ends[-1] / count)
    return [list(data.train)[index] for index in chosen]


def _write_png(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())

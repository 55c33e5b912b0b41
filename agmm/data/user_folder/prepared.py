"""The folder that is trained on: a user's images and labels in their working size."""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.codes import UNLABELED, VOID
from agmm.data import image_files
from agmm.data.drawing import AREAS
from agmm.data.split import OnDemand, Published, Split
from agmm.data.user_folder.listing import Survey
from agmm.data.user_folder.pictures import Scales
from agmm.data.user_folder.rendering import Sample, render
from agmm.host import atomic_files

COMMON = 0.5
"""Images with a class that is in a smaller share of them are shown more often: sqrt(COMMON / share) times."""

NOTHING_LABELED = "no image has a labeled pixel; label a few, or correct the codes of the masks"


@dataclass
class Tally:
    """Numbers of pixels of each code 0 … 255 in labels and truth, by image, and of what is odd about single shapes."""

    labels: dict[str, np.ndarray] = field(default_factory=dict)
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count what a sample has."""
        for counts, codes in ((self.labels, sample.labels), (self.truth, sample.truth)):
            if codes is not None:
                counts[sample.stem] = np.bincount(codes.ravel(), minlength=VOID + 1)
        self.notes.update(sample.notes)

    def judge(self, listed: Survey) -> None:
        """Add the problems and notes that all labels together show to those that are listed."""
        listed.notes += [f"{count} {what}" for what, count in self.notes.items()]
        if listed.problems:
            return
        pixels, truth = (sum(counts.values(), np.zeros(VOID + 1, int)) for counts in (self.labels, self.truth))
        for masks, codes in ((listed.masks, pixels), (listed.truth, truth)):
            if masks and np.flatnonzero(codes).tolist() == [0, VOID]:
                what = f"masks hold 0 and {VOID} alone, and {VOID} is ignored; write 1 for {listed.names[1]}"
                listed.problems.append(f"{next(iter(masks.values())).parent}: {what}")
        if not pixels[: len(listed.names)].any():
            listed.problems.append(NOTHING_LABELED)
        listed.notes += _doubts(listed, pixels)


def _doubts(listed: Survey, pixels: np.ndarray) -> Iterator[str]:
    """Yield notes on what the number of pixels of each code may mean and the files cannot tell."""
    if listed.masks and not pixels[UNLABELED] and pixels[VOID]:
        yield (
            f"no pixel has code {UNLABELED}, many have {VOID}: {VOID} is ignored altogether; if it means that "
            f"nobody labeled the pixel, write {UNLABELED}, and unlabeled pixels are learned from, too"
        )
    elif listed.masks and not pixels[UNLABELED]:
        what = f"every pixel of every mask has a class; if {listed.names[0]} stands where nobody labeled"
        yield f"{what}, write {UNLABELED} there"
    outlined = any(shape.kind in AREAS for id in listed.annotated for shape in listed.shapes(id))
    if outlined and listed.background is not None and not pixels[listed.background]:
        yield "no pixel is background; if all is that no outline covers, say so with --fill-background"


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
    images: dict[str, str] = field(default_factory=dict)  # sha256 of each in its working size, by stem
    scales: Scales = field(default_factory=dict)  # by which images of more than 8 bits became RGB


def prepare(
    listed: Survey,
    folder: Path,
    *,
    side: int,
    width: int = 3,
    validation: float = 0.2,
    folds: int = 0,
    learned: Collection[str] = (),
) -> Prepared:
    """Write images, labels and truth in their working size, and ``data.json``, to a folder that does not exist yet.

    ``side`` and ``width`` are those of `render`. ``validation`` is the share of the labeled images to validate on,
    always the same ones, none that is there twice or whose sha256 an earlier model has ``learned``; images with truth
    and without labels are taken instead if there are any. With ``folds``, at most so many, all labeled images are
    learned from, and ``fold0`` … hold the ``data.json`` of trainings without one part of them each. Problems and notes
    are added to those that are listed. ValueError if there is a problem; then the folder is left incomplete.
    """
    raise_first(listed.problems)
    for part in ("images", "labels", "truth"):
        (folder / part).mkdir(parents=True)
    tally, digests, largest = Tally(), {}, 1
    for sample in render(listed, side, width):
        if sample.image is None:
            listed.problems.append(sample.problem)
            continue
        arrays = {"images": sample.image, "labels": sample.labels, "truth": sample.truth}
        for part, array in arrays.items():
            if array is not None:
                _write_png(folder / part / f"{sample.stem}.png", array)
        sums = [hashlib.sha256(b"" if array is None else array.tobytes()).hexdigest() for array in arrays.values()]
        digests[sample.stem] = [*sums, str(sample.image.shape)]
        largest = max(largest, *sample.image.shape[:2])
        tally.add(sample)
    tally.judge(listed)
    raise_first(listed.problems)
    pixels = {stem: counts[: len(listed.names)] for stem, counts in tally.labels.items()}
    images = {stem: sums[0] for stem, sums in digests.items()}
    for place, (train, aside) in _divisions(listed, pixels, images, 0 if folds else validation, folds, learned).items():
        content = _description(listed, pixels, train, aside) | {"side": largest, "width": width}
        content["digest"] = atomic_files.digest([content, digests], sort_keys=True)
        (folder / place).mkdir(exist_ok=True)
        atomic_files.write_json(folder / place / "data.json", content | {"images": images})
    return read_prepared(folder)


def _divisions(
    listed: Survey,
    pixels: dict[str, np.ndarray],
    images: dict[str, str],
    share: float,
    folds: int,
    learned: Collection[str],
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the stems to train and to validate on: of the folder itself, and of each fold by its name."""
    classes = {stem: np.flatnonzero(counts).tolist() for stem, counts in pixels.items()}
    copies = Counter(images.values())
    seen = {stem for stem, sha256 in images.items() if sha256 in learned or copies[sha256] > 1}
    divisions = {".": _divide(classes, set(listed.truth), share, seen)}
    labeled = divisions["."][0]
    different = sorted({images[stem] for stem in labeled})  # copies of an image belong to one fold
    if folds and len(different) < 2:
        raise ValueError("one labeled image cannot be validated on and learned from; label another one")
    folds = min(folds, len(different))
    for i in range(folds):
        left_out = [stem for stem in labeled if images[stem] in different[i::folds]]
        divisions[f"fold{i}"] = [stem for stem in labeled if stem not in left_out], left_out
    return divisions


def _description(listed: Survey, pixels: dict[str, np.ndarray], train: list[str], aside: list[str]) -> dict[str, Any]:
    """Return the fields of `Prepared` that follow from what is trained on."""
    content: dict[str, Any] = {"names": listed.names, "background": listed.background, "validation": aside}
    content["train"] = {stem: np.flatnonzero(pixels[stem]).tolist() for stem in train}
    content["dense"] = bool(listed.truth)
    content["labeled_pixels"] = np.sum([pixels[stem] for stem in train], axis=0).tolist()
    content["labeled_images"] = np.sum([pixels[stem] > 0 for stem in train], axis=0).tolist()
    return content | ({"scales": listed.scales} if listed.scales else {})


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


def _shuffled(stems: Iterable[str]) -> list[str]:
    """Return stems in an order that leaves each where it is when others are added."""
    return sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())


def _divide(
    classes: dict[str, list[int]], truth: set[str], share: float, seen: set[str]
) -> tuple[list[str], list[str]]:
    """Return stems to train and to validate on; where there is truth, only images with it are validated on."""
    labeled = sorted(stem for stem, codes in classes.items() if codes)
    if not labeled:
        raise ValueError(NOTHING_LABELED)
    if apart := sorted(truth - set(labeled)):
        return labeled, apart
    left = Counter(code for stem in labeled for code in classes[stem])
    aside: list[str] = []
    wanted = max(1, round(share * len(labeled))) if share else 0
    for stem in _shuffled(set(labeled) - seen):
        # A class keeps its last training image.
        spare = all(left[code] > 1 for code in classes[stem]) and len(aside) < len(labeled) - 1
        if len(aside) < wanted and spare and (not truth or stem in truth):
            aside.append(stem)
            left.subtract(classes[stem])
    # Without a spare image those that are learned from are measured, and no figure is given.
    measured = sorted(aside) or [stem for stem in labeled if not truth or stem in truth]
    return [stem for stem in labeled if stem not in aside], measured


def load(root: Path, split: str, count: int | None = None) -> Split:
    """Return a split of a folder that `prepare` has written; "test" are the validation images.

    Truth are dense masks for "test" where there are some, else labels. ``count`` is the number of training images in an
    epoch: they come several times, those with rare classes more often (`repeated`).
    """
    data, files = read_prepared(root), root if (root / "images").is_dir() else root.parent
    stems = list(data.train) if split == "train" else list(data.validation)
    if split == "train" and count is not None:
        stems = repeated(data, count)
    labels = [files / "labels" / f"{stem}.png" for stem in stems]
    truth = [files / "truth" / f"{stem}.png" for stem in stems] if data.dense and split == "test" else labels
    return Split(
        "own",
        data.names,
        tuple(stems),
        OnDemand(image_files.read_image, [files / "images" / f"{stem}.png" for stem in stems]),
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())

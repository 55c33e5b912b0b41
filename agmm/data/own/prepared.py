"""A user's images and labels in their working size, in a folder of our layout that is read as a data set.

`prepare` writes it from what `agmm.data.own.survey` has found, `load` reads it as a `Split`.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.own.survey import NOTHING_LABELED, Survey, render
from agmm.data.split import OnDemand, Published, Split
from agmm.host import atomic_files

COMMON = 0.5
"""Images with a class that is in a smaller share of them are shown more often: sqrt(COMMON / share) times."""


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
    described["digest"] = atomic_files.digest([described, digests], sort_keys=True)
    atomic_files.write_json(folder / "data.json", described)
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
        OnDemand(image_files.read_image, [root / "images" / f"{stem}.png" for stem in stems]),
        OnDemand(image_files.read_index, truth),
        about.background,
        published=(Published("own", "own", "labels of the user's folder", OnDemand(image_files.read_index, labels)),),
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


def _write_png(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())


def replace_folder(new: Path, old: Path) -> None:
    """Put a complete folder into the place of another one."""
    if old.exists():
        shutil.rmtree(old)
    os.replace(new, old)

"""Published sparse labels with one file per image: found below the data root, read when asked for, checked.

They lie in folders that are named after form and publisher (``scribbles/scribblesup``, ``blocks/tel_ade20k/block10``
…), because the same code means different things to different publishers and no file says whose it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm.data import image_files
from agmm.data.public import label_files
from agmm.data.split import OnDemand, Published


@dataclass(frozen=True)
class Source:
    """Labels of one publisher.

    Attributes
    ----------
    form, name, description, drawn
        As in `Published`; ``name`` is a key of `agmm.data.public.label_files.CODES`, or "scribblesup".
    folder : str
        Where they lie in the folder ``form/name``, subfolders included.
    suffix : str
        Of their files.
    """

    form: str
    name: str
    description: str
    folder: str = "."
    suffix: str = ".png"
    drawn: Mapping[str, Any] = field(default_factory=dict)


def find(
    root: Path, sources: Sequence[Source], images: Sequence[Path], key: Callable[[Path], str] | None = None
) -> tuple[Published, ...]:
    """
    The sources that there are, in the order given.

    Parameters
    ----------
    root : Path
        Folder of the data set.
    sources : sequence of Source
    images : sequence of Path
        The training images.
    key : callable, optional
        What the paths of an image and of its labels have in common; by default the names without suffix.

    Raises
    ------
    ValueError
        If a source lacks an image, or has two files for one.
    """
    key = key or _stem
    found = []
    for source in sources:
        folder = root / source.form / source.name / source.folder
        if folder.is_dir():
            paths = _paths(folder, source, key)
            absent = sorted(key(image) for image in images if key(image) not in paths)
            if absent:
                raise ValueError(
                    f"{folder}: {len(absent)} of {len(images)} training images have no labels, "
                    f"{absent[0]}{source.suffix} first; complete the folder or move it elsewhere"
                )
            maps = OnDemand(partial(_read, source.name), [(image, paths[key(image)]) for image in images])
            found.append(Published(source.form, source.name, source.description, maps, source.drawn))
    return tuple(found)


def tel_blocks(name: str) -> tuple[Source, ...]:
    """Blocks of the tree energy loss (Liang et al. 2022): 10, 20 and 50 % of the pixels, each in a folder."""
    return tuple(
        Source(
            form="blocks",
            name=name,
            description=f"blocks of {percent} % published by the authors of the tree energy loss",
            folder=f"block{percent}",
            drawn={"ratio": percent / 100, "shape": "interior"},
        )
        for percent in (10, 20, 50)
    )


def check(labels: Published) -> list[str]:
    """Read every label once: one sentence per problem, one more where too many annotate nothing."""
    problems: list[str] = []

    def readable() -> Iterator[np.ndarray]:
        for i in range(len(labels.maps)):
            try:
                yield labels.maps[i]
            except (FileNotFoundError, ValueError) as error:
                problems.append(str(error))

    try:
        label_files.check_annotated(readable(), labels.name)
    except ValueError as error:
        problems.append(str(error))
    return problems


def check_all(
    splits: Iterable[Sequence[image_files.Pair]], codes: Mapping[int, int], labels: Iterable[Published]
) -> list[str]:
    """Read every image, mask and label once: one sentence per problem."""
    problems = image_files.check([two for pairs in splits for two in pairs], codes)
    for found in labels:
        problems += check(found)
    return problems


def _stem(path: Path) -> str:
    return path.stem


def _paths(folder: Path, source: Source, key: Callable[[Path], str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"[!.]*{source.suffix}")):
        if key(path) in paths:
            raise ValueError(f"{path}: labels of the same image as {paths[key(path)].name}; keep one of them")
        paths[key(path)] = path
    return paths


def _read(name: str, two: tuple[Path, Path]) -> np.ndarray:
    image, path = two
    size = image_files.read_size(image)
    if name == "scribblesup":
        return label_files.draw_scribbles(label_files.read_scribbles(path, size)[1], size)
    return label_files.read_labels(path, name, size)

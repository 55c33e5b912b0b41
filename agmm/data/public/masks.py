"""Masks of classes of MS COCO 2014, made once from its outlines of objects.

    agmm masks coco DIR    with DIR/annotations/instances_{train,val}2014.json

Writes ``DIR/SegmentationClass/{train,val}2014/*.png`` (0 background, 1 … 80, 255 crowds) and beside each folder the
list of images that have an annotation. Masks that are there already are left alone: an interrupted command goes on
where it stopped.
"""

import argparse
import json
import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm.codes import VOID
from agmm.data.public import coco
from agmm.data.public.label_files import write_index
from agmm.host import atomic_files

CATEGORY_IDS = tuple(k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""Ids of classes 1 … 80 in the annotations."""

_POINTS = {"dp_x", "dp_y", "dp_I", "dp_U", "dp_V", "keypoints"}  # of annotations of people; nobody asks for them
_CHUNK = 32  # masks that a process makes at a time

Annotation = Mapping[str, Any]
Task = tuple[Path, tuple[int, int], list[Annotation]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``agmm masks``."""
    parser.add_argument("dataset", choices=("coco", "densepose"))
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")


def command(args: argparse.Namespace) -> int:
    """Make the masks that ``agmm masks`` asks for."""
    if args.dataset == "coco":
        render(args.root, jobs=args.jobs, report=partial(print, flush=True))
    else:
        from agmm.data.public import densepose_masks  # which needs this module

        densepose_masks.render(args.root, jobs=args.jobs, report=partial(print, flush=True))
    return 0


def render(root: Path, *, jobs: int | None = None, report: Callable[[str], None] = print) -> None:
    """
    Make the masks of both splits that are not there yet.

    Parameters
    ----------
    root : Path
        Folder of the data set.
    jobs : int, optional
        Processes; by default one per core.
    report : callable
        Receives lines of progress.

    Raises
    ------
    FileNotFoundError
        If there are no annotations.
    ValueError
        If they are damaged or no annotations of COCO.
    """
    annotations = coco.below(root, "annotations")
    for split in coco.COUNTS:
        path = annotations / f"instances_{split}2014.json"
        if not path.is_file():
            raise coco.missing(root, f"annotations/{path.name}")
        render_file(path, coco.names_file(root, split), jobs=jobs, report=report)


def _write_classes(task: Task) -> None:
    target, shape, annotations = task
    write_index(target, class_mask(shape, annotations))


def render_file(
    path: Path,
    listed: Path,
    *,
    categories: Sequence[int] = CATEGORY_IDS,
    write: Callable[[Task], None] = _write_classes,
    jobs: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """
    Make the masks of one file of annotations that are not there yet, and list its images.

    Parameters
    ----------
    path : Path
        The annotations.
    listed : Path
        The list, a text file; masks go to the folder of its name without suffix.
    categories : sequence of int
        Ids that annotations may have.
    write : callable
        Paints and writes one mask, in any process; by default that of classes.
    jobs, report
        As in `render`.
    """
    report(f"reading {path}")
    folder = listed.with_suffix("")
    tasks = read(path, folder, categories)
    folder.mkdir(parents=True, exist_ok=True)
    there = {target.name for target in folder.iterdir()}
    todo = [task for task in tasks if task[0].name not in there]
    done = len(tasks) - len(todo)
    try:
        for number in _render_all(todo, jobs or _cores(), write):
            before, done = done, done + number
            if 50 * before // len(tasks) < 50 * done // len(tasks):
                report(f"{folder.name}: {done:,} of {len(tasks):,} masks")
    except ValueError as error:
        raise ValueError(f"{path}, image {error}") from error
    atomic_files.write_text(listed, "".join(f"{target.stem}\n" for target, _, _ in tasks))
    report(f"{folder}: {len(tasks):,} masks are there")


def _render_all(tasks: Sequence[Task], jobs: int, write: Callable[[Task], None] = _write_classes) -> Iterator[int]:
    """Make masks and tell after every chunk how many it were."""
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    render_chunk = partial(_render_chunk, write)
    if min(jobs, len(chunks)) <= 1:
        yield from map(render_chunk, chunks)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        yield from pool.map(render_chunk, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


def _render_chunk(write: Callable[[Task], None], tasks: Sequence[Task]) -> int:
    for task in tasks:
        try:
            write(task)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"{task[0].stem}: its outlines cannot be painted ({atomic_files.one_line(error)}); extract them again"
            ) from error
    return len(tasks)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Annotations ------------------------------------------------------------------------------------------------------


def read(path: Path, folder: Path, categories: Sequence[int] = CATEGORY_IDS) -> list[Task]:
    """
    What is to be painted, from a file of instance annotations whose category ids are among ``categories``.

    Returns
    -------
    list of (Path, (H, W), list of annotations)
        For every image with an annotation, by name: its mask's file in ``folder``, its size and its annotations.

    Raises
    ------
    ValueError
        If the file is damaged or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
        annotations: dict[int, list[Annotation]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] not in categories:
                raise ValueError(f"category {annotation['category_id']} is none of the {len(categories)}")
            annotations[annotation["image_id"]].append(annotation)
        images = {image["id"]: image for image in content["images"]}
        tasks = [
            (folder / f"{Path(images[i]['file_name']).stem}.png", (images[i]["height"], images[i]["width"]), painted)
            for i, painted in annotations.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else atomic_files.one_line(error)
        raise ValueError(f"{path} cannot be read as instance annotations ({problem}); extract it again") from error
    return sorted(tasks, key=lambda task: task[0])


def _compact(item: dict[str, Any]) -> dict[str, Any]:
    """Outlines as arrays, and no points: of Python's numbers there would be gigabytes."""
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [np.asarray(outline, float) for outline in item["segmentation"]]
    for points in _POINTS.intersection(item):
        del item[points]
    return item


# --- Painting ---------------------------------------------------------------------------------------------------------


def class_mask(shape: tuple[int, int], annotations: Sequence[Annotation]) -> np.ndarray:
    """
    Mask of the classes of one image.

    Crowds are ``VOID`` where no object is; objects are painted by decreasing area, so that small ones are in front.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    annotations : sequence of mappings
        With ``category_id``, ``iscrowd``, and ``segmentation``: polygons, or a run-length code.

    Returns
    -------
    (H, W) uint8 array
        0 background, 1 … 80, ``VOID``.

    Raises
    ------
    ValueError
        If a segmentation does not fit the image.
    """
    mask = np.zeros(shape, np.uint8)
    painted = [(annotation, instance_mask(annotation["segmentation"], shape)) for annotation in annotations]
    for annotation, inside in painted:
        if annotation.get("iscrowd"):
            mask[inside] = VOID
    objects = [(annotation, inside) for annotation, inside in painted if not annotation.get("iscrowd")]
    for annotation, inside in sorted(objects, key=lambda one: -int(one[1].sum())):
        mask[inside] = 1 + CATEGORY_IDS.index(annotation["category_id"])
    return mask


def instance_mask(segmentation: Sequence[np.ndarray] | Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Pixels of an object, (H, W) bool: the union of its polygons, or a run-length code of ``counts`` and ``size``."""
    if isinstance(segmentation, Mapping):
        if tuple(segmentation["size"]) != shape:
            raise ValueError(f"a run-length code is of size {segmentation['size']}, its image of {shape}")
        return decode_runs(segmentation["counts"], shape)
    inside = np.zeros(shape, bool)
    for outline in segmentation:
        if not np.isfinite(outline).all():
            raise ValueError("an outline has a corner that is not a number")
        inside |= fill_polygon(np.reshape(outline, (-1, 2)), shape)
    return inside


def fill_polygon(vertices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """
    Pixels whose center lies inside a polygon by the even-odd rule.

    Parameters
    ----------
    vertices : (N, 2) array
        x and y; pixel (row 0, column 0) covers 0 <= y < 1, 0 <= x < 1. The last is connected with the first.
    shape : (int, int)
        Height and width.

    Returns
    -------
    (H, W) bool array
    """
    height, width = shape
    (x, y), (x_next, y_next) = vertices.T, np.roll(vertices, -1, axis=0).T
    # Rows whose centers an edge crosses; its upper end belongs to it, its lower end to the next one.
    first, end = (_centers_before(side(y, y_next), height) for side in (np.minimum, np.maximum))
    crossed = end - first
    edge = np.repeat(np.arange(len(x)), crossed)
    row = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed) + first[edge]
    slope = (x_next - x)[edge] / (y_next - y)[edge]
    column = _centers_before(x[edge] + (row + 0.5 - y[edge]) * slope, width)
    inside = np.zeros(shape, bool)
    if len(edge):
        top, left = row.min(), column.min()
        tall, wide = row.max() + 1 - top, column.max() - left
        place = (row - top) * (wide + 1) + column - left
        crossings = np.bincount(place, minlength=tall * (wide + 1)).reshape(tall, wide + 1)
        inside[top : top + tall, left : left + wide] = crossings.cumsum(axis=1)[:, :-1] & 1
    return inside


def _centers_before(position: np.ndarray, length: int) -> np.ndarray:
    """Number of pixels of a side whose centers lie before a position."""
    return np.ceil(position - 0.5).clip(0, length).astype(int)


def decode_runs(counts: Sequence[int] | str, shape: tuple[int, int]) -> np.ndarray:
    """
    Pixels of a run-length code, (H, W) bool.

    Parameters
    ----------
    counts : sequence of int, or str
        Lengths of runs in column-major order, the first outside; or the same compressed (`decompress`).
    shape : (int, int)
        Height and width.
    """
    runs = np.asarray(decompress(counts) if isinstance(counts, str) else counts, int)
    if runs.sum() != shape[0] * shape[1] or (runs < 0).any():
        raise ValueError(f"a run-length code has {runs.sum()} pixels, its image of {shape} has {shape[0] * shape[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


def decompress(text: str) -> list[int]:
    """
    Lengths of runs from COCO's compressed form.

    Each number takes characters of 6 bits from "0" on: five bits of a two's complement, low ones first, and one that
    tells that more follow. From the fourth number on it is the difference to the last but one.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs

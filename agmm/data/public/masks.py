"""Masks of images, made once from the annotations of objects of MS COCO 2014, and of parts of people of DensePose-COCO.

``agmm masks coco DIR`` writes ``DIR/SegmentationClass/{train,val}2014/*.png`` (0 background, 1 … 80, 255 crowds).
``agmm masks densepose DIR`` writes ``DIR/PartMasks/{train,minival}2014/*.png`` (0 background, 1 … 14, 255 people
without parts), and the people's numbers in folders of the same name with ``_people``. Beside each folder lies the list
of the images with an annotation. Masks that are there are left alone: an interrupted command goes on where it stopped.
"""

import argparse
import json
import multiprocessing
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agmm.codes import VOID
from agmm.data.drawing import fill_polygon
from agmm.data.image_files import write_index
from agmm.data.public import coco
from agmm.host import atomic_files

CATEGORY_IDS = tuple(k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""Ids of COCO's classes 1 … 80 in the annotations."""
PERSON = 1  # the only category of DensePose's annotations
SIDE = 256  # height and width of a part's mask, which covers the box of a person
_CHUNK = 32  # masks that a process takes at a time
_PARTS = len(coco.DENSEPOSE.class_names) - 1
_POINTS = {"dp_x", "dp_y", "dp_I", "dp_U", "dp_V", "keypoints"}  # of annotations of people; nobody asks for them

Annotation = Mapping[str, Any]
Task = tuple[Path, tuple[int, int], list[Annotation]]  # file of a mask, its height and width, annotations to paint


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``agmm masks``."""
    parser.add_argument("dataset", choices=("coco", "densepose"))
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of the data set, which holds annotations/")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")


def command(args: argparse.Namespace) -> int:
    """Make the masks that ``agmm masks`` asks for."""
    make(args.dataset, args.root, jobs=args.jobs)
    return 0


def make(dataset: str, root: Path, *, jobs: int | None = None) -> None:
    """Make the masks of both splits that are not there yet, by ``jobs`` processes (default: one per core).

    FileNotFoundError if there are no annotations, ValueError if they are damaged or of another kind.
    """
    for split in ("train", "val"):
        if dataset == "coco":
            data, name, listed = coco.COCO, f"instances_{split}2014.json", coco.names_file(root, split)
            categories, write = CATEGORY_IDS, _write_classes
        else:
            data, listed = coco.DENSEPOSE, coco.part_names_file(root, split)
            name = f"densepose_coco_2014_{coco.ANNOTATED[split]}.json"
            categories, write = (PERSON,), _write_parts
        path = coco.below(root, "annotations") / name
        if not path.is_file():
            raise data.missing(f"no annotations/{name} below {root}", root)
        _make_split(path, listed, categories, write, jobs)


def _make_split(
    path: Path, listed: Path, categories: Sequence[int], write: Callable[[Task], None], jobs: int | None
) -> None:
    if jobs is None:
        from agmm.host import machine  # here, as it loads torch, which the processes need not do

        jobs = machine.cores()
    print(f"reading {path}", flush=True)
    folder = listed.with_suffix("")
    tasks = read(path, folder, categories)
    folder.mkdir(parents=True, exist_ok=True)
    there = {target.name for target in folder.iterdir()}
    todo = [task for task in tasks if task[0].name not in there]
    done = _each(partial(_paint, write), todo, jobs)
    try:
        for _ in tqdm(done, folder.name, len(tasks), initial=len(tasks) - len(todo), unit="mask", disable=None):
            pass
    except ValueError as error:
        raise ValueError(f"{path}, image {error}") from error
    atomic_files.write_text(listed, "".join(f"{target.stem}\n" for target, _, _ in tasks))
    print(f"{folder}: {len(tasks):,} masks are there", flush=True)


def _each(function: Callable[[Task], None], tasks: Sequence[Task], jobs: int) -> Iterator[None]:
    """Call a pickled function with every task; after an exception or Ctrl-C the processes end their present tasks."""
    jobs = min(jobs, -(-len(tasks) // _CHUNK))
    if jobs <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        yield from pool.map(function, tasks, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business


def _paint(write: Callable[[Task], None], task: Task) -> None:
    try:
        write(task)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{task[0].stem}: its outlines cannot be painted ({atomic_files.one_line(error)}); extract them again"
        ) from error


def _write_classes(task: Task) -> None:
    target, shape, annotations = task
    write_index(target, class_mask(shape, annotations))


def _write_parts(task: Task) -> None:
    target, shape, annotations = task
    parts, people = part_mask(shape, annotations)
    people_file = coco.people_file(target)
    people_file.parent.mkdir(exist_ok=True)
    write_index(people_file, people)  # first, as the other one tells that both are there
    write_index(target, parts)


def read(path: Path, folder: Path, categories: Sequence[int]) -> list[Task]:
    """Read what is to be painted from a file of instance annotations whose category ids are among ``categories``.

    Return for every image with an annotation, by name: its mask's file in ``folder``, its size and its annotations.
    ValueError if the file is damaged or holds something else.
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
    """Turn outlines into arrays, and drop points: of Python's numbers there would be gigabytes."""
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [np.asarray(outline, float) for outline in item["segmentation"]]
    for points in _POINTS.intersection(item):
        del item[points]
    return item


def class_mask(shape: tuple[int, int], annotations: Sequence[Annotation]) -> np.ndarray:
    """Paint the classes of one image, (H, W) uint8: 0 background, 1 … 80, ``VOID``.

    Annotations hold ``category_id``, ``iscrowd``, and ``segmentation`` (`instance_mask`). Crowds are ``VOID`` where no
    object is; objects are painted by decreasing area, so that small ones are in front.
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


def part_mask(shape: tuple[int, int], annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts (0 background, 1 … 14, ``VOID``) and people of one image, both (H, W) uint8.

    People are 0 for nobody, else 1 … N in the order of the annotations, or ``VOID``. Annotations hold ``bbox`` (left,
    top, width, height), ``area``, ``segmentation``, and, of most people, ``dp_masks``: a run-length code of 256 x 256
    pixels for each of the 14 parts, empty where a part is not seen. People are painted by decreasing area, small ones
    in front. Those without a mask of any part, crowds among them, are ``VOID`` where nobody's part is.
    """
    parts, people = np.zeros((2, *shape), np.uint8)
    for annotation in annotations:
        if not any(annotation.get("dp_masks", ())):
            inside = instance_mask(annotation["segmentation"], shape)
            parts[inside] = people[inside] = VOID
    known = [annotation for annotation in annotations if any(annotation.get("dp_masks", ()))]
    for number, annotation in sorted(enumerate(known, start=1), key=lambda one: -one[1]["area"]):
        window = _window(annotation["bbox"], shape)
        found = _parts(annotation["dp_masks"], tuple(side.stop - side.start for side in window))
        parts[window][found > 0] = found[found > 0]
        people[window][found > 0] = number
    return parts, people


def _window(box: Sequence[float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a box, rounded and cut to the image."""
    left, top, width, height = box
    rows, columns = (
        slice(*(min(max(round(end), 0), side) for end in ends))
        for ends, side in zip(((top, top + height), (left, left + width)), shape, strict=True)
    )
    return rows, columns


def _parts(masks: Sequence[Annotation], size: tuple[int, ...]) -> np.ndarray:
    """Paint the parts of one person, 0 … 14, in the size of the box, by nearest neighbor."""
    if len(masks) != _PARTS:
        raise ValueError(f"dp_masks holds {len(masks)} parts, not {_PARTS}")
    parts = np.zeros((SIDE, SIDE), np.uint8)
    for code, mask in enumerate(masks, start=1):
        if mask:
            parts[instance_mask(mask, (SIDE, SIDE))] = code
    # In whole numbers: centers of pixels often lie exactly between two of the mask's.
    return parts[np.ix_(*((2 * np.arange(side) + 1) * SIDE // max(2 * side, 1) for side in size))]


def instance_mask(segmentation: Sequence[np.ndarray] | Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an object, (H, W) bool, from polygons or a run-length code (``counts``, ``size``)."""
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


def decode_runs(counts: Sequence[int] | str, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a run-length code, (H, W) bool.

    ``counts`` are lengths of runs in column-major order, the first outside; or the same compressed (`decompress`).
    """
    runs = np.asarray(decompress(counts) if isinstance(counts, str) else counts, int)
    if runs.sum() != shape[0] * shape[1] or (runs < 0).any():
        raise ValueError(f"a run-length code has {runs.sum()} pixels, its image of {shape} has {shape[0] * shape[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


def decompress(text: str) -> list[int]:
    """Decode lengths of runs from COCO's compressed form.

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

"""Masks of parts of people, made once from the annotations of DensePose-COCO.

    agmm masks densepose DIR    with DIR/annotations/densepose_coco_2014_{train,minival}.json

Writes ``DIR/PartMasks/{train,minival}2014/*.png`` (0 background, 1 … 14, 255 people without parts), the people's
numbers in folders of the same name with ``_people``, and beside them the lists of images. Masks that are there already
are left alone: an interrupted command goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agmm.codes import VOID
from agmm.data.public import coco, densepose
from agmm.data.public import masks as coco_masks
from agmm.data.public.label_files import write_index
from agmm.data.public.masks import Annotation

PERSON = 1
"""The only category of the annotations."""

SIDE = 256
"""Height and width of a part's mask, which covers the box of a person."""


def render(root: Path, *, jobs: int | None = None, report: Callable[[str], None] = print) -> None:
    """Make the masks of both splits that are not there yet; parameters and errors as of `coco_masks.render`."""
    for split, name in densepose.ANNOTATED.items():
        path = coco.below(root, "annotations") / f"densepose_coco_2014_{name}.json"
        if not path.is_file():
            raise densepose.missing(root, f"annotations/{path.name}")
        listed = densepose.names_file(root, split)
        coco_masks.render_file(path, listed, categories=(PERSON,), write=_write, jobs=jobs, report=report)


def _write(task: coco_masks.Task) -> None:
    target, shape, annotations = task
    parts, people = part_mask(shape, annotations)
    numbered = densepose.people_file(target)
    numbered.parent.mkdir(exist_ok=True)
    write_index(numbered, people)  # first, as the other one tells that both are there
    write_index(target, parts)


def part_mask(shape: tuple[int, int], annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
    """
    Parts and people of one image.

    People are painted by decreasing area, so that small ones are in front. Those without a mask of any part, crowds
    among them, are ``VOID`` where nobody's part is.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    annotations : sequence of mappings
        With ``bbox`` (left, top, width, height), ``area``, ``segmentation``, and, of most people, ``dp_masks``: a
        run-length code for each of the 14 parts, empty where a part is not seen.

    Returns
    -------
    parts, people : (H, W) uint8 array
        0 background, 1 … 14, ``VOID``; 0 nobody, 1 … N in the order of the annotations, ``VOID``.

    Raises
    ------
    ValueError
        If a mask is not of 256 x 256 pixels, or a segmentation does not fit the image.
    """
    parts, people = np.zeros((2, *shape), np.uint8)
    for annotation in annotations:
        if not any(annotation.get("dp_masks", ())):
            inside = coco_masks.instance_mask(annotation["segmentation"], shape)
            parts[inside] = people[inside] = VOID
    known = [annotation for annotation in annotations if any(annotation.get("dp_masks", ()))]
    for number, annotation in sorted(enumerate(known, start=1), key=lambda one: -one[1]["area"]):
        window = _window(annotation["bbox"], shape)
        found = _parts(annotation["dp_masks"], tuple(side.stop - side.start for side in window))
        parts[window][found > 0] = found[found > 0]
        people[window][found > 0] = number
    return parts, people


def _window(box: Sequence[float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box, rounded and cut to the image."""
    left, top, width, height = box
    rows, columns = (
        slice(*(min(max(round(end), 0), side) for end in ends))
        for ends, side in zip(((top, top + height), (left, left + width)), shape, strict=True)
    )
    return rows, columns


def _parts(masks: Sequence[Annotation], size: tuple[int, ...]) -> np.ndarray:
    """Parts of one person, 0 … 14, brought to the size of the box by nearest neighbor."""
    if len(masks) != len(densepose.CLASS_NAMES) - 1:
        raise ValueError(f"dp_masks holds {len(masks)} parts, not {len(densepose.CLASS_NAMES) - 1}")
    parts = np.zeros((SIDE, SIDE), np.uint8)
    for code, mask in enumerate(masks, start=1):
        if mask:
            parts[coco_masks.instance_mask(mask, (SIDE, SIDE))] = code
    # In whole numbers: centers of pixels often lie exactly between two of the mask's.
    return parts[np.ix_(*((2 * np.arange(side) + 1) * SIDE // max(2 * side, 1) for side in size))]

"""Embedded images in the layout of a user's folder, to try the commands for images of one's own."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from agmm import labels
from agmm.data import image_files
from agmm.data.own import annotations
from agmm.data.split import Split
from agmm.data.synthetic.shapes import SHAPES


def write(folder: Path, count: int = 40) -> dict[str, Path]:
    """Write images with clicks and a few others with dense truth, as an annotator would have left them.

    Parameters
    ----------
    folder : Path
        Receives ``images/``, ``clicks.csv`` with a click for each object and a few for the background, ``names.txt``,
        ``new/`` with images that nobody clicked in, and ``truth/`` with the masks of these.
    count : int
        Images with clicks; there are a quarter as many new ones.

    Returns
    -------
    dict of str to Path
        Paths of the images, labels, classes, new images and their truth.
    """
    paths = {"images": folder / "images", "labels": folder / "clicks.csv", "classes": folder / "names.txt"}
    paths |= {name: folder / name for name in ("new", "truth")}
    for name in ("images", "new", "truth"):
        paths[name].mkdir(parents=True, exist_ok=True)
    clicked, new = SHAPES.make("train", count), SHAPES.make("test", max(1, count // 4))
    paths["classes"].write_text("\n".join(clicked.class_names) + "\n", encoding="utf-8")
    for split, images in ((clicked, paths["images"]), (new, paths["new"])):
        for stem, image in zip(split.ids, split.images, strict=True):
            Image.fromarray(image).save(images / f"{stem}.png")
    for stem, mask in zip(new.ids, new.truth, strict=True):
        image_files.write_index(paths["truth"] / f"{stem}.png", mask)
    with open(paths["labels"], "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(annotations.COLUMNS)
        for index, stem in enumerate(clicked.ids):
            rows.writerows((f"{stem}.png", x + 0.5, y + 0.5, name) for x, y, name in _clicks(clicked, index))
    return paths


def _clicks(split: Split, index: int) -> list[tuple[int, int, str]]:
    """Return x, y and class name of a click for every object."""
    assert split.instances is not None
    rng = labels.generator(0, split.dataset, split.ids[index], "points")
    drawn = labels.simulate("points", split.truth[index], rng, instances=split.instances[index], width=1)
    return [(x, y, split.class_names[drawn[y, x]]) for y, x in np.argwhere(drawn < labels.UNLABELED).tolist()]

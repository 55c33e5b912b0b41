"""Data sets by name, and their simulated sparse labels."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from agmm import labels, storage
from agmm.data import Split, camvid, shapes, streets

EMBEDDED = {"shapes": shapes.make, "streets": streets.make}


def load(
    dataset: str,
    split: str,
    *,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    data_root: str | Path | None = None,
    cache: Path | None = None,
) -> Split:
    """One split of a data set.

    Parameters
    ----------
    dataset : {"shapes", "streets", "camvid"}
    split : str
        ``"train"``, ``"test"`` and, for shapes, ``"pretrain"``; the test split of CamVid is its val folder.
    count : int, optional
        Number of images of an embedded data set.
    size : (H, W), optional
        Size that the images of a folder are brought to.
    data_root : path, optional
        Folder of the data set; the embedded ones need none.
    cache : Path, optional
        Folder for generated data.

    Raises
    ------
    ValueError
        If a data root is needed and missing, if the data set is unknown or has no such split.
    """
    if dataset == "streets" and split == "pretrain":
        raise ValueError("streets has no images for tag pretraining, as nearly every image holds every class")
    if dataset in EMBEDDED:
        if count is None:
            raise ValueError("an embedded data set needs a number of images")
        return EMBEDDED[dataset](split, count, seed=0, cache=cache)
    if dataset == "camvid":
        if split == "pretrain":
            raise ValueError("CamVid has no images for tag pretraining; use init='scratch' or 'imagenet'")
        if not data_root:
            raise ValueError("CamVid is read from a folder of yours: name it with --data-root (or data_root=…)")
        return camvid.load(Path(data_root), {"train": "train", "test": "val"}[split], size=size)
    raise ValueError(f"unknown data set {dataset!r}; known: {', '.join(EMBEDDED)}, camvid")


def sparse_labels(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> np.ndarray:
    """Simulate the sparse labels of every image of a split.

    The labels of an image depend on ``seed``, the data set, the image's id, form and options only; options that nest
    (the number of clicks, the length of scribbles) share their random numbers.

    Returns
    -------
    (N, H, W) uint8
    """
    key = json.dumps([split.dataset, split.ids, split.truth[0].shape, form, options, seed])
    name = f"labels-{split.dataset}-{form}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.npy"
    if cache is not None and (cache / name).exists():
        return np.load(cache / name)
    simulated = np.stack(
        [
            labels.simulate(
                form,
                truth,
                labels.generator(seed, split.dataset, image_id, form),
                instances=None if split.instances is None else split.instances[i],
                background=split.background,
                **options,
            )
            for i, (image_id, truth) in enumerate(zip(split.ids, split.truth, strict=True))
        ]
    )
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, simulated)
        storage.write(cache / name, buffer.getvalue())
    return simulated

"""Checkpoints of AGMM's released code under the protocols of their authors, beside the printed numbers.

None was published by now: it is for files that one has trained or been given.
The paper prints 69.6 for points on VOC and does not say how it tests; the name of the checkpoint that the released
script evaluates says 67.80. That script averages seven scales and their mirror images on VOC and uses a sliding window
on Cityscapes; during training VOC is tested at a single scale. Weights of our own runs are evaluated alike.
"""

import argparse
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from agmm import evaluation, networks
from agmm.data import image_files, sets
from agmm.data.split import OnDemand, Split
from agmm.evaluation import Protocol
from agmm.host import atomic_files, machine
from agmm.papers import table
from agmm.tools import author_checkpoints
from agmm.training.train import choose_device

TILE = 721  # crop and tile of the released Cityscapes configuration; the paper says 769

PRINTED = {"voc": "agmm_supp_table3", "cityscapes": "agmm_supp_table4"}  # tables with a number for every class

COLUMNS = ["source", "sha256", "network", "dataset", "labels", "protocol", "images", "metric", "value"]


def protocols(dataset: str, tile: int | None = None, double_softmax: bool = False) -> dict[str, Protocol]:
    """Return how to test a data set, by words: VOC at one scale and at the authors' seven, Cityscapes by tiles.

    ``tile`` (default: `TILE`) and ``double_softmax``, which adds the authors' second softmax as a protocol of its own
    (see `agmm.evaluation.sliding_window`), belong to Cityscapes; ValueError elsewhere.
    """
    once = Protocol(evaluation.IMAGENET)
    if dataset == "cityscapes":
        tile = TILE if tile is None else tile
        if tile < 1:
            raise ValueError(f"a tile has at least one pixel, not {tile}; the authors' has {TILE}")
        tiled = {f"tiles of {tile}": replace(once, tile=tile)}
        twice = {f"tiles of {tile}, softmax twice": replace(once, tile=tile, double_softmax=True)}
        return tiled | twice if double_softmax else tiled
    if tile is not None or double_softmax:
        raise ValueError(f"tiles and the second softmax belong to Cityscapes; leave them out for {dataset}")
    seven = replace(once, scales=evaluation.SCALES, flip=True)
    return {"single scale": once, f"{len(seven.scales)} scales, flip": seven}


def evaluate(
    path: str | Path,
    dataset: str,
    data_root: str | Path | None,
    *,
    tile: int | None = None,
    double_softmax: bool = False,
    device: str = "auto",
    images: int | None = None,
    report: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Test a file on the val split of its data set; file and data are checked first.

    For files see `agmm.tools.author_checkpoints.load`, for ``tile`` and ``double_softmax`` `protocols`. With ``images``
    only so many are tested, taken at equal distances, and no others checked. Return a row per protocol and metric (mIoU
    and the IoU of every class, NaN where it never occurs) with `COLUMNS`, values in per cent. Which labels a file was
    trained with it does not tell. Raise FileNotFoundError or ValueError where the file or the data set is missing,
    damaged or not what it should be, or an option is impossible.
    """
    chosen = protocols(dataset, tile, double_softmax)
    if images is not None and images < 1:
        raise ValueError(f"at least one image is needed for a look, not {images}")
    net = author_checkpoints.load(path, dataset)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    report(f"{path}: {net.provenance}, sha256 {sha256}")
    split = sets.load(dataset, "test", data_root=data_root)
    title, count = f"{sets.PUBLIC[dataset].title} val", min(images or len(split), len(split))
    if count == len(split):
        report(f"reading all {len(split)} images and masks once …")
        image_files.raise_if_bad(sets.check(dataset, data_root, ("val",)), f"{title} in {data_root}")
    where = _moved(net, device)
    report(f"testing {count} of {len(split)} images of {title} on {machine.device_name(where)}: {'; '.join(chosen)}")
    if count < len(split):
        report("a quick look: published numbers are of the whole split")
    indices = [i * len(split) // count for i in range(count)]
    metrics = ["mIoU", *(f"IoU: {name}" for name in split.class_names)]
    frames = []
    for words, protocol in chosen.items():
        confusion = _confusion(net, split, indices, protocol, where, words)
        values = [evaluation.mean_iou(confusion), *(100 * evaluation.iou(confusion)).tolist()]
        frames.append(pd.DataFrame({"protocol": words, "metric": metrics, "value": values}))
    about = {"source": Path(path).name, "sha256": sha256, "network": net.provenance, "dataset": dataset}
    return pd.concat(frames).assign(**about, labels="", images=count)[COLUMNS]


def _moved(net: networks.Segmenter, device: str) -> torch.device:
    """Return the device, with the network on it and proven to run there; libraries are loaded by that, too."""
    try:
        where = choose_device(device)
        net.to(where).to(memory_format=torch.channels_last)
        with torch.no_grad():
            net(torch.zeros(1, 3, 65, 65, device=where))[1].cpu()
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); choose cpu, or cuda with a free GPU") from error
    return where


def _confusion(
    net: networks.Segmenter, split: Split, indices: Sequence[int], protocol: Protocol, device: torch.device, words: str
) -> Tensor:
    """Return the confusion matrix of some images, with a progress bar on a terminal."""
    with tqdm(total=len(indices), desc=words, unit="image", disable=None) as progress:

        def read(index: int) -> np.ndarray:
            progress.update()
            return split.images[index]

        images, truths = OnDemand(read, indices), OnDemand(split.truth.__getitem__, indices)
        return evaluation.evaluate(net, images, truths, split.num_classes, protocol, batch_size=1, device=device)


def published(dataset: str) -> pd.DataFrame:
    """Return the numbers that the paper prints for a data set, for all labels, with `COLUMNS`."""
    lines = pd.DataFrame(table.lines(PRINTED[dataset]))
    labels = lines["clicks"] + " clicks" if "clicks" in lines else lines["supervision"] + "s"
    metrics = ("IoU: " + lines["class"].str.replace("_", " ")).where(lines["metric"] != "mIoU", "mIoU")
    columns = {"source": lines["paper"] + " " + lines["table"], "network": lines["backbone"], "labels": labels}
    columns |= {"metric": metrics, "value": lines["value"].astype(float)}
    return pd.DataFrame(columns).assign(sha256="", dataset=dataset, protocol="not stated", images="")[COLUMNS]


def beside_published(ours: pd.DataFrame, paper: pd.DataFrame) -> str:
    """Return the numbers for reading: a row per class, a column per protocol and per kind of labels in the paper."""
    columns: dict[str, dict[str, str]] = {}
    for line in pd.concat([ours, paper]).to_dict("records"):
        title, digits = (f"published, {line['labels']}", 1) if line["labels"] else (line["protocol"], 2)
        text = "-" if math.isnan(line["value"]) else f"{line['value']:.{digits}f}"
        columns.setdefault(title, {})[line["metric"].removeprefix("IoU: ")] = text
    rows = list(next(iter(columns.values())))
    text = pd.DataFrame(columns, rows).to_string(col_space=[len(title) + 1 for title in columns])
    return f"{text}\npublished: {', '.join(paper['source'].unique())}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``agmm released`` takes."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a .pth of the released code, or the model.safetensors of a run")
    add("--dataset", choices=author_checkpoints.DILATIONS, required=True)
    add("--data-root", type=Path, required=True, metavar="DIR", help="folder of the data set")
    add("--tile", type=int, help=f"Cityscapes: side of the sliding window (default {TILE}; paper 769)")
    add("--double-softmax", action="store_true", help="Cityscapes: also with their second softmax")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 …")
    add("--images", type=int, metavar="N", help="only so many images, for a quick look")
    add("--csv", type=Path, metavar="FILE", help="also write all numbers to this file")


def command(args: argparse.Namespace) -> int:
    """Print the scores of a file beside the printed ones; raise ValueError or OSError after a mistake of the user."""
    folder = args.csv.absolute().parent if args.csv else Path()
    if args.csv and (args.csv.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        raise ValueError(f"{args.csv}: cannot be written; name a file in a folder of yours that exists")
    options = {name: getattr(args, name) for name in ("tile", "double_softmax", "device", "images")}
    report = partial(print, flush=True)
    ours, paper = evaluate(args.file, args.dataset, args.data_root, **options, report=report), published(args.dataset)
    print(f"\nIoU in per cent\n{beside_published(ours, paper)}")
    if args.csv:
        atomic_files.write_text(args.csv, pd.concat([ours, paper]).to_csv(index=False))
    return 0

"""Published checkpoints of AGMM under the protocols of their authors, beside the printed numbers.

    agmm released FILE --dataset voc --data-root DIR
    agmm released FILE --dataset cityscapes --data-root DIR [--tile 769] [--double-softmax]

The paper prints 69.6 for points on VOC and does not say how it tests; the name of the checkpoint that the released
script evaluates says 67.80. That script averages seven scales and their mirror images on VOC and uses a sliding window
on Cityscapes; during training VOC is tested at a single scale. Weights of our own runs are evaluated alike.
"""

import argparse
import csv
import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agmm import evaluation, networks
from agmm.data import image_files, sets
from agmm.data.split import OnDemand, Split
from agmm.evaluation import read_ahead
from agmm.host import atomic_files, machine
from agmm.tools import author_checkpoints
from agmm.training.train import choose_device

TILE = 721
"""Crop and tile of the released Cityscapes configuration; the paper says 769."""

Report = Callable[[str], object]

_PRINTED = {"voc": "agmm_supp_table3", "cityscapes": "agmm_supp_table4"}
_PAUSE = 30  # seconds between two lines of progress


@dataclass(frozen=True)
class Protocol:
    """Views that are averaged, see `agmm.evaluation.Protocol`."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None
    double_softmax: bool = False

    def __str__(self) -> str:
        words = [f"{len(self.scales)} scales"] if len(self.scales) > 1 else []
        words += ["flip"] if self.flip else []
        words += [f"tiles of {self.tile}"] if self.tile else []
        words += ["softmax twice"] if self.double_softmax else []
        return ", ".join(words) or "single scale"


@dataclass(frozen=True)
class Score:
    """What one file reaches under one protocol.

    Attributes
    ----------
    file, sha256 : str
        Name of the file without its folder, and its checksum.
    network : str
        Backbone and where its weights come from.
    dataset : str
    class_names : tuple of str
    protocol : Protocol
    images, of : int
        Images tested, and images in the split.
    miou : float
        Mean IoU in per cent over the classes that occur.
    iou : tuple of float
        Per class in per cent; NaN where a class never occurs.
    """

    file: str
    sha256: str
    network: str
    dataset: str
    class_names: tuple[str, ...]
    protocol: Protocol
    images: int
    of: int
    miou: float
    iou: tuple[float, ...]


def protocols(dataset: str, tile: int | None = None, double_softmax: bool = False) -> tuple[Protocol, ...]:
    """How a data set is tested: VOC at a single scale and at the authors' seven, Cityscapes by a sliding window.

    ``tile`` (default: `TILE`) and ``double_softmax``, which adds the authors' second softmax as a protocol of its own
    (see `agmm.evaluation.sliding_window`), belong to Cityscapes; ValueError elsewhere.
    """
    if dataset == "cityscapes":
        tile = TILE if tile is None else tile
        if tile < 1:
            raise ValueError(f"a tile has at least one pixel, not {tile}; the authors' has {TILE}")
        return tuple(Protocol(tile=tile, double_softmax=double) for double in (False, True)[: 1 + double_softmax])
    if tile is not None or double_softmax:
        raise ValueError(f"tiles and the second softmax belong to Cityscapes; leave them out for {dataset}")
    return Protocol(), Protocol(scales=evaluation.SCALES, flip=True)


def evaluate(
    path: str | Path,
    dataset: str,
    data_root: str | Path | None,
    *,
    tile: int | None = None,
    double_softmax: bool = False,
    device: str = "auto",
    images: int | None = None,
    report: Report = print,
) -> list[Score]:
    """Scores of a file on the val split of its data set, one per protocol; file and data are checked first.

    Parameters
    ----------
    path : path
        See `agmm.tools.author_checkpoints.load`.
    dataset : {"voc", "cityscapes"}
    data_root : path
        Folder of the data set.
    tile, double_softmax
        See `protocols`.
    device : str
        ``"auto"`` takes a GPU where there is one.
    images : int, optional
        Test only so many images, taken at equal distances, and check no others.
    report : callable
        Receives lines of progress.

    Raises
    ------
    FileNotFoundError, ValueError
        The file or the data set is missing, damaged or not what it should be; or an option is impossible.
    """
    chosen = protocols(dataset, tile, double_softmax)
    if images is not None and images < 1:
        raise ValueError(f"at least one image is needed for a look, not {images}")
    net = author_checkpoints.load(path, dataset)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    report(f"{path}: {net.provenance}, sha256 {sha256}")
    split = sets.load(dataset, "test", data_root=data_root)
    count = min(images or len(split), len(split))
    if count == len(split):
        report(f"reading all {len(split)} images and masks once …")
        problems = sets.check(dataset, data_root, ("val",))
        image_files.raise_if_bad(problems, f"{sets.PUBLIC[dataset].title} val in {data_root}")
    where = _moved(net, device)
    report(f"testing {count} of {len(split)} images on {machine.device_name(where)}: {'; '.join(map(str, chosen))}")
    indices = [i * len(split) // count for i in range(count)]
    about = (Path(path).name, sha256, net.provenance, dataset, split.class_names)
    return [
        Score(
            *about,
            protocol=protocol,
            images=count,
            of=len(split),
            miou=evaluation.mean_iou(confusion),
            iou=tuple((100 * evaluation.iou(confusion)).tolist()),
        )
        for protocol, confusion in zip(chosen, _confusions(net, split, indices, chosen, where, report), strict=True)
    ]


def _moved(net: networks.Segmenter, device: str) -> torch.device:
    """The device, with the network on it and proven to run there; libraries are loaded by that, too."""
    try:
        where = choose_device(device)
        net.to(where).to(memory_format=torch.channels_last)
        with torch.no_grad():
            net(torch.zeros(1, 3, 65, 65, device=where))[1].cpu()
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); choose cpu, or cuda with a free GPU") from error
    return where


@torch.no_grad()
def _confusions(
    net: networks.Segmenter,
    split: Split,
    indices: Sequence[int],
    chosen: Sequence[Protocol],
    device: torch.device,
    report: Report,
) -> list[Tensor]:
    """Confusion matrices of the protocols, all in one pass, so that the time left is known after one image."""
    predicts = [evaluation.predictor(net, evaluation.Protocol(**vars(protocol))) for protocol in chosen]
    classes = split.num_classes
    confusions = torch.zeros(len(chosen), classes, classes, dtype=torch.int64, device=device)
    arrays = (OnDemand(arrays.__getitem__, indices) for arrays in (split.images, split.truth))
    batches = read_ahead.batches(*arrays, batch_size=1, readers=read_ahead.readers(device))
    for _, batch in zip(_announced(indices, report), batches, strict=True):
        image, truth = (read_ahead.to_device(tensor, device) for tensor in batch)
        inputs = evaluation.to_input(image, evaluation.IMAGENET)
        for predict, confusion in zip(predicts, confusions, strict=True):
            confusion += evaluation.confusion_matrix(evaluation.best_class(predict(inputs)), truth, classes)
    return list(confusions.cpu())


def _announced(indices: Sequence[int], report: Report) -> Iterator[int]:
    """The indices, with a line after the first, now and then, and after the last."""
    start = said = time.monotonic()
    for done, i in enumerate(indices, 1):
        yield i
        now = time.monotonic()
        if done == 1 or now - said > _PAUSE or done == len(indices):
            said = now
            left = (now - start) / done * (len(indices) - done)
            report(f"{done} of {len(indices)} images, about {timedelta(seconds=round(left))} left")


# --- Tables -----------------------------------------------------------------------------------------------------------


def table(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """A line per number: what the file reaches, then what the paper prints, in per cent.

    Which labels a file was trained with it does not tell, so the printed numbers of all are there.
    """
    from agmm.papers import table as cells  # only here: everything else works without the tables

    made: list[dict[str, Any]] = []
    for score in scores:
        about = {"source": score.file, "sha256": score.sha256, "network": score.network, "dataset": score.dataset}
        values = zip(("mIoU", *score.class_names), (score.miou, *score.iou), strict=True)
        made += [
            about
            | {"labels": "", "protocol": str(score.protocol), "images": score.images, "metric": _metric(name)}
            | {"value": "" if math.isnan(value) else value}
            for name, value in values
        ]
    dataset = scores[0].dataset
    for line in cells.lines(_PRINTED[dataset]):
        about = {"source": f"{line['paper']} {line['table']}", "sha256": "", "network": line["backbone"]}
        labels = f"{line['clicks']} clicks" if "clicks" in line else f"{line['supervision']}s"
        name = "mIoU" if line["metric"] == "mIoU" else line["class"].replace("_", " ")
        about |= {"dataset": dataset, "labels": labels, "protocol": "not stated", "images": ""}
        made.append(about | {"metric": _metric(name), "value": float(line["value"])})
    return made


def _metric(name: str) -> str:
    return name if name == "mIoU" else f"IoU: {name}"


def printed(lines: Sequence[dict[str, Any]]) -> str:
    """The lines of `table` for reading: a row per class, a column per protocol and per kind of labels in the paper."""
    titles = {_column(line): f"published, {line['labels']}" if line["labels"] else line["protocol"] for line in lines}
    values = {(line["metric"], *_column(line)): line["value"] for line in lines}
    rows = [f"{'':20}" + "".join(f"  {title}" for title in titles.values())]
    for metric in dict.fromkeys(line["metric"] for line in lines):
        row = f"{metric.removeprefix('IoU: '):20}"
        for column, title in titles.items():
            value, digits = values[metric, *column], 1 if title.startswith("published") else 2
            row += f"  {'-' if value == '' else f'{value:.{digits}f}':>{len(title)}}"
        rows.append(row)
    rows.append(f"published: {', '.join(dict.fromkeys(line['source'] for line in lines if line['labels']))}")
    return "\n".join(rows)


def _column(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["source"], line["protocol"], line["labels"]


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``agmm released`` takes."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a published .pth, or the model.safetensors of a run")
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

    def report(line: str) -> None:
        print(line, flush=True)

    try:
        scores = evaluate(args.file, args.dataset, args.data_root, **options, report=report)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"the memory of device {args.device} is too small; choose --device cpu") from error
    lines = table(scores)
    title = sets.PUBLIC[args.dataset].title
    print(f"\nIoU in per cent on {scores[0].images} of {scores[0].of} images of {title} val")
    print(printed(lines))
    if scores[0].images < scores[0].of:
        print("a quick look: published numbers are of the whole split")
    if args.csv:
        atomic_files.write_text(args.csv, _csv(lines))
    return 0

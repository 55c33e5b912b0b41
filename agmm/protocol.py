"""What is measured on a run's network by its protocol: test split, training curves, labels for a second stage.

The processes of ``torchrun`` share every set of images.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agmm import evaluation, gmm, labels, loop, methods, objectives
from agmm.batches import normalization
from agmm.data import Arrays, OnDemand, Split, label_files
from agmm.runs import Run

PIXELS_AT_A_TIME = 1 << 22
"""Pixels that are predicted together, in at most 50 images."""


def autocast(run: Run, device: torch.device) -> torch.autocast:
    """Precision of a run's network."""
    return torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bfloat16")


def as_written(run: Run) -> contextlib.AbstractContextManager[object]:
    """Tests see images of many sizes, and a compiled network would be compiled for each."""
    return torch.compiler.set_stance("force_eager") if run.compiled else contextlib.nullcontext()


def confusion(net: nn.Module, split: Split, run: Run, device: torch.device, *, single_scale: bool = False) -> Tensor:
    """Confusion matrix (K, K) of a split, by the run's test procedure or from one scale without flips."""
    loop.agree(net)
    rank, world = loop.rank_and_world()
    part = slice(rank, None, world)
    options = _options(run, split)
    if single_scale:
        options |= {"scales": (1.0,), "flip": False}
    with autocast(run, device), as_written(run):
        matrix = evaluation.evaluate(
            net,
            split.images[part],
            split.truth[part],
            split.num_classes,
            device=device,
            **options,
            **normalization(run),
        )
    return loop.over_processes(matrix.to(device)).cpu()


@torch.no_grad()
def training_curves(
    net: nn.Module,
    objective: methods.Objective,
    data: Split,
    sparse: Arrays,
    run: Run,
    device: torch.device,
) -> dict[str, float]:
    """mIoU on training images of P, of P restricted to the labeled classes, and of G (supplement, Fig. 2).

    Whole images without augmentation, measured against the dense truth, which serves nothing else. G chooses among an
    image's labeled classes only, so P restricted in the same way is the fair comparison.
    """
    net.eval()
    loop.agree(net)
    matrices: dict[str, Tensor] = {}
    rank, world = loop.rank_and_world()
    part = slice(rank, run.history_images, world)
    size = _images_at_a_time(data)
    for images, truth, label in evaluation.batches(data.images[part], data.truth[part], sparse[part], batch_size=size):
        truth, label = truth.to(device), label.to(device).long()
        with autocast(run, device), as_written(run):
            features, logits = net(evaluation.to_input(images.to(device), **normalization(run)))
        present = gmm.components(label, data.num_classes).present
        restricted = logits.masked_fill(~present[..., None, None], -torch.inf)
        predictions = {"p_miou": logits.argmax(1), "p_restricted_miou": restricted.argmax(1)}
        if isinstance(objective, objectives.AGMM):
            scores = objective(features, logits, label, present).scores
            predictions["g_miou"] = scores.masked_fill(~present[..., None, None], -1).argmax(1)
        for name, prediction in predictions.items():
            matrix = evaluation.confusion_matrix(prediction, truth, data.num_classes)
            matrices[name] = matrices.get(name, torch.zeros_like(matrix)) + matrix
    return {name: evaluation.mean_iou(loop.over_processes(matrix)) for name, matrix in matrices.items()}


def pseudo_labels(net: nn.Module, run: Run, results: Path, data: Split, sparse: Arrays, device: torch.device) -> Arrays:
    """Labels of a second stage ``run``: what ``net`` of its first stage predicts for the training images, as tested.

    Those of a data set on disk are PNG files in the run's folder; what an interrupted run has written stays.
    """
    teacher = run.teacher
    assert teacher is not None
    options = _options(teacher, data)
    predict = evaluation.as_tested(net, **options)
    about = {"batch_size": options["batch_size"], "device": device, **normalization(teacher)}

    def of(images: Arrays, sparse: np.ndarray) -> np.ndarray:
        classes = np.stack([labels.image_classes(label, data.num_classes) & run.restrict for label in sparse])
        with autocast(teacher, device):
            return evaluation.pseudo_labels(predict, images, sparse, classes, **about)

    if isinstance(sparse, np.ndarray):
        return of(data.images, sparse)
    folder = run.folder(results) / "pseudo_labels"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.png" for name in data.ids]
    rank, world = loop.rank_and_world()
    for i in range(rank, len(data), world):
        if not paths[i].exists():
            label_files.write_index(paths[i], of([data.images[i]], np.asarray(sparse[i])[None])[0])
    loop.wait_for_all()
    return OnDemand(label_files.read_index, paths)


def _options(run: Run, split: Split) -> dict[str, Any]:
    """How a run is tested."""
    if run.tile:
        size = _at_a_time(run.tile**2)
    else:
        size = _images_at_a_time(split, max(run.scales) * (math.sqrt(2) if run.flip else 1))
    return {"batch_size": size, "scales": run.scales, "flip": run.flip, "tile": run.tile}


def _images_at_a_time(split: Split, scale: float = 1.0) -> int:
    height, width = split.images[0].shape[:2]
    return _at_a_time(height * width * scale**2)


def _at_a_time(pixels: float) -> int:
    """Images or tiles of so many pixels that are predicted together."""
    return max(1, min(50, int(PIXELS_AT_A_TIME / pixels)))

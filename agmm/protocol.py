"""What is measured on a run's network by its protocol: test split, training curves, labels for a second stage.

The processes of ``torchrun`` share every set of images.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agmm import crf, evaluation, gmm, labels, loop, methods, objectives, reading
from agmm.batches import ONE_BY_ONE, normalization
from agmm.data import Arrays, OnDemand, Split, label_files
from agmm.rivals import cams, spml, toco
from agmm.runs import Run

MOST_IMAGES = 50
"""Images that are predicted together, if all of them have no more than `evaluation.PIXELS`."""


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
            crf=crf.PARAMETERS[run.crf] if run.crf else None,
            **options,
            **normalization(run),
        )
    return loop.over_processes(matrix.to(device)).cpu()


@torch.no_grad()
def training_curves(
    net: nn.Module,
    objective: methods.Trained,
    data: Split,
    sparse: Arrays,
    run: Run,
    device: torch.device,
    tags: np.ndarray | None = None,
) -> dict[str, float]:
    """mIoU on training images of P, of P restricted to the labeled classes, and of G (supplement, Fig. 2).

    Whole images without augmentation, measured against the dense truth, which serves nothing else. G chooses among an
    image's labeled classes only, so P restricted in the same way is the fair comparison. With ``tags`` (N, K) P is
    restricted to these; a run that learns from them has G by its pseudo labels of the moment, and the mIoU of its CAMs.
    """
    net.eval()
    loop.agree(net)
    matrices: dict[str, Tensor] = {}
    rank, world = loop.rank_and_world()
    part = slice(rank, run.history_images, world)
    size = _images_at_a_time(data)
    shown = np.zeros((len(data), data.num_classes), bool) if tags is None else tags
    aligned = data.images[part], data.truth[part], sparse[part], shown[part]
    mixture = objective.inner if isinstance(objective, toco.FromTags) else objective
    for batch in reading.batches(*aligned, batch_size=size, readers=reading.readers(device)):
        images, truth, label, named = (reading.to_device(tensor, device) for tensor in batch)
        label, maps = label.long(), {}
        inputs = evaluation.to_input(images, **normalization(run))
        with autocast(run, device), as_written(run):
            features, logits = net(inputs)
            if isinstance(objective, toco.FromTags):
                activation = objective.maps_of_whole(net, inputs, named[:, 1:], run.crop)
                maps["cam_miou"] = cams.with_background(activation, objective.options.background)
                label = objective.labels(activation, named[:, 1:], images.movedim(-1, 1) / 255)
        present = gmm.components(label, data.num_classes).present
        outside = ~(present if tags is None else named)[..., None, None]
        maps |= {"p_miou": logits, "p_restricted_miou": logits.masked_fill(outside, -torch.inf)}
        if isinstance(mixture, objectives.AGMM | objectives.AGMMpp):
            scores = mixture(features, logits, label, present if tags is None else named).scores
            maps["g_miou"] = scores.masked_fill(~present[..., None, None], -1)
        for name, values in maps.items():
            matrix = evaluation.confusion_matrix(evaluation.best_class(values), truth, data.num_classes)
            matrices[name] = matrices.get(name, torch.zeros_like(matrix)) + matrix
    return {name: evaluation.mean_iou(loop.over_processes(matrix)) for name, matrix in matrices.items()}


@torch.no_grad()
def cam_miou(
    net: nn.Module,
    objective: toco.FromTags,
    split: Split,
    tags: np.ndarray,
    run: Run,
    device: torch.device,
    count: int | None = None,
) -> float:
    """mIoU of the CAMs on the first ``count`` images, given their tags (N, K): the quality of pseudo labels (ToCo)."""
    net.eval()
    loop.agree(net)
    rank, world = loop.rank_and_world()
    part = slice(rank, count, world)
    aligned = split.images[part], split.truth[part], tags[part]
    matrix = torch.zeros(split.num_classes, split.num_classes, dtype=torch.int64, device=device)
    for batch in reading.batches(*aligned, batch_size=_images_at_a_time(split), readers=reading.readers(device)):
        images, truth, shown = (reading.to_device(tensor, device) for tensor in batch)
        inputs = evaluation.to_input(images, **normalization(run))
        with autocast(run, device):
            maps = objective.maps_of_whole(net, inputs, shown[:, 1:], run.crop)
        predicted = evaluation.best_class(cams.with_background(maps, objective.options.background))
        matrix += evaluation.confusion_matrix(predicted, truth, split.num_classes)
    return evaluation.mean_iou(loop.over_processes(matrix))


def pseudo_labels(
    net: nn.Module,
    run: Run,
    results: Path,
    data: Split,
    sparse: Arrays,
    device: torch.device,
    tags: np.ndarray | None = None,
) -> Arrays:
    """Labels of a second stage ``run``: what ``net`` of its first stage predicts for the training images, as tested.

    They are restricted to the classes that an image's labels name, or to its ``tags`` (N, K) where these are given.
    Those of a data set on disk are PNG files in the run's folder; what an interrupted run has written stays.
    """
    teacher = run.teacher
    assert teacher is not None
    options = _options(teacher, data)
    size = options.pop("batch_size")
    predict = evaluation.as_tested(net, **options)
    about_input = normalization(teacher)
    about = {"batch_size": size, "device": device, **about_input}

    objective = methods.build(run.method, data.num_classes, **dict(run.options))

    def of(images: Arrays, sparse: np.ndarray, tags: np.ndarray | None) -> np.ndarray:
        named = np.stack([labels.image_classes(label, data.num_classes) for label in sparse]) if tags is None else tags
        with autocast(teacher, device):
            if isinstance(objective, spml.SPMLClassifier):
                classes = named | (not run.restrict)
                side = (run.crop or 0) if run.augmentation in ONE_BY_ONE else 0
                how: dict[str, Any] = {"side": side, "device": device, "mirrored": data.mirrored} | about_input
                return objective.pseudo_labels(net, images, sparse, classes, **how)
            return evaluation.pseudo_labels(predict, images, sparse, named & run.restrict, **about)

    if isinstance(sparse, np.ndarray):
        return of(data.images, sparse, tags)
    folder = run.folder(results) / "pseudo_labels"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.png" for name in data.ids]
    rank, world = loop.rank_and_world()
    left = [i for i in range(rank, len(data), world) if not paths[i].exists()]
    ahead = (OnDemand(arrays.__getitem__, left) for arrays in (data.images, sparse))
    for i, (image, label) in zip(left, reading.ahead(*ahead, readers=reading.readers(device)), strict=True):
        label_files.write_index(paths[i], of([image], label[None], None if tags is None else tags[i : i + 1])[0])
    loop.wait_for_all()
    return OnDemand(label_files.read_index, paths)


def _options(run: Run, split: Split) -> dict[str, Any]:
    """How a run is tested."""
    views = {"scales": run.scales, "flip": run.flip, "tile": run.tile, "merge": run.scale_merge}
    views |= {"long_side": run.long_side}
    return {"batch_size": _images_at_a_time(split), "mirrored": split.mirrored, **views}


def _images_at_a_time(split: Split) -> int:
    height, width = split.images[0].shape[:2]
    return max(1, min(MOST_IMAGES, evaluation.PIXELS // (height * width)))

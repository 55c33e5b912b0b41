"""What is measured on a run's network by its protocol: test split, training curves, labels for a second stage.

The processes of ``torchrun`` share every set of images.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agmm import evaluation, gmm, labels, objectives
from agmm.data import sets
from agmm.data.public import label_files
from agmm.data.split import Arrays, OnDemand, Split
from agmm.evaluation import crf, read_ahead
from agmm.rivals import cams, spml, toco
from agmm.training import loop, methods, weights
from agmm.training.batches import ONE_BY_ONE, normalization
from agmm.training.run import Run

MOST_IMAGES = 50
"""Images that are predicted together, if all of them have no more than `evaluation.PIXELS`."""


def autocast(run: Run, device: torch.device) -> torch.autocast:
    """Precision of a run's network."""
    return torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bfloat16")


def as_written(run: Run) -> contextlib.AbstractContextManager[object]:
    """Tests see images of many sizes, and a compiled network would be compiled for each."""
    return torch.compiler.set_stance("force_eager") if run.compiled else contextlib.nullcontext()


def protocol(run: Run, split: Split) -> evaluation.Protocol:
    """How a run is tested on a split."""
    return evaluation.Protocol(
        normalization=normalization(run),
        scales=run.scales,
        flip=run.flip,
        merge=run.scale_merge,
        mirrored=split.mirrored,
        tile=run.tile,
        long_side=run.long_side,
        crf=crf.PARAMETERS[run.crf] if run.crf else None,
    )


def confusion(net: nn.Module, split: Split, run: Run, device: torch.device, *, single_scale: bool = False) -> Tensor:
    """Confusion matrix (K, K) of a split, by the run's test procedure or from one scale without flips."""
    loop.agree(net)
    rank, world = loop.rank_and_world()
    part = slice(rank, None, world)
    how = protocol(run, split)
    if single_scale:
        how = replace(how, scales=(1.0,), flip=False)
    with autocast(run, device), as_written(run):
        matrix = evaluation.evaluate(
            net,
            split.images[part],
            split.truth[part],
            split.num_classes,
            how,
            batch_size=_images_at_a_time(split),
            device=device,
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
    for batch in read_ahead.batches(*aligned, batch_size=size, readers=read_ahead.readers(device)):
        images, truth, label, named = (read_ahead.to_device(tensor, device) for tensor in batch)
        label, maps = label.long(), {}
        inputs = evaluation.to_input(images, normalization(run))
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
    for batch in read_ahead.batches(*aligned, batch_size=_images_at_a_time(split), readers=read_ahead.readers(device)):
        images, truth, shown = (read_ahead.to_device(tensor, device) for tensor in batch)
        inputs = evaluation.to_input(images, normalization(run))
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
    how, size = protocol(teacher, data), _images_at_a_time(data)
    objective = methods.build(run.method, data.num_classes, **dict(run.options))
    if isinstance(objective, spml.SPMLClassifier):
        return _spml_labels(net, objective, run, results, data, sparse, device, tags)

    def of(images: Arrays, sparse: np.ndarray, tags: np.ndarray | None) -> np.ndarray:
        named = np.stack([labels.image_classes(label, data.num_classes) for label in sparse]) if tags is None else tags
        with autocast(teacher, device):
            return evaluation.pseudo_labels(
                net, images, sparse, named & run.restrict, how, batch_size=size, device=device
            )

    if isinstance(sparse, np.ndarray):
        return of(data.images, sparse, tags)

    def one(index: int) -> np.ndarray:
        named = None if tags is None else tags[index : index + 1]
        return of([data.images[index]], sparse[index][None], named)[0]

    return _on_disk(run.folder(results), data.ids, "pseudo_labels", one, len(data))


def _spml_labels(
    net: nn.Module,
    objective: spml.SPMLClassifier,
    run: Run,
    results: Path,
    data: Split,
    sparse: Arrays,
    device: torch.device,
    tags: np.ndarray | None,
) -> Arrays:
    """Labels of a next classifier ``run`` of SPML."""
    teacher = run.teacher
    assert teacher is not None

    def forward(inputs: Tensor) -> tuple[Tensor, ...]:
        with autocast(teacher, device):
            return net(inputs)

    def named(index: int) -> np.ndarray:
        found = labels.image_classes(sparse[index], data.num_classes) if tags is None else tags[index]
        return found | (not run.restrict)

    return objective.pseudo_labels(
        forward,
        data.images,
        sparse,
        OnDemand(named, range(len(data))),
        side=(run.crop or 0) if run.augmentation in ONE_BY_ONE else 0,
        device=device,
        mirrored=data.mirrored,
        cams=data.cams,
        keep=spml.in_memory if isinstance(sparse, np.ndarray) else partial(_on_disk, run.folder(results), data.ids),
        normalization=normalization(teacher),
    )


def _on_disk(
    folder: Path, ids: Sequence[str], name: str, make: Callable[[int], np.ndarray], number: int
) -> Sequence[np.ndarray]:
    """Labels as PNG files in ``folder/name``, each made once, by one of the processes."""
    folder = folder / name
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{image}.png" for image in ids]
    rank, world = loop.rank_and_world()
    for index in range(rank, number, world):
        if not paths[index].exists():
            label_files.write_index(paths[index], make(index))
    loop.wait_for_all()
    return OnDemand(label_files.read_index, paths)


# --- Class activation maps --------------------------------------------------------------------------------------------


def with_cams(run: Run, data: Split, results: Path, device: torch.device) -> Split:
    """The training images of a run with the class activation maps that its labels are made of, if they are.

    Those of a data set on disk are kept beside the weights that they come from.
    """
    source = run.cams_of
    if source is None:
        return data
    net = weights.load_network(source, results, data.num_classes, device)
    objective = weights.load_objective(source, results, data.num_classes, device)
    assert isinstance(objective, toco.FromTags)
    tags = sets.image_tags(data, cache=results / "cache")
    of = partial(_cams, net, objective, source, data, tags, device)
    maps: Sequence[dict[int, np.ndarray]]
    if isinstance(data.images, np.ndarray):
        maps = [of(index) for index in range(len(data))]
    else:
        maps = _cams_on_disk(source.folder(results) / "cams", data.ids, of)
    return replace(data, cams=maps, cams_from=f"class activation maps of run {source.id}")


@torch.no_grad()
def _cams(
    net: nn.Module, objective: toco.FromTags, run: Run, data: Split, tags: np.ndarray, device: torch.device, index: int
) -> dict[int, np.ndarray]:
    """Maps of an image's tags, as halves: code -> (H, W)."""
    shown = torch.from_numpy(tags[index : index + 1, 1:]).to(device)
    image = torch.from_numpy(np.array(data.images[index]))[None].to(device)
    with autocast(run, device):
        maps = objective.maps_of_whole(net, evaluation.to_input(image, normalization(run)), shown, run.crop)[0]
    return {code: maps[code - 1].half().cpu().numpy() for code in np.flatnonzero(tags[index]).tolist() if code}


def _cams_on_disk(
    folder: Path, ids: Sequence[str], make: Callable[[int], dict[int, np.ndarray]]
) -> Sequence[dict[int, np.ndarray]]:
    """Maps in files of the layout that `label_files.read_cams` reads, each made once, by one of the processes."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{image}.npy" for image in ids]
    rank, world = loop.rank_and_world()
    for index in range(rank, len(ids), world):
        if not paths[index].exists():
            label_files.write_cams(paths[index], make(index))
    loop.wait_for_all()
    return OnDemand(label_files.read_cams, paths)


def _images_at_a_time(split: Split) -> int:
    height, width = split.images[0].shape[:2]
    return max(1, min(MOST_IMAGES, evaluation.PIXELS // (height * width)))

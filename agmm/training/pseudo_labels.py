"""Labels of a training: weak ones, and those that a complete run makes for another one.

The latter are predictions for a second stage, and class activation maps. Those of a data set on disk are files in the
folder of a run, each made once, by one of the processes; what an interrupted run has written stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from agmm import evaluation
from agmm.codes import UNLABELED
from agmm.data import image_files, sets
from agmm.data.public import label_files
from agmm.data.split import Arrays, OnDemand, Split
from agmm.rivals import spml, toco
from agmm.training import loop, measure, weights
from agmm.training.batches import ONE_BY_ONE, normalization
from agmm.training.run import Run, build_objective
from agmm.training.where import Context, Where

T = TypeVar("T")


def prepare(run: Run, where: Where, device: torch.device) -> Context:
    """Load the images of a run, and make the weak labels of its seed."""
    data, test = where.load(run, "train"), where.load(run, "test")
    data = with_cams(run, data, where, device)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), run.seed, where.cache)
    return Context(run, where, device, data, test, sparse, _image_tags(run, data, where.cache))


def _image_tags(run: Run, split: Split, cache: Path) -> np.ndarray | None:
    """Return the tags (N, K) of a split, where these are a run's labels, or what its labels are made of."""
    if run.labels not in ("tags", "cam"):
        return None
    if split.background != 0:
        raise ValueError(f"image tags need a background of code 0, which {split.dataset} does not have")
    if split.mirrored is not None:
        raise ValueError(f"classes of {split.dataset} have a left and a right, which tags do not tell: choose points")
    return sets.image_tags(split, cache=cache)


def pseudo_labels(net: nn.Module, teacher: Run, context: Context) -> Arrays:
    """Return what the first stage's ``net`` predicts when tested without a CRF (multi-stage training, MT).

    The paper says no more than that predictions become labels. Ours are restricted to the classes that an image's
    labels or tags name, if so asked and they name any, and keep the annotation where there is one; ``VOID`` stays.
    """
    run, data = context.run, context.data
    objective = build_objective(run.method, data.num_classes, **dict(run.options))
    if isinstance(objective, spml.SPMLClassifier):
        return _spml_labels(net, objective, teacher, context)
    predict = evaluation.predictor(net, measure.protocol(teacher, data))

    @torch.no_grad()
    def labels_of(part: slice) -> np.ndarray:
        sparse, images = np.stack(list(context.sparse[part])), np.asarray(data.images[part])
        outside = torch.from_numpy(~(context.image_classes(part) & run.restrict)).to(context.device)
        outside &= ~outside.all(dim=1, keepdim=True)
        with measure.autocast(teacher, context.device):
            inputs = evaluation.to_input(torch.from_numpy(images).to(context.device), normalization(teacher))
            best = evaluation.best_class(predict(inputs).masked_fill(outside[..., None, None], -1)).cpu().numpy()
        return np.where(sparse == UNLABELED, best, sparse).astype(np.uint8)

    if isinstance(context.sparse, np.ndarray):
        size = measure.images_at_a_time(data)
        return np.concatenate([labels_of(slice(start, start + size)) for start in range(0, len(data), size)])
    files = partial(_png_files, context.folder, data.ids, "pseudo_labels")
    return files(lambda index: labels_of(slice(index, index + 1))[0], len(data))


def _spml_labels(net: nn.Module, objective: spml.SPMLClassifier, teacher: Run, context: Context) -> Arrays:
    run, data, sparse = context.run, context.data, context.sparse

    def forward(inputs: Tensor) -> tuple[Tensor, ...]:
        with measure.autocast(teacher, context.device):
            return net(inputs)

    def image_classes(index: int) -> np.ndarray:
        return context.image_classes(slice(index, index + 1))[0] | (not run.restrict)

    side = (run.crop or 0) if run.augmentation in ONE_BY_ONE else 0
    return objective.pseudo_labels(
        spml.FirstStage(forward, context.device, side, data.mirrored, normalization(teacher)),
        data.images,
        sparse,
        OnDemand(image_classes, range(len(data))),
        cams=data.cams,
        keep=spml.in_memory if isinstance(sparse, np.ndarray) else partial(_png_files, context.folder, data.ids),
    )


def with_cams(run: Run, data: Split, where: Where, device: torch.device) -> Split:
    """Return the training images of a run with the class activation maps that its labels are made of, if they are."""
    source = run.cams_of
    if source is None:
        return data
    net = weights.load_network(source, where.results, data.num_classes, device)
    objective = weights.load_objective(source, where.results, data.num_classes, device)
    assert isinstance(objective, toco.FromTags)
    tags = sets.image_tags(data, cache=where.cache)

    @torch.no_grad()
    def maps_of(index: int) -> dict[int, np.ndarray]:
        """Return the maps of an image's tags, in half precision: code to (H, W)."""
        tag = torch.from_numpy(tags[index : index + 1, 1:]).to(device)
        image = torch.from_numpy(np.array(data.images[index]))[None].to(device)
        inputs = evaluation.to_input(image, normalization(source))
        with measure.autocast(source, device):
            maps = objective.maps_of_whole(net, inputs, tag, source.crop)[0]
        return {code: maps[code - 1].half().cpu().numpy() for code in np.flatnonzero(tags[index]).tolist() if code}

    cams: Sequence[dict[int, np.ndarray]]
    if isinstance(data.images, np.ndarray):
        cams = [maps_of(index) for index in range(len(data))]
    else:
        paths = [source.folder(where.results) / "cams" / f"{image}.npy" for image in data.ids]
        cams = _files(paths, maps_of, label_files.write_cams, label_files.read_cams)
    return replace(data, cams=cams, cams_from=f"class activation maps of run {source.id}")


def _png_files(
    folder: Path, ids: Sequence[str], name: str, make: Callable[[int], np.ndarray], number: int
) -> Sequence[np.ndarray]:
    paths = [folder / name / f"{image}.png" for image in ids[:number]]
    return _files(paths, make, image_files.write_index, image_files.read_index)


def _files(
    paths: list[Path], make: Callable[[int], T], write: Callable[[Path, T], None], read: Callable[[Path], T]
) -> Sequence[T]:
    """Make and write the files of a folder that are not there, and return what reads them on demand."""
    paths[0].parent.mkdir(exist_ok=True)
    rank, world = loop.rank_and_world()
    for index in range(rank, len(paths), world):
        if not paths[index].exists():
            write(paths[index], make(index))
    loop.wait_for_all()
    return OnDemand(read, paths)

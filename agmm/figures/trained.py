"""A complete run with its data, and what its network and its mixture predict for some images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agmm import evaluation, gmm, networks, objectives
from agmm.data import sets
from agmm.data.split import Arrays, Split
from agmm.rivals import toco
from agmm.training import pseudo_labels, train, weights
from agmm.training.run import AnyObjective, Run
from agmm.training.where import at

BATCH = 25


@dataclass(frozen=True)
class Trained:
    """A complete run: its network with the data it was trained and tested on."""

    run: Run
    net: networks.Segmenter  # in eval mode, on a GPU where there is one
    data: Split
    test: Split
    sparse: Arrays  # sparse labels (H, W) of ``data``; all ``UNLABELED`` where only tags are known
    objective: AnyObjective
    """With its trained weights, on the network's device; it makes the mixture, and pseudo labels from image tags."""

    @property
    def device(self) -> torch.device:
        """Return the network's device."""
        return next(self.net.parameters()).device


def load(run: Run, results: str | Path = "results", data_root: str | Path | None = None) -> Trained:
    """Load weights and data of a complete run; raise ValueError if the weights are missing."""
    device = train.choose_device("auto")
    context = pseudo_labels.prepare(run, at(results, data_root), device)
    net = weights.load_network(run, Path(results), context.data.num_classes, device)
    objective = weights.load_objective(run, Path(results), context.data.num_classes, device)
    return Trained(run, net, context.data, context.test, context.sparse, objective)


def load_training_data(run: Run, results: str | Path, data_root: str | Path | None) -> tuple[Split, Arrays]:
    """Load the training images of a run and their sparse labels."""
    context = pseudo_labels.prepare(run, at(results, data_root), train.choose_device("auto"))
    return context.data, context.sparse


def outputs(trained: Trained, split: Split, count: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield features (B, C, h, w) and logits (B, K, H, W) of the first images of a split, in batches of one size."""
    count = min(count, len(split))
    batch = BATCH if isinstance(split.images, np.ndarray) else 1
    for start in range(0, count, batch):
        part = slice(start, min(start + batch, count))
        yield part, *forward(trained, split, part)


@torch.no_grad()
def forward(trained: Trained, split: Split, part: slice) -> tuple[Tensor, Tensor]:
    """Return features and logits of some images of equal size, on the CPU."""
    features, logits = trained.net(_inputs(trained, tensor(split.images[part])))
    return features.cpu(), logits.cpu()


@torch.no_grad()
def weak_labels(trained: Trained, part: slice) -> Tensor:
    """Return the labels (B, H, W) that form the mixture of some training images of equal size.

    Where only tags are known these are the pseudo labels that the network's CAMs give at the end of its training.
    """
    if not isinstance(trained.objective, toco.FromTags):
        return tensor(trained.sparse[part]).long()
    data = trained.data
    split = replace(data, ids=data.ids[part], images=data.images[part], truth=data.truth[part])
    images, tags = tensor(split.images), torch.from_numpy(sets.image_tags(split))[:, 1:].to(trained.device)
    maps = trained.objective.maps_of_whole(trained.net, _inputs(trained, images), tags, trained.run.crop)
    colors = images.movedim(-1, 1).to(trained.device) / 255
    return trained.objective.labels(maps, tags, colors).cpu()


def mixture_of(trained: Trained) -> objectives.AGMM | objectives.AGMMpp:
    """Return the objective that makes a run's mixture; raise ValueError for methods without one."""
    inner = trained.objective.inner if isinstance(trained.objective, toco.FromTags) else trained.objective
    if not isinstance(inner, objectives.AGMM | objectives.AGMMpp):
        raise ValueError(f"{trained.run.method} has no mixture; choose a run of AGMM or AGMMpp")
    return inner


@torch.no_grad()
def best_component(trained: Trained, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mixture's prediction (B, H, W) among the classes of each image's labels."""
    image_classes = gmm.components(labels, trained.data.num_classes).present
    inputs = (one.to(trained.device) for one in (features, logits, labels, image_classes))
    scores = mixture_of(trained)(*inputs).scores.cpu()
    return scores.masked_fill(~image_classes[..., None, None], -1).argmax(1)


def tensor(arrays: Arrays) -> Tensor:
    """Stack arrays of one size to a tensor."""
    return torch.from_numpy(np.stack(list(arrays)))


def _inputs(trained: Trained, images: Tensor) -> Tensor:
    return evaluation.to_input(images.to(trained.device), train.normalization(trained.run))

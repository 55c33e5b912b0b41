"""Segments of images and the segments of others that are nearest to them in the embedding (SPML, Fig. 10)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm.data import sets
from agmm.data.split import Split
from agmm.figures.trained import Trained, forward
from agmm.rivals.spml import SPML
from agmm.rivals.spml.retrieval import majority, nearest
from agmm.rivals.spml.segments import Prototypes, Segments, cut
from agmm.training import methods
from agmm.training.run import Run

COUNT = 20
"""Neighbors of a segment (SPML, Sec. 3.4)."""

FINER = 2
"""Clusters along each side per one in training: on VOC 12 and 6."""

BLOCK = 256
"""Segments whose neighbors are looked for together."""


@dataclass(frozen=True)
class Bank:
    """The segments of some images of a split.

    Attributes
    ----------
    split : Split
    prototypes : Prototypes
        ``labels`` are the classes predicted for most of the pixels, ``images`` places in the split, in order, ``tags``
        the true classes of a segment's image without the background.
    sizes : Tensor (M,) int64
        Pixels.
    """

    split: Split
    prototypes: Prototypes
    sizes: Tensor


class Cutout(NamedTuple):
    """A segment to be drawn.

    ``image`` is (H, W, 3) uint8, ``mask`` (H, W) bool; ``predicted`` is the segment's class, ``tags`` those of its
    whole image, and ``cosine`` says how near to the query it is.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    predicted: str
    tags: tuple[str, ...]
    cosine: float


def clusters(run: Run) -> tuple[int, int]:
    """Clusters along each side of an image when segments are looked for."""
    embedding = run.teacher or run
    objective = methods.build(embedding.method, 2, **dict(embedding.options))
    if not isinstance(objective, SPML):
        raise ValueError(f"{run.method} has no segments; choose a run of SPML or SPMLClassifier")
    rows, columns = objective.clusters
    return FINER * rows, FINER * columns


def bank(trained: Trained, split: Split, images: int | None = None) -> Bank:
    """Cut the first images of a split (default: all) into segments, each with its prototype.

    Clusters of the embedding and the place at the resolution of the image, from a single view of each image.
    """
    tags = torch.from_numpy(sets.image_tags(split))
    if split.background is not None:
        tags[:, split.background] = False
    parts, sizes = [], []
    for index in range(min(images or len(split), len(split))):
        segments, labels = _segments(trained, split, index)
        made = segments.prototypes
        place = torch.full_like(labels, index)
        parts.append(Prototypes(made.vectors.cpu(), labels, place, tags[index].expand(len(labels), -1)))
        sizes.append(torch.bincount(segments.own, minlength=len(labels)).cpu())
    return Bank(split, Prototypes.joined(parts), torch.cat(sizes))


@torch.no_grad()
def _segments(trained: Trained, split: Split, index: int) -> tuple[Segments, Tensor]:
    """Segments of an image, and the class (M,) that is predicted for most pixels of each.

    One image at a time, so that an image is cut in the same way whichever others there are.
    """
    features, logits = forward(trained, split, slice(index, index + 1))
    whole = F.interpolate(features.to(trained.device), logits.shape[-2:], mode="bilinear", align_corners=False)
    every = torch.ones(1, split.num_classes, dtype=torch.bool, device=trained.device)
    alike = torch.zeros(whole.shape[0], *whole.shape[2:], dtype=torch.int64, device=trained.device)
    segments = cut(whole, alike, alike, every, clusters(trained.run))
    number = len(segments.prototypes.vectors)
    return segments, majority(logits.argmax(1).flatten(), segments.own.cpu(), number, split.num_classes)


def neighbors(queries: Bank, among: Bank, chosen: Tensor, count: int = COUNT) -> Tensor:
    """Indices (Q, count) of the segments of other images that are nearest to some queries, the best first.

    Parameters
    ----------
    queries, among : Bank
        Images with the same name are the same.
    chosen : (Q,) int64 Tensor
        Which of the queries.
    count : int
    """
    # Whatever an image has of its own may be nearest, and is left out afterwards.
    most = int(among.prototypes.images.bincount().max())
    own = _places(queries, among)[queries.prototypes.images[chosen]]
    found = nearest(queries.prototypes.vectors[chosen], among.prototypes.vectors, count + most, block=BLOCK)
    others = among.prototypes.images[found] != own[:, None]
    order = (~others).long().argsort(dim=1, stable=True)[:, :count]
    return found.gather(1, order)


def _places(queries: Bank, among: Bank) -> Tensor:
    """Where each image of the split of the queries is in the other split; -1 where it is not."""
    known = {name: place for place, name in enumerate(among.split.ids)}
    return torch.tensor([known.get(name, -1) for name in queries.split.ids])


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Shared classes among all classes of two sets (..., K) bool of them, in [0, 1]; 1 where both are empty."""
    union = (a | b).sum(-1)
    return torch.where(union > 0, (a & b).sum(-1) / union.clamp_min(1), 1.0)


def context(queries: Bank, among: Bank, count: int = COUNT) -> pd.DataFrame:
    """How many classes the images of neighbors share with those of the queries (ours).

    Returns
    -------
    DataFrame
        A line per query: image, class, nearest, chance. ``nearest`` is the mean Jaccard index of its image's classes
        and those of its neighbors' images, without background; ``chance`` is its expectation for segments drawn at
        random, of the same predicted class and other images: NaN where there is none.
    """
    asked, known = queries.prototypes, among.prototypes
    found = neighbors(queries, among, torch.arange(len(asked.labels)), count)
    near = jaccard(asked.tags[:, None], known.tags[found]).mean(1)
    return pd.DataFrame(
        {"image": asked.images, "class": asked.labels, "nearest": near, "chance": _by_chance(queries, among)}
    )


def _by_chance(queries: Bank, among: Bank) -> Tensor:
    """Mean Jaccard index (M,) over all segments of other images with the class of the query."""
    asked, known = queries.prototypes, among.prototypes
    num_classes = among.split.num_classes
    counts = torch.zeros(len(among.split), num_classes, dtype=torch.float64)
    counts.index_put_((known.images, known.labels), torch.ones((), dtype=torch.float64), accumulate=True)
    tags = torch.zeros(len(among.split), num_classes, dtype=torch.bool)
    tags[known.images] = known.tags
    places, means = _places(queries, among), torch.zeros(len(asked.labels), dtype=torch.float64)
    for image in asked.images.unique().tolist():
        own = asked.images == image
        others = counts.clone()
        if places[image] >= 0:
            others[places[image]] = 0
        alike = jaccard(asked.tags[own][:1], tags).double()
        means[own] = (alike @ others / others.sum(0))[asked.labels[own]]
    return means


def retrieved(
    trained: Trained, queries: Bank, among: Bank, images: Iterable[int], count: int = 6
) -> list[list[Cutout]]:
    """A segment of each of some images, followed by those of other images that are nearest (SPML, Fig. 10).

    The segment is the largest of those that are predicted to be no background, or of all if there is none.

    Parameters
    ----------
    trained : Trained
        The network whose segments both banks hold.
    queries, among : Bank
    images : iterable of int
        Of the queries.
    count : int
    """
    chosen = torch.tensor([_largest(queries, image) for image in images])
    vectors = queries.prototypes.vectors
    rows = []
    for query, found in zip(chosen.tolist(), neighbors(queries, among, chosen, count).tolist(), strict=True):
        cosines = (among.prototypes.vectors[found] @ vectors[query]).tolist()
        row = [_cutout(trained, among, one, cosine) for one, cosine in zip(found, cosines, strict=True)]
        rows.append([_cutout(trained, queries, query, 1.0), *row])
    return rows


def _largest(queries: Bank, image: int) -> int:
    """Index of the largest segment of an image, of an object if there is one."""
    of_object = queries.prototypes.labels != (-1 if queries.split.background is None else queries.split.background)
    here = queries.prototypes.images == image
    eligible = here & of_object if (here & of_object).any() else here
    return int(queries.sizes.where(eligible, torch.tensor(-1)).argmax())


def _cutout(trained: Trained, of: Bank, index: int, cosine: float) -> Cutout:
    """A segment with its image."""
    made, split = of.prototypes, of.split
    image = int(made.images[index])
    number = index - int((made.images == image).nonzero()[0])
    segments, _ = _segments(trained, split, image)
    picture = np.asarray(split.images[image])
    mask = (segments.own == number).view(picture.shape[:2]).cpu().numpy()
    names = np.array(split.class_names)
    tags = tuple(names[made.tags[index].numpy()].tolist())
    return Cutout(split.ids[image], picture, mask, split.class_names[int(made.labels[index])], tags, cosine)

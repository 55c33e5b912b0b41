"""Segments that look like others: nearest neighbors among all segments, and what most of them are (SPML, Sec. 3.4)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from agmm.codes import UNLABELED
from agmm.rivals.spml.segments import directions, grid_clusters, spherical_kmeans, with_location


class Bank(NamedTuple):
    """Segments that neighbors are found among: their prototypes (M, C) and classes (M,)."""

    vectors: Tensor
    classes: Tensor

    @staticmethod
    def joined(parts: "Iterable[Bank]") -> "Bank":
        """The segments of several images."""
        return Bank(*(torch.cat(both) for both in zip(*parts, strict=True)))


def clusters(embeddings: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cluster embeddings (C, H, W) by direction and place: (H, W), and prototypes (M, C), 0 of an empty cluster.

    K-means begins with a grid of M = rows * columns cells.
    """
    size = (embeddings.shape[-2], embeddings.shape[-1])
    number, vectors = grid[0] * grid[1], torch.nn.functional.normalize(embeddings, dim=0)
    first = grid_clusters(size, grid).flatten().to(embeddings.device)
    seen = with_location(vectors[None]).flatten(2).mT
    own = spherical_kmeans(seen, first[None], number)[0]
    return own.view(size), directions(vectors.flatten(1).T, own, number)


def bank(embeddings: Tensor, labels: Tensor, grid: tuple[int, int], num_classes: int) -> Bank:
    """Return the `clusters` of embeddings (C, H, W) with the most frequent of their labels (Algorithm 2, step 2).

    Pixels of no class do not vote, and a segment without a vote is left out.
    """
    own, prototypes = clusters(embeddings, grid)
    labeled = labels < UNLABELED
    classes = majority(labels[labeled], own[labeled], len(prototypes), num_classes)
    has_votes = torch.bincount(own[labeled], minlength=len(prototypes)) > 0
    return Bank(prototypes[has_votes], classes[has_votes])


def votes(embeddings: Tensor, known: Bank, grid: tuple[int, int], count: int, num_classes: int) -> Tensor:
    """Return each class's share (K, H, W) of the ``count`` segments nearest to a pixel's own (Algorithm 2, step 3)."""
    own, prototypes = clusters(embeddings, grid)
    classes = known.classes[nearest(prototypes, known.vectors, count)]
    return shares(classes, num_classes).T[:, own]


def nearest(queries: Tensor, prototypes: Tensor, count: int = 20, block: int = 4096) -> Tensor:
    """Find the nearest prototypes (M, C) of each query (Q, C), by dot product, the best first: (Q, count).

    Raise ValueError if there are fewer prototypes than neighbors wanted.
    """
    if len(prototypes) < count:
        raise ValueError(f"{len(prototypes)} segments are fewer than the {count} neighbors that are to be found")
    indices = [(part @ prototypes.T).topk(count, dim=1).indices for part in queries.split(block)]
    return torch.cat(indices) if indices else queries.new_zeros((0, count), dtype=torch.int64)


def shares(labels: Tensor, num_classes: int) -> Tensor:
    """Return the share (Q, K) of each class among the labels (Q, n) of neighbors."""
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    return counts.scatter_add(1, labels, torch.ones_like(labels, dtype=counts.dtype)) / labels.shape[1]


def majority(labels: Tensor, own: Tensor, number: int, num_classes: int) -> Tensor:
    """Return the most frequent label (number,) of each segment's pixels (N,), the lowest of equals, 0 without any."""
    counts = torch.zeros(number * num_classes, device=labels.device)
    counts.index_add_(0, own * num_classes + labels, torch.ones(len(labels), device=labels.device))
    return counts.view(number, num_classes).argmax(1)

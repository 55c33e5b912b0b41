"""Segments that look like others: nearest neighbors among all segments, and what most of them are (SPML, Sec. 3.4)."""

import torch
from torch import Tensor


def nearest(queries: Tensor, prototypes: Tensor, count: int = 20, block: int = 4096) -> Tensor:
    """Indices (Q, count) of the nearest prototypes (M, C) of each query (Q, C), by dot product, the best first.

    Raises
    ------
    ValueError
        If there are fewer prototypes than neighbors wanted.
    """
    if len(prototypes) < count:
        raise ValueError(f"{len(prototypes)} segments are fewer than the {count} neighbors that are to be found")
    found = [(part @ prototypes.T).topk(count, dim=1).indices for part in queries.split(block)]
    return torch.cat(found) if found else queries.new_zeros((0, count), dtype=torch.int64)


def shares(labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the labels (Q, n) of neighbors: (Q, K)."""
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    return counts.scatter_add(1, labels, torch.ones_like(labels, dtype=counts.dtype)) / labels.shape[1]


def majority(labels: Tensor, own: Tensor, number: int, num_classes: int) -> Tensor:
    """Most frequent label (number,) of the pixels (N,) of each segment; the lowest of equals, 0 without any pixel."""
    counts = torch.zeros(number * num_classes, device=labels.device)
    counts.index_add_(0, own * num_classes + labels, torch.ones(len(labels), device=labels.device))
    return counts.view(number, num_classes).argmax(1)

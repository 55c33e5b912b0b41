"""Spherical k-means of the pixels of each image, by appearance and place (SPML, Sec. 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_clusters(size: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """First clusters of k-means: a grid of cells, those at the border half as large.

    Parameters
    ----------
    size : (h, w)
        Of the embeddings.
    clusters : (rows, columns)

    Returns
    -------
    Tensor (h, w) int64
        Cell of every pixel, counted down the columns.
    """
    row, column = (
        torch.linspace(0, n - 1, length).round().long() for n, length in zip(clusters, size, strict=True)
    )  # halves are rounded to even
    return row[:, None] + clusters[0] * column


def locations(size: tuple[int, int]) -> Tensor:
    """Row and column of every pixel, from -0.5 at one side to 0.5 at the other: (2, h, w)."""
    sides = (torch.linspace(0, 1, length) - 0.5 for length in size)
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))


def located(embeddings: Tensor) -> Tensor:
    """Unit vectors (B, C + 2, h, w) from unit embeddings (B, C, h, w) with their location appended."""
    place = locations((embeddings.shape[-2], embeddings.shape[-1])).to(embeddings)
    return F.normalize(torch.cat([embeddings, place.expand(len(embeddings), -1, -1, -1)], 1), dim=1)


@torch.no_grad()
def spherical_kmeans(
    vectors: Tensor, clusters: Tensor, number: int, iterations: int = 10, valid: Tensor | None = None
) -> Tensor:
    """Clusters after a fixed number of iterations, of several sets of unit vectors at once.

    Every iteration takes the direction of each cluster's sum, then moves each vector to the cluster with the largest
    dot product. An empty cluster has the direction 0, which may win.

    Parameters
    ----------
    vectors : (B, P, C) Tensor
        Unit vectors.
    clusters : (B, P) int64 Tensor
        First clusters, 0 … number - 1.
    number : int
    iterations : int
    valid : (B, P) bool Tensor, optional
        Vectors that count; the others move, but no cluster follows them.

    Returns
    -------
    Tensor (B, P) int64
    """
    vectors = vectors.contiguous()
    counted = vectors if valid is None else vectors * valid[..., None]
    members = vectors.new_empty(*clusters.shape, number)
    for _ in range(iterations):
        members.zero_().scatter_(2, clusters[..., None], 1)
        directions = F.normalize(members.mT @ counted, dim=-1)
        clusters = (vectors @ directions.mT).argmax(-1)
    return clusters

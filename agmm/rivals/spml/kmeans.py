"""Spherical k-means of the pixels of each image, by appearance and place (SPML, Sec. 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_clusters(size: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """Return the first clusters (h, w) of k-means: a grid of rows and columns, those at the border half as large.

    Cells are counted down the columns.
    """
    lines = zip(clusters, size, strict=True)
    row, column = (torch.linspace(0, n - 1, length).round().long() for n, length in lines)  # halves to even
    return row[:, None] + clusters[0] * column


def locations(size: tuple[int, int]) -> Tensor:
    """Return row and column (2, h, w) of every pixel, from -0.5 at one side to 0.5 at the other."""
    sides = (torch.linspace(0, 1, length) - 0.5 for length in size)
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))


def smoothing() -> Tensor:
    """Return a Gaussian kernel (5, 5) of deviation 1; the released code has distances for weights, by mistake."""
    line = (-0.5 * torch.arange(-2.0, 3.0).square()).exp()
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def colors(images: Tensor, size: tuple[int, int], kernel: Tensor | None = None) -> Tensor:
    """Return the colors (B, 3, h, w) of a grid's pixels, beside their location (SPML on DensePose, released code).

    Parameters
    ----------
    images : (B, 3, H, W) Tensor
        At least as large as the kernel, in any units: of every channel the mean is taken away, the largest becomes 1.
    size : (h, w)
        Of the grid.
    kernel : (n, n) Tensor, optional
        That the images are smoothed with, without padding; `smoothing` by default.
    """
    weights = (smoothing() if kernel is None else kernel).to(images).expand(3, 1, -1, -1)
    smooth = F.interpolate(F.conv2d(images, weights, groups=3), size, mode="bilinear", align_corners=False)
    centered = smooth - smooth.mean((2, 3), keepdim=True)
    return centered / centered.abs().amax((2, 3), keepdim=True).clamp_min(1e-12)


def located(embeddings: Tensor, colors: Tensor | None = None) -> Tensor:
    """Append locations, and colors (B, 3, h, w) if given, to embeddings (B, C, h, w): unit vectors."""
    place = locations((embeddings.shape[-2], embeddings.shape[-1])).to(embeddings).expand(len(embeddings), -1, -1, -1)
    parts = [embeddings, place] if colors is None else [embeddings, place, colors.to(embeddings)]
    return F.normalize(torch.cat(parts, 1), dim=1)


@torch.no_grad()
def spherical_kmeans(
    vectors: Tensor, clusters: Tensor, number: int, iterations: int = 10, valid: Tensor | None = None
) -> Tensor:
    """Cluster several sets of unit vectors at once, by a fixed number of iterations: (B, P).

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
    """
    vectors = vectors.contiguous()
    counted = vectors if valid is None else vectors * valid[..., None]
    members = vectors.new_empty(*clusters.shape, number)
    for _ in range(iterations):
        members.zero_().scatter_(2, clusters[..., None], 1)
        directions = F.normalize(members.mT @ counted, dim=-1)
        clusters = (vectors @ directions.mT).argmax(-1)
    return clusters

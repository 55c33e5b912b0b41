"""Segments of a batch: clusters cut where labels or image regions change, with their prototypes (SPML, Sec. 3.2).

Pixels contrast with the segments of all processes of a training, as in the released code with those of all GPUs.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.codes import VOID

OF_EMBEDDING = 0.1  # weight of the embedding in located vectors with colors


@dataclass(frozen=True)
class Prototypes:
    """Prototypes of M segments, and their labels."""

    vectors: Tensor  # (M, C): direction of the sum of a segment's embeddings
    labels: Tensor  # (M,) int64: the one label of all its pixels, or ``UNLABELED``
    images: Tensor  # (M,) int64: its image in the batch
    tags: Tensor  # (M, K) bool: classes of its whole image

    def detached(self) -> "Prototypes":
        """The same without gradient."""
        return Prototypes(self.vectors.detach(), self.labels, self.images, self.tags)

    @staticmethod
    def joined(parts: "list[Prototypes]") -> "Prototypes":
        """All of several batches; images keep the numbers that they have in theirs."""
        return Prototypes(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Prototypes)))


@dataclass(frozen=True)
class Segments:
    """The N pixels of a batch that are not padding, image by image, and the M segments that they belong to."""

    embeddings: Tensor  # (N, C) unit vectors
    located: Tensor  # (N, C') unit vectors with their location
    labels: Tensor  # (N,) int64: label of every pixel
    regions: Tensor  # (N,) int64: image region of every pixel
    images: Tensor  # (N,) int64: image of every pixel
    own: Tensor  # (N,) int64: segment of every pixel
    prototypes: Prototypes  # those of the segments, ordered by image, cluster, label and region


def directions(vectors: Tensor, index: Tensor, number: int) -> Tensor:
    """Return unit vectors (number, C) along the sums of vectors (N, C) of one index (N,), 0 where there is none."""
    return F.normalize(vectors.new_zeros(number, vectors.shape[1]).index_add(0, index, vectors), dim=1)


def on_grid(codes: Tensor, size: tuple[int, int], how: Literal["nearest", "any"] = "nearest") -> Tensor:
    """Put codes (B, H, W) on a coarser grid: the nearest pixel's, or the lowest of a cell, a class if it has any."""
    if how == "any":
        return -F.adaptive_max_pool2d(-codes[:, None].float(), size)[:, 0].long()
    return F.interpolate(codes[:, None].float(), size, mode="nearest")[:, 0].long()


def cut(
    features: Tensor,
    labels: Tensor,
    regions: Tensor,
    image_classes: Tensor,
    clusters: tuple[int, int] = (6, 6),
    iterations: int = 10,
    colors: Tensor | None = None,
) -> Segments:
    """Cluster the pixels of every image and cut each cluster by label and region.

    A segment has one label and one region, and maybe several pieces. Pixels and prototypes pass gradients to features.
    ``features`` (B, C, h, w) are embeddings before they are normalized. On their grid are ``labels`` (B, h, w) in the
    codes of `agmm.codes`, of which ``VOID`` takes part in nothing, and ``regions`` (B, h, w) of an over-segmentation.
    ``image_classes`` (B, K) bool are those of every whole image, ``clusters`` rows and columns of the grid with which
    k-means begins. With ``colors`` (B, 3, h, w) of `grid_colors` clusters follow colors, too, and located vectors
    follow them and the location mostly: the embedding has a tenth of its weight in these (DensePose).
    """
    size, number = (features.shape[-2], features.shape[-1]), clusters[0] * clusters[1]
    embeddings = F.normalize(features, dim=1)
    clustered = with_location(embeddings, colors)
    located = clustered if colors is None else with_location(OF_EMBEDDING * embeddings, colors)
    flat, flat_clustered, flat_located = (maps.flatten(2).mT for maps in (embeddings, clustered, located))
    valid = labels.flatten(1) != VOID
    first = grid_clusters(size, clusters).flatten().to(labels.device).expand(len(features), -1)
    cluster = spherical_kmeans(flat_clustered.detach(), first, number, iterations, valid)
    image = torch.arange(len(features), device=labels.device)[:, None].expand_as(cluster)
    keys = [part[valid] for part in (image, cluster, labels.flatten(1), regions.flatten(1))]
    own, first_pixel = _numbered(keys)
    images, _, label, region = keys
    vectors, origin = flat[valid], images[first_pixel]
    known = Prototypes(directions(vectors, own, len(first_pixel)), label[first_pixel], origin, image_classes[origin])
    return Segments(vectors, flat_located[valid], label, region, images, own, known)


def _numbered(keys: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Number of every pixel's combination of keys, in their order, and one pixel of each combination."""
    key = torch.zeros_like(keys[0])
    for part in keys:
        key = key * (int(part.max()) + 1 if len(part) else 1) + part
    _, index, counts = torch.unique(key, return_inverse=True, return_counts=True)
    order = index.argsort(stable=True)
    return index, order[counts.cumsum(0) - counts]


def grid_clusters(size: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """Return k-means' first clusters (h, w): cells counted down the columns, those at the border half as large."""
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


def grid_colors(images: Tensor, size: tuple[int, int], kernel: Tensor | None = None) -> Tensor:
    """Return the colors (B, 3, h, w) of a grid's pixels, beside their location (SPML on DensePose, released code).

    Images (B, 3, H, W) are at least as large as the kernel (n, n), with which they are smoothed without padding
    (default: `smoothing`), in any units: of every channel the mean is taken away, the largest becomes 1.
    """
    weights = (smoothing() if kernel is None else kernel).to(images).expand(3, 1, -1, -1)
    smooth = F.interpolate(F.conv2d(images, weights, groups=3), size, mode="bilinear", align_corners=False)
    centered = smooth - smooth.mean((2, 3), keepdim=True)
    return centered / centered.abs().amax((2, 3), keepdim=True).clamp_min(1e-12)


def with_location(embeddings: Tensor, colors: Tensor | None = None) -> Tensor:
    """Append locations, and colors (B, 3, h, w) if given, to embeddings (B, C, h, w): unit vectors."""
    place = locations((embeddings.shape[-2], embeddings.shape[-1])).to(embeddings).expand(len(embeddings), -1, -1, -1)
    parts = [embeddings, place] if colors is None else [embeddings, place, colors.to(embeddings)]
    return F.normalize(torch.cat(parts, 1), dim=1)


@torch.no_grad()
def spherical_kmeans(
    vectors: Tensor, clusters: Tensor, number: int, iterations: int = 10, valid: Tensor | None = None
) -> Tensor:
    """Cluster several sets of unit vectors (B, P, C) at once, by a fixed number of iterations: (B, P).

    Every iteration takes the direction of each cluster's sum, then moves each vector to the cluster with the largest
    dot product. An empty cluster has the direction 0, which may win. The first ``clusters`` (B, P) are 0 … number - 1.
    Vectors that are not ``valid`` (B, P) bool move, but no cluster follows them.
    """
    vectors = vectors.contiguous()
    counted = vectors if valid is None else vectors * valid[..., None]
    members = vectors.new_empty(*clusters.shape, number)
    for _ in range(iterations):
        members.zero_().scatter_(2, clusters[..., None], 1)
        directions = F.normalize(members.mT @ counted, dim=-1)
        clusters = (vectors @ directions.mT).argmax(-1)
    return clusters


def image_clusters(embeddings: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cluster embeddings (C, H, W) by direction and place: (H, W), and prototypes (M, C), 0 of an empty cluster.

    K-means begins with a grid of M = rows * columns cells.
    """
    size = (embeddings.shape[-2], embeddings.shape[-1])
    number, vectors = grid[0] * grid[1], F.normalize(embeddings, dim=0)
    first = grid_clusters(size, grid).flatten().to(embeddings.device)
    seen = with_location(vectors[None]).flatten(2).mT
    own = spherical_kmeans(seen, first[None], number)[0]
    return own.view(size), directions(vectors.flatten(1).T, own, number)


def gather(own: Prototypes, images: int, rows: Tensor | None) -> tuple[Prototypes, Tensor | None]:
    """Return the segments of every process, and further rows (M, n) of each if there are any, this process's first.

    In a single process its own are all there is. Every process must call this as often as the others, and let what it
    gets take part in its loss: gradients are exchanged, too, so that those of ``own.vectors`` come from the losses of
    all; ``rows`` pass none. The batch of each process has so many ``images``; those of the others are numbered on.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own, rows
    rank = dist.get_rank()
    counts = [torch.zeros(1, dtype=torch.int64, device=own.labels.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(own.labels)], device=own.labels.device))
    lengths = [int(count) for count in counts]

    def own_first(rows: Tensor) -> Tensor:
        parts = rows.split(lengths)
        return torch.cat([parts[rank], *parts[:rank], *parts[rank + 1 :]])

    labels, numbers, tags = (
        own_first(_gather_rows(rows, lengths)) for rows in (own.labels, own.images + rank * images, own.tags)
    )
    # This process's images have the numbers 0 … images - 1 again.
    numbers = (numbers - rank * images) % (len(lengths) * images)
    vectors = own_first(_Gather.apply(own.vectors, lengths))
    if rows is not None:
        rows = own_first(_gather_rows(rows, lengths))
    return Prototypes(vectors, labels, numbers, tags), rows


class _Gather(torch.autograd.Function):
    """Rows of all processes; what flows back to a row is the sum of what flows to it in every process."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int]) -> Tensor:
        ctx.lengths = lengths
        return _gather_rows(rows, lengths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slope: Tensor) -> tuple[Tensor, None]:
        total = slope[0].contiguous()
        dist.all_reduce(total)
        return total.split(ctx.lengths)[dist.get_rank()], None


def _gather_rows(rows: Tensor, lengths: list[int]) -> Tensor:
    """Rows of all processes in their order, which need not be equally many: they are exchanged padded."""
    boolean, sent = rows.dtype == torch.bool, rows.detach()
    sent = sent.to(torch.uint8) if boolean else sent
    padded = F.pad(sent, (0, 0) * (sent.dim() - 1) + (0, max(lengths) - len(sent))).contiguous()
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded)
    whole = torch.cat([part[:length] for part, length in zip(received, lengths, strict=True)])
    return whole.bool() if boolean else whole

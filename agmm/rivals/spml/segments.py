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
from agmm.rivals.spml import kmeans

OF_EMBEDDING = 0.1
"""Weight of the embedding in located vectors with colors."""


@dataclass(frozen=True)
class Prototypes:
    """Prototypes of M segments, and their labels.

    Attributes
    ----------
    vectors : Tensor (M, C)
        Direction of the sum of a segment's embeddings.
    labels : Tensor (M,) int64
        The one label of all its pixels, or ``UNLABELED``.
    images : Tensor (M,) int64
        Its image in the batch.
    tags : Tensor (M, K) bool
        Classes of its whole image.
    """

    vectors: Tensor
    labels: Tensor
    images: Tensor
    tags: Tensor

    def detached(self) -> "Prototypes":
        """The same without gradient."""
        return Prototypes(self.vectors.detach(), self.labels, self.images, self.tags)

    @staticmethod
    def joined(parts: "list[Prototypes]") -> "Prototypes":
        """All of several batches; images keep the numbers that they have in theirs."""
        return Prototypes(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Prototypes)))


@dataclass(frozen=True)
class Segments:
    """The N pixels of a batch that are not padding, image by image, and the M segments that they belong to.

    Attributes
    ----------
    embeddings, located : Tensor (N, C), (N, C')
        Unit vectors, without and with their location.
    labels, regions, images, own : Tensor (N,) int64
        Label, image region, image and segment of every pixel.
    prototypes : Prototypes
        Of the segments, which are ordered by image, cluster, label and region.
    """

    embeddings: Tensor
    located: Tensor
    labels: Tensor
    regions: Tensor
    images: Tensor
    own: Tensor
    prototypes: Prototypes


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

    Every segment thus has one label and one region, and may be in several pieces. Gradients reach the features through
    pixels and prototypes.

    Parameters
    ----------
    features : (B, C, h, w) Tensor
        Embeddings before they are normalized.
    labels, regions : (B, h, w) int64 Tensor
        On the grid of the features: labels in the codes of `agmm.codes`, regions of an over-segmentation.
        Pixels labeled ``VOID`` take part in nothing.
    image_classes : (B, K) bool Tensor
        Classes of every whole image.
    clusters : (rows, columns)
        Number of clusters along each side.
    iterations : int
        Of k-means.
    colors : (B, 3, h, w) Tensor, optional
        See `kmeans.colors`. Clusters then follow colors, too, and located vectors follow them and the location
        mostly: the embedding has a tenth of its weight in these (DensePose).
    """
    size, number = (features.shape[-2], features.shape[-1]), clusters[0] * clusters[1]
    embeddings = F.normalize(features, dim=1)
    clustered = kmeans.located(embeddings, colors)
    located = clustered if colors is None else kmeans.located(OF_EMBEDDING * embeddings, colors)
    flat, flat_clustered, flat_located = (maps.flatten(2).mT for maps in (embeddings, clustered, located))
    valid = labels.flatten(1) != VOID
    first = kmeans.grid_clusters(size, clusters).flatten().to(labels.device).expand(len(features), -1)
    cluster = kmeans.spherical_kmeans(flat_clustered.detach(), first, number, iterations, valid)
    image = torch.arange(len(features), device=labels.device)[:, None].expand_as(cluster)
    keys = [part[valid] for part in (image, cluster, labels.flatten(1), regions.flatten(1))]
    own, first_pixel = _numbered(keys)
    images, _, label, region = keys
    vectors, origin = flat[valid], images[first_pixel]
    prototypes = directions(vectors, own, len(first_pixel))
    known = Prototypes(prototypes, label[first_pixel], origin, image_classes[origin])
    return Segments(vectors, flat_located[valid], label, region, images, own, known)


def _numbered(keys: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Number of every pixel's combination of keys, in their order, and one pixel of each combination."""
    key = torch.zeros_like(keys[0])
    for part in keys:
        key = key * (int(part.max()) + 1 if len(part) else 1) + part
    _, index, counts = torch.unique(key, return_inverse=True, return_counts=True)
    order = index.argsort(stable=True)
    return index, order[counts.cumsum(0) - counts]


# --- Several processes ------------------------------------------------------------------------------------------------


def gather(own: Prototypes, images: int, classes: Tensor | None) -> tuple[Prototypes, Tensor | None]:
    """Return the segments of every process and their possible classes (M, K) bool, those of this process first.

    In a single process its own are all there is. Every process must call this as often as the others, and let what it
    gets take part in its loss: gradients are exchanged, too, so that those of ``own.vectors`` come from the losses of
    all. The batch of each process has so many ``images``; those of the others are counted on from there, so that no two
    have one number.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own, classes
    rank = dist.get_rank()
    lengths = _lengths(own.labels)

    def own_first(rows: Tensor) -> Tensor:
        parts = rows.split(lengths)
        return torch.cat([parts[rank], *parts[:rank], *parts[rank + 1 :]])

    labels, numbers, tags = (
        own_first(_gather_rows(rows, lengths)) for rows in (own.labels, own.images + rank * images, own.tags)
    )
    # This process's images have the numbers 0 … images - 1 again.
    numbers = (numbers - rank * images) % (len(lengths) * images)
    vectors = own_first(_Gather.apply(own.vectors, lengths))
    if classes is not None:
        classes = own_first(_gather_rows(classes, lengths))
    return Prototypes(vectors, labels, numbers, tags), classes


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


def _lengths(rows: Tensor) -> list[int]:
    """Number of rows in every process."""
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return [int(count) for count in counts]


def _gather_rows(rows: Tensor, lengths: list[int]) -> Tensor:
    """Rows of all processes in their order, which need not be equally many: they are exchanged padded."""
    boolean, sent = rows.dtype == torch.bool, rows.detach()
    sent = sent.to(torch.uint8) if boolean else sent
    padded = F.pad(sent, (0, 0) * (sent.dim() - 1) + (0, max(lengths) - len(sent))).contiguous()
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded)
    whole = torch.cat([part[:length] for part, length in zip(received, lengths, strict=True)])
    return whole.bool() if boolean else whole

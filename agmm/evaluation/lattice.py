"""Gaussian filtering of scattered values in time linear in their number: the permutohedral lattice.

A. Adams, J. Baek, M. A. Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010.
d-dimensional feature vectors are lifted into the hyperplane of R^(d+1) whose coordinates sum to zero and lie there in
simplices of the lattice whose points have integer coordinates, all equal modulo d+1. Filtering is three weighted sums:
values are *splatted* onto the corners of their simplices, *blurred* with (1/2, 1, 1/2) along each of the d+1 lattice
directions, and *sliced* back. Only lattice points that are a corner of some simplex exist; what the blur would move
through the others is lost. The result is therefore smaller than the Gaussian sum, on images by a factor of about 0.53.
Each of the three steps is one `torch.nn.functional.embedding_bag`, on any device, and a fixed order of summation.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """The M lattice points of B images with n feature vectors in d dimensions, and how values move between them."""

    corners: Tensor  # (B n, d+1) int32: lattice points of a feature vector's simplex
    weights: Tensor  # (B n, d+1): barycentric coordinates in it; rows sum to 1
    sources: Tensor  # (B n (d+1),) int32: feature vectors of the same pairs, ordered by lattice point
    source_weights: Tensor  # (B n (d+1),): weights of the same pairs in that order
    starts: Tensor  # (M,) int32: where each lattice point's sources start
    blurs: tuple[Tensor, ...]  # d+1 of (M+1, 3) int32: a point and its two neighbors; M, of value 0, if absent


def build(features: Tensor) -> Lattice:
    """Build the lattice of feature vectors (B, n, d) in units of the Gaussian's standard deviation.

    Give float64 where features lie on a regular grid: ties, of which float32 breaks some, decide which points exist.
    """
    batch, _, dimensions = features.shape
    corner, order, weights = _simplices(elevate(features.flatten(0, 1)))
    first = corner.amin(0) - 2 * (dimensions + 1)  # neighbors of corners included
    extent = (corner.amax(0) + 2 * (dimensions + 1) - first + 1)[:dimensions].tolist()
    if batch * math.prod(extent) >= 2**63:
        raise ValueError("features range too widely for the lattice: use larger standard deviations")

    # One integer per lattice point in which every lattice direction is a constant step. The last coordinate is implied.
    stride = torch.tensor([math.prod(extent[:i]) for i in range(dimensions)] + [0], device=features.device)
    steps = (dimensions + 1) * stride - stride.sum()
    image = torch.arange(batch, device=features.device).repeat_interleave(features.shape[1])
    origin = ((corner - first) * stride).sum(1) + image * math.prod(extent)
    # Around a simplex, each corner is one step against the direction of the largest remainder not yet used.
    codes = torch.cat([origin.unsqueeze(1), -steps[order.flip(1)[:, :dimensions]]], 1).cumsum(1)

    codes, pairs = codes.flatten().sort(stable=True)
    points, point_of_pair, counts = codes.unique_consecutive(return_inverse=True, return_counts=True)
    corners = torch.empty_like(point_of_pair).scatter_(0, pairs, point_of_pair)
    return Lattice(
        corners=corners.view_as(weights).int(),
        weights=weights,
        sources=pairs.div(dimensions + 1, rounding_mode="floor").int(),
        source_weights=weights.flatten()[pairs],
        starts=(counts.cumsum(0) - counts).int(),
        blurs=tuple(_neighbors(points, step) for step in steps),
    )


def apply(lattice: Lattice, values: Tensor) -> Tensor:
    """Filter values (B, n, K): about 0.53 of ``sum_j exp(-|f_i - f_j|^2 / 2) values_j``, which includes j = i."""
    dimensions = len(lattice.blurs) - 1
    splat = _weighted_sums(values.flatten(0, 1), lattice.sources, lattice.source_weights, lattice.starts)
    points = torch.cat([splat, splat.new_zeros(1, splat.shape[1])])
    taps = torch.tensor([1, 0.5, 0.5], device=values.device).expand(len(points), 3).contiguous()
    for neighbors in lattice.blurs:
        points = _weighted_sums(points, neighbors, taps)
    # What starts at a point comes back to it once by staying and, as the directions sum to zero, twice by going round.
    peak = 1 + 2**-dimensions
    return _weighted_sums(points, lattice.corners, lattice.weights).view_as(values) / peak


def elevate(features: Tensor) -> Tensor:
    """Lift (N, d) features into the hyperplane (N, d+1) of zero sum, scaled to the width of splat, blur and slice.

    The rows of the basis are orthogonal and of equal length; the three steps together have the variance
    ``(d+1)^2 2/3`` in each direction (Adams et al. 2010).
    """
    dimensions = features.shape[1]
    row = torch.arange(1, dimensions + 1, dtype=torch.float64)[:, None]
    column = torch.arange(dimensions + 1, dtype=torch.float64)
    basis = (row > column).double() - row * (row == column)
    basis *= math.sqrt(2 / 3) * (dimensions + 1) / (row * (row + 1)).sqrt()
    return features @ basis.to(features)


def _simplices(elevated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex around each of N points of the hyperplane: corner, order and weights, (N, d+1) each.

    ``corner`` is its lattice point with coordinates divisible by d+1, int64; ``order`` the coordinates from the largest
    to the smallest remainder ``elevated - corner``; ``weights`` are barycentric: the first belongs to ``corner``, each
    further one to the one before it plus 1 in all coordinates, minus d+1 in the last one of ``order`` not used yet.
    """
    size = elevated.shape[1]
    nearest = (elevated / size).round()
    order = (elevated - size * nearest).argsort(dim=1, descending=True, stable=True)
    position = torch.arange(size, device=elevated.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, position)
    # Rounded coordinates rarely sum to zero; those with the extreme remainders go to the next multiple.
    rank += nearest.sum(1, keepdim=True).long()
    overflow = rank.div(size, rounding_mode="floor")
    rank -= overflow * size
    nearest -= overflow
    order = torch.empty_like(rank).scatter_(1, rank, position)
    rising = (elevated / size - nearest).gather(1, order).flip(1)
    weights = rising.diff(dim=1, prepend=rising[:, -1:] - 1)
    return nearest.long() * size, order, weights


def _neighbors(points: Tensor, step: Tensor) -> Tensor:
    """Indices (M+1, 3) of each of M sorted codes and of the codes one step away on both sides; M where absent."""
    count = len(points)
    own = torch.arange(count, device=points.device)
    after = torch.searchsorted(points, points + step).clamp_max(count - 1)
    after = torch.where(points[after] == points + step, after, count)
    before = torch.full((count + 1,), count, device=points.device).scatter_(0, after, own)[:count]
    return F.pad(torch.stack([own, after, before], 1), (0, 0, 0, 1), value=count).int()


def _weighted_sums(values: Tensor, index: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Sums of rows of ``values``: of each row of a two-dimensional ``index``, or of the stretches from ``starts``."""
    return F.embedding_bag(index, values, starts, mode="sum", per_sample_weights=weights.to(values))

"""Contrast of pixels and segments: each pixel is attracted by some segments and repelled by others (SPML, Eq. 2, 3)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ENTRIES = 2**22
"""Similarities that are held at once."""


def contrast(
    vectors: Tensor,
    prototypes: Tensor,
    own: Tensor,
    group: Tensor,
    positive: Tensor,
    negative: Tensor,
    concentration: float,
    weights: Tensor,
) -> Tensor:
    """Weighted sum over pixels of -log(attraction / (attraction + repulsion)).

    Attraction is the sum of exp(concentration * similarity) over a pixel's positive segments without its own one; that
    of its own segment where there is no other. Repulsion is the same sum over the negative segments.

    All sums are sums of logarithms, so that no concentration overflows or cancels. Pixels are taken in blocks and the
    gradients found with the loss: memory does not grow with pixels times segments.

    Parameters
    ----------
    vectors : (N, C) Tensor
        Unit vectors of pixels.
    prototypes : (M, C) Tensor
        Unit vectors of segments.
    own, group : (N,) int64 Tensor
        Segment of each pixel, and the row of ``positive`` and ``negative`` that holds for it.
    positive, negative : (G, M) bool Tensor
        Segments that attract and repel the pixels of a group.
    concentration : float
        kappa > 0.
    weights : (N,) Tensor
        Of the pixels in the sum; 1/N for a mean.

    Returns
    -------
    Tensor
        Scalar; gradients reach ``vectors`` and ``prototypes``. 0 where there are no pixels or segments.
    """
    if not len(vectors) or not len(prototypes):
        return vectors.sum() * 0
    return _Contrast.apply(vectors, prototypes, own, group, positive, negative, concentration, weights)


def pixel_losses(
    similarity: Tensor, own: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss of each pixel, and what its gradient is made of.

    Parameters
    ----------
    similarity : (N, M) Tensor
        Concentration times dot product.
    own : (N,) int64 Tensor
    positive, negative : (N, M) bool Tensor

    Returns
    -------
    losses, attraction, repulsion : (N,) Tensor
        The loss and the logarithms of both sums.
    attracting : (N, M) bool Tensor
        Segments in the sum of the attraction.
    """
    itself = own[:, None]
    others = positive.scatter(1, itself, False)
    lonely = ~others.any(1, keepdim=True)
    attracting = others.scatter(1, itself, lonely)
    attraction, repulsion = (similarity.masked_fill(~kept, -torch.inf).logsumexp(1) for kept in (attracting, negative))
    return torch.nn.functional.softplus(repulsion - attraction), attraction, repulsion, attracting


class _Contrast(torch.autograd.Function):
    """Loss and gradients block by block; similarities are computed once and forgotten."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        prototypes: Tensor,
        own: Tensor,
        group: Tensor,
        positive: Tensor,
        negative: Tensor,
        concentration: float,
        weights: Tensor,
    ) -> Tensor:
        total = vectors.new_zeros(())
        to_vectors, to_prototypes = torch.zeros_like(vectors), torch.zeros_like(prototypes)
        step = max(1, ENTRIES // len(prototypes))
        for start in range(0, len(vectors), step):
            block = slice(start, start + step)
            similarity = concentration * (vectors[block] @ prototypes.T)
            repelling = negative[group[block]]
            losses, attraction, repulsion, attracting = pixel_losses(
                similarity, own[block], positive[group[block]], repelling
            )
            total += losses @ weights[block]
            # d loss / d similarity: the share of a segment in the repulsion minus its share in the attraction.
            pull = (weights[block] * torch.sigmoid(repulsion - attraction))[:, None]
            repulsion = repulsion.clamp_min(torch.finfo(repulsion.dtype).min)  # none at all: every share is 0
            slope = (similarity - repulsion[:, None]).exp().masked_fill(~repelling, 0)
            slope -= (similarity - attraction[:, None]).exp().masked_fill(~attracting, 0)
            slope *= concentration * pull
            to_vectors[block] = slope @ prototypes
            to_prototypes += slope.T @ vectors[block]
        ctx.save_for_backward(to_vectors, to_prototypes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slope: Tensor) -> tuple[Tensor | None, ...]:
        to_vectors, to_prototypes = ctx.saved_tensors
        return (slope[0] * to_vectors, slope[0] * to_prototypes, *(None,) * 6)

"""Contrast of pixels and segments: each pixel is attracted by some segments and repelled by others (SPML, Eq. 2, 3)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ENTRIES = {"cpu": 2**20, "cuda": 2**24}
"""Similarities that are held at once: what a cache holds, or what keeps a GPU busy."""

SINGLE, DOUBLE = 30.0, 300.0
"""Largest concentrations in float32 and float64: exponentials spread over exp(2 * concentration)."""


def contrast(
    vectors: Tensor,
    prototypes: Tensor,
    own: Tensor,
    group: Tensor,
    positive: Tensor,
    concentration: float,
    weights: Tensor,
) -> Tensor:
    """Return the weighted sum over pixels of -log(attraction / (attraction + repulsion)).

    Of a pixel's unit vector v, its own segment s, prototypes q_t, and positive segments S+ (SPML, Eq. 2, 3):

        attraction = sum_{t in S+, t != s} exp(kappa v . q_t), or exp(kappa v . q_s) where no other is positive
        repulsion  = sum_{t not in S+} exp(kappa v . q_t)

    Gradients reach ``vectors`` and ``prototypes``; 0 where there are no pixels or segments.

    No sum is a difference of others, so that nothing cancels. Pixels are taken in blocks and the gradients found with
    the loss: memory does not grow with pixels times segments.

    Parameters
    ----------
    vectors : (N, C) Tensor
        Unit vectors of pixels.
    prototypes : (M, C) Tensor
        Unit vectors of segments.
    own, group : (N,) int64 Tensor
        Segment of each pixel, and the row of ``positive`` that holds for it.
    positive : (G, M) bool Tensor
        Segments that attract the pixels of a group; the others repel them.
    concentration : float
        kappa, above 0 and at most ``DOUBLE``; above ``SINGLE``, the sums are float64.
    weights : (N,) Tensor
        Of the pixels in the sum; 1/N for a mean.
    """
    if not len(vectors) or not len(prototypes):
        return vectors.sum() * 0
    dtype = vectors.dtype
    if concentration > SINGLE:
        vectors, prototypes, weights = vectors.double(), prototypes.double(), weights.double()
    return _Contrast.apply(vectors, prototypes, own, group, positive, concentration, weights).to(dtype)


class _Contrast(torch.autograd.Function):
    """Loss and gradients block by block; similarities are computed once and forgotten.

    The loss of a pixel is log(1 + R / A). Its slope by the similarity to a segment is the segment's share in A + R if
    it repels, and if it attracts, minus its share in A times R / (A + R).
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        prototypes: Tensor,
        own: Tensor,
        group: Tensor,
        positive: Tensor,
        concentration: float,
        weights: Tensor,
    ) -> Tensor:
        total, to_vectors, to_prototypes = vectors.new_zeros(()), torch.empty_like(vectors), 0 * prototypes
        attracts = positive.to(vectors.dtype)
        liked = positive[group, own]
        # Whether a pixel's own segment is in A, which is where no other is, and whether it is in R.
        own_in_a, own_in_r = ((positive.sum(1)[group] == liked).to(vectors), (~liked).to(vectors))
        most = prototypes.new_full((1, 1), -concentration)
        step = max(1, ENTRIES[vectors.device.type] // len(prototypes))
        for start in range(0, len(vectors), step):
            block = slice(start, start + step)
            here, itself, in_a, in_r = vectors[block], own[block, None], own_in_a[block, None], own_in_r[block, None]
            # Divided by the largest that there can be, exp(concentration).
            repelling = torch.addmm(most, here, prototypes.T, alpha=concentration).exp_()
            mine = repelling.gather(1, itself)
            repelling.scatter_(1, itself, 0)
            attracting = attracts.index_select(0, group[block]).mul_(repelling)
            repelling -= attracting
            a = attracting.sum(1, keepdim=True) + mine * in_a
            r = repelling.sum(1, keepdim=True) + mine * in_r
            total += torch.log1p(r / a)[:, 0] @ weights[block]
            push = concentration * weights[block, None] / (a + r)
            pull = push * (r / a)
            slope = repelling.mul_(push).sub_(attracting.mul_(pull))
            slope.scatter_(1, itself, mine * (in_r * push - in_a * pull))
            torch.mm(slope, prototypes, out=to_vectors[block])
            to_prototypes.addmm_(slope.T, here)
        ctx.save_for_backward(to_vectors, to_prototypes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slope: Tensor) -> tuple[Tensor | None, ...]:
        to_vectors, to_prototypes = ctx.saved_tensors
        return (slope[0] * to_vectors, slope[0] * to_prototypes, *(None,) * 5)

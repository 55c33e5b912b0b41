"""Segments of all processes of a training: pixels contrast with them as with those of all GPUs in the released code."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.rivals.spml.segments import Prototypes


def gather(own: Prototypes, images: int, classes: Tensor | None) -> tuple[Prototypes, Tensor | None]:
    """The segments of every process and their possible classes (M, K) bool, those of this process first.

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

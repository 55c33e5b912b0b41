"""The loops of `agmm.fused` as Triton kernels, for CUDA tensors; the small ones are its own.

Each function reads every feature or logit once and writes its gradient once; what lies between stays in registers. Both
memory layouts are served by the same kernels: the compiler knows which stride is 1 and lays the threads along it, and
the shapes chosen here suit it. Sums over pixels are sums of one partial sum per program, without atomics, so equal
inputs give equal bits.
"""

import torch
from torch import Tensor

from agmm.fused import Supervision, adjoint_weights, count_codes, interpolate, interpolate_backward
from agmm.labels import VOID

try:
    import triton
except ImportError:  # not published for macOS; `available` says so
    triton = None
else:
    from agmm import kernels

__all__ = [
    "add_weighted",
    "adjoint_weights",
    "available",
    "count_codes",
    "differences",
    "differences_backward",
    "interpolate",
    "interpolate_backward",
    "segmentation",
    "segmentation_backward",
    "weighted_sums",
]

# Multiply-adds as one instruction, as was the default before Triton 3.10.
OPTIONS = {"enable_fp_fusion": True}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Programs that fill a large GPU once; with more work, a program takes more pixels rather than leave more partial sums.
PROGRAMS = 1320
# Slots whose sums the backward pass of the differences keeps in registers; more take another pass over the features.
MAX_SLOTS = 16


def available(tensor: Tensor) -> bool:
    """Whether these kernels can work on a tensor: Triton is installed, and it is on a CUDA device and not float64."""
    return triton is not None and tensor.is_cuda and tensor.dtype in DTYPES


def differences(features: Tensor, means: Tensor, per_image: tuple[int, ...]) -> Tensor:
    """Mean over channels of ``|features - means|``.

    Parameters
    ----------
    features : Tensor (B, C, M) float32, bfloat16 or float16
        Channels first or last in memory; other layouts are correct but slow.
    means : Tensor (B, N, C) float32
    per_image : tuple of B ints
        Components of each image, at most N.

    Returns
    -------
    Tensor (B, N, M) float32
        0 in the slots beyond an image's components.
    """
    (batch, channels, pixels), slots = features.shape, means.shape[1]
    out = features.new_empty(batch, slots, pixels, dtype=torch.float32)
    if not out.numel():
        return out
    # 64 channels beside each other are 8 or 16 threads of 16 bytes, so a sum over channels takes 3 or 4 shuffles where
    # whole rows would take 5 and cross warps. 8192 features are 64 registers a thread.
    shape = _tiles(channels, 64, 64, 8192)
    with torch.cuda.device_of(features):
        kernels.differences[triton.cdiv(pixels, shape["PIXELS"]), batch](
            *(features, means.contiguous(), _to_device(per_image, features.device), out),
            *(pixels, slots, *features.stride()),
            **{**OPTIONS, "C": channels, **shape},
        )
    return out


def differences_backward(
    features: Tensor, means: Tensor, per_image: tuple[int, ...], grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `differences`; the kink of the absolute value at 0 has slope 0.

    Parameters
    ----------
    features, means, per_image
        As given to `differences`.
    grad : Tensor (B, N, M) float32

    Returns
    -------
    grad_features : Tensor (B, C, M)
        In the dtype and memory layout of ``features``. Beyond 16 components it is rounded once per 16.
    grad_means : Tensor (B, N, C) float32
    """
    (batch, channels, pixels), used = features.shape, max(per_image, default=0)
    grad_features, grad_means = torch.empty_like(features), torch.zeros_like(means, dtype=torch.float32)
    if not used or not features.numel():
        return grad_features.zero_(), grad_means
    grad, means, counts = grad.contiguous(), means.contiguous(), _to_device(per_image, features.device)
    for first in range(0, used, MAX_SLOTS):
        held = min(used - first, MAX_SLOTS)
        shape = _backward_shape(features, triton.next_power_of_2(held))
        step = shape["STEPS"] * shape["ROW"]
        blocks = triton.cdiv(channels, shape["CHANNELS"])
        tiles = max(8, min(32, batch * blocks * pixels // (step * PROGRAMS)))
        tiles = min(tiles, triton.cdiv(pixels, step))
        segments = triton.cdiv(pixels, step * tiles)
        partial = means.new_empty(batch, segments, held, channels)
        with torch.cuda.device_of(features):
            kernels.differences_backward[segments, blocks, batch](
                *(features, means, counts, grad, grad_features, partial),
                *(pixels, means.shape[1], held, tiles, *features.stride(), *grad_features.stride()),
                **{**OPTIONS, "C": channels, "FIRST": first, **shape},
            )
        grad_means[:, first : first + held] = partial.sum(1)
    return grad_features, grad_means


def weighted_sums(features: Tensor, weights: Tensor) -> Tensor:
    """Sums (B, N, C) float32 of features (B, C, M) with weights (B, N, M) float32, most of which are 0."""
    (batch, channels, pixels), slots = features.shape, weights.shape[1]
    sums = weights.new_empty(batch, slots, channels)
    if sums.numel():
        shape = {"PIXELS": 64, "LANES": min(64, triton.next_power_of_2(channels))}
        with torch.cuda.device_of(features):
            kernels.weighted_sums[triton.cdiv(channels, shape["LANES"]), slots, batch](
                *(features, weights.contiguous(), sums, pixels, slots, *features.stride()),
                **{**OPTIONS, "C": channels, **shape, "num_warps": 4},
            )
    return sums


def add_weighted(grad_features: Tensor, weights: Tensor, grad_sums: Tensor) -> None:
    """Add the gradient of `weighted_sums`, from that of the sums (B, N, C) float32, in place."""
    (batch, channels, pixels), slots = grad_features.shape, weights.shape[1]
    if weights.numel() and channels:
        shape = {"PIXELS": 32, "LANES": min(64, triton.next_power_of_2(channels))}
        with torch.cuda.device_of(grad_features):
            kernels.add_weighted[triton.cdiv(pixels, shape["PIXELS"]), triton.cdiv(channels, shape["LANES"]), batch](
                *(grad_features, weights.contiguous(), grad_sums.contiguous()),
                *(pixels, slots, *grad_features.stride()),
                **{**OPTIONS, "C": channels, **shape, "num_warps": 4},
            )


def segmentation(logits: Tensor, scores: Tensor, given: Supervision) -> Tensor:
    """The four losses at label resolution, from one softmax.

    Parameters
    ----------
    logits : Tensor (B, K, M) float32, bfloat16 or float16
        Channels first or last in memory; other layouts are correct but slow.
    scores : Tensor (B, N, M) float32
        Mixture scores G.
    given : Supervision
        Slots of weight 0 are skipped.

    Returns
    -------
    Tensor (4,) float32
        Sums over pixels of seg, self, spar and absent; 0 for what is left out.
    """
    shape = _segmentation_shape(logits)
    grid = triton.cdiv(logits.shape[2], shape["PIXELS"]), logits.shape[0]
    partial = logits.new_zeros(4, grid[0] * grid[1], dtype=torch.float32)
    if logits.numel():
        with torch.cuda.device_of(logits):
            kernels.segmentation[grid](
                *(logits, scores.contiguous(), *_pointers(given), partial),
                *(logits.shape[2], scores.shape[1], *logits.stride(), given.eps),
                **{**OPTIONS, **_switches(given), "GROUP": 4, **shape},
            )
    return partial.sum(1)


def segmentation_backward(logits: Tensor, scores: Tensor, given: Supervision, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `segmentation`, whose arguments come first.

    Parameters
    ----------
    grad : Tensor (4,) float32

    Returns
    -------
    grad_logits : Tensor (B, K, M)
        In the dtype and memory layout of ``logits``.
    grad_scores : Tensor (B, N, M) float32
    """
    grad_logits = torch.empty_like(logits)
    grad_scores = torch.empty_like(scores, memory_format=torch.contiguous_format)
    # Two slots under way together, where the forward pass has the registers for four.
    shape = {"GROUP": 2, **_segmentation_shape(logits)}
    if logits.numel():
        with torch.cuda.device_of(logits):
            kernels.segmentation_backward[triton.cdiv(logits.shape[2], shape["PIXELS"]), logits.shape[0]](
                *(logits, scores.contiguous(), *_pointers(given)),
                *(grad.contiguous(), grad_logits, grad_scores),
                *(logits.shape[2], scores.shape[1], *logits.stride(), *grad_logits.stride(), given.eps),
                **{**OPTIONS, **_switches(given), **shape},
            )
    return grad_logits, grad_scores


def _tiles(channels: int, lanes: int, most: int, budget: int) -> dict[str, int]:
    """Tiles of PIXELS x LANES channels, CHUNKS of which hold all channels: at most ``budget`` values in all."""
    lanes = min(lanes, triton.next_power_of_2(channels))
    chunks = triton.cdiv(channels, lanes)
    pixels = max(4, min(most, budget // (chunks * lanes)))
    return {"CHUNKS": chunks, "PIXELS": 1 << (pixels.bit_length() - 1), "LANES": lanes, "num_warps": 4}


def _segmentation_shape(logits: Tensor) -> dict[str, int]:
    # Channels last with 21 classes, whole rows per warp would spend 5 shuffles a pixel on every sum, and a thread per
    # pixel would scatter every load over 21 lines. A few threads a pixel, each with every 4th class, do little of both.
    # 3072 logits are 24 registers a thread; 128 pixels are one a thread where a pixel's slots are computed.
    classes = logits.shape[1]
    lanes = max(4, triton.next_power_of_2(classes) // 8)
    return {"K": classes, "VOID": VOID, **_tiles(classes, lanes, 128, 3072)}


def _backward_shape(features: Tensor, slots: int) -> dict[str, int]:
    """Tile of `kernels.differences_backward`: STEPS x ROW pixels by CHANNELS.

    A thread keeps its own channels for all pixels of a program, and a sum of their gradients for each slot, so that
    nothing is exchanged between threads inside the loops: 4 channels (16 bytes of float32, as the means are) and 4
    pixels, or with channels first, where threads lie along the pixels, 8 channels and 2 pixels. With more slots, half.
    Small tiles leave room for many programs, which hide each other's waits.
    """
    slots = max(slots, 4)  # fewer variants to compile; a slot not used is skipped
    if features.stride(1) == 1:
        warps = max(1, min(8, triton.next_power_of_2(features.shape[1]) // 128))
        return {"SLOTS": slots, "STEPS": 32 // max(slots, 8), "ROW": 1, "CHANNELS": 128 * warps, "num_warps": warps}
    return {"SLOTS": slots, "STEPS": 2, "ROW": 32, "CHANNELS": 64 // max(slots, 8), "num_warps": 1}


def _pointers(given: Supervision) -> list[Tensor]:
    # A pointer that is never followed stands for no absent classes.
    flags = given.labels if given.absent is None else given.absent.contiguous().view(torch.uint8)
    return [*(x.contiguous() for x in (given.labels, given.classes, given.self_weight, given.spar_weight)), flags]


def _switches(given: Supervision) -> dict[str, bool]:
    return {"SEG": given.seg, "NEGATIVES": given.negatives, "ABSENT": given.absent is not None}


def _to_device(per_image: tuple[int, ...], device: torch.device) -> Tensor:
    # Out of pinned memory the copy does not wait for the device.
    counts = torch.tensor(per_image, dtype=torch.int32)
    return counts.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else counts

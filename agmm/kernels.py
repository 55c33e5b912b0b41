"""Triton kernels behind `agmm.fused_cuda`, which documents what they compute and chooses the shapes of their tiles.

A program works on a tile of pixels of one image. ``x_b, x_c, x_m`` and the like are the strides of a (B, C, M) tensor;
offsets between images and between tiles are 64-bit, those within a tile 32-bit.
"""

import triton
import triton.language as tl


@triton.jit
def weighted_sums(x, weights, out, M, N, x_b, x_c, x_m, C: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr):
    """One slot and LANES channels; tiles of pixels without weight, nearly all with single clicks, are not read."""
    image, n = tl.program_id(2).to(tl.int64), tl.program_id(1)
    c = tl.program_id(0) * LANES + tl.arange(0, LANES)
    weights += (image * N + n) * M
    total = tl.zeros((LANES,), tl.float32)
    for start in range(0, M, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        weight = tl.load(weights + pixel, mask=pixel < M, other=0)
        if tl.max(tl.abs(weight), 0) > 0:
            mask = (weight != 0)[:, None] & (c < C)[None, :]
            f = tl.load(x + image * x_b + c[None, :] * x_c + pixel[:, None].to(tl.int64) * x_m, mask=mask, other=0)
            total += tl.sum(f.to(tl.float32) * weight[:, None], 0)
    tl.store(out + (image * N + n) * C + c, total, mask=c < C)


@triton.jit
def add_weighted(
    grad_x, weights, grad, M, N, g_b, g_c, g_m, C: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr
):
    """PIXELS x LANES channels, left alone where no slot has weight."""
    image, pixel = tl.program_id(2).to(tl.int64), tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    weights += image * N * M
    grad += image * N * C
    change, largest = tl.zeros((PIXELS, LANES), tl.float32), tl.zeros((PIXELS,), tl.float32)
    for n in range(N):
        weight = tl.load(weights + n * M + pixel, mask=pixel < M, other=0)
        if tl.max(tl.abs(weight), 0) > 0:
            change += weight[:, None] * tl.load(grad + n * C + c, mask=c < C, other=0)[None, :]
            largest = tl.maximum(largest, tl.abs(weight))
    if tl.max(largest, 0) > 0:
        target = grad_x + image * g_b + c[None, :] * g_c + pixel[:, None].to(tl.int64) * g_m
        mask = (largest > 0)[:, None] & (c < C)[None, :]
        value = tl.load(target, mask=mask, other=0).to(tl.float32) + change
        tl.store(target, value.to(target.dtype.element_ty), mask=mask)


@triton.jit
def differences(
    x, mu, counts, out, M, N, x_b, x_c, x_m,
    C: tl.constexpr, CHUNKS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Features stay in registers, in CHUNKS tiles of PIXELS x LANES, while the loop goes over the slots."""
    image, start = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * PIXELS
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, LANES)
    inside = start + pixel < M
    x += image * x_b + start * x_m
    mu += image * N * C
    out += image * N * M + start
    f = ()
    for i in tl.static_range(CHUNKS):
        c = i * LANES + lane[None, :]
        f += (tl.load(x + c * x_c + pixel[:, None] * x_m, mask=(c < C) & inside[:, None], other=0).to(tl.float32),)
    count = tl.load(counts + image)
    for n in range(count):
        distance = tl.zeros((PIXELS, LANES), tl.float32)
        for i in tl.static_range(CHUNKS):
            c = i * LANES + lane[None, :]
            distance += tl.abs(f[i] - tl.load(mu + n * C + c, mask=c < C, other=0))
        tl.store(out + n * M + pixel, tl.sum(distance, 1) / C, mask=inside)
    for n in range(count, N):
        tl.store(out + n * M + pixel, tl.zeros((PIXELS,), tl.float32), mask=inside)


# Channels first, the stride between channels is rarely a multiple of 16 bytes; never to rely on it keeps one layout.
@triton.jit(do_not_specialize_on_alignment=["M", "x_c", "g_c"])
def differences_backward(
    x, mu, counts, grad, grad_x, partial, M, N, held, tiles, x_b, x_c, x_m, g_b, g_c, g_m,
    C: tl.constexpr, FIRST: tl.constexpr, SLOTS: tl.constexpr, STEPS: tl.constexpr, ROW: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Slots from FIRST on; a program goes over ``tiles`` tiles and leaves one sum for each slot and channel."""
    image, segment = tl.program_id(2).to(tl.int64), tl.program_id(0).to(tl.int64)
    # The hints say less than what holds, lest a thread is given 8 channels of two bytes: the means would not match.
    c = tl.multiple_of(tl.max_contiguous(tl.arange(0, CHANNELS), 4), 4)[None, None, :] + tl.program_id(1) * CHANNELS
    pixel = tl.arange(0, STEPS)[:, None, None] * ROW + tl.arange(0, ROW)[None, :, None]
    slot = tl.arange(0, SLOTS)[:, None, None]
    count = tl.load(counts + image) - FIRST
    mu += (image * N + FIRST) * C
    grad += (image * N + FIRST) * M
    sums = tl.zeros((SLOTS, ROW, CHANNELS), tl.float32)
    for tile in range(tiles):
        start = (segment * tiles + tile) * STEPS * ROW
        left = (M - start).to(tl.int32)
        mask = (pixel < left) & (c < C)
        f = tl.load(x + image * x_b + start * x_m + c * x_c + pixel * x_m, mask=mask, other=0).to(tl.float32)
        target = grad_x + image * g_b + start * g_m + c * g_c + pixel * g_m
        slope = tl.zeros((STEPS, ROW, CHANNELS), tl.float32)
        if FIRST > 0:
            slope += tl.load(target, mask=mask, other=0).to(tl.float32) * C
        for group in tl.static_range(0, SLOTS, 4):
            # All loads of four slots before the branches, so that they are under way together.
            center, upstream = (), ()
            for n in tl.static_range(group, group + 4):
                center += (tl.load(mu + n * C + c, mask=c < tl.where(count > n, C, 0), other=0),)
                upstream += (tl.load(grad + start + n * M + pixel, mask=pixel < tl.where(count > n, left, 0), other=0),)
            for n in tl.static_range(group, group + 4):
                if count > n:
                    above, below = f > center[n - group], f < center[n - group]
                    part = tl.where(above, upstream[n - group], 0.0) - tl.where(below, upstream[n - group], 0.0)
                    slope += part
                    sums -= tl.where(slot == n, tl.sum(part, 0)[None, :, :], 0.0)
        tl.store(target, (slope / C).to(target.dtype.element_ty), mask=mask)
    partial += (image * tl.num_programs(0) + segment) * held * C
    tl.store(partial + slot * C + c, tl.sum(sums, 1)[:, None, :] / C, mask=(slot < held) & (c < C))


@triton.jit(do_not_specialize_on_alignment=["M", "z_k"])
def segmentation(
    logits, scores, labels, classes, self_weights, spar_weights, absent, partial, M, N, z_b, z_k, z_m, eps,
    SEG: tl.constexpr, NEGATIVES: tl.constexpr, ABSENT: tl.constexpr, K: tl.constexpr, VOID: tl.constexpr,
    CHUNKS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Logits stay in registers, in CHUNKS tiles of PIXELS x LANES; a program leaves one sum for each term."""
    image, start = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * PIXELS
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, LANES)[None, :]
    left = (M - start).to(tl.int32)
    logits += image * z_b + start * z_m
    e, top, total = _softmax(logits, pixel[:, None], lane, left, z_k, z_m, K, CHUNKS, LANES)
    inverse = 1 / total
    label = tl.load(labels + image * M + start + pixel, mask=pixel < left, other=VOID).to(tl.int32)
    valid = label != VOID
    partial += image * tl.num_programs(0) + tl.program_id(0)
    terms = tl.num_programs(0) * tl.num_programs(1)
    labeled = (label >= 0) & (label < K)
    if SEG:
        own = tl.load(logits + label * z_k + pixel * z_m, mask=labeled, other=0).to(tl.float32)
        tl.store(partial, tl.sum(tl.where(labeled, top + tl.log(total) - own, 0.0), 0))
    first = image * N
    scores += first * M + start
    cross, sparse = tl.zeros((PIXELS,), tl.float32), tl.zeros((PIXELS,), tl.float32)
    for group in range(0, N, GROUP):
        # Without branches the loads of a group are under way together.
        for n in tl.static_range(GROUP):
            weight, code = _slot(self_weights + first, classes + first, group + n, N)
            weight, hit, other = tl.where(valid, weight, 0.0), label == code, labeled & (label != code) & NEGATIVES
            spar = tl.where(hit | other, tl.load(spar_weights + first + group + n, mask=group + n < N, other=0), 0.0)
            g, p = _pair(scores + (group + n) * M, logits, code, pixel, weight, spar, top, inverse, z_k, z_m)
            cross -= weight * (g * tl.log(p + eps) + (1 - g) * tl.log(1 - p + eps))
            sparse -= spar * tl.log(tl.where(hit, g, 1 - g) + eps)
    tl.store(partial + terms, tl.sum(cross, 0))
    tl.store(partial + 2 * terms, tl.sum(sparse, 0))
    if ABSENT:
        # One logarithm of a product instead of K logarithms. It cannot underflow: all P add up to 1.
        product = tl.full((PIXELS, LANES), 1.0, tl.float32)
        for i in tl.static_range(CHUNKS):
            k = i * LANES + lane
            gone = tl.load(absent + image * K + k, mask=k < K, other=0) != 0
            product *= tl.where(gone, 1 - e[i] * inverse[:, None] + eps, 1.0)
        product = tl.reduce(product, 1, _multiply)
        tl.store(partial + 3 * terms, -tl.sum(tl.where(valid, tl.log(product), 0.0), 0))


@triton.jit(do_not_specialize_on_alignment=["M", "z_k", "g_k"])
def segmentation_backward(
    logits, scores, labels, classes, self_weights, spar_weights, absent, grad, grad_logits, grad_scores, M, N,
    z_b, z_k, z_m, g_b, g_k, g_m, eps,
    SEG: tl.constexpr, NEGATIVES: tl.constexpr, ABSENT: tl.constexpr, K: tl.constexpr, VOID: tl.constexpr,
    CHUNKS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Tiles are those of `segmentation`."""
    image, start = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * PIXELS
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, LANES)[None, :]
    left = (M - start).to(tl.int32)
    logits += image * z_b + start * z_m
    e, top, total = _softmax(logits, pixel[:, None], lane, left, z_k, z_m, K, CHUNKS, LANES)
    inverse = 1 / total
    label = tl.load(labels + image * M + start + pixel, mask=pixel < left, other=VOID).to(tl.int32)
    valid = label != VOID
    labeled = (label >= 0) & (label < K)
    grad_p = ()
    for i in tl.static_range(CHUNKS):
        slope = tl.zeros((PIXELS, LANES), tl.float32)
        if ABSENT:
            k = i * LANES + lane
            gone = tl.load(absent + image * K + k, mask=k < K, other=0) != 0
            slope = tl.where(gone & valid[:, None], tl.load(grad + 3) / (1 - e[i] * inverse[:, None] + eps), 0.0)
        grad_p += (slope,)
    first = image * N
    scores += first * M + start
    grad_scores += first * M + start
    for group in range(0, N, GROUP):
        for n in tl.static_range(GROUP):
            weight, code = _slot(self_weights + first, classes + first, group + n, N)
            weight, hit, other = tl.where(valid, weight, 0.0), label == code, labeled & (label != code) & NEGATIVES
            spar = tl.where(hit | other, tl.load(spar_weights + first + group + n, mask=group + n < N, other=0), 0.0)
            g, p = _pair(scores + (group + n) * M, logits, code, pixel, weight, spar, top, inverse, z_k, z_m)
            weight *= tl.load(grad + 1)
            grad_p = _add(grad_p, weight * ((1 - g) / (1 - p + eps) - g / (p + eps)), code - lane, CHUNKS, LANES)
            grad_g = weight * tl.log((1 - p + eps) / (p + eps))
            grad_g += spar * tl.load(grad + 2) * tl.where(hit, -1.0, 1.0) / (tl.where(hit, g, 1 - g) + eps)
            tl.store(grad_scores + (group + n) * M + pixel, grad_g, mask=pixel < tl.where(group + n < N, left, 0))
    inner = tl.zeros((PIXELS, LANES), tl.float32)
    for i in tl.static_range(CHUNKS):
        inner += grad_p[i] * e[i]
    inner = tl.sum(inner, 1) * inverse
    share = tl.where(labeled, tl.load(grad), 0.0)
    grad_logits += image * g_b + start * g_m + pixel[:, None] * g_m
    for i in tl.static_range(CHUNKS):
        k = i * LANES + lane
        p = e[i] * inverse[:, None]
        grad_z = p * (grad_p[i] - inner[:, None])
        if SEG:
            grad_z += share[:, None] * (p - tl.where(k == label[:, None], 1.0, 0.0))
        mask = (k < K) & (pixel < left)[:, None]
        tl.store(grad_logits + k * g_k, grad_z.to(grad_logits.dtype.element_ty), mask=mask)


@triton.jit
def _softmax(logits, pixel, lane, left, z_k, z_m, K: tl.constexpr, CHUNKS: tl.constexpr, LANES: tl.constexpr):
    """Exponentials, CHUNKS times (PIXELS, LANES), and the maximum and sum behind them (PIXELS,)."""
    z = ()
    for i in tl.static_range(CHUNKS):
        k = i * LANES + lane
        value = tl.load(logits + k * z_k + pixel * z_m, mask=(k < K) & (pixel < left), other=0).to(tl.float32)
        z += (tl.where(k < K, value, float("-inf")),)
    top = z[0]
    for i in tl.static_range(1, CHUNKS):
        top = tl.maximum(top, z[i])
    top = tl.max(top, 1)
    e, total = (), tl.zeros_like(z[0])
    for i in tl.static_range(CHUNKS):
        e += (tl.exp(z[i] - top[:, None]),)
        total += e[i]
    return e, top, tl.sum(total, 1)


@triton.jit
def _slot(weights, classes, n, N):
    """Weight and class of a slot; weight 0 beyond the last."""
    return tl.load(weights + n, mask=n < N, other=0), tl.load(classes + n, mask=n < N, other=0).to(tl.int32)


@triton.jit
def _pair(scores, logits, code, pixel, weight, spar, top, inverse, z_k, z_m):
    """Scores and probabilities (PIXELS,) of a slot; nothing is loaded where it has no weight."""
    # The logits come out of the cache this time, which is cheaper than a search through the tile.
    own = tl.load(logits + code * z_k + pixel * z_m, mask=weight != 0, other=0).to(tl.float32)
    p = tl.exp(tl.minimum(own - top, 0)) * inverse  # finite where nothing is loaded, too
    return tl.load(scores + pixel, mask=(weight != 0) | (spar != 0), other=0), p


@triton.jit
def _add(tiles, value, place, CHUNKS: tl.constexpr, LANES: tl.constexpr):
    """Tiles with a value (PIXELS,) added where a class's place relative to the lanes, (1, LANES), says."""
    result = ()
    for i in tl.static_range(CHUNKS):
        result += (tiles[i] + tl.where(place == i * LANES, value[:, None], 0.0),)
    return result


@triton.jit
def _multiply(a, b):
    return a * b

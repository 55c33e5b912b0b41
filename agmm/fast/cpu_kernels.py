"""The inner loops of `agmm.fast.cpu` over numpy arrays, compiled by numba.

Each loop reads a feature or a logit once and keeps what it needs in the first-level cache; the compiler turns the
inner ones into vector instructions. That needs three habits: slices instead of index arithmetic (which is checked for
negative indices), one's own `exp` and `log` (the library's are not vectorized), and ``error_model="numpy"`` (a test
for a zero divisor is a branch). NaN must stay NaN, so that a diverged training is noticed: the flags ``nnan`` and
``ninf`` are left out.

Every loop takes the range of images that it is to treat, so that threads can share a batch. Features, logits and their
gradients are arrays (B, M, C). Weights of rows and columns come from `agmm.fast.cpu`: the two coarse cells of a fine
coordinate and the weight of the second.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from agmm import codes
from agmm.codes import UNLABELED, VOID

TILE = 256  # pixels treated together: the probabilities of 21 classes are half of a first-level cache

f32, i32 = np.float32, np.int32
EPS = f32(codes.EPS)
_options: Any = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}
_loop = numba.njit(nogil=True, **_options)
_inlined = numba.njit(inline="always", **_options)

# ln 2 in two parts, the first with so few bits that its product with an exponent is exact.
_HIGH, _LOW = f32(0.693359375), f32(np.log(2) - 0.693359375)


@_inlined
def exp(x):
    """Taylor series around the nearest multiple of ln 2, to 4e-7, for numbers up to 0; below -87 that of -87."""
    x = f32(-87) if x < f32(-87) else x
    n = np.floor(x * f32(1 / np.log(2)) + f32(0.5))
    r = x - n * _HIGH - n * _LOW
    y = r * f32(1 / 5040) + f32(1 / 720)
    y = y * r + f32(1 / 120)
    y = y * r + f32(1 / 24)
    y = y * r + f32(1 / 6)
    y = y * r + f32(1 / 2)
    y = y * r + f32(1)
    y = y * r + f32(1)
    return y * i32((i32(n) + i32(127)) << i32(23)).view(f32)


@_inlined
def log(x):
    """Exponent, and 2 artanh((m - 1) / (m + 1)) of the mantissa m around 1; to 1e-7, for positive normal numbers."""
    bits = f32(x).view(i32)
    exponent = i32((bits - i32(0x3F3504F3)) >> i32(23))  # so that m lies between the roots of 1/2 and 2
    m = i32(bits - (exponent << i32(23))).view(f32)
    s = (m - f32(1)) / (m + f32(1))
    z = s * s
    y = z * f32(2 / 9) + f32(2 / 7)
    y = y * z + f32(2 / 5)
    y = y * z + f32(2 / 3)
    y = y * z * s + f32(2) * s
    return f32(exponent) * _LOW + y + f32(exponent) * _HIGH if x == x else x


@_loop
def differences(start, stop, features, means, per_image, out):
    """Mean absolute differences (B, N, M) of features and means."""
    for b in range(start, stop):
        for pixel in range(features.shape[1]):
            f = features[b, pixel]
            for n in range(per_image[b]):
                mu, total = means[b, n], f32(0)
                for c in range(f.size):
                    total += abs(f[c] - mu[c])
                out[b, n, pixel] = total / f32(f.size)


@_loop
def differences_backward(start, stop, features, means, per_image, grad, grad_features, grad_means):
    """Gradients of `differences`; those of the means are added up."""
    for b in range(start, stop):
        for pixel in range(features.shape[1]):
            f, grad_f = features[b, pixel], grad_features[b, pixel]
            grad_f[:] = 0
            for n in range(per_image[b]):
                g, mu, grad_mu = grad[b, n, pixel] / f32(f.size), means[b, n], grad_means[b, n]
                for c in range(f.size):
                    slope = g if f[c] > mu[c] else (-g if f[c] < mu[c] else f32(0))
                    grad_f[c] += slope
                    grad_mu[c] -= slope


@_loop
def load(x, b, first, tile):
    """Put the pixels from ``first`` on of an image of (B, M, K) into a tile (K, T)."""
    for t in range(min(TILE, x.shape[1] - first)):
        line = x[b, first + t]
        for k in range(line.size):
            tile[k, t] = line[k]


@_loop
def store(tile, b, first, x):
    """Put a tile (K, T) where `load` has taken it from."""
    for t in range(min(TILE, x.shape[1] - first)):
        out = x[b, first + t]
        for k in range(out.size):
            out[k] = tile[k, t]


@_loop
def softmax(tile, top, norm):
    """In place, of a tile (K, T): exponentials less the maximum; and that maximum, and one over their sum."""
    top[:] = tile[0]
    for k in range(1, tile.shape[0]):
        x = tile[k]
        for t in range(x.size):
            top[t] = x[t] if x[t] > top[t] else top[t]
    norm[:] = 0
    for k in range(tile.shape[0]):
        x = tile[k]
        for t in range(x.size):
            x[t] = exp(x[t] - top[t])
            norm[t] += x[t]
    for t in range(norm.size):
        norm[t] = f32(1) / norm[t]


class Constants(NamedTuple):
    """The fields of `agmm.fast.plain.Supervision` as arrays; without the term absent no class is."""

    labels: np.ndarray
    classes: np.ndarray
    self_weight: np.ndarray
    spar_weight: np.ndarray
    absent: np.ndarray
    negatives: bool
    seg: bool


@_loop
def segmentation(start, stop, logits, scores, constants, sums):
    """Sums (B, 4) of seg, self, spar and absent."""
    labels, classes, self_weight, spar_weight, absent, negatives, seg = constants
    num_classes = absent.shape[1]
    p = np.zeros((num_classes, TILE), f32)
    top, norm, product, valid = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
    for b in range(start, stop):
        reads_logits = seg or absent[b].any() or self_weight[b].any()
        for first in range(0, labels.shape[1], TILE):
            label = labels[b, first : first + TILE]
            size = label.size
            if reads_logits:
                load(logits, b, first, p)
                softmax(p, top, norm)
            labeled = 0
            for t in range(size):
                valid[t] = f32(label[t] != VOID)
                product[t] = f32(1)
                labeled += 0 <= label[t] < num_classes
            for k in range(num_classes):
                if absent[b, k]:
                    e = p[k]
                    for t in range(size):
                        product[t] *= f32(1) + EPS - e[t] * norm[t]
            total = f32(0)
            for t in range(size):
                total -= log(product[t]) * valid[t]
            sums[b, 3] += total
            for n in range(classes.shape[1]):
                g, e = scores[b, n, first : first + TILE], p[classes[b, n]]
                if self_weight[b, n] != 0:
                    total = f32(0)
                    for t in range(size):
                        q = e[t] * norm[t]
                        log_other = log(f32(1) + EPS - q)
                        total -= (log_other + g[t] * (log(q + EPS) - log_other)) * valid[t]
                    sums[b, 1] += total * self_weight[b, n]
                if spar_weight[b, n] != 0 and labeled:
                    total = f32(0)
                    for t in range(size):
                        hit, other = label[t] == classes[b, n], 0 <= label[t] < num_classes and negatives
                        score = g[t] if hit else f32(1) - g[t]
                        total -= log(score + EPS) * f32(hit | other)
                    sums[b, 2] += total * spar_weight[b, n]
            for t in range(size if seg and labeled else 0):
                if 0 <= label[t] < num_classes:
                    sums[b, 0] += top[t] - np.log(norm[t]) - logits[b, first + t, label[t]]


@_loop
def segmentation_backward(start, stop, logits, scores, constants, upstream, grad_logits, grad_scores):
    """Gradients of ``upstream`` (4,) times the sums of seg, self, spar and absent."""
    labels, classes, self_weight, spar_weight, absent, negatives, seg = constants
    num_classes = absent.shape[1]
    p, grad_p = np.zeros((num_classes, TILE), f32), np.empty((num_classes, TILE), f32)
    top, norm, inner, valid = np.empty(TILE, f32), np.ones(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
    grad_seg = upstream[0] if seg else f32(0)
    for b in range(start, stop):
        # Without these terms nothing reaches the logits, whatever is left in the tile.
        reads_logits = seg or absent[b].any() or self_weight[b].any()
        for first in range(0, labels.shape[1], TILE):
            label = labels[b, first : first + TILE]
            size = label.size
            if reads_logits:
                load(logits, b, first, p)
                softmax(p, top, norm)
            labeled = 0
            for t in range(size):
                valid[t] = f32(label[t] != VOID)
                inner[t] = -grad_seg if 0 <= label[t] < num_classes else f32(0)
                labeled += 0 <= label[t] < num_classes
            for k in range(num_classes):
                q, grad_q = p[k], grad_p[k]
                if absent[b, k]:
                    for t in range(size):
                        q[t] *= norm[t]
                        grad_q[t] = upstream[3] * valid[t] / (f32(1) + EPS - q[t])
                        inner[t] += grad_q[t] * q[t]
                else:
                    for t in range(size):
                        q[t] *= norm[t]
                        grad_q[t] = f32(0)
            for n in range(classes.shape[1]):
                g, grad_g = scores[b, n, first : first + TILE], grad_scores[b, n, first : first + TILE]
                weight = self_weight[b, n] * upstream[1]
                if weight != 0:
                    q, grad_q = p[classes[b, n]], grad_p[classes[b, n]]
                    for t in range(size):
                        inverse, other = f32(1) / (q[t] + EPS), f32(1) + EPS - q[t]
                        grad_g[t] = log(other * inverse) * weight * valid[t]
                        other = f32(1) / other
                        slope = (other - g[t] * (inverse + other)) * weight * valid[t]
                        grad_q[t] += slope
                        inner[t] += slope * q[t]
                weight = spar_weight[b, n] * upstream[2]
                if weight != 0 and labeled:
                    for t in range(size):
                        hit, other = label[t] == classes[b, n], 0 <= label[t] < num_classes and negatives
                        score, sign = (g[t], -weight) if hit else (f32(1) - g[t], weight)
                        grad_g[t] += sign / (score + EPS) * f32(hit | other)
            for k in range(num_classes):
                q, grad_q = p[k], grad_p[k]
                for t in range(size):
                    grad_q[t] = (grad_q[t] - inner[t]) * q[t]
            for t in range(size if grad_seg != 0 and labeled else 0):
                if 0 <= label[t] < num_classes:
                    grad_p[label[t], t] -= grad_seg
            store(grad_p, b, first, grad_logits)


@_loop
def count_codes(start, stop, labels, counts):
    """Pixels of each class, image by image; in the last three columns those unlabeled, void, and of no known code."""
    num_classes = counts.shape[1] - 3
    for b in range(start, stop):
        count, unlabeled, void = counts[b], 0, 0
        for code in labels[b]:
            if 0 <= code < num_classes:
                count[code] += 1
            unlabeled += code == UNLABELED
            void += code == VOID
        count[num_classes], count[num_classes + 1] = unlabeled, void
        count[num_classes + 2] = labels.shape[1] - count[: num_classes + 2].sum()


@_loop
def adjoint_weights(start, stop, labels, classes, share, top, bottom, down, left, right, across, weights):
    """Weight of every feature pixel in the labeled pixels of each component: what bilinear interpolation gives back."""
    for b in range(start, stop):
        for y in range(labels.shape[1]):
            label = labels[b, y]
            for x in range(label.size):
                if label[x] == UNLABELED or label[x] == VOID:
                    continue
                for n in range(classes.shape[1]):
                    if classes[b, n] == label[x]:
                        upper, lower = weights[b, n, top[y]], weights[b, n, bottom[y]]
                        low, high = share[b, n] * (f32(1) - down[y]), share[b, n] * down[y]
                        upper[left[x]] += low * (f32(1) - across[x])
                        upper[right[x]] += low * across[x]
                        lower[left[x]] += high * (f32(1) - across[x])
                        lower[right[x]] += high * across[x]
                        break


@_loop
def weighted_sums(start, stop, features, weights, sums):
    """Sums of the features of each component by its weights."""
    for b in range(start, stop):
        for n in range(weights.shape[1]):
            line, total = weights[b, n], sums[b, n]
            for pixel in range(line.size):
                weight = line[pixel]
                if weight != 0:
                    f = features[b, pixel]
                    for c in range(total.size):
                        total[c] += weight * f[c]


@_loop
def add_weighted(start, stop, grad_features, weights, grad_sums):
    """Gradients of `weighted_sums`, added to those of the features."""
    for b in range(start, stop):
        for n in range(weights.shape[1]):
            line, grad = weights[b, n], grad_sums[b, n]
            for pixel in range(line.size):
                weight = line[pixel]
                if weight != 0:
                    out = grad_features[b, pixel]
                    for c in range(grad.size):
                        out[c] += weight * grad[c]


@_loop
def interpolate(start, stop, maps, per_image, top, bottom, down, left, right, across, out):
    """Maps of the components, interpolated bilinearly to the grid of the labels."""
    line = np.empty(maps.shape[3], f32)
    for b in range(start, stop):
        for n in range(per_image[b]):
            for y in range(out.shape[2]):
                upper, lower, fine = maps[b, n, top[y]], maps[b, n, bottom[y]], out[b, n, y]
                for x in range(line.size):
                    line[x] = upper[x] + (lower[x] - upper[x]) * down[y]
                for x in range(fine.size):
                    fine[x] = line[left[x]] + (line[right[x]] - line[left[x]]) * across[x]


@_loop
def interpolate_backward(start, stop, grad, per_image, top, bottom, down, left, right, across, out):
    """Gradients of `interpolate`, added up on the grid of the maps."""
    line = np.empty(out.shape[3], f32)
    for b in range(start, stop):
        for n in range(per_image[b]):
            for y in range(grad.shape[2]):
                fine, upper, lower = grad[b, n, y], out[b, n, top[y]], out[b, n, bottom[y]]
                line[:] = 0
                for x in range(fine.size):
                    part = fine[x] * across[x]
                    line[left[x]] += fine[x] - part
                    line[right[x]] += part
                for x in range(line.size):
                    upper[x] += line[x] * (f32(1) - down[y])
                    lower[x] += line[x] * down[y]

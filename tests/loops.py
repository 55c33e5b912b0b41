"""AGMM in plain loops over images, classes and pixels, with numpy in float64: what the fast code is checked against.

Inputs are numpy arrays in the shapes of `agmm.objectives`. `problems` draws small random ones for hypothesis.
"""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from agmm.codes import UNLABELED, VOID

EPS = 1e-6


@dataclass
class Problem:
    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    image_classes: np.ndarray

    @property
    def num_classes(self):
        return self.logits.shape[1]

    def tensors(self, dtype=torch.float64):
        """Features and logits that require gradients, labels, image classes."""
        features = torch.tensor(self.features, dtype=dtype, requires_grad=True)
        logits = torch.tensor(self.logits, dtype=dtype, requires_grad=True)
        return features, logits, torch.tensor(self.labels), torch.tensor(self.image_classes)


@st.composite
def problems(draw, max_classes=5):
    batch, k, c = draw(st.integers(1, 3)), draw(st.integers(1, max_classes)), draw(st.integers(1, 4))
    h, w, height, width = (draw(st.integers(1, n)) for n in (4, 4, 8, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.full((batch, height, width), UNLABELED, dtype=np.int64)
    for image in labels:
        share_labeled, share_void = draw(st.sampled_from([(0.1, 0.2), (0.5, 0), (0, 0.3), (0, 1), (1, 0)]))
        chance = rng.random((2, height, width))
        labeled = chance[0] < share_labeled
        image[labeled] = rng.integers(k, size=labeled.sum())
        image[chance[1] < share_void] = VOID
    image_classes = rng.random((batch, k)) < 0.3
    for b in range(batch):
        image_classes[b, labels[b][labels[b] < k]] = True
    scale = draw(st.sampled_from([0.5, 2.0]))
    features, logits = rng.normal(size=(batch, c, h, w)), rng.normal(size=(batch, k, height, width))
    return Problem(scale * features, 2 * logits, labels, image_classes)


def random_problem(seed=0, batch=3, k=5, c=6, grid=(5, 7), size=(17, 23)):
    """A problem of which every image has labeled, unlabeled and void pixels and at least two classes."""
    rng = np.random.default_rng(seed)
    labels = np.full((batch, *size), UNLABELED, dtype=np.int64)
    image_classes = np.zeros((batch, k), dtype=bool)
    for b in range(batch):
        classes = rng.permutation(k)[: 2 + b % 3]
        for i in range(9):
            labels[b, rng.integers(size[0]), rng.integers(size[1])] = classes[i % len(classes)]
        labels[b, -b - 1 :] = VOID
        image_classes[b, classes] = True
    return Problem(rng.normal(size=(batch, c, *grid)), 2 * rng.normal(size=(batch, k, *size)), labels, image_classes)


def resize(x, size):
    """Bilinear interpolation of the last two axes, half-pixel centers, edges repeated."""
    return _axis(size[0], x.shape[-2]) @ x @ _axis(size[1], x.shape[-1]).T


def _axis(new, old):
    matrix = np.zeros((new, old))
    for i in range(new):
        position = max((i + 0.5) * old / new - 0.5, 0)
        low = min(int(position), old - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, min(low + 1, old - 1)] += position - low
    return matrix


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def means(features, labels, k):
    out, present = np.zeros((len(features), k, features.shape[1])), np.zeros((len(features), k), dtype=bool)
    for b, image in enumerate(labels):
        fine = resize(features[b], image.shape)
        for y, x in np.argwhere(image < k):
            out[b, image[y, x]] += fine[:, y, x]
            present[b, image[y, x]] = True
        for code in range(k):
            out[b, code] /= (image == code).sum() + EPS
    return out, present


def distances(features, mu, present):
    out = np.zeros((*mu.shape[:2], *features.shape[2:]))
    for b, code in np.argwhere(present):
        for y, x in np.ndindex(*features.shape[2:]):
            out[b, code, y, x] = np.abs(features[b, :, y, x] - mu[b, code]).mean()
    return out


def validity(labels, grid):
    return resize((labels != VOID).astype(float), grid)


def spreads(d, problem, present, sigma):
    """Standard deviation of every present (image, class); 0 elsewhere."""
    out = np.zeros(present.shape)
    grid = d.shape[2:]
    q = resize(softmax(problem.logits) * problem.image_classes[:, :, None, None], grid)
    unlabeled, valid = resize((problem.labels == UNLABELED).astype(float), grid), validity(problem.labels, grid)
    for b, code in np.argwhere(present):
        squares = d[b, code] ** 2
        if sigma == "adaptive":
            weight = unlabeled[b] * q[b, code]
            out[b, code] = np.sqrt((weight * squares).sum() / (weight.sum() + EPS)) if weight.sum() >= 1e-3 else 1
        elif sigma == "code_a":
            weight = valid[b] * q[b, code]
            out[b, code] = np.sqrt((weight * squares).sum() / (weight.sum() + EPS))
        else:
            out[b, code] = np.sqrt(squares.sum() / valid[b].sum() + EPS) if valid[b].sum() > 0 else 0
    return out


def mixture(problem, variant="official", sigma=None):
    """Means, presence, scores at label resolution."""
    mu, present = means(problem.features, problem.labels, problem.num_classes)
    d = distances(problem.features, mu, present)
    if variant == "official" or sigma in ("code_a", "code_b"):
        d = d * validity(problem.labels, d.shape[2:])[:, None]
    if sigma is None and variant == "paper":
        sigma = "adaptive"
    if sigma is None:
        low = np.exp(-(d**2))
    elif isinstance(sigma, str):
        low = np.exp(-(d**2) / (2 * spreads(d, problem, present, sigma)[:, :, None, None] ** 2 + EPS))
    else:
        low = np.exp(-(d**2) / (2 * sigma**2))
    return mu, present, resize(low, problem.labels.shape[1:]) * present[:, :, None, None]


def _cross_entropy(target, score):
    return -target * np.log(score + EPS) - (1 - target) * np.log(1 - score + EPS)


def seg(problem):
    p = softmax(problem.logits)
    losses = [-np.log(p[b, problem.labels[b, y, x], y, x]) for b, y, x in np.argwhere(problem.labels < UNLABELED)]
    return np.sum(losses) / max(len(losses), 1)


def self_(problem, present, g, factor=0.5, reduction="mean"):
    p, total = softmax(problem.logits), 0.0
    for b, y, x in np.argwhere(problem.labels != VOID):
        divisor = present[b].sum() + EPS if reduction == "mean" else 1
        for code in np.flatnonzero(present[b]):
            total += factor * _cross_entropy(g[b, code, y, x], p[b, code, y, x]) / divisor
    return total / max((problem.labels != VOID).sum(), 1)


def spar(problem, present, g, negatives=True):
    total = 0.0
    labeled = np.argwhere(problem.labels < UNLABELED)
    for b, y, x in labeled:
        truth = problem.labels[b, y, x]
        if not negatives:
            total -= np.log(g[b, truth, y, x] + EPS)
            continue
        for code in np.flatnonzero(present[b]):
            total += 0.5 * _cross_entropy(float(code == truth), g[b, code, y, x]) / (present[b].sum() + EPS)
    return total / max(len(labeled), 1)


def _pairs(vectors):
    return [np.exp(-(np.abs(a - b).mean() ** 2)) for i, a in enumerate(vectors) for b in vectors[:i]]


def con_batch(mu, present, vectors="sum"):
    found = []
    for code in range(present.shape[1]):
        n = present[:, code].sum()
        if n:
            total = sum(mu[b, code] for b in np.flatnonzero(present[:, code]))
            found.append(total * n / (n + EPS) if vectors == "sum" else total / (n + EPS))
    pairs = _pairs(found)
    return sum(pairs) / (len(pairs) + EPS)


def con_image(mu, present):
    values = []
    for b in range(len(mu)):
        k = present[b].sum()
        if k:
            values.append(2 / (k * (k + 1)) * sum(_pairs(mu[b, present[b]])))
    return np.mean(values) if values else 0.0


def absent(problem):
    p, total = softmax(problem.logits), 0.0
    valid = np.argwhere(problem.labels != VOID)
    for b, y, x in valid:
        total -= np.log(1 - p[b, ~problem.image_classes[b], y, x] + EPS).sum()
    return total / max(len(valid), 1)


def terms(problem, variant="official", sigma=None, con_vectors="sum", self_reduction="mean"):
    """All five terms."""
    official = variant == "official"
    mu, present, g = mixture(problem, variant, sigma)
    return {
        "seg": seg(problem),
        "self": self_(problem, present, g, 0.5 if official else 1.0, self_reduction),
        "spar": spar(problem, present, g, official),
        "con": con_batch(mu, present, con_vectors) if official else con_image(mu, present),
        "absent": absent(problem),
    }


def assign(problem):
    """Eq. 13: hard labels of unlabeled pixels."""
    mu, present = means(problem.features, problem.labels, problem.num_classes)
    d = distances(problem.features, mu, present)
    sigma, d = spreads(d, problem, present, "adaptive"), resize(d, problem.labels.shape[1:])
    out = np.full(problem.labels.shape, VOID)
    for b, y, x in np.argwhere(problem.labels == UNLABELED):
        codes = np.flatnonzero(present[b])
        for code in codes:
            others = codes[codes != code]
            if d[b, code, y, x] < sigma[b, code] and (d[b, others, y, x] > sigma[b, others]).all():
                out[b, y, x] = code
    return out

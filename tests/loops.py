"""AGMM over all classes and pixels, with numpy in float64: what the fast code is checked against.

Inputs are numpy arrays in the shapes of `agmm.objectives`. `problems` draws small random ones for hypothesis.
"""

from dataclasses import dataclass

import numpy as np
import scipy.special
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
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(old)), 0)


def softmax(z):
    return scipy.special.softmax(z, axis=1)


def one_hot(labels, k):
    """Pixels of every class: (B, K, H, W)."""
    return labels[:, None] == np.arange(k)[:, None, None]


def means(features, labels, k):
    """Of the labeled pixels of every class, and whether there are any."""
    masks = one_hot(labels, k)
    sums = np.einsum("bkhw,bchw->bkc", masks, resize(features, labels.shape[1:]))
    return sums / (masks.sum((2, 3))[:, :, None] + EPS), masks.any((2, 3))


def distances(features, mu, present, how="absolute"):
    difference = features[:, None] - mu[..., None, None]
    if how == "absolute":
        d = np.abs(difference).mean(2)
    else:
        d = difference.mean(2) if how == "signed" else np.sqrt((difference**2).mean(2))
    return d * present[:, :, None, None]


def validity(labels, grid):
    return resize((labels != VOID).astype(float), grid)[:, None]


def spreads(d, problem, present, sigma):
    """Standard deviation of every present (image, class); 0 elsewhere."""
    grid, squares = d.shape[2:], d**2
    valid = validity(problem.labels, grid)
    if sigma == "code_b":
        count = valid.sum((2, 3))
        return np.sqrt(squares.sum((2, 3)) / np.where(count > 0, count, 1) + EPS) * (count > 0) * present
    unlabeled = resize((problem.labels == UNLABELED).astype(float), grid)[:, None]
    q = resize(softmax(problem.logits) * problem.image_classes[:, :, None, None], grid)
    weight = q * (unlabeled if sigma == "adaptive" else valid)
    mass = weight.sum((2, 3))
    out = np.sqrt((weight * squares).sum((2, 3)) / (mass + EPS))
    return np.where((sigma == "adaptive") & (mass < 1e-3), 1, out) * present


def mixture(problem, variant="official", sigma=None):
    """Means, presence, scores at label resolution."""
    mu, present = means(problem.features, problem.labels, problem.num_classes)
    d = distances(problem.features, mu, present)
    if variant == "official" or sigma in ("code_a", "code_b"):
        d = d * validity(problem.labels, d.shape[2:])
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
    hit = one_hot(problem.labels, problem.num_classes)
    return -np.log(softmax(problem.logits)[hit]).sum() / max(hit.sum(), 1)


def _share(present):
    """1 / (number of present classes) for each of them, 0 for the others."""
    return (present / (present.sum(1, keepdims=True) + EPS))[:, :, None, None]


def self_(problem, present, g, factor=0.5, reduction="mean"):
    weight = _share(present) if reduction == "mean" else present[:, :, None, None]
    valid = (problem.labels != VOID)[:, None]
    return factor * (weight * valid * _cross_entropy(g, softmax(problem.logits))).sum() / max(valid.sum(), 1)


def spar(problem, present, g, negatives=True):
    hit = one_hot(problem.labels, problem.num_classes)
    labeled = hit.any(1, keepdims=True)
    losses = 0.5 * _share(present) * _cross_entropy(1.0 * hit, g) * labeled if negatives else -np.log(g + EPS) * hit
    return losses.sum() / max(labeled.sum(), 1)


def _pairs(vectors):
    return [np.exp(-(np.abs(a - b).mean() ** 2)) for i, a in enumerate(vectors) for b in vectors[:i]]


def con_batch(mu, present, vectors="sum"):
    n = present.sum(0)[:, None]
    total = (mu * present[:, :, None]).sum(0) / (n + EPS) * (n if vectors == "sum" else 1)
    pairs = _pairs(total[present.any(0)])
    return sum(pairs) / (len(pairs) + EPS)


def con_image(mu, present):
    images = [(m[p], p.sum()) for m, p in zip(mu, present, strict=True) if p.any()]
    return np.mean([2 / (k * (k + 1)) * sum(_pairs(vectors)) for vectors, k in images]) if images else 0.0


def absent(problem):
    valid = (problem.labels != VOID)[:, None]
    losses = -np.log(1 - softmax(problem.logits) + EPS) * ~problem.image_classes[:, :, None, None]
    return (losses * valid).sum() / max(valid.sum(), 1)


def terms(problem, variant="official", sigma=None, con_vectors="sum", self_reduction="mean"):
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
    sigma = spreads(d, problem, present, "adaptive")[:, :, None, None]
    d, shown = resize(d, problem.labels.shape[1:]), present[:, :, None, None]
    alone = (shown & (d <= sigma)).sum(1) == 1  # inside one class, on the edge of none
    own = shown & (d < sigma)
    return np.where(alone & own.any(1) & (problem.labels == UNLABELED), own.argmax(1), VOID)

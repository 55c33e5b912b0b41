"""AGMM++ over all classes and pixels, with numpy in float64; see `tests.loops`."""

import numpy as np

from agmm.codes import UNLABELED, VOID
from tests import loops
from tests.loops import EPS


def from_labels(problem, sigma_min=0.1, how="absolute", sigma=None):
    """Means, presence, distances on the grid, variances over labeled pixels of the distances squared and upsampled."""
    mu, present = loops.means(problem.features, problem.labels, problem.num_classes)
    d = loops.distances(problem.features, mu, present, how)
    masks = loops.one_hot(problem.labels, problem.num_classes)
    total, count = (masks * loops.resize(d**2, problem.labels.shape[1:])).sum((2, 3)), masks.sum((2, 3))
    return mu, present, d, floored(total / np.maximum(count, 1), count, sigma_min, sigma) * present


def floored(variance, count, sigma_min, sigma):
    """At least ``sigma_min**2``, after the mean over an image's classes where their spread is pooled."""
    if sigma == "pooled":
        variance = np.array([np.average(v, weights=n) if n.any() else 0 for v, n in zip(variance, count, strict=True)])
        variance = np.broadcast_to(variance[:, None], count.shape)
    return np.maximum(variance, sigma_min**2)


def scores(d, variance, present):
    return np.exp(exponents(d, variance)) * present[:, :, None, None]


def exponents(d, variance):
    return -(d**2) / (2 * variance[:, :, None, None] + EPS)


def undecided(problem, **options):
    """Whether a cell's two largest scores are equal but for rounding, so that either may be its component."""
    if problem.num_classes < 2:
        return False
    for oem in (False, True):
        _, present, d, variance, _ = mixture(problem, **options | {"oem": oem})
        best = np.sort(np.where(present[:, :, None, None], exponents(d, variance), -np.inf), axis=1)[:, -2:]
        both = np.isfinite(best[:, 0])
        if (best[:, 1][both] - best[:, 0][both]).min(initial=1.0) < 1e-6:
            return True
    return False


def assign(problem, log_g, present, how="argmax", keep_labels=False):
    """To what extent each cell belongs to each class; its label is that of the pixel at its middle."""
    (rows, columns), grid = problem.labels.shape[1:], log_g.shape[2:]
    y, x = (np.arange(grid[0]) + 0.5) * rows / grid[0], (np.arange(grid[1]) + 0.5) * columns / grid[1]
    labels = problem.labels[:, y.astype(int)][:, :, x.astype(int)]
    shown = np.broadcast_to(present[:, :, None, None], log_g.shape)
    members = np.exp(log_g) * shown
    if how == "responsibility":
        members /= members.sum(1, keepdims=True) + EPS
    elif how == "argmax":
        members = loops.one_hot(np.where(shown, log_g, -np.inf).argmax(1), log_g.shape[1]) & shown
    if keep_labels:
        members = np.where((labels < UNLABELED)[:, None], loops.one_hot(labels, log_g.shape[1]), members)
    return members * (labels != VOID)[:, None]


def reestimate(problem, old, members, sigma_min=0.1, how="absolute", sigma=None):
    mu, present, _, _ = old
    masks = loops.one_hot(problem.labels, problem.num_classes)
    mass = members.sum((2, 3))
    some, divisor = present & (mass > EPS), np.maximum(mass, EPS)
    sums = np.einsum("bkhw,bchw->bkc", members, problem.features)
    mu = np.where(some[:, :, None], sums / divisor[:, :, None], mu)
    d = loops.distances(problem.features, mu, present, how)
    _, _, _, kept = from_labels(problem, 0, how)
    variance = np.where(some, (members * d**2).sum((2, 3)) / divisor, kept)
    count = np.where(some.any(1, keepdims=True), mass, masks.sum((2, 3)))
    return mu, present, d, floored(variance, count, sigma_min, sigma)


def mixture(problem, oem=True, assignment="argmax", keep_labels=False, con_members="new", **how):
    found = old = from_labels(problem, **how)
    if oem:
        weights = assign(problem, exponents(*old[2:]), old[1], assignment, keep_labels)
        found = reestimate(problem, old, weights, **how)
    log_g = exponents(*(old if con_members == "old" else found)[2:])
    return *found, assign(problem, log_g, old[1], "argmax", keep_labels or not oem)


def contrast(d, present, members):
    similar, own = np.exp(-(d**2)), members > 0
    pull, push = 1 - similar[own], similar[own.any(1, keepdims=True) & present[:, :, None, None] & ~own]
    return pull.sum() / max(len(pull), 1) + push.sum() / max(len(push), 1)


def terms(problem, self_classes="present", **options):
    """All terms on features that are squeezed already."""
    mu, present, d, variance, members = mixture(problem, **options)
    mean = self_classes == "present"
    g = loops.resize(scores(d, variance, present), problem.labels.shape[1:])
    return {
        "seg": loops.seg(problem),
        "self": loops.self_(problem, present if mean else np.ones_like(present), g, 1.0, "mean" if mean else "sum"),
        "weak": 2 * loops.spar(problem, present, g),
        "con": contrast(d, present, members),
        "con_old": loops.con_batch(mu, present),
        "absent": loops.absent(problem),
    }, g

"""AGMM++ in plain loops over images, classes and pixels, with numpy in float64; see `tests.loops`."""

import numpy as np

from agmm.codes import UNLABELED, VOID
from tests import loops
from tests.loops import EPS


def distance(f, mu, how):
    """Of a pixel's features (C,) to a mean (C,)."""
    difference = f - mu
    if how == "absolute":
        return np.abs(difference).mean()
    return difference.mean() if how == "signed" else np.sqrt((difference**2).mean())


def all_distances(features, mu, present, how):
    out = np.zeros((*mu.shape[:2], *features.shape[2:]))
    for b, code in np.argwhere(present):
        for y, x in np.ndindex(*features.shape[2:]):
            out[b, code, y, x] = distance(features[b, :, y, x], mu[b, code], how)
    return out


def from_labels(problem, sigma_min, how="absolute"):
    """Means, presence, distances on the grid, variances over labeled pixels of the distances squared and upsampled."""
    mu, present = loops.means(problem.features, problem.labels, problem.num_classes)
    d = all_distances(problem.features, mu, present, how)
    variance = np.zeros(present.shape)
    for b, code in np.argwhere(present):
        fine = loops.resize(d[b, code] ** 2, problem.labels.shape[1:])
        variance[b, code] = max(fine[problem.labels[b] == code].mean(), sigma_min**2)
    return mu, present, d, variance


def scores(d, variance, present):
    return np.exp(exponents(d, variance)) * present[:, :, None, None]


def exponents(d, variance):
    return -(d**2) / (2 * variance[:, :, None, None] + EPS)


def cell_label(image, y, x, grid):
    """Label of the pixel at the middle of a feature cell."""
    rows, columns = image.shape
    return image[int((y + 0.5) * rows / grid[0]), int((x + 0.5) * columns / grid[1])]


def undecided(problem, sigma_min=0.1, how="absolute"):
    """Whether a cell's two largest scores are equal but for rounding, so that either may be its component."""
    _, present, d, variance = from_labels(problem, sigma_min, how)
    log_g = np.where(present[:, :, None, None], exponents(d, variance), -np.inf)
    best = np.sort(log_g, axis=1)[:, -2:]
    if best.shape[1] < 2:
        return False
    both = np.isfinite(best[:, 0])
    return bool((best[:, 1][both] - best[:, 0][both]).min(initial=1.0) < 1e-6)


def assign(problem, log_g, present, how="argmax", keep_labels=True):
    out, grid, g = np.zeros_like(log_g), log_g.shape[2:], np.exp(log_g)
    for b in range(len(g)):
        codes = np.flatnonzero(present[b])
        for y, x in np.ndindex(*grid):
            label = cell_label(problem.labels[b], y, x, grid)
            if label == VOID or not len(codes):
                continue
            if keep_labels and label < UNLABELED:
                out[b, label, y, x] = 1
            elif how == "argmax":
                out[b, codes[log_g[b, codes, y, x].argmax()], y, x] = 1
            elif how == "responsibility":
                out[b, codes, y, x] = g[b, codes, y, x] / (g[b, codes, y, x].sum() + EPS)
            else:
                out[b, codes, y, x] = g[b, codes, y, x]
    return out


def reestimate(problem, old, members, sigma_min, how="absolute"):
    mu, present, _, variance = (np.copy(x) for x in old)
    for b, code in np.argwhere(present):
        mass = members[b, code].sum()
        if mass > EPS:
            mu[b, code] = (members[b, code] * problem.features[b]).sum((1, 2)) / mass
    d = all_distances(problem.features, mu, present, how)
    for b, code in np.argwhere(present):
        mass = members[b, code].sum()
        if mass > EPS:
            variance[b, code] = max((members[b, code] * d[b, code] ** 2).sum() / mass, sigma_min**2)
    return mu, present, d, variance


def mixture(problem, oem=True, assignment="argmax", keep_labels=True, sigma_min=0.1, how="absolute"):
    """Means, presence, distances, variances, and every cell's component."""
    old = from_labels(problem, sigma_min, how)
    log_g = exponents(old[2], old[3])
    members = assign(problem, log_g, old[1], "argmax", keep_labels or not oem)
    if not oem:
        return *old, members
    weights = assign(problem, log_g, old[1], assignment, keep_labels)
    return *reestimate(problem, old, weights, sigma_min, how), members


def contrast(d, present, members):
    pull, push = [], []
    for b in range(len(d)):
        for y, x in np.ndindex(*d.shape[2:]):
            if members[b, :, y, x].any():
                own = members[b, :, y, x].argmax()
                for code in np.flatnonzero(present[b]):
                    similar = np.exp(-(d[b, code, y, x] ** 2))
                    (pull if code == own else push).append(1 - similar if code == own else similar)
    return sum(pull) / max(len(pull), 1) + sum(push) / max(len(push), 1)


def terms(problem, **options):
    """All terms on features that are squeezed already."""
    mu, present, d, variance, members = mixture(problem, **options)
    g = loops.resize(scores(d, variance, present), problem.labels.shape[1:])
    return {
        "seg": loops.seg(problem),
        "self": loops.self_(problem, present, g, 1.0),
        "weak": 2 * loops.spar(problem, present, g),
        "con": contrast(d, present, members),
        "con_old": loops.con_batch(mu, present),
        "absent": loops.absent(problem),
    }, g

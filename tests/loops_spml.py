"""SPML in plain loops over images, pixels and segments, in float64: what the fast code is checked against."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st

from agmm.codes import UNLABELED, VOID


@dataclass
class Batch:
    features: np.ndarray
    labels: np.ndarray
    regions: np.ndarray
    tags: np.ndarray

    def tensors(self, dtype=torch.float64):
        """Features that require gradients, labels, regions, tags."""
        features = torch.tensor(self.features, dtype=dtype, requires_grad=True)
        return features, torch.tensor(self.labels), torch.tensor(self.regions), torch.tensor(self.tags)


@dataclass(eq=False)
class Segment:
    """``pixels`` are (embedding, located) pairs."""

    image: int
    label: int
    region: int
    tags: np.ndarray
    pixels: list

    def prototype(self, located=False):
        return unit(sum(pixel[located] for pixel in self.pixels))


@st.composite
def problems(draw, most_steps=3):
    """Settings of the objective and the batches of some steps, with labels on the features' grid or a finer one."""
    k, c = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    h, w, scale = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.sampled_from([1, 2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batches = []
    for _ in range(draw(st.integers(1, most_steps))):
        size = draw(st.integers(1, 3))
        labels = np.full((size, h * scale, w * scale), UNLABELED)
        for image in labels:
            share_labeled, share_void = draw(st.sampled_from([(0.3, 0.2), (0.7, 0), (0, 0.3), (0, 1), (1, 0)]))
            chance = rng.random((2, *image.shape))
            image[chance[0] < share_labeled] = rng.integers(k, size=image.shape)[chance[0] < share_labeled]
            image[chance[1] < share_void] = VOID
        regions = draw(st.sampled_from([1, 250])) * rng.integers(draw(st.integers(1, 4)), size=labels.shape)
        tags = rng.random((size, k)) < draw(st.sampled_from([0, 0.4, 0.8]))
        batches.append(Batch(rng.normal(size=(size, c, h, w)), labels, regions, tags))
    concentrations = st.sampled_from([0.5, 6.0, 16.0])
    settings = {f"kappa_{name}": draw(concentrations) for name in "cioa"}
    settings |= {"clusters": (draw(st.integers(1, 3)), draw(st.integers(1, 3))), "iterations": draw(st.integers(0, 4))}
    settings |= {"memory": draw(st.integers(0, 2)), "background": draw(st.sampled_from([0, k - 1, None]))}
    settings |= {"located": draw(st.booleans()), "threshold": draw(st.sampled_from([-1.0, 0.5, 0.95]))}
    settings |= {"affinity": draw(st.sampled_from(["image", "batch"]))}
    return k, settings, batches


def unit(vector):
    norm = np.sqrt((vector**2).sum())
    return vector / norm if norm else vector


def nearest(codes, size):
    """Codes (H, W) on a smaller grid."""
    rows, columns = (np.arange(n) * length // n for n, length in zip(size, codes.shape, strict=True))
    return codes[rows][:, columns]


def grid_cluster(y, x, size, clusters):
    """Halves are rounded to even numbers, as Python does."""
    row, column = (
        round(Fraction(i * (n - 1), max(length - 1, 1))) for i, n, length in zip((y, x), clusters, size, strict=True)
    )
    return row + clusters[0] * column


def kmeans(vectors, first, number, iterations):
    vectors, clusters = np.array(vectors), np.array(first)
    for _ in range(iterations if len(vectors) else 0):
        centers = np.array([unit(vectors[clusters == n].sum(0)) for n in range(number)])
        clusters = (centers @ vectors.T).argmax(0)
    return clusters


def cut(batch, clusters, iterations):
    """Segments of a batch, without padding."""
    segments = []
    for b, features in enumerate(batch.features):
        size = features.shape[1:]
        labels, regions = nearest(batch.labels[b], size), nearest(batch.regions[b], size)
        kept = list(zip(*np.where(labels != VOID), strict=True))
        vectors = [unit(features[:, y, x]) for y, x in kept]
        sides = [torch.linspace(0, 1, n).numpy() - 0.5 for n in size]  # in float32, as in the released code
        located = [unit(np.append(e, [sides[0][y], sides[1][x]])) for e, (y, x) in zip(vectors, kept, strict=True)]
        first = [grid_cluster(y, x, size, clusters) for y, x in kept]
        found = kmeans(located, first, clusters[0] * clusters[1], iterations)
        together = {}
        for cluster, place, *pixel in zip(found, kept, vectors, located, strict=True):
            together.setdefault((cluster, labels[place], regions[place]), []).append(pixel)
        segments += [Segment(b, label, region, batch.tags[b], own) for (_, label, region), own in together.items()]
    return segments


def contrast(segments, searched, positive, kappa, located=False):
    """Mean over the segments' pixels; every searched segment that is not positive to a pixel's own is negative."""
    prototypes, losses = np.array([segment.prototype(located) for segment in searched]), []
    for own in segments:
        itself = np.array([segment is own for segment in searched])
        attracts = np.array([bool(positive(own, segment)) for segment in searched])
        others = attracts & ~itself
        for pixel in own.pixels:
            similarity = np.exp(kappa * prototypes @ pixel[located])
            attraction = similarity[others if others.any() else itself].sum()
            losses.append(-np.log(attraction / (attraction + similarity[~attracts].sum())))
    return np.mean(losses) if losses else 0.0


def low_level(segments, kappa, located):
    images = [[one for one in segments if one.image == image] for image in {segment.image for segment in segments}]
    losses = [contrast(there, there, lambda a, b: a.region == b.region, kappa, located) for there in images]
    return np.mean(losses) if losses else 0.0


def annotation(segments, memory, k, kappa):
    known, remembered = ([one for one in part if one.label < k] for part in (segments, memory))
    return contrast(known, known + remembered, lambda a, b: a.label == b.label, kappa)


def cooccurrence(segments, memory, kappa, background):
    def foreground(segment):
        return set(np.flatnonzero(segment.tags)) - {background}

    searching = [segment for segment in segments if foreground(segment)]
    return contrast(searching, segments + memory, lambda a, b: foreground(a) & foreground(b), kappa)


def affinity(segments, k, kappa, threshold, where):
    classes, everywhere = {}, where == "batch"
    for segment in segments:
        near = [
            (segment.prototype(True) @ other.prototype(True), other.label)
            for other in segments
            if (everywhere or other.image == segment.image) and other.label < k
        ]
        best = max(near, default=(-np.inf, None))
        classes[segment] = {best[1]} if near and (everywhere or best[0] >= threshold) else set(range(k))
    return contrast(segments, segments, lambda a, b: classes[a] & classes[b], kappa)


def terms(batch, memory, k, settings):
    """The four relations, and the segments to remember; ``memory`` are those remembered."""
    segments = cut(batch, settings["clusters"], settings["iterations"])
    return {
        "low_level": low_level(segments, settings["kappa_i"], settings["located"]),
        "annotation": annotation(segments, memory, k, settings["kappa_c"]),
        "cooccurrence": cooccurrence(segments, memory, settings["kappa_o"], settings["background"]),
        "affinity": affinity(segments, k, settings["kappa_a"], settings["threshold"], settings["affinity"]),
    }, segments

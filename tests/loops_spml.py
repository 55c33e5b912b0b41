"""SPML in plain loops over images, pixels and segments, in float64: what the fast code is checked against."""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

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


@dataclass
class Segment:
    """``pixels`` are (embedding, located) pairs."""

    image: int
    label: int
    region: int
    tags: np.ndarray
    pixels: list = field(default_factory=list)

    @cached_property
    def prototype(self):
        return unit(sum(e for e, _ in self.pixels))

    @cached_property
    def located(self):
        return unit(sum(a for _, a in self.pixels))


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
    """Clusters of the vectors; ``first`` are those at the beginning."""
    clusters = list(first)
    for _ in range(iterations if vectors else 0):
        members = [[v for v, c in zip(vectors, clusters, strict=True) if c == n] for n in range(number)]
        centers = [unit(sum(own, np.zeros_like(vectors[0]))) for own in members]
        clusters = [int(np.argmax([center @ v for center in centers])) for v in vectors]
    return clusters


def cut(batch, clusters, iterations):
    """Segments of a batch, and of every pixel that is not padding (image, label, segment, embedding, located)."""
    segments, pixels = [], []
    for b, features in enumerate(batch.features):
        size = features.shape[1:]
        labels, regions = nearest(batch.labels[b], size), nearest(batch.regions[b], size)
        kept = list(zip(*np.where(labels != VOID), strict=True))
        vectors = [unit(features[:, y, x]) for y, x in kept]
        sides = [torch.linspace(0, 1, n).numpy() - 0.5 for n in size]  # in float32, as in the released code
        located = [unit(np.append(e, [sides[0][y], sides[1][x]])) for e, (y, x) in zip(vectors, kept, strict=True)]
        first = [grid_cluster(y, x, size, clusters) for y, x in kept]
        found = kmeans(located, first, clusters[0] * clusters[1], iterations)
        keys = [(cluster, labels[p], regions[p]) for cluster, p in zip(found, kept, strict=True)]
        numbers = {key: len(segments) + i for i, key in enumerate(sorted(set(keys)))}
        segments += [Segment(b, key[1], key[2], batch.tags[b]) for key in numbers]
        for key, e, a in zip(keys, vectors, located, strict=True):
            segments[numbers[key]].pixels.append((e, a))
            pixels.append((b, key[1], numbers[key], e, a))
    return segments, pixels


def pixel_loss(vector, own, positive, prototypes, kappa):
    """Of one pixel; every segment that is not positive is negative."""
    similarity = np.exp(kappa * (np.array(prototypes) @ vector))
    others = [t for t in range(len(prototypes)) if positive(t) and t != own]
    attraction = sum(similarity[t] for t in others or [own])
    repulsion = sum(similarity[t] for t in range(len(prototypes)) if not positive(t))
    return -np.log(attraction / (attraction + repulsion))


def low_level(segments, pixels, kappa, located):
    images = []
    for image in sorted({pixel[0] for pixel in pixels}):
        there = [t for t, segment in enumerate(segments) if segment.image == image]
        prototypes = [segments[t].located if located else segments[t].prototype for t in there]
        losses = []
        for b, _, own, e, a in pixels:
            if b == image:
                region = segments[own].region
                same = [segments[t].region == region for t in there]
                losses.append(pixel_loss(a if located else e, there.index(own), same.__getitem__, prototypes, kappa))
        images.append(np.mean(losses))
    return np.mean(images) if images else 0.0


def annotation(segments, pixels, memory, k, kappa):
    known = [t for t, segment in enumerate(segments) if segment.label < k]
    searched = [segments[t] for t in known] + [segment for segment in memory if segment.label < k]
    prototypes = [segment.prototype for segment in searched]
    losses = [
        pixel_loss(e, known.index(own), lambda t, label=label: searched[t].label == label, prototypes, kappa)
        for _, label, own, e, _ in pixels
        if label < k
    ]
    return np.mean(losses) if losses else 0.0


def cooccurrence(segments, pixels, memory, kappa, background):
    searched = segments + memory
    prototypes = [segment.prototype for segment in searched]

    def foreground(tags):
        return set(np.flatnonzero(tags)) - {background}

    losses = [
        pixel_loss(
            e, own, lambda t, own=own: foreground(searched[t].tags) & foreground(segments[own].tags), prototypes, kappa
        )
        for _, _, own, e, _ in pixels
        if foreground(segments[own].tags)
    ]
    return np.mean(losses) if losses else 0.0


def affinity(segments, pixels, k, kappa, threshold):
    prototypes, classes = [segment.prototype for segment in segments], []
    for segment in segments:
        near = [
            (segment.located @ other.located, other.label)
            for other in segments
            if other.image == segment.image and other.label < k
        ]
        best = max(near, default=(-np.inf, None))
        classes.append({best[1]} if best[0] >= threshold else set(range(k)))
    losses = [
        pixel_loss(e, own, lambda t, own=own: classes[own] & classes[t], prototypes, kappa)
        for _, _, own, e, _ in pixels
    ]
    return np.mean(losses) if losses else 0.0


def terms(batch, memory, k, settings):
    """The four relations, and the segments to remember; ``memory`` are those remembered."""
    segments, pixels = cut(batch, settings["clusters"], settings["iterations"])
    return {
        "low_level": low_level(segments, pixels, settings["kappa_i"], settings["located"]),
        "annotation": annotation(segments, pixels, memory, k, settings["kappa_c"]),
        "cooccurrence": cooccurrence(segments, pixels, memory, settings["kappa_o"], settings["background"]),
        "affinity": affinity(segments, pixels, k, settings["kappa_a"], settings["threshold"]),
    }, segments

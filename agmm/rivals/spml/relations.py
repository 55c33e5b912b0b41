"""The four relations of pixels and segments (SPML, Sec. 3.3): which segments attract a pixel, and which repel it."""

import torch
from torch import Tensor

from agmm.codes import UNLABELED
from agmm.rivals.spml.contrast import contrast
from agmm.rivals.spml.segments import Prototypes, Segments, directions


def low_level(segments: Segments, concentration: float, located: bool = True) -> Tensor:
    """Return relation I: within an image, pixels are attracted by the segments of their own region.

    The mean over the pixels of an image, then over images, of `contrast` with kappa_I; of vectors with their location
    (``located``, VOC) or without (DensePose).
    """
    vectors = segments.located if located else segments.embeddings
    images = segments.prototypes.images
    prototypes = directions(vectors, segments.own, len(images))
    region = images.new_zeros(len(images)).scatter(0, segments.own, segments.regions)
    pixels_each, segments_each = (of.bincount().tolist() for of in (segments.images, images))
    losses, first = [], 0
    # Pixels and segments are ordered by image.
    for here, own, there, regions in zip(
        vectors.split(pixels_each),
        segments.own.split(pixels_each),
        prototypes.split(segments_each),
        region.split(segments_each),
        strict=True,
    ):
        if len(here):
            group, same = own - first, regions[:, None] == regions
            weights = here.new_full((len(group),), 1 / len(group))
            losses.append(contrast(here, there, group, group, same, concentration, weights))
            first += len(there)
    return torch.stack(losses).mean() if losses else vectors.sum() * 0


def annotation(segments: Segments, known: Prototypes, num_classes: int, concentration: float) -> Tensor:
    """Return relation C: annotated pixels are attracted by the annotated segments of their class, with kappa_C.

    Known are the segments of the batch, which come first, and of the memory.
    """
    annotated = segments.labels < num_classes
    searched = known.labels < UNLABELED
    place = searched.cumsum(0) - 1
    classes = torch.arange(num_classes, device=known.labels.device)[:, None]
    same = known.labels[searched] == classes
    own, group = place[segments.own[annotated]], segments.labels[annotated]
    weights = segments.embeddings.new_full((len(own),), 1 / max(len(own), 1))
    vectors = segments.embeddings[annotated]
    return contrast(vectors, known.vectors[searched], own, group, same, concentration, weights)


def cooccurrence(
    segments: Segments, known: Prototypes, image_classes: Tensor, concentration: float, background: int | None = 0
) -> Tensor:
    """Return relation O: pixels are attracted by all segments of images that share a foreground class with theirs.

    Pixels of images without any foreground class have no such segments, and are left out (ours; in the released code
    they are repelled by their own segment, too). Known segments are those of `annotation`, ``image_classes`` (B, K)
    those of the batch; ``background`` is the class that is no foreground, None if there is none.
    """
    foreground = image_classes.clone()
    if background is not None:
        foreground[:, background] = False
    shared = foreground.float() @ known.tags.float().T > 0
    searching = foreground.any(1)[segments.images]
    own, group = segments.own[searching], segments.images[searching]
    weights = segments.embeddings.new_full((len(own),), 1 / max(len(own), 1))
    return contrast(segments.embeddings[searching], known.vectors, own, group, shared, concentration, weights)


def affinity(segments: Segments, known: Prototypes, classes: Tensor, concentration: float) -> Tensor:
    """Return relation A: pixels are attracted by the segments of the batch that may share a class with theirs.

    Known are the segments of the batch without the memory, with their `possible_classes` (M, K).
    """
    every = classes.float()
    shared = every[: len(segments.prototypes.labels)] @ every.T > 0
    own, weights = segments.own, segments.embeddings.new_full((len(segments.own),), 1 / max(len(segments.own), 1))
    return contrast(segments.embeddings, known.vectors, own, own, shared, concentration, weights)


@torch.no_grad()
def possible_classes(segments: Segments, num_classes: int, threshold: float = 0.95) -> Tensor:
    """Return the classes (M, K) that each segment may have: that of the nearest annotated one in its image, or all.

    Nearest by the cosine of the directions of their located vectors; all where that is below the threshold.
    """
    known = segments.prototypes
    directed = directions(segments.located, segments.own, len(known.labels))
    searched = (known.images[:, None] == known.images) & (known.labels < num_classes)
    similarity = (directed @ directed.T).masked_fill(~searched, -torch.inf)
    if not len(similarity):
        return similarity.new_zeros((0, num_classes), dtype=torch.bool)
    best, nearest = similarity.max(1)
    classes = torch.arange(num_classes, device=nearest.device) == known.labels[nearest][:, None]
    return classes | ~(best >= threshold)[:, None]

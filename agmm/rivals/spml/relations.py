"""The four relations of pixels and segments (SPML, Sec. 3.3), which attract or repel; `contrast` is their loss."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.codes import UNLABELED
from agmm.rivals.spml.segments import Prototypes, Segments, directions

ENTRIES = {"cpu": 2**20, "cuda": 2**24}  # similarities held at once: what a cache holds, or what keeps a GPU busy
SINGLE, DOUBLE = 30.0, 300.0  # largest kappa in float32 and float64: exponentials spread over exp(2 * kappa)


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
    pixels = (of.split(pixels_each) for of in (vectors, segments.own))
    others = (of.split(segments_each) for of in (prototypes, region))
    for here, own, there, regions in zip(*pixels, *others, strict=True):
        if len(here):
            group, same = own - first, regions[:, None] == regions
            losses.append(contrast(here, there, group, group, same, concentration))
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
    vectors = segments.embeddings[annotated]
    return contrast(vectors, known.vectors[searched], own, group, same, concentration)


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
    return contrast(segments.embeddings[searching], known.vectors, own, group, shared, concentration)


def affinity(segments: Segments, known: Prototypes, classes: Tensor, concentration: float) -> Tensor:
    """Return relation A: pixels are attracted by the segments that may share a class with theirs, with kappa_A.

    Known are the segments of the batch without the memory, with their `possible_classes` or `nearest_classes` (M, K).
    """
    every = classes.float()
    shared = every[: len(segments.prototypes.labels)] @ every.T > 0
    return contrast(segments.embeddings, known.vectors, segments.own, segments.own, shared, concentration)


@torch.no_grad()
def possible_classes(segments: Segments, num_classes: int, threshold: float = 0.95) -> Tensor:
    """Return the classes (M, K) that each segment may have: that of the nearest annotated one in its image, or all.

    Nearest by the cosine of the directions of their located vectors; all where that is below the threshold. So does a
    helper of the released code.
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


@torch.no_grad()
def nearest_classes(located: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the classes (M, K) that each segment may have: that of the nearest annotated one of all images.

    Nearest by the cosine of directions (M, C) of located vectors, as in `possible_classes`, but however far (SPML, Sec.
    3.3: within and across images). All classes where no segment of the ``labels`` (M,) is annotated.
    """
    annotated = labels < num_classes
    if not annotated.any():
        return annotated.new_ones(len(labels), num_classes)
    nearest = (located @ located[annotated].T).argmax(1)
    return labels[annotated][nearest, None] == torch.arange(num_classes, device=labels.device)


def contrast(
    vectors: Tensor,
    prototypes: Tensor,
    own: Tensor,
    group: Tensor,
    positive: Tensor,
    concentration: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted sum over pixels of -log(attraction / (attraction + repulsion)).

    Of a pixel's unit vector v, its own segment s, prototypes q_t, and positive segments S+ (SPML, Eq. 2, 3):

        attraction = sum_{t in S+, t != s} exp(kappa v . q_t), or exp(kappa v . q_s) where no other is positive
        repulsion  = sum_{t not in S+} exp(kappa v . q_t)

    of ``vectors`` (N, C) and ``prototypes`` (M, C), which gradients reach. A pixel has its ``own`` segment (N,), its
    ``weights`` (N,) in the sum (default: 1/N, for a mean), and belongs to a ``group`` (N,) with a row of ``positive``
    (G, M) bool: segments that attract it; the others repel it. The concentration kappa is above 0 and at most
    ``DOUBLE``; above ``SINGLE``, the sums are float64. 0 where there are no pixels or segments. No sum is a difference
    of others, so that nothing cancels. Pixels are taken in blocks and the gradients found with the loss: memory does
    not grow with pixels times segments.
    """
    if not len(vectors) or not len(prototypes):
        return vectors.sum() * 0
    dtype = vectors.dtype
    if weights is None:
        weights = vectors.new_full((len(vectors),), 1 / len(vectors))
    if concentration > SINGLE:
        vectors, prototypes, weights = vectors.double(), prototypes.double(), weights.double()
    return _Contrast.apply(vectors, prototypes, own, group, positive, concentration, weights).to(dtype)


class _Contrast(torch.autograd.Function):
    """Loss and gradients block by block; similarities are computed once and forgotten.

    The loss of a pixel is log(1 + R / A). Its slope by the similarity to a segment is the segment's share in A + R if
    it repels, and if it attracts, minus its share in A times R / (A + R).
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        prototypes: Tensor,
        own: Tensor,
        group: Tensor,
        positive: Tensor,
        concentration: float,
        weights: Tensor,
    ) -> Tensor:
        total, to_vectors, to_prototypes = vectors.new_zeros(()), torch.empty_like(vectors), 0 * prototypes
        attracts = positive.to(vectors.dtype)
        liked = positive[group, own]
        # Whether a pixel's own segment is in A, which is where no other is, and whether it is in R.
        own_in_a, own_in_r = ((positive.sum(1)[group] == liked).to(vectors), (~liked).to(vectors))
        most = prototypes.new_full((1, 1), -concentration)
        step = max(1, ENTRIES[vectors.device.type] // len(prototypes))
        for start in range(0, len(vectors), step):
            block = slice(start, start + step)
            here, itself, in_a, in_r = vectors[block], own[block, None], own_in_a[block, None], own_in_r[block, None]
            # Divided by the largest that there can be, exp(concentration).
            repelling = torch.addmm(most, here, prototypes.T, alpha=concentration).exp_()
            mine = repelling.gather(1, itself)
            repelling.scatter_(1, itself, 0)
            attracting = attracts.index_select(0, group[block]).mul_(repelling)
            repelling -= attracting
            a = attracting.sum(1, keepdim=True) + mine * in_a
            r = repelling.sum(1, keepdim=True) + mine * in_r
            total += torch.log1p(r / a)[:, 0] @ weights[block]
            push = concentration * weights[block, None] / (a + r)
            pull = push * (r / a)
            slope = repelling.mul_(push).sub_(attracting.mul_(pull))
            slope.scatter_(1, itself, mine * (in_r * push - in_a * pull))
            torch.mm(slope, prototypes, out=to_vectors[block])
            to_prototypes.addmm_(slope.T, here)
        ctx.save_for_backward(to_vectors, to_prototypes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slope: Tensor) -> tuple[Tensor | None, ...]:
        to_vectors, to_prototypes = ctx.saved_tensors
        return (slope[0] * to_vectors, slope[0] * to_prototypes, *(None,) * 5)

"""The classifier on frozen embeddings, and the pseudo labels that it learns from (SPML, Algorithms 1 and 2)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import evaluation, losses
from agmm.codes import UNLABELED, VOID
from agmm.data.split import Arrays
from agmm.evaluation import crf as fully_connected
from agmm.objectives.common import Objective, Output, batch_loss, full_precision, one_of
from agmm.rivals.spml import relations
from agmm.rivals.spml.segments import cut, grid_colors, image_clusters, on_grid

Keep = Callable[[str, Callable[[int], np.ndarray], int], Arrays]
"""Name, function from an index to labels, and number of images -> the labels of all, in memory or on disk."""

LEAST = 0.15  # share of votes below which the largest of a class does not count as all (released code)
Walk = Literal["code", "paper"]
STEPS: dict[Walk, int] = {"code": 64, "paper": 6}  # of the whole walk; the released code squares the matrix six times
GAMMA, BETA = 5.0, 20.0  # sharpness of affinities, and the power that they are raised to


@dataclass(frozen=True)
class FirstStage:
    """The network of the first stage, and how images are shown to it."""

    net: Callable[[Tensor], tuple[Tensor, ...]]  # images (B, 3, H, W) to features and logits
    device: torch.device
    side: int = 0  # smaller images are padded right and below, with the mean color if they are normalized
    mirrored: Sequence[int] | None = None  # class of each of the K in a mirror image, see `agmm.data.split.Split`
    normalization: evaluation.Normalization | None = None

    def views(self, rgb: Tensor, scale: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
        """Return two embeddings (C, H, W) and logits (K, H, W) of an image (1, H, W, 3) seen at a scale.

        The second ones are those of its mirror image, mirrored back.
        """
        inputs = evaluation.to_input(rgb, self.normalization)
        whole = inputs.shape[-2], inputs.shape[-1]
        if scale != 1:
            inputs = F.interpolate(inputs, scale_factor=scale, mode="bilinear", align_corners=False)
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (0, max(self.side - width, 0), 0, max(self.side - height, 0)))
        features, logits = (full_precision(maps) for maps in self.net(torch.cat([padded, padded.flip(-1)]))[:2])
        features = F.interpolate(features, padded.shape[-2:], mode="bilinear", align_corners=False)
        embeddings, scores = (
            [plain[:, :height, :width], turned.flip(-1)[:, :height, :width]] for plain, turned in (features, logits)
        )
        if scale != 1:
            embeddings, scores = ([resized(view, whole) for view in views] for views in (embeddings, scores))
        return embeddings, scores if self.mirrored is None else [scores[0], scores[1][list(self.mirrored)]]


class Example(NamedTuple):
    """A training image: RGB (1, H, W, 3), annotation (1, H, W), classes that it may have (K,), and its CAMs."""

    rgb: Tensor
    codes: Tensor
    image_classes: Tensor
    cams: Mapping[int, np.ndarray] | None


class Bank(NamedTuple):
    """Segments that neighbors are found among: their prototypes (M, C) and classes (M,)."""

    vectors: Tensor
    classes: Tensor

    @staticmethod
    def joined(parts: "Iterable[Bank]") -> "Bank":
        """The segments of several images."""
        return Bank(*(torch.cat(both) for both in zip(*parts, strict=True)))


def in_memory(name: str, make: Callable[[int], np.ndarray], number: int) -> np.ndarray:
    """`Keep` of images of one size."""
    return np.stack([make(index) for index in range(number)])


@dataclass
class SPMLClassifier(Objective):
    """Cross-entropy of the next classifier on refined labels; the embeddings stay those of the first stage.

    ``first`` is what is refined: predictions of the first stage's classifier (VOC); "nearest", of every segment the
    class of the nearest annotated one in its image (DensePose), of ``clusters`` that follow ``colors`` or not as in
    `agmm.rivals.spml.SPML`; or class activation maps (image tags). A random ``walk`` refines it, see `transitions`.
    Then the ``neighbors`` of each segment among those of all training images vote for its class (image tags: 20; 0:
    none do). What a classifier predicts has no CRF before the votes, but after them.
    """

    num_classes: int
    walk: Literal["code", "paper", "none"] = "code"
    stride: int = 8  # pixels of the image per pixel of the walk, along each side
    crf: str = "deeplab"  # of `agmm.evaluation.crf.PARAMETERS`, refines last (released code); empty: none (paper)
    first: Literal["classifier", "nearest", "cam"] = "classifier"
    clusters: tuple[int, int] = (24, 24)
    colors: bool = True
    neighbors: int = 0
    cells: tuple[int, int] = (12, 12)  # rows and columns of the clusters that vote
    scales: tuple[float, ...] = (0.5, 1.0, 1.5)  # scales of the images whose segments vote
    query_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the image that is voted for

    trains_classifier_only = True

    def __post_init__(self) -> None:
        for name in ("clusters", "cells", "scales", "query_scales"):
            setattr(self, name, tuple(getattr(self, name)))
        one_of("first", self.first, ("classifier", "nearest", "cam"))
        one_of("walk", self.walk, (*STEPS, "none"))
        one_of("crf", self.crf, ("", *fully_connected.PARAMETERS))
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, not {self.stride}")
        if self.neighbors < 0:
            raise ValueError(f"neighbors must be a number of segments, 0 for none, not {self.neighbors}")

    @batch_loss
    def __call__(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor, counts: losses.Counts
    ) -> Output:
        """Return the one term classifier, see `batch_loss` for the arguments."""
        loss = losses.partial_cross_entropy(logits, labels, counts)
        return Output(loss, {"classifier": loss})

    @torch.no_grad()
    def pseudo_labels(
        self,
        first_stage: FirstStage,
        images: Arrays,
        sparse: Arrays,
        image_classes: Arrays,
        *,
        cams: Sequence[Mapping[int, np.ndarray]] | None = None,
        keep: Keep = in_memory,
    ) -> Arrays:
        """Make labels (H, W) of training images (H, W, 3) uint8 for the next classifier.

        Of the annotation ``sparse`` (H, W) only ``VOID`` stays. ``image_classes`` (K,) bool are those that each image
        may have, ``cams`` class activation maps (see `agmm.data.split.Split`), for ``first="cam"`` only. ``keep`` says
        where labels stay, in memory by default.
        """

        def example(index: int) -> Example:
            arrays = np.array(images[index]), np.array(sparse[index]), image_classes[index]
            rgb, codes, classes = (torch.from_numpy(array).to(first_stage.device) for array in arrays)
            return Example(rgb[None], codes[None], classes, None if cams is None else cams[index])

        def first(index: int) -> np.ndarray:
            return self._first_labels(first_stage, example(index))

        if not self.neighbors:
            return keep("pseudo_labels", first, len(images))
        guesses = keep("first_labels", first, len(images))
        known = Bank.joined(
            self._bank(first_stage, example(index).rgb, torch.from_numpy(guesses[index]).to(first_stage.device))
            for index in range(len(images))
        )
        return keep("pseudo_labels", lambda index: self._voted_labels(first_stage, example(index), known), len(images))

    def _first_labels(self, first_stage: FirstStage, example: Example) -> np.ndarray:
        """Labels (H, W) uint8 of an image, before any votes of other segments."""
        rgb, classes = example.rgb, example.image_classes
        embeddings, logits = first_stage.views(rgb)
        size = max(rgb.shape[1] // self.stride, 1), max(rgb.shape[2] // self.stride, 1)
        embeddings = [resized(view, size) for view in embeddings]
        if self.first == "nearest":
            scores = scaled([self._nearest_scores(view, example) for view in embeddings], classes)
        elif self.first == "cam":
            scores = resized(self._cam_scores(example), size) * classes[:, None, None]
        else:
            # With votes to come the released code averages logits, else probabilities.
            views = [torch.stack(logits).mean(0)] if self.neighbors else logits
            scores = class_scores(views, size, classes)
        if self.walk != "none":
            scores = spread(scores, transitions(affinity(embeddings), walk=self.walk))
        whole = F.interpolate(scores[None], rgb.shape[1:3], mode="bilinear", align_corners=False)
        return self._best(whole, example, crf=not (self.neighbors and self.first == "classifier"))

    def _nearest_scores(self, embeddings: Tensor, example: Example) -> Tensor:
        """Shares (K, h, w): of each pixel the class of the annotated segment that is nearest to its own."""
        size = (embeddings.shape[-2], embeddings.shape[-1])
        codes = on_grid(example.codes, size, "any")
        colors = grid_colors(example.rgb.movedim(-1, 1).float(), size) if self.colors else None
        every = torch.ones(1, self.num_classes, dtype=torch.bool, device=codes.device)
        segments = cut(embeddings[None], codes, torch.zeros_like(codes), every, self.clusters, colors=colors)
        classes = relations.possible_classes(segments, self.num_classes, threshold=-1.0).to(embeddings)
        shares = embeddings.new_zeros(codes.numel(), self.num_classes)
        shares[codes.flatten() != VOID] = (classes / classes.sum(1, keepdim=True))[segments.own]
        return shares.T.unflatten(1, size)

    def _cam_scores(self, example: Example) -> Tensor:
        """Scores (K, H, W) of class activation maps, the background's among them."""
        if example.cams is None:
            raise ValueError("first='cam' needs class activation maps, and there are none; choose first='classifier'")
        maps = torch.zeros(self.num_classes - 1, *example.rgb.shape[1:3], device=example.rgb.device)
        for code, cam in example.cams.items():
            maps[code - 1] = torch.from_numpy(np.asarray(cam, np.float32)).to(maps.device)
        return cam_scores(maps, scale=1)

    def _bank(self, first_stage: FirstStage, rgb: Tensor, labels: Tensor) -> Bank:
        """The segments of an image (1, H, W, 3) with labels (H, W), at all scales, without its mirror image."""
        plain = (first_stage.views(rgb, scale)[0][0] for scale in self.scales)
        return Bank.joined(bank(view, labels.long(), self.cells, self.num_classes) for view in plain)

    def _voted_labels(self, first_stage: FirstStage, example: Example, known: Bank) -> np.ndarray:
        """Labels (H, W) uint8 of an image by the votes of the segments nearest to its own."""
        views = [view for scale in self.query_scales for view in first_stage.views(example.rgb, scale)[0]]
        each = [votes(view, known, self.cells, self.neighbors, self.num_classes) for view in views]
        shares = torch.stack(each).mean(0)
        scores = shares / shares.amax((1, 2), keepdim=True).clamp_min(LEAST)
        return self._best((scores * example.image_classes[:, None, None])[None], example, crf=True)

    def _best(self, scores: Tensor, example: Example, crf: bool) -> np.ndarray:
        """Best classes (H, W) uint8 of scores (1, K, H, W), after the CRF if there is one; ``VOID`` stays."""
        if self.crf and crf:
            shares = scores / scores.sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
            scores = evaluation.refine(shares, example.rgb, fully_connected.PARAMETERS[self.crf])
        best = evaluation.best_class(scores).masked_fill(example.codes == VOID, VOID)
        return best[0].cpu().numpy().astype(np.uint8)


# --- Random walk of class scores along similar embeddings -------------------------------------------------------------


def affinity(views: Sequence[Tensor]) -> Tensor:
    """Average exp(gamma (cosine - 1)) over embeddings (C, h, w) of several views of an image: (h w, h w)."""
    units = [F.normalize(embeddings.flatten(1), dim=0) for embeddings in views]
    return torch.stack([(GAMMA * (unit.T @ unit - 1)).exp() for unit in units]).mean(0)


def transitions(affinities: Tensor, beta: float = BETA, walk: Walk = "code") -> Tensor:
    """Return the transition matrix (P, P) of the whole walk, whose columns sum to 1, from affinities A (P, P).

    ``(A^beta / column sums)^steps``, with the power beta of each entry and the `STEPS` of the walk. The paper prints
    ``(A / row sums)^beta`` without normalizing again, whose sixth matrix power all but vanishes. Columns are our
    reading: divided by their sums before the power, too, they would be the same.
    """
    powers = affinities**beta
    return torch.linalg.matrix_power(powers / powers.sum(0), STEPS[walk])


def class_scores(logits: Sequence[Tensor], size: tuple[int, int], image_classes: Tensor) -> Tensor:
    """Return a classifier's scores (K, h, w) on the grid of the walk, from logits (K, H, W) of views, `scaled`."""
    return scaled([resized(view, size).softmax(0) for view in logits], image_classes)


def scaled(shares: Sequence[Tensor], image_classes: Tensor) -> Tensor:
    """Average several views (K, h, w), each class's largest value 1; 0 for all but the image's classes (K,)."""
    mean = torch.stack(list(shares)).mean(0)
    return mean / mean.amax((1, 2), keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny) * image_classes[:, None, None]


def cam_scores(cams: Tensor, scale: float = 1 / 8, exponent: float = 6.0) -> Tensor:
    """Return scores (K, h, w) of CAMs (K - 1, H, W) in 0 … 1 on the grid of the walk, the background's first."""
    background = (1 - cams.amax(0, keepdim=True)) ** exponent
    scores = torch.cat([background, cams])[None]
    return F.interpolate(scores, scale_factor=scale, mode="bilinear", align_corners=False)[0]


def spread(scores: Tensor, walk: Tensor) -> Tensor:
    """Return scores (K, h, w) after the walk: those of every pixel are a mean of all pixels' scores."""
    return (scores.flatten(1) @ walk).view_as(scores)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (C, H, W) bilinearly to the grid of the walk."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


# --- Votes of the nearest segments (SPML, Sec. 3.4) -------------------------------------------------------------------


def bank(embeddings: Tensor, labels: Tensor, grid: tuple[int, int], num_classes: int) -> Bank:
    """Return the `image_clusters` of embeddings (C, H, W) with the most frequent of their labels (Algorithm 2, step 2).

    Pixels of no class do not vote, and a segment without a vote is left out.
    """
    own, prototypes = image_clusters(embeddings, grid)
    labeled = labels < UNLABELED
    classes = majority(labels[labeled], own[labeled], len(prototypes), num_classes)
    has_votes = torch.bincount(own[labeled], minlength=len(prototypes)) > 0
    return Bank(prototypes[has_votes], classes[has_votes])


def votes(embeddings: Tensor, known: Bank, grid: tuple[int, int], count: int, num_classes: int) -> Tensor:
    """Return each class's share (K, H, W) of the ``count`` segments nearest to a pixel's own (Algorithm 2, step 3)."""
    own, prototypes = image_clusters(embeddings, grid)
    classes = known.classes[nearest(prototypes, known.vectors, count)]
    return shares(classes, num_classes).T[:, own]


def nearest(queries: Tensor, prototypes: Tensor, count: int = 20, block: int = 4096) -> Tensor:
    """Find the nearest prototypes (M, C) of each query (Q, C), by dot product, the best first: (Q, count).

    Raise ValueError if there are fewer prototypes than neighbors wanted.
    """
    if len(prototypes) < count:
        raise ValueError(f"{len(prototypes)} segments are fewer than the {count} neighbors that are to be found")
    indices = [(part @ prototypes.T).topk(count, dim=1).indices for part in queries.split(block)]
    return torch.cat(indices) if indices else queries.new_zeros((0, count), dtype=torch.int64)


def shares(labels: Tensor, num_classes: int) -> Tensor:
    """Return the share (Q, K) of each class among the labels (Q, n) of neighbors."""
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    return counts.scatter_add(1, labels, torch.ones_like(labels, dtype=counts.dtype)) / labels.shape[1]


def majority(labels: Tensor, own: Tensor, number: int, num_classes: int) -> Tensor:
    """Return the most frequent label (number,) of each segment's pixels (N,), the lowest of equals, 0 without any."""
    counts = torch.zeros(number * num_classes, device=labels.device)
    counts.index_add_(0, own * num_classes + labels, torch.ones(len(labels), device=labels.device))
    return counts.view(number, num_classes).argmax(1)

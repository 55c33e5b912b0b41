"""The classifier on frozen embeddings, and the pseudo labels that it learns from (SPML, Algorithms 1 and 2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import evaluation, losses
from agmm.codes import VOID
from agmm.data.split import Arrays
from agmm.evaluation import crf as fully_connected
from agmm.objectives.common import Objective, Output, batch_loss, full_precision, one_of
from agmm.rivals.spml import kmeans, relations, retrieval, walk
from agmm.rivals.spml.segments import cut, on_grid

Keep = Callable[[str, Callable[[int], np.ndarray], int], Arrays]
"""Name, function from an index to labels, and number of images -> the labels of all, in memory or on disk."""

LEAST = 0.15
"""Share of votes below which the largest of a class does not count as all (released code)."""


@dataclass(frozen=True)
class FirstStage:
    """The network of the first stage, and how images are shown to it.

    Attributes
    ----------
    net : callable
        Images (B, 3, H, W) to features and logits.
    device : torch.device
        Where the network is.
    side : int
        Smaller images are padded right and below, with the mean color if they are normalized.
    mirrored : sequence of int, optional
        Class of each of the K in a mirror image, see `agmm.data.split.Split`.
    normalization : Normalization, optional
        Of the network's input.
    """

    net: Callable[[Tensor], tuple[Tensor, ...]]
    device: torch.device
    side: int = 0
    mirrored: Sequence[int] | None = None
    normalization: evaluation.Normalization | None = None

    def views(self, rgb: Tensor, scale: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
        """Embeddings (C, H, W) and logits (K, H, W) of an image (1, H, W, 3), seen at a scale, and of its mirror image.

        The latter are mirrored back.
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
            embeddings, scores = ([walk.on_grid(view, whole) for view in views] for views in (embeddings, scores))
        return embeddings, scores if self.mirrored is None else [scores[0], scores[1][list(self.mirrored)]]


class Example(NamedTuple):
    """A training image: RGB (1, H, W, 3), annotation (1, H, W), classes that it may have (K,), and its CAMs."""

    rgb: Tensor
    codes: Tensor
    image_classes: Tensor
    cams: Mapping[int, np.ndarray] | None


def in_memory(name: str, make: Callable[[int], np.ndarray], number: int) -> np.ndarray:
    """`Keep` of images of one size."""
    return np.stack([make(index) for index in range(number)])


@dataclass
class SPMLClassifier(Objective):
    """Cross-entropy of the next classifier on refined labels; the embeddings stay those of the first stage.

    Parameters
    ----------
    num_classes : int
        K.
    first : {"classifier", "nearest", "cam"}
        What is refined: predictions of the first stage's classifier (VOC); of every segment the class of the nearest
        annotated one in its image (DensePose); class activation maps (image tags).
    walk : {"code", "paper", "none"}
        Random walk that refines it, see `agmm.rivals.spml.walk.transitions`.
    stride : int
        Pixels of the image per pixel of the walk, along each side.
    crf : str
        Name in `agmm.evaluation.crf.PARAMETERS` of the CRF that follows (released code); empty: there is none (paper).
    clusters : (int, int)
        Of the segments of ``first="nearest"``, see `agmm.rivals.spml.SPML`.
    colors : bool
        Whether they follow colors.
    neighbors : int
        Segments of all training images that then vote for the class of each segment (image tags: 20); 0: none do. What
        a classifier predicts has no CRF before the votes, but after them.
    cells : (int, int)
        Rows and columns of the clusters of which these are.
    scales, query_scales : tuple of float
        At which images are seen to find the segments that vote, and those that are voted for.
    """

    num_classes: int
    walk: Literal["code", "paper", "none"] = "code"
    stride: int = 8
    crf: str = "deeplab"
    first: Literal["classifier", "nearest", "cam"] = "classifier"
    clusters: tuple[int, int] = (24, 24)
    colors: bool = True
    neighbors: int = 0
    cells: tuple[int, int] = (12, 12)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    query_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)

    trains_classifier_only = True

    def __post_init__(self) -> None:
        for name in ("clusters", "cells", "scales", "query_scales"):
            setattr(self, name, tuple(getattr(self, name)))
        one_of("first", self.first, ("classifier", "nearest", "cam"))
        one_of("walk", self.walk, (*walk.STEPS, "none"))
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
        """Make labels (H, W) of training images for the next classifier.

        Parameters
        ----------
        first_stage : FirstStage
        images : sequence of (H, W, 3) uint8 arrays
        sparse : sequence of (H, W) uint8 arrays
            Annotation; only its ``VOID`` stays.
        image_classes : sequence of (K,) bool arrays
            Classes that each image may have.
        cams : sequence of dict, optional
            Class activation maps, see `agmm.data.split.Split`; only with ``first="cam"``.
        keep : Keep
            Where labels stay, in one piece by default.
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
        known = retrieval.Bank.joined(
            self._bank(first_stage, example(index).rgb, torch.from_numpy(guesses[index]).to(first_stage.device))
            for index in range(len(images))
        )
        return keep("pseudo_labels", lambda index: self._voted_labels(first_stage, example(index), known), len(images))

    def _first_labels(self, first_stage: FirstStage, example: Example) -> np.ndarray:
        """Labels (H, W) uint8 of an image, before any votes of other segments."""
        rgb, classes = example.rgb, example.image_classes
        embeddings, logits = first_stage.views(rgb)
        size = max(rgb.shape[1] // self.stride, 1), max(rgb.shape[2] // self.stride, 1)
        embeddings = [walk.on_grid(view, size) for view in embeddings]
        if self.first == "nearest":
            scores = walk.scaled([self._nearest_scores(view, example) for view in embeddings], classes)
        elif self.first == "cam":
            scores = walk.on_grid(self._cam_scores(example), size) * classes[:, None, None]
        else:
            # With votes to come the released code averages logits, else probabilities.
            views = [torch.stack(logits).mean(0)] if self.neighbors else logits
            scores = walk.class_scores(views, size, classes)
        if self.walk != "none":
            scores = walk.spread(scores, walk.transitions(walk.affinity(embeddings), walk=self.walk))
        whole = F.interpolate(scores[None], rgb.shape[1:3], mode="bilinear", align_corners=False)
        return self._best(whole, example, crf=not (self.neighbors and self.first == "classifier"))

    def _nearest_scores(self, embeddings: Tensor, example: Example) -> Tensor:
        """Shares (K, h, w): of each pixel the class of the annotated segment that is nearest to its own."""
        size = (embeddings.shape[-2], embeddings.shape[-1])
        codes = on_grid(example.codes, size, "any")
        colors = kmeans.colors(example.rgb.movedim(-1, 1).float(), size) if self.colors else None
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
        return walk.cam_scores(maps, scale=1)

    def _bank(self, first_stage: FirstStage, rgb: Tensor, labels: Tensor) -> retrieval.Bank:
        """The segments of an image (1, H, W, 3) with labels (H, W), at all scales, without its mirror image."""
        plain = (first_stage.views(rgb, scale)[0][0] for scale in self.scales)
        return retrieval.Bank.joined(
            retrieval.bank(view, labels.long(), self.cells, self.num_classes) for view in plain
        )

    def _voted_labels(self, first_stage: FirstStage, example: Example, known: retrieval.Bank) -> np.ndarray:
        """Labels (H, W) uint8 of an image by the votes of the segments nearest to its own."""
        views = [view for scale in self.query_scales for view in first_stage.views(example.rgb, scale)[0]]
        shares = torch.stack(
            [retrieval.votes(view, known, self.cells, self.neighbors, self.num_classes) for view in views]
        ).mean(0)
        scores = shares / shares.amax((1, 2), keepdim=True).clamp_min(LEAST)
        return self._best((scores * example.image_classes[:, None, None])[None], example, crf=True)

    def _best(self, scores: Tensor, example: Example, crf: bool) -> np.ndarray:
        """Best classes (H, W) uint8 of scores (1, K, H, W), after the CRF if there is one; ``VOID`` stays."""
        if self.crf and crf:
            shares = scores / scores.sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
            scores = evaluation.refine(shares, example.rgb, fully_connected.PARAMETERS[self.crf])
        best = evaluation.best_class(scores).masked_fill(example.codes == VOID, VOID)
        return best[0].cpu().numpy().astype(np.uint8)

"""The classifier on frozen embeddings, and the pseudo labels that it learns from (SPML, Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import crf as fully_connected
from agmm import evaluation, losses
from agmm.data import Arrays
from agmm.labels import VOID
from agmm.objectives.common import Output, check_labels, full_precision, one_of
from agmm.rivals.spml import kmeans, relations, walk
from agmm.rivals.spml.segments import cut, on_grid


@dataclass(frozen=True)
class SPMLClassifier:
    """Cross-entropy of the classifier on the refined predictions of its first stage, whose embeddings stay as they are.

    Parameters
    ----------
    num_classes : int
        K.
    walk : {"code", "paper", "none"}
        Random walk that refines the predictions, see `agmm.rivals.spml.walk.transitions`.
    stride : int
        Pixels of the image per pixel of the walk, along each side.
    crf : str
        Name in `agmm.crf.PARAMETERS` of the CRF that follows (released code); empty: there is none (paper).
    first : {"classifier", "nearest"}
        Predictions of the first classifier (VOC), or of every segment the class of the nearest annotated one in its
        image (DensePose).
    clusters : (int, int)
        Of these segments, see `agmm.rivals.spml.SPML`.
    colors : bool
        Whether they follow colors.
    """

    num_classes: int
    walk: Literal["code", "paper", "none"] = "code"
    stride: int = 8
    crf: str = "deeplab"
    first: Literal["classifier", "nearest"] = "classifier"
    clusters: tuple[int, int] = (24, 24)
    colors: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "clusters", tuple(self.clusters))
        one_of("first", self.first, ("classifier", "nearest"))
        one_of("walk", self.walk, ("code", "paper", "none"))
        one_of("crf", self.crf, ("", *fully_connected.PARAMETERS))
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, not {self.stride}")

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts | None = None,
    ) -> Output:
        """Parameters as of `agmm.objectives.AGMM.__call__`; the one term is classifier."""
        check_labels(labels, self.num_classes)
        given = counts or losses.count(labels, self.num_classes)
        loss = losses.partial_cross_entropy(full_precision(logits), labels, given)
        return Output(loss, {"classifier": loss})

    @torch.no_grad()
    def pseudo_labels(
        self,
        net: nn.Module,
        images: Arrays,
        sparse: np.ndarray,
        named: np.ndarray,
        *,
        side: int,
        device: torch.device,
        mirrored: Sequence[int] | None = None,
        **normalization: Any,
    ) -> np.ndarray:
        """Labels of training images for the second classifier.

        Parameters
        ----------
        net : nn.Module
            Of the first stage; its classifier is the first one.
        images : sequence of (H, W, 3) uint8 arrays
        sparse : sequence of (H, W) uint8 arrays
            Annotation; only its ``VOID`` stays.
        named : (N, K) bool array
            Classes that each image may have.
        side : int
            Smaller images are padded right and below, with the mean color if they are normalized.
        mirrored : sequence of int, optional
            What each class is called in a mirror image, see `agmm.data.Split`.
        device, normalization
            As in `agmm.evaluation.evaluate`.

        Returns
        -------
        (N, H, W) uint8 array
        """
        made = []
        for image, label, classes in zip(images, sparse, torch.from_numpy(named).to(device), strict=True):
            rgb, codes = (torch.from_numpy(np.array(array))[None].to(device) for array in (image, label))
            embeddings, logits = _two_views(net, evaluation.to_input(rgb, **normalization), side, mirrored)
            size = tuple(max(length // self.stride, 1) for length in image.shape[:2])
            embeddings = [walk.on_grid(view, size) for view in embeddings]
            if self.first == "nearest":
                scores = walk.scaled([self._of_nearest(view, codes, rgb) for view in embeddings], classes)
            else:
                scores = walk.class_scores(logits, size, classes)
            made.append(self._refined(scores, embeddings, rgb))
        return np.where(np.asarray(sparse) == VOID, VOID, np.stack(made))

    def _of_nearest(self, embeddings: Tensor, codes: Tensor, rgb: Tensor) -> Tensor:
        """Shares (K, h, w): of each pixel the class of the annotated segment that is nearest to its own."""
        size = (embeddings.shape[-2], embeddings.shape[-1])
        small = on_grid(codes, size, "any")
        shown = kmeans.colors(rgb.movedim(-1, 1).float(), size) if self.colors else None
        every = torch.ones(1, self.num_classes, dtype=torch.bool, device=codes.device)
        segments = cut(embeddings[None], small, torch.zeros_like(small), every, self.clusters, colors=shown)
        classes = relations.possible_classes(segments, self.num_classes, threshold=-1.0).to(embeddings)
        shares = embeddings.new_zeros(small.numel(), self.num_classes)
        shares[small.flatten() != VOID] = (classes / classes.sum(1, keepdim=True))[segments.own]
        return shares.T.unflatten(1, size)

    def _refined(self, scores: Tensor, embeddings: list[Tensor], rgb: Tensor) -> np.ndarray:
        """Labels (H, W) uint8 from scores on the grid of the walk, by walk and CRF."""
        if self.walk != "none":
            scores = walk.spread(scores, walk.transitions(walk.affinity(embeddings), walk=self.walk))
        whole = F.interpolate(scores[None], rgb.shape[1:3], mode="bilinear", align_corners=False)
        if self.crf:
            shares = whole / whole.sum(1, keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)
            whole = evaluation.refine(shares, rgb, fully_connected.PARAMETERS[self.crf])
        return evaluation.best_class(whole)[0].cpu().numpy().astype(np.uint8)


def _two_views(
    net: nn.Module, inputs: Tensor, side: int, mirrored: Sequence[int] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Embeddings (C, H, W) and logits (K, H, W) of an image (1, 3, H, W) and of its mirror image, mirrored back."""
    height, width = inputs.shape[-2:]
    padded = F.pad(inputs, (0, max(side - width, 0), 0, max(side - height, 0)))
    features, logits = (full_precision(maps) for maps in net(torch.cat([padded, padded.flip(-1)]))[:2])
    features = F.interpolate(features, padded.shape[-2:], mode="bilinear", align_corners=False)
    embeddings, scores = (
        [plain[:, :height, :width], turned.flip(-1)[:, :height, :width]] for plain, turned in (features, logits)
    )
    return embeddings, scores if mirrored is None else [scores[0], scores[1][list(mirrored)]]

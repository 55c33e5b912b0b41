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
from agmm.rivals.spml import walk


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
    """

    num_classes: int
    walk: Literal["code", "paper", "none"] = "code"
    stride: int = 8
    crf: str = "deeplab"

    def __post_init__(self) -> None:
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
        for image, classes in zip(images, torch.from_numpy(named).to(device), strict=True):
            inputs = evaluation.to_input(torch.from_numpy(image)[None].to(device), **normalization)
            embeddings, logits = _two_views(net, inputs, side, mirrored)
            scores = self._refined(embeddings, logits, classes)
            if self.crf:
                rgb = torch.from_numpy(image)[None].to(device)
                scores = evaluation.refine(scores, rgb, fully_connected.PARAMETERS[self.crf])
            made.append(evaluation.best_class(scores)[0].cpu().numpy().astype(np.uint8))
        return np.where(np.asarray(sparse) == VOID, VOID, np.stack(made))

    def _refined(self, embeddings: list[Tensor], logits: list[Tensor], named: Tensor) -> Tensor:
        """Shares (1, K, H, W) of the classes after the walk."""
        height, width = logits[0].shape[1:]
        size = (max(height // self.stride, 1), max(width // self.stride, 1))
        scores = walk.class_scores(logits, size, named)
        if self.walk != "none":
            affinities = walk.affinity([walk.on_grid(view, size) for view in embeddings])
            scores = walk.spread(scores, walk.transitions(affinities, walk=self.walk))
        whole = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)
        return whole / whole.sum(1, keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)


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

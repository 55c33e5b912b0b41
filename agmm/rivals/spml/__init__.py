"""SPML: universal weakly supervised segmentation by pixel-to-segment contrastive learning (Ke et al., ICLR 2021).

Here is the objective that an embedding is trained with: four relations, a memory of segments, a classifier beside.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agmm import losses
from agmm.objectives.common import Objective, Output, batch_loss, one_of
from agmm.rivals.spml import relations
from agmm.rivals.spml.classifier import FirstStage, SPMLClassifier, in_memory
from agmm.rivals.spml.segments import Prototypes, Segments, cut, directions, gather, grid_colors, on_grid


@dataclass
class SPML(Objective):
    """Pixels are attracted and repelled by segments in four relations; a classifier learns beside it.

    The loss (SPML, Eq. 4, and the released code's classifier) is

        L = lambda_c (annotation + classifier) + lambda_i low_level + lambda_o cooccurrence + lambda_a affinity

    The classifier learns from detached embeddings, so it changes nothing but its own weights. A weight of 0 leaves a
    relation out; the concentrations kappa are at most 300. Defaults are the paper's for scribbles on VOC, which the
    released script shares; for other labels see `agmm.training.presets`. Segments are those of the tensors at hand, a
    microbatch, and of the microbatches of the other processes of a training, as the released code gathers them from all
    its devices. ``grid_labels`` says how labels come to the grid of the embeddings, see `segments.on_grid`: "nearest",
    as in the released code, whose labels are wider than a cell, or "any" (ours) for clicks of one pixel.

    ``affinity`` says where relation A looks for the annotated segment that is nearest to another and gives it its
    class. "image": in the same image, and only up to a cosine of ``threshold``, as in the released helper, which the
    released training never calls. "batch": in all images at hand, without the memory and however far, as the text has
    it ("within and across images"; it names no threshold). A segment that finds none may have any class.
    """

    num_classes: int
    lambda_c: float = 1.0
    lambda_i: float = 0.1
    lambda_o: float = 0.5
    lambda_a: float = 0.0
    kappa_c: float = 6.0
    kappa_i: float = 16.0
    kappa_o: float = 12.0
    kappa_a: float = 12.0
    clusters: tuple[int, int] = (6, 6)  # rows and columns of the grid with which k-means begins
    iterations: int = 10  # of k-means
    memory: int = 2  # steps whose segments are remembered; those of one epoch only, so that a run can resume
    background: int | None = 0  # the class that is no foreground in co-occurrence, None if there is none
    located: bool = True  # whether relation I compares vectors with their location (VOC; DensePose: without)
    affinity: Literal["image", "batch"] = "image"
    threshold: float = 0.95  # least cosine at which a segment takes the class of its nearest annotated one ("image")
    colors: bool = False  # whether clusters and the lookup of relation A follow colors, too (DensePose)
    regions: str = "felzenszwalb"  # over-segmentation of the images, see `agmm.data.sets.regions`
    grid_labels: Literal["nearest", "any"] = "nearest"

    needs = ("regions", "images")

    def __post_init__(self) -> None:
        one_of("grid_labels", self.grid_labels, ("nearest", "any"))
        one_of("affinity", self.affinity, ("image", "batch"))
        if len(self.clusters) != 2 or min(self.clusters) < 1:
            raise ValueError(f"clusters are rows and columns, at least 1 each, not {self.clusters}")
        self.clusters = (self.clusters[0], self.clusters[1])  # JSON knows lists only
        for name in ("kappa_c", "kappa_i", "kappa_o", "kappa_a"):
            if not 0 < getattr(self, name) <= relations.DOUBLE:
                raise ValueError(f"{name} must be positive and at most {relations.DOUBLE:g}, not {getattr(self, name)}")
        # No field: what a run is does not change with what its objective remembers.
        self.remembered: deque[Prototypes] = deque(maxlen=self.memory)

    @batch_loss
    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts,
        *,
        regions: Tensor,
        images: Tensor | None = None,
    ) -> Output:
        """Return the loss of a batch, whose segments are remembered where gradients are wanted.

        Terms are classifier, annotation, low_level, cooccurrence and affinity, as far as they have a weight.
        ``features`` (B, C, h, w) are embeddings before they are normalized, ``regions`` (B, H, W) int64 those of an
        over-segmentation, ``images`` (B, 3, H, W) are needed with ``colors`` only. For the others see `batch_loss`;
        ``counts`` divide the classifier's mean, the relations are means over the pixels given here.
        """
        if self.colors and images is None:
            raise ValueError("images is missing; the clusters of SPML with colors need it")
        grid = (features.shape[-2], features.shape[-1])
        codes = on_grid(labels, grid, self.grid_labels), on_grid(regions, grid)
        colors = grid_colors(images, grid) if self.colors and images is not None else None
        segments = cut(features, *codes, image_classes, self.clusters, self.iterations, colors)
        batch, classes = self._batch(segments, len(features))
        terms = {"classifier": losses.partial_cross_entropy(logits, labels, counts)}
        terms |= self._relations(segments, batch, classes, image_classes)
        if torch.is_grad_enabled() and self.memory:
            self.remembered.appendleft(batch.detached())
        weights = {"low_level": self.lambda_i, "cooccurrence": self.lambda_o, "affinity": self.lambda_a}
        weighted = [weights.get(name, self.lambda_c) * term for name, term in terms.items()]
        if batch is not segments.prototypes:
            # A process takes part in the exchange of gradients whether or not it has pixels to contrast.
            weighted.append(0 * batch.vectors.sum())
        return Output(torch.stack(weighted).sum(), terms)

    def _batch(self, segments: Segments, images: int) -> tuple[Prototypes, Tensor | None]:
        """Return the segments of all processes, and their possible classes if affinity has a weight."""
        own, rows = segments.prototypes, None
        if self.lambda_a and self.affinity == "image":
            rows = relations.possible_classes(segments, self.num_classes, self.threshold)
        elif self.lambda_a:
            rows = directions(segments.located.detach(), segments.own, len(own.labels))
        batch, rows = gather(own, images, rows)
        if rows is not None and self.affinity == "batch":
            rows = relations.nearest_classes(rows, batch.labels, self.num_classes)
        return batch, rows

    def _relations(
        self, segments: Segments, batch: Prototypes, classes: Tensor | None, image_classes: Tensor
    ) -> dict[str, Tensor]:
        """The relations that have a weight, unweighted; affinity needs the possible classes of the batch's segments."""
        known = Prototypes.joined([batch, *self.remembered])
        terms = {"annotation": relations.annotation(segments, known, self.num_classes, self.kappa_c)}
        if self.lambda_i:
            terms["low_level"] = relations.low_level(segments, self.kappa_i, self.located)
        if self.lambda_o:
            shared = relations.cooccurrence(segments, known, image_classes, self.kappa_o, self.background)
            terms["cooccurrence"] = shared
        if classes is not None:
            terms["affinity"] = relations.affinity(segments, batch, classes, self.kappa_a)
        return terms

    def begin_epoch(self) -> None:
        """Forget all segments, as every epoch begins without any."""
        self.remembered.clear()

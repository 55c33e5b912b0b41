"""AGMM (CVPR 2023), its baseline and its hard rival."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import fast, gmm, losses
from agmm.objectives.common import Output, TermWeights, check_labels, full_precision, no_components, one_of, pixel_terms

TERMS = ("seg", "self", "spar", "con", "absent")
Variant = Literal["official", "paper"]


@dataclass(frozen=True)
class Baseline:
    """Partial cross-entropy alone (Eq. 3).

    Parameters
    ----------
    num_classes : int
    """

    num_classes: int

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts | None = None,
    ) -> Output:
        """See `AGMM.__call__`; ``features`` and ``image_classes`` are not used."""
        check_labels(labels, self.num_classes)
        with torch.autocast(logits.device.type, enabled=False):
            counts = counts or losses.count(labels, self.num_classes)
            seg = losses.partial_cross_entropy(full_precision(logits), labels, counts)
        return Output(seg, {"seg": seg})


@dataclass(frozen=True)
class AGMM:
    """Segmentation and Gaussian mixture supervise each other (CVPR 2023).

    Parameters
    ----------
    num_classes : int
    variant : {"official", "paper"}
        What the released code computes, or the equations as printed.
    sigma : float, {"adaptive", "code_a", "code_b"} or None
        Spread of the Gaussians: one value for all, estimated (see `agmm.gmm.spread`), or the variant's own:
        ``exp(-d^2)`` (official), Eq. 5 (paper).
    detach_sigma : bool
        Whether an estimated spread carries no gradient.
    con_vectors : {"sum", "mean"}
        See `agmm.losses.contrast_batch`; official variant only.
    self_reduction : {"mean", "sum"}
        Reduction of the self-supervision over an image's present classes.
    lambda_gmm : float
        Weight of all terms but ``seg``.
    terms : tuple of str, optional
        Subset of seg, self, spar, con, absent. Default: all five (official), the first four (paper), seg and self
        with ``stop_gradient``.
    stop_gradient : bool
        Detach the features before the branch, so that the mixture teaches the segmentation only.
    """

    num_classes: int
    variant: Variant = "official"
    sigma: gmm.Sigma = None
    detach_sigma: bool = True
    con_vectors: Literal["sum", "mean"] = "sum"
    self_reduction: Literal["mean", "sum"] = "mean"
    lambda_gmm: float = 1.0
    terms: tuple[str, ...] | None = None
    stop_gradient: bool = False
    needs: ClassVar[tuple[str, ...]] = ("parts",)

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("official", "paper"))
        one_of("con_vectors", self.con_vectors, ("sum", "mean"))
        one_of("self_reduction", self.self_reduction, ("mean", "sum"))
        if isinstance(self.sigma, str):
            one_of("sigma", self.sigma, ("adaptive", "code_a", "code_b"))
        elif self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")
        default = ("seg", "self", "spar", "con", "absent") if self.variant == "official" else TERMS[:4]
        terms = self.terms if self.terms is not None else ("seg", "self") if self.stop_gradient else default
        for term in terms:
            one_of("terms", term, TERMS)
        object.__setattr__(self, "terms", tuple(term for term in TERMS if term in terms))

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts | None = None,
        parts: gmm.Components | None = None,
    ) -> Output:
        """Loss of a batch.

        Parameters
        ----------
        features : Tensor (B, C, h, w)
            Input of the classifier.
        logits : Tensor (B, K, H, W)
            Before softmax, at label resolution.
        labels : Tensor (B, H, W) int64
            Sparse labels: 0 … K-1, ``UNLABELED`` or ``VOID``.
        image_classes : Tensor (B, K) bool
            Classes annotated anywhere in the uncropped image.
        counts : Counts, optional
            Divisors of the means; default: of this batch.
        parts : Components, optional
            Of the labels. To find them waits for a GPU, so a training loop finds them ahead of time.

        Returns
        -------
        Output
        """
        check_labels(labels, self.num_classes)
        assert self.terms is not None
        with torch.autocast(logits.device.type, enabled=False):
            features, logits = fast.as_computed(features), fast.as_computed(logits)
            counts = counts or losses.count(labels, self.num_classes)
            official = self.variant == "official"
            terms: dict[str, Tensor] = {}
            if {"self", "spar", "con"} & set(self.terms):
                parts, means, g = self.mixture(features, logits, labels, image_classes, parts)
                if "con" in self.terms:
                    terms["con"] = (
                        losses.contrast_batch(means, parts, self.con_vectors)
                        if official
                        else losses.contrast_image(means, parts)
                    )
                dense_scores: Callable[[], Tensor] = partial(parts.to_classes, g)
            else:
                parts, g = None, full_precision(logits[:, :0])
                dense_scores = partial(self._dense_scores, features, logits, labels, image_classes)
            weights = self._weights(parts, labels, g.dtype)
            chosen = set(self.terms) - {"con"}
            terms |= pixel_terms(logits, g, labels, image_classes, counts, chosen, weights)
        terms = {name: terms[name] for name in self.terms}
        loss = sum((t if name == "seg" else self.lambda_gmm * t for name, t in terms.items()), logits.new_zeros(()))
        return Output(loss, terms, dense_scores)

    def mixture(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        parts: gmm.Components | None = None,
    ) -> tuple[gmm.Components, Tensor, Tensor]:
        """Components, class means (B, N, C) and mixture scores (B, N, H, W) of a batch."""
        if self.stop_gradient:
            features, logits = features.detach(), logits.detach()
        parts = parts or gmm.components(labels, self.num_classes)
        means, d = gmm.means_and_distances(features, labels, parts)
        if self.variant == "official" or self.sigma in ("code_a", "code_b"):
            d = d * gmm.validity(labels, (d.shape[2], d.shape[3]), d.dtype)
        sigma = "adaptive" if self.sigma is None and self.variant == "paper" else self.sigma
        if not isinstance(sigma, str):
            return parts, means, gmm.scores(d, sigma, labels.shape[-2:], parts)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_sigma):
            spread = gmm.spread(d, full_precision(logits), labels, image_classes, parts, sigma)
        return parts, means, gmm.scores(d, spread, labels.shape[-2:], parts)

    def _weights(self, parts: gmm.Components | None, labels: Tensor, dtype: torch.dtype) -> TermWeights:
        """How much each component counts in self and spar."""
        official = self.variant == "official"
        if parts is None:
            return no_components(labels, dtype)
        assert self.terms is not None
        self_weight = losses.self_weight(parts, official, self.self_reduction, dtype) * ("self" in self.terms)
        label_weight = losses.self_weight(parts, True, "mean", dtype) if official else parts.filled.to(dtype)
        return TermWeights(parts.classes, self_weight, label_weight * ("spar" in self.terms), official)

    def _dense_scores(self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            parts, _, g = self.mixture(features, logits, labels, image_classes)
            return parts.to_classes(g)


@dataclass(frozen=True)
class LabelAssignment:
    """The hard, online rival of the mixture (Eq. 13): confident pixels are assigned a class and trained on it.

    Parameters
    ----------
    num_classes : int
    absent : bool
        Add the absent-class term of the official code.
    """

    num_classes: int
    absent: bool = False

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts | None = None,
    ) -> Output:
        """See `AGMM.__call__`; the terms are seg, assign and, if asked for, absent."""
        names = ("seg", "absent") if self.absent else ("seg",)
        output = AGMM(self.num_classes, terms=names)(features, logits, labels, image_classes, counts)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            parts, d, sigma = self.distances(full_precision(features), full_precision(logits), labels, image_classes)
            target = losses.assign_labels(d, sigma, labels, parts)
        here = losses.count(target, self.num_classes)
        assign = losses.partial_cross_entropy(full_precision(logits), target, here)
        return Output(output.loss + assign, output.terms | {"assign": assign})

    def distances(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor
    ) -> tuple[gmm.Components, Tensor, Tensor]:
        """Components, distances at label resolution (B, N, H, W) and spreads (B, N) of the paper's variant."""
        parts = gmm.components(labels, self.num_classes)
        d = gmm.distances(features, gmm.component_means(features, labels, parts), parts)
        sigma = gmm.spread(d, logits, labels, image_classes, parts, "adaptive")
        return parts, F.interpolate(d, size=labels.shape[-2:], mode="bilinear", align_corners=False), sigma

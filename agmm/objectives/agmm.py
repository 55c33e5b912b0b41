"""AGMM (CVPR 2023), its baseline and its hard rival."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import gmm, losses
from agmm.objectives.common import Objective, Output, batch_loss, one_of

TERMS = ("seg", "self", "spar", "con", "absent")
OF_MIXTURE = frozenset({"self", "spar", "con"})
Variant = Literal["official", "paper"]


@dataclass(frozen=True)
class Baseline(Objective):
    """Partial cross-entropy alone (Eq. 3).

    Parameters
    ----------
    num_classes : int
    """

    num_classes: int

    @batch_loss
    def __call__(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor, counts: losses.Counts
    ) -> Output:
        """Return the term seg; ``features`` and ``image_classes`` are not used."""
        seg = losses.partial_cross_entropy(logits, labels, counts)
        return Output(seg, {"seg": seg})


@dataclass(frozen=True)
class AGMM(Objective):
    """Segmentation and Gaussian mixture supervise each other (CVPR 2023).

    Parameters
    ----------
    num_classes : int
    variant : {"official", "paper"}
        What the released code computes, or the equations as printed.
    sigma : float, {"adaptive", "code_a", "code_b"} or None
        Spread of the Gaussians: one value for all, estimated (see `agmm.gmm.spread`), or the variant's own:
        ``exp(-d^2)`` (official), Eq. 5 (paper).
    detach_sigma : bool, optional
        Whether an estimated spread carries no gradient. Default: false for Eq. 5, as the paper says that "the process
        of GMM formulation is derivable" (Sec. 3.4); true for the ones that the official code has commented out.
    con_vectors : {"sum", "mean"}
        See `agmm.losses.contrast_batch`; official variant only.
    self_classes : {"present", "all"}
        Over which classes Eq. 8, which has no class index, extends: those with a component, or all K with G = 0 where
        there is none. The latter contains the absent-class loss exactly where a crop holds a label of every class of
        its image; variant paper only.
    self_reduction : {"mean", "sum"}, optional
        How Eq. 8 adds up over these classes. Default: the mean over the present ones, the sum over all.
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
    detach_sigma: bool | None = None
    con_vectors: Literal["sum", "mean"] = "sum"
    self_classes: Literal["present", "all"] = "present"
    self_reduction: Literal["mean", "sum"] | None = None
    lambda_gmm: float = 1.0
    terms: tuple[str, ...] | None = None
    stop_gradient: bool = False

    needs = ("components",)
    has_mixture = True

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("official", "paper"))
        one_of("con_vectors", self.con_vectors, ("sum", "mean"))
        one_of("self_classes", self.self_classes, ("present", "all"))
        everywhere = self.self_classes == "all"
        object.__setattr__(self, "self_reduction", self.self_reduction or ("sum" if everywhere else "mean"))
        one_of("self_reduction", self.self_reduction, ("sum",) if everywhere else ("mean", "sum"))
        if isinstance(self.sigma, str):
            one_of("sigma", self.sigma, ("adaptive", "code_a", "code_b"))
        elif self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")
        if everywhere and self.variant == "official":
            raise ValueError("self_classes 'all' is a reading of the printed Eq. 8; choose the variant 'paper'")
        default = TERMS if self.variant == "official" else TERMS[:4]
        terms = self.terms if self.terms is not None else ("seg", "self") if self.stop_gradient else default
        for term in terms:
            one_of("terms", term, TERMS)
        if everywhere and "absent" in terms:
            raise ValueError(f"terms hold 'absent', {losses.CONTAINED}")
        object.__setattr__(self, "terms", tuple(term for term in TERMS if term in terms))

    @property
    def spread(self) -> gmm.Sigma:
        """Return ``sigma``, or the variant's own where it is None."""
        return "adaptive" if self.sigma is None and self.variant == "paper" else self.sigma

    @property
    def revision(self) -> int:
        """Return 1 for Eq. 5, whose spread once carried no gradient; see `Objective.revision`."""
        return int(self.spread == "adaptive")

    @batch_loss
    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts,
        components: gmm.Components | None = None,
    ) -> Output:
        """Return ``seg + lambda_gmm (self + spar + con + absent)`` (Eq. 11, Eq. 12).

        P is the segmentation's softmax, G the mixture's scores (`mixture`, Eq. 4 to 7); see `batch_loss`.

        ======  =============================================================  ==============================
        seg     the labels supervise P                                         Eq. 3, `losses.pixel_losses`
        self    P and G supervise each other, at every pixel                   Eq. 8, `losses.pixel_losses`
        spar    the labels supervise G                                         Eq. 9, `losses.pixel_losses`
        con     the means of different classes push each other apart           Eq. 10, `losses.contrast_image`
        absent  P is pushed down for classes that are nowhere in the image     official, `losses.pixel_losses`
        ======  =============================================================  ==============================

        Parameters
        ----------
        components : Components, optional
            Those of the labels. To find them waits for a GPU, so a training loop finds them ahead of time.
        """
        wanted, official = set(self.terms or ()), self.variant == "official"
        terms: dict[str, Tensor] = {}
        scores: Callable[[], Tensor]
        if wanted & OF_MIXTURE:
            components, means, g = self.mixture(features, logits, labels, image_classes, components)
            if "con" in wanted and official:
                terms["con"] = losses.contrast_batch(means, components, self.con_vectors)
            elif "con" in wanted:
                terms["con"] = losses.contrast_image(means, components)
            scores = partial(components.to_classes, g)
        else:
            components, g = gmm.no_components(labels, self.num_classes), logits.detach()[:, :0]
            scores = partial(self._scores, features, logits, labels, image_classes)
        form = losses.Form(
            0.5 if official else 1.0, self.self_reduction or "mean", official, everywhere=self.self_classes == "all"
        )
        terms |= losses.pixel_losses(wanted, logits, g, labels, image_classes, counts, components, form)
        terms = {name: terms[name] for name in TERMS if name in wanted}
        loss = sum((t if name == "seg" else self.lambda_gmm * t for name, t in terms.items()), logits.new_zeros(()))
        return Output(loss, terms, scores)

    def mixture(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        components: gmm.Components | None = None,
    ) -> tuple[gmm.Components, Tensor, Tensor]:
        """Return components, class means (B, N, C) and mixture scores (B, N, H, W) of a batch (Eq. 4 to 7)."""
        if self.stop_gradient:
            features, logits = features.detach(), logits.detach()
        components = components or gmm.components(labels, self.num_classes)
        means, d = gmm.means_and_distances(features, labels, components)
        if self.variant == "official" or self.sigma in ("code_a", "code_b"):
            d = d * gmm.validity(labels, (d.shape[2], d.shape[3]), d.dtype)
        sigma: gmm.Sigma | Tensor = self.spread
        if isinstance(sigma, str):
            detached = sigma != "adaptive" if self.detach_sigma is None else self.detach_sigma
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
                sigma = gmm.spread(d, logits, labels, image_classes, components, sigma)
        return components, means, gmm.scores(d, sigma, labels.shape[-2:], components)

    def _scores(self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            components, _, g = self.mixture(features, logits, labels, image_classes)
            return components.to_classes(g)


@dataclass(frozen=True)
class LabelAssignment(Objective):
    """The hard, online rival of the mixture (Eq. 13): confident pixels are assigned a class and trained on it.

    Parameters
    ----------
    num_classes : int
    absent : bool
        Add the absent-class term of the official code.
    """

    num_classes: int
    absent: bool = False

    @batch_loss
    def __call__(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor, counts: losses.Counts
    ) -> Output:
        """Return seg, assign and, if asked for, absent; the gradient reaches the logits alone."""
        names = ("seg", "absent") if self.absent else ("seg",)
        output = AGMM(self.num_classes, terms=names)(features, logits, labels, image_classes, counts)
        with torch.no_grad():
            components, d, sigma = self.distances(features, logits, labels, image_classes)
            target = losses.assign_labels(d, sigma, labels, components)
        assign = losses.partial_cross_entropy(logits, target, losses.count(target, self.num_classes))
        return Output(output.loss + assign, output.terms | {"assign": assign})

    def distances(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor
    ) -> tuple[gmm.Components, Tensor, Tensor]:
        """Return components, distances at label resolution (B, N, H, W) and spreads (B, N) of the paper's variant."""
        components = gmm.components(labels, self.num_classes)
        d = gmm.distances(features, gmm.component_means(features, labels, components), components)
        sigma = gmm.spread(d, logits, labels, image_classes, components, "adaptive")
        return components, F.interpolate(d, size=labels.shape[-2:], mode="bilinear", align_corners=False), sigma

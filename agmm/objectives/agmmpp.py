"""AGMM++ (TPAMI 2025)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from agmm import em, fast, gmm, losses
from agmm.objectives.checks import check_layer
from agmm.objectives.common import Objective, Output, batch_loss, full_precision, one_of

TERMS = ("seg", "self", "weak", "con", "con_old", "absent")
OF_MIXTURE = frozenset({"self", "weak", "con", "con_old"})


@dataclass(eq=False)
class AGMMpp(Objective, nn.Module):
    """Segmentation and a re-estimated Gaussian mixture supervise each other, from any weak label (TPAMI 2025).

    Features are squeezed by a 1x1 convolution, the mixture of the labeled pixels assigns every pixel to a component,
    and the mixture of these pixels gives the scores (online EM). No code was released; the choices that the text leaves
    open are marked as ours.

    Parameters
    ----------
    num_classes : int
    in_channels : int
        C of the features.
    channels : int, optional
        C' of the squeezed features. Ours: 64 of the decoder's 256, 128 of a transformer's 768, as the cost in Table 11
        suggests; in general a quarter of up to 256, else a sixth.
    oem : bool
        Online EM; without it the mixture is that of the labeled pixels.
    assignment : {"argmax", "responsibility", "soft"}
        See `agmm.em.assign`.
    keep_labels : bool
        Labeled pixels stay with their class in online EM; the text keeps none.
    con_members : {"new", "old"}
        Whose scores say to which component a pixel belongs in the contrast: those that the labels supervise (ours), or
        those of the labels' mixture. Without online EM labeled pixels belong to their class.
    self_classes : {"present", "all"}
        Over which classes Eq. 11, which has no class index, extends: the mean over those with a component (ours), or
        the sum over all K with G = 0 where there is none.
    distance, sigma, sigma_min, detach_sigma
        See `agmm.em.Estimator`. The signed distance is Eq. 3 as printed, the pooled spread a variant of ours.
    terms : tuple of str, optional
        Subset of seg, self (Eq. 11), weak (Eq. 12), con (Eq. 14), con_old (Eq. 13, AGMM's contrast as released) and
        absent (AGMM's released code). Default: the first four; seg and self with ``stop_gradient``.
    seg : {"ce", "bce"}
        Cross-entropy (ours, as the text says and as in AGMM), or binary cross-entropy of all classes as Eq. 10 prints.
    lambda_gmm, lambda_self, lambda_weak, lambda_con : float
        Weights. The paper prints the first alone (1 is best); the others are 1 (ours).
    stop_gradient : bool
        The mixture teaches the segmentation only and learns nothing itself.
    """

    num_classes: int
    in_channels: int = 256
    channels: int | None = None
    oem: bool = True
    assignment: em.Assignment = "argmax"
    keep_labels: bool = False
    con_members: Literal["new", "old"] = "new"
    self_classes: Literal["present", "all"] = "present"
    distance: em.Distance = "absolute"
    sigma: float | Literal["pooled"] | None = None
    sigma_min: float = 0.1
    detach_sigma: bool = False
    terms: tuple[str, ...] | None = None
    seg: Literal["ce", "bce"] = "ce"
    lambda_gmm: float = 1.0
    lambda_self: float = 1.0
    lambda_weak: float = 1.0
    lambda_con: float = 1.0
    stop_gradient: bool = False

    needs = ("components",)
    has_mixture = True

    def __post_init__(self) -> None:
        super().__init__()
        one_of("assignment", self.assignment, ("argmax", "responsibility", "soft"))
        one_of("con_members", self.con_members, ("new", "old"))
        one_of("self_classes", self.self_classes, ("present", "all"))
        one_of("distance", self.distance, ("absolute", "signed", "rms"))
        one_of("seg", self.seg, ("ce", "bce"))
        if not self.sigma_min > 0:
            raise ValueError(f"sigma_min must be positive, not {self.sigma_min}")
        if isinstance(self.sigma, str):
            one_of("sigma", self.sigma, ("pooled",))
        elif self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be at least 1, not {self.channels}")
        terms = self.terms if self.terms is not None else TERMS[: 2 if self.stop_gradient else 4]
        for term in terms:
            one_of("terms", term, TERMS)
        if self.self_classes == "all" and "absent" in terms:
            raise ValueError(f"terms hold 'absent', {losses.CONTAINED}")
        self.terms = tuple(term for term in TERMS if term in terms)
        self.squeeze = nn.Conv2d(self.in_channels, self.channels or squeezed(self.in_channels), 1)
        if self.stop_gradient or not OF_MIXTURE & set(self.terms):
            self.squeeze.requires_grad_(False)

    @property
    def revision(self) -> int:
        """Return 1: spreads have a gradient, and labeled pixels may change their component; see `Objective`."""
        return 1

    @property
    def estimator(self) -> em.Estimator:
        """Return how the mixture is estimated."""
        return em.Estimator(self.distance, self.sigma, self.sigma_min, self.detach_sigma)

    @batch_loss
    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts,
        components: gmm.Components | None = None,
    ) -> Output:
        """Return the loss, see `batch_loss` for the arguments and `AGMM.__call__` for ``components``.

        P is the segmentation's softmax, G the scores of the mixture (`mixture`, Eq. 1 to 8).

        ========  =========================================================  =======================================
        seg       the labels supervise P                                     Eq. 3 of AGMM, or `binary_cross_entropy`
        self      P and G supervise each other, at every pixel               Eq. 11, `losses.pixel_losses`
        weak      the labels supervise G                                     Eq. 12, `losses.pixel_losses` (spar)
        con       pixels are pulled to their mean, pushed away from others   Eq. 14, `losses.contrast_pixels`
        con_old   the means of different classes push each other apart       Eq. 13, `losses.contrast_batch`
        absent    P is pushed down for classes nowhere in the image          official code of AGMM
        ========  =========================================================  =======================================
        """
        wanted = set(self.terms or ())
        terms: dict[str, Tensor] = {}
        scores: Callable[[], Tensor]
        if wanted & OF_MIXTURE:
            components = components or gmm.components(labels, self.num_classes)
            mixture, members = self.mixture(features, labels, components)
            g = self._upsampled(mixture, labels, components)
            if "con" in wanted:
                terms["con"] = losses.contrast_pixels(mixture.d, members, components)
            if "con_old" in wanted:
                terms["con_old"] = losses.contrast_batch(mixture.means, components, "sum")
            scores = partial(components.to_classes, g)
        else:
            components, g = gmm.no_components(labels, self.num_classes), logits.detach()[:, :0]
            scores = partial(self._scores, features, labels)
        # `weak` is AGMM's `spar` with the negatives.
        names = {"spar" if name == "weak" else name for name in wanted}
        if self.seg == "bce" and "seg" in names:
            names.remove("seg")
            terms["seg"] = losses.binary_cross_entropy(logits, labels, counts)
        everywhere = self.self_classes == "all"
        form = losses.Form(1.0, "sum" if everywhere else "mean", negatives=True, everywhere=everywhere)
        terms |= losses.pixel_losses(names, logits, g, labels, image_classes, counts, components, form)
        terms = {name: terms["spar" if name == "weak" else name] for name in TERMS if name in wanted}
        return Output(self._weighted(terms, logits), terms, scores)

    def mixture(self, features: Tensor, labels: Tensor, components: gmm.Components) -> tuple[em.Mixture, Tensor]:
        """Return the mixture of a batch (Eq. 1 to 8) and the feature cells' components: one-hot (B, N, h, w)."""
        if self.stop_gradient:
            features = features.detach()
        check_layer("features", features, self.squeeze)
        squeezed = self.squeeze(features)
        how = self.estimator
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.oem):
            mixture = old = em.from_labels(squeezed, labels, components, how)
        if self.oem:
            members = em.assign(old, labels, components, self.assignment, self.keep_labels)
            mixture = em.reestimate(squeezed, old, members, components, how)
        whose = old if self.con_members == "old" else mixture
        return mixture, em.assign(whose, labels, components, "argmax", self.keep_labels or not self.oem)

    def other_scores(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return scores (B, K, H, W) of the labels' mixture, and of the mixture's means with one spread an image."""
        with torch.autocast(labels.device.type, enabled=False):
            features, components = full_precision(features), gmm.components(labels, self.num_classes)
            first = em.from_labels(self.squeeze(features), labels, components, self.estimator)
            last, _ = self.mixture(features, labels, components)
            mixtures = {"labels": first, "pooled": replace(last, variance=em.pool(last.variance, last.mass))}
            return {name: components.to_classes(self._upsampled(x, labels, components)) for name, x in mixtures.items()}

    def _upsampled(self, mixture: em.Mixture, labels: Tensor, components: gmm.Components) -> Tensor:
        """Scores at label resolution: (B, N, H, W)."""
        g = mixture.scores(components)
        return fast.upsample(g.detach() if self.stop_gradient else g, labels.shape[-2:], components.per_image)

    def _scores(self, features: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(labels.device.type, enabled=False):
            components = gmm.components(labels, self.num_classes)
            mixture, _ = self.mixture(features, labels, components)
            return components.to_classes(self._upsampled(mixture, labels, components))

    def _weighted(self, terms: dict[str, Tensor], like: Tensor) -> Tensor:
        """``seg + lambda_gmm (lambda_self self + lambda_weak weak + lambda_con con)`` (Eq. 15, Eq. 16)."""
        factors = {
            "self": self.lambda_self,
            "weak": self.lambda_weak,
            "con": self.lambda_con,
            "con_old": self.lambda_con,
        }
        loss = terms.get("seg", like.new_zeros((), dtype=torch.float32))
        mixture = sum((factors.get(name, 1.0) * term for name, term in terms.items() if name != "seg"), 0 * loss)
        return loss + self.lambda_gmm * mixture


def squeezed(channels: int) -> int:
    """Return C', the squeezed channels of features with ``channels`` channels (ours)."""
    return max(1, channels // (4 if channels <= 256 else 6))

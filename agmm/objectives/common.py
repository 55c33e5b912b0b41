"""What all objectives share: their input and its checks, their output, and what a run may ask of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, ClassVar

import torch
from torch import Tensor

from agmm import fast, gmm, losses
from agmm.objectives import checks


@dataclass
class Output:
    """Loss of one (micro)batch.

    Attributes
    ----------
    loss : Tensor ()
        To back-propagate.
    terms : dict of str to Tensor ()
        Exactly the requested terms, unweighted.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    _scores: Callable[[], Tensor] | None = field(default=None, repr=False)

    @cached_property
    def scores(self) -> Tensor:
        """Mixture scores G of all classes, (B, K, H, W); formed on access, as training itself never needs them."""
        if self._scores is None:
            raise AttributeError("this objective has no mixture, hence no scores")
        return self._scores()


@dataclass
class Batch:
    """One microbatch on its device.

    Attributes
    ----------
    images : Tensor (B, 3, H, W)
    labels : Tensor (B, H, W) int64
    image_classes : Tensor (B, K) bool
        Classes annotated anywhere in the uncropped images.
    counts : Counts or None
        Divisors of the losses' means where they extend over the effective batch.
    components : Components or None
        Those of the labels, where they were found ahead of time.
    regions : Tensor (B, H, W) int64 or None
        Over-segmentation of the images, where the objective needs one.
    step : int
        Number of the step in the whole training, from 0.
    """

    images: Tensor
    labels: Tensor
    image_classes: Tensor
    counts: losses.Counts | None
    components: gmm.Components | None = None
    regions: Tensor | None = None
    step: int = 0


class Objective:
    """What a run asks of its objective besides the loss, with the answers of one that needs nothing in particular.

    Attributes
    ----------
    needs : tuple of str
        Keyword arguments of a call beyond the tensors that every objective takes: fields of `Batch` (components,
        images, regions) and what the network computes on its way (grid_logits, inner_features).
    has_mixture : bool
        Whether outputs have scores.
    trains_classifier_only : bool
        Whether a run begins with the network of its teacher and trains nothing but a new classifier.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    has_mixture: ClassVar[bool] = False
    trains_classifier_only: ClassVar[bool] = False

    @property
    def revision(self) -> int:
        """Return how often a correction has changed what the objective computes: part of the identity of its runs."""
        return 0

    def begin_epoch(self) -> None:
        """Prepare for an epoch; called before each."""


def batch_loss(compute: Callable[..., Output]) -> Callable[..., Output]:
    """Make the call of an objective from a method that computes the loss of a batch.

    The method receives checked labels, no half precision, and the counts; it runs outside of autocast, because the
    losses lose too much in half precision.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
        Input of the network's classifier.
    logits : Tensor (B, K, H, W)
        Class scores before softmax, at label resolution.
    labels : Tensor (B, H, W), integers
        Sparse labels: 0 … K-1, ``UNLABELED`` or ``VOID``.
    image_classes : Tensor (B, K), bool or 0 and 1, optional
        Classes annotated anywhere in the uncropped image. They serve two purposes: all others are absent from the
        image, so that the absent-class loss pushes them down, and their probabilities P count as 0 in the spread of
        Eq. 5. By default those in ``labels``; where these are crops, a class that is labeled outside of the crop
        only would count as absent, so pass the whole image's.
    counts : Counts, optional
        Divisors of the means; those of this batch by default.
    **others
        What `Objective.needs` names.

    Returns
    -------
    Output

    Raises
    ------
    ValueError
        If the tensors do not belong together, naming the first one that does not fit; on a CPU also if a label is no
        known code, or if features or logits are no numbers (`NotFinite`).
    """

    @wraps(compute)
    def call(
        self: Any,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor | None = None,
        counts: losses.Counts | None = None,
        **others: Any,
    ) -> Output:
        checks.check_tensors(self.num_classes, features, logits, labels, image_classes)
        checks.check_others(logits, counts, others)
        labels, on_cpu = labels.long(), logits.device.type == "cpu"
        if on_cpu:
            checks.check_values(features.detach(), logits.detach(), image_classes)
        pixels = fast.census(labels, self.num_classes)
        image_classes = pixels[:, : self.num_classes] > 0 if image_classes is None else image_classes.bool()
        if on_cpu:
            checks.check_codes(labels, pixels, others.get("components"))
        with torch.autocast(logits.device.type, enabled=False):
            features, logits = full_precision(features), full_precision(logits)
            others = {name: full_precision(x) if isinstance(x, Tensor) else x for name, x in others.items()}
            counts = counts or losses.counts_of(pixels)
            return compute(self, features, logits, labels, image_classes, counts, **others)

    return call


def full_precision(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32 and any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value that is not among the allowed ones; the error names them."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; known: {', '.join(map(str, allowed))}")

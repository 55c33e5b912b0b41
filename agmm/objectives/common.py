"""What all objectives share: their output, the checks of their input, and the losses at label resolution."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from agmm import fast, gmm, losses
from agmm.codes import UNLABELED, VOID


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
    counts : Counts or None
        Divisors of the losses' means where they extend over the effective batch.
    parts : Components or None
        Of the labels, where they were found ahead of time.
    regions : Tensor (B, H, W) int64 or None
        Over-segmentation of the images, where the objective needs one.
    step : int
        Of the whole training, from 0.
    """

    images: Tensor
    labels: Tensor
    image_classes: Tensor
    counts: losses.Counts | None
    parts: gmm.Components | None = None
    regions: Tensor | None = None
    step: int = 0


@dataclass(frozen=True)
class TermWeights:
    """How much the components of a batch count at a pixel.

    Attributes
    ----------
    classes : Tensor (B, N) int64
        Class of each slot.
    self_weight, label_weight : Tensor (B, N)
        In the self-supervision, and in the supervision of the scores by the labels.
    negatives : bool
        Whether a labeled pixel pushes down the scores of all other components.
    """

    classes: Tensor
    self_weight: Tensor
    label_weight: Tensor
    negatives: bool


def no_components(labels: Tensor, dtype: torch.dtype) -> TermWeights:
    """Of an objective without a mixture."""
    nothing = torch.zeros(len(labels), 0, dtype=dtype, device=labels.device)
    return TermWeights(nothing.long(), nothing, nothing, False)


def pixel_terms(
    logits: Tensor,
    g: Tensor,
    labels: Tensor,
    image_classes: Tensor,
    counts: losses.Counts,
    names: Set[str],
    weights: TermWeights,
) -> dict[str, Tensor]:
    """Those terms that are sums over the pixels of the labels, in one pass.

    Parameters
    ----------
    logits : Tensor (B, K, H, W)
    g : Tensor (B, N, H, W)
        Mixture scores of the components.
    labels, image_classes, counts
        See `agmm.objectives.AGMM.__call__`.
    names : set of str
        Which of seg, self, spar (the supervision by the labels) and absent are wanted; 0 for the others.
    weights : TermWeights
    """
    if not {"self", "spar", "absent"} & names:
        return {"seg": losses.partial_cross_entropy(full_precision(logits), labels, counts)} if "seg" in names else {}
    given = fast.Supervision(
        labels=labels.flatten(1),
        classes=weights.classes,
        self_weight=weights.self_weight,
        spar_weight=weights.label_weight,
        negatives=weights.negatives,
        absent=~image_classes if "absent" in names else None,
        seg="seg" in names,
        eps=gmm.EPS,
    )
    if not {"seg", "self", "absent"} & names:
        logits = logits.detach()  # which leaves them without a gradient rather than with one of zeros
    seg, self_, spar, absent = fast.segmentation_terms(logits, g, given)
    return {
        "seg": seg / counts.labeled,
        "self": self_ / counts.valid,
        "spar": spar / counts.labeled,
        "absent": absent / counts.valid,
    }


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse label codes other than 0 … K-1, 254 and 255; CPU tensors only, as a look at a GPU's would stall it."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    if fast.census(labels, num_classes)[:, -1].any():
        wrong = (labels < 0) | ((labels >= num_classes) & (labels < UNLABELED)) | (labels > VOID)
        code = int(labels[wrong][0])
        raise ValueError(
            f"label code {code} is neither a class (0 … {num_classes - 1}), UNLABELED ({UNLABELED}) nor VOID ({VOID}); "
            "translate the label files' codes when reading them"
        )


def full_precision(x: Tensor) -> Tensor:
    """Float32 of a half-precision tensor; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse what is not among the known values."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; known: {', '.join(map(str, allowed))}")

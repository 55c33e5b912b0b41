"""What the objectives refuse: tensors that do not belong together, and values that no loss can be computed from.

Shapes, types and devices are compared everywhere. Values are looked at on a CPU only: on a GPU that would wait for it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from agmm import gmm, losses
from agmm.codes import UNLABELED, VOID

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
OTHERS = "are those of other labels; leave them out, or find them by agmm.gmm.components"


class NotFinite(ValueError):
    """Features or logits hold NaN or infinity, as they do where a training diverges."""


def check_tensors(num_classes: int, features: Any, logits: Any, labels: Any, image_classes: Any) -> None:
    """Raise ValueError unless the tensors of `batch_loss` are of one batch of ``num_classes``, and on one device."""
    if not 1 <= num_classes <= UNLABELED:
        raise ValueError(f"num_classes is {num_classes}; label codes leave room for 1 to {UNLABELED} classes")
    _expect("logits", logits, (None, num_classes, None, None), FLOATS, f"as num_classes is {num_classes}")
    batch, _, *size = logits.shape
    _expect("features", features, (batch, None, None, None), FLOATS, _as(logits), logits)
    remedy = f"{_as(logits)}: interpolate logits to the size of the labels"
    _expect("labels", labels, (batch, *size), INTEGERS, remedy, logits)
    if image_classes is not None:
        _expect(
            "image_classes", image_classes, (batch, num_classes), (torch.bool, *INTEGERS, *FLOATS), _as(logits), logits
        )
    if (features.dtype == torch.float64) != (logits.dtype == torch.float64):
        raise ValueError(f"features are {features.dtype}, but logits {logits.dtype}; convert one of them")


def check_others(logits: Tensor, counts: Any, others: dict[str, Any]) -> None:
    """Raise ValueError unless what an objective takes besides the tensors that all take is of the same batch."""
    batch, num_classes, *size = logits.shape
    shapes = {"images": (batch, 3, *size), "grid_logits": (batch, num_classes, None, None)}
    shapes |= {"inner_features": (batch, None, None, None), "regions": (batch, *size)}
    for name in shapes.keys() & others.keys():
        _expect(name, others[name], shapes[name], INTEGERS if name == "regions" else FLOATS, _as(logits), logits)
    if not isinstance(counts, losses.Counts | None):
        raise ValueError(f"counts is {type(counts).__name__}; it must be agmm.losses.Counts")
    components = others.get("components")
    if not isinstance(components, gmm.Components | None):
        raise ValueError(f"components is {type(components).__name__}; it must be made by agmm.gmm.components")
    if components is not None:
        slots = len(components.per_image), max(components.per_image, default=0) or 1
        shaped = all((x.shape, x.device) == (slots, logits.device) for x in components.tensors)
        if not shaped or (slots[0], components.num_classes) != (batch, num_classes):
            raise ValueError(f"components {OTHERS}")


def check_values(features: Tensor, logits: Tensor, image_classes: Tensor | None) -> None:
    """Raise ValueError for image classes other than 0 and 1, `NotFinite` for features and logits that are no numbers.

    A logit may be minus infinity: its class is excluded.
    """
    if image_classes is not None and not ((image_classes == 0) | (image_classes == 1)).all():
        raise ValueError("image_classes hold numbers besides 0 and 1; they must say of each class whether it is there")
    # A sum reads every value once, and is a number if all of them are.
    if not features.sum().isfinite() and not features.isfinite().all():
        raise NotFinite("features hold NaN or infinity")
    if not logits.sum().isfinite() and not (logits < torch.inf).all():
        raise NotFinite("logits hold NaN or infinity")


def check_codes(labels: Tensor, pixels: Tensor, components: gmm.Components | None) -> None:
    """Raise ValueError for unknown label codes, and for components that are not those of the labels.

    ``pixels`` (B, K + 3) are those of each code, see `agmm.fast.census`.
    """
    num_classes = pixels.shape[1] - 3
    if pixels[:, -1].any():
        wrong = (labels < 0) | ((labels >= num_classes) & (labels < UNLABELED)) | (labels > VOID)
        code = int(labels[wrong][0])
        raise ValueError(
            f"label code {code} is neither a class (0 … {num_classes - 1}), UNLABELED ({UNLABELED}) nor VOID ({VOID}); "
            "translate the label files' codes when reading them"
        )
    if components is not None:
        found = gmm.components_of(pixels)
        if not all(map(torch.equal, components.tensors, found.tensors)):
            raise ValueError(f"components {OTHERS}")


def check_layer(name: str, x: Tensor, layer: nn.Module) -> None:
    """Raise ValueError unless a layer of an objective can be applied to maps (B, C, h, w)."""
    weight = layer.get_parameter("weight")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{name} is {_text(x)}; it must have {weight.shape[1]} channels, the objective's in_channels")
    if (x.dtype, x.device) != (weight.dtype, weight.device):
        raise ValueError(f"{name} is {_text(x)}, but the objective's layer {_text(weight)}; move one of them by to()")


def _expect(
    name: str,
    x: Any,
    shape: tuple[int | None, ...],
    types: tuple[torch.dtype, ...],
    reason: str,
    like: Tensor | None = None,
) -> None:
    """Raise ValueError unless a tensor has a shape (None: any size but 0), one of the types and another's device."""
    fits = isinstance(x, Tensor) and x.layout == torch.strided and x.dtype in types and x.ndim == len(shape)
    fits = fits and all(n > 0 and n == (size or n) for n, size in zip(x.shape, shape, strict=True))
    if not fits or (like is not None and x.device != like.device):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        kind = {FLOATS: "floating-point numbers", INTEGERS: "integers"}.get(types, "bool or 0 and 1")
        raise ValueError(f"{name} is {_text(x)}; it must be ({sizes}), {kind}, {reason}")


def _as(logits: Tensor) -> str:
    return f"as logits is {_text(logits)}"


def _text(x: Any) -> str:
    """Say what an argument is."""
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__}, no tensor"
    kind = str(x.dtype).removeprefix("torch.")
    return f"{tuple(x.shape)}, {kind} on {x.device}{'' if x.layout == torch.strided else f' ({x.layout})'}"

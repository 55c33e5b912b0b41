"""Methods by name: AGMM's own objectives and its rivals, and a user's by the module that it is in."""

import hashlib
import importlib
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from agmm.objectives import AGMM, AGMMpp, Baseline, LabelAssignment, Objective, one_of
from agmm.rivals.crf_loss import DenseCRFLoss
from agmm.rivals.spml import SPML, SPMLClassifier
from agmm.rivals.toco import FromTags
from agmm.rivals.tree_energy import TreeEnergy

METHODS = {
    one.__name__: one
    for one in (Baseline, AGMM, LabelAssignment, AGMMpp, TreeEnergy, DenseCRFLoss, SPML, SPMLClassifier)
}
OnLabels = Baseline | AGMM | AGMMpp | LabelAssignment | TreeEnergy | DenseCRFLoss | SPML | SPMLClassifier
Trained = OnLabels | FromTags
"""Objectives on a run's labels, or on pseudo labels from image tags."""

FROM_DATA = ("num_classes", "in_channels")
"""Fields of objectives that data set and network decide, not a run."""


def build(method: str, num_classes: int, **options: Any) -> OnLabels:
    """Return an objective by name; unknown names and options are refused with the list of known ones.

    A user's objective is ``"module:Name"``: a data class in an importable module, whose first field is ``num_classes``
    and whose other fields are its options. It is called as `agmm.objectives.AGMM` is and returns an
    `agmm.objectives.Output`; what it needs besides it says as an `agmm.objectives.Objective` does.
    """
    if is_own(method):
        kind = _own(method)
        if not issubclass(kind, Objective):
            # Whatever it does not say about itself is as in an objective that needs nothing in particular.
            kind = type(kind.__name__, (kind, Objective), {})
    else:
        one_of("method", method, tuple(METHODS))
        kind = METHODS[method]
    known = tuple(f.name for f in fields(kind) if f.name not in FROM_DATA)
    for name in options:
        one_of(f"option of {method}", name, known)
    return kind(num_classes, **options)


def is_own(method: str) -> bool:
    """Return whether a method is a user's."""
    return ":" in method


def source(method: str) -> str:
    """Return ten hexadecimal digits of the file that a user's method is in: part of the identity of its runs."""
    file = inspect.getsourcefile(_own(method))
    assert file is not None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:10]


def _own(method: str) -> Any:
    """Return the data class of a user's method."""
    module, _, name = method.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "write module:Name and start where the module can be found, or put its folder on PYTHONPATH"
        raise ValueError(f"the method {method!r} cannot be imported ({error}); {remedy}") from error
    if not isinstance(kind, type) or not is_dataclass(kind) or "num_classes" not in {f.name for f in fields(kind)}:
        problem = "is no data class with a field num_classes"
        raise ValueError(f"the method {method!r} {problem}; see agmm.objectives.Baseline")
    return kind

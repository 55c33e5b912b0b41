"""Methods by name: AGMM's own objectives and its rivals."""

from dataclasses import fields
from typing import Any

from agmm.objectives import AGMM, AGMMpp, Baseline, LabelAssignment, one_of
from agmm.rivals.densecrf import DenseCRFLoss
from agmm.rivals.spml import SPML, SPMLClassifier
from agmm.rivals.toco import FromTags
from agmm.rivals.tree_energy import TreeEnergy

METHODS = {
    one.__name__: one
    for one in (Baseline, AGMM, LabelAssignment, AGMMpp, TreeEnergy, DenseCRFLoss, SPML, SPMLClassifier)
}
Objective = Baseline | AGMM | AGMMpp | LabelAssignment | TreeEnergy | DenseCRFLoss | SPML | SPMLClassifier
Trained = Objective | FromTags
"""What a run trains: an objective on its labels, or one on pseudo labels from image tags."""

FROM_DATA = ("num_classes", "in_channels")
"""Fields of objectives that data set and network decide, not a run."""


def build(method: str, num_classes: int, **options: Any) -> Objective:
    """Objective by name; unknown names and options are refused with the list of known ones."""
    one_of("method", method, tuple(METHODS))
    known = tuple(f.name for f in fields(METHODS[method]) if f.name not in FROM_DATA)
    for name in options:
        one_of(f"option of {method}", name, known)
    return METHODS[method](num_classes, **options)

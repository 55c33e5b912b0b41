"""What one row of a table trains: combinations of the loss terms.

Each objective is called with ``(features, logits, labels, image_classes)`` and returns an `Output`. Those without
parameters are frozen data classes, so their fields describe them completely; `AGMMpp` has a layer of its own and is an
``nn.Module``.
"""

from agmm.objectives.agmm import AGMM, TERMS, Baseline, LabelAssignment, Variant
from agmm.objectives.agmmpp import AGMMpp
from agmm.objectives.checks import NotFinite
from agmm.objectives.common import Objective, Output, batch_loss, full_precision, one_of

"""How a network is tested: predictions from several views, their refinement, and the mean IoU."""

from agmm.evaluation.metrics import best_class, confusion_matrix, iou, mean_iou
from agmm.evaluation.predict import (
    IMAGENET,
    Normalization,
    Protocol,
    denormalize,
    evaluate,
    normalize,
    predictor,
    pseudo_labels,
    refine,
    to_input,
)
from agmm.evaluation.views import (
    PIXELS,
    SCALES,
    Merge,
    center_crop,
    in_square,
    multi_scale,
    sliding_window,
    tile_positions,
)

__all__ = [
    "IMAGENET",
    "Merge",
    "Normalization",
    "PIXELS",
    "Protocol",
    "SCALES",
    "best_class",
    "center_crop",
    "confusion_matrix",
    "denormalize",
    "evaluate",
    "in_square",
    "iou",
    "mean_iou",
    "multi_scale",
    "normalize",
    "predictor",
    "pseudo_labels",
    "refine",
    "sliding_window",
    "tile_positions",
    "to_input",
]

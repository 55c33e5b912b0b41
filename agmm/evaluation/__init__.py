"""How a network is tested: predictions from several views, their refinement, and the mean IoU."""

from agmm.evaluation.predict import (
    IMAGENET,
    Normalization,
    Protocol,
    best_class,
    confusion_matrix,
    denormalize,
    evaluate,
    iou,
    mean_iou,
    normalize,
    predictor,
    refine,
    to_input,
)
from agmm.evaluation.views import (
    PIXELS,
    SCALES,
    Merge,
    in_square,
    multi_scale,
    sliding_window,
    tile_positions,
)

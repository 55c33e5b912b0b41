"""Predictions close to the boundaries of the truth (SPML, Fig. 7; the measure is ours)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from agmm import evaluation
from agmm.figures.trained import Trained, outputs

REACH, SIDE = 5, 500
"""Pixels on either side of a boundary that are close to it, and the longer side of the images meant."""


def reach(size: tuple[int, ...]) -> float:
    """How far from a boundary a pixel of an image (H, W) is close to it: in proportion, at least one pixel."""
    return max(1.0, REACH * max(size) / SIDE)


def close_to_boundary(truth: np.ndarray, distance: float) -> np.ndarray:
    """Pixels (H, W) bool that have a pixel of another code at most ``distance`` away.

    The border of the image is no boundary. Pixels that are ``VOID`` do lie across one: in VOC they are the contours.
    """
    found = np.zeros(truth.shape, bool)
    for code in np.unique(truth):
        inside = truth == code
        if not inside.all():
            found |= inside & (ndimage.distance_transform_edt(inside) <= distance)
    return found


def boundary_quality(runs: Mapping[str, Trained], images: int = 1000) -> pd.DataFrame:
    """Mean IoU of test pixels close to a boundary of the truth, beside that of all; single scale, no DenseCRF.

    Returns
    -------
    DataFrame
        Columns method, boundary and all, both mIoU in per cent, and pixels, the share of pixels that are close.
    """
    rows = []
    for method, trained in runs.items():
        num_classes = trained.test.num_classes
        total = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        for part, _, logits in outputs(trained, trained.test, images):
            for mask, predicted in zip(trained.test.truth[part], evaluation.best_class(logits), strict=True):
                truth, close = torch.from_numpy(mask), torch.from_numpy(close_to_boundary(mask, reach(mask.shape)))
                total[0] += evaluation.confusion_matrix(predicted[close], truth[close], num_classes)
                total[1] += evaluation.confusion_matrix(predicted, truth, num_classes)
        near, everywhere = (evaluation.mean_iou(matrix) for matrix in total)
        share = total[0].sum().item() / total[1].sum().item()
        rows.append({"method": method, "boundary": near, "all": everywhere, "pixels": share})
    return pd.DataFrame(rows)

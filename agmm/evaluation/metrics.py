"""Confusion matrix and intersection over union."""

import torch
from torch import Tensor

COPIES = 64
"""Histograms among which a GPU's additions are spread: additions to one address wait for each other."""


def confusion_matrix(predictions: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true (rows) and predicted class (columns): (K, K) int64.

    Parameters
    ----------
    predictions : integer tensor
        Predicted classes, 0 … K-1 wherever the truth is a class.
    truth : integer tensor of the same shape
        True classes; pixels with any other code (``VOID``, ``UNLABELED``) are not counted.
    num_classes : int
        K.

    Raises
    ------
    ValueError
        The shapes differ; or, checked on the CPU only, a counted prediction is no class.
    """
    if predictions.shape != truth.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and truth {tuple(truth.shape)} differ in shape")
    predictions, truth = predictions.long(), truth.long()
    counted = (truth >= 0) & (truth < num_classes)
    if predictions.device.type == "cpu" and (counted & ((predictions < 0) | (predictions >= num_classes))).any():
        raise ValueError(f"predictions must lie in 0 … {num_classes - 1} wherever the truth is a class")
    cells = num_classes * num_classes
    cell = torch.where(counted, truth * num_classes + predictions, cells).flatten()
    if cell.device.type == "cpu":
        return torch.bincount(cell, minlength=cells + 1)[:cells].view(num_classes, num_classes)
    return _histogram(cell, cells + 1)[:cells].view(num_classes, num_classes)


def _histogram(values: Tensor, length: int) -> Tensor:
    """Counts of 0 … length-1. Unlike `torch.bincount` on a GPU, it does not wait to learn the largest value."""
    copy = torch.arange(len(values), device=values.device) % COPIES
    counts = values.new_zeros(COPIES * length)
    return counts.scatter_add_(0, copy * length + values, torch.ones_like(values)).view(COPIES, length).sum(0)


def best_class(maps: Tensor) -> Tensor:
    """Return the class (B, H, W) of the largest value of (B, K, H, W) maps, the first one of several.

    The same as `Tensor.argmax`, which on a CPU takes four to seven times as long over planes.
    """
    return maps.max(dim=1).indices


def iou(confusion: Tensor) -> Tensor:
    """Return the intersection over union (K,) of every class from counted pixels (K, K), in [0, 1], as float64.

    NaN for a class that is neither in the truth nor in the predictions.
    """
    confusion = confusion.double()
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(dim=0) + confusion.sum(dim=1) - intersection)


def mean_iou(confusion: Tensor) -> float:
    """Return the mean IoU in per cent over the classes that occur; NaN if none does."""
    return 100 * iou(confusion).nanmean().item()

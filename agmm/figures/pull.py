"""Where L_self pulls the segmentation of training images, and whether towards the truth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from agmm import gmm, objectives
from agmm.codes import UNLABELED
from agmm.figures.style import panels, require, save
from agmm.figures.trained import Trained, outputs, tensor, weak_labels

BORDERS = (10, 30, 90)  # pixels to the nearest label of an image where zones end
ZONES = tuple(f"{low} … {high}" for low, high in zip((0, *BORDERS), (*BORDERS, "∞"), strict=True))
TRUTHS = ("background", "object")
_COLUMNS = ["pixels", "P", "G", "score", "right", "all"]


def measure_pull(
    runs: Mapping[str, Trained], mixture: objectives.AGMM | objectives.AGMMpp, images: int = 40
) -> pd.DataFrame:
    """Measure what L_self does to unlabeled training pixels, zone by zone around the labels.

    The mixture of ``mixture`` is made of the features of each run as they are. What is measured is the change of log P
    of the pixel's true class by a small step against the gradient of L_self by the logits; the gradient through the
    features is left out. Pixels whose true class has no component in their image are left out, too.

    Columns are method, truth (`TRUTHS`), zone (`ZONES`), pixels, P and G (pixels whose best labeled class is right, in
    per cent), score (mean G of the true class), and right: the share, in per cent, of the sum of all changes in
    absolute value that goes towards the true class.
    """
    rows = []
    for method, trained in runs.items():
        sums = torch.zeros(len(TRUTHS), len(ZONES), len(_COLUMNS), dtype=torch.float64)
        for part, features, logits in outputs(trained, trained.data, images):
            labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
            present = gmm.components(labels, trained.data.num_classes).present
            values = torch.stack(
                _of_pixels(mixture, features, logits, labels, truth.clamp_max(present.shape[1] - 1)), -1
            )
            zones = torch.bucketize(_distance(labels), torch.tensor(BORDERS))
            known = torch.nn.functional.pad(present, (0, 256 - present.shape[1]))  # codes beyond the classes are not
            counted = (labels == UNLABELED) & known.gather(1, truth.flatten(1)).view_as(truth)
            cells = (truth > 0).long() * len(ZONES) + zones
            sums.view(-1, len(_COLUMNS)).index_add_(0, cells[counted], values[counted].double())
        for truth_name, of_truth in zip(TRUTHS, sums.tolist(), strict=True):
            for zone, (pixels, p, g, score, right, moved) in zip(ZONES, of_truth, strict=True):
                if pixels:
                    shares = (
                        100 * p / pixels,
                        100 * g / pixels,
                        score / pixels,
                        100 * right / moved if moved else np.nan,
                    )
                    rows.append([method, truth_name, zone, int(pixels), *shares])
    return pd.DataFrame(rows, columns=["method", "truth", "zone", *_COLUMNS[:-1]])


def _of_pixels(
    mixture: objectives.AGMM | objectives.AGMMpp, features: Tensor, logits: Tensor, labels: Tensor, truth: Tensor
) -> list[Tensor]:
    """Return `_COLUMNS` of every pixel (B, H, W): 1, whether P and G are right, G, rightful changes, all changes."""
    present = gmm.components(labels, logits.shape[1]).present[..., None, None]
    leaf = logits.detach().requires_grad_()
    output = mixture(features, leaf, labels)
    (gradient,) = torch.autograd.grad(output.terms["self"], leaf)
    with torch.no_grad():
        scores, p = output.scores, logits.softmax(1)
        # d log P_y = d z_y - sum_k P_k d z_k for a change d z = -gradient of the logits.
        change = (p * gradient).sum(1) - gradient.gather(1, truth[:, None])[:, 0]
        right = [maps.masked_fill(~present, -torch.inf).argmax(1) == truth for maps in (logits, scores)]
        score = scores.gather(1, truth[:, None])[:, 0]
    return [torch.ones_like(score), *(one.to(score.dtype) for one in right), score, change.clamp_min(0), change.abs()]


def _distance(labels: Tensor) -> Tensor:
    """Return the distance (B, H, W) of every pixel to the nearest label of its image."""
    return torch.from_numpy(np.stack([ndimage.distance_transform_edt(one >= UNLABELED) for one in labels.numpy()]))


def draw_pull(values: pd.DataFrame, stem: Path) -> Figure:
    """Draw `measure_pull`: what is right of P, of G and of the pull of L_self, by distance to the nearest label."""
    require(values, "pixels of training images")
    methods = values["method"].unique()
    figure, axes = panels(len(methods), len(TRUTHS), height=2.2, sharex=True, sharey=True)
    for row, method in zip(axes, methods, strict=True):
        for axis, truth in zip(row, TRUTHS, strict=True):
            part = values[(values["method"] == method) & (values["truth"] == truth)]
            bars = part.melt("zone", ["P", "G", "right"], "what", "percent").replace({"right": "pull of L_self"})
            sns.barplot(bars, x="zone", y="percent", hue="what", ax=axis, legend=axis is axes[0, 0])
            axis.axhline(50, color="0.5", lw=0.8, ls=":")
            axis.set(
                title=f"{method}, {truth}", xlabel="pixels to the nearest label", ylabel="right (%)", ylim=(0, 100)
            )
    return save(figure, values, stem)

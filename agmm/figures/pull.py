"""Where L_self pulls the segmentation of training images, and whether towards the truth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from agmm import gmm, objectives
from agmm.codes import UNLABELED
from agmm.figures.style import MARKERS, panels, require, save
from agmm.figures.trained import Trained, load, outputs, tensor, weak_labels
from agmm.training.run import Run

BORDERS = (10, 30, 90)  # pixels to the nearest label of an image where zones end
ZONES = (*(f"{low}–{high}" for low, high in zip((0, *BORDERS[:-1]), BORDERS, strict=True)), f"{BORDERS[-1]}+")
TRUTHS = ("background", "object")
_COLUMNS = ["pixels", "P", "G", "score", "right", "all"]


def pull_of_runs(
    runs: Mapping[str, Run], results: str | Path, data_root: str | Path | None, stem: Path
) -> pd.DataFrame:
    """Return `measure_pull` of complete runs; where weights or images are missing, what `draw_pull` has left, if any.

    A sentence that is printed says why nothing was measured.
    """
    if not runs:
        return pd.DataFrame()
    try:
        return measure_pull({name: load(run, results, data_root) for name, run in runs.items()})
    except (ValueError, FileNotFoundError) as error:
        left = stem.with_suffix(".csv")
        print(f"not measured: {error}" + (f"; the numbers are those of {left.name}" if left.is_file() else ""))
        return pd.read_csv(left) if left.is_file() else pd.DataFrame()


def measure_pull(runs: Mapping[str, Trained], images: int = 40) -> pd.DataFrame:
    """Measure what L_self of AGMM's released code does to unlabeled training pixels, zone by zone around the labels.

    The mixture is made of the features of each run as they are. What is measured is the change of log P of the pixel's
    true class by a small step against the gradient of L_self by the logits; the gradient through the features is left
    out. Pixels whose true class has no component in their image are left out, too.

    Columns are method, truth (`TRUTHS`), zone (`ZONES`), pixels, P and G (pixels whose best labeled class is right, in
    per cent), score (mean G of the true class), and right: the share, in per cent, of the sum of all changes in
    absolute value that goes towards the true class.
    """
    parts = []
    for method, trained in runs.items():
        mixture = objectives.AGMM(trained.data.num_classes, terms=("seg", "self"))
        sums = torch.zeros(len(TRUTHS) * len(ZONES), len(_COLUMNS), dtype=torch.float64)
        for part, features, logits in outputs(trained, trained.data, images):
            labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
            present = gmm.components(labels, trained.data.num_classes).present
            last = present.shape[1]
            # Void counts as a class that no image has.
            has_component = F.pad(present, (0, 1)).gather(1, truth.clamp_max(last).flatten(1)).view_as(truth)
            counted = (labels == UNLABELED) & has_component
            cells = (truth > 0) * len(ZONES) + torch.bucketize(_distance(labels), torch.tensor(BORDERS))
            of_pixels = torch.stack(_of_pixels(mixture, features, logits, labels, truth.clamp_max(last - 1)), -1)
            sums.index_add_(0, cells[counted], of_pixels[counted].double())
        place = {"method": method, "truth": np.repeat(TRUTHS, len(ZONES)), "zone": np.tile(ZONES, len(TRUTHS))}
        parts.append(pd.DataFrame(place).join(pd.DataFrame(sums.numpy(), columns=_COLUMNS)))
    values = pd.concat(parts, ignore_index=True).query("pixels > 0")
    values[["P", "G", "score"]] = values[["P", "G", "score"]].div(values["pixels"], axis=0)
    values["right"] /= values["all"]
    values[["P", "G", "right"]] *= 100
    return values.drop(columns="all").astype({"pixels": int}).reset_index(drop=True)


def _of_pixels(
    mixture: objectives.AGMM, features: Tensor, logits: Tensor, labels: Tensor, truth: Tensor
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
    """Draw `measure_pull` by distance to the nearest label: P, G and the pull of L_self, a line per method."""
    require(values, "pixels of training images")
    titles = {"P": "P right (%)", "G": "G right (%)", "right": "pull of L_self right (%)"}
    figure, axes = panels(len(TRUTHS), len(titles), height=4.4, sharex=True, sharey="row")
    for row, truth in zip(axes, TRUTHS, strict=True):
        for axis, (quantity, title) in zip(row, titles.items(), strict=True):
            for number, (method, part) in enumerate(values[values["truth"] == truth].groupby("method", sort=False)):
                axis.plot(part["zone"], part[quantity], color=f"C{number}", marker=MARKERS[number], ms=4, label=method)
            axis.axhline(50, color="0.7", lw=0.8, zorder=0)
            axis.set_title(title if truth == TRUTHS[0] else "")
    for axis, truth in zip(axes[:, 0], TRUTHS, strict=True):
        axis.set_ylabel(truth)
    for axis in axes[-1]:
        axis.set_xlabel("pixels to the nearest click")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    return save(figure, values, stem)

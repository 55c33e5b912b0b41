"""Pixels by their distance to labeled ones or to a boundary, and labels measured against the truth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from agmm import em, evaluation, fast, gmm, objectives
from agmm.codes import UNLABELED, VOID
from agmm.data.split import Arrays, Split
from agmm.figures.style import panels, require, save
from agmm.figures.trained import Trained, mixture_of, outputs, tensor, weak_labels
from agmm.training import pseudo_labels, train
from agmm.training.result import load_history
from agmm.training.run import Run
from agmm.training.where import at

SUBSETS = ("similar", "all", "dissimilar")

REACH, SIDE = 5, 500  # pixels beside a boundary that are close to it, in images whose longer side has so many

Pixels = tuple[gmm.Components, Tensor, Tensor, Tensor, Tensor]
"""Components of a batch and masks (B, N, H, W) bool of the pixels, one per component: those that are measured, those
closer than its spread, those that are right, and those that count for it."""


def measure_similarity(runs: Mapping[str, Trained], images: int = 200) -> pd.DataFrame:
    """Measure the IoU of unlabeled training pixels by their feature distance to the labeled ones (AGMM, Fig. 2b).

    The IoU of class k is taken over the unlabeled pixels of the images with a label of k, over those closer than one
    spread (``d_k < sigma_k``, Eq. 5 and 6), and over those farther away. Distance and spread are always those of
    class k itself, for predicted, missed and wrong pixels alike; the paper does not say whose it takes.

    Columns are method, class, subset (`SUBSETS`), iou in per cent (missing where a subset is empty), pixels.
    """
    return _by_distance(runs, lambda trained: _unlabeled_pixels(trained, images), "iou")


def _unlabeled_pixels(trained: Trained, images: int) -> Iterator[Pixels]:
    for part, features, logits in outputs(trained, trained.data, images):
        labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
        image_classes = gmm.components(labels, trained.data.num_classes).present
        assignment = objectives.LabelAssignment(trained.data.num_classes)
        components, d, sigma = assignment.distances(features, logits, labels, image_classes)
        codes, filled = components.classes[..., None, None], components.filled[..., None, None]
        unlabeled = ((labels == UNLABELED) & (truth != VOID)).unsqueeze(1) & filled
        predicted, true = logits.argmax(1, keepdim=True) == codes, truth.unsqueeze(1) == codes
        yield components, unlabeled, d < sigma[..., None, None], predicted & true, predicted | true


def measure_label_accuracy(runs: Mapping[str, Trained], images: int = 200) -> pd.DataFrame:
    """Measure the accuracy of pseudo labels by the distance of their pixels to their class (AGMM++, Fig. 2c).

    The pseudo labels are those that form the mixture of AGMM++: from CAMs for image tags, seeds for boxes. Distance
    and spread are those of the class that a pixel is labeled with, in the mixture of these labels (Eq. 1 to 3), before
    online EM; distances are upsampled to the labels as scores are. The paper names neither the labels nor the measure.

    Columns are method, class, subset (`SUBSETS`), accuracy in per cent (missing where a subset is empty), pixels.
    """
    return _by_distance(runs, lambda trained: _labeled_pixels(trained, images), "accuracy")


@torch.no_grad()
def _labeled_pixels(trained: Trained, images: int) -> Iterator[Pixels]:
    objective = mixture_of(trained)
    if not isinstance(objective, objectives.AGMMpp):
        raise ValueError(f"{trained.run.method} has no mixture of its labels alone; choose a run of AGMMpp")
    for part, features, _ in outputs(trained, trained.data, images):
        labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
        components = gmm.components(labels, trained.data.num_classes)
        squeezed = objective.squeeze(features.to(trained.device)).cpu()
        mixture = em.from_labels(squeezed, labels, components, objective.estimator)
        d = fast.upsample(mixture.d, labels.shape[-2:], components.per_image)
        codes, filled = components.classes[..., None, None], components.filled[..., None, None]
        labeled = (labels.unsqueeze(1) == codes) & filled & (truth != VOID).unsqueeze(1)
        close = d < mixture.variance.sqrt()[..., None, None]
        yield components, labeled, close, truth.unsqueeze(1) == codes, labeled


def _by_distance(
    runs: Mapping[str, Trained], batches: Callable[[Trained], Iterator[Pixels]], quantity: str
) -> pd.DataFrame:
    """Return the right pixels in per cent of those that count, by method, class and subset, with the subset's size."""
    rows = []
    for method, trained in runs.items():
        names = trained.data.class_names
        counts = torch.zeros(len(names), len(SUBSETS), 3, dtype=torch.int64)
        for components, chosen, close, right, union in batches(trained):
            for column, subset in enumerate((chosen & close, chosen, chosen & ~close)):
                sums = torch.stack([(subset & one).sum((2, 3)) for one in (right, union, subset)], -1)
                counts[:, column].index_add_(0, components.classes.flatten(), sums.flatten(0, 1))
        for name, of_class in zip(names, counts.tolist(), strict=True):
            for label, (hit, total, pixels) in zip(SUBSETS, of_class, strict=True):
                rows.append([method, name, label, 100 * hit / total if total else np.nan, pixels])
    return pd.DataFrame(rows, columns=["method", "class", "subset", quantity, "pixels"])


def draw_similarity(values: pd.DataFrame, stem: Path, quantity: str = "iou") -> Figure:
    """Draw `measure_similarity`, or `measure_label_accuracy` with the quantity "accuracy": a panel per method."""
    methods, names = values.groupby("method", sort=False), values["class"].unique()
    figure, axes = panels(1, len(methods), height=2.4, sharey=True)
    for axis, (method, part) in zip(axes[0], methods, strict=True):
        panel, places = part.pivot(index="class", columns="subset", values=quantity).loc[names], np.arange(len(names))
        for side, color, subset, label in ((-0.5, "C0", "similar", "d < σ"), (0.5, "C1", "dissimilar", "d > σ")):
            axis.bar(places + side * 0.38, panel[subset], 0.38, color=color, alpha=0.8, label=label)
        axis.plot(places, panel["all"], "o-", color="0.2", ms=3, lw=1, label="all")
        axis.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        # Classes without pixels have neither bars nor a dot that would make room for them.
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(method)
    axes[0, 0].set_ylabel({"iou": "IoU (%)", "accuracy": "accuracy (%)"}[quantity])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return save(figure, values, stem)


def measure_label_quality(
    runs: Mapping[str, Sequence[Run]], results: str | Path, data_root: str | Path | None = None
) -> pd.DataFrame:
    """Measure weak labels and what training makes of them by mIoU on training images (AGMM++, Fig. 9).

    On the training images of the complete runs' curves, a run per seed, at the last epoch. In the labels a pixel
    without a label counts as missed; image tags are measured by their CAMs with a threshold for the background.

    Columns are row, labels (``"weak labels"``, ``"mixture G"``, ``"segmentation P"``), seed, miou in per cent.
    """
    rows = []
    for name, seeds in runs.items():
        for run in seeds:
            last = load_history(run, results).iloc[-1]
            if "cam_miou" in last:
                weak = last["cam_miou"]
            else:
                context = pseudo_labels.prepare(run, at(results, data_root), train.choose_device("auto"))
                weak = partial_miou(context.sparse[: run.history_images], context.data)
            values = {"weak labels": weak, "mixture G": last["g_miou"], "segmentation P": last["p_miou"]}
            rows += [[name, labels, run.seed, float(miou)] for labels, miou in values.items()]
    return pd.DataFrame(rows, columns=["row", "labels", "seed", "miou"])


def partial_miou(sparse: Arrays, data: Split) -> float:
    """Return the mIoU in per cent of partial labels of the first images; no label is a prediction of no class."""
    num_classes = data.num_classes
    total = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    for label, truth in zip(sparse, data.truth, strict=False):
        predicted = torch.from_numpy(np.minimum(label, num_classes))
        total += evaluation.confusion_matrix(predicted, torch.from_numpy(np.array(truth)), num_classes + 1)
    return 100 * evaluation.iou(total)[:num_classes].nanmean().item()


def draw_label_quality(values: pd.DataFrame, stem: Path) -> Figure:
    """Draw `measure_label_quality` (AGMM++, Fig. 9): bars are means, dots single seeds."""
    require(values, "pseudo labels")
    figure, axes = panels(height=2.4)
    axis = axes[0, 0]
    common: dict[str, Any] = {"data": values, "x": "row", "y": "miou", "hue": "labels", "ax": axis}
    sns.barplot(**common, legend=True, errorbar="sd", alpha=0.7, err_kws={"lw": 0.9, "color": "0.2"})
    gray = ["0.2"] * values["labels"].nunique()
    sns.stripplot(**common, legend=False, palette=gray, size=3, jitter=False, dodge=True)
    axis.set(xlabel="", ylabel="mIoU on training images (%)")
    sns.move_legend(axis, "upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, title="", frameon=False)
    return save(figure, values, stem)


def reach(size: tuple[int, ...]) -> float:
    """Return how far from a boundary a pixel of an image (H, W) is close to it: in proportion, at least one pixel."""
    return max(1.0, REACH * max(size) / SIDE)


def close_to_boundary(truth: np.ndarray, distance: float) -> np.ndarray:
    """Return the pixels (H, W) bool that have a pixel of another code at most ``distance`` away.

    The border of the image is no boundary. Pixels that are ``VOID`` do lie across one: in VOC they are the contours.
    """
    close = np.zeros(truth.shape, bool)
    for code in np.unique(truth):
        inside = truth == code
        if not inside.all():
            close |= inside & (ndimage.distance_transform_edt(inside) <= distance)
    return close


def measure_boundaries(runs: Mapping[str, Trained], images: int = 1000) -> pd.DataFrame:
    """Measure the mIoU of test pixels close to a boundary of the truth (SPML, Fig. 7; the measure is ours).

    Predictions are from a single scale, without DenseCRF. Columns are method, boundary and all, both mIoU in per cent,
    and pixels, the share of pixels that are close.
    """
    rows = []
    for method, trained in runs.items():
        num_classes = trained.test.num_classes
        near, everywhere = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        for part, _, logits in outputs(trained, trained.test, images):
            for mask, predicted in zip(trained.test.truth[part], evaluation.best_class(logits), strict=True):
                truth, close = torch.from_numpy(mask), torch.from_numpy(close_to_boundary(mask, reach(mask.shape)))
                near += evaluation.confusion_matrix(predicted[close], truth[close], num_classes)
                everywhere += evaluation.confusion_matrix(predicted, truth, num_classes)
        mious = {"boundary": evaluation.mean_iou(near), "all": evaluation.mean_iou(everywhere)}
        rows.append({"method": method, **mious, "pixels": near.sum().item() / everywhere.sum().item()})
    return pd.DataFrame(rows)

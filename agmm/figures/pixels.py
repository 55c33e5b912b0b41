"""Training pixels by their distance to labeled ones, and labels measured against the truth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from agmm import em, evaluation, fast, gmm, objectives
from agmm.codes import UNLABELED, VOID
from agmm.data.split import Arrays, Split
from agmm.figures.trained import Trained, load_training_data, mixture_of, outputs, tensor, weak_labels
from agmm.training.run import Run, load_history

SUBSETS = ("similar", "all", "dissimilar")


def similarity(runs: Mapping[str, Trained], images: int = 200) -> pd.DataFrame:
    """IoU of unlabeled training pixels by their feature distance to the labeled ones (AGMM, Fig. 2b).

    The IoU of class k is taken over the unlabeled pixels of the images with a label of k, over those closer than one
    spread (``d_k < sigma_k``, Eq. 5 and 6), and over those farther away. Distance and spread are always those of
    class k itself, for predicted, missed and wrong pixels alike; the paper does not say whose it takes.

    Returns
    -------
    DataFrame
        Columns method, class, subset (`SUBSETS`), iou in per cent (missing where a subset is empty), pixels.
    """
    rows = []
    for method, trained in runs.items():
        counts = torch.stack(list(_similarity_counts(trained, images))).sum(0)
        for k, name in enumerate(trained.data.class_names):
            for subset, (hits, union, pixels) in zip(SUBSETS, counts[k].tolist(), strict=True):
                iou = 100 * hits / union if union else np.nan
                rows.append({"method": method, "class": name, "subset": subset, "iou": iou, "pixels": int(pixels)})
    return pd.DataFrame(rows)


def _similarity_counts(trained: Trained, images: int) -> Iterator[Tensor]:
    """Intersection, union and size of each class and subset: (K, 3, 3) per batch."""
    num_classes = trained.data.num_classes
    for part, features, logits in outputs(trained, trained.data, images):
        labels = weak_labels(trained, part)
        truth = tensor(trained.data.truth[part]).long()
        parts, d, sigma = objectives.LabelAssignment(num_classes).distances(
            features, logits, labels, gmm.components(labels, num_classes).present
        )
        free = ((labels == UNLABELED) & (truth != VOID)).unsqueeze(1) & parts.filled[..., None, None]
        close = d < sigma[..., None, None]
        codes = parts.classes[..., None, None]
        predicted, true = logits.argmax(1, keepdim=True) == codes, truth.unsqueeze(1) == codes
        totals = torch.zeros(num_classes, 3, 3, dtype=torch.int64)
        for column, subset in enumerate((free & close, free, free & ~close)):
            sums = [(subset & chosen).sum((2, 3)) for chosen in (predicted & true, predicted | true, subset)]
            totals[:, column].index_add_(0, parts.classes.flatten(), torch.stack(sums, -1).flatten(0, 1))
        yield totals


def label_accuracy(runs: Mapping[str, Trained], images: int = 200) -> pd.DataFrame:
    """Accuracy of pseudo labels by the distance of their pixels to their class (AGMM++, Fig. 2c).

    The pseudo labels are those that form the mixture: from CAMs for image tags, seeds for boxes. Distance and spread
    are those of the class that a pixel is labeled with, in the mixture of these labels (Eq. 1 to 3), before online EM;
    distances are upsampled to the labels as scores are. The paper names neither the labels nor the measure.

    Parameters
    ----------
    runs : mapping of str to Trained
        Of AGMM++.
    images : int
        First training images that are seen.

    Returns
    -------
    DataFrame
        Columns method, class, subset (`SUBSETS`), accuracy in per cent (missing where a subset is empty), pixels.
    """
    rows = []
    for method, trained in runs.items():
        counts = torch.stack(list(_accuracy_counts(trained, images))).sum(0)
        for k, name in enumerate(trained.data.class_names):
            for subset, (right, pixels) in zip(SUBSETS, counts[k].tolist(), strict=True):
                accuracy = 100 * right / pixels if pixels else np.nan
                found = {"method": method, "class": name, "subset": subset}
                rows.append(found | {"accuracy": accuracy, "pixels": int(pixels)})
    return pd.DataFrame(rows)


@torch.no_grad()
def _accuracy_counts(trained: Trained, images: int) -> Iterator[Tensor]:
    """Correct and all pseudo-labeled pixels of each class and subset: (K, 3, 2) per batch."""
    num_classes, objective = trained.data.num_classes, mixture_of(trained)
    if not isinstance(objective, objectives.AGMMpp):
        raise ValueError(f"{trained.run.method} has no mixture of its labels alone; choose a run of AGMMpp")
    for part, features, _ in outputs(trained, trained.data, images):
        labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
        parts = gmm.components(labels, num_classes)
        squeezed = objective.squeeze(features.to(trained.device)).cpu()
        mixture = em.from_labels(squeezed, labels, parts, objective.sigma_min, objective.distance)
        d = fast.upsample(mixture.d, labels.shape[-2:], parts.per_image)
        codes = parts.classes[..., None, None]
        own = (labels.unsqueeze(1) == codes) & parts.filled[..., None, None] & (truth != VOID).unsqueeze(1)
        close = d < mixture.variance.sqrt()[..., None, None]
        totals = torch.zeros(num_classes, 3, 2, dtype=torch.int64)
        for column, subset in enumerate((own & close, own, own & ~close)):
            sums = [chosen.sum((2, 3)) for chosen in (subset & (truth.unsqueeze(1) == codes), subset)]
            totals[:, column].index_add_(0, parts.classes.flatten(), torch.stack(sums, -1).flatten(0, 1))
        yield totals


def label_quality(
    runs: Mapping[str, Sequence[Run]], results: str | Path, data_root: str | Path | None = None
) -> pd.DataFrame:
    """Quality of weak labels and of what training makes of them, on training images (AGMM++, Fig. 9).

    mIoU on the training images of the runs' curves, at the last epoch. The labels' own: a pixel that is not labeled
    counts as missed; from image tags, the CAMs with a threshold for the background, as elsewhere.

    Parameters
    ----------
    runs : mapping of str to sequence of Run
        Complete runs by name, a run per seed.
    results : path
    data_root : path, optional

    Returns
    -------
    DataFrame
        Columns row, labels (``"weak labels"``, ``"mixture G"``, ``"segmentation P"``), seed, miou in per cent.
    """
    rows = []
    for name, seeds in runs.items():
        for run in seeds:
            last = load_history(run, results).iloc[-1]
            weak = last["cam_miou"] if "cam_miou" in last else _labels_miou(run, results, data_root)
            found = {"weak labels": weak, "mixture G": last["g_miou"], "segmentation P": last["p_miou"]}
            rows += [[name, labels, run.seed, float(miou)] for labels, miou in found.items()]
    return pd.DataFrame(rows, columns=["row", "labels", "seed", "miou"])


def _labels_miou(run: Run, results: str | Path, data_root: str | Path | None) -> float:
    data, sparse = load_training_data(run, results, data_root)
    return partial_miou(sparse[: run.history_images], data)


def partial_miou(sparse: Arrays, data: Split) -> float:
    """mIoU of partial labels of the first images in per cent; a pixel without a label is predicted as no class."""
    num_classes = data.num_classes
    total = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    for label, truth in zip(sparse, data.truth, strict=False):
        named = torch.from_numpy(np.minimum(label, num_classes))
        total += evaluation.confusion_matrix(named, torch.from_numpy(np.array(truth)), num_classes + 1)
    return 100 * evaluation.iou(total)[:num_classes].nanmean().item()

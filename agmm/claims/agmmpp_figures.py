"""The claims that figures of AGMM++ (TPAMI 2025) make, on training curves and trained networks, and those on cost."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import cost, em, evaluation, fused, gmm, training
from agmm.batches import normalization
from agmm.claims import rules
from agmm.claims.agmm_figures import gap_narrows, measured, mixture_leads_early, of_networks, silhouettes
from agmm.claims.agmmpp_rows import WITH_CON, agmm, plus, seg
from agmm.claims.claim import VOC, Claim, better, settings
from agmm.claims.evidence import WEIGHTS, Evidence
from agmm.claims.rules import Finding
from agmm.data import sets
from agmm.figures import Trained
from agmm.labels import VOID
from agmm.objectives import AGMMpp
from agmm.objectives.agmmpp import squeezed
from agmm.rivals.toco import FromTags

IMAGES, BATCH = 200, 25
"""Training images that are measured at most, and how many of equal size at once."""

WITH_SQUEEZE = (*WEIGHTS, "objective.safetensors")
"""Files of weights that measuring the mixture of AGMM++ needs."""


# --- Cost -------------------------------------------------------------------------------------------------------------


def operations(evidence: Evidence) -> dict[str, int]:
    """Multiply-accumulates of an image's forward pass while training with the transformer, by method.

    They depend on no weights, so this needs no trained run. Images are as large as the training crops and have three
    classes.
    """
    run = replace(seg("vit")(evidence, "points"), init="scratch")
    height, width = run.image_size or (run.crop or 64,) * 2
    with torch.device("meta"), torch.no_grad():
        net = training.build_network(run, len(sets.class_names(run.dataset))).eval()
        features, _ = net(torch.empty(1, 3, height, width))
    channels, grid = features.shape[1], (features.shape[2], features.shape[3])
    plain = cost.network_macs(net, (height, width))
    branches = {
        "AGMM": cost.branch_macs("AGMM", channels, grid, (height, width)),
        "AGMM++": cost.branch_macs("AGMMpp", channels, grid, (height, width), squeezed=squeezed(channels)),
    }
    return {"baseline": plain} | {name: plain + sum(steps.values()) for name, steps in branches.items()}


def mixture_costs_less(evidence: Evidence) -> dict[str, Finding]:
    """The baseline below AGMM++ below AGMM, and the increment of AGMM++ clearly the smaller one."""
    if "vit" not in evidence.preset.networks:
        return {}
    macs = operations(evidence)
    ours, theirs = (macs[name] - macs["baseline"] for name in ("AGMM++", "AGMM"))
    return {"increment, AGMM++ / AGMM": _fact(0 < ours < 0.8 * theirs, ours / theirs, 0.38, macs)}


def cheaper_than_agmm(evidence: Evidence) -> dict[str, Finding]:
    """Operations in all, AGMM++ beside AGMM."""
    if "vit" not in evidence.preset.networks:
        return {}
    macs = operations(evidence)
    ratio = macs["AGMM++"] / macs["AGMM"]
    return {"operations, AGMM++ / AGMM": _fact(ratio < 1, ratio, 96.3 / 117.5, macs)}


def _fact(holds: bool, ratio: float, published: float, macs: dict[str, int]) -> Finding:
    note = ", ".join(f"{name} {value / 1e6:,.1f} M" for name, value in macs.items()) + " multiply-accumulates"
    verdict: rules.Verdict = "reproduced" if holds else "not reproduced"
    return Finding(verdict, 0, ratio, ratio, ratio, note=note, unit="ratio", claimed=published)


# --- Pseudo labels and online EM --------------------------------------------------------------------------------------


@torch.no_grad()
def squeezed_features(trained: Trained, objective: AGMMpp | FromTags) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Squeezed features (B, C', h, w), labels and truth (B, H, W) int64 of training images, on the CPU.

    Labels are the sparse ones of the run or, where it learns from image tags, the pseudo labels that it would make now.
    """
    run, data = trained.run, trained.data
    device = next(trained.net.parameters()).device
    count, size = min(IMAGES, len(data)), BATCH if isinstance(data.images, np.ndarray) else 1
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        images, sparse, truth = (_tensor(arrays[part]) for arrays in (data.images, trained.sparse, data.truth))
        inputs = evaluation.to_input(images.to(device), **normalization(run))
        features, _ = trained.net(inputs)
        labels = sparse.long()
        if isinstance(objective, FromTags):
            seen = replace(data, ids=data.ids[part], images=data.images[part], truth=data.truth[part])
            tags = torch.from_numpy(sets.image_tags(seen)).to(device)[:, 1:]
            maps = objective.maps_of_whole(trained.net, inputs, tags, run.crop)
            labels = objective.labels(maps, tags, images.to(device).movedim(-1, 1) / 255).cpu()
        yield _mixture_of(objective).squeeze(features).cpu(), labels, truth.long()


def _tensor(arrays: sets.Arrays) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def pseudo_label_accuracy(trained: Trained, objective: AGMMpp | FromTags) -> Tensor:
    """Right and all pseudo-labeled pixels, close to their class's mean and not (AGMM++, Fig. 2c): (K, 2, 2) counts.

    Close is ``d < sigma`` (Eq. 2 and 3) of the mixture that the labels form, for the class that the label names.
    """
    mixture, num_classes = _mixture_of(objective), trained.data.num_classes
    totals = torch.zeros(num_classes, 2, 2, dtype=torch.int64)
    for features, labels, truth in squeezed_features(trained, objective):
        parts = gmm.components(labels, num_classes)
        old = em.from_labels(features, labels, parts, mixture.sigma_min, mixture.distance)
        d = F.interpolate(old.d, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        close = d < old.variance.sqrt()[..., None, None]
        codes = parts.classes[..., None, None]
        labeled = (labels.unsqueeze(1) == codes) & (truth != VOID).unsqueeze(1) & parts.filled[..., None, None]
        for column, subset in enumerate((labeled & close, labeled & ~close)):
            sums = [(subset & chosen).sum((2, 3)) for chosen in (truth.unsqueeze(1) == codes, subset)]
            totals[:, column].index_add_(0, parts.classes.flatten(), torch.stack(sums, -1).flatten(0, 1))
    return totals


def close_labels_are_right(evidence: Evidence) -> dict[str, Finding]:
    """Share of the classes whose pseudo labels are more accurate close to the class's mean than far away."""
    if not {"tags"} <= set(evidence.preset.labels) or "vit" not in evidence.preset.networks:
        return {}

    def share(trained: Trained) -> float:
        counts = pseudo_label_accuracy(trained, _objective(evidence, trained)).double()
        accuracy = counts[..., 0] / counts[..., 1]
        both = ~accuracy.isnan().any(1)
        return float((accuracy[both, 0] > accuracy[both, 1]).double().mean())

    run = plus("vit")(evidence, "tags")
    return {"tags": of_networks(evidence, [run], share, lambda v: rules.share(v, 0.8, 0.5), WITH_SQUEEZE)}


def reestimated(trained: Trained, objective: AGMMpp) -> tuple[float, float, float, float]:
    """Labels' mixture and re-estimated one beside the truth (AGMM++, Section 3.3).

    Returns
    -------
    old_distance, new_distance : float
        Mean distance (Eq. 3) of the classes' means to the mean features of their true masks.
    old_miou, new_miou : float
        Of the class with the largest score among those labeled, on training images, in per cent.
    """
    num_classes = trained.data.num_classes
    matrices = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
    apart: list[Tensor] = []
    for features, labels, truth in squeezed_features(trained, objective):
        parts = gmm.components(labels, num_classes)
        old = em.from_labels(features, labels, parts, objective.sigma_min, objective.distance)
        g = old.scores(parts)
        members = em.assign(g, labels, parts, objective.assignment, objective.keep_labels)
        new = em.reestimate(features, old, members, parts, objective.sigma_min, objective.distance)
        everywhere, exists = gmm.class_means(features, truth, num_classes)
        known = parts.filled & parts.from_classes(exists)
        goal = parts.from_classes(everywhere)
        apart.append(torch.stack([(one.means - goal).abs().mean(2)[known] for one in (old, new)]))
        for matrix, scores in zip(matrices, (g, new.scores(parts)), strict=True):
            dense = parts.to_classes(fused.upsample(scores, labels.shape[-2:], parts.per_image))
            best = evaluation.best_class(dense.masked_fill(~parts.present[..., None, None], -1))
            matrix += evaluation.confusion_matrix(best, truth, num_classes)
    distances = torch.cat(apart, 1).double().mean(1)
    old_miou, new_miou = (evaluation.mean_iou(matrix) for matrix in matrices)
    return float(distances[0]), float(distances[1]), old_miou, new_miou


def em_estimates_better(evidence: Evidence) -> dict[str, Finding]:
    """Whether online EM brings the means closer to the truth, as a share of their distance, and the scores, too."""

    def measure(trained: Trained) -> tuple[float, float]:
        old, new, old_miou, new_miou = reestimated(trained, _mixture_of(_objective(evidence, trained)))
        return 1 - new / old, new_miou - old_miou

    found: dict[str, Finding] = {}
    for labels, _, _ in settings(evidence, VOC, (1, 1)):
        values, why = measured(evidence, [plus()(evidence, labels)], measure, WITH_SQUEEZE)
        closer, gain = values.T if len(values) else np.zeros((2, 0))
        judged = {"means": rules.direction(closer, unit="share"), "mIoU of G": rules.direction(gain)}
        found |= {f"{labels}, {name}": replace(one, note=why or one.note) for name, one in judged.items()}
    return found


def _objective(evidence: Evidence, trained: Trained) -> AGMMpp | FromTags:
    """With the layers that it has learned, on the CPU or the network's device."""
    device = next(trained.net.parameters()).device
    objective = training.load_objective(trained.run, evidence.results, trained.data.num_classes, device)
    assert isinstance(objective, AGMMpp | FromTags)
    return objective


def _mixture_of(objective: AGMMpp | FromTags) -> AGMMpp:
    inner = objective.inner if isinstance(objective, FromTags) else objective
    assert isinstance(inner, AGMMpp)
    return inner


# --- Curves and features ----------------------------------------------------------------------------------------------


def mixture_leads(evidence: Evidence) -> dict[str, Finding]:
    """G is ahead of P over the first tenth of the epochs, and its lead of the last tenth is smaller."""
    early = {f"{name}, early": found for name, found in mixture_leads_early(evidence, plus()).items()}
    return early | {f"{name}, closing": found for name, found in gap_narrows(evidence, plus()).items()}


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Mean silhouette of the features of test pixels: with online EM, without it, and ToCo."""
    if "tags" not in evidence.preset.labels or "vit" not in evidence.preset.networks:
        return {}
    ours, without, toco = (rows(evidence, "tags") for rows in (plus("vit"), plus("vit", **WITH_CON), seg("vit")))
    return {
        "tags, online EM against none": silhouettes(evidence, ours, without),
        "tags, no online EM against ToCo": silhouettes(evidence, without, toco),
    }


_claim = partial(Claim, agmm=False)
_vit = partial(_claim, network="vit")
_tags = partial(_vit, labels="tags")
_AGMM = better(plus("vit"), agmm("vit"), (4.2, 1.7), network="vit")
_BOTH = "cheaper and better than AGMM", "-21.2 G; +4.2, +1.7"
CLAIMS = (
    _vit("P23", "Table 11", "operations: baseline < AGMM++ < AGMM", "83.2, 96.3, 117.5", mixture_costs_less, fact=True),
    _vit("P24", "Table 11", *_BOTH, cheaper_than_agmm, fact=True),
    Claim("P24", "Table 11", *_BOTH, _AGMM, network="vit"),
    _tags("P25", "Fig. 2c", "close pseudo labels are right", "", close_labels_are_right),
    _claim("P26", "Fig. 10", "G is ahead of P early, less so later", "", mixture_leads),
    _claim("P27", "section 3.3", "online EM estimates better", "", em_estimates_better),
    _tags("P29", "Fig. 11", "features are more discriminative", "", features_are_more_discriminative),
)

"""The claims that figures of AGMM++ (TPAMI 2025) make, on training curves and trained networks, and those on cost."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from agmm import em, evaluation, fast, figures, gmm
from agmm.figures.trained import Trained, mixture_of, outputs, tensor, weak_labels
from agmm.objectives import AGMMpp
from agmm.papers import rules
from agmm.papers.agmm.claims_figures import gap_narrows, measured, mixture_leads_early, of_networks, silhouettes
from agmm.papers.agmmpp import cost
from agmm.papers.agmmpp.claims_rows import WITH_CON, agmm, plus, seg
from agmm.papers.claim import VOC, Claim, better, settings
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding

IMAGES = 200
"""Training images that are measured at most."""


# --- Cost -------------------------------------------------------------------------------------------------------------


def mixture_costs_less(evidence: Evidence) -> dict[str, Finding]:
    """The baseline below AGMM++ below AGMM, and the increment of AGMM++ clearly the smaller one.

    Operations depend on no weights, so this needs no trained run; they are those of the paper's transformer.
    """
    if "vit" not in evidence.preset.networks:
        return {}
    counted = cost.operations().set_index("method")["over_baseline"]
    ours, theirs = counted["AGMM++"], counted["AGMM"]
    return {"increments": _fact(0 < ours < 0.8 * theirs, ours / theirs, 13.1 / 34.3)}


def cheaper_than_agmm(evidence: Evidence) -> dict[str, Finding]:
    """Operations in all, AGMM++ beside AGMM."""
    if "vit" not in evidence.preset.networks:
        return {}
    counted = cost.operations().set_index("method")["gmacs"]
    ratio = counted["AGMM++"] / counted["AGMM"]
    return {"operations": _fact(ratio < 1, ratio, 96.3 / 117.5)}


def _fact(holds: bool, ratio: float, published: float) -> Finding:
    verdict: rules.Verdict = "reproduced" if holds else "not reproduced"
    ratio, note = float(ratio), f"multiply-accumulates of ViT-B/16 at {cost.PRINTED_SIDE} pixels"
    return Finding(verdict, 0, ratio, ratio, ratio, note=note, unit="ratio", claimed=published)


# --- Pseudo labels and online EM --------------------------------------------------------------------------------------


def close_labels_are_right(evidence: Evidence) -> dict[str, Finding]:
    """Share of the classes whose pseudo labels are more accurate close to the class's mean than far away."""
    if "tags" not in evidence.preset.labels or "vit" not in evidence.preset.networks:
        return {}

    def share(trained: Trained) -> float:
        accuracy = figures.measure_label_accuracy({"": trained}, IMAGES).pivot(
            index="class", columns="subset", values="accuracy"
        )
        both = accuracy[["similar", "dissimilar"]].dropna()
        return float((both["similar"] > both["dissimilar"]).mean())

    run = plus("vit")(evidence, "tags")
    return {"tags": of_networks(evidence, [run], share, lambda shares: rules.share(shares, 0.8, 0.5))}


@torch.no_grad()
def reestimated(trained: Trained) -> tuple[float, float, float, float]:
    """Labels' mixture of AGMM++ and the re-estimated one beside the truth, on training images (Section 3.3).

    Returns
    -------
    old_distance, new_distance : float
        Mean distance (Eq. 3) of the classes' means to the mean features of their true masks.
    old_miou, new_miou : float
        Of the class with the largest score among those labeled, in per cent.
    """
    num_classes, objective = trained.data.num_classes, mixture_of(trained)
    assert isinstance(objective, AGMMpp)
    matrices = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
    apart: list[Tensor] = []
    for part, features, _ in outputs(trained, trained.data, IMAGES):
        labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
        squeezed = objective.squeeze(features.to(trained.device)).cpu()
        parts = gmm.components(labels, num_classes)
        old = em.from_labels(squeezed, labels, parts, objective.sigma_min, objective.distance)
        members = em.assign(old.log_scores(parts), labels, parts, objective.assignment, objective.keep_labels)
        new = em.reestimate(squeezed, old, members, parts, objective.sigma_min, objective.distance)
        everywhere, exists = gmm.class_means(squeezed, truth, num_classes)
        known, goal = parts.filled & parts.from_classes(exists), parts.from_classes(everywhere)
        apart.append(torch.stack([(one.means - goal).abs().mean(2)[known] for one in (old, new)]))
        for matrix, scores in zip(matrices, (old.scores(parts), new.scores(parts)), strict=True):
            dense = parts.to_classes(fast.upsample(scores, labels.shape[-2:], parts.per_image))
            best = evaluation.best_class(dense.masked_fill(~parts.present[..., None, None], -1))
            matrix += evaluation.confusion_matrix(best, truth, num_classes)
    old_distance, new_distance = torch.cat(apart, 1).double().mean(1).tolist()
    old_miou, new_miou = (evaluation.mean_iou(matrix) for matrix in matrices)
    return old_distance, new_distance, old_miou, new_miou


def em_estimates_better(evidence: Evidence) -> dict[str, Finding]:
    """Whether online EM brings the means closer to the truth, as a share of their distance, and the scores, too."""

    def measure(trained: Trained) -> tuple[float, float]:
        old, new, old_miou, new_miou = reestimated(trained)
        return 1 - new / old, new_miou - old_miou

    found: dict[str, Finding] = {}
    for labels, _, _ in settings(evidence, VOC, (1, 1)):
        values, why = measured(evidence, [plus()(evidence, labels)], measure)
        closer, gain = values.T if len(values) else np.zeros((2, 0))
        judged = {"means": rules.direction(closer, unit="share"), "mIoU of G": rules.direction(gain)}
        found |= {f"{labels}, {name}": replace(one, note=why or one.note) for name, one in judged.items()}
    return found


# --- Curves and features ----------------------------------------------------------------------------------------------


def mixture_leads(evidence: Evidence) -> dict[str, Finding]:
    """G is ahead of P over the first tenth of the epochs, and its lead of the last tenth is smaller."""
    early = {f"{name}, early": found for name, found in mixture_leads_early(evidence, plus()).items()}
    return early | {f"{name}, closing": found for name, found in gap_narrows(evidence, plus()).items()}


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Mean silhouette of the features of test pixels: from tags with online EM, without it, and of ToCo."""
    if "tags" not in evidence.preset.labels or "vit" not in evidence.preset.networks:
        return {}
    ours, without, toco = (rows(evidence, "tags") for rows in (plus("vit"), plus("vit", **WITH_CON), seg("vit")))
    return {
        "EM against none": silhouettes(evidence, ours, without),
        "no EM against ToCo": silhouettes(evidence, without, toco),
    }


_claim = partial(Claim, agmm=False)
_vit = partial(_claim, network="vit")
_tags = partial(_vit, labels="tags")
_AGMM = better(plus("vit"), agmm("vit"), (4.2, 1.7), network="vit")
_BOTH = "cheaper and better than AGMM", "-21.2 G; +4.2, +1.7"
CLAIMS = (
    _vit("P23", "Table 11", "its mixture costs less than AGMM's", "83.2, 96.3, 117.5", mixture_costs_less, fact=True),
    _vit("P24", "Table 11", *_BOTH, cheaper_than_agmm, fact=True),
    Claim("P24", "Table 11", *_BOTH, _AGMM, network="vit"),
    _tags("P25", "Fig. 2c", "close pseudo labels are right", "", close_labels_are_right),
    _claim("P26", "Fig. 10", "G is ahead of P early, less so later", "", mixture_leads),
    _claim("P27", "section 3.3", "online EM estimates better", "", em_estimates_better),
    _tags("P29", "Fig. 11", "features are more discriminative", "", features_are_more_discriminative),
)

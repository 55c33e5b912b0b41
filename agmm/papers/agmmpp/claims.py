"""The claims of AGMM++ (TPAMI 2025): on its tables, on training curves and trained networks, and on cost."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from agmm import em, evaluation, fast, figures, gmm
from agmm.figures.trained import Trained, mixture_of, outputs, tensor, weak_labels
from agmm.objectives import AGMMpp
from agmm.papers import rules
from agmm.papers.agmm.claims import CLICKS, VOC, gap_narrows, mixture_leads_early, share_of_similar, silhouettes
from agmm.papers.agmm.tables import LAMBDAS
from agmm.papers.agmmpp import cost
from agmm.papers.agmmpp.tables import SEGMENTATION
from agmm.papers.claim import (
    Entry,
    Evidence,
    across,
    claims_of,
    compare,
    gain_shrinks,
    helps_first_more,
    measured,
    of_networks,
)
from agmm.papers.rules import Finding
from agmm.papers.table import Row, figure_cells

IMAGES = 200
"""Training images that are measured at most."""

AGMMPP = Entry("agmmpp_table10", "AGMM++")
_AGMM, _OLD = AGMMPP._replace(row="AGMM"), AGMMPP._replace(row="AGMM++, old L_con")
_FROM_TAGS = Entry("agmmpp_table8", "AGMM++")
_WITHOUT_EM, _TOCO = _FROM_TAGS._replace(row="+ L_self + L_weak + L_con"), _FROM_TAGS._replace(row="ToCo")
_CLICKS = Entry("agmmpp_table4", "AGMM++"), Entry("agmmpp_table4", "AGMM")
_BLOCKS = Entry("agmmpp_table7", "AGMM++"), Entry("agmmpp_table7", "Baseline")
_WEIGHTS = tuple(Entry("agmmpp_table14", f"λ_G = {weight}") for weight in LAMBDAS)
_RISING_WEIGHTS = [entry for entry, weight in zip(_WEIGHTS, LAMBDAS, strict=True) if weight <= 1]

FORMS = ("tags", "points", "scribbles", "blocks", "boxes")
"""All forms of weak labels, each a kind on a preset's first data set."""


def every_form_gains(evidence: Evidence) -> dict[str, Finding]:
    """Judge AGMM++ against its own segmentation loss with every form of weak labels, on the preset's first data set.

    The baselines of tags and boxes are in no table: those are tested with a DenseCRF.
    """
    preset, missing = evidence.preset, []
    rows = Row("AGMM++", ("extra:one data set",), method="AGMMpp"), Row("L_seg", ("extra:one data set",))
    findings = {}
    for form in FORMS:
        cells = figure_cells(preset, *((form, row) for row in rows))
        if cells and cells[0].dataset == preset.run.dataset:
            findings[form] = rules.direction(evidence.lead(*cells))
        else:
            missing.append(form)
    if missing:
        note = f"no {' or '.join(missing)} on {preset.run.dataset}"
        findings["all five forms"] = Finding("inconclusive", note=note)
    return findings


# --- Cost -------------------------------------------------------------------------------------------------------------


def mixture_costs_less(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether the increment of AGMM++ over the baseline is positive, and clearly smaller than that of AGMM.

    Operations depend on no weights, so this needs no trained run; they are those of the paper's transformer.
    """
    if "vit" not in evidence.preset.networks:
        return {}
    counted = cost.operations().set_index("method")["over_baseline"]
    ours, theirs = counted["AGMM++"], counted["AGMM"]
    return {"increments": _fact(0 < ours < 0.8 * theirs, ours / theirs, 13.1 / 34.3)}


def cheaper_than_agmm(evidence: Evidence) -> dict[str, Finding]:
    """Judge the operations in all, AGMM++ beside AGMM."""
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
    """Judge the share of the classes whose pseudo labels are more accurate close to the class's mean than far away."""

    def share(trained: Trained) -> float:
        return share_of_similar(figures.measure_label_accuracy({"": trained}, IMAGES), "accuracy")

    runs = evidence.runs([_FROM_TAGS], SEGMENTATION)
    return {"tags": of_networks(evidence, runs, share, lambda shares: rules.share(shares, 0.8, 0.5))} if runs else {}


@torch.no_grad()
def reestimated(trained: Trained) -> tuple[float, float, float, float]:
    """Set the labels' mixture and the re-estimated one beside the truth, on training images (Section 3.3).

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
        components = gmm.components(labels, num_classes)
        old = em.from_labels(squeezed, labels, components, objective.sigma_min, objective.distance)
        members = em.assign(old.log_scores(components), labels, components, objective.assignment, objective.keep_labels)
        new = em.reestimate(squeezed, old, members, components, objective.sigma_min, objective.distance)
        everywhere, exists = gmm.class_means(squeezed, truth, num_classes)
        known, goal = components.filled & components.from_classes(exists), components.from_classes(everywhere)
        apart.append(torch.stack([(one.means - goal).abs().mean(2)[known] for one in (old, new)]))
        for matrix, scores in zip(matrices, (old.scores(components), new.scores(components)), strict=True):
            dense = components.to_classes(fast.upsample(scores, labels.shape[-2:], components.per_image))
            best = evaluation.best_class(dense.masked_fill(~components.present[..., None, None], -1))
            matrix += evaluation.confusion_matrix(best, truth, num_classes)
    old_distance, new_distance = torch.cat(apart, 1).double().mean(1).tolist()
    old_miou, new_miou = (evaluation.mean_iou(matrix) for matrix in matrices)
    return old_distance, new_distance, old_miou, new_miou


def em_estimates_better(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether online EM brings means (as a share of their distance) and scores closer to the truth."""

    def measure(trained: Trained) -> tuple[float, float]:
        old, new, old_miou, new_miou = reestimated(trained)
        return 1 - new / old, new_miou - old_miou

    findings: dict[str, Finding] = {}
    for setting, column in VOC.items():
        if runs := evidence.runs([AGMMPP], column):
            values, why = measured(evidence, runs, measure, 2)
            judged = {
                "means": rules.direction(values[:, 0], unit="share"),
                "mIoU of G": rules.direction(values[:, 1]),
            }
            findings |= {f"{setting}, {name}": replace(one, note=why or one.note) for name, one in judged.items()}
    return findings


# --- Curves and features ----------------------------------------------------------------------------------------------


def mixture_leads(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether G is ahead of P over the first tenth of the epochs, and less so over the last."""
    early = {f"{name}, early": finding for name, finding in mixture_leads_early(evidence, AGMMPP).items()}
    return early | {f"{name}, closing": finding for name, finding in gap_narrows(evidence, AGMMPP).items()}


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Judge the mean silhouette of the features of test pixels: from tags with online EM, without it, and of ToCo."""
    runs = evidence.runs((_FROM_TAGS, _WITHOUT_EM, _TOCO), SEGMENTATION)
    if not runs:
        return {}
    return {
        "EM against none": silhouettes(evidence, *runs[:2]),
        "no EM against ToCo": silhouettes(evidence, *runs[1:]),
    }


CLAIMS = claims_of(
    "agmmpp",
    {
        "P04": across((_OLD, _AGMM), VOC.values(), partial(helps_first_more, claimed=1.0), "points - scribbles"),
        "P08": across(_CLICKS, CLICKS.values(), gain_shrinks, "fewer clicks"),
        "P11": across(_BLOCKS, [f"block {share}%" for share in (10, 20, 50)], gain_shrinks, "fewer blocks"),
        "P20": compare(_WEIGHTS, VOC, partial(rules.optimum, best=LAMBDAS.index(1.0))),
        "P21": compare(
            [entry for entry, weight in zip(_WEIGHTS, LAMBDAS, strict=True) if weight <= 1], VOC, rules.trend
        ),
        "P23": mixture_costs_less,
        "P24": cheaper_than_agmm,
        "P25": close_labels_are_right,
        "P26": mixture_leads,
        "P27": em_estimates_better,
        "P28": every_form_gains,
        "P29": features_are_more_discriminative,
    },
)

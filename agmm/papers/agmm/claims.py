"""The claims of AGMM (CVPR 2023): on its tables, on training curves and trained networks, and one of its text."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from agmm import figures, networks
from agmm.codes import UNLABELED
from agmm.data import sets
from agmm.figures import Trained
from agmm.papers import claim, rules
from agmm.papers.agmm.tables import LAMBDAS, SIGMAS
from agmm.papers.claim import Entry, Evidence
from agmm.papers.rules import Finding, Numbers
from agmm.training import weights
from agmm.training.run import Run, build_objective

VOC = {"points": "point", "scribbles": "scribble"}
CLICKS = {name: name for name in ("20 clicks", "50 clicks", "100 clicks")}  # setting of a claim -> column

BASELINE, AGMM = Entry("agmm_table2", "Baseline"), Entry("agmm_table2", "AGMM")
# Their second stages are in no table where AGMM has no absent-class loss.
_AGMM_MT, _AGMM_CLICKS_MT = Entry("agmm_table2", "AGMM", second_stage=True), Entry("agmm_table5", "AGMM", True)
_BASELINE_CLICKS, _AGMM_CLICKS = Entry("agmm_table5", "Baseline"), Entry("agmm_table5", "AGMM")
_SPREADS = (Entry("agmm_table3", "σ by Eq. 5"), *(Entry("agmm_table3", f"σ = {sigma}") for sigma in SIGMAS))
_WEIGHTS = tuple(Entry("agmm_supp_table1", f"λ = {weight}") for weight in LAMBDAS)
_RISING_WEIGHTS = [entry for entry, weight in zip(_WEIGHTS, LAMBDAS, strict=True) if weight <= 1]


def share_of_self(evidence: Evidence) -> dict[str, Finding]:
    """Judge the part of the gain that L_self alone brings."""
    findings = {}
    for setting, column in VOC.items():
        labels = ("L_seg", "L_seg + L_self", "L_seg + L_self + L_spar + L_con")
        cells = evidence.cells([Entry("agmm_table1", label) for label in labels], column)
        if not cells:
            continue
        none, alone, whole = (cell.published or np.nan for cell in cells)
        published = round((alone - none) / (whole - none), 2)
        v = evidence.values(*cells)
        if rules.direction(v[:, 2] - v[:, 0]).verdict != "reproduced":
            note = "AGMM's gain itself is not reproduced"
            findings[setting] = Finding("inconclusive", len(v), note=note, unit="ratio", claimed=published)
        else:
            findings[setting] = rules.ratio(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0], published, 0.2)
    return findings


def hardly_matters(values: Numbers) -> Finding:
    """Judge whether every fixed spread is within a margin of the adaptive one, which grows with our own gain.

    ``values`` are those of the baseline, the adaptive spread and the fixed ones.
    """
    gain = float((values[:, 1] - values[:, 0]).mean()) if len(values) else 0.0
    differences = [values[:, k] - values[:, 1] for k in range(2, values.shape[1])]
    return rules.equivalence(differences, max(1.0, 0.15 * gain))


def scribbles_beat_points_per_class(evidence: Evidence) -> dict[str, Finding]:
    """Judge the share of the classes whose mean IoU over seeds is higher with scribbles."""
    means = [evidence.cells([Entry("agmm_supp_table3", "mIoU")], column) for column in VOC.values()]
    if not all(means):
        return {}
    n = len(evidence.values(*(cell for cells in means for cell in cells)))
    if n < rules.MIN_SEEDS:
        return {"scribbles - points": Finding("inconclusive", n, note="too few seeds", unit="share", claimed=1)}
    classes = sets.class_names(means[0][0].dataset)
    rows = [Entry("agmm_supp_table3", name) for name in classes]
    points, scribbles = (evidence.values(*evidence.cells(rows, column)) for column in VOC.values())
    share = float(np.mean(scribbles.mean(0) > points.mean(0)))
    verdict = rules.verdict(share >= 0.8, share < 0.5)
    return {"scribbles - points": Finding(verdict, n, share, share, share, unit="share", claimed=1)}


def crf_helps_little(evidence: Evidence) -> dict[str, Finding]:
    """Judge the gain of the DenseCRF loss beside AGMM's."""
    findings, crf = {}, Entry("agmm_table5", "DenseCRF Loss")
    for setting, column in CLICKS.items():
        if cells := evidence.cells((_BASELINE_CLICKS, crf, _AGMM_CLICKS), column):
            v = evidence.values(*cells)
            printed = claim.printed_lead(cells[1], cells[0])
            findings[setting] = rules.little(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0], printed)
    return findings


PER_CLASS, IMAGES = 2000, 1000  # test pixels of a class, and test images, whose features are compared at most


def similar_pixels_are_better(evidence: Evidence) -> dict[str, Finding]:
    """Judge the share of the classes whose IoU is higher close to labeled pixels; the paper names no network."""

    def share(trained: Trained) -> tuple[float]:
        return share_of_similar(figures.measure_similarity({"": trained}), "iou")

    findings: dict[str, Finding] = {}
    for name, entry in {"baseline": BASELINE, "AGMM": AGMM}.items():
        runs = evidence.runs([entry], "point")
        findings |= claim.of_networks(evidence, "IoU near labels", runs, share, {f"points, {name}": rules.share})
    return findings


def share_of_similar(measured: pd.DataFrame, values: str) -> tuple[float]:
    """Return the share of the classes with higher values among similar than dissimilar pixels, of those with both."""
    both = measured.pivot(index="class", columns="subset", values=values)[["similar", "dissimilar"]].dropna()
    return (float((both["similar"] > both["dissimilar"]).mean()),)


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Judge the mean silhouette of the features of test pixels, AGMM minus its rivals."""
    ours, baseline = evidence.runs((AGMM, BASELINE), "point")
    findings = silhouettes(evidence, "points, against baseline", ours, baseline)
    for stopped in evidence.runs([Entry("agmm_table2", "AGMM (SG)")], "point"):
        findings |= silhouettes(evidence, "points, against SG", ours, stopped)
    return findings


def silhouettes(evidence: Evidence, setting: str, ours: Run, theirs: Run) -> dict[str, Finding]:
    """Judge whether the mean silhouette of the features of test pixels is larger in one network than in another."""

    def lead(*trained: Trained) -> tuple[float]:
        a, b = (figures.silhouette(*figures.sample_features(one, PER_CLASS, IMAGES)) for one in trained)
        return (a - b,)

    rule = partial(rules.direction, unit="silhouette")
    return claim.of_networks(evidence, "silhouette, lead over", (ours, theirs), lead, {setting: rule})


def _gap(evidence: Evidence, entry: Entry, against: str) -> Numbers:
    """Return the lead of G over P on the training images, (seeds, epochs)."""
    (run,) = evidence.runs([entry], "point")
    return evidence.curves("g_miou", run)[:, 0] - evidence.curves(against, run)[:, 0]


def _tenth(curves: Numbers) -> int:
    """Return the number of epochs that make up ten per cent, at least one."""
    return max(1, round(curves.shape[-1] / 10))


def mixture_leads_early(evidence: Evidence, entry: Entry = AGMM) -> dict[str, Finding]:
    """Judge G above P over the first tenth of the epochs; G knows which classes are present, so P is restricted too."""
    findings = {}
    for name, column in {"P": "p_miou", "P among labeled classes": "p_restricted_miou"}.items():
        gap = _gap(evidence, entry, column)
        findings[f"points, against {name}"] = rules.direction(gap[:, : _tenth(gap)].mean(1))
    return findings


def gap_narrows(evidence: Evidence, entry: Entry = AGMM) -> dict[str, Finding]:
    """Judge whether the lead of the last tenth of the epochs is smaller than that of the first."""
    gap = _gap(evidence, entry, "p_miou")
    part = _tenth(gap)
    return {"points": rules.direction(gap[:, :part].mean(1) - gap[:, -part:].mean(1))}


def both_improve(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether P and G rise over the epochs."""
    (run,) = evidence.runs([AGMM], "point")
    return {f"points, {name}": rules.trend(evidence.curves(f"{name.lower()}_miou", run)[:, 0]) for name in "PG"}


def above_baseline_while_training(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether P is above the baseline's in nine of ten epochs after the first tenth."""
    curves = evidence.curves("p_miou", *evidence.runs((AGMM, BASELINE), "point"))
    later = curves[..., _tenth(curves) :]
    above = np.array([np.mean(ours > theirs) for ours, theirs in later])
    return {"points": rules.share(above, 0.9)}


def inference_costs_nothing(evidence: Evidence) -> dict[str, Finding]:
    """Judge size, operations and outputs of AGMM's network against the baseline's; this needs no trained weights."""
    ours, baseline = (replace(run, init="scratch") for run in evidence.runs((AGMM, BASELINE), "point"))
    num_classes = len(sets.class_names(ours.dataset))
    kept = weights.build_network(ours, num_classes).eval()
    plain = weights.build_network(replace(baseline, seed=1), num_classes).eval()
    shapes, plain_shapes = ({name: v.shape for name, v in net.state_dict().items()} for net in (kept, plain))
    height, width = ours.image_size or (ours.crop or 64,) * 2
    count, plain_count = (networks.network_macs(net, (height, width)) for net in (kept, plain))
    same = shapes == plain_shapes and count == plain_count and _same_outputs(ours, kept, plain)
    parameters = sum(p.numel() for p in kept.parameters())
    note = f"{parameters:,} parameters, {count / 1e6:,.1f} M multiply-accumulates at {height} × {width}"
    return {"multiply-accumulates": rules.fact(same, count / plain_count, 1, note=note)}


@torch.no_grad()
def _same_outputs(run: Run, kept: networks.Segmenter, plain: networks.Segmenter) -> bool:
    """Return whether logits on which the branch has worked equal those of the baseline with the same weights."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    num_classes = kept(images)[1].shape[1]
    labels = torch.full((2, 64, 64), UNLABELED)
    labels[:, 0, 0] = 0
    features, logits = kept(images)
    image_classes = torch.arange(num_classes).expand(2, -1) == 0
    objective: Any = build_objective(run.method, num_classes, **dict(run.options))
    objective(features, logits, labels, image_classes)
    plain.load_state_dict(kept.state_dict())
    return torch.equal(plain(images)[1], logits)


_POINTS_MORE = partial(claim.helps_first_more, claimed=4.3)
_EVERY_WEIGHT = [claim.better(w, BASELINE, {f"{form}, {w.row}": VOC[form]}) for form in VOC for w in _WEIGHTS]
_rising = partial(claim.across, columns=CLICKS.values(), rule=claim.rising)
CLAIMS = claim.claims_of(
    "agmm",
    {
        "A06": share_of_self,
        "A08": claim.better(_AGMM_MT, AGMM, VOC, (5.1, 0.8), sized=("points",)),
        "A09": claim.across((_AGMM_MT, AGMM), VOC.values(), _POINTS_MORE, "points - scribbles"),
        "A16": claim.compare((BASELINE, *_SPREADS), VOC, hardly_matters),
        "A17": claim.compare(_SPREADS, VOC, partial(rules.optimum, best=0)),
        "A18": claim.compare(_WEIGHTS, VOC, partial(rules.optimum, best=LAMBDAS.index(1.0))),
        "A19": claim.compare(_RISING_WEIGHTS, VOC, rules.trend),
        "A20": claim.together(*_EVERY_WEIGHT),
        "A25": crf_helps_little,
        "A27": claim.together(_rising([_BASELINE_CLICKS], setting="baseline"), _rising([_AGMM_CLICKS], setting="AGMM")),
        "A28": claim.across((_AGMM_CLICKS, _BASELINE_CLICKS), CLICKS.values(), claim.gain_shrinks, "100 to 20 clicks"),
        "A30": claim.better(_AGMM_CLICKS_MT, _AGMM_CLICKS, CLICKS, (4.4, 3.4, 1.8), which="AGMM"),
        "A31": similar_pixels_are_better,
        "A32": mixture_leads_early,
        "A33": gap_narrows,
        "A34": both_improve,
        "A35": above_baseline_while_training,
        "A36": features_are_more_discriminative,
        "A37": scribbles_beat_points_per_class,
        "A38": inference_costs_nothing,
    },
)

"""The claims that figures of AGMM (CVPR 2023) make, on training curves and trained networks, and one of its text."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from agmm import figures, networks
from agmm.codes import UNLABELED
from agmm.data import sets
from agmm.figures import Trained
from agmm.networks import macs as cost
from agmm.papers import rules
from agmm.papers.claim import Claim, Rows, baseline, full, stop_gradient
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding, Numbers
from agmm.training import methods, weights
from agmm.training.run import Run

PER_CLASS, IMAGES = 2000, 1000
"""Test pixels of a class, and test images, whose features are compared at most."""


def of_networks(
    evidence: Evidence, runs: Sequence[Run], measure: Callable[..., float], rule: Callable[[Numbers], Finding]
) -> Finding:
    """Judge a number that is measured on the networks of some runs, once per seed; NaN where there is nothing to."""
    values, why = measured(evidence, runs, lambda *trained: (measure(*trained),))
    found = rule(values[~np.isnan(values)])
    return replace(found, note=why) if why else found


def measured(evidence: Evidence, runs: Sequence[Run], measure: Callable[..., tuple[float, ...]]) -> tuple[Numbers, str]:
    """Numbers measured on the networks of some runs, (seeds, numbers), or why there are none."""
    if why := evidence.no_networks(*runs):
        return np.zeros((0, 0)), why
    return np.array([measure(*trained) for trained in evidence.networks(*runs)]), ""


def similar_pixels_are_better(evidence: Evidence) -> dict[str, Finding]:
    """Share of the classes whose IoU is higher close to the labeled pixels; the paper does not name the network."""
    return {
        f"points, {name}": of_networks(
            evidence, [rows(evidence, "points")], _share_of_classes, lambda shares: rules.share(shares, 0.8, 0.5)
        )
        for name, rows in {"baseline": baseline, "AGMM": full}.items()
    }


def _share_of_classes(trained: Trained) -> float:
    """Classes with higher IoU among similar than among dissimilar pixels, of those that have both."""
    iou = figures.measure_similarity({"": trained}).pivot(index="class", columns="subset", values="iou")
    both = iou[["similar", "dissimilar"]].dropna()
    return float((both["similar"] > both["dissimilar"]).mean())


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Mean silhouette of the features of test pixels, AGMM minus its rivals."""
    ours = full(evidence, "points")
    return {
        f"points, against {name}": silhouettes(evidence, ours, rows(evidence, "points"))
        for name, rows in {"baseline": baseline, "SG": stop_gradient}.items()
    }


def silhouettes(evidence: Evidence, ours: Run, theirs: Run) -> Finding:
    """Whether the mean silhouette of the features of test pixels is larger in one network than in another."""

    def lead(*trained: Trained) -> float:
        a, b = (figures.silhouette(*figures.sample_features(one, PER_CLASS, IMAGES)) for one in trained)
        return a - b

    return of_networks(evidence, (ours, theirs), lead, partial(rules.direction, unit="silhouette"))


def _gap(evidence: Evidence, rows: Rows, against: str) -> Numbers:
    """Lead of G over P on the training images, (seeds, epochs)."""
    run = rows(evidence, "points")
    return evidence.curves("g_miou", run)[:, 0] - evidence.curves(against, run)[:, 0]


def _tenth(curves: Numbers) -> int:
    """Epochs that make up ten per cent, at least one."""
    return max(1, round(curves.shape[-1] / 10))


def mixture_leads_early(evidence: Evidence, rows: Rows = full) -> dict[str, Finding]:
    """G above P over the first tenth of the epochs; G knows which classes are present, so P is restricted too."""
    found = {}
    for name, column in {"P": "p_miou", "P among labeled classes": "p_restricted_miou"}.items():
        gap = _gap(evidence, rows, column)
        found[f"points, against {name}"] = rules.direction(gap[:, : _tenth(gap)].mean(1))
    return found


def gap_narrows(evidence: Evidence, rows: Rows = full) -> dict[str, Finding]:
    """The lead of the last tenth is smaller than that of the first."""
    gap = _gap(evidence, rows, "p_miou")
    part = _tenth(gap)
    return {"points": rules.direction(gap[:, :part].mean(1) - gap[:, -part:].mean(1))}


def both_improve(evidence: Evidence) -> dict[str, Finding]:
    """P and G rise over the epochs."""
    run = full(evidence, "points")
    return {f"points, {name}": rules.trend(evidence.curves(f"{name.lower()}_miou", run)[:, 0]) for name in "PG"}


def above_baseline_while_training(evidence: Evidence) -> dict[str, Finding]:
    """After the first tenth of the epochs, P of AGMM is above the baseline's in nine epochs of ten."""
    curves = evidence.curves("p_miou", full(evidence, "points"), baseline(evidence, "points"))
    later = curves[..., _tenth(curves) :]
    above = np.array([np.mean(ours > theirs) for ours, theirs in later])
    return {"points": rules.share(above, 0.9, 0.5)}


def inference_costs_nothing(evidence: Evidence) -> dict[str, Finding]:
    """Size, multiply-accumulates and outputs of the network that AGMM's training keeps, against the baseline's.

    They depend on no weights, so this needs no trained run.
    """
    run = replace(full(evidence, "points"), init="scratch")
    num_classes = len(sets.class_names(run.dataset))
    kept = weights.build_network(run, num_classes).eval()
    plain = weights.build_network(replace(baseline(evidence, "points"), init="scratch", seed=1), num_classes).eval()
    shapes, plain_shapes = ({name: v.shape for name, v in net.state_dict().items()} for net in (kept, plain))
    height, width = run.image_size or (run.crop or 64,) * 2
    macs, plain_macs = (cost.network_macs(net, (height, width)) for net in (kept, plain))
    same = shapes == plain_shapes and macs == plain_macs and _same_outputs(run, kept, plain)
    parameters = sum(p.numel() for p in kept.parameters())
    note = f"{parameters:,} parameters, {macs / 1e6:,.1f} M multiply-accumulates at {height} × {width}"
    verdict: rules.Verdict = "reproduced" if same else "not reproduced"
    ratio = macs / plain_macs
    return {"multiply-accumulates": Finding(verdict, 0, ratio, ratio, ratio, note=note, unit="ratio", claimed=1)}


@torch.no_grad()
def _same_outputs(run: Run, kept: networks.Segmenter, plain: networks.Segmenter) -> bool:
    """Whether logits on which the branch has worked equal those of the baseline's network with the same weights."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    num_classes = kept(images)[1].shape[1]
    labels = torch.full((2, 64, 64), UNLABELED)
    labels[:, 0, 0] = 0
    features, logits = kept(images)
    image_classes = torch.arange(num_classes).expand(2, -1) == 0
    objective: Any = methods.build(run.method, num_classes, **dict(run.options))
    objective(features, logits, labels, image_classes)
    plain.load_state_dict(kept.state_dict())
    return torch.equal(plain(images)[1], logits)


CLAIMS = (
    Claim("A31", "Fig. 2b", "similar pixels are predicted better", "", similar_pixels_are_better),
    Claim("A32", "supp. Fig. 2", "G is ahead of P early in training", "“large margin”", mixture_leads_early),
    Claim("A33", "supp. Fig. 2", "its lead shrinks", "", gap_narrows),
    Claim("A34", "supp. Fig. 2", "P and G both rise", "", both_improve),
    Claim("A35", "supp. Fig. 2", "P is above the baseline's", "", above_baseline_while_training),
    Claim("A36", "supp. Fig. 3", "features are more discriminative", "", features_are_more_discriminative),
    Claim("A38", "text", "inference costs nothing extra", "", inference_costs_nothing, fact=True),
)

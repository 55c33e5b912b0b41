"""The claims of SPML (ICLR 2021): on its tables, and measured on trained networks."""

from dataclasses import replace
from functools import partial

import numpy as np

from agmm import figures
from agmm.data import sets
from agmm.figures import Trained
from agmm.papers import claim, rules
from agmm.papers.claim import Entry, Evidence, Judge
from agmm.papers.rules import Finding, Numbers
from agmm.papers.spml.tables import LAMBDAS_I, LAMBDAS_O, LENGTHS, RELATIONS
from agmm.papers.table import WVF

_SPML, _RIVAL = Entry("spml_table7", "SPML"), Entry("spml_table7", "DenseCRF loss")
_SHARE, _WITH_CRF = Entry("spml_table3", "SPML"), Entry("spml_table9", "SPML + CRF")
_EVERY_LENGTH = [f"scribbles {length}" for length in LENGTHS]
_FORMS = ("image tags", "points (0% scribbles)", "boxes", "scribbles")
_WEIGHTS_I = [Entry("spml_table6", f"λ_I = {weight:g} (λ_O = 0.5)") for weight in LAMBDAS_I]
_WEIGHTS_O = [Entry("spml_table6", f"λ_O = {weight:g} (λ_I = 0.1)") for weight in LAMBDAS_O]


def keeps(entry: Entry, column: str, tolerance: float, setting: str) -> Judge:
    """Judge whether a cell's share of full supervision's mIoU is the printed one, of the same method and test."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        cells = evidence.cells([entry], column)
        if not cells:
            return {}
        (share,) = cells
        whole = replace(share, run=share.full, metric="mIoU", full=None)
        values = evidence.values(replace(share, metric="mIoU", full=None), whole)
        published = round((share.published or np.nan) / 100, 3)
        return {setting: rules.ratio(values[:, 0], values[:, 1], published, tolerance)}

    return judge


def little_is_lost(values: Numbers) -> Finding:
    """Judge whether between whole scribbles and spots between 0 and 6 points are lost; more than 8 refute it."""
    finding = rules.direction(values[:, 0, 0] - values[:, 0, 1], 2.9)
    if finding.n < rules.MIN_SEEDS:
        return finding
    inside = finding.low > 0 and finding.high < 6
    return replace(finding, verdict=rules.verdict(inside, finding.effect > 8), p=np.nan)


def flat(values: Numbers) -> Finding:
    """Judge whether weights of co-occurrence from 0.1 to 1 do not matter; the chosen one is in the middle."""
    return rules.equivalence([values[:, 2] - values[:, 1], values[:, 0] - values[:, 1]], 1.0)


def every_part(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether SPML is ahead of the DenseCRF loss in nine of ten classes of parts."""
    rows = Entry("spml_table10", "SPML"), Entry("spml_table10", "DenseCRF loss")
    means = evidence.cells(rows, "mean")
    if not means:
        return {}
    classes = sets.class_names(means[0].dataset)
    iou = np.nan_to_num([evidence.values(*evidence.cells(rows, name)) for name in classes])
    return {"parts": rules.share((iou[..., 0] > iou[..., 1]).mean(0), 0.9)}


def full_is_best(evidence: Evidence) -> dict[str, Finding]:
    """Judge full supervision above the best of the weak labels, with a DenseCRF."""
    full = evidence.cells([Entry("spml_table9", "Full mask + CRF")], "full")
    scribbles = evidence.cells([_WITH_CRF], "scribbles")
    if not (full and scribbles):
        return {}
    return {"full - scribbles": rules.direction(evidence.lead(*full, *scribbles), 1.2)}


IMAGES = 200  # images of a split whose segments are queries at most


def boundaries_improve(evidence: Evidence) -> dict[str, Finding]:
    """Judge mean IoU of test pixels close to a boundary, with one more relation at a time."""
    runs = evidence.runs([Entry("spml_figure7", row.label) for row in RELATIONS], "mIoU")
    if not runs:
        return {}

    def measure(*trained: Trained) -> list[list[float]]:
        named = {row.label: one for row, one in zip(RELATIONS, trained, strict=True)}
        return [figures.measure_boundaries(named)["boundary"].to_list()]

    return claim.of_networks(evidence, "mIoU near boundaries", runs, measure, {"C, C + I, C + I + O": rules.trend})


def neighbors_share_context(evidence: Evidence) -> dict[str, Finding]:
    """Judge the Jaccard index of the classes of a query's image and of its neighbors' images, minus that by chance.

    The paper does not say where its queries are from: both splits are judged, the neighbors being of the training set.
    """
    runs = evidence.runs([Entry("spml_figure10", "SPML")], "mIoU")
    rule = partial(rules.direction, unit="share")
    judged = {f"queries of {name} images": rule for name in ("test", "training")}
    return claim.of_networks(evidence, "Jaccard index of neighbors", runs, _leads, judged) if runs else {}


def _leads(trained: Trained) -> tuple[float, ...]:
    """Return the means over the segments of the first images of the test and of the training set."""
    among = figures.bank(trained, trained.data)
    queries = (figures.bank(trained, split, IMAGES) for split in (trained.test, trained.data))
    contexts = [figures.measure_context(one, among) for one in queries]
    return tuple(float((one["nearest"] - one["chance"]).mean()) for one in contexts)


_rising = partial(claim.across, columns=_FORMS, rule=claim.rising)
CLAIMS = claim.claims_of(
    "spml",
    {
        "S02": claim.together(
            keeps(_SHARE, f"scribbles 100%, {WVF}", 0.03, "alone"),
            keeps(_SHARE._replace(row="SPML + CRF"), f"scribbles 100%, {WVF}", 0.03, "+ CRF"),
        ),
        "S03": keeps(_SHARE, f"scribbles 0%, {WVF}", 0.04, "0 %"),
        "S04": claim.together(*(keeps(_SHARE, f"scribbles {length}, {WVF}", 0.04, length) for length in LENGTHS)),
        "S05": claim.across([_SPML], ("scribbles 100%", "scribbles 0%"), little_is_lost, "scribbles - spots"),
        "S07": claim.across((_SPML, _RIVAL), _EVERY_LENGTH, lambda v: rules.trend(v[:, 0] - v[:, 1]), "100 % to 0 %"),
        "S12": claim.compare(_WEIGHTS_I, {"lambda_i": "scribbles"}, partial(rules.optimum, best=LAMBDAS_I.index(0.1))),
        "S13": claim.together(
            claim.compare(_WEIGHTS_O, {"lambda_o": "scribbles"}, partial(rules.optimum, best=LAMBDAS_O.index(0.5))),
            claim.compare(_WEIGHTS_O[:3], {"λ_O 0.1 … 1": "scribbles"}, flat),
        ),
        "S16": keeps(Entry("spml_table10", "SPML"), WVF, 0.05, "parts"),
        "S17": every_part,
        "S19": claim.together(_rising([_WITH_CRF], setting="tags, spots, boxes, scribbles"), full_is_best),
        "S20": boundaries_improve,
        "S21": neighbors_share_context,
    },
)

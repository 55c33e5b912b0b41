"""The claims of SPML (ICLR 2021) about its numbers, from every form of labels."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from agmm.data import sets
from agmm.papers import rules
from agmm.papers.claim import Claim, Judge, Rows, better, has, together
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding, Verdict
from agmm.papers.spml.tables import LENGTHS
from agmm.training.run import Result, Run

SHARES = dict(zip(LENGTHS.values(), (0.975, 0.975, 0.963, 0.965, 0.937), strict=True))
"""Share of full supervision by the length of scribbles (Table 7, without a DenseCRF)."""

SCRIBBLES = tuple(LENGTHS.values())


def spml(**options: Any) -> Rows:
    """SPML with its second classifier; from dense labels, with the classifier that learns beside the embedding."""
    return lambda evidence, labels: evidence.preset.spml(labels, **options)


def rival(evidence: Evidence, labels: str) -> Run:
    """The DenseCRF loss."""
    return evidence.preset.at(labels, "DenseCRFLoss")


def softmax(evidence: Evidence, labels: str) -> Run:
    """Cross-entropy of the labels."""
    return evidence.preset.at(labels)


def refined(rows: Rows) -> Rows:
    """The same weights with a DenseCRF."""
    return lambda evidence, labels: rows(evidence, labels).tested(**evidence.preset.networks["resnet"].refined)


def where_there(judge: Judge, labels: tuple[str, ...] = ("scribbles",), crf: bool = False) -> Judge:
    """A judge of presets that have SPML, these kinds of labels and, if it is asked for, a DenseCRF."""

    def judged(evidence: Evidence) -> dict[str, Finding]:
        preset = evidence.preset
        there = preset.embedding is not None and has(evidence, labels)
        return judge(evidence) if there and (preset.networks["resnet"].refined or not crf) else {}

    return judged


def keeps(kind: str, whole: str, published: float, tolerance: float, name: str, crf: bool = False) -> Judge:
    """The share of full supervision's mIoU, of the same method and test."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        rows = refined(spml()) if crf else spml()
        values = evidence.miou(rows(evidence, kind), rows(evidence, whole))
        return {name: rules.ratio(values[:, 0], values[:, 1], published, tolerance)}

    return where_there(judge, (kind, whole), crf)


def little_is_lost(evidence: Evidence) -> dict[str, Finding]:
    """From whole scribbles to spots between 0 and 6 points are lost; more than 8 refute it."""
    lost = evidence.lead(spml()(evidence, "scribbles"), spml()(evidence, "scribbles0"))
    found = rules.direction(lost, 2.9)
    if found.n < rules.MIN_SEEDS:
        return {"scribbles - spots": found}
    inside, far = found.low > 0 and found.high < 6, found.effect > 8
    verdict: Verdict = "reproduced" if inside else "not reproduced" if far else "inconclusive"
    return {"scribbles - spots": replace(found, verdict=verdict, p=math.nan)}


def margin_grows(evidence: Evidence) -> dict[str, Finding]:
    """The lead over the DenseCRF loss grows as scribbles shrink."""
    v = evidence.miou(*(rows(evidence, kind) for rows in (spml(), rival) for kind in SCRIBBLES))
    return {"100 % to 0 %": rules.trend(v[:, : len(SCRIBBLES)] - v[:, len(SCRIBBLES) :])}


def best_weight(name: str, values: tuple[float, ...], best: float) -> Judge:
    """No weight of a relation beats the chosen one."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        runs = [spml(**{name: value})(evidence, "scribbles") for value in values]
        return {name: rules.optimum(evidence.miou(*runs), values.index(best))}

    return where_there(judge)


def flat(evidence: Evidence) -> dict[str, Finding]:
    """Weights of co-occurrence from 0.1 to 1 do not matter."""
    reference, *others = (spml(lambda_o=value)(evidence, "scribbles") for value in (0.5, 0.1, 1.0))
    return {"λ_O 0.1 … 1": rules.equivalence([evidence.lead(other, reference) for other in others], 1.0)}


def every_part(evidence: Evidence) -> dict[str, Finding]:
    """SPML is ahead of the DenseCRF loss in nine of ten classes of parts."""
    runs = spml()(evidence, "parts"), rival(evidence, "parts")
    classes = range(len(sets.class_names(runs[0].dataset)))
    iou = np.stack([evidence.paired(partial(_class_iou, k), *runs) for k in classes])
    return {"parts": rules.share((iou[..., 0] > iou[..., 1]).mean(0), 0.9, 0.5)}


def order(evidence: Evidence) -> dict[str, Finding]:
    """With a DenseCRF: scribbles above boxes above spots above image tags."""
    runs = [refined(spml())(evidence, kind) for kind in ("cam", "scribbles0", "boxcam", "scribbles")]
    return {"tags, spots, boxes, scribbles": rules.trend(evidence.miou(*runs))}


def full_is_best(evidence: Evidence) -> dict[str, Finding]:
    """Full supervision above the best of them."""
    full, scribbles = (refined(spml())(evidence, kind) for kind in ("full", "scribbles"))
    return {"full - scribbles": rules.direction(evidence.lead(full, scribbles), 1.2)}


def _class_iou(k: int, result: Result) -> float:
    return result.iou[k] or 0.0


_first, _second = partial(better, labels=("scribbles",)), partial(better, labels=("parts",))
_lengths = together(
    *(
        keeps(kind, "full", share, 0.04, length)
        for (length, kind), share in zip(LENGTHS.items(), SHARES.values(), strict=True)
    )
)
_share = together(
    keeps("scribbles", "full", 0.975, 0.03, "alone"), keeps("scribbles", "full", 0.984, 0.03, "+ CRF", True)
)
_against = together(
    where_there(_first(spml(), rival, (1.2,))),
    where_there(_first(refined(spml()), refined(rival), (1.1,), which="+ CRF"), crf=True),
)
_crf = where_there(better(refined(spml()), spml(), (1.9, 1.9), ("scribbles", "scribbles0")), crf=True)
_every = where_there(better(spml(), rival, (math.nan,) * len(SCRIBBLES), SCRIBBLES), SCRIBBLES)
_alone, _low, _both = spml(lambda_i=0.0, lambda_o=0.0), spml(lambda_o=0.0), spml()
_claim = partial(Claim, labels="scribbles", agmm=False)
_parts = partial(Claim, labels="parts", agmm=False)
CLAIMS = (
    _claim("S01", "Tables 3, 8", "SPML beats the DenseCRF loss", "+1.2; +1.1", _against),
    _claim("S02", "Table 3", "scribbles keep most of full supervision", "97.5 %; 98.4 %", _share),
    _claim("S03", "Tables 3, 7", "and so do points", "93.7 %", keeps("scribbles0", "full", 0.937, 0.04, "0 %")),
    _claim("S04", "Table 7", "at every length", "97.5 97.5 96.3 96.5 93.7", _lengths),
    _claim("S05", "text", "little is lost from scribbles to points", "-2.9", where_there(little_is_lost, SCRIBBLES)),
    _claim("S06", "Table 7", "SPML beats the DenseCRF loss at every length", "+10.1 … +16.0", _every),
    _claim("S07", "Table 7", "the shorter, the more", "10.1 10.3 10.6 12.3 16.0", where_there(margin_grows, SCRIBBLES)),
    _claim("S08", "Table 6", "low-level similarity helps", "+1.6", where_there(_first(_low, _alone, (1.6,)))),
    _claim("S09", "Table 6", "co-occurrence helps", "+1.4", where_there(_first(_both, _low, (1.4,)))),
    _claim(
        "S10",
        "Table 6",
        "low-level similarity helps beside it",
        "+2.5",
        where_there(_first(_both, spml(lambda_i=0.0), (2.5,))),
    ),
    _claim(
        "S11",
        "Table 6",
        "feature affinity hurts on VOC",
        "-0.4",
        where_there(_first(_both, spml(lambda_a=0.1), (0.4,), least=10)),
    ),
    _claim("S12", "Table 6", "λ_I = 0.1 is best", "74.2", best_weight("lambda_i", (0.3, 0.1, 0.05, 0.0), 0.1)),
    _claim(
        "S13",
        "Table 6",
        "λ_O = 0.5 is best, and hardly so",
        "74.1 74.2 74.1",
        together(best_weight("lambda_o", (1.0, 0.5, 0.1, 0.0), 0.5), where_there(flat)),
    ),
    _claim("S14", "Tables 3, 7", "a DenseCRF helps", "+1.9, +1.9", _crf),
    _parts(
        "S15",
        "Tables 4, 10",
        "SPML beats the DenseCRF loss on parts",
        "+12.9",
        where_there(_second(spml(), rival, (12.9,)), ("parts",)),
    ),
    _parts(
        "S16",
        "Table 4",
        "points on parts keep most of full supervision",
        "77.1 %",
        keeps("parts", "parts_full", 0.771, 0.05, "parts"),
    ),
    _parts("S17", "Table 10", "SPML is ahead in every part", "15 of 15", where_there(every_part, ("parts",))),
    _parts(
        "S18",
        "Table 10",
        "in full a softmax beats SegSort on parts",
        "+3.0",
        where_there(better(softmax, spml(), (3.0,), ("parts_full",)), ("parts_full",)),
    ),
    _claim(
        "S19",
        "Tables 2, 3, 7, 9",
        "scribbles > boxes > points > image tags",
        "76.1 73.5 73.2 69.5",
        together(
            where_there(order, ("cam", "scribbles0", "boxcam", "scribbles"), crf=True),
            where_there(full_is_best, ("full", "scribbles"), crf=True),
        ),
    ),
)
"""Those about numbers; figures have `agmm.papers.spml.claims_figures`."""

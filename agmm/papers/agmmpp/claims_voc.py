"""The claims that the tables of AGMM++ (TPAMI 2025) make on VOC with points, scribbles and boxes."""

import math
from functools import partial

from agmm.papers import rules
from agmm.papers.agmmpp.claims_rows import WITH_CON, WITH_SELF, WITH_WEAK, agmm, assignment, plus, refined, seg
from agmm.papers.agmmpp.tables import LAMBDAS
from agmm.papers.claim import VOC, Claim, Judge, Rows, better, has, settings, together
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding
from agmm.training.run import Run

BOXES = ("boxes", *VOC)
NAMES = {"resnet": "ResNet", "vit": "ViT"}
FORMS = ("tags", "points", "scribbles", "blocks", "boxes")
"""All forms of weak labels, each a kind on a preset's first data set."""


def em_helps_points_more(evidence: Evidence) -> dict[str, Finding]:
    """Gain of online EM over AGMM, both with the old contrast, points minus scribbles."""
    if not has(evidence, VOC):
        return {}
    v = evidence.miou(*(rows(evidence, labels) for labels in VOC for rows in (_OLD, agmm())))
    return {"points - scribbles": rules.direction(v[:, 0] - v[:, 1] - v[:, 2] + v[:, 3], 1.0)}


def crf_helps(network: str, claimed: tuple[float, float]) -> Judge:
    """The same weights with a DenseCRF and without, if the preset has one."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        networks = evidence.preset.networks
        if network not in networks or not networks[network].refined:
            return {}
        return better(refined(plus(network), network), plus(network), claimed, which=NAMES[network])(evidence)

    return judge


def _lambda(evidence: Evidence, labels: str) -> list[Run]:
    return [plus(lambda_gmm=weight)(evidence, labels) for weight in LAMBDAS]


def lambda_one_is_best(evidence: Evidence) -> dict[str, Finding]:
    """No weight of the mixture beats 1."""
    best = LAMBDAS.index(1.0)
    return {
        labels: rules.optimum(evidence.miou(*_lambda(evidence, labels)), best)
        for labels, _, _ in settings(evidence, VOC, (1, 1))
    }


def lambda_rises(evidence: Evidence) -> dict[str, Finding]:
    """mIoU grows with the weight, from 0.1 to 1."""
    return {
        labels: rules.trend(evidence.miou(*_lambda(evidence, labels)[:-1]))
        for labels, _, _ in settings(evidence, VOC, (1, 1))
    }


def every_form_gains(evidence: Evidence) -> dict[str, Finding]:
    """AGMM++ beats its own segmentation loss with every form of weak labels, on the preset's first data set."""
    preset, found, missing = evidence.preset, {}, []
    for form in FORMS:
        if form not in preset.labels or preset.at(form).dataset != preset.run.dataset:
            missing.append(form)
            continue
        found[form] = rules.direction(evidence.lead(plus()(evidence, form), seg()(evidence, form)))
    if missing:
        note = f"no {' or '.join(missing)} on {preset.run.dataset}"
        found["all five forms"] = Finding("inconclusive", note=note)
    return found


def steps(
    network: str, labels: tuple[str, ...], names: tuple[str, ...], claimed: tuple[tuple[float, ...], ...]
) -> Judge:
    """Every row of an ablation against the row above."""
    rows: list[Rows] = [seg(network), *(plus(network, **options) for options in (WITH_SELF, WITH_WEAK, WITH_CON))]
    pairs = zip(names, (*rows[1:], plus(network)), rows, claimed, strict=True)
    return together(
        *(better(after, before, gains, labels, which=name, network=network) for name, after, before, gains in pairs)
    )


STEP_NAMES = ("L_self", "L_weak", "L_con", "online EM")
_claim = partial(Claim, agmm=False)
_better = partial(better, sized=VOC)
_OLD = plus(terms=("seg", "self", "weak", "con_old"))
_VIT = together(better(plus("vit"), plus(), (3.3, 1.2), network="vit"))
_CRF = together(crf_helps("resnet", (1.8, 0.8)), crf_helps("vit", (2.2, 1.6)))
_STEPS = steps("vit", BOXES, STEP_NAMES, ((6.9, 8.8, 4.2), (0.9, 2.5, 2.9), (1.3, 0.5, 1.1), (1.0, 0.6, 1.5)))
_BOXES = together(
    *(
        better(
            refined(plus(network), network),
            refined(seg(network), network),
            (claimed,),
            ("boxes",),
            which=NAMES[network],
            network=network,
        )
        for network, claimed in {"resnet": 10.1, "vit": math.nan}.items()
    )
)
_RIVALS = together(
    better(plus(), plus(stop_gradient=True), (4.9, 2.9), which="against SG"),
    better(plus(), assignment, (5.8, 4.1), which="against assignment"),
)
_STEPS_PRINTED = "6.9 8.8 4.2; 0.9 2.5 2.9; 1.3 0.5 1.1; 1.0 0.6 1.5"
_LAMBDA_PRINTED = "68.5 … 72.3; 76.0 … 78.3"
CLAIMS = (
    Claim("P01", "Tables 3, 5, 10", "AGMM++ beats AGMM", "+2.7, +1.1", _better(plus(), agmm(), (2.7, 1.1))),
    Claim("P02", "Table 10", "online EM helps AGMM", "+1.6, +0.6", better(_OLD, agmm(), (1.6, 0.6))),
    _claim("P03", "Table 10", "the new contrast helps", "+1.1, +0.5", better(plus(), _OLD, (1.1, 0.5))),
    Claim("P04", "Table 10", "online EM helps points more", "1.6 > 0.6", em_helps_points_more),
    _claim("P05", "Tables 3, 5", "a DenseCRF helps", "+1.8, +0.8; +2.2, +1.6", _CRF),
    _claim("P06", "Tables 3, 5", "a transformer beats the ResNet", "+3.3, +1.2", _VIT),
    _claim("P15", "Table 12", "every step helps a transformer", _STEPS_PRINTED, _STEPS, network="vit"),
    _claim("P19", "Table 6", "AGMM++ beats L_seg with boxes", "75.5 against 65.4", _BOXES, labels="boxes"),
    _claim("P20", "Table 14", "λ = 1 is best", "72.3; 78.3", lambda_one_is_best),
    _claim("P21", "Table 14", "λ from 0.1 to 1 is rising", _LAMBDA_PRINTED, lambda_rises),
    _claim("P22", "Table 15", "AGMM++ beats SG, assignment", "+4.9, +2.9; +5.8, +4.1", _RIVALS),
    _claim("P28", "abstract", "every form of labels gains", "", every_form_gains),
)

"""The claims that AGMM++ (TPAMI 2025) makes on image tags: VOC and COCO.

Its baseline there is ToCo. Ours starts from the same pre-training; the paper's is quoted.
"""

from functools import partial

from agmm.papers import rules
from agmm.papers.agmm.claims_voc import MANY
from agmm.papers.agmmpp.claims_rows import WITH_CON, WITH_SELF, WITH_WEAK, plus, refined, seg
from agmm.papers.agmmpp.claims_voc import NAMES, STEP_NAMES
from agmm.papers.claim import Claim, Judge, Rows, better, second_stage, together
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding, Numbers
from agmm.training.run import Result

TAGS, COCO = ("tags",), ("coco_tags",)
ROWS: tuple[Rows, ...] = (
    seg("vit"),
    *(plus("vit", **options) for options in (WITH_SELF, WITH_WEAK, WITH_CON)),
    plus("vit"),
)
"""ToCo, then the steps of Table 8."""


def single_scale(result: Result) -> float:
    """mIoU at one scale, of runs that are tested at several, too."""
    return float(result.details.get("single_scale_miou", result.miou))


def beats_toco(evidence: Evidence) -> dict[str, Finding]:
    """AGMM++ against ToCo at a single scale, and as both are tested at their best; the test split is not public."""
    if not _possible(evidence):
        return {}
    ours, theirs = (rows(evidence, "tags") for rows in (ROWS[-1], ROWS[0]))
    v = evidence.paired(single_scale, ours, theirs)
    found = {"single scale": _judged(evidence, v[:, 0] - v[:, 1], 2.7)}
    if evidence.preset.networks["vit"].refined:
        lead = evidence.lead(*(refined(rows, "vit")(evidence, "tags") for rows in (ROWS[-1], ROWS[0])))
        found["refined test"] = _judged(evidence, lead, 1.7)
    return found


def pseudo_labels_improve(evidence: Evidence) -> dict[str, Finding]:
    """Quality on training images, of the CAMs for ToCo and of the mixture for all steps."""
    if not _possible(evidence):
        return {}
    first, *others = (rows(evidence, "tags") for rows in ROWS)
    v = evidence.final(("cam_miou", first), *(("g_miou", run) for run in others))
    return _steps(v, (1.0, 0.6, 0.4, 0.8), 2.8)


def segmentation_improves(evidence: Evidence) -> dict[str, Finding]:
    """The same steps, on test images at a single scale."""
    if not _possible(evidence):
        return {}
    return _steps(evidence.paired(single_scale, *(rows(evidence, "tags") for rows in ROWS)), (1.0, 0.4, 0.7, 0.6), 2.7)


def second_stage_helps(labels: tuple[str], claimed: dict[str, float]) -> Judge:
    """Multi-stage training against one stage, for each network."""
    return together(
        *(
            better(
                refined(second_stage(plus(network)), network),
                refined(plus(network), network),
                (gain,),
                labels,
                which=NAMES[network],
                network=network,
            )
            for network, gain in claimed.items()
        )
    )


def _possible(evidence: Evidence) -> bool:
    return "tags" in evidence.preset.labels and "vit" in evidence.preset.networks


def _judged(evidence: Evidence, lead: Numbers, claimed: float) -> Finding:
    """Direction, and on the paper's data set the size."""
    return (rules.size if evidence.sized("tags") else rules.direction)(lead, claimed)


def _steps(values: Numbers, claimed: tuple[float, ...], total: float) -> dict[str, Finding]:
    """The gain of each of (n, steps) values over the one before, which needs many seeds, and that of all."""
    gains = zip(STEP_NAMES, (values[:, 1:] - values[:, :-1]).T, claimed, strict=True)
    found = {name: rules.direction(gain, size, least=MANY) for name, gain, size in gains}
    return found | {"all together": rules.direction(values[:, -1] - values[:, 0], total)}


_claim = partial(Claim, labels="tags", network="vit", agmm=False)
_coco = partial(_claim, labels="coco_tags")
_COCO = better(refined(ROWS[-1], "vit"), refined(ROWS[0], "vit"), (1.2,), COCO, network="vit")
_MT = second_stage_helps(TAGS, {"resnet": 4.3, "vit": 1.5})
_MT_COCO = second_stage_helps(COCO, {"resnet": 3.1, "vit": 2.1})
_MT_TEXT = "a second stage helps with tags", "+4.3, +1.5; +3.1, +2.1"
CLAIMS = (
    _claim("P12", "Tables 1, 8", "AGMM++ beats ToCo with tags", "+2.7; +1.7", beats_toco),
    _claim("P13", "Table 8", "steps improve pseudo labels", "+1.0, +0.6, +0.4, +0.8", pseudo_labels_improve),
    _claim("P14", "Table 8", "steps improve segmentation", "+1.0, +0.4, +0.7, +0.6", segmentation_improves),
    _coco("P17", "Table 2", "AGMM++ beats ToCo on COCO", "+1.2", _COCO),
    _claim("P18", "Tables 1, 2", *_MT_TEXT, _MT, network="resnet"),
    _coco("P18", "Tables 1, 2", *_MT_TEXT, _MT_COCO, network="resnet"),
)

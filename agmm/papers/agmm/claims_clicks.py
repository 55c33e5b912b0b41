"""The claims that AGMM (CVPR 2023) makes on Cityscapes with 20, 50 and 100 clicks an image."""

from functools import partial

from agmm.papers import rules
from agmm.papers.claim import (
    CLICKS,
    Claim,
    baseline,
    better,
    crf_loss,
    full,
    gain_shrinks,
    has,
    second_stage,
    settings,
    together,
    tree_energy,
    with_self,
    with_spar,
)
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding

_better = partial(better, labels=CLICKS)
_claim = partial(Claim, labels="clicks20")


def crf_helps_little(evidence: Evidence) -> dict[str, Finding]:
    """Gain of the DenseCRF loss beside AGMM's."""
    found = {}
    for labels, name, published in settings(evidence, CLICKS, (0.7, 1.3, 1.3)):
        v = evidence.miou(*(rows(evidence, labels) for rows in (baseline, crf_loss, full)))
        found[name] = rules.little(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0], published)
    return found


def more_clicks_are_better(evidence: Evidence) -> dict[str, Finding]:
    """mIoU rises from 20 to 100 clicks."""
    if not has(evidence, CLICKS):
        return {}
    return {
        name: rules.trend(evidence.miou(*(rows(evidence, labels) for labels in CLICKS)))
        for name, rows in {"baseline": baseline, "AGMM": full}.items()
    }


_BASELINE = _better(full, baseline, (8.6, 8.0, 7.4), sized=CLICKS)
_OVER_TEL = _better(full, tree_energy, (5.8, 5.5, 4.0), sized=CLICKS)
_SHRINKS = gain_shrinks(full, baseline, CLICKS, "100 to 20 clicks")
_MT, _MT_AGMM = second_stage(baseline), second_stage(full)
_TEL = together(
    _better(tree_energy, baseline, (2.8, 2.5, 3.4), which="against the baseline"),
    _better(tree_energy, crf_loss, (2.1, 1.2, 2.1), which="against DenseCRF loss"),
)
_STEPS = together(
    _better(with_self, baseline, (5.7, 6.1, 4.1), which="L_self"),
    _better(with_spar, with_self, (1.5, 0.7, 1.9), which="L_spar"),
    _better(full, with_spar, (1.4, 1.2, 1.4), which="L_con"),
)
_STAGES = together(
    _better(_MT, baseline, (6.2, 4.9, 3.6), which="baseline"),
    _better(_MT_AGMM, full, (4.4, 3.4, 1.8), which="AGMM"),
)
_STEPS_PRINTED = "+5.7 +6.1 +4.1; +1.5 +0.7 +1.9; +1.4 +1.2 +1.4"
CLAIMS = (
    _claim("A23", "Table 5", "AGMM beats the baseline with clicks", "+8.6, +8.0, +7.4", _BASELINE),
    _claim("A24", "Table 5", "AGMM beats TEL with clicks", "+5.8, +5.5, +4.0", _OVER_TEL),
    _claim("A25", "Table 5", "DenseCRF loss helps little with clicks", "+0.7, +1.3, +1.3", crf_helps_little),
    _claim("A26", "Table 5", "TEL beats baseline and DenseCRF loss", "+2.8, +2.5, +3.4; +2.1, +1.2, +2.1", _TEL),
    _claim("A27", "Table 5", "more clicks are better", "", more_clicks_are_better),
    _claim("A28", "Table 5", "AGMM gains less with more clicks", "8.6 > 8.0 > 7.4", _SHRINKS),
    _claim("A29", "supp. Table 2", "every loss helps with clicks", _STEPS_PRINTED, _STEPS),
    _claim("A30", "supp. Table 2", "a second stage helps with clicks", "+6.2 +4.9 +3.6; +4.4 +3.4 +1.8", _STAGES),
)

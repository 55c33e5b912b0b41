"""Claims of SPML: verdicts on results written by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from agmm.papers import tables
from agmm.papers.claim import Rows
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding
from agmm.papers.spml import claims
from agmm.papers.spml.claims import refined, rival, softmax, spml
from agmm.training.presets import PRESETS
from tests.test_claims import write

NOISE = (0.0, 0.2, -0.1)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(PRESETS["quick"], tmp_path, absent=True)


def fill(evidence: Evidence, values: dict[tuple[Rows, str], float], **more: object) -> None:
    """Results of rows with kinds of labels, which differ between seeds by little."""
    for (rows, labels), value in values.items():
        for seed, noise in enumerate(NOISE):
            write(evidence.results, replace(rows(evidence, labels), seed=seed), value * (1 + noise / 50), **more)


def judged(evidence: Evidence, name: str) -> dict[str, Finding]:
    (claim,) = (claim for claim in claims.CLAIMS if claim.id == name)
    return claim.judge(evidence)


def verdicts(evidence: Evidence, name: str) -> list[str]:
    return [finding.verdict for finding in judged(evidence, name).values()]


@pytest.mark.parametrize(("spots", "verdict"), [(71.3, "reproduced"), (75.0, "inconclusive"), (60.0, "not reproduced")])
def test_little_is_lost_between_nothing_and_six_points(evidence: Evidence, spots: float, verdict: str) -> None:
    fill(evidence, {(spml(), "scribbles"): 74.2, (spml(), "scribbles0"): spots})
    assert verdicts(evidence, "S05") == [verdict]


def test_shares_of_full_supervision(evidence: Evidence) -> None:
    whole = {(spml(), "full"): 80.0, (refined(spml()), "full"): 80.0}
    fill(evidence, whole | {(spml(), "scribbles"): 78.0, (refined(spml()), "scribbles"): 60.0})
    assert verdicts(evidence, "S02") == ["reproduced", "not reproduced"]
    assert judged(evidence, "S02")["alone"].effect == pytest.approx(0.975)
    assert verdicts(evidence, "S04") == ["reproduced", *["inconclusive"] * 4]


def test_the_margin_grows_as_scribbles_shrink(evidence: Evidence) -> None:
    kinds = claims.SCRIBBLES
    fill(evidence, {(spml(), kind): 80.0 - k for k, kind in enumerate(kinds)})
    fill(evidence, {(rival, kind): 79.0 - 2 * k for k, kind in enumerate(kinds)})
    assert verdicts(evidence, "S07") == ["reproduced"]
    assert verdicts(evidence, "S06") == ["reproduced"] * 5
    assert verdicts(evidence, "S01") == ["reproduced", "inconclusive"]


def test_relations_against_each_other(evidence: Evidence) -> None:
    fill(
        evidence,
        {
            (spml(), "scribbles"): 74.0,
            (spml(lambda_o=0.0), "scribbles"): 72.0,
            (spml(lambda_i=0.0), "scribbles"): 76.0,
            (spml(lambda_i=0.0, lambda_o=0.0), "scribbles"): 70.0,
            (spml(lambda_i=0.3), "scribbles"): 70.0,
            (spml(lambda_i=0.05), "scribbles"): 70.0,
            (spml(lambda_a=0.1), "scribbles"): 60.0,
        },
    )
    assert verdicts(evidence, "S08") == verdicts(evidence, "S09") == ["reproduced"]
    assert verdicts(evidence, "S10") == verdicts(evidence, "S12") == ["not reproduced"]
    assert verdicts(evidence, "S11") == ["inconclusive"]  # ten seeds are needed


def test_parts(evidence: Evidence) -> None:
    ious = [50.0] * 15
    fill(evidence, {(spml(), "parts"): 50.0}, iou=ious)
    fill(evidence, {(rival, "parts"): 40.0}, iou=[60.0, *[40.0] * 14])
    fill(evidence, {(spml(), "parts_full"): 65.0, (softmax, "parts_full"): 68.0})
    assert verdicts(evidence, "S15") == verdicts(evidence, "S17") == verdicts(evidence, "S18") == ["reproduced"]
    assert judged(evidence, "S17")["parts"].effect == pytest.approx(14 / 15)
    assert verdicts(evidence, "S16") == ["reproduced"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_something_judges_what_it_has(preset: str, tmp_path: Path) -> None:
    for claim in claims.CLAIMS:
        assert all(
            found.verdict == "inconclusive" for found in claim.judge(Evidence(PRESETS[preset], tmp_path, True)).values()
        )


def test_claims_judge_what_the_tables_train(evidence: Evidence) -> None:
    trained = {run.id for run in tables.needed(tables.GROUPS["spml"], "quick", 1)}
    asked: set[str] = set()

    class Listening(Evidence):
        def seeds(self, *runs):  # type: ignore[no-untyped-def]
            asked.update(run.id for run in runs)
            return []

    for claim in claims.CLAIMS:
        claim.judge(Listening(evidence.preset, evidence.results, True))
    assert asked <= trained
    assert len(asked) > 20

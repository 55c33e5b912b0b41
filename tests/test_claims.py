"""Claims: rules against closed forms and examples worked out by hand; verdicts on results written by hand."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agmm import Result, claims
from agmm.claims import agmm as paper
from agmm.claims import rules
from agmm.claims.evidence import Evidence
from agmm.presets import PRESETS
from tests.helpers import shared

QUICK = PRESETS["quick"]
points = st.floats(-20, 20).map(lambda x: round(x, 2))


# --- Rules ------------------------------------------------------------------------------------------------------------


@given(st.lists(points, min_size=3, max_size=8), st.floats(0.1, 10))
def test_direction_is_the_one_sample_t_test(differences, claimed):
    d = np.array(differences)
    found = rules.direction(d, claimed)
    if np.ptp(d) < 1e-9:
        return  # scipy divides by zero there
    ours = found.effect, found.low, found.high
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert ours == pytest.approx((d.mean(), *expected), abs=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(d, 0, alternative="greater").pvalue, abs=1e-12)
    assert (found.verdict == "reproduced") == (expected.low > 0)
    if expected.high < 0:
        assert found.verdict == "not reproduced"


def test_direction_by_hand():
    assert rules.direction(np.array([5.0, 6.0, 7.0]), 10).verdict == "reproduced"
    assert rules.direction(np.array([-5.0, -6.0, -7.0]), 10).verdict == "not reproduced"
    assert rules.direction(np.array([-5.0, 6.0, 7.0]), 10).verdict == "inconclusive"
    # Surely negligible beside a claim of ten points, but not beside one of half a point.
    small = np.array([0.1, -0.1, 0.1, -0.1])
    assert rules.direction(small, 10).verdict == "not reproduced"
    assert rules.direction(small, 0.5).verdict == "inconclusive"
    # Equal differences still have an uncertainty.
    same = rules.direction(np.array([0.1, 0.1, 0.1]), 1)
    assert same.high - same.low == pytest.approx(2 * 0.05 * 4.3027, rel=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_two_seeds_are_no_evidence(n):
    d, v = np.full(n, 9.0), np.tile([1.0, 2.0, 3.0], (n, 1))
    found = [rules.direction(d, 1), rules.size(d, 1), rules.equivalence([d, d], 1), rules.share(d, 0.9, 0.5)]
    found += [rules.optimum(v, 2), rules.trend(v), rules.ratio(d, d, 1, 0.1)]
    assert [(one.verdict, one.n) for one in found] == [("inconclusive", n)] * len(found)


def test_size():
    assert rules.size(np.array([9.0, 10.0, 11.0]), 10).verdict == "reproduced"
    too_small = rules.size(np.array([1.0, 1.1, 0.9]), 10)
    assert (too_small.verdict, too_small.note) == ("not reproduced", "direction reproduced, size not")


def test_equivalence():
    near, far, wide = np.array([0.1, 0.0, -0.1]), np.array([5.0, 5.1, 4.9]), np.array([-3.0, 0.0, 3.0])
    assert rules.equivalence([near, -near], 1).verdict == "reproduced"
    assert rules.equivalence([near, far], 1).verdict == "not reproduced"
    assert rules.equivalence([near, far], 1).effect == pytest.approx(5)
    assert rules.equivalence([near, wide], 1).verdict == "inconclusive"


def test_optimum():
    noise = np.array([[0.0], [0.01], [-0.01]])
    assert rules.optimum(noise + [50.0, 60.0, 55.0], 1).verdict == "reproduced"
    assert rules.optimum(noise + [50.0, 60.0, 55.0], 1).effect == pytest.approx(5)
    assert rules.optimum(noise + [50.0, 60.0, 55.0], 2).verdict == "not reproduced"
    # Ahead by less than what counts, beyond doubt: neither.
    assert rules.optimum(noise + [60.28, 60.0, 55.0], 1).verdict == "inconclusive"
    assert rules.optimum(np.array([[60.2, 60], [59.8, 60], [60.2, 60.0]]), 1).verdict == "reproduced"


def test_trend():
    assert rules.trend(np.array([[1.0, 2, 3, 4], [1, 2, 4, 3], [2, 3, 4, 5]])).verdict == "reproduced"
    assert rules.trend(np.array([[4.0, 3, 2, 1]] * 3)).verdict == "not reproduced"
    assert rules.trend(np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]])).verdict == "inconclusive"
    assert rules.trend(np.ones((3, 4))).verdict == "not reproduced"


def test_ratio_interval_holds_the_ratio_of_means():
    a, b = np.array([8.0, 9.0, 10.0, 9.0]), np.array([10.0, 10.0, 11.0, 9.0])
    found = rules.ratio(a, b, 0.9, 0.01)
    assert found.effect == pytest.approx(36 / 40)
    assert found.low < 0.9 < found.high
    assert (found.low, found.high) == (rules.ratio(a, b, 0.1, 0).low, rules.ratio(a, b, 0.1, 0).high)
    assert rules.ratio(a, b, 0.5, 0.1).verdict == "not reproduced"


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_is_bonferroni_on_what_is_left(p):
    """The definition: the k-th smallest p value passes if it and all smaller ones are below alpha / (m - k + 1)."""
    passed = rules.holm(p)
    for value, ok in zip(p, passed, strict=True):
        smaller = sorted(p)[: sum(other <= value for other in p)]
        if len(set(p)) == len(p):
            assert ok == all(one <= 0.025 / (len(p) - k) for k, one in enumerate(smaller))


def test_combine():
    good, bad, open_ = "reproduced", "not reproduced", "inconclusive"
    assert rules.combine([good, good]) == good
    assert rules.combine([good, bad, open_]) == bad
    assert rules.combine([good, open_]) == open_
    assert rules.combine([]) == open_


# --- Claims -----------------------------------------------------------------------------------------------------------


def write(results, run, miou, iou=(50.0, 50.0), curves=None):
    folder = run.folder(results)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run.to_dict()))
    result = Result(run.id, miou, list(iou), [[30, 10], [20, 40]], 2, 3.0, 100.0, 500.0, {})
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    curves = curves or dict.fromkeys(("p_miou", "p_restricted_miou", "g_miou"), [20.0, 30.0])
    pd.DataFrame({"epoch": range(1, 3)} | curves).to_csv(folder / "history.csv", index=False)


def test_claims_are_those_of_the_list():
    """Every id that the list assigns to what this version trains, with its place and numbers in the right order."""
    lines = [line.split("|") for line in shared("methods/claims.md").read_text().splitlines()]
    listed = {line[1].strip(): line for line in lines if len(line) > 5 and line[1].strip().startswith("A")}
    for claim in paper.CLAIMS:
        place = listed[claim.id][2]
        assert claim.where.split()[-1] in place or place.strip() == "same"
        for number in claim.published.replace("…", " ").replace(",", " ").replace("“", " ").split():
            if number[0] in "+0123456789":
                assert number.strip("+") in "|".join(listed[claim.id])
    assert len({claim.id for claim in paper.CLAIMS}) == len(paper.CLAIMS)


def test_differences_are_paired_over_seeds(tmp_path):
    """Seed 3 lacks its baseline and seed 4 its AGMM: neither counts."""
    evidence = Evidence(QUICK, tmp_path, absent=True)
    a, b = evidence.agmm("points"), QUICK.at("points")
    for seed, (ours, theirs) in {0: (60, 50), 1: (62, 51), 2: (61, 49), 3: (99, None), 4: (None, 48)}.items():
        for run, value in ((a, ours), (b, theirs)):
            if value is not None:
                write(tmp_path, replace(run, seed=seed), float(value))
    assert evidence.lead(a, b).tolist() == [10, 11, 12]
    frame = claims.collect("quick", tmp_path).set_index(["claim", "objective", "setting"])
    found = frame.loc[("A01", "released code", "points")]
    assert (found["n_seeds"], found["effect"], found["verdict"]) == (3, 11, "reproduced")
    assert found["low"] == pytest.approx(11 - 4.302653 / math.sqrt(3))
    assert frame.loc[("A02", "released code", "scribbles"), "n_seeds"] == 0
    assert frame.loc[("A01", "released code without L_absent", "points"), "verdict"] == "inconclusive"
    summary = claims.verdicts(frame.reset_index()).set_index("claim")
    assert summary.loc["A01", "released code"] == "reproduced"
    assert summary.loc["A02", "released code"] == "inconclusive"
    path = claims.write("quick", tmp_path)
    assert "not evidence for the papers" in path.read_text()
    assert "nan" not in path.read_text()
    assert "inf" not in path.read_text()
    assert (
        "| A01 | released code | points | 3 | +11.0 (+8.5 … +13.5) | +10.4 | reproduced | yes |  |" in path.read_text()
    )


def test_curves_by_hand(tmp_path):
    evidence = Evidence(QUICK, tmp_path, absent=True)
    for seed in range(3):
        shift = seed / 10
        curves = {"p_miou": [20.0, 50.0], "p_restricted_miou": [30.0, 50.0], "g_miou": [28.0 + shift, 51.0]}
        write(tmp_path, replace(evidence.agmm("points"), seed=seed), 60.0, curves=curves)
        write(tmp_path, replace(QUICK.at("points"), seed=seed), 50.0, curves={"p_miou": [10.0, 45.0]})
    early = paper.mixture_leads_early(evidence)
    assert early["points, against P"].effect == pytest.approx(8.1)
    assert early["points, against P"].verdict == "reproduced"
    assert early["points, against P among labeled classes"].verdict == "not reproduced"
    assert paper.gap_narrows(evidence)["points"].effect == pytest.approx(7.1)
    assert {found.verdict for found in paper.both_improve(evidence).values()} == {"reproduced"}
    assert paper.above_baseline_while_training(evidence)["points"].verdict == "reproduced"


def test_weak_preset_supports_nothing(tmp_path):
    """A constant prediction of the most frequent class, 60 % of the pixels, has 30 % mIoU; 40 % is too close to it."""
    evidence = Evidence(QUICK, tmp_path, absent=True)
    write(tmp_path, QUICK.at("points"), 40.0)
    assert "too weak" in evidence.too_weak(QUICK.at("points")).note
    write(tmp_path, replace(QUICK.at("scribbles")), 70.0)
    assert evidence.too_weak(QUICK.at("scribbles")) is None


def test_scribbles_against_points_per_class(tmp_path):
    evidence = Evidence(QUICK, tmp_path, absent=True)
    for seed in range(3):
        write(tmp_path, replace(evidence.agmm("points"), seed=seed), 50.0, iou=(50.0, 60.0))
        write(tmp_path, replace(evidence.agmm("scribbles"), seed=seed), 55.0, iou=(60.0, 59.0 + seed))
    found = paper.scribbles_beat_points_per_class(evidence)["scribbles - points"]
    assert (found.effect, found.verdict) == (0.5, "inconclusive")


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_trained_nothing_claimed(preset, tmp_path):
    frame = claims.collect(preset, tmp_path)
    assert set(frame["verdict"]) == {"inconclusive"}
    assert {claim.id for claim in paper.CLAIMS} - set(frame["claim"]) <= {"A02", "A09", "A37"}

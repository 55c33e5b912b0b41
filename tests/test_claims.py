"""Claims: rules against closed forms and examples worked out by hand; verdicts on results written by hand."""

import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import silhouette_score
from torch import nn

from agmm import Result, figures
from agmm.papers import rules, tables, verdicts
from agmm.papers.agmm import claims as paper
from agmm.papers.agmm import claims_clicks, claims_figures, claims_voc
from agmm.papers.agmmpp import claims as agmmpp
from agmm.papers.claim import CLICKS
from agmm.papers.evidence import Evidence
from agmm.training import loop, methods, weights
from agmm.training.presets import PRESETS
from tests.helpers import ROOT, shared

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
    found += [rules.optimum(v, 2), rules.trend(v), rules.ratio(d, d, 1, 0.1), rules.little(d, d, 1)]
    assert [(one.verdict, one.n) for one in found] == [("inconclusive", n)] * len(found)


def test_small_effects_may_need_more_seeds():
    d = np.array([0.5, 0.6, 0.7])
    few = rules.direction(d, 0.6, least=4)
    assert (few.verdict, few.note, few.n) == ("inconclusive", "fewer than 4 seeds", 3)
    assert math.isnan(few.p)
    assert (few.effect, few.low) == (rules.direction(d, 0.6).effect, rules.direction(d, 0.6).low)
    assert rules.direction(np.append(d, 0.6), 0.6, least=4).verdict == "reproduced"


def test_unknown_size_makes_nothing_negligible():
    small = np.array([0.1, -0.1, 0.1, -0.1])
    assert rules.direction(small).verdict == "inconclusive"


def test_little():
    """A gain of one point beside one of eight; the interval's half width is 2.48 standard deviations."""
    large = np.array([8.0, 9.0, 7.0])
    assert rules.little(np.array([0.9, 1.0, 1.1]), large, 0.7).verdict == "reproduced"
    assert rules.little(np.array([-1.5, -1.6, -1.4]), large, 0.7).verdict == "inconclusive"
    assert rules.little(np.array([3.0, 4.0, 5.0]), large, 0.7).verdict == "inconclusive"
    assert rules.little(large, large, 0.7).verdict == "not reproduced"
    # Beside a loss no gain is small.
    assert rules.little(np.array([0.1, 0.0, -0.1]), -large, 0.7).verdict == "not reproduced"
    assert math.isnan(rules.little(large, large, 0.7).p)


def test_effects_seed_by_seed():
    d, v = np.array([1.0, 3.0, 2.0]), np.array([[1.0, 2, 3], [1, 3, 2], [2, 3, 4]])
    assert rules.direction(d, 1).each == rules.little(d, d, 1).each == (1, 3, 2)
    assert rules.equivalence([d / 9, -d], 1).each == (-1, -3, -2)
    assert rules.optimum(v, 2).each == (1, -1, 1)
    assert rules.trend(v).each == pytest.approx((1, 0.5, 1))
    assert rules.ratio(d, d + 1, 1, 1).each == (0.5, 0.75, 2 / 3)


def test_intervals_stay_where_their_quantity_does():
    found = rules.share(np.array([1.0, 0.8, 1.0]), 0.8, 0.5)
    assert (found.high, found.verdict) == (1, "reproduced")
    assert 0.6 < found.low < 0.7
    # All seeds agree: nothing to be uncertain about, other than with points of mIoU, which are printed with a decimal.
    assert rules.share(np.ones(3), 0.8, 0.5).low == 1
    assert rules.trend(np.array([[1.0, 2, 4, 3], [1, 2, 3, 4], [1, 2, 3, 4]])).high == 1


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


def tables_of(name):
    return ROOT / "agmm" / "papers" / "published" / f"{name}.csv"


def write(results, run, miou, iou=(50.0, 50.0), curves=None, details=None):
    folder = run.folder(results)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run.to_dict()))
    result = Result(run.id, miou, list(iou), [[30, 10], [20, 40]], 2, 3.0, 100.0, 500.0, details or {})
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    curves = curves or dict.fromkeys(("p_miou", "p_restricted_miou", "g_miou"), [20.0, 30.0])
    pd.DataFrame({"epoch": range(1, 3)} | curves).to_csv(folder / "history.csv", index=False)


@pytest.mark.parametrize(("letter", "listed_claims", "number"), [("A", paper.CLAIMS, 38), ("P", agmmpp.CLAIMS, 29)])
def test_claims_are_those_of_the_list(letter, listed_claims, number):
    """Every id that the list assigns to what this version trains, with its place and numbers in the right order."""
    lines = [line.split("|") for line in shared("methods/claims.md").read_text().splitlines()]
    listed = {line[1].strip(): line for line in lines if len(line) > 5 and line[1].strip().startswith(letter)}
    ids = list(dict.fromkeys(claim.id for claim in listed_claims))
    assert ids == [f"{letter}{n:02}" for n in range(1, number + 1)] == list(listed)
    for claim in listed_claims:
        place = listed[claim.id][2]
        assert claim.where.split()[-1] in place or place.strip() == "same"
        for number in claim.published.replace("…", " ").replace(",", " ").replace("“", " ").replace(";", " ").split():
            if number[0] in "+0123456789":
                assert number.strip("+") in "|".join(listed[claim.id])


@pytest.fixture(scope="module", params=["quick", "camvid", "paper"])
def untrained(request, tmp_path_factory):
    return verdicts.collect(request.param, tmp_path_factory.mktemp("results"))


def test_nothing_trained_nothing_claimed(untrained):
    """But what a network costs needs no training."""
    text = verdicts.markdown("any", untrained)
    on_voc = "voc" in set(untrained["dataset"])
    assert ("sizes are judged where" in text) == on_voc
    judged = set(untrained.loc[untrained["verdict"] != "inconclusive", "claim"])
    assert judged == {"A38"} | ({"P23", "P24"} & set(untrained["claim"]))
    assert set(untrained["n_seeds"]) == {0}
    assert {claim.id for claim in paper.CLAIMS} - set(untrained["claim"]) <= {"A02", "A09", "A22", "A37"}
    if on_voc:
        assert {claim.id for claim in agmmpp.CLAIMS} <= set(untrained["claim"])


@pytest.mark.parametrize("untrained", ["paper"], indirect=True)
def test_claims_of_the_second_paper_take_up_agmm_where_they_name_it(untrained):
    """Those are judged with and without L_absent, all others once; none appears twice."""
    frame = untrained[untrained["paper"] == "AGMM++ (TPAMI 2025)"]
    assert not frame.duplicated(["claim", "objective", "setting"]).any()
    objectives = frame.groupby("claim")["objective"].agg(set)
    both = set(verdicts.OBJECTIVES.values())
    assert {claim for claim, found in objectives.items() if found == both} == {"P01", "P02", "P04", "P07", "P08"}
    assert {claim for claim, found in objectives.items() if found == both | {""}} == {"P10", "P24"}
    table = verdicts.verdicts(frame)
    assert (table[list(both)].notna()).all(axis=None)
    assert list(table["claim"]) == [f"P{n:02}" for n in range(1, 30)]


@pytest.mark.parametrize("untrained", ["quick"], indirect=True)
def test_claimed_numbers_are_those_printed_for_the_claim(untrained):
    """Setting by setting, in their order."""
    frame, checked = untrained, set()
    frame = frame[frame["claim"].str.startswith("A")]
    for claim, part in frame[frame["objective"] == "released code"].groupby("claim"):
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", part["published"].iloc[0])]
        if part["claimed"].notna().all() and claim not in ("A20", "A37", "A38"):
            assert part["claimed"].to_list() == numbers
            checked.add(claim)
    assert checked == {f"A{n:02}" for n in (*range(1, 16), *range(21, 27), 29, 30)}
    printed = pd.read_csv(tables_of("agmm_supp_table1")).set_index(["supervision", "lambda"])["value"]
    for labels, base in (("points", 59.2), ("scribbles", 67.3)):
        for weight, gain in zip(claims_voc.LAMBDAS, claims_voc.LAMBDA_GAINS[labels], strict=True):
            assert gain == pytest.approx(printed[labels[:-1], weight] - base)


def test_claims_ask_for_what_the_tables_train(tmp_path, monkeypatch):
    """The same options, or results would never be found; but second stages without L_absent are in no table."""
    asked = set()
    monkeypatch.setattr(Evidence, "seeds", lambda self, *runs: asked.update(runs) or [])
    verdicts.collect("quick", tmp_path)
    trained = {run.id for run in tables.needed(tables.TABLES, "quick", 1)}
    strangers = [run for run in asked if run.id not in trained]
    assert len(asked) > 60
    assert len(strangers) == 5
    assert all(run.teacher_method == "AGMM" and "absent" not in dict(run.teacher_options)["terms"] for run in strangers)


def test_differences_are_paired_over_seeds(tmp_path):
    """Seed 3 lacks its baseline and seed 4 its AGMM: neither counts."""
    evidence = Evidence(QUICK, tmp_path, absent=True)
    a, b = evidence.agmm("points"), QUICK.at("points")
    for seed, (ours, theirs) in {0: (60, 50), 1: (62, 51), 2: (61, 49), 3: (99, None), 4: (None, 48)}.items():
        for run, value in ((a, ours), (b, theirs)):
            if value is not None:
                write(tmp_path, replace(run, seed=seed), float(value))
    assert evidence.lead(a, b).tolist() == [10, 11, 12]
    path = verdicts.write("quick", tmp_path)
    frame = pd.read_csv(path.with_suffix(".csv")).set_index(["claim", "objective", "setting"])
    found = frame.loc[("A01", "released code", "points")]
    assert (found["n_seeds"], found["effect"], found["verdict"]) == (3, 11, "reproduced")
    assert found["low"] == pytest.approx(11 - 4.302653 / math.sqrt(3))
    assert frame.loc[("A02", "released code", "scribbles"), "n_seeds"] == 0
    assert frame.loc[("A01", "released code without L_absent", "points"), "verdict"] == "inconclusive"
    summary = verdicts.verdicts(frame.reset_index()).set_index("claim")
    assert summary.loc["A01", "released code"] == "reproduced"
    assert summary.loc["A02", "released code"] == "inconclusive"
    assert {path.name for path in (tmp_path / "quick" / "figures").iterdir()} == {
        f"{name}.{ending}" for name in ("claims", "claims_agmmpp") for ending in ("csv", "pdf", "png")
    }
    assert "not evidence for the papers" in path.read_text()
    assert "nan" not in path.read_text()
    assert not re.search(r"\binf\b", path.read_text())
    assert (
        "| A01 | released code | points | 3 | +11.0 (+8.5 … +13.5) | mIoU | +10.0 +11.0 +12.0 | +10.4 | reproduced "
        "| yes |  |" in path.read_text()
    )


def test_curves_by_hand(tmp_path):
    evidence = Evidence(QUICK, tmp_path, absent=True)
    for seed in range(3):
        shift = seed / 10
        curves = {"p_miou": [20.0, 50.0], "p_restricted_miou": [30.0, 50.0], "g_miou": [28.0 + shift, 51.0]}
        write(tmp_path, replace(evidence.agmm("points"), seed=seed), 60.0, curves=curves)
        write(tmp_path, replace(QUICK.at("points"), seed=seed), 50.0, curves={"p_miou": [10.0, 45.0]})
    early = claims_figures.mixture_leads_early(evidence)
    assert early["points, against P"].effect == pytest.approx(8.1)
    assert early["points, against P"].verdict == "reproduced"
    assert early["points, against P among labeled classes"].verdict == "not reproduced"
    assert claims_figures.gap_narrows(evidence)["points"].effect == pytest.approx(7.1)
    assert {found.verdict for found in claims_figures.both_improve(evidence).values()} == {"reproduced"}
    assert claims_figures.above_baseline_while_training(evidence)["points"].verdict == "reproduced"


@pytest.mark.parametrize(("preset", "verdict"), [("quick", "reproduced"), ("paper", "not reproduced")])
def test_sizes_count_on_the_papers_data_alone(tmp_path, preset, verdict):
    """Three points where the paper claims ten: the right direction anywhere, the wrong size where it was measured."""
    evidence = Evidence(PRESETS[preset], tmp_path, absent=True)
    for seed, gain in enumerate((2.9, 3.0, 3.1)):
        write(tmp_path, replace(PRESETS[preset].at("points"), seed=seed), 50.0)
        write(tmp_path, replace(evidence.agmm("points"), seed=seed), 50.0 + gain)
    (found,) = next(claim for claim in paper.CLAIMS if claim.id == "A01").judge(evidence).values()
    assert found.verdict == verdict
    assert found.note == ("direction reproduced, size not" if preset == "paper" else "")


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
    found = claims_voc.scribbles_beat_points_per_class(evidence)["scribbles - points"]
    assert (found.effect, found.verdict) == (0.5, "inconclusive")


def test_guard_is_that_of_the_claims_data_set(tmp_path):
    """Clicks belong to other images than points: one may be too hard while the other is not."""
    write(tmp_path, QUICK.at("points"), 40.0)
    write(tmp_path, QUICK.at("clicks20"), 60.0)
    frame = verdicts.collect("quick", tmp_path)
    assert set(frame.loc[frame["claim"].between("A23", "A30"), "dataset"]) == {"streets"}
    notes = frame.groupby("claim")["note"].agg(list)
    weak = {claim: all("too weak" in note for note in found) for claim, found in notes.items()}
    strong = {claim for claim, is_weak in weak.items() if not is_weak and claim.startswith("A")}
    assert strong == {f"A{n}" for n in range(23, 31)} | {"A38"}
    assert not any("too weak" in note for claim in ("A23", "A30", "A38") for note in notes[claim])


def test_clicks_by_hand(tmp_path):
    """Baseline, DenseCRF loss, TEL, steps of AGMM and second stages, with 20, 50 and 100 clicks."""
    evidence = Evidence(QUICK, tmp_path, absent=True)
    rows = {
        claims_clicks.baseline: (50.0, 56.0, 60.0),
        claims_clicks.crf_loss: (51.0, 56.5, 69.0),
        claims_clicks.tree_energy: (53.0, 58.0, 62.0),
        claims_clicks.with_self: (56.0, 60.0, 63.0),
        claims_clicks.with_spar: (57.0, 61.0, 64.0),
        claims_clicks.full: (58.0, 62.0, 63.0),
        claims_clicks.second_stage(claims_clicks.baseline): (55.0, 60.0, 63.0),
        claims_clicks.second_stage(claims_clicks.full): (60.0, 63.0, 62.0),
    }
    for seed, noise in enumerate((0.0, 0.2, -0.1)):
        for row, values in rows.items():
            for labels, value in zip(CLICKS, values, strict=True):
                write(tmp_path, replace(row(evidence, labels), seed=seed), value + noise * value / 50)
    rows = {
        (claim.id, setting): asdict(one)
        for claim in claims_clicks.CLAIMS
        for setting, one in claim.judge(evidence).items()
    }
    found = pd.DataFrame.from_dict(rows, orient="index")
    verdict, effect = found["verdict"], found["effect"].round(6)
    assert effect["A23"].round(1).to_dict() == {"20 clicks": 8, "50 clicks": 6, "100 clicks": 3}
    assert effect["A24"].round(1).to_list() == [5, 4, 1]
    assert verdict["A25"].to_dict() == {
        "20 clicks": "reproduced",
        "50 clicks": "reproduced",
        "100 clicks": "not reproduced",
    }
    assert found.loc[("A25", "100 clicks"), "note"] == "beside +3.0"
    assert effect["A26"].round(1).to_list() == [3, 2, 2, 2, 1.5, -7]
    assert verdict["A26"].to_list() == ["reproduced"] * 5 + ["not reproduced"]
    assert verdict["A27"].to_list() == ["reproduced"] * 2
    assert (effect["A28"].to_list(), verdict["A28"].to_list()) == ([1], ["reproduced"])
    assert effect["A29"].round(1).to_list() == [6, 4, 3, 1, 1, 1, 1, 1, -1]
    assert effect["A30"].round(1).to_list() == [5, 4, 3, 2, 1, -1]


# --- Claims about networks --------------------------------------------------------------------------------------------

SMOKE = PRESETS["smoke"]


@pytest.fixture
def networks(tmp_path):
    """Results at `smoke` with untrained networks for three seeds of the baseline, SG and AGMM."""
    evidence = Evidence(SMOKE, tmp_path, absent=True)
    for row in (claims_figures.baseline, claims_figures.stop_gradient, claims_figures.full):
        for seed in range(3):
            run = replace(row(evidence, "points"), seed=seed)
            write(tmp_path, run, 50.0)
            net = weights.build_network(run, 7)
            with torch.no_grad():
                net.head.classifier.weight.add_(torch.randn(net.head.classifier.weight.shape))
            loop.save_weights(net, run.folder(tmp_path) / "model.safetensors", run.id)
    return evidence


def test_features_are_compared_by_their_silhouette(networks):
    found = claims_figures.features_are_more_discriminative(networks)
    expected = []
    for seed in range(3):
        runs = [
            replace(row(networks, "points"), seed=seed) for row in (claims_figures.full, claims_figures.stop_gradient)
        ]
        samples = [figures.sample_features(figures.load(run, networks.results), 2000) for run in runs]
        ours, theirs = (silhouette_score(*sample, metric="cosine") for sample in samples)
        expected.append(ours - theirs)
    assert found["points, against SG"].each == pytest.approx(expected, abs=1e-5)
    assert found["points, against SG"].unit == "silhouette"
    assert found["points, against baseline"].n == 3


def test_only_seeds_with_weights_are_measured(networks):
    runs = [claims_figures.full(networks, "points"), claims_figures.baseline(networks, "points")]
    (replace(runs[0], seed=1).folder(networks.results) / "model.safetensors").unlink()
    assert [[one.run.seed for one in pair] for pair in networks.networks(*runs)] == [[0, 0], [2, 2]]
    found = claims_figures.similar_pixels_are_better(networks)
    assert (found["points, AGMM"].n, found["points, AGMM"].note) == (2, "too few seeds")
    for seed in (0, 2):
        (replace(runs[0], seed=seed).folder(networks.results) / "model.safetensors").unlink()
    found = claims_figures.similar_pixels_are_better(networks)
    assert (found["points, AGMM"].verdict, found["points, AGMM"].note) == ("inconclusive", "no weights kept")
    assert found["points, baseline"].n == 3


def test_networks_of_real_scenes_need_their_folder(tmp_path):
    evidence = Evidence(PRESETS["camvid"], tmp_path, absent=True)
    write(tmp_path, run := claims_figures.full(evidence, "points"), 50.0)
    (run.folder(tmp_path) / "model.safetensors").touch()
    assert "no folder of the data set" in evidence.no_networks(run)
    assert replace(evidence, data_root=tmp_path).no_networks(run) == ""
    assert "no folder" in claims_figures.similar_pixels_are_better(evidence)["points, AGMM"].note


def test_similar_pixels_by_hand(networks, monkeypatch):
    """Of six classes with both kinds of pixels, five are better among similar ones; a seventh lacks one kind."""
    iou = {"similar": [9, 9, 9, 9, 9, 1, 9], "dissimilar": [8, 8, 8, 8, 8, 2, math.nan], "all": [5] * 7}
    rows = [
        {"class": k, "subset": subset, "iou": value} for subset, values in iou.items() for k, value in enumerate(values)
    ]
    monkeypatch.setattr(figures, "similarity", lambda runs: pd.DataFrame(rows))
    found = claims_figures.similar_pixels_are_better(networks)["points, baseline"]
    assert (found.effect, found.verdict, found.n) == (pytest.approx(5 / 6), "reproduced", 3)


def test_inference_costs_are_those_counted_by_hand(tmp_path):
    """Convolutions are all that multiplies; each output value takes a product per weight of its kernel."""
    evidence = Evidence(SMOKE, tmp_path, absent=True)
    (found,) = claims_figures.inference_costs_nothing(evidence).values()
    net, macs = weights.build_network(replace(SMOKE.at("points"), init="scratch"), 7).eval(), 0

    def count(layer, inputs, output):
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert (found.verdict, found.effect, found.unit) == ("reproduced", 1, "ratio")
    parameters = sum(p.numel() for p in net.parameters())
    assert found.note == f"{parameters:,} parameters, {macs / 1e6:,.1f} M multiply-accumulates at 64 × 64"


def test_a_branch_that_stays_would_be_noticed(tmp_path, monkeypatch):
    evidence, build = Evidence(SMOKE, tmp_path, absent=True), weights.build_network

    def with_parameter(run, num_classes):
        net = build(run, num_classes)
        if run.method == "AGMM":
            net.extra = nn.Conv2d(1, 1, 1)
        return net

    monkeypatch.setattr(weights, "build_network", with_parameter)
    assert claims_figures.inference_costs_nothing(evidence)["multiply-accumulates"].verdict == "not reproduced"
    monkeypatch.undo()
    monkeypatch.setattr(methods, "build", lambda *_, **__: lambda features, logits, *rest: logits.add_(1))
    assert claims_figures.inference_costs_nothing(evidence)["multiply-accumulates"].verdict == "not reproduced"

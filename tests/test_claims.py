"""Claims: rules against closed forms and examples worked out by hand; verdicts on results written by hand."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import silhouette_score
from torch import nn

from agmm import figures
from agmm.networks import network_macs
from agmm.papers import rules, tables, verdicts
from agmm.papers.agmm import claims as paper
from agmm.papers.agmmpp import claims as agmmpp
from agmm.papers.claim import Entry, Evidence, claims_of
from agmm.papers.spml import claims as spml
from agmm.papers.table import OBJECTIVES
from agmm.training import loop, weights
from agmm.training.presets import PRESETS
from agmm.training.result import MEASURED
from tests.helpers import one_sentence, shared
from tests.test_tables import complete

QUICK, SMOKE = PRESETS["quick"], PRESETS["smoke"]
CLAIMS = {"A": paper.CLAIMS, "P": agmmpp.CLAIMS, "S": spml.CLAIMS}
NOISE = (0.0, 0.2, -0.1)
GOOD, BAD, OPEN = "reproduced", "not reproduced", "inconclusive"
points = st.floats(-20, 20).map(lambda x: round(x, 2))


def a(*values: float) -> np.ndarray:
    return np.array(values)


@given(st.lists(points, min_size=3, max_size=8), st.floats(0.1, 10))
def test_direction_is_the_one_sample_t_test(differences, claimed):
    d = np.array(differences)
    found = rules.direction(d, claimed)
    if np.ptp(d) < 1e-9:
        return  # scipy divides by zero there
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (found.effect, found.low, found.high) == pytest.approx((d.mean(), *expected), abs=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(d, 0, alternative="greater").pvalue, abs=1e-12)
    assert (found.verdict == "reproduced") == (expected.low > 0)
    if expected.high < 0:
        assert found.verdict == "not reproduced"


NOISY = np.array([[0.0], [0.01], [-0.01]])
LARGE, SMALL, NEAR = a(8, 9, 7), a(0.1, -0.1, 0.1, -0.1), a(0.1, 0.0, -0.1)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        *((rules.direction(a(5, 6, 7), 10), GOOD), (rules.direction(a(-5, -6, -7), 10), BAD)),
        (rules.direction(a(-5, 6, 7), 10), OPEN),
        # Surely negligible beside a claim of ten points, but not beside one of half a point or of unknown size.
        *((rules.direction(SMALL, 10), BAD), (rules.direction(SMALL, 0.5), OPEN), (rules.direction(SMALL), OPEN)),
        *((rules.size(a(9, 10, 11), 10), GOOD), (rules.size(a(1, 1.1, 0.9), 10), BAD)),
        # A gain of one point beside one of eight; the interval's half width is 2.48 standard deviations.
        *((rules.little(a(0.9, 1.0, 1.1), LARGE, 0.7), GOOD), (rules.little(a(-1.5, -1.6, -1.4), LARGE, 0.7), OPEN)),
        *((rules.little(a(3, 4, 5), LARGE, 0.7), OPEN), (rules.little(LARGE, LARGE, 0.7), BAD)),
        (rules.little(NEAR, -LARGE, 0.7), BAD),  # beside a loss no gain is small
        *((rules.equivalence([NEAR, -NEAR], 1), GOOD), (rules.equivalence([NEAR, a(5, 5.1, 4.9)], 1), BAD)),
        (rules.equivalence([NEAR, a(-3, 0, 3)], 1), OPEN),
        *((rules.optimum(NOISY + [50, 60, 55], 1), GOOD), (rules.optimum(NOISY + [50, 60, 55], 2), BAD)),
        # Ahead by less than what counts, beyond doubt: neither.
        (rules.optimum(NOISY + [60.28, 60, 55], 1), OPEN),
        (rules.optimum(np.array([[60.2, 60], [59.8, 60], [60.2, 60]]), 1), GOOD),
        (rules.trend(np.array([[1, 2, 3, 4], [1, 2, 4, 3], [2, 3, 4, 5]])), GOOD),
        (rules.trend(np.array([[4, 3, 2, 1]] * 3)), BAD),
        (rules.trend(np.array([[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]])), OPEN),
        (rules.trend(np.ones((3, 4))), BAD),
        (rules.share(a(1, 0.8, 1), 0.8, 0.5), GOOD),
        (rules.ratio(a(8, 9, 10, 9), a(10, 10, 11, 9), 0.5, 0.1), BAD),
    ],
)
def test_rules_by_hand(found, verdict):
    assert found.verdict == verdict


def test_numbers_of_findings():
    assert rules.size(a(1, 1.1, 0.9), 10).note == "direction reproduced, size not"
    assert math.isnan(rules.little(LARGE, LARGE, 0.7).p)
    assert rules.equivalence([NEAR, a(5, 5.1, 4.9)], 1).effect == pytest.approx(5)
    assert rules.optimum(NOISY + [50, 60, 55], 1).effect == pytest.approx(5)
    ratio = rules.ratio(a(8, 9, 10, 9), a(10, 10, 11, 9), 0.9, 0.01)
    assert ratio.effect == pytest.approx(36 / 40)
    assert ratio.low < 0.9 < ratio.high
    # Equal differences still have an uncertainty, of what a printed decimal hides; shares have none.
    same = rules.direction(a(0.1, 0.1, 0.1), 1)
    assert same.high - same.low == pytest.approx(2 * 0.05 * 4.3027, rel=1e-4)
    assert rules.share(np.ones(3), 0.8, 0.5).low == 1
    # Intervals stay where their quantity does.
    found = rules.share(a(1, 0.8, 1), 0.8, 0.5)
    assert 0.6 < found.low < 0.7
    assert found.high == 1
    assert rules.trend(np.array([[1, 2, 4, 3], [1, 2, 3, 4], [1, 2, 3, 4]])).high == 1
    # Effects seed by seed.
    d, v = a(1, 3, 2), np.array([[1.0, 2, 3], [1, 3, 2], [2, 3, 4]])
    assert rules.direction(d, 1).each == rules.little(d, d, 1).each == (1, 3, 2)
    assert rules.equivalence([d / 9, -d], 1).each == (-1, -3, -2)
    assert rules.optimum(v, 2).each == (1, -1, 1)
    assert rules.trend(v).each == pytest.approx((1, 0.5, 1))
    assert rules.ratio(d, d + 1, 1, 1).each == (0.5, 0.75, 2 / 3)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_two_seeds_are_no_evidence(n):
    d, v = np.full(n, 9.0), np.tile([1.0, 2.0, 3.0], (n, 1))
    found = [rules.direction(d, 1), rules.size(d, 1), rules.equivalence([d, d], 1), rules.share(d, 0.9, 0.5)]
    found += [rules.optimum(v, 2), rules.trend(v), rules.ratio(d, d, 1, 0.1), rules.little(d, d, 1)]
    assert [(one.verdict, one.n) for one in found] == [("inconclusive", n)] * len(found)


def test_small_effects_may_need_more_seeds():
    d = a(0.5, 0.6, 0.7)
    few = rules.direction(d, 0.6, least=4)
    assert (few.verdict, few.note, few.n) == ("inconclusive", "fewer than 4 seeds", 3)
    assert math.isnan(few.p)
    assert (few.effect, few.low) == (rules.direction(d, 0.6).effect, rules.direction(d, 0.6).low)
    assert rules.direction(np.append(d, 0.6), 0.6, least=4).verdict == "reproduced"


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12, unique=True))
def test_holm_is_bonferroni_on_what_is_left(p):
    """The definition: the k-th smallest p value passes if it and all smaller ones are below alpha / (m - k + 1)."""
    for value, ok in zip(p, rules.holm(p), strict=True):
        smaller = sorted(p)[: sum(other <= value for other in p)]
        assert ok == all(one <= 0.025 / (len(p) - k) for k, one in enumerate(smaller))


def test_combine():
    combined = {GOOD: [GOOD, GOOD], BAD: [GOOD, BAD, OPEN], OPEN: [GOOD, OPEN]}
    assert {verdict: rules.combine(found) for verdict, found in combined.items()} == {v: v for v in combined}
    assert rules.combine([]) == OPEN


def fill(evidence: Evidence, rows: Mapping[Entry, Mapping[str, float]], seeds: Sequence[float] = NOISE, **more) -> None:
    """Results of rows in columns, which differ between seeds by little."""
    for entry, values in rows.items():
        for column, value in values.items():
            (run,) = evidence.runs([entry], column)
            for seed, noise in enumerate(seeds):
                complete(evidence.results, replace(run, seed=seed), value * (1 + noise / 50), **more)


def judged(evidence: Evidence, *ids: str) -> pd.DataFrame:
    chosen = [claim for claims in CLAIMS.values() for claim in claims if claim.id in ids]
    found = {(claim.id, name): asdict(one) for claim in chosen for name, one in claim.judge(evidence).items()}
    return pd.DataFrame.from_dict(found, orient="index")


def by_class(columns: Mapping[str, Sequence[float]], value: str) -> pd.DataFrame:
    """A measure of every class among several subsets of the pixels."""
    rows = [(k, subset, number) for subset, column in columns.items() for k, number in enumerate(column)]
    return pd.DataFrame(rows, columns=["class", "subset", value])


def effects(found: pd.DataFrame, claim: str) -> dict[str, float]:
    return {setting: round(effect, 1) for setting, effect in found["effect"][claim].items()}


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(QUICK, tmp_path)


@pytest.mark.parametrize(("letter", "number"), [("A", 38), ("P", 29), ("S", 21)])
def test_claims_are_those_of_the_list(letter, number):
    lines = [line.split("|") for line in shared("methods/claims.md").read_text().splitlines()]
    listed = {line[1].strip(): line for line in lines if len(line) > 5 and line[1].strip().startswith(letter)}
    ids = list(dict.fromkeys(claim.id for claim in CLAIMS[letter]))
    assert ids == [f"{letter}{n:02}" for n in range(1, number + 1)] == list(listed)
    for claim in CLAIMS[letter] if letter != "S" else ():
        place = listed[claim.id][2]
        assert claim.where.split()[-1] in place or place.strip() == "same"
        for number in claim.published.replace("…", " ").replace(",", " ").replace("“", " ").replace(";", " ").split():
            if number[0] in "+0123456789":
                assert number.strip("+") in "|".join(listed[claim.id])


@pytest.fixture(scope="module", params=["quick", "camvid", "paper"])
def untrained(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "paper":  # whose networks take a minute to build and to count
            build, small = weights.build_network, replace(SMOKE.at("points"), init="scratch")
            patch.setattr(weights, "build_network", lambda run, num_classes: build(small, num_classes))
        return verdicts.collect(request.param, tmp_path_factory.mktemp("results"))


def test_nothing_trained_nothing_claimed(untrained):
    """But what a network costs needs no training."""
    text = verdicts.markdown("any", untrained)
    on_voc = "voc" in set(untrained["dataset"])
    assert ("sizes are judged where" in text) == on_voc
    known = set(untrained["claim"])
    assert set(untrained.loc[untrained["verdict"] != "inconclusive", "claim"]) == {"A38"} | ({"P23", "P24"} & known)
    assert set(untrained["n_seeds"]) == {0}
    assert {claim.id for claim in paper.CLAIMS} - known <= {"A02", "A09", "A22", "A37"}
    if on_voc:
        assert {claim.id for claims in CLAIMS.values() for claim in claims} == known


@pytest.mark.parametrize("untrained", ["paper"], indirect=True)
def test_claims_of_the_second_paper_take_up_agmm_where_they_name_it(untrained):
    """Those are judged for every objective that their tables have, all others once; none appears twice."""
    frame = untrained[untrained["paper"] == "AGMM++ (TPAMI 2025)"]
    assert not frame.duplicated(["claim", "objective", "setting"]).any()
    objectives = frame.groupby("claim")["objective"].agg(set)
    every, released = set(OBJECTIVES), set(OBJECTIVES[:2])
    rows = (every, {"P01", "P02", "P04"}), (released, {"P07", "P08"}), (released | {""}, {"P10", "P24"})
    for names, expected in rows:
        assert {claim for claim, found in objectives.items() if found == names} == expected
    table = verdicts.verdicts(frame)
    blank = table.set_index("claim")[list(OBJECTIVES)] == ""
    assert set(blank.index[blank.any(axis=1)]) == {"P07", "P08", "P10", "P24"}
    assert not blank[list(released)].any(axis=None)
    assert list(table["claim"]) == [f"P{n:02}" for n in range(1, 30)]


@pytest.mark.parametrize("untrained", ["paper"], indirect=True)
def test_claimed_numbers_are_those_printed_for_the_claim(untrained):
    checked = set()
    counted = untrained["claim"].isin(["P23", "P24"])  # operations
    frame = untrained[untrained["objective"].isin(["", "released code"]) & ~counted]
    for claim, part in frame.groupby("claim"):
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", part["published"].iloc[0])]
        if part["claimed"].notna().all() and len(numbers) == len(part):
            scale = 100 if part["unit"].iloc[0] == "ratio" and numbers[0] > 2 else 1
            by_setting = numbers if claim != "P16" else [*numbers[::2], *numbers[1::2]]
            assert part["claimed"].to_list() == pytest.approx([number / scale for number in by_setting]), claim
            checked.add(claim)
    expected = {f"A{n:02}" for n in (*range(1, 16), *range(21, 27), 29, 30)}
    expected |= {f"P{n:02}" for n in (1, 2, 3, 5, 6, 7, 9, 10, 12, 15, 16, 17, 18, 22)}
    assert checked - {"P04"} == expected | {f"S{n:02}" for n in (*range(1, 6), *range(8, 12), 14, 15, 16, 18)}
    claimed = frame.groupby("claim")["claimed"].agg(list)
    assert claimed["P13"] == [1.0, 0.6, 0.4, 0.8, 2.8]
    assert claimed["P14"] == [1.0, 0.4, 0.7, 0.6, 2.7]
    assert (min(claimed["A20"][:6]), min(claimed["A20"][6:])) == (8.3, 6.7)


def test_runs_outside_the_cells_are_those_of_the_tables(evidence, monkeypatch):
    """Of claims that make their own; but second stages without L_absent are in no table."""
    asked = set()
    monkeypatch.setattr(Evidence, "seeds", lambda self, *runs: asked.update(runs) or [])
    for objective in OBJECTIVES[:2]:
        judged(replace(evidence, objective=objective), "A08", "A09", "A30", "P28")
    names = ["agmm_table1", "agmm_table2", "agmm_table5", "agmm_supp_table2", "agmmpp_figure12"]
    names += [f"agmmpp_table{n}" for n in (1, 6, 7, 10)]
    trained = {run.id for run in tables.needed(names, "quick", 1)}
    strangers = [run for run in asked if run.id not in trained]
    assert len(asked) > 30
    assert len(strangers) == 5
    assert all(run.teacher_method == "AGMM" and "absent" not in dict(run.teacher_options)["terms"] for run in strangers)


def test_a_claim_without_table_and_judge_is_refused():
    with pytest.raises(KeyError, match="A06"):
        claims_of("agmm", {})


def test_differences_are_paired_over_seeds(evidence, tmp_path):
    """Seed 3 lacks its baseline and seed 4 its AGMM: neither counts."""
    cells = evidence.cells((paper.AGMM, paper.BASELINE), "point")
    for seed, values in {0: (60, 50), 1: (62, 51), 2: (61, 49), 3: (99, None), 4: (None, 48)}.items():
        for cell, value in zip(cells, values, strict=True):
            if value is not None:
                complete(tmp_path, replace(cell.run, seed=seed), float(value))
    assert evidence.lead(*cells).tolist() == [10, 11, 12]
    path = verdicts.write("quick", tmp_path)
    frame = pd.read_csv(path.with_suffix(".csv")).set_index(["claim", "objective", "setting"])
    found = frame.loc[("A01", "released code", "points")]
    assert (found["n_seeds"], found["effect"], found["verdict"]) == (3, 11, "reproduced")
    assert found["low"] == pytest.approx(11 - 4.302653 / math.sqrt(3))
    assert frame.loc[("A02", "released code", "scribbles"), "n_seeds"] == 0
    assert frame.loc[("A01", "released code without L_absent", "points"), "verdict"] == OPEN
    summary = verdicts.verdicts(frame.reset_index()).set_index("claim")
    assert summary.loc[["A01", "A02"], "released code"].to_list() == [GOOD, OPEN]
    drawn = {f"{name}.{ending}" for name in ("claims", "claims_agmmpp") for ending in ("csv", "pdf", "png")}
    assert {path.name for path in (tmp_path / "quick" / "figures").iterdir()} == drawn
    text = path.read_text()
    assert "not evidence for the papers" in text
    assert not re.search(r"\b(nan|inf)\b", text)
    line = "| A01 | released code | points | 3 | +11.0 (+8.5 … +13.5) | mIoU | +10.0 +11.0 +12.0 | +10.4 | reproduced"
    assert f"{line} | yes |  |" in text


def test_curves_by_hand(evidence):
    for seed in range(3):
        ours, theirs = (replace(run, seed=seed) for run in evidence.runs((paper.AGMM, paper.BASELINE), "point"))
        curves = {"p_miou": [20.0, 50.0], "p_restricted_miou": [30.0, 50.0], "g_miou": [28.0 + seed / 10, 51.0]}
        complete(evidence.results, ours, 60.0, curves=curves)
        complete(evidence.results, theirs, 50.0, curves={"p_miou": [10.0, 45.0]})
    found = judged(evidence, "A32", "A33", "A34", "A35")
    assert found["verdict"].to_list() == [GOOD, BAD, *[GOOD] * 4]
    assert effects(found, "A32")["points, against P"] == 8.1
    assert effects(found, "A33") == {"points": 7.1}


@pytest.mark.parametrize(("preset", "verdict"), [("quick", GOOD), ("paper", BAD)])
def test_sizes_count_on_the_papers_data_alone(tmp_path, preset, verdict):
    """Three points where the paper claims ten: the right direction anywhere, the wrong size where it was measured."""
    evidence = Evidence(PRESETS[preset], tmp_path)
    fill(evidence, {paper.BASELINE: {"point": 50.0}, paper.AGMM: {"point": 53.0}})
    found = judged(evidence, "A01").loc[("A01", "points")]
    assert found["verdict"] == verdict
    assert found["note"] == ("direction reproduced, size not" if preset == "paper" else "")


def test_weak_preset_supports_nothing(tmp_path):
    """A constant prediction has 30 % mIoU, too close to 40 %; clicks belong to other images than points."""
    complete(tmp_path, QUICK.at("points"), 40.0)
    complete(tmp_path, QUICK.at("clicks20"), 60.0)
    frame = verdicts.collect("quick", tmp_path)
    clicks = {f"A{n}" for n in range(23, 31)}
    assert set(frame.loc[frame["claim"].isin(clicks), "dataset"]) == {"streets"}
    notes = frame[frame["claim"].str.startswith("A")].groupby("claim")["note"].agg(list)
    weak = {claim: sum("too weak" in note for note in found) / len(found) for claim, found in notes.items()}
    assert set(weak.values()) == {0, 1}
    assert {claim for claim, share in weak.items() if not share} == clicks | {"A38"}


def test_scribbles_against_points_per_class(evidence):
    """Of two classes one is always better with points, as its mean over seeds says; the others are the same."""
    runs = [run for column in ("point", "scribble") for run in evidence.runs([paper.AGMM], column)]
    for seed in range(3):
        points, scribbles = (replace(run, seed=seed) for run in runs)
        complete(evidence.results, points, 50.0, iou=(50.0, 60.0, 1, 1, 1, 1, None))
        complete(evidence.results, scribbles, 55.0, iou=(60.0, 59.0 + seed, 2, 2, 2, 1, 1))
    found = judged(evidence, "A37").squeeze()
    assert (found["effect"], found["verdict"]) == (pytest.approx(4 / 7), "inconclusive")


def test_clicks_by_hand(evidence):
    table = {"Baseline": (50, 56, 60), "DenseCRF Loss": (51, 56.5, 69), "TEL": (53, 58, 62), "AGMM": (58, 62, 63)}
    rows = {Entry("agmm_table5", row): values for row, values in table.items()}
    table = {"L_seg + L_self": (56, 60, 63), "L_seg + L_self + L_spar": (57, 61, 64), "L_seg + MT": (55, 60, 63)}
    rows |= {Entry("agmm_supp_table2", row): values for row, values in table.items()}
    rows[Entry("agmm_table5", "AGMM", second_stage=True)] = (60, 63, 62)
    fill(evidence, {row: dict(zip(paper.CLICKS, values, strict=True)) for row, values in rows.items()})
    found = judged(evidence, *(f"A{n}" for n in range(23, 31)))
    verdict = found["verdict"]
    assert effects(found, "A23") == {"20 clicks": 8, "50 clicks": 6, "100 clicks": 3}
    assert list(effects(found, "A24").values()) == [5, 4, 1]
    assert verdict["A25"].to_dict() == {"20 clicks": GOOD, "50 clicks": GOOD, "100 clicks": BAD}
    assert found.loc[("A25", "100 clicks"), "note"] == "beside +3.0"
    assert list(effects(found, "A26").values()) == [3, 2, 2, 2, 1.5, -7]
    assert verdict["A26"].to_list() == [GOOD] * 5 + [BAD]
    assert verdict["A27"].to_list() == [GOOD] * 2
    assert (found["effect"]["A28"].round(6).to_list(), verdict["A28"].to_list()) == ([1], [GOOD])
    assert list(effects(found, "A29").values()) == [6, 4, 3, 1, 1, 1, 1, 1, -1]
    assert list(effects(found, "A30").values()) == [5, 4, 3, 2, 1, -1]


ROWS = (paper.BASELINE, Entry("agmm_table2", "AGMM (SG)"), paper.AGMM)


@pytest.fixture
def networks(tmp_path):
    """Results at `smoke` with untrained networks for three seeds of the baseline, SG and AGMM."""
    evidence = Evidence(SMOKE, tmp_path)
    fill(evidence, {row: {"point": 50.0} for row in ROWS})
    for run in evidence.runs(ROWS, "point"):
        for one in (replace(run, seed=seed) for seed in range(3)):
            net = weights.build_network(one, 7)
            torch.nn.init.normal_(net.head.classifier.weight)
            loop.save_weights(net, one.folder(tmp_path) / "model.safetensors", one.id)
    return evidence


def test_features_are_compared_by_their_silhouette(networks):
    found = paper.features_are_more_discriminative(networks)
    expected = []
    for seed in range(3):
        runs = [replace(run, seed=seed) for run in networks.runs((paper.AGMM, ROWS[1]), "point")]
        samples = (figures.sample_features(figures.load(run, networks.results), 2000) for run in runs)
        expected.append(np.subtract(*(silhouette_score(*sample, metric="cosine") for sample in samples)))
    assert found["points, against SG"].each == pytest.approx(expected, abs=1e-5)
    assert found["points, against SG"].unit == "silhouette"
    assert found["points, against baseline"].n == 3


def test_numbers_are_measured_where_weights_are_and_stay_without_them(networks):
    (run,) = networks.runs([paper.AGMM], "point")
    folders = [replace(run, seed=seed).folder(networks.results) for seed in range(3)]
    (folders[1] / "model.safetensors").unlink()

    def found():
        return paper.similar_pixels_are_better(networks)["points, AGMM"]

    first = found()
    assert (first.n, first.note) == (2, "too few seeds")
    for seed in (0, 2):
        (folders[seed] / "model.safetensors").unlink()
    assert found() == first
    (folders[0] / MEASURED).unlink()
    assert found().each == first.each[1:]
    (folders[2] / MEASURED).write_text("[]")
    with one_sentence(ValueError, "measured.json is damaged .*; delete it"):
        found()
    (folders[2] / MEASURED).unlink()
    assert (found().verdict, found().note) == ("inconclusive", "no weights kept")
    assert paper.similar_pixels_are_better(networks)["points, baseline"].n == 3


def test_networks_of_real_scenes_need_their_folder(tmp_path):
    evidence = Evidence(PRESETS["camvid"], tmp_path)
    (run,) = evidence.runs([paper.AGMM], "point")
    complete(tmp_path, run, 50.0)
    (run.folder(tmp_path) / "model.safetensors").touch()
    assert "no folder of the data set" in paper.similar_pixels_are_better(evidence)["points, AGMM"].note


def test_similar_pixels_by_hand(networks, monkeypatch):
    """Of six classes with both kinds of pixels, five are better among similar ones; a seventh lacks one kind."""
    iou = {"similar": [9, 9, 9, 9, 9, 1, 9], "dissimilar": [8, 8, 8, 8, 8, 2, math.nan], "all": [5] * 7}
    monkeypatch.setattr(figures, "measure_similarity", lambda runs: by_class(iou, "iou"))
    found = paper.similar_pixels_are_better(networks)["points, baseline"]
    assert (found.effect, found.verdict, found.n) == (pytest.approx(5 / 6), "reproduced", 3)


def test_inference_costs_are_those_of_the_network(tmp_path):
    (found,) = paper.inference_costs_nothing(Evidence(SMOKE, tmp_path)).values()
    net = weights.build_network(replace(SMOKE.at("points"), init="scratch"), 7)
    parameters, products = sum(p.numel() for p in net.parameters()), network_macs(net, 64)
    assert (found.verdict, found.effect, found.unit) == ("reproduced", 1, "ratio")
    assert found.note == f"{parameters:,} parameters, {products / 1e6:,.1f} M multiply-accumulates at 64 × 64"


def test_a_branch_that_stays_would_be_noticed(tmp_path, monkeypatch):
    evidence, build = Evidence(SMOKE, tmp_path), weights.build_network

    def with_parameter(run, num_classes):
        net = build(run, num_classes)
        net.extra = nn.Conv2d(1, 1, 1) if run.method == "AGMM" else None
        return net

    monkeypatch.setattr(weights, "build_network", with_parameter)
    assert paper.inference_costs_nothing(evidence)["multiply-accumulates"].verdict == "not reproduced"
    monkeypatch.undo()
    monkeypatch.setattr(paper, "build_objective", lambda *_, **__: lambda features, logits, *rest: logits.add_(1))
    assert paper.inference_costs_nothing(evidence)["multiply-accumulates"].verdict == "not reproduced"

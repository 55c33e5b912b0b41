"""Claims of SPML: verdicts on results written by hand."""

import pytest

from agmm.papers.claim import Entry, Evidence
from agmm.papers.spml.tables import LENGTHS
from agmm.training.presets import PRESETS
from tests.test_claims import BAD, GOOD, OPEN, fill, judged


@pytest.fixture
def evidence(tmp_path):
    return Evidence(PRESETS["quick"], tmp_path)


def fill_table(evidence: Evidence, number: int, rows: dict[str, dict[str, float]], **more: object) -> None:
    fill(evidence, {Entry(f"spml_table{number}", row): values for row, values in rows.items()}, **more)


def verdicts(evidence: Evidence, name: str) -> list[str]:
    return judged(evidence, name)["verdict"].to_list()


@pytest.mark.parametrize(("spots", "verdict"), [(71.3, GOOD), (75.0, OPEN), (60.0, BAD)])
def test_little_is_lost_between_nothing_and_six_points(evidence, spots, verdict):
    fill_table(evidence, 7, {"SPML": {"scribbles 100%": 74.2, "scribbles 0%": spots}})
    assert verdicts(evidence, "S05") == [verdict]


def test_shares_of_full_supervision(evidence):
    both = {"SPML": {"full": 80.0, "scribbles 100%": 78.0}, "SPML + CRF": {"full": 80.0, "scribbles 100%": 60.0}}
    fill_table(evidence, 7, both)
    found = judged(evidence, "S02", "S04")
    assert found["verdict"].to_list() == [GOOD, BAD, GOOD, *[OPEN] * 4]
    assert found["effect"].to_list()[0] == pytest.approx(0.975)


def test_the_margin_grows_as_scribbles_shrink(evidence):
    columns = [f"scribbles {length}" for length in LENGTHS]
    ours, theirs = ({name: best - step * k for k, name in enumerate(columns)} for best, step in ((80, 1), (79, 2)))
    fill_table(evidence, 7, {"SPML": ours, "DenseCRF loss": theirs})
    assert verdicts(evidence, "S07") == [GOOD]
    assert verdicts(evidence, "S06") == [GOOD] * 5
    assert verdicts(evidence, "S01") == [GOOD, OPEN]


def test_relations_against_each_other(evidence):
    values = {"λ_I = 0.1, λ_O = 0.5, λ_A = 0": 74.0, "λ_I = 0.1, λ_O = 0, λ_A = 0": 72.0}
    values |= {"λ_I = 0.1, λ_O = 0.5, λ_A = 0.1": 60.0, "λ_I = 0, λ_O = 0, λ_A = 0": 70.0}
    values |= {f"λ_I = {i} (λ_O = 0.5)": value for i, value in ((0, 76.0), (0.3, 70.0), (0.05, 70.0))}
    fill_table(evidence, 6, {row: {"scribbles": value} for row, value in values.items()})
    assert verdicts(evidence, "S08") == verdicts(evidence, "S09") == [GOOD]
    assert verdicts(evidence, "S10") == verdicts(evidence, "S12") == [BAD]
    assert verdicts(evidence, "S11") == [OPEN]  # ten seeds are needed


def test_parts(evidence):
    fill_table(evidence, 10, {"SPML": {"mean": 50.0}}, iou=[50.0] * 15)
    fill_table(evidence, 10, {"DenseCRF loss": {"mean": 40.0}}, iou=[60.0, *[40.0] * 14])
    fill_table(evidence, 10, {"SegSort": {"mean": 65.0}, "Softmax": {"mean": 68.0}})
    assert [verdicts(evidence, f"S{number}") for number in (15, 16, 17, 18)] == [[GOOD]] * 4
    assert judged(evidence, "S17")["effect"].item() == pytest.approx(14 / 15)


def test_forms_of_labels_in_their_order(evidence):
    forms = {"image tags": 60.0, "points (0% scribbles)": 65.0, "boxes": 70.0, "scribbles": 75.0}
    fill_table(evidence, 9, {"SPML + CRF": forms, "Full mask + CRF": {"full": 74.0}})
    assert verdicts(evidence, "S19") == [GOOD, BAD]

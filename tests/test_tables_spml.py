"""Tables of SPML: against the list of trainings, the numbers as printed, and shares of full supervision."""

import pandas as pd
import pytest

from agmm.papers import results, tables
from tests.test_tables import PUBLISHED, cells, complete

NAMES = [name for name in tables.GROUPS["spml"] if "_table" in name]
LABELS = {
    "scribble 100%": ("scribbles", {}),
    "scribble 0% (points)": ("scribbles", {"length": 0.0}),
    **{f"scribble {percent}%": ("scribbles", {"length": percent / 100}) for percent in (80, 50, 30)},
    "points": ("part_points", {}),
    "image tags": ("cam", {}),
    "box": ("boxcam", {}),
    "full": ("full", {}),
}
METHODS = {"SegSort": "SPML", "Softmax": "Baseline", "Tang 2018b": "DenseCRFLoss", "baseline": "Baseline"}


@pytest.mark.parametrize("preset", ["quick", "paper", "paper_official"])
@pytest.mark.parametrize("name", NAMES)
def test_trainings_are_those_of_the_list(name, preset):
    frame = pd.read_csv(PUBLISHED / "training_runs.csv").set_index("run_id")
    used = frame[frame["used_in"].str.split().apply(lambda names: name in names) & frame.index.str.startswith("O")]
    made = [cell for cell in cells(name, preset) if cell.training_id.startswith("O")]
    denominators = {"O139", "O140"} if name == "spml_table4" else set()
    assert set(used.index) - denominators <= {cell.training_id for cell in made}
    for cell in made:
        line = frame.loc[cell.training_id]
        form, options = LABELS[line["labels"]]
        assert cell.labels == form
        assert dict(cell.run.label_options).items() >= options.items()
        assert cell.method == METHODS.get(line["method"], line["method"])
        assert (cell.run.dataset in ("people", "densepose")) == (line["dataset"] == "DensePose")
        weights = dict((cell.run.teacher or cell.run).options)
        if line["variant"].startswith("lambda_I"):
            for part in line["variant"].split(", "):
                symbol, value = part.split(" ")
                assert weights.get(symbol.lower(), 0.0) == float(value), part


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_are_those_of_the_file(name, preset):
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    own = frame[frame["run_by_authors"].astype(str).str.lower() == "true"]
    if name == "spml_table3":
        own = own[own["panel"] == "left"]  # the right panel is that of Table 7
    if name == "spml_table2":
        own = own[own["split"] == "val"]  # numbers of the test split are shown as published
    if name in ("spml_table8", "spml_table9"):
        own = own[own["class"] == "mean"]
    shown = {cell.published for cell in cells(name, preset) if cell.training_id != "quoted"}
    assert set(own["value"]) <= shown


def test_a_share_is_that_of_the_same_seed(tmp_path):
    (cell,) = [c for c in cells("spml_table3") if (c.row, c.column) == ("SPML", "scribbles 100%, WvF")]
    assert cell.full.labels == "full"
    complete(tmp_path, cell.run, 40.0)
    assert not results.complete_runs(cell, tmp_path)
    complete(tmp_path, cell.full, 80.0)
    frame = results.collect(tables.TABLES["spml_table3"], "quick", tmp_path)
    line = frame[(frame["column"] == cell.column) & (frame["row"] == "SPML")].squeeze()
    assert line["ours_mean"] == pytest.approx(50.0)
    assert line["published"] == 97.5


def test_full_supervision_is_trained_with_the_table():
    runs = [run for cell in cells("spml_table4") for run in (cell.run, cell.full) if run]
    assert {run.id for run in runs} <= {run.id for run in tables.needed(["spml_table4"], "quick", 1)}

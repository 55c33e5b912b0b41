"""A user's method beside a table, and the number of seeds that a difference needs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import agmm
from agmm import figures
from agmm.papers import notebooks, tables
from agmm.tools import compare
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.run import build_objective
from agmm.training.where import Where
from tests.helpers import ROOT, tool

FEW = "agmm_figure2"  # the baseline and AGMM

SAME = """
from dataclasses import dataclass
from agmm import objectives

@dataclass(frozen=True)
class Same:
    num_classes: int
    factor: float = 1.0

    def __call__(self, *batch):
        output = objectives.Baseline(self.num_classes)(*batch)
        return objectives.Output(self.factor * output.loss, output.terms)

class Plain:
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's, of its own for every test."""
    name = f"mine_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(SAME)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_the_baseline_written_anew_is_the_baseline(module, results, capsys):
    """The same losses make the same bits, under every row's own start."""
    pairs = compare.pairs(f"{module}:Same", FEW, "smoke")
    found = compare.compare(pairs, 2, Where(results), rivals=True, jobs=1, report=lambda line: None)
    baseline, *others = (line for _, line in found.iterrows())
    assert baseline[["row", "difference", "seeds"]].to_list() == ["Baseline", 0, 2]
    assert baseline["ours"] == baseline["theirs"]
    assert any(line["difference"] != 0 for line in others)
    pd.testing.assert_series_equal(found["difference"], found["ours"] - found["theirs"], check_names=False)
    text = compare.markdown(found)
    assert text.count("\n") == len(found) + 1
    rows = [pair.row for pair in compare.pairs(f"{module}:Same", "agmm_table2", "smoke")]
    assert not any("+MT" in row for row in rows), "rows of several stages are another condition"
    assert "| mIoU | Baseline |" in text
    capsys.readouterr()
    assert tool(compare, f"{module}:Same", FEW, "--preset", "smoke", "--seeds", 2, "--results", results) == 0
    assert capsys.readouterr().out == text + "\n", "complete runs are not trained again, and the same table is printed"


def test_rows_that_are_not_there_are_not_trained_unless_asked_for(module, tmp_path, monkeypatch):
    asked: list[agmm.Run] = []
    monkeypatch.setattr(sweep, "train_all", lambda runs, *_, **__: asked.extend(runs) or {})
    found = compare.compare(compare.pairs(f"{module}:Same", FEW, "smoke"), 1, Where(tmp_path))
    assert {run.method for run in asked} == {"ImageTags", f"{module}:Same"}
    assert (found["seeds"] == 0).all()
    assert found["difference"].isna().all()
    assert "not trained" in compare.markdown(found)
    with pytest.raises(ValueError, match="there are no differences yet"):
        figures.draw_differences(found, tmp_path / "figure")


def test_a_run_is_told_apart_by_the_code_of_its_method(module: str, tmp_path: Path) -> None:
    run = replace(PRESETS["smoke"].at("points"), method=f"{module}:Same")
    plain, options = run.id, replace(run, options=(("factor", 2.0),)).id
    assert agmm.Run.from_dict(run.to_dict()).id == plain
    (tmp_path / f"{module}.py").write_text(SAME + "# edited")
    assert len({plain, options, replace(run).id}) == 3


def test_mistakes_are_named(module: str) -> None:
    for method, problem in (
        ("nowhere_at_all:Same", "cannot be imported .*put its folder on PYTHONPATH"),
        (f"{module}:Other", "cannot be imported"),
        (f"{module}:", "cannot be imported"),
        (":Same", "cannot be imported"),
        (f"{module}:Plain", "is no data class with a field num_classes"),
        ("pathlib:Path", "is no data class"),
    ):
        with pytest.raises(ValueError, match=problem):
            build_objective(method, 2)
    with pytest.raises(ValueError, match="option of"):
        build_objective(f"{module}:Same", 2, gamma=1)
    with pytest.raises(ValueError, match="agmm_table1"):
        compare.pairs(f"{module}:Same", "agmm_tabel1", "smoke")


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5), (0, math.inf)])
def test_seeds_needed_are_those_of_published_tables(effect: float, seeds: float) -> None:
    """Paired t test, two-sided 5 %, power 0.8: effect sizes of Cohen's tables."""
    values = np.array([-1.0, 1.0])
    assert compare.seeds_needed(values / values.std(ddof=1) + effect) == seeds
    assert compare.seeds_needed(values / values.std(ddof=1) - effect) == seeds
    assert math.isnan(compare.seeds_needed(values[:1]))


def test_notebook(results: Path, tmp_path: Path) -> None:
    given = {"preset": "smoke", "seeds": 2, "rivals": True, "table": FEW, "results": str(results)}
    notebooks.execute(ROOT / "notebooks/explore/my_method.ipynb", tmp_path / "out.ipynb", given)
    drawn = pd.read_csv(results / "smoke" / "figures" / "my_method.csv")
    assert (drawn["seeds"] == 2).all()
    assert (results / "smoke" / "figures" / "my_method.png").stat().st_size > 10_000


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_that_differ_in_their_start_are_told_apart(preset):
    for table in tables.TABLES:
        runs = {(pair.column, pair.row, pair.theirs.id) for pair in compare.pairs("AGMM", table, preset)}
        assert len(runs) == len({run[:2] for run in runs}), table

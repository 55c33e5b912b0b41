"""Tables: every run of the paper once, numbers aggregated as by hand, nothing invented."""

import json
import re
import statistics
from dataclasses import asdict, replace

import pandas as pd
import pytest

from agmm import Result, Run
from agmm.papers import results, tables
from agmm.papers.table import describe, protocol
from agmm.training.presets import PRESETS
from tests.helpers import ROOT, shared

PUBLISHED = ROOT / "agmm" / "papers" / "published"


def complete(results, run: Run, miou: float, *, iou=(50.0, 50.0), curves=None, **details: object) -> None:
    """A result written by hand, and a history of two epochs."""
    folder = run.folder(results)
    folder.mkdir(parents=True)
    details = {"train_images": 32, "test_images": 16, "coverage": 0.875} | details
    result = Result(run.id, miou, list(iou), [[30, 10], [20, 40]], 2, 3.0, 100.0, 500.0, details)
    (folder / "run.json").write_text(json.dumps(run.to_dict()))
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    curves = curves or dict.fromkeys(("p_miou", "p_restricted_miou", "g_miou"), [20.0, 30.0])
    pd.DataFrame({"epoch": (1, 2)} | curves).to_csv(folder / "history.csv", index=False)


def cells(name: str, preset: str = "quick") -> tuple[tables.Cell, ...]:
    return tables.TABLES[name].cells(PRESETS[preset])


def find(table: str, row: str, column: str = "point", preset: str = "smoke", **fields: object) -> tables.Cell:
    wanted = {"row": row, "column": column} | fields
    (cell,) = (one for one in cells(table, preset) if all(getattr(one, k) == v for k, v in wanted.items()))
    return cell


@pytest.mark.parametrize("name", tables.TABLES)
@pytest.mark.parametrize("preset", PRESETS)
def test_cells_describe_their_runs(name, preset):
    made = cells(name, preset)
    assert len({tuple(getattr(cell, field) for field in results.KEY) for cell in made}) == len(made)
    for cell in made:
        assert re.fullmatch(r"O\d{3}|quoted|extra:.+", cell.training_id)
        if cell.run is None:
            continue
        assert (cell.run.seed, cell.run.preset, cell.run.labels) == (0, preset, cell.labels)
        options = dict((cell.run.teacher or cell.run).options)
        assert cell.absent == ("absent" in options.get("terms", ()) or options.get("absent", False))
        assert cell.init == cell.run.init


@pytest.mark.parametrize("terms", [("seg", "self"), ("seg", "self", "spar"), ("seg", "self", "spar", "con")])
@pytest.mark.parametrize(("variant", "absent"), [("official", True), ("official", False), ("paper", False)])
def test_ablation_switches(terms, variant, absent):
    row = " + ".join(f"L_{term}" for term in terms)
    cell = find("agmm_table1", row, variant=variant, absent=absent, init="tags")
    assert set(dict(cell.run.options)["terms"]) == {*terms} | ({"absent"} if absent else set())
    assert cell.published is not None


def test_rivals_and_the_default():
    """Spelling out the terms of the released code does not make another run of it."""
    cell = find("agmm_table1", "L_seg", init="tags")
    assert (cell.run.method, cell.run.options, cell.absent) == ("Baseline", (), False)
    assert cell.run.id == find("agmm_table2", "Baseline").run.id
    for absent in (False, True):
        options = dict(find("agmm_table2", "AGMM (SG)", absent=absent).run.options)
        assert options["stop_gradient"]
        assert set(options["terms"]) == {"seg", "self"} | ({"absent"} if absent else set())
    run = PRESETS["quick"].at("points", "AGMM")
    assert find("agmm_table2", "AGMM", preset="quick", absent=True).run.id == run.id


def test_states_on_the_way_of_one_training():
    states = cells("agmm_figure4")
    stops = [(cell.row, cell.run.stop_after) for cell in states]
    assert stops == [("epoch 1", 1), ("epoch 7", 7), ("epoch 14", None)]
    assert [cell.row for cell in cells("agmm_figure4", "smoke")] == ["epoch 1", "epoch 2"]
    fields = {"preset": "quick", "absent": True, "variant": "official", "init": "tags"}
    whole = find("agmm_table1", "L_seg + L_self + L_spar + L_con", **fields).run
    assert {replace(cell.run, stop_after=None).id for cell in states} == {whole.id}
    assert [cell.protocol for cell in states][1:] == ["epoch 7 of 14, single scale", "last epoch, single scale"]


def test_protocol_names_whatever_is_done_at_test_time():
    trained = PRESETS["quick"].at("boxes").second_stage()
    run = trained.tested(scales=(1.0, 1.25), flip=True, scale_merge="max", crf="deeplab")
    views = "scales 1, 1.25, flip, largest logits of the scales, DenseCRF (deeplab)"
    assert describe(run) == describe(trained) | {"protocol": f"second stage, last epoch, {views}"}
    assert protocol(trained.tested(crf="deeplab_64")) == "last epoch, single scale, DenseCRF (deeplab_64)"


def test_from_scratch_only_beside_a_pretrained_start():
    for preset, count in {"smoke": 8, "quick": 8, "camvid": 0}.items():
        scratch = [cell for cell in cells("agmm_table1", preset) if cell.training_id == "extra:from scratch"]
        assert len(scratch) == count
    assert {cell.init for cell in cells("agmm_table1", "camvid")} == {"imagenet"}


@pytest.mark.parametrize("name", ["agmm_table1", "agmm_table2"])
def test_published_numbers(name):
    lines = pd.read_csv(PUBLISHED / f"{name}.csv").set_index(["row", "supervision"])
    for cell in cells(name):
        if cell.published is None:
            assert cell.published_source == ""
            continue
        line = lines.loc[int(re.search(r"row (\d+)", cell.published_source)[1]), cell.column]
        assert cell.published == line["value"]
        marks = {"L_seg": "l_seg", "L_self": "l_self", "L_spar": "l_spar", "L_con": "l_con", "MT": "mt"}
        losses = " + ".join(term for term, field in marks.items() if line.get(field))
        assert cell.row == (losses if name == "agmm_table1" else line["method"])


@pytest.mark.parametrize(("name", "field"), [("agmm_table3", "sigma"), ("agmm_supp_table1", "lambda")])
def test_sweeps(tmp_path, name, field):
    printed = pd.read_csv(PUBLISHED / f"{name}.csv", dtype={field: str}).set_index(["supervision", field])["value"]
    option = {"sigma": "sigma", "lambda": "lambda_gmm"}[field]
    values = tables.sweep_values(tables.TABLES[name], "quick", tmp_path)
    for cell, (_, line) in zip(cells(name), values.iterrows(), strict=True):
        value = None if pd.isna(line["value"]) else line["value"]
        assert dict(cell.run.options).get(option) == value
        assert line["published"] == printed[cell.column, str(value or "Eq. (5)")]
    assert set(values["value"].dropna()) | {-1.0} >= {float(v) for v in printed.index.levels[1] if v != "Eq. (5)"}


def test_package_data_are_the_reference_files():
    for path in sorted(PUBLISHED.glob("*.csv")):
        folder = "paper" if path.stem == "training_runs" else "paper/tables"
        assert path.read_bytes() == shared(f"{folder}/{path.name}").read_bytes()


def test_needed_runs_are_distinct_and_ordered():
    runs = tables.needed(tables.TABLES, "quick", 2)
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids)
    assert runs[0].method == "ImageTags"
    pretrained = [(run.dataset, run.network) for run in runs if run.method == "ImageTags"]
    assert sorted(pretrained) == sorted({(run.dataset, run.network) for run in runs if run.init == "tags"})
    for cell in (cell for name in tables.TABLES for cell in cells(name)):
        assert cell.run is None or {cell.run.id, replace(cell.run, seed=1).id} <= set(ids)
    trained = [run for run in runs if run.method != "ImageTags"]
    assert sorted(run.seed for run in trained) == [0] * (len(trained) // 2) + [1] * (len(trained) // 2)


def test_select():
    assert tables.select(["agmm", "agmmpp", "spml", "photographs"]) == list(tables.TABLES)
    assert tables.select(["agmmpp"]) == [name for name in tables.TABLES if name.startswith("agmmpp_")]
    assert tables.select(["agmm_table2", "agmm_table2"]) == ["agmm_table2"]
    with pytest.raises(ValueError, match="unknown table 'agmm_tabel2'; did you mean agmm_table2"):
        tables.select(["agmm_tabel2"])
    with pytest.raises(ValueError, match="known: smoke, quick"):
        tables.preset("zzz")


def test_nothing_trained_nothing_printed(tmp_path):
    for name, table in tables.TABLES.items():
        frame = tables.collect(table, "quick", tmp_path)
        assert list(frame.columns) == results.COLUMNS
        assert (frame["table"] == name).all()
        assert (frame["n_seeds"] == 0).all()
        assert frame[["ours_mean", "ours_std"]].isna().all(axis=None)
        text = tables.markdown(table, "quick", tmp_path, frame)
        assert "nan" not in text.lower()
        assert ("seeds found: none" if any(frame["protocol"]) else "Nothing of this table can be trained") in text
    assert tables.curves(tables.TABLES["agmm_supp_figure2"], "quick", tmp_path).empty


def test_aggregation_by_hand(tmp_path):
    cell = find("agmm_table1", "L_seg + L_self", absent=True)
    values = {0: 50.0, 1: 53.5, 3: 51.25}
    for seed, value in values.items():
        complete(tmp_path, replace(cell.run, seed=seed), value)
    complete(tmp_path, find("agmm_table1", "L_seg", "scribble", init="tags").run, 44.4)
    replace(cell.run, seed=2).folder(tmp_path).mkdir()
    frame = tables.collect(tables.TABLES["agmm_table1"], "smoke", tmp_path)
    filled = frame[frame["n_seeds"] > 0].set_index("n_seeds")
    assert sorted(filled.index) == [1, 3]
    three, one = filled.loc[3], filled.loc[1]
    expected = statistics.fmean(values.values()), statistics.stdev(values.values())
    assert (three["ours_mean"], three["ours_std"]) == pytest.approx(expected)
    assert three["seeds"] == "0 1 3"
    assert three["run_ids"].split() == [replace(cell.run, seed=seed).id for seed in values]
    assert (one["ours_mean"], one["ours_std"]) == pytest.approx((44.4, float("nan")), nan_ok=True)
    text = tables.markdown(tables.TABLES["agmm_table1"], "smoke", tmp_path)
    for line in (
        *("| L_seg + L_self | released code | 68.5 | 51.6 ± 1.8 (3) | 75.2 |  |", "seeds found: 0, 1, 3"),
        *("| L_seg |  | 59.2 |  | 67.3 | 44.4 (1) |", "| L_seg + MT |  | 66.3 |  | 72.4 |  |", "not evidence"),
    ):
        assert line in text


def test_written_files_hold_the_same_numbers(tmp_path):
    complete(tmp_path, find("agmm_table2", "Label Assignment", absent=False).run, 100 / 3)
    table = tables.TABLES["agmm_table2"]
    csv, markdown = tables.write(table, "smoke", tmp_path)
    assert csv == tmp_path / "smoke" / "tables" / "agmm_table2.csv"
    read = pd.read_csv(csv, keep_default_na=False, dtype=str)
    assert list(read["ours_mean"][read["ours_mean"] != ""].astype(float)) == [100 / 3]
    assert markdown.read_text().rstrip("\n") == tables.markdown(table, "smoke", tmp_path)
    assert {path.name for path in csv.parent.iterdir()} == {csv.name, markdown.name}


def test_committed_reference_stands_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "REFERENCE", tmp_path / "reference")
    table = tables.TABLES["agmm_table2"]
    run = find("agmm_table2", "AGMM", absent=True).run
    for seed, value in enumerate((60.0, 62.0)):
        complete(tmp_path / "reference", replace(run, seed=seed), value)
    tables.write(table, "smoke", tmp_path / "reference")
    complete(tmp_path, run, 61.5)
    text = tables.markdown(table, "smoke", tmp_path)
    assert "| AGMM | released code | 69.6 | 61.5 (1) | 61.0 ± 1.4 (2) | 76.4 |  |  |" in text


def test_curves_of_one_row_are_those_of_its_columns(tmp_path):
    table = tables.TABLES["agmmpp_choices"]
    for column, value in {"point": 30.0, "scribble": 40.0}.items():
        curves = {"g_miou": [value] * 2, "g_pooled_miou": [value + 1] * 2}
        complete(tmp_path, find(table.name, "as chosen", column).run, 50.0, curves=curves)
    curves = tables.curves(table, "smoke", tmp_path, of="as chosen")
    found = curves[curves["epoch"] == 2].set_index(["row", "curve"])["mean"].to_dict()
    other = "G, its means with one spread"
    assert found == {("point", "G"): 30, ("point", other): 31, ("scribble", "G"): 40, ("scribble", other): 41}


def test_curves_of_the_supplement(tmp_path):
    cell = find("agmm_supp_figure2", "AGMM", "G")
    for seed, shift in enumerate((0.0, 2.0)):
        run = replace(cell.run, seed=seed)
        p, restricted, g = [20.0, 40.0], [30.0, 45.0], [35.0 + shift, 44.0 + shift]
        complete(tmp_path, run, 50.0, curves={"p_miou": p, "p_restricted_miou": restricted, "g_miou": g})
    baseline = find("agmm_supp_figure2", "Baseline", "P")
    complete(tmp_path, baseline.run, 40.0, curves={"p_miou": [10.0, 25.0], "p_restricted_miou": [20.0, 30.0]})
    table = tables.TABLES["agmm_supp_figure2"]
    frame = tables.collect(table, "smoke", tmp_path)
    ours = frame.dropna(subset="ours_mean").set_index(["row", "column"])["ours_mean"].to_dict()
    theirs = {("Baseline", "P"): 25.0, ("Baseline", "P among labeled classes"): 30.0}
    expected = {"P": 40.0, "P among labeled classes": 45.0, "G": 45.0}
    expected |= {"G - P, first epoch": 16.0, "G - P, last epoch": 5.0}
    assert ours == pytest.approx(theirs | {("AGMM", column): value for column, value in expected.items()})
    curves = tables.curves(table, "smoke", tmp_path).set_index(["row", "curve", "epoch"])
    assert set(curves.index.droplevel("epoch")) == {(row, column) for row, column in ours if "-" not in column}
    assert curves.loc[("AGMM", "G", 1), ["mean", "std", "n_seeds"]].to_list() == pytest.approx([36, 2**0.5, 2])
    assert pd.isna(curves.loc[("Baseline", "P", 2), "std"])


def test_areas_count_objects_against_the_background(tmp_path):
    """By hand from the confusion of `complete`; streets have no background."""
    for seed in (0, 1):
        complete(tmp_path, replace(find("agmm_absent", "baseline", init="tags").run, seed=seed), 40.0 + seed)
    complete(tmp_path, find("agmm_table5", "Baseline", "20 clicks").run, 40.0)
    frame = tables.areas(tables.TABLES["agmm_absent"], "smoke", tmp_path)
    assert frame.to_numpy().tolist() == [
        ["point", "tags", "baseline", "", seed, pytest.approx((10 + 40) / (20 + 40)), 40.0 + seed] for seed in (0, 1)
    ]
    assert tables.areas(tables.TABLES["agmm_table5"], "smoke", tmp_path).empty


def test_captions_say_where_labels_come_from_and_which_differ(tmp_path):
    """Whoever put published files in place after the first seed is told that two kinds are mixed."""
    table = tables.TABLES["agmm_table1"]
    points, scribbles = (find("agmm_table1", "L_seg", column, "paper").run for column in ("point", "scribble"))
    complete(tmp_path, points, 59.0, label_source="published: clicks")
    complete(tmp_path, scribbles, 67.0, label_source="published: clicks")
    assert "- Labels: published: clicks.\n" in tables.markdown(table, "paper", tmp_path) + "\n"
    complete(tmp_path, replace(scribbles, seed=1), 67.0, label_source="simulated from dense masks")
    text = tables.markdown(table, "paper", tmp_path)
    assert "- Labels: point, scribble published: clicks; scribble simulated from dense masks." in text
    assert "- Published: PASCAL VOC 2012 val, ResNet-101 with ImageNet weights.\n" in text

"""Tables of AGMM++ at the paper's own scale: against the list of trainings, and the numbers as printed."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from agmm.papers import results, tables
from agmm.papers.table import SINGLE_SCALE
from agmm.training.run import build_objective
from tests.test_tables import PUBLISHED, cells, complete, find

PRINTED = tuple(name for name in tables.TABLES if re.fullmatch(r"agmm(pp)?_(supp_)?table\d+", name))
NAMES = tuple(name for name in tables.GROUPS["agmmpp"] if re.fullmatch(r"agmmpp_table\d+", name))
FIGURES = tuple(name for name in tables.GROUPS["agmmpp"] if "_figure" in name)
PSEUDO, SEGMENTATION = "pseudo labels, training images", "segmentation, test images"
METHODS = {
    **dict.fromkeys(("AGMM++", "AGMM++ ablation", "AGMM++ (SG)"), "AGMMpp"),
    **dict.fromkeys(("AGMM++(MT)", "Baseline (+MT)", "baseline", "ToCo"), "Baseline"),
    **dict.fromkeys(("TEL", "TEL+SEAM"), "TreeEnergy"),
    **{"DenseCRF Loss": "DenseCRFLoss", "SPML": "SPMLClassifier", "Label Assignment": "LabelAssignment"},
}
DATASETS = {"PASCAL VOC 2012": "voc", "COCO": "coco", "Cityscapes": "cityscapes", "ADE20K": "ade20k"}
NETWORKS = {"ResNet-101": "resnet101", "ResNet-50": "resnet50", "ViT-B": "vit_base"}
LABELS = {
    "image-level": ("tags", {}),
    "point": ("points", {"width": 3}),
    "scribble": ("scribbles", {"width": 3}),
    "box": ("grabcut", {}),
    "full": ("full", {}),
    **{f"{n} clicks": ("clicks", {"n": n}) for n in (20, 50, 100)},
    **{f"block {n}%": ("blocks", {"ratio": n / 100}) for n in (10, 20, 50)},
}
FULL = {"seg", "self", "weak", "con"}
VARIANTS = {
    "full method": (FULL, True),
    "second stage on AGMM++ pseudo labels (MT)": (FULL, True),
    "L_seg + L_self": ({"seg", "self"}, False),
    "L_seg + L_self + L_weak": ({"seg", "self", "weak"}, False),
    "L_seg + L_self + L_weak + L_con (no OEM)": (FULL, False),
    "OEM + old L_con": ({"seg", "self", "weak", "con_old"}, True),
    "stop gradient (SG)": ({"seg", "self"}, True),
}


def trainings() -> pd.DataFrame:
    """The trainings of the list that are AGMM's and AGMM++'s own and have a specification; not those of SPML."""
    frame = pd.read_csv(PUBLISHED / "training_runs.csv").set_index("run_id")
    return frame[frame.index.str.match(r"O") & ~frame["method"].isin(["SPML", "Seminar", "TSCD+SEAM"])]


@pytest.mark.parametrize("name", PRINTED)
def test_every_training_is_in_the_tables_that_the_list_names(name):
    """With the right data, labels, network and objective; where nothing is printed there may be those of others."""
    frame = trainings()
    listed = set(frame.index[frame["used_in"].str.split().apply(lambda used: name in used)])
    made = [cell for cell in cells(name, "paper") if cell.training_id.startswith("O") and cell.method != "SPML"]
    assert {cell.training_id for cell in made if cell.published is not None} == listed
    for cell in made:
        check(cell.run, frame.loc[cell.training_id])


@pytest.mark.parametrize("name", FIGURES)
def test_figures_show_trainings_of_the_list(name):
    made, frame = cells(name, "paper"), trainings()
    assert made
    for cell in made:
        if cell.training_id.startswith("extra:"):
            assert (cell.method, cell.run.labels) == ("Baseline", "tags")
        else:
            check(cell.run, frame.loc[cell.training_id])


def check(run, line: "pd.Series") -> None:
    first = run.teacher or run
    form, options = LABELS[line["labels"]]
    assert (run.dataset, run.labels) == (DATASETS[line["dataset"]], form)
    assert options.items() <= dict(run.label_options).items()
    assert run.network == NETWORKS[line["backbone"].split("/")[0]]
    assert (run.teacher is not None) == ("(MT)" in line["variant"])
    assert first.method == METHODS.get(line["method"], line["method"])
    if first.method == "AGMMpp":
        objective = build_objective("AGMMpp", 2, **dict(first.options))
        weight = re.fullmatch(r"lambda_G ([\d.]+)", line["variant"])
        terms, oem = VARIANTS["full method" if weight else line["variant"]]
        assert (set(objective.terms), objective.oem) == (terms, oem)
        assert objective.lambda_gmm == (float(weight[1]) if weight else 1)
        assert objective.stop_gradient == ("stop gradient" in line["variant"])
        assert (objective.keep_labels, objective.sigma, objective.self_classes) == (False, None, "present")


def test_one_run_for_each_training():
    """Over the tables of all papers; those that only test weights again count as the run that trained them."""
    runs: dict[str, set[str]] = {}
    for name in tables.TABLES:
        for cell in cells(name, "paper"):
            if cell.run is not None and cell.run.stop_after is None:
                runs.setdefault(cell.training_id, set()).add((cell.run.trained or cell.run).id)
    numbered = {training: ids for training, ids in runs.items() if training.startswith("O")}
    of_spml = {"O029", "O073", "O084", *(f"O{n}" for n in range(132, 149))}
    of_others = set(trainings().index[: trainings().index.get_loc("O131") + 1])
    assert len(of_others) == 131 - len(["O029", "O073", "O084", "O076", "O078", "O080", "O086"])
    assert set(numbered) == of_others | of_spml
    assert all(len(ids) == 1 for ids in numbered.values())
    assert len(set.union(*numbered.values())) == len(numbered)
    extras = set.union(*(ids for training, ids in runs.items() if training not in numbered))
    assert not extras & set.union(*numbered.values())


def column(line: "pd.Series") -> str:
    if line.get("clicks"):
        return f"{line['clicks']} clicks"
    if line.get("block_ratio"):
        return f"block {line['block_ratio']}"
    if line["table"] == "Table 8":
        return {"mIoU_pseudo_label": PSEUDO, "mIoU_segmentation": SEGMENTATION}[line["metric"]]
    if line["table"] in ("Table 1", "Table 2"):
        return f"{line['supervision']}, {line['split']}"
    return line["supervision"]


def printed(name: str) -> dict[tuple[str, str], "pd.Series"]:
    """Lines of a published file by row (of Table 14 by weight) and column; operations are no matter of trainings."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv", dtype=str, keep_default_na=False)
    row = "lambda_g" if name == "agmmpp_table14" else "row"
    return {(line[row], column(line)): line for _, line in frame.iterrows() if line["metric"] != "GFLOPs"}


def shown(name: str, preset: str) -> list[tuple[tuple[str, str], tables.Cell]]:
    found = []
    for cell in cells(name, preset):
        if cell.published is None:
            continue
        row = re.search(r"row (\d+)", cell.published_source)[1]
        found.append(((cell.row.removeprefix("λ_G = ") if "table14" in name else row, cell.column), cell))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers(name):
    lines, found = printed(name), shown(name, "paper")
    assert {key for key, _ in found} == set(lines)
    for key, cell in found:
        line = lines[key]
        assert cell.published == float(line["value"])
        assert line["dataset"] in cell.published_source or cell.dataset == line["dataset"]
        if cell.run is None:
            continue
        assert cell.run.method == METHODS.get(line["method"], line["method"])
        assert bool(cell.run.crf) == (line.get("crf", "false") == "true")
        backbone = {"Table 4": "ResNet-50", "Table 13": ""}.get(line["table"], line.get("backbone", ""))
        assert not backbone or cell.run.network == NETWORKS[backbone]


@pytest.mark.parametrize("name", [f"agmmpp_table{n}" for n in (1, 2, 3, 5, 6, 9)])
@pytest.mark.parametrize("preset", ["quick", "camvid"])
def test_numbers_that_a_preset_cannot_train_are_quoted(name, preset):
    found = {key: cell.published for key, cell in shown(name, preset)}
    assert found == {key: float(line["value"]) for key, line in printed(name).items()}


def test_pseudo_labels_and_segmentation(tmp_path):
    """Table 8: CAMs of ToCo and G of AGMM++ on training images, both segmentations from a single scale."""
    toco, ours = (find("agmmpp_table8", row, SEGMENTATION, "paper").run for row in ("ToCo", "AGMM++"))
    curves = {"p_miou": [60.0, 66.0], "cam_miou": [50.0, 70.25]}
    complete(tmp_path, toco, 69.0, curves=curves, single_scale_miou=67.5)
    complete(tmp_path, ours, 71.0, curves=curves | {"g_miou": [55.0, 73.5]}, single_scale_miou=70.5)
    frame = tables.collect(tables.TABLES["agmmpp_table8"], "paper", tmp_path).dropna(subset="ours_mean")
    found = frame.set_index(["row", "column"])["ours_mean"].to_dict()
    both = {"ToCo": (70.25, 67.5), "AGMM++": (73.5, 70.5)}
    assert found == {(row, name): v for row, (g, p) in both.items() for name, v in ((PSEUDO, g), (SEGMENTATION, p))}
    text = tables.markdown(tables.TABLES["agmmpp_table8"], "paper", tmp_path)
    assert "| ToCo | pseudo labels by CAM | 70.5 | 70.2 (1) | 68.1 | 67.5 (1) |" in text
    sizes = "data set `voc`, 32 of 10582 training and 16 of 1449 test images"
    assert f"- Ours, {PSEUDO}: mean IoU on training images in per cent, {sizes}; 500 training images.\n" in text
    assert f"- Ours, {SEGMENTATION}: IoU on the test split in per cent, {sizes}; last epoch, single scale.\n" in text
    again = tables.collect(tables.TABLES["agmmpp_table9"], "paper", tmp_path).dropna(subset="ours_mean")
    assert dict(zip(again["row"], again["ours_mean"], strict=True)) == {"ToCo": 70.25, "AGMM++": 73.5}
    curves = tables.curves(tables.TABLES["agmmpp_table8"], "paper", tmp_path).set_index(["row", "curve", "epoch"])
    assert curves.loc[("ToCo", "CAM", 2), "mean"] == 70.25


def test_single_scale_is_never_taken_from_several(tmp_path):
    run = find("agmmpp_table12", "AGMM++", "point", "paper").run
    assert run.scales != (1.0,)
    complete(tmp_path, run, 75.0)
    frame = tables.collect(tables.TABLES["agmmpp_table12"], "paper", tmp_path)
    assert frame["ours_mean"].isna().all()
    cell = replace(find("agmmpp_table13", "AGMM++", "20 clicks", "quick"), metric=SINGLE_SCALE)
    complete(tmp_path, cell.run, 65.0)
    assert results.read(cell, cell.run, tmp_path) == 65.0


def test_columns_of_two_data_sets(tmp_path):
    clicks, blocks = (find("agmmpp_table13", "L_seg", column, "paper").run for column in ("20 clicks", "block 10%"))
    complete(tmp_path, clicks, 53.0, train_images=2975, test_images=500, coverage=0.5)
    complete(tmp_path, replace(blocks, seed=1), 30.0, train_images=20210, test_images=2000, coverage=0.75)
    text = tables.markdown(tables.TABLES["agmmpp_table13"], "paper", tmp_path)
    assert "- Ours, 20 clicks: IoU on the test split in per cent, data set `cityscapes`, 2975 training and 500" in text
    assert "- Ours, block 10%: IoU on the test split in per cent, data set `ade20k`, 20210 training and 2000" in text
    assert "| L_seg |  | 53.5 | 53.0 (1) | 30.8 | 30.0 (1) |" in text
    assert "labels name: 20 clicks 50.0 %, block 10% 75.0 %." in text
    assert "Embedded data" not in text


def test_nothing_to_train(tmp_path):
    """A table whose labels a preset lacks says so, prints what is published, and is complete at once."""
    said: list[str] = []
    tables.train("agmmpp_table2", "camvid", 3, tmp_path, report=said.append)
    sentence = "Nothing of this table can be trained at the preset `camvid`, which lacks its labels, data or networks."
    assert said == [sentence]
    _, path = tables.write(tables.TABLES["agmmpp_table2"], "camvid", tmp_path)
    text = path.read_text()
    assert text.count(sentence) == 1
    assert "| AGMM++ (ViT-B) | quoted: ViT-B, DenseCRF, several scales | 42.5 |" in text
    assert "ours" not in text
    assert "seeds" not in text

"""The examples of CONTRIBUTING.md: a method, a data set and a table, each in a few lines that run."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import agmm
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.synthetic import shapes
from agmm.papers import results, tables
from agmm.training import sweep
from agmm.training.presets import PRESETS
from agmm.training.run import build_objective
from agmm.training.where import Where
from tests.helpers import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, code in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def test_there_are_three_of_few_lines() -> None:
    assert list(EXAMPLES) == ["my_margin", "leaves", "margin_table"]
    assert all(len(code.strip().splitlines()) < 40 for code in EXAMPLES.values())


def test_a_method() -> None:
    """Without a margin it is the baseline; with one it is the loss of logits that were lowered by hand."""
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, UNLABELED, VOID])[torch.randint(5, (2, 4, 5))]
    batch = torch.zeros(2, 1, 1, 1, dtype=logits.dtype), logits, labels, torch.ones(2, 3, dtype=torch.bool)
    plain = build_objective("my_margin:Margin", 3, margin=0.0)(*batch)
    torch.testing.assert_close(plain.loss, build_objective("Baseline", 3)(*batch).loss, check_dtype=False)
    lowered = logits.clone()
    for image, row, column in np.ndindex(2, 4, 5):
        if (label := labels[image, row, column]) < 3:
            lowered[image, label, row, column] -= 1.5
    expected = build_objective("Baseline", 3)(batch[0], lowered, *batch[2:]).loss
    found = build_objective("my_margin:Margin", 3, margin=1.5)(*batch)
    torch.testing.assert_close(found.loss, expected, check_dtype=False)
    assert found.terms.keys() == {"margin"}


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import leaves  # type: ignore[import-not-found]

    monkeypatch.setitem(sets.PUBLIC, "leaves", leaves.LEAVES)
    root = tmp_path / "data" / "leaves"
    for split, made in (("train", shapes.SHAPES.make("train", 4)), ("val", shapes.SHAPES.make("test", 2))):
        for kind, arrays in (("images", made.images), ("masks", np.minimum(made.truth, 2))):
            (root / kind / split).mkdir(parents=True)
            for number, array in enumerate(arrays):
                Image.fromarray(array).save(root / kind / split / f"{number}.png")
    plain = PRESETS["smoke"].at("scribbles", "AGMM", init="scratch")
    changes = {"augmentation": "official", "crop": 33, "batch_size": 2, "microbatch": 2, "warmup": 1}
    run = replace(plain, dataset="leaves", train_images=None, test_images=None, history_images=2, **changes)  # type: ignore[arg-type]
    result = agmm.run(run, results=tmp_path, data_root=tmp_path / "data")
    assert len(result.iou) == 3
    assert np.sum(result.confusion) == 2 * 64 * 64
    assert sets.check("leaves", tmp_path / "data") == []
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(root / "masks" / "val" / "1.png")
    (problem,) = sets.check("leaves", tmp_path / "data")
    assert "1.png: holds code 9" in problem
    with pytest.raises(FileNotFoundError, match="Leaves: no folder"):
        sets.load("leaves", "train", data_root=tmp_path)


def test_a_table(tmp_path: Path) -> None:
    import margin_table  # type: ignore[import-not-found]

    table = margin_table.TABLE
    cells = table.cells(PRESETS["smoke"])
    assert [cell.published for cell in cells if cell.row == "L_seg"] == [59.2, 67.3]
    runs = [cell.run for cell in cells if cell.column == "point" and cell.run is not None]
    assert sweep.train_all(runs, Where(tmp_path), jobs=1, report=lambda line: None) == {}
    frame = results.collect(table, "smoke", tmp_path).set_index(["row", "column"])
    for cell in cells:
        found = frame.loc[cell.row, cell.column]["ours_mean"]
        assert np.isnan(found) == (cell.column == "scribble")
    assert frame.loc["margin 0", "point"]["ours_mean"] == frame.loc["L_seg", "point"]["ours_mean"]
    assert "margin 2" in tables.markdown(table, "smoke", tmp_path)

"""Notebooks: thin, clean, with one parameters cell, and executed by this interpreter."""

import ast
import json
import re
import statistics
import sys

import nbformat
import pytest

from agmm.papers import notebooks, tables
from tests.helpers import ROOT

PATHS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
GIVEN = {"preset", "seeds", "results", "data_root"}


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("table", tables.TABLES.values(), ids=lambda table: table.name)
def test_parameters_are_those_that_are_passed(table):
    assert set(notebooks.parameters(ROOT / table.notebook)) == GIVEN
    assert f'tables.TABLES["{table.name}"]' in (ROOT / table.notebook).read_text().replace('\\"', '"')


def test_results_lie_in_the_checkout():
    """The notebooks' default, whether they are opened in their folder or executed from the root."""
    assert tables.RESULTS == ROOT / "results"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
class TestEveryNotebook:
    def test_valid_titled_and_without_outputs(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0].cell_type == "markdown"
        assert notebook.cells[0].source.startswith("# ")
        assert notebook.metadata["kernelspec"]["name"] == "python3"
        assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))

    def test_parameters_are_used(self, path):
        declared = notebooks.parameters(path)
        code = "\n".join(cell.source for cell in code_cells(path) if "parameters" not in cell.metadata.get("tags", []))
        read = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        assert set(declared) <= read

    def test_deterministic_ids(self, path):
        ids = [cell["id"] for cell in json.loads(path.read_text())["cells"]]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-\d\d", name) for name in ids)

    def test_thin(self, path):
        lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
        assert statistics.median(lengths) <= 8
        nodes = [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)


def write(path, *cells):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for source, tags in cells:
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(notebook, path)


def test_unknown_parameter(tmp_path):
    write(tmp_path / "a.ipynb", ("epochs = 3", ["parameters"]))
    notebooks.check(tmp_path / "a.ipynb", {"epochs": 4})
    with pytest.raises(ValueError, match="does not declare the parameter epoch; it has epochs"):
        notebooks.check(tmp_path / "a.ipynb", {"epoch": 4})


def test_bad_parameters_cell_or_no_notebook(tmp_path):
    for cells, sentence in (
        ([("x = 1", [])], "has 0 cells tagged parameters"),
        ([("x = 1", ["parameters"])] * 2, "has 2 cells tagged parameters"),
        ([("x: int = 1", ["parameters"])], "more than plain assignments"),
    ):
        write(tmp_path / "a.ipynb", *cells)
        with pytest.raises(ValueError, match=sentence):
            notebooks.parameters(tmp_path / "a.ipynb")
    with pytest.raises(FileNotFoundError, match="no notebook"):
        notebooks.parameters(tmp_path / "b.ipynb")


def test_executed_by_this_interpreter(tmp_path, monkeypatch):
    """Even where a kernel of the same name belongs to another environment; and in the notebook's own folder."""
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (tmp_path / "source").mkdir()
    path, target = tmp_path / "source" / "a.ipynb", tmp_path / "out" / "a.ipynb"
    write(path, ("x = 1", ["parameters"]), ("import os, sys\nprint(sys.executable, os.getcwd(), x)", []))
    notebooks.execute(path, target, {"x": 5})
    printed = code_cells(target)[-1].outputs[0]["text"]
    assert printed.split() == [sys.executable, str(path.parent), "5"]


def tasks(folder, sources, given):
    """What `execute_all` takes for notebooks with a parameter and another cell each."""
    for name, source in sources.items():
        write(folder / f"{name}.ipynb", ("x = 1", ["parameters"]), (source, []))
    return {name: (folder / f"{name}.ipynb", folder / "out" / f"{name}.ipynb", given) for name in sources}


def test_several_at_a_time(tmp_path):
    """In processes of their own; one that fails says what is wrong and leaves the other, and its copy, alone."""
    given = tasks(tmp_path, {"good": "print(x + 1)", "bad": "1 / (x - 5)"}, {"x": 5})
    ended = dict(notebooks.execute_all(given, jobs=2))
    assert ended.keys() == {"good", "bad"}
    assert ended["good"] is None
    assert "ZeroDivisionError" in ended["bad"]
    assert code_cells(tmp_path / "out" / "good.ipynb")[-1].outputs[0]["text"] == "6\n"
    assert code_cells(tmp_path / "out" / "bad.ipynb")[-1].outputs[0].ename == "ZeroDivisionError"


def test_a_notebook_whose_process_dies_is_tried_once_more(tmp_path):
    """As is the one that it takes along; one that dies again is a sentence."""
    kill = "import os, signal, pathlib\nif {}:\n    {}\n    os.kill(os.getppid(), signal.SIGKILL)"
    once = f"pathlib.Path({str(tmp_path / 'once')!r})"
    dying = {"dies once": kill.format(f"not {once}.exists()", f"{once}.touch()"), "dies": kill.format("True", "pass")}
    for (name, source), wrong in zip(dying.items(), (None, "its process died (killed, or out of memory)"), strict=True):
        ended = notebooks.execute_all(tasks(tmp_path, {name: source, "good": "print(x)"}, {}), jobs=2)
        assert dict(ended) == {name: wrong, "good": None}

"""The command line: plans, sentences for mistakes, and the whole way at the smoke preset."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

import run_all
from agmm import cli, report
from agmm.papers import notebooks, tables
from agmm.training import sweep
from agmm.training.presets import PRESETS
from tests import layouts
from tests.helpers import ROOT
from tests.test_tables import complete, find


def start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_all.py"), *map(str, args)]
    # A background job of a shell ignores Ctrl-C and would pass that on.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def sentence(capfd, *args: object) -> str:
    """What a mistaken call says on its way out with code 2."""
    assert run_all.main([str(arg) for arg in args]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("run_all.py: ")
    assert printed.count("\n") == 1
    return printed


def test_dry_run_counts_what_is_cached(tmp_path, capfd):
    cell = tables.TABLES["agmm_table1"].cells(PRESETS["smoke"])[0]
    complete(tmp_path, cell.run, 50.0)
    args = ["--preset", "smoke", "--only", "agmm_table1", "--results", str(tmp_path), "--dry-run", "--jobs", "3"]
    assert run_all.main(args) == 0
    printed = capfd.readouterr().out.splitlines()
    runs = tables.needed(["agmm_table1"], "smoke", 1)
    assert printed[0].startswith(f"agmm_table1: {len(runs)} runs, 1 cached, about ")
    assert printed[0].endswith("on 3 processes")
    assert printed[-1] == "labels of shapes: simulated from dense masks, seed = the run's"
    listed = [line for line in printed[1:] if line.startswith("  ")]
    ids = [run.id for run in runs]
    assert sorted(word for line in listed for word in line.split() if word in ids) == sorted(ids)
    assert [cell.run.id in line for line in listed if " cached " in line] == [True]


def test_dry_run_tells_the_papers_trainings_from_extras_and_writes_nothing(tmp_path, capfd):
    assert run_all.main(["--only", "agmm", "--results", str(tmp_path / "none"), "--dry-run"]) == 0
    assert not (tmp_path / "none").exists()
    printed = capfd.readouterr().out
    paper, extras = printed.split("\nextras: ")
    assert "trainings of the paper: 64\n" in paper
    assert re.findall(r"^  (O\d{3})  ", paper, re.M) == [f"O{n:03}" for n in range(1, 65)]
    assert not re.search(r"O\d{3}  ", extras)
    assert "without the absent-class loss  " in extras


def test_a_complete_run_needs_no_data_and_missing_labels_are_said_first(tmp_path, capfd):
    """Before ImageNet weights are looked for."""
    results = ["--preset", "paper", "--results", str(tmp_path)]
    complete(tmp_path, cli.find("O005", "paper"), 50.0)
    assert cli.main(["run", "O005", *results]) == 0
    layouts.voc(tmp_path / "voc")
    here = [*results, "--device", "cpu", "--data-root", str(tmp_path)]
    for call in (lambda: cli.main(["run", "O001", *here]), lambda: run_all.main(["--only", "agmm_table1", *here])):
        assert call() == 2
        said = capfd.readouterr().err.splitlines()[-1]
        assert "hold no points" in said
        assert "into point or points/agmm_voc (" in said


def test_dry_run_refuses_what_a_training_would(tmp_path, capfd):
    args = ["--only", "agmm_table1", "--results", str(tmp_path), "--dry-run"]
    assert run_all.main([*args, "--device", "gpu"]) == 2
    assert run_all.main([*args, "--preset", "camvid", "--data-root", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'}" in capfd.readouterr().err


def test_a_reader_of_the_output_may_close_it():
    process = start("--dry-run")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_seeds_are_a_number():
    """Which papermill's parameters are not where they come as text."""
    for seeds in ("2", 0, 1.5):
        with pytest.raises(ValueError, match="^seeds is .* -p seeds 3"):
            tables.needed(["agmm_table1"], "smoke", seeds)


def test_list(capfd):
    assert run_all.main(["--list"]) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in (*tables.TABLES, *tables.GROUPS, *PRESETS))


def test_options_are_refused_at_once():
    """In a sentence each, without waiting for torch."""
    options = ("--seeds 0", "--seeds -1", "--seeds two", "--jobs 0", "--what")
    code = f"""
import sys, run_all
for option in {options}:
    try:
        run_all.main(option.split())
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 False"] * len(options)
    for option, line in zip(options, done.stderr.splitlines(), strict=True):
        assert option.split()[0] in line


def test_mistakes_are_one_sentence(capfd, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    for said, *args in (
        ("did you mean agmm_table1", "--only", "agmm_tabl1"),
        ("did you mean quick", "--preset", "quik"),
        ("--data-root", "--preset", "camvid"),
        ("no folder", "--preset", "camvid", "--data-root", tmp_path / "nowhere"),
        ("choose another folder with --results", "--preset", "smoke", "--results", tmp_path / "file"),
        *([("choose another folder", "--preset", "smoke", "--results", tmp_path / "closed")] if os.geteuid() else []),
        *([] if torch.cuda.is_available() else [("torch sees no GPU", "--preset", "smoke", "--device", "cuda")]),
    ):
        assert said in sentence(capfd, "--results", tmp_path, *args)


def test_parameter_that_a_notebook_lacks(capfd, tmp_path, monkeypatch):
    """papermill would only warn, and the run would go on with the default."""
    given = run_all.parameters
    monkeypatch.setattr(run_all, "parameters", lambda *args: given(*args) | {"epochs": 3})
    assert "does not declare the parameter epochs" in sentence(capfd, "--preset", "smoke", "--results", tmp_path)


def test_failing_table_leaves_the_others(capfd, tmp_path, monkeypatch):
    def execute(path: Path, target: Path, given: dict) -> None:
        if target.stem == "agmm_table1":
            raise RuntimeError("cell 3 failed")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()

    monkeypatch.setattr(sweep, "train_all", lambda *args, **options: {})
    monkeypatch.setattr(notebooks, "execute", execute)
    assert run_all.main(["--preset", "smoke", "--results", str(tmp_path), "--jobs", "1"]) == 1
    printed = capfd.readouterr()
    assert "failed: agmm_table1: RuntimeError: cell 3 failed" in printed.err
    assert printed.out.splitlines()[-1] == f"report: {tmp_path / 'smoke' / 'report.html'}"
    shared = {"photographs_curves", "photographs_causes"}  # the notebook of photographs_methods shows them, too
    for name in tables.TABLES:
        assert (tmp_path / "smoke" / "tables" / f"{name}.md").exists()
        assert (tmp_path / "smoke" / "notebooks" / f"{name}.ipynb").exists() == (name not in {"agmm_table1", *shared})


def test_table_without_runs_is_no_failure_but_a_failed_report_is(capfd, tmp_path, monkeypatch):
    args = ["--preset", "camvid", "--only", "agmmpp_table2", "--results", str(tmp_path), "--no-notebooks"]
    assert run_all.main(args) == 0
    assert "agmmpp_table2: 0 runs, 0 cached\n" in capfd.readouterr().out
    assert "Nothing of this table" in (tmp_path / "camvid" / "tables" / "agmmpp_table2.md").read_text()
    monkeypatch.setattr(report, "write", lambda *_, **__: 1 / 0)
    assert run_all.main(args) == 1
    assert capfd.readouterr().err == "failed: report: ZeroDivisionError: division by zero\n"


def test_failed_run_leaves_a_blank(capfd, tmp_path, monkeypatch):
    """The table is written with a blank; its notebook, which would try the run again, is not executed."""
    lost = find("agmm_table2", "AGMM (SG)", absent=False).run

    def train_all(runs, *args, **options):
        for run in runs:
            if run.id != lost.id:
                complete(tmp_path, run, 50.0)
        return {lost.id: "it diverged"}

    executed = []
    monkeypatch.setattr(sweep, "train_all", train_all)
    monkeypatch.setattr(notebooks, "execute", lambda path, target, given: executed.append(path.stem))
    args = ["--preset", "smoke", "--results", str(tmp_path), "--only", "agmm_table2", "agmm_table1"]
    assert run_all.main(args) == 1
    assert executed == ["table1"]
    assert "failed: it diverged" in capfd.readouterr().err
    assert (tmp_path / "smoke" / "report.html").exists()
    frame = pd.read_csv(tmp_path / "smoke" / "tables" / "agmm_table2.csv", keep_default_na=False)
    blank = frame[frame["ours_mean"] == ""]
    assert list(zip(blank["row"], blank["column"], blank["absent"], strict=True)) == [("AGMM (SG)", "point", False)]


def test_records_alone_are_enough_for_tables_claims_and_report(capfd, tmp_path, monkeypatch):
    for run in tables.needed(["agmm_table2"], "smoke", 1)[:3]:
        complete(tmp_path, run, 50.0)
    monkeypatch.setattr(sweep, "train_all", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(notebooks, "execute", lambda *_: pytest.fail("executed a notebook"))
    args = ["--preset", "smoke", "--results", str(tmp_path), "--only", "agmm", "--no-training"]
    assert run_all.main(args) == 0
    frame = pd.read_csv(tmp_path / "smoke" / "tables" / "agmm_table2.csv")
    assert set(frame["ours_mean"].dropna()) == {50}
    assert {path.name for path in (tmp_path / "smoke").iterdir()} >= {"claims.md", "report.html", "tables"}
    assert "data:image" not in (tmp_path / "smoke" / "report.html").read_text()
    assert run_all.main([*args, "--force"]) == 2
    assert "leave out --force" in capfd.readouterr().err


def test_force_moves_the_selected_runs_only(tmp_path, monkeypatch):
    runs = tables.needed(["agmm_supp_figure2"], "smoke", 1)
    other = replace(runs[-1], seed=7)
    for run in (*runs, other):
        complete(tmp_path, run, 50.0)
    seen = []
    monkeypatch.setattr(sweep, "train_all", lambda runs, *_, **__: seen.extend(sweep.missing(runs, tmp_path)) or {})
    args = ["--preset", "smoke", "--results", str(tmp_path), "--only", "agmm_supp_figure2", "--no-notebooks", "--force"]
    run_all.main(args)
    assert {run.id for run in seen} == {run.id for run in runs}
    assert len(list((tmp_path / "smoke" / "replaced").iterdir())) == len(runs)
    assert sweep.missing([other], tmp_path) == []


def test_interrupted_resumed_and_cached(tmp_path, capfd):
    """Ctrl-C after the first runs; the same command finishes; a third time nothing is left to train."""
    args = ["--preset", "smoke", "--only", "agmmpp_table10", "--results", tmp_path, "--jobs", "2"]
    runs = tables.needed(["agmmpp_table10"], "smoke", 1)
    process = start(*args)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("[2/"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=900)
    kept = len(list(tmp_path.glob("smoke/runs/*/result.json")))
    assert process.returncode == 130
    assert said.strip() == "run_all.py: interrupted; the same command resumes from the last finished epochs"
    assert kept >= 2
    process = start(*args)
    printed, said = process.communicate(timeout=900)
    assert (process.returncode, said) == (0, "")
    assert f"{len(runs)} runs, {kept} cached" in printed
    assert str(tmp_path / "smoke" / "tables" / "agmmpp_table10.md") in printed
    frame = pd.read_csv(tmp_path / "smoke" / "tables" / "agmmpp_table10.csv", keep_default_na=False)
    assert (frame["n_seeds"] == 1).all()
    notebook = nbformat.read(tmp_path / "smoke" / "notebooks" / "agmmpp_table10.ipynb", as_version=4)
    assert "AGMM++, old L_con" in str([cell.get("outputs") for cell in notebook.cells])
    assert run_all.main([*map(str, args), "--dry-run"]) == 0
    assert f"{len(runs)} runs, {len(runs)} cached\n" in capfd.readouterr().out

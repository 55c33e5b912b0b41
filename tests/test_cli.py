"""The command `agmm`: one parser, one sentence per mistake, and no waiting for torch."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from unittest.mock import Mock

import pytest

from agmm import cli
from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_and_mistakes_do_not_wait_for_torch():
    code = """
import sys
from agmm import cli
for argv in sys.argv[1:]:
    try:
        cli.main(argv.split())
    except SystemExit as stop:
        print("ended with", stop.code, "torch" in sys.modules)
"""
    done = python(code, "--help", "--version", "run --help", "trian", "train --what", "")
    ended = [line for line in done.stdout.splitlines() if line.startswith("ended with")]
    assert ended == ["ended with 0 False"] * 3 + ["ended with 2 False"] * 3
    assert done.stderr.count("\n") == 3


def test_module_and_installed_command_are_one():
    assert PROJECT["scripts"] == {"agmm": f"{cli.__name__}:{cli.main.__name__}"}
    done = subprocess.run([sys.executable, "-m", "agmm", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"agmm {PROJECT['version']}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: agmm {name} ")


def test_a_method_in_the_current_folder_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_method_of_mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["compare", "a_method_of_mine:Missing", "agmm_table1", "--preset", "smoke"]) == 2
    assert "module 'a_method_of_mine' has no attribute 'Missing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a.png: is\ndamaged"), 2, "agmm x: a.png: is damaged"),
        (OSError(28, "No space left on device", "a"), 2, "agmm x: [Errno 28] No space left on device: 'a'"),
        (type("OutOfMemoryError", (RuntimeError,), {})(), 2, "agmm x: the memory of the device is too small; choose"),
        (KeyboardInterrupt(), 130, "agmm x: interrupted; it goes on"),
        (ModuleNotFoundError(name="jinja2.x"), 2, "agmm x: needs the package jinja2 of the extra own: pip install"),
    ],
)
def test_errors_are_one_sentence(error, code, said, capsys):
    assert cli.exit_code("agmm x", Mock(side_effect=error), extra="own", resumed="it goes on") == code
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


def test_bugs_are_no_sentences():
    for error in (KeyError("a"), ModuleNotFoundError(name="agmm.nothing"), ModuleNotFoundError(name="json.a")):
        with pytest.raises(type(error)):
            cli.exit_code("agmm x", Mock(side_effect=error))


@pytest.mark.parametrize(
    ("argv", "package", "extra"),
    [
        (["check", "--images", "a", "--labels", "b", "--classes", "c"], "pandas", "own"),
        (["report"], "jinja2", "experiments"),
        (["download", "voc", "--data-root", "a"], "filelock", "experiments"),
    ],
)
def test_a_missing_extra_is_named(argv, package, extra):
    code = f"import sys; sys.modules[{package!r}] = None; from agmm import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = python(code, *argv)
    said = f"agmm {argv[0]}: needs the package {package} of the extra {extra}: pip install 'agmm[{extra}]'\n"
    assert (done.returncode, done.stderr) == (2, said)


def brought(*extras: str) -> set[str]:
    """Distributions that a plain installation and some extras declare, by their names in lower case."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    inner = [line[5:-1] for line in lines if line.startswith("agmm[")]
    names = {line.partition(">=")[0].lower() for line in lines if not line.startswith("agmm[")}
    return names | (brought(*inner) if inner else set())


def imported(*modules: str) -> set[str]:
    """Packages of others in any import statement of all our modules that some modules load."""
    load = "import sys\nfor name in sys.argv[1:]: __import__(name)"
    show = "for module in list(sys.modules.values()): print(vars(module).get('__file__'))"
    names = set()
    for path in python(f"{load}\n{show}", *modules).stdout.split():
        if path.startswith(str(ROOT / "agmm")) or path == str(ROOT / "run_all.py"):
            for node in ast.walk(ast.parse(Path(path).read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"agmm"}


TOOLS = ("run_all", "agmm.report", "agmm.tools.bench", "agmm.tools.compare", "agmm.tools.released")


@pytest.mark.parametrize(
    ("modules", "extras"),
    [
        (["agmm.objectives"], ["fast"]),
        (["agmm.own"], ["own", "onnx", "slurm"]),
        ([*TOOLS, "agmm.papers.verdicts", "agmm.papers.notebooks"], ["experiments", "slurm"]),
    ],
)
def test_extras_bring_what_is_imported(modules, extras):
    distributions, packages = packages_distributions(), imported(*modules)
    assert "torch" in packages
    for package in packages:
        assert {name.lower().replace("_", "-") for name in distributions[package]} & brought(*extras), package

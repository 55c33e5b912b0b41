"""The project's own files: lock, conda environment and metadata agree; the README's code runs; nothing leaks."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from agmm import networks
from tests.helpers import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
ENVIRONMENT = (ROOT / "environment.yml").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _pins(text: str) -> set[str]:
    return set(re.findall(r'^\s*(?:- )?"?([\w.-]+==[^\\"\n]*[^\\"\s])', text, re.MULTILINE))


def test_conda_environment_pins_exactly_the_lock() -> None:
    assert len(_pins(LOCK)) > 100
    assert _pins(ENVIRONMENT) == _pins(LOCK)
    assert ENVIRONMENT.rstrip().endswith("- -e .")


def test_every_dependency_is_locked_within_its_range() -> None:
    assert {"fast", "own", "experiments", "onnx", "slurm", "dev"} == PROJECT["project"]["optional-dependencies"].keys()
    versions: dict[str, list[str]] = {}
    for pin in _pins(LOCK):
        name, version = pin.split(";")[0].strip().split("==")
        versions.setdefault(name.lower(), []).append(version)
    extras = PROJECT["project"]["optional-dependencies"]
    for line in PROJECT["project"]["dependencies"] + sum(extras.values(), []):
        requirement = Requirement(line)
        if requirement.name == PROJECT["project"]["name"]:  # an extra that holds another
            assert requirement.extras <= extras.keys()
            continue
        locked = versions[requirement.name.lower()]
        assert all(requirement.specifier.contains(version) for version in locked), f"{line}: locked {locked}"


def test_lock_holds_versions_and_hashes_but_no_addresses() -> None:
    assert "://" not in LOCK
    assert "://" not in ENVIRONMENT
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_makefile_asks_for_the_pythons_of_the_metadata() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= v <= (3, 13)" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.split("\n")[0][:40])
def test_python_in_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"net": networks.build("small", 7)})


def test_top_level_is_the_agreed_one() -> None:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.splitlines()}
    agreed = {"notebooks", "agmm", "results", "tests", "environment.yml", "run_all.py", "README.md", "pyproject.toml"}
    agreed |= {"Makefile", "requirements.lock", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert {name for name in top if not name.startswith(".")} <= agreed

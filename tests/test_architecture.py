"""The house: mathematics at the top, machinery in folders, no import from a higher floor, no circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

from tests.helpers import ROOT

FLOORS = (
    ("codes", "host", "networks"),
    ("labels", "fast"),
    ("gmm", "data"),
    ("em", "losses", "evaluation", "dense"),
    ("objectives",),
    ("rivals",),
    ("training",),
    ("figures", "own"),
    ("papers",),
    ("report", "tools", "cli", "__main__"),
)
"""Rooms of the package, from the ground; each may import from its own floor and from those below."""

FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("agmm/**/*.py"))
}


def imported(name: str) -> Iterator[str]:
    """Our modules that a module imports, in functions and for types, too."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & set(FILES)
            yield from modules
            if len(modules) < len(node.names):
                yield node.module


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_no_module_imports_from_a_higher_floor():
    arrows = [(name, other) for name in FILES if room(name) for other in imported(name) if room(other)]
    assert {room(name) for arrow in arrows for name in arrow} <= set(FLOOR), "a room without a floor"
    assert not [f"{a} -> {b}" for a, b in arrows if FLOOR[room(b)] > FLOOR[room(a)]]


def test_no_circle_of_imports():
    """The package itself and the names that a folder's ``__init__`` offers aside."""
    folders = {name for name, path in FILES.items() if path.name == "__init__.py"}
    below = {name: {other for other in imported(name) if other != "agmm"} for name in FILES if name != "agmm"}
    for name in folders - {"agmm"}:
        below[name] = {other for other in below[name] if not other.startswith(name + ".")}
    TopologicalSorter(below).prepare()  # raises an error that names the circle


def test_files_are_few_and_short():
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in FILES.values()}
    assert not {str(path): count for path, count in lines.items() if count > 400}
    assert len(lines) <= 135
    assert len(list((ROOT / "agmm").glob("*.py"))) <= 10


def test_the_mathematics_is_importable_alone():
    code = "import sys; from agmm import objectives; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ended.stdout.split())
    assert len([name for name in loaded if name.split(".")[0] == "agmm"]) <= 14
    machinery = {"pandas", "skimage", "matplotlib", "PIL", "cv2", "sklearn", "timm", "filelock", "numba"}
    assert not machinery & loaded

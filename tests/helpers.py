"""What several test modules share: where reference data lie and how to skip without them."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.metrics import jaccard_score

import agmm
from agmm import networks
from agmm.codes import UNLABELED, VOID
from agmm.training import loop

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
GOLDEN = (SHARED / "golden", ROOT / "tests" / "golden")


def shared(relative: str) -> Path:
    """Path below the reference folder beside the checkout; skips the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference data not available: {relative}")
    return path


@cache
def golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and description of a golden vector computed with the original authors' code; skips where absent."""
    for folder in GOLDEN:
        if (folder / f"{name}.npz").exists():
            with np.load(folder / f"{name}.npz") as arrays:
                return dict(arrays), json.loads((folder / f"{name}.json").read_text())
    pytest.skip(f"golden vector not available: {name}")


@contextmanager
def one_sentence(kind: type[Exception], match: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """An error is raised whose message matches and is one line."""
    with pytest.raises(kind, match=match) as error:
        yield error
    assert "\n" not in str(error.value)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on small images wait for each other where the cores are busy."""
    with threads(1):
        yield


def build(name: str, num_classes: int = 7, **options: Any) -> networks.Segmenter:
    """Build a network in eval mode, with the same random weights every time."""
    torch.manual_seed(0)
    return networks.build(name, num_classes, **options).eval()


def skeleton(name: str, num_classes: int = 7, **options: Any) -> networks.Segmenter:
    """Build a network without storage: enough for shapes and counts."""
    with torch.device("meta"):
        return networks.build(name, num_classes, **options).eval()


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def saved_weights(run: agmm.Run, results: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.folder(results) / f"{name}.safetensors")


def mean_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Per cent over the pixels that are not void, of the classes that either shows."""
    predicted, truth = predicted[truth != VOID], truth[truth != VOID]
    classes = np.setdiff1d(np.union1d(predicted, truth), [UNLABELED, VOID])
    return 100 * jaccard_score(truth, predicted, labels=classes, average="macro")


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SCRIPT = """import json, sys, agmm
agmm.run(agmm.Run.from_dict(json.loads(sys.argv[1])), results=sys.argv[2], data_root=sys.argv[3] or None, device="cpu")
"""


def start(run: "agmm.Run", results: Path, data_root: Path | str = "", launch: tuple[str, ...] = ()) -> Popen[str]:
    """Train a run in a process of its own, or in several of a module that launches them."""
    script = results / "job.py"
    results.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *launch, str(script), json.dumps(run.to_dict()), str(results), str(data_root)]
    return Popen(command, env=environment, stderr=PIPE, text=True)


@contextmanager
def interruption() -> Iterator[None]:
    """End a training when it has written its first checkpoint."""
    save = loop._save_checkpoint

    def save_and_stop(*state: Any) -> None:
        save(*state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def interrupt(run: agmm.Run, results: Path) -> None:
    with interruption():
        agmm.run(run, results=results, device="cpu")


def resumes_to_same_bits(run: agmm.Run, whole: Path, broken: Path, names: tuple[str, ...] = ("model",)) -> bool:
    """Interrupt a run that has been trained in ``whole`` in another folder, finish it there, and compare."""
    interrupt(run, broken)
    agmm.run(run, results=broken, device="cpu")
    return all(same_weights(*(saved_weights(run, where, name) for where in (whole, broken))) for name in names)


def train_in_two_processes(run: "agmm.Run", results: Path, data_root: Path | str = "") -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(run, results, data_root, launch)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors


def wait(until: Callable[[], object], seconds: float = 300) -> bool:
    """Whether something became true in time, by default as much as a loaded machine may take."""
    deadline = time.monotonic() + seconds
    while not (found := until()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(found)


def run_notebook(path: Path, given: dict[str, Any]) -> None:
    """Run the cells of a notebook with other parameters in this process, which is faster than a kernel."""
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names |= given if "parameters" in cell["metadata"].get("tags", ()) else {}


def tool(module: ModuleType, *words: object) -> int:
    """Exit code of a sub-command of ``agmm`` whose ``arguments`` and ``command`` a module holds."""
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    try:
        return module.command(parser.parse_args([str(word) for word in words]))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"agmm: {error}", file=sys.stderr)
        return 2

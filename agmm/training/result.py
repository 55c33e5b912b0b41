"""What a complete run reports: its result, its training curves, and what is wrong with damaged files."""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from agmm.training.run import Run

MEASURED = "measured.json"  # beside a run: numbers measured on its weights after the training, by quantity


@dataclass(frozen=True)
class Result:
    """Report of a complete run (``result.json``)."""

    run_id: str
    miou: float
    """Mean IoU on the test split in per cent; for ``"ImageTags"`` the share of correct tags in per cent."""
    iou: list[float | None]
    """Per class in per cent; None where the class never occurs."""
    confusion: list[list[int]]
    """(K, K), truth by prediction."""
    epoch: int
    """Epoch of the reported model, from 1."""
    seconds: float
    """Wall time of training and evaluation, earlier attempts at the same run included; of a mere test its own."""
    images_per_second: float
    """Training throughput without evaluation; images tested per second where nothing is trained."""
    peak_memory_mb: float
    """Memory of the process (CPU), or of the device's allocations (GPU)."""
    details: dict[str, Any]
    """Provenance of the network and its weights, coverage of the labels, device."""


def load_result(run: Run, results: str | Path = "results") -> Result | None:
    """Return the result of a complete run, None of others; ValueError where the file is damaged or another run's."""
    path = run.folder(results) / "result.json"
    try:
        plain = json.loads(path.read_text())
        result = Result(**plain)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error).replace("Result.__init__() got an unexpected keyword argument", "unknown field")
        problem = problem.replace("Result.__init__() missing", "it lacks")
        raise ValueError(f"{path} is damaged ({problem}); delete the folder to train the run again") from error
    wrong = [name for name, types in _RESULT_TYPES.items() if not isinstance(plain[name], types)]
    if wrong or not math.isfinite(result.miou):
        raise ValueError(f"{path} is damaged (see {[*wrong, 'miou'][0]}); delete the folder to train the run again")
    if result.run_id != run.id:
        raise ValueError(f"{path} is of run {result.run_id}, not of {run.id}; delete the folder to train the run again")
    return result


_RESULT_TYPES: dict[str, type | tuple[type, ...]] = {"run_id": str, "iou": list, "confusion": list, "epoch": int}
_RESULT_TYPES |= dict.fromkeys(("miou", "seconds", "images_per_second", "peak_memory_mb"), (int, float))
_RESULT_TYPES |= {"details": dict}


def check_description(run: Run, results: str | Path = "results") -> None:
    """Raise ValueError where a run's ``run.json`` was edited: it would describe another run than the result's."""
    path, problem = run.folder(results) / "run.json", ""
    try:
        described = Run.from_dict(json.loads(path.read_text())).id
        if described != run.id:
            problem = f"describes run {described}, not {run.id}"
    except FileNotFoundError:
        return
    except Exception as error:  # any field may hold anything
        problem = f"does not describe a run ({error})"
    if problem:
        raise ValueError(f"{path} {problem}; delete that file, the result stays what it is")


def load_history(run: Run, results: str | Path = "results") -> pd.DataFrame:
    """Return the training curves, a row per epoch; for a run that tests another one's weights, those of that one."""
    run = run.trained or run
    path = run.folder(results) / "history.csv"
    try:
        text = path.read_text(encoding="utf-8")
        history = pd.read_csv(io.StringIO(text))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder to train the run again") from error
    epochs = list(history.get("epoch", ()))
    whole = text.endswith("\n") and bool(epochs) and epochs == list(range(1, len(epochs) + 1))
    if not whole or history.select_dtypes("number").shape != history.shape:
        raise ValueError(f"{path} is damaged (no row of numbers per epoch); delete the folder to train the run again")
    return history

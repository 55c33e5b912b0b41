"""What several test modules share: where reference data lie and how to skip without them."""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: several on small images wait for each other where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tool(module: ModuleType, *words: object) -> int:
    """Exit code of a sub-command of ``agmm`` whose ``arguments`` and ``command`` a module holds."""
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    try:
        return module.command(parser.parse_args([str(word) for word in words]))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"agmm: {error}", file=sys.stderr)
        return 2

"""Weakly-supervised segmentation with Gaussian mixtures: the papers' losses, and everything that trains with them.

The modules beside this one are the mathematics and need torch alone; `Run`, `run` and `own` are loaded when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agmm.codes import UNLABELED, VOID

if TYPE_CHECKING:
    from agmm import own
    from agmm.training.result import Result
    from agmm.training.run import Run
    from agmm.training.train import run

__all__ = ["UNLABELED", "VOID", "Result", "Run", "own", "run"]
__version__ = "0.1.0"

_HOMES = {"Result": "agmm.training.result", "Run": "agmm.training.run", "run": "agmm.training.train"}


def __getattr__(name: str) -> Any:
    """Load a name of the machinery (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "own":
        return import_module("agmm.own")
    raise AttributeError(f"module 'agmm' has no attribute {name!r}")

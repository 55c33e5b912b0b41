"""Weakly-supervised segmentation with Gaussian mixtures: the papers' methods, runs and tables."""

from agmm import own
from agmm.labels import UNLABELED, VOID
from agmm.runs import Result, Run
from agmm.training import run

__all__ = ["UNLABELED", "VOID", "Result", "Run", "own", "run"]
__version__ = "0.1.0"

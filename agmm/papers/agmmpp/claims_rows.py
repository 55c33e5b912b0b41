"""The runs that claims of AGMM++ compare, by name."""

from typing import Any

from agmm.papers.agmmpp.tables import STEPS
from agmm.papers.claim import Rows
from agmm.papers.evidence import Evidence
from agmm.training.run import Run

WITH_SELF, WITH_WEAK, WITH_CON = STEPS.values()
"""Options of the ablations' rows: each adds a loss, and the last one lacks nothing but online EM."""


def seg(network: str = "resnet") -> Rows:
    """Partial cross-entropy alone; with image tags it is ToCo."""
    return lambda evidence, labels: evidence.preset.at(labels, network=network)


def plus(network: str = "resnet", **options: Any) -> Rows:
    """AGMM++, as chosen or with options."""
    return lambda evidence, labels: evidence.preset.at(labels, "AGMMpp", network=network, **options)


def agmm(network: str = "resnet") -> Rows:
    """AGMM, with its absent-class loss or without it."""
    return lambda evidence, labels: evidence.agmm(labels, network=network)


def assignment(evidence: Evidence, labels: str) -> Run:
    """Label Assignment (Eq. 13 of AGMM)."""
    return evidence.preset.at(labels, "LabelAssignment", absent=False)


def refined(rows: Rows, network: str) -> Rows:
    """The same networks tested as the paper tests its best ones, with a DenseCRF."""

    def tested(evidence: Evidence, labels: str) -> Run:
        return rows(evidence, labels).tested(**evidence.preset.networks[network].refined)

    return tested

"""The claims that figures of SPML (ICLR 2021) make, measured on trained networks."""

from dataclasses import replace
from functools import partial

import numpy as np

from agmm import figures
from agmm.figures import Trained
from agmm.papers import rules
from agmm.papers.agmm.claims_figures import measured
from agmm.papers.claim import Claim
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding
from agmm.papers.spml.tables import RELATIONS

IMAGES = 200
"""Images of a split whose segments are queries at most."""


def _there(evidence: Evidence) -> bool:
    return evidence.preset.embedding is not None and "scribbles" in evidence.preset.labels


def boundaries_improve(evidence: Evidence) -> dict[str, Finding]:
    """Mean IoU of test pixels close to a boundary, with one more relation at a time."""
    if not _there(evidence):
        return {}
    runs = [evidence.preset.spml("scribbles", **row.options) for row in RELATIONS]

    def measure(*trained: Trained) -> tuple[float, ...]:
        named = {row.label: one for row, one in zip(RELATIONS, trained, strict=True)}
        return tuple(figures.measure_boundaries(named)["boundary"])

    values, why = measured(evidence, runs, measure)
    found = rules.trend(values)
    return {"C, C + I, C + I + O": replace(found, note=why) if why else found}


def neighbors_share_context(evidence: Evidence) -> dict[str, Finding]:
    """Jaccard index of the classes of a query's image and those of its neighbors' images, minus that by chance.

    The paper does not say where its queries are from: both splits are judged, the neighbors being of the training set.
    """
    if not _there(evidence):
        return {}
    values, why = measured(evidence, [evidence.preset.spml("scribbles")], _leads)
    test, training = values.T if len(values) else np.zeros((2, 0))
    judged = {"queries of test images": test, "queries of training images": training}
    found = {name: rules.direction(leads, unit="share") for name, leads in judged.items()}
    return {name: replace(one, note=why or one.note) for name, one in found.items()}


def _leads(trained: Trained) -> tuple[float, ...]:
    """Means over the segments of the first images of the test and of the training set."""
    among = figures.bank(trained, trained.data)
    queries = (figures.bank(trained, split, IMAGES) for split in (trained.test, trained.data))
    found = [figures.measure_context(one, among) for one in queries]
    return tuple(float((one["nearest"] - one["chance"]).mean()) for one in found)


_claim = partial(Claim, labels="scribbles", agmm=False)
CLAIMS = (
    _claim("S20", "Fig. 6, 7", "more relations, better boundaries", "", boundaries_improve),
    _claim("S21", "Fig. 10", "neighbors share the context", "", neighbors_share_context),
)

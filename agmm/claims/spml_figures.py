"""The claims that figures of SPML (ICLR 2021) make, measured on trained networks."""

from dataclasses import replace
from functools import partial

from agmm import figures
from agmm.claims import rules
from agmm.claims.agmm_figures import measured, of_networks
from agmm.claims.claim import Claim
from agmm.claims.evidence import Evidence
from agmm.claims.rules import Finding
from agmm.data import Split
from agmm.figures import Trained
from agmm.tables.spml_figures import RELATIONS

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
        return tuple(figures.boundary_quality(named)["boundary"])

    values, why = measured(evidence, runs, measure)
    found = rules.trend(values)
    return {"C, C + I, C + I + O": replace(found, note=why) if why else found}


def neighbors_share_context(evidence: Evidence) -> dict[str, Finding]:
    """Jaccard index of the classes of a query's image and those of its neighbors' images, minus that by chance.

    The paper does not say where its queries are from: both splits are judged, the neighbors being of the training set.
    """
    if not _there(evidence):
        return {}
    run = evidence.preset.spml("scribbles")
    rule = partial(rules.direction, unit="share")
    return {
        f"queries of {name} images": of_networks(evidence, [run], partial(_lead, test=test), rule)
        for name, test in {"training": False, "test": True}.items()
    }


def _lead(trained: Trained, test: bool) -> float:
    """Mean over the segments of the first images of a split."""
    split: Split = trained.test if test else trained.data
    among = figures.bank(trained, trained.data)
    queries = figures.bank(trained, split, IMAGES)
    found = figures.context(queries, among)
    return float((found["nearest"] - found["chance"]).mean())


_claim = partial(Claim, labels="scribbles", agmm=False)
CLAIMS = (
    _claim("S20", "Fig. 6, 7", "more relations align better with boundaries", "", boundaries_improve),
    _claim("S21", "Fig. 10", "neighboring segments share the image's context", "", neighbors_share_context),
)

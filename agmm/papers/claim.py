"""What a claim is, the runs that claims compare by name, and the commonest comparison of two."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agmm.papers import rules
from agmm.papers.evidence import Evidence
from agmm.papers.rules import Finding
from agmm.training.run import Run

VOC = ("points", "scribbles")
CLICKS = ("clicks20", "clicks50", "clicks100")
BLOCKS = ("blocks10", "blocks20", "blocks50")
NAMES = {f"clicks{n}": f"{n} clicks" for n in (20, 50, 100)} | {f"blocks{n}": f"{n} % blocks" for n in (10, 20, 50)}
NAMES |= {f"scribbles{n}": f"{n} % scribbles" for n in (80, 50, 30, 0)} | {"coco_tags": "COCO tags"}
"""Kinds of labels that are printed otherwise than they are called in a preset."""

Judge = Callable[[Evidence], dict[str, Finding]]
Rows = Callable[[Evidence, str], Run]


@dataclass(frozen=True)
class Claim:
    """A checkable sentence of a paper.

    Attributes
    ----------
    id, where : str
        ``"A01"``; table or figure.
    sentence : str
    published : str
        The numbers behind it, in the order of the settings.
    judge : callable
        Evidence to a finding per setting.
    labels, network : str
        A kind of labels on the data set, and a network of the preset, that the claim is about. Where the baseline
        trained with them is hardly better than a constant prediction, the claim is not judged.
    fact : bool
        True or false whatever the baseline is worth.
    agmm : bool
        Whether AGMM takes part, which is judged with and without its absent-class loss.
    """

    id: str
    where: str
    sentence: str
    published: str
    judge: Judge
    labels: str = "points"
    network: str = "resnet"
    fact: bool = False
    agmm: bool = True


def settings(evidence: Evidence, labels: Iterable[str], claimed: Iterable[float]) -> list[tuple[str, str, float]]:
    """Kinds of labels that the preset has and the claim is about (its number is not 0), as called and as printed."""
    pairs = zip(labels, claimed, strict=True)
    return [(kind, NAMES.get(kind, kind), size) for kind, size in pairs if kind in evidence.preset.labels and size]


def has(evidence: Evidence, labels: Sequence[str]) -> bool:
    """Whether the preset has all of these kinds of labels."""
    return set(labels) <= set(evidence.preset.labels)


def better(
    a: Rows,
    b: Rows,
    claimed: Sequence[float],
    labels: Sequence[str] = VOC,
    *,
    which: str = "",
    network: str = "resnet",
    least: int = rules.MIN_SEEDS,
    sized: Sequence[str] = (),
) -> Judge:
    """A against B with each kind of labels for which a number other than 0 is claimed; NaN where it is not known.

    ``which`` names the comparison in the settings of claims with several; ``network`` is one that the preset must have;
    for ``least`` see `rules.direction`. On the data sets of the papers the size is judged, too, with the kinds of
    labels in ``sized``.
    """

    def judge(evidence: Evidence) -> dict[str, Finding]:
        found: dict[str, Finding] = {}
        if network not in evidence.preset.networks:
            return found
        for kind, name, size in settings(evidence, labels, claimed):
            lead = evidence.lead(a(evidence, kind), b(evidence, kind))
            comparable = kind in sized and evidence.sized(kind)
            judged = rules.size(lead, size) if comparable else rules.direction(lead, size, least=least)
            found[f"{name}, {which}" if which else name] = judged
        return found

    return judge


def together(*judges: Judge) -> Judge:
    """Several comparisons that make one claim."""
    return lambda evidence: {name: found for judge in judges for name, found in judge(evidence).items()}


def gain_shrinks(a: Rows, b: Rows, labels: Sequence[str], name: str) -> Judge:
    """The lead of A over B falls from the first to the last of some kinds of labels, if the preset has all of them."""

    def judge(evidence: Evidence) -> dict[str, Finding]:
        if not has(evidence, labels):
            return {}
        v, n = evidence.miou(*(rows(evidence, kind) for rows in (a, b) for kind in labels)), len(labels)
        return {name: rules.trend((v[:, :n] - v[:, n:])[:, ::-1])}

    return judge


# --- Runs by name -----------------------------------------------------------------------------------------------------


def baseline(evidence: Evidence, labels: str) -> Run:
    """Partial cross-entropy alone."""
    return evidence.preset.at(labels)


def full(evidence: Evidence, labels: str) -> Run:
    """AGMM."""
    return evidence.agmm(labels)


def with_self(evidence: Evidence, labels: str) -> Run:
    """L_seg + L_self."""
    return evidence.agmm(labels, "seg", "self")


def with_spar(evidence: Evidence, labels: str) -> Run:
    """L_seg + L_self + L_spar."""
    return evidence.agmm(labels, "seg", "self", "spar")


def assignment(evidence: Evidence, labels: str) -> Run:
    """Label Assignment (Eq. 13)."""
    return evidence.preset.at(labels, "LabelAssignment", absent=evidence.absent)


def stop_gradient(evidence: Evidence, labels: str) -> Run:
    """AGMM (SG)."""
    return evidence.agmm(labels, "seg", "self", stop_gradient=True)


def tree_energy(evidence: Evidence, labels: str) -> Run:
    """TEL, with the width of its release on Cityscapes and ADE20K for clicks and blocks."""
    options: dict[str, Any] = {"sigma": 0.002} if labels in (*CLICKS, *BLOCKS) else {}
    return evidence.preset.at(labels, "TreeEnergy", **options)


def crf_loss(evidence: Evidence, labels: str) -> Run:
    """DenseCRF loss, as Table 5 has it."""
    return evidence.preset.at(labels, "DenseCRFLoss", size_rule="scaled_sigma")


def second_stage(first: Rows) -> Rows:
    """Multi-stage training on the predictions of a first stage."""
    return lambda evidence, labels: first(evidence, labels).second_stage()

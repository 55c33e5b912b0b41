"""What a claim is, the runs that claims compare by name, and the commonest comparison of two."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agmm.claims import rules
from agmm.claims.evidence import Evidence
from agmm.claims.rules import Finding
from agmm.data import sets
from agmm.runs import Run

VOC = ("points", "scribbles")
CLICKS = ("clicks20", "clicks50", "clicks100")
NAMES = {"clicks20": "20 clicks", "clicks50": "50 clicks", "clicks100": "100 clicks"}
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
    labels : str
        A kind of labels on the data set that the claim is about. Where the baseline trained with it is hardly better
        than a constant prediction, the claim is not judged.
    fact : bool
        True or false whatever the baseline is worth.
    """

    id: str
    where: str
    sentence: str
    published: str
    judge: Judge
    labels: str = "points"
    fact: bool = False


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
    least: int = rules.MIN_SEEDS,
    sized: Sequence[str] = (),
) -> Judge:
    """A against B with each kind of labels for which a number other than 0 is claimed.

    ``which`` names the comparison in the settings of claims with several; for ``least`` see `rules.direction`. On the
    data sets of the papers the size is judged, too, with the kinds of labels in ``sized``.
    """

    def judge(evidence: Evidence) -> dict[str, Finding]:
        found = {}
        for kind, name, size in settings(evidence, labels, claimed):
            lead = evidence.lead(a(evidence, kind), b(evidence, kind))
            comparable = kind in sized and evidence.preset.at(kind).dataset in sets.PAPERS
            judged = rules.size(lead, size) if comparable else rules.direction(lead, size, least=least)
            found[f"{name}, {which}" if which else name] = judged
        return found

    return judge


def together(*judges: Judge) -> Judge:
    """Several comparisons that make one claim."""
    return lambda evidence: {name: found for judge in judges for name, found in judge(evidence).items()}


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
    """TEL, with the width of its release on Cityscapes for clicks."""
    options: dict[str, Any] = {"sigma": 0.002} if labels in CLICKS else {}
    return evidence.preset.at(labels, "TreeEnergy", **options)


def crf_loss(evidence: Evidence, labels: str) -> Run:
    """DenseCRF loss, as Table 5 has it."""
    return evidence.preset.at(labels, "DenseCRFLoss", size_rule="scaled_sigma")


def second_stage(first: Rows) -> Rows:
    """Multi-stage training on the predictions of a first stage."""
    return lambda evidence, labels: first(evidence, labels).second_stage()

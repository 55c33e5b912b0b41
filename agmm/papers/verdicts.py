"""The papers' claims as checks on our results: verdicts, and the table of them."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd

from agmm import figures
from agmm.data import sets
from agmm.host import atomic_files
from agmm.papers import rules
from agmm.papers.agmm import claims as agmm
from agmm.papers.agmmpp import claims as agmmpp
from agmm.papers.claim import Claim, Evidence
from agmm.papers.spml import claims as spml
from agmm.papers.table import OBJECTIVES
from agmm.papers.tables import as_lines
from agmm.training import presets


class Paper(NamedTuple):
    """A paper's claims, and the name of their figure."""

    title: str
    claims: tuple[Claim, ...]
    figure: str


PAPERS = (
    Paper("AGMM (CVPR 2023)", agmm.CLAIMS, "claims"),
    Paper("AGMM++ (TPAMI 2025)", agmmpp.CLAIMS, "claims_agmmpp"),
    Paper("SPML (ICLR 2021)", spml.CLAIMS, "claims_spml"),
)
COLUMNS = [
    *("paper", "claim", "where", "sentence", "objective", "dataset", "setting", "n_seeds"),
    *("effect", "low", "high", "unit", "each", "p", "published", "claimed", "verdict", "holm", "note"),
]
SHORT = dict(zip(OBJECTIVES, ("as released", "without L_absent", *OBJECTIVES[2:]), strict=True))
"""Objectives of AGMM in the settings of a figure; those of claims in which it takes no part are empty."""
RIVALS = {name: f"beside AGMM {short}" for name, short in SHORT.items()}
"""The objectives where AGMM is one of several methods, as columns of verdicts."""
FORMATS = {"mIoU": "+.1f", "silhouette": "+.3f", "rank correlation": "+.2f", "ratio": ".2f", "share": ".2f"}
"""How effects are printed, by their unit."""


def collect(preset: str, results: str | Path = "results", data_root: str | Path | None = None) -> pd.DataFrame:
    """Judge every claim in every setting: a row with `COLUMNS` for each claim, objective and setting.

    AGMM is judged once for each of `agmm.papers.table.OBJECTIVES`: as released, without the absent-class loss that no
    sentence of the paper describes, and by the equations as printed in both readings of Eq. 8. Claims about trained
    networks need what was measured on them, or their weights and the data set below ``data_root``.

    Effects are in ``unit``, ``"mIoU"`` meaning points, and ``each`` has them seed by seed; ``published`` is what the
    paper prints for the whole claim, ``claimed`` its number for the effect; ``p`` is one-sided, and ``holm`` tells
    whether it stays significant among all claims of direction of the same paper.
    """
    root, rows = Path(data_root) if data_root else None, []
    for objective in OBJECTIVES:
        evidence = Evidence(presets.named(preset), Path(results), objective, root)
        for paper in PAPERS:
            # What AGMM takes no part in is judged once.
            claims = [claim for claim in paper.claims if claim.agmm or objective == OBJECTIVES[0]]
            rows += _rows(evidence, paper.title, claims)
    frame = pd.DataFrame(rows).sort_values("paper", kind="stable", ignore_index=True)
    frame["holm"] = ""
    for _, p in frame["p"].dropna().groupby(frame["paper"]):
        frame.loc[p.index, "holm"] = ["yes" if passed else "no" for passed in rules.holm(p.to_list())]
    return frame[COLUMNS]


def _rows(evidence: Evidence, paper: str, claims: list[Claim]) -> list[dict[str, Any]]:
    preset, rows = evidence.preset, []
    guarded = {(claim.labels, claim.network) for claim in claims}
    trained = [pair for pair in guarded if pair[0] in preset.labels and pair[1] in preset.networks]
    weak = {pair: evidence.too_weak(preset.at(pair[0], network=pair[1])) for pair in trained}
    for claim in claims:
        for setting, judged in claim.judge(evidence).items():
            finding = (None if claim.fact else weak[claim.labels, claim.network]) or judged
            rows.append(
                asdict(finding)
                | {"paper": paper, "claim": claim.id, "where": claim.where, "sentence": claim.sentence}
                | {"objective": evidence.objective if claim.agmm else "", "setting": setting}
                | {"dataset": preset.at(claim.labels).dataset, "published": claim.published, "n_seeds": finding.n}
                | {"each": " ".join(f"{effect:{FORMATS[finding.unit]}}" for effect in finding.each)}
            )
    return rows


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one verdict per claim (rows) and objective (columns), see `agmm.papers.rules.combine`.

    Empty where a claim's tables have no rows of an objective.
    """
    alone, of_agmm = frame[frame["objective"] == ""], frame[frame["objective"] != ""]
    copies = []
    for name in OBJECTIVES:
        # Beside an objective without rows of its own, what a claim says of other methods decides nothing.
        without = set(of_agmm["claim"]) - set(of_agmm.loc[of_agmm["objective"] == name, "claim"])
        copies.append(alone[~alone["claim"].isin(without)].assign(objective=name))
    keys = ["claim", "where", "sentence", "published", "objective"]
    combined = pd.concat([of_agmm, *copies]).groupby(keys, sort=False)["verdict"].agg(rules.combine)
    table = combined.unstack("objective").reindex(columns=list(OBJECTIVES)).fillna("")
    return table.reset_index().rename_axis(columns=None).sort_values("claim")


def markdown(preset: str, frame: pd.DataFrame) -> str:
    """Return the verdicts paper by paper, each with the numbers behind them."""
    lines = [
        f"# Claims of the papers, judged on the preset `{preset}`",
        "",
        f"Up to {frame['n_seeds'].max()} seeds, three needed for a verdict. Intervals are 95 % t intervals of",
        "differences paired over seeds, in points of mIoU unless another unit is named.",
    ]
    for paper in PAPERS:
        part = frame[frame["paper"] == paper.title]
        if len(part):
            lines += ["", *_section(part.drop(columns="paper"), paper.title)]
    return "\n".join(lines)


def _section(frame: pd.DataFrame, title: str) -> list[str]:
    data = ", ".join(dict.fromkeys(frame["dataset"]))
    embedded = f"embedded data ({data}): a demonstration, not evidence for the papers"
    where = embedded if set(frame["dataset"]) <= set(sets.GENERATED) else f"data set {data}"
    judged = (
        "Beside directions, sizes are judged where the paper claims a large one: within a factor of 0.5 to 1.5."
        if set(frame["dataset"]) <= set(sets.PAPERS)
        else "Only directions are judged, not sizes: the published numbers belong to another data set and network."
    )
    rival = (
        f"Claims about AGMM are judged for each of its objectives ({', '.join(OBJECTIVES)}); the others do not differ."
    )
    numbers = frame.assign(effect=[effect(line) for _, line in frame.iterrows()])
    return [
        f"## {title}",
        "",
        f"On {where}. {judged}",
        *([rival] if "" in set(frame["objective"]) else []),
        "",
        *as_lines(verdicts(frame).rename(columns=RIVALS if "" in set(frame["objective"]) else {})),
        "",
        "### The numbers",
        "",
        *as_lines(numbers.drop(columns=["where", "sentence", "dataset", "low", "high", "p", "claimed"])),
    ]


def write(preset: str, results: str | Path = "results", data_root: str | Path | None = None) -> Path:
    """Write ``<results>/<preset>/claims.md``, ``claims.csv`` and a figure per paper with effects; return the first."""
    folder, frame = Path(results) / preset, collect(preset, results, data_root)
    with atomic_files.writable(folder):
        atomic_files.write_text(folder / "claims.csv", frame.to_csv(index=False))
        atomic_files.write_text(folder / "claims.md", markdown(preset, frame) + "\n")
    for paper in PAPERS:
        part = frame[frame["paper"] == paper.title]
        if part["effect"].notna().any():
            plt.close(figures.draw_claims(_drawn(part), folder / "figures" / paper.figure))
    return folder / "claims.md"


def _drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a figure: one panel where some claims are not about AGMM, its objective then a setting."""
    alone = frame["objective"] == ""
    if not alone.any():
        return frame
    named = frame["setting"].where(alone, frame["setting"] + ", " + frame["objective"].replace(SHORT))
    return frame.assign(setting=named, objective="").sort_values("claim", kind="stable")


def effect(line: "pd.Series[Any]") -> str:
    """Return mean and interval, as far as there are seeds for them."""
    effect, low, high = line["effect"], line["low"], line["high"]
    if math.isnan(effect):
        return ""
    digits = FORMATS[line["unit"]]
    return f"{effect:{digits}}" + (f" ({low:{digits}} … {high:{digits}})" if low < high < math.inf else "")

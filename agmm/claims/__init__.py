"""The papers' claims as checks on our results: verdicts, and the table of them."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from agmm import plots, storage
from agmm.claims import agmm, rules
from agmm.claims.evidence import Evidence
from agmm.data import sets
from agmm.presets import PRESETS

COLUMNS = [
    *("claim", "where", "sentence", "objective", "dataset", "setting", "n_seeds"),
    *("effect", "low", "high", "unit", "each", "p", "published", "claimed", "verdict", "holm", "note"),
]
OBJECTIVES = {True: "released code", False: "released code without L_absent"}
FORMATS = {"mIoU": "+.1f", "silhouette": "+.3f", "rank correlation": "+.2f", "ratio": ".2f", "share": ".2f"}
"""How effects are printed, by their unit."""


def collect(preset: str, results: str | Path = "results", data_root: str | Path | None = None) -> pd.DataFrame:
    """Every claim in every setting.

    AGMM is judged twice, as released and without the absent-class loss that the paper does not mention.

    Parameters
    ----------
    preset : str
    results : path
    data_root : path, optional
        Folder of the data set. Claims about trained networks need it, and their weights; without, they stay open.

    Returns
    -------
    DataFrame
        A row per claim, objective and setting with `COLUMNS`. Effects are in ``unit``, ``"mIoU"`` meaning points, and
        ``each`` has them seed by seed; ``published`` is what the paper prints for the whole claim, ``claimed`` its
        number for the effect; ``p`` is one-sided, and ``holm`` tells whether it stays significant among all claims of
        direction.
    """
    rows = []
    for absent, objective in OBJECTIVES.items():
        evidence = Evidence(PRESETS[preset], Path(results), absent, Path(data_root) if data_root else None)
        weak = {
            labels: evidence.too_weak(evidence.preset.at(labels))
            for labels in {claim.labels for claim in agmm.CLAIMS} & set(evidence.preset.labels)
        }
        for claim in agmm.CLAIMS:
            for setting, judged in claim.judge(evidence).items():
                found = (None if claim.fact else weak[claim.labels]) or judged
                rows.append(
                    asdict(found)
                    | {"claim": claim.id, "where": claim.where, "sentence": claim.sentence, "setting": setting}
                    | {"objective": objective, "dataset": evidence.preset.at(claim.labels).dataset}
                    | {"published": claim.published, "n_seeds": found.n}
                    | {"each": " ".join(f"{effect:{FORMATS[found.unit]}}" for effect in found.each)}
                )
    frame = pd.DataFrame(rows)
    tested = frame["p"].notna()
    frame["holm"] = ""
    frame.loc[tested, "holm"] = ["yes" if passed else "no" for passed in rules.holm(frame.loc[tested, "p"].to_list())]
    return frame[COLUMNS]


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """One verdict per claim (rows) and objective (columns): reproduced if all settings are, failed if one is."""
    grouped = frame.groupby(["claim", "where", "sentence", "published", "objective"], sort=False)["verdict"]
    return grouped.agg(rules.combine).unstack("objective").reset_index().rename_axis(columns=None)


def markdown(preset: str, frame: pd.DataFrame) -> str:
    """The verdicts, then the numbers behind them."""
    data = ", ".join(dict.fromkeys(frame["dataset"]))
    embedded = f"embedded data ({data}): a demonstration, not evidence for the papers"
    where = embedded if set(frame["dataset"]) <= set(sets.EMBEDDED) else f"data set {data}"
    judged = (
        "Beside directions, sizes are judged where the paper claims a large one: within a factor of 0.5 to 1.5."
        if set(frame["dataset"]) <= set(sets.PAPERS)
        else "Only directions are judged, not sizes: the published numbers belong to another data set and network."
    )
    seeds = frame["n_seeds"].max()
    numbers = frame.assign(effect=[_effect(found) for _, found in frame.iterrows()])
    lines = [
        f"# Claims of AGMM (CVPR 2023), judged on the preset `{preset}`",
        "",
        f"On {where}; up to {seeds} seeds, three needed for a verdict. {judged}",
        "Intervals are 95 % t intervals of differences paired over seeds, in points of mIoU unless another unit is",
        "named.",
        "",
        *_table(verdicts(frame)),
        "",
        "## The numbers",
        "",
        *_table(numbers.drop(columns=["where", "sentence", "dataset", "low", "high", "p", "claimed"])),
    ]
    return "\n".join(lines)


def write(preset: str, results: str | Path = "results", data_root: str | Path | None = None) -> Path:
    """Write ``<results>/<preset>/claims.md``, ``claims.csv`` and ``figures/claims.pdf``; returns the first."""
    folder, frame = Path(results) / preset, collect(preset, results, data_root)
    with storage.writable(folder):
        storage.write_text(folder / "claims.csv", frame.to_csv(index=False))
        storage.write_text(folder / "claims.md", markdown(preset, frame) + "\n")
    plt.close(plots.claims(frame, folder / "figures" / "claims"))
    return folder / "claims.md"


def _effect(found: "pd.Series[Any]") -> str:
    """Mean and interval, as far as there are seeds for them."""
    effect, low, high = found["effect"], found["low"], found["high"]
    if math.isnan(effect):
        return ""
    digits = FORMATS[found["unit"]]
    return f"{effect:{digits}}" + (f" ({low:{digits}} … {high:{digits}})" if low < high < math.inf else "")


def _table(frame: pd.DataFrame) -> list[str]:
    head = list(frame.columns)
    body = frame.astype(str).to_numpy().tolist()
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]

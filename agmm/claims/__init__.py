"""The papers' claims as checks on our results: verdicts, and the table of them."""

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from agmm import storage
from agmm.claims import agmm, rules
from agmm.claims.evidence import Evidence
from agmm.presets import PRESETS

COLUMNS = [
    *("claim", "where", "sentence", "objective", "setting", "n_seeds"),
    *("effect", "low", "high", "p", "published", "verdict", "holm", "note"),
]
OBJECTIVES = {True: "released code", False: "released code without L_absent"}


def collect(preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Every claim in every setting.

    AGMM is judged twice, as released and without the absent-class loss that the paper does not mention.

    Parameters
    ----------
    preset : str
    results : path

    Returns
    -------
    DataFrame
        A row per claim, objective and setting with `COLUMNS`. Effects are in points of mIoU, unless the note says
        otherwise; ``p`` is one-sided, and ``holm`` tells whether it stays significant among all claims of direction.
    """
    rows = []
    for absent, objective in OBJECTIVES.items():
        evidence = Evidence(PRESETS[preset], Path(results), absent)
        weak = evidence.too_weak(evidence.preset.at("points"))
        for claim in agmm.CLAIMS:
            for setting, judged in claim.judge(evidence).items():
                found = weak or judged
                rows.append(
                    asdict(found)
                    | {"claim": claim.id, "where": claim.where, "sentence": claim.sentence, "setting": setting}
                    | {"objective": objective, "published": claim.published, "n_seeds": found.n}
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
    data = PRESETS[preset].run.dataset
    where = "embedded data: a demonstration, not evidence for the papers" if data == "shapes" else f"data set {data}"
    seeds = frame["n_seeds"].max()
    lines = [
        f"# Claims of AGMM (CVPR 2023), judged on the preset `{preset}`",
        "",
        f"On {where}; up to {seeds} seeds, three needed for a verdict. Only directions are judged, not sizes: the",
        "published numbers belong to another data set and network. Intervals are 95 % t intervals of differences",
        "paired over seeds.",
        "",
        *_table(verdicts(frame)),
        "",
        "## The numbers",
        "",
        *_table(frame.assign(effect=_effects(frame)).drop(columns=["where", "sentence", "low", "high", "p"])),
    ]
    return "\n".join(lines)


def write(preset: str, results: str | Path = "results") -> Path:
    """Write ``<results>/<preset>/claims.md`` and ``claims.csv``; returns the first."""
    folder, frame = Path(results) / preset, collect(preset, results)
    with storage.writable(folder):
        storage.write_text(folder / "claims.csv", frame.to_csv(index=False))
        storage.write_text(folder / "claims.md", markdown(preset, frame) + "\n")
    return folder / "claims.md"


def _effects(frame: pd.DataFrame) -> list[str]:
    return [
        _effect(*numbers) for numbers in zip(frame["effect"], frame["low"], frame["high"], frame["note"], strict=True)
    ]


def _effect(effect: float, low: float, high: float, note: str) -> str:
    """Mean and interval, as far as there are seeds for them."""
    if math.isnan(effect):
        return ""
    digits = "+.2f" if note in ("rank correlation", "ratio", "share of the classes", "share of cases") else "+.1f"
    return f"{effect:{digits}}" + (f" ({low:{digits}} … {high:{digits}})" if math.isfinite(low + high) else "")


def _table(frame: pd.DataFrame) -> list[str]:
    head = list(frame.columns)
    body = frame.astype(str).to_numpy().tolist()
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]

"""The claims of the page: verdicts paper by paper, and the numbers behind them, verdict by verdict."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from agmm.papers import verdicts as claims

MARKS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}
"""Verdict -> its sign, so that no color is needed, in the order of the page."""
_NUMBERS = ("n_seeds", "effect", "low", "high", "p", "claimed")


class Sentence(NamedTuple):
    """A claim and its verdict under every form of AGMM, or the same one twice."""

    claim: str
    where: str
    sentence: str
    published: str
    verdicts: list[str]


class Judged(NamedTuple):
    """The claims of a paper."""

    title: str
    objectives: list[str]
    sentences: list[Sentence]
    counts: dict[str, int]
    """Verdict -> number of claims with it, as AGMM is released."""
    numbers: dict[str, list[dict[str, Any]]]
    """Verdict -> claim by claim and setting by setting, with effects as printed."""


def read(folder: Path) -> list[Judged]:
    """Return papers with their claims as ``claims.csv`` has them, none without it; ValueError if it is damaged."""
    path = folder / "claims.csv"
    if not path.exists():
        return []
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)[claims.COLUMNS]
        frame = text.assign(**{name: pd.to_numeric(text[name].replace("", math.nan)) for name in _NUMBERS})
        return [_judged(str(title), part) for title, part in frame.groupby("paper", sort=False)]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"claims.csv is damaged ({type(error).__name__}: {error})") from error


def _judged(title: str, frame: pd.DataFrame) -> Judged:
    if unknown := set(frame["verdict"]) - set(MARKS):
        raise ValueError(f"there is no verdict {unknown.pop()!r}")
    combined = claims.verdicts(frame)
    names = [name for name in claims.OBJECTIVES.values() if name in combined]
    rows = combined.to_dict("records")
    numbers = [
        {str(k): v for k, v in row.items()} | {"effect": claims.effect(pd.Series(row))}
        for row in frame.to_dict("records")
    ]
    return Judged(
        title,
        names if (frame["objective"] != "").any() else [],
        [
            Sentence(row["claim"], row["where"], row["sentence"], row["published"], [row[name] for name in names])
            for row in rows
        ],
        {verdict: sum(row[names[0]] == verdict for row in rows) for verdict in MARKS},
        {verdict: [row for row in numbers if row["verdict"] == verdict] for verdict in MARKS},
    )

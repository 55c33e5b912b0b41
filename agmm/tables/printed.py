"""A table as the paper prints it: ours beside the published numbers and the committed ones, with footnotes."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from agmm import storage
from agmm.data import sets
from agmm.presets import PRESETS
from agmm.runs import load_result
from agmm.tables.aggregate import KEY, RESULTS, collect, complete_seeds
from agmm.tables.cells import QUOTED, Cell, Table

REFERENCE = RESULTS / "reference"
"""Committed results; the column is left out where there are none."""


def write(table: Table, preset: str, results: str | Path = "results") -> tuple[Path, Path]:
    """Write ``<results>/<preset>/tables/<name>.csv`` and ``.md`` and return both paths."""
    folder = Path(results) / preset / "tables"
    frame = collect(table, preset, results)
    with storage.writable(folder):
        storage.write_text(folder / f"{table.name}.csv", frame.to_csv(index=False))
        storage.write_text(folder / f"{table.name}.md", markdown(table, preset, results, frame) + "\n")
    return folder / f"{table.name}.csv", folder / f"{table.name}.md"


def markdown(table: Table, preset: str, results: str | Path = "results", frame: pd.DataFrame | None = None) -> str:
    """A table as the paper prints it: ours beside the published and the committed numbers, with footnotes."""
    frame = collect(table, preset, results) if frame is None else frame
    cells = table.cells(PRESETS[preset])
    reference = _reference(table, preset)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    printed_on = f"published ({table.data})"
    kinds = [printed_on] if frame["published"].notna().any() else []
    kinds += ["ours"] + (["reference"] if reference else [])
    printed: dict[tuple[str, str], dict[str, str]] = {}
    for cell, (_, line) in zip(cells, frame.iterrows(), strict=True):
        scratch = "from scratch" if cell.init == "scratch" != PRESETS[preset].inits[0] else ""
        about = ", ".join(part for part in (cell.objective, scratch, cell.note) if part)
        numbers = {
            printed_on: _number(line["published"]),
            "ours": _number(line["ours_mean"], line["ours_std"], line["n_seeds"]),
            "reference": reference.get(_key(line), ""),
        }
        entry = printed.setdefault((cell.row, about), {})
        entry.update({f"{cell.column}, {kind}": numbers[kind] for kind in kinds})
    in_paper = set(frame.loc[frame["published"].notna(), "column"])
    heads = [f"{column}, {kind}" for column in columns for kind in kinds if kind != printed_on or column in in_paper]
    heads = ["row", "objective", *heads]
    lines = [f"# {table.paper}, {table.title} (preset `{preset}`)", "", _line(heads), _line(["---"] * len(heads))]
    for (name, about), entry in printed.items():
        lines.append(_line([name, about, *(entry.get(head, "") for head in heads[2:])]))
    return "\n".join([*lines, "", *(f"- {note}" for note in _footnotes(table, frame, preset, results))])


def _footnotes(table: Table, frame: pd.DataFrame, preset: str, results: str | Path) -> list[str]:
    cells = [cell for cell in table.cells(PRESETS[preset]) if cell.training_id != QUOTED]
    details: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.run and cell.column not in details and (found := complete_seeds(cell.run, results)):
            result = load_result(found[0], results)
            details |= {cell.column: result.details} if result else {}
    metrics = "mean IoU on training images" if cells[0].metric.startswith("training") else "IoU on the test split"
    sizes = next((f", {d['train_images']} training and {d['test_images']} test images" for d in details.values()), "")
    seeds = sorted({int(seed) for text in frame["seeds"] for seed in str(text).split()})
    protocols = dict.fromkeys(cell.protocol for cell in cells)
    notes = [
        f"Ours: {metrics} in per cent, data set `{cells[0].dataset}`{sizes}; {'; '.join(protocols)}.",
        f"Mean ± standard deviation over seeds (number of seeds); seeds found: {', '.join(map(str, seeds)) or 'none'}. "
        "A seed changes labels, head initialization and order; data and pretraining are fixed. Blank: not trained.",
    ]
    if frame["published"].notna().any():
        other = " Another data set and network than ours: for orientation, not for subtraction."
        notes.append(f"Published: {table.published_on}.{'' if cells[0].dataset in sets.PAPERS else other}")
    if cells[0].dataset in sets.EMBEDDED:
        notes.append(
            "Embedded data: a demonstration, not evidence for the papers; the setting was chosen because the effects "
            "show." + (" `smoke` tests the plumbing and promises nothing about accuracy." if preset == "smoke" else "")
        )
    if sources := _label_sources(cells, results):
        notes.append(f"Labels: {'; '.join(sources)}.")
    if details and cells[0].dataset != "shapes":
        shares = ", ".join(f"{column} {100 * found['coverage']:.1f} %" for column, found in details.items())
        notes.append(f"Label coverage, the share of an image's classes that its labels name: {shares}.")
    return notes


def _label_sources(cells: list[Cell], results: str | Path) -> list[str]:
    """Where the labels of every column come from, over all rows and seeds; the column is left out where all agree."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        for run in complete_seeds(cell.run, results) if cell.run else ():
            result = load_result(run, results)
            if result is not None and "label_source" in result.details:
                found.setdefault(result.details["label_source"], {})[cell.column] = None
    return [f"{', '.join(columns)} {source}" if len(found) > 1 else source for source, columns in found.items()]


def _reference(table: Table, preset: str) -> dict[tuple[str, ...], str]:
    path = REFERENCE / preset / "tables" / f"{table.name}.csv"
    if not path.exists():
        return {}
    frame = pd.read_csv(path, keep_default_na=False, na_values={"ours_mean": "", "ours_std": ""})
    return {_key(line): _number(line["ours_mean"], line["ours_std"], line["n_seeds"]) for _, line in frame.iterrows()}


def _key(line: "pd.Series[Any]") -> tuple[str, ...]:
    return tuple(str(line[name]) for name in KEY)


def _number(mean: float, std: float = math.nan, count: int = 0) -> str:
    if math.isnan(mean):
        return ""
    spread = "" if math.isnan(std) else f" ± {std:.1f}"
    return f"{mean:.1f}{spread}" + (f" ({count})" if count else "")


def _line(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"

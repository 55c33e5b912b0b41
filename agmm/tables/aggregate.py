"""From complete runs to a table: the long form, and the form that the paper prints."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from agmm import storage
from agmm.presets import PRESETS
from agmm.runs import Run, load_history, load_result
from agmm.tables.cells import Cell, Table

SEEDS = range(32)
"""Seeds that are looked for; every complete one counts."""

_CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "results"
"""The checkout's results folder, from wherever a notebook is executed; below the current folder without a checkout."""

REFERENCE = RESULTS / "reference"
"""Committed results; the column is left out where there are none."""

KEY = ["row", "column", "method", "variant", "absent", "init", "dataset", "labels", "protocol", "metric"]
COLUMNS = [
    "table",
    *KEY,
    "n_seeds",
    "seeds",
    "ours_mean",
    "ours_std",
    "published",
    "published_source",
    "run_ids",
]
CURVES = {"p_miou": "P", "p_restricted_miou": "P among labeled classes", "g_miou": "G"}
"""Column of a run's history -> curve."""


def _miou(run: Run, results: Path) -> float:
    result = load_result(run, results)
    assert result is not None
    return result.miou


def _curve(column: str, epoch: int) -> Callable[[Run, Path], float]:
    return lambda run, results: float(load_history(run, results)[column].iloc[epoch])


def _lead(epoch: int) -> Callable[[Run, Path], float]:
    return lambda run, results: _curve("g_miou", epoch)(run, results) - _curve("p_miou", epoch)(run, results)


METRICS: dict[str, Callable[[Run, Path], float]] = {
    "mIoU": _miou,
    "training mIoU: P": _curve("p_miou", -1),
    "training mIoU: P among labeled classes": _curve("p_restricted_miou", -1),
    "training mIoU: G": _curve("g_miou", -1),
    "training mIoU: G - P, first epoch": _lead(0),
    "training mIoU: G - P, last epoch": _lead(-1),
}
"""Metric -> how it is read from a complete run, in per cent."""


def complete_seeds(run: Run, results: str | Path) -> list[Run]:
    """The run's complete repetitions over seeds."""
    repeated = (replace(run, seed=seed) for seed in SEEDS)
    return [one for one in repeated if (one.folder(results) / "result.json").exists()]


def collect(table: Table, preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Long form of a table.

    Parameters
    ----------
    table : Table
    preset : str
    results : path

    Returns
    -------
    DataFrame
        A row per cell with `COLUMNS`; our numbers are missing, never invented, where no seed is complete. The standard
        deviation is the sample's (n - 1), missing for one seed.
    """
    rows = []
    for cell in table.cells(PRESETS[preset]):
        runs = complete_seeds(cell.run, results) if cell.run else []
        values = pd.Series([METRICS[cell.metric](run, Path(results)) for run in runs], dtype=float)
        fields = asdict(replace(cell, run=None))
        rows.append(
            {name: fields[name] for name in (*KEY, "published", "published_source")}
            | {
                "table": table.name,
                "n_seeds": len(runs),
                "seeds": " ".join(str(run.seed) for run in runs),
                "ours_mean": values.mean(),
                "ours_std": values.std(ddof=1),
                "run_ids": " ".join(run.id for run in runs),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"published": float})


def curves(table: Table, preset: str, results: str | Path = "results") -> pd.DataFrame:
    """Training curves of a table's runs.

    Returns
    -------
    DataFrame
        Columns row, curve (values of `CURVES`), epoch, n_seeds, mean, std; mIoU on training images in per cent.
    """
    runs = {cell.row: cell.run for cell in table.cells(PRESETS[preset]) if cell.run}
    parts = [
        load_history(seed, results)
        .reindex(columns=["epoch", *CURVES])
        .melt("epoch", var_name="curve")
        .assign(row=row, seed=seed.seed)
        for row, run in runs.items()
        for seed in complete_seeds(run, results)
    ]
    if not parts:
        return pd.DataFrame(columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    values = pd.concat(parts).dropna(subset="value").replace({"curve": CURVES})
    groups = values.groupby(["row", "curve", "epoch"], sort=False)["value"]
    return groups.agg(n_seeds="size", mean="mean", std="std").reset_index()


def sweep_values(table: Table, preset: str, results: str | Path, symbol: str) -> pd.DataFrame:
    """A table over one hyperparameter, whose rows are named ``<symbol> = <value>``.

    Returns
    -------
    DataFrame
        Columns column, objective, row, value (missing for rows with another name, such as an estimated one), n_seeds,
        mean, std, published; mIoU in per cent.
    """
    cells = table.cells(PRESETS[preset])
    frame = collect(table, preset, results).rename(columns={"ours_mean": "mean", "ours_std": "std"})
    frame["objective"] = [cell.objective for cell in cells]
    frame["value"] = pd.to_numeric(frame["row"].str.removeprefix(f"{symbol} = "), errors="coerce")
    return frame[["column", "objective", "row", "value", "n_seeds", "mean", "std", "published"]]


def gains(table: Table, preset: str, results: str | Path, baseline: str) -> pd.DataFrame:
    """Points of mIoU above the row ``baseline`` of the same column and initialization, paired over seeds.

    Returns
    -------
    DataFrame
        Columns column, init, row, objective, seed, gain.
    """
    cells = [cell for cell in table.cells(PRESETS[preset]) if cell.run is not None]
    start = {(cell.column, cell.init): cell.run for cell in cells if cell.row == baseline}
    rows = []
    for cell in cells:
        base = start[cell.column, cell.init]
        assert cell.run is not None
        assert base is not None
        seeds = {run.seed for run in complete_seeds(base, results)}
        for run in complete_seeds(cell.run, results) if cell.run != base else []:
            if run.seed in seeds:
                gain = _miou(run, Path(results)) - _miou(replace(base, seed=run.seed), Path(results))
                rows.append([cell.column, cell.init, cell.row, cell.objective, run.seed, gain])
    return pd.DataFrame(rows, columns=["column", "init", "row", "objective", "seed", "gain"])


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
    kinds = ["published (VOC)"] if frame["published"].notna().any() else []
    kinds += ["ours"] + (["reference"] if reference else [])
    printed: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell, (_, line) in zip(cells, frame.iterrows(), strict=True):
        init = "from scratch" if cell.init == "scratch" != PRESETS[preset].inits[0] else ""
        numbers = {
            "published (VOC)": _number(line["published"]),
            "ours": _number(line["ours_mean"], line["ours_std"], line["n_seeds"]),
            "reference": reference.get(_key(line), ""),
        }
        name = cell.row + (" ¹" if cell.run is None else "")
        entry = printed.setdefault((name, cell.objective, init), {})
        entry.update({f"{cell.column}, {kind}": numbers[kind] for kind in kinds})
    heads = ["row", "objective", *(f"{column}, {kind}" for column in columns for kind in kinds)]
    lines = [f"# {table.paper}, {table.title} (preset `{preset}`)", "", _line(heads), _line(["---"] * len(heads))]
    for (name, objective, init), entry in printed.items():
        about = ", ".join(part for part in (objective, init) if part)
        lines.append(_line([name, about, *(entry.get(head, "") for head in heads[2:])]))
    return "\n".join([*lines, "", *(f"- {note}" for note in _footnotes(cells, frame, preset, results))])


def _footnotes(cells: Iterable[Cell], frame: pd.DataFrame, preset: str, results: str | Path) -> list[str]:
    details: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.run and cell.labels not in details and (found := complete_seeds(cell.run, results)):
            result = load_result(found[0], results)
            details |= {cell.labels: result.details} if result else {}
    metrics = "mean IoU on the test split" if "mIoU" in set(frame["metric"]) else "mean IoU on training images"
    sizes = next((f", {d['train_images']} training and {d['test_images']} test images" for d in details.values()), "")
    seeds = sorted({int(seed) for text in frame["seeds"] for seed in str(text).split()})
    template = PRESETS[preset].run
    notes = [
        f"Ours: {metrics} in per cent, data set `{template.dataset}`{sizes}; {', '.join(frame['protocol'].unique())}."
    ]
    notes.append(
        f"Mean ± standard deviation over seeds (number of seeds); seeds found: {', '.join(map(str, seeds)) or 'none'}. "
        "A seed changes labels, head initialization and data order; data and pretraining are fixed. Blank: not trained."
    )
    if frame["published"].notna().any():
        notes.append(
            "Published: PASCAL VOC 2012 val, ResNet-101 with ImageNet weights. Another data set and network than ours: "
            "for orientation, not for subtraction."
        )
    if template.dataset == "shapes":
        notes.append(
            "Embedded data: a demonstration, not evidence for the papers; the setting was chosen because the effects "
            "show." + (" `smoke` tests the plumbing and promises nothing about accuracy." if preset == "smoke" else "")
        )
    elif details:
        shares = ", ".join(f"{form} {100 * found['coverage']:.1f} %" for form, found in details.items())
        notes.append(f"Label coverage, the share of an image's classes that its labels name: {shares}.")
    if any(cell.run is None for cell in cells):
        notes.append("¹ Not in this version.")
    return notes


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

"""All groups of figures in one run, as a table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from agmm.host import atomic_files, machine
from agmm.tools.bench import branch, dense, evaluation, input, spml, step, sweep
from agmm.tools.bench.figure import Figure, Setting, hardware, show

GROUPS: dict[str, Callable[[Setting], Iterator[Figure]]] = {
    "dense": dense.figures,
    "branch": branch.figures,
    "step": step.figures,
    "input": input.figures,
    "evaluation": evaluation.figures,
    "sweep": sweep.figures,
    "spml": spml.figures,
}


def setting(device: str = "auto", threads: int = 1, repeats: int = 5, small: bool = False) -> Setting:
    """Setting of a run; ``"auto"`` is a GPU where there is one, ValueError where there is none as asked."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch sees no GPU; use the device cpu")
    return Setting(device, threads, repeats, small)


def measure(how: Setting, groups: Iterable[str] = ()) -> pd.DataFrame:
    """Measure and print the groups (default: all), one row per figure with the hardware.

    Parameters
    ----------
    how : Setting
    groups : names in ``GROUPS``

    Returns
    -------
    DataFrame
        The fields of `Figure`, ``met`` (yes, no, or empty without a target), and what was measured on.
    """
    torch.set_num_threads(how.threads)
    if how.device == "cpu":
        machine.keep_freed_memory()
    print(f"{hardware(how.device)}, {how.threads} thread(s), torch {torch.__version__}")
    figures = show(figure for name in tuple(groups) or GROUPS for figure in GROUPS[name](how))
    verdicts = {None: "", True: "yes", False: "no"}
    table = pd.DataFrame([asdict(figure) | {"met": verdicts[figure.met]} for figure in figures])
    return table.assign(
        device=how.device,
        threads=how.threads,
        repeats=how.repeats,
        hardware=hardware(how.device),
        torch=torch.__version__,
    )


def markdown(table: pd.DataFrame) -> str:
    """The figures for reading, a section per group."""
    first = table.iloc[0]
    threads = f", {first['threads']} thread(s)" if first["device"] == "cpu" else ""
    lines = [f"Measured on {first['hardware']}{threads}, torch {first['torch']}."]
    for group, rows in table.groupby("group", sort=False):
        lines += ["", f"### {group}", "", "| | | ratio | to | target |", "|---|---|---|---|---|"]
        for row in rows.to_dict("records"):
            met = {"yes": " (met)", "no": " (missed)"}.get(row["met"], "")
            measured = f"{row['case']}, {row['precision']} | {row['value']:.3g} {row['unit']}"
            lines.append(f"| {measured} | {row['ratio']:.3g} × | {row['against']} | {row['target']}{met} |")
    return "\n".join(lines) + "\n"


def write(table: pd.DataFrame, path: Path) -> None:
    """The table as CSV, and for reading as Markdown beside it."""
    with atomic_files.writable(path.parent):
        atomic_files.write_text(path, table.to_csv(index=False))
        atomic_files.write_text(path.with_suffix(".md"), markdown(table))

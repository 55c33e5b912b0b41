"""How fast the package is, as ratios of two times taken in one run: ``agmm bench [branch step …] [--csv FILE]``."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from agmm.host import atomic_files, machine
from agmm.tools.bench import images, objective, step
from agmm.tools.bench.objective import Group, Setting, hardware, setting

GROUPS: dict[str, Group] = {
    "dense": objective.dense,
    "branch": objective.branch,
    "step": step.steps,
    "input": images.reading,
    "evaluation": images.evaluation,
    "sweep": step.trainings,
    "spml": step.spml,
}


def measure(how: Setting, names: Iterable[str] = ()) -> pd.DataFrame:
    """Measure and print groups (default: all); return a row per figure with its fields and what it was measured on."""
    names = tuple(names) or tuple(GROUPS)
    for name in names:
        if name not in GROUPS:
            raise ValueError(f"there is no group {name!r}; known: {', '.join(GROUPS)}")
    torch.set_num_threads(how.threads)
    if how.device == "cpu":
        machine.keep_freed_memory()
    print(f"{hardware(how.device)}, {how.threads} thread(s), torch {torch.__version__}")
    rows = []
    for name in names:
        print(f"\n{name}", flush=True)
        for figure in GROUPS[name](how):
            print(figure, flush=True)
            rows.append({"group": name, **asdict(figure), "met": figure.met})
    measured_on = {name: getattr(how, name) for name in ("device", "threads", "repeats")}
    return pd.DataFrame(rows).assign(**measured_on, hardware=hardware(how.device), torch=torch.__version__)


def markdown(table: pd.DataFrame) -> str:
    """Return the figures for reading, a section per group."""
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
    """Write the table as CSV, and for reading as Markdown beside it."""
    with atomic_files.writable(path.parent, "--csv"):
        atomic_files.write_text(path, table.to_csv(index=False))
        atomic_files.write_text(path.with_suffix(".md"), markdown(table))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``agmm bench`` takes."""
    add = parser.add_argument
    add("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    add("--threads", type=int, default=1, help="of a CPU (default: 1)")
    add("--repeats", type=int, default=5, help="timed rounds (default: 5)")
    add("--small", action="store_true", help="shapes of a test: shows that the command works")
    add("--csv", type=Path, metavar="FILE", help="write the figures to this file, and to an .md beside")
    add("--profile", type=Path, metavar="FILE", help="instead, write which operations a step spends on")


def command(args: argparse.Namespace) -> int:
    """Print the figures, and write them where asked; raise ValueError after a mistake of the user."""
    if args.csv is not None and args.csv.suffix != ".csv":
        raise ValueError(f"--csv {args.csv} does not end in .csv")
    how = setting(args.device, args.threads, args.repeats, args.small)
    if args.profile is not None:
        with atomic_files.writable(args.profile.parent, "--profile"):
            atomic_files.write_text(args.profile, step.profile(how))
        return 0
    table = measure(how, args.groups)
    if args.csv is not None:
        write(table, args.csv)
    return 0

"""One measured figure, the setting it was measured in, and the table of all of them."""

import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from agmm.host import atomic_files
from agmm.training import timing


@dataclass(frozen=True)
class Setting:
    """What all figures share: device, threads of a CPU, timed rounds, and whether shapes are ``small`` as in a test."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 5
    small: bool = False


@dataclass(frozen=True)
class Figure:
    """A time or rate of a case, the median of its repeats, and its ratio to another one of the same run.

    The ratio is the median over neighboring repeats where both were timed in turn, else ``value / against_value``. A
    target is such as ``"<= 5"``, or empty; the precision is that of the network or of the branch's inputs.
    """

    case: str
    value: float
    unit: str
    against: str
    against_value: float
    ratio: float
    target: str = ""
    precision: str = "float32"

    @property
    def met(self) -> str:
        """Whether the target is met, "yes" or "no"; empty where there is none."""
        if not self.target:
            return ""
        sign, bound = self.target.split()
        met = self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)
        return "yes" if met else "no"

    def __str__(self) -> str:
        verdict = {"": "", "yes": f"  (target {self.target}: met)", "no": f"  (target {self.target}: missed)"}
        measured = f"  {f'{self.case}, {self.precision}':68} {self.value:10.4g} {self.unit:9}"
        return f"{measured} {self.ratio:8.3g} x {self.against}{verdict[self.met]}"


Group = Callable[[Setting], Iterator[Figure]]


def compared(
    case: str, values: Sequence[float], against: str, others: Sequence[float], *, unit: str = "s", **further: str
) -> Figure:
    """Return the figure of times, or of rates, that were measured in turn with others; see `Figure` for the rest."""
    ratio = timing.median_ratio(values, others)
    return Figure(case, statistics.median(values), unit, against, statistics.median(others), ratio, **further)


def setting(device: str = "auto", threads: int = 1, repeats: int = 5, small: bool = False) -> Setting:
    """Return the setting of a run; ``"auto"`` is a GPU where there is one, ValueError where there is none as asked."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch sees no GPU; use the device cpu")
    return Setting(device, threads, repeats, small)


def hardware(device: str) -> str:
    """Return the name of the GPU or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    if names := [line.split(":", 1)[1].strip() for line in lines if "model name" in line]:
        return f"{names[0]}, {len(names)} cores, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()


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

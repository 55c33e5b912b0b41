"""One measured figure, the setting it was measured in, and the clock."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Setting:
    """What all figures of one command share.

    Attributes
    ----------
    device : {"cpu", "cuda"}
    threads : int
        Of a CPU.
    repeats : int
        Timed rounds of everything, after warming up.
    small : bool
        Shapes of a test instead of the papers': shows that the command works, promises nothing.
    """

    device: str = "cpu"
    threads: int = 1
    repeats: int = 5
    small: bool = False


@dataclass(frozen=True)
class Figure:
    """A time or rate, and its ratio to another one of the same run.

    Attributes
    ----------
    group, case : str
        Module that measured it, and what was measured.
    value, unit
        Median of the repeats.
    against, against_value
        What the ratio is to, in the same unit.
    ratio : float
        Median over neighboring repeats where both were timed in turn; ``value / against_value`` otherwise.
    target : str
        Such as ``"<= 5"``, or empty.
    precision : str
        Of the network or of the branch's inputs.
    """

    group: str
    case: str
    value: float
    unit: str
    against: str
    against_value: float
    ratio: float
    target: str = ""
    precision: str = "float32"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)


def in_turn(functions: Mapping[str, Callable[[], object]], setting: Setting, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every function, called one after the other so that a change of the machine's speed meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + setting.repeats):
        for name, function in functions.items():
            synchronize(setting.device)
            start = time.perf_counter()
            function()
            synchronize(setting.device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median of the quotients of neighboring repeats."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def bandwidth(setting: Setting) -> float:
    """Bytes per second of the device's memory, read and written, by the fastest of ten copies."""
    count = (1 << 20) if setting.small else (1 << 26 if setting.device == "cpu" else 1 << 30)
    source = torch.zeros(count, device=setting.device)
    target = torch.empty_like(source)
    copies = in_turn({"copy": lambda: target.copy_(source)}, Setting(setting.device, repeats=10))
    return 2 * source.nbytes / min(copies["copy"])


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def hardware(device: str) -> str:
    """Name of the GPU or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return f"{names[0]}, {len(names)} cores, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()


def show(figures: Iterable[Figure]) -> list[Figure]:
    """Print figures as they come; returns them."""
    shown: list[Figure] = []
    for figure in figures:
        if not shown or figure.group != shown[-1].group:
            print(f"\n{figure.group}", flush=True)
        verdict = {None: "", True: f"  (target {figure.target}: met)", False: f"  (target {figure.target}: missed)"}
        print(
            f"  {figure.case + ', ' + figure.precision:68} {figure.value:10.4g} {figure.unit:9} "
            f"{figure.ratio:8.3g} x {figure.against}{verdict[figure.met]}",
            flush=True,
        )
        shown.append(figure)
    return shown

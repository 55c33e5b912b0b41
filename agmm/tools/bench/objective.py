"""What a benchmark measures; and the groups "branch" and "dense": the mixture and its losses without any network.

"branch" sets them beside the time that their bytes need: every feature is read once forward and once backward and its
gradient is written once, and so is every logit where a term reads them, at the bandwidth of a copy. Labels and scores
are small beside them. "dense" sets them beside their dense formulation (`agmm.dense`) of the same losses and gradients.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from agmm import fast, objectives
from agmm.dense import dense_agmm
from agmm.host import machine
from agmm.training import timing
from agmm.training.timing import Shapes, random_labels, random_outputs


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


# --- The groups -------------------------------------------------------------------------------------------------------

VOC = Shapes(16, 21, 256, 81, 321)
CITYSCAPES = Shapes(4, 19, 256, 181, 721)

ALL = ("seg", "self", "spar", "con", "absent")
TERMS = {"spar, con": ("spar", "con"), "self, spar, con": ("self", "spar", "con"), "all five terms": ALL}

CASES: dict[str, tuple[Shapes, tuple[str, ...]]] = {
    **{f"VOC, 10 clicks, {name}": (VOC, terms) for name, terms in TERMS.items()},
    **{f"VOC, {form}, all five terms": (replace(VOC, form=form), ALL) for form in ("scribbles", "blocks", "dense")},
    "Cityscapes, 20 clicks, all five terms": (replace(CITYSCAPES, clicks=20, classes=7), ALL),
    "Cityscapes, 100 clicks, all five terms": (replace(CITYSCAPES, clicks=100, classes=14), ALL),
    "Cityscapes, dense, all five terms": (replace(CITYSCAPES, form="dense", classes=14), ALL),
    **{f"AGMM++, VOC, {form}": (replace(VOC, form=form), ()) for form in ("clicks", "dense")},
}
"""Shapes, and terms of AGMM; none for AGMM++, whose squeezed features are small beside the others."""

TARGET = {"cpu": "<= 5", "cuda": "<= 3"}

TOLERANCE = 1e-4  # largest relative difference (L2) of a term or a gradient, float32

KINKS = 1e-6
"""Share of a gradient's elements that are left out of it: where a feature equals its mean up to rounding, the slope of
the absolute value has either sign. At the size of a VOC step that are a few of 80 million signs."""

LINUX = Path("/proc/self/status")

T = TypeVar("T")


def scaled(shapes: Shapes, setting: Setting) -> Shapes:
    """Return the shapes of a case, or those of a test."""
    return replace(shapes, batch=4, num_classes=7, channels=32, grid=16, label=64) if setting.small else shapes


def branch(setting: Setting) -> Iterator[Figure]:
    """Yield floors of the cases of the papers, and the compiled loops beside plain torch operations."""
    rate = bandwidth(setting)
    yield Figure("copy of memory", rate / 1e9, "GB/s", "itself", rate / 1e9, 1.0)
    for precision in ("float32",) if setting.device == "cpu" else ("float32", "bfloat16"):
        for case, (shapes, terms) in CASES.items():
            yield _beside_floor(case, scaled(shapes, setting), terms, precision, rate, setting)
    if setting.device == "cpu":
        step = branch_step(scaled(VOC, setting), ALL, "float32", setting.device)

        def plain() -> None:
            with mock.patch.object(fast, "loops", return_value=fast.plain):
                step()

        seconds = timing.in_turn({"plain": plain, "fast": step}, setting.device, setting.repeats)
        case = "VOC, 10 clicks, all five terms: torch operations"
        yield compared(case, seconds["plain"], "compiled loops", seconds["fast"], target=">= 1")


def _beside_floor(
    case: str, shapes: Shapes, terms: tuple[str, ...], precision: str, rate: float, setting: Setting
) -> Figure:
    step = branch_step(shapes, terms, precision, setting.device)
    elements = shapes.batch * shapes.channels * shapes.grid**2
    if not terms or {"seg", "self", "absent"} & set(terms):
        elements += shapes.batch * shapes.num_classes * shapes.label**2
    floor = 3 * elements * (2 if precision == "bfloat16" else 4) / rate
    seconds = statistics.median(timing.in_turn({"": step}, setting.device, setting.repeats, warmup=2)[""])
    target = "" if setting.small else TARGET[setting.device]
    return Figure(case, seconds, "s", "bytes over bandwidth", floor, seconds / floor, target, precision)


def branch_step(shapes: Shapes, terms: tuple[str, ...], precision: str, device: str) -> Callable[[], None]:
    """Return forward and backward of AGMM with terms or of AGMM++ without, to features, logits and parameters."""
    objective: objectives.AGMM | objectives.AGMMpp = objectives.AGMM(shapes.num_classes, terms=terms)
    if not terms:
        objective = objectives.AGMMpp(shapes.num_classes, shapes.channels).to(device)
        objective.to(memory_format=torch.channels_last)
    outputs = [x.to(getattr(torch, precision)).requires_grad_() for x in random_outputs(shapes, device)]
    parameters = objective.parameters() if isinstance(objective, nn.Module) else ()
    labels, image_classes = random_labels(shapes, device)

    def step() -> None:
        loss = objective(*outputs, labels, image_classes).loss
        torch.autograd.grad(loss, (*outputs, *parameters), allow_unused=True)

    return step


def bandwidth(setting: Setting) -> float:
    """Return bytes per second of the device's memory, read and written, by the fastest of ten copies."""
    count = (1 << 20) if setting.small else (1 << 26 if setting.device == "cpu" else 1 << 30)
    source = torch.zeros(count, device=setting.device)
    target = torch.empty_like(source)
    copies = timing.in_turn({"": lambda: target.copy_(source)}, setting.device, repeats=10)
    return 2 * source.nbytes / min(copies[""])


def dense(setting: Setting) -> Iterator[Figure]:
    """Yield how much faster and leaner the objective is than its dense formulation; RuntimeError if they disagree."""
    for name, terms in TERMS.items():
        slow_time, slow_memory, expected = in_new_process(time_and_memory, "dense", terms, setting)
        fast_time, fast_memory, values = in_new_process(time_and_memory, "fast", terms, setting)
        difference = max(relative(values[key], value) for key, value in expected.items())
        if difference > TOLERANCE:
            raise RuntimeError(f"the objective differs from its dense formulation by {difference:.1e} ({name})")
        case, against = f"VOC, 10 clicks, {name}, dense", "the objective"
        yield Figure(case, slow_time, "s", against, fast_time, slow_time / fast_time, ">= 1")
        yield Figure(case, slow_memory, "GB", against, fast_memory, slow_memory / fast_memory)
        yield Figure(case, difference, "relative", "tolerance", TOLERANCE, difference / TOLERANCE, "<= 1")


def time_and_memory(
    formulation: str, terms: tuple[str, ...], setting: Setting
) -> tuple[float, float, dict[str, np.ndarray]]:
    """Return the fastest time in s, peak of memory in GB beyond the inputs (at least 0.001), terms and gradients."""
    torch.set_num_threads(setting.threads)
    _differentiated(formulation, scaled(VOC, replace(setting, small=True)), terms, setting)()  # loads the libraries
    step = _differentiated(formulation, scaled(VOC, setting), terms, setting)
    before = reset_peak(setting.device)
    result = step()
    gigabytes = max((peak_bytes(setting.device) - before) / 1e9, 1e-3)
    if setting.device == "cpu":
        machine.keep_freed_memory()
    seconds: list[float] = []
    for _ in range(2 if formulation == "dense" else 1 + setting.repeats):  # the first faults in memory that is kept
        result.clear()
        start = time.perf_counter()
        result = step()
        timing.synchronize(setting.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), gigabytes, {name: value.cpu().numpy() for name, value in result.items()}


def _differentiated(
    formulation: str, shapes: Shapes, terms: tuple[str, ...], setting: Setting
) -> Callable[[], dict[str, Tensor]]:
    """Return a function that returns the terms of "dense" or "fast" and the gradients of random features and logits."""
    features, logits = outputs = [x.requires_grad_() for x in random_outputs(shapes, setting.device)]
    labels, image_classes = random_labels(shapes, setting.device)
    objective = objectives.AGMM(shapes.num_classes, terms=terms)

    def step() -> dict[str, Tensor]:
        if formulation == "dense":
            loss, values = dense_agmm(features, logits, labels, image_classes, terms=terms)
        else:
            output = objective(features, logits, labels, image_classes)
            loss, values = output.loss, output.terms
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
        named = zip(("gradient of features", "gradient of logits"), gradients, strict=True)
        return {k: v.detach() for k, v in values.items()} | {k: v for k, v in named if v is not None}

    return step


def relative(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 difference without the share ``KINKS`` of the largest differences."""
    difference = np.sort(np.abs(values.astype(np.float64) - expected), axis=None)
    most = difference[: difference.size - int(KINKS * difference.size)]
    return float(np.linalg.norm(most)) / max(float(np.linalg.norm(expected)), 1e-30)


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a fresh process, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def reset_peak(device: str) -> float:
    """Forget the peak of memory, where the system can, and return what is held now, in bytes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif LINUX.exists():
        LINUX.with_name("clear_refs").write_text("5")
    return peak_bytes(device)


def peak_bytes(device: str) -> float:
    """Return the largest memory since `reset_peak`: as tensors on a GPU, of the whole process on a CPU."""
    if device == "cpu" and LINUX.exists():
        (line,) = (line for line in LINUX.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return 2**20 * machine.peak_memory_mb(torch.device(device))

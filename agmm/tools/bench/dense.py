"""Time and memory of the objective beside its dense formulation (`agmm.dense`), at the size of a VOC step.

Each is measured in a process of its own, so that its peak of memory is its own, and their losses and gradients are
compared: a formulation that is fast and wrong is no result.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from agmm import objectives
from agmm.dense import dense_agmm
from agmm.host import machine
from agmm.tools.bench.branch import ALL, FEATURES, SPARSE
from agmm.tools.bench.figure import Figure, Setting, synchronize
from agmm.tools.bench.inputs import SMALL, VOC, Size, tensors

TOLERANCE = 1e-4
"""Largest relative difference (L2) of a term or a gradient, float32."""

KINKS = 1e-6
"""Share of a gradient's elements that are left out of it: where a feature equals its mean up to rounding, the slope of
the absolute value has either sign. At the size of a VOC step that are a few of 80 million signs."""

LINUX = Path("/proc/self/status")

T = TypeVar("T")
Step = Callable[..., dict[str, Tensor]]


def figures(setting: Setting) -> Iterator[Figure]:
    """How much faster and leaner than the dense formulation, and how different.

    Raises
    ------
    RuntimeError
        If the two formulations disagree.
    """
    size = SMALL if setting.small else VOC
    for name, terms in (("spar, con", SPARSE), ("self, spar, con", FEATURES), ("all five terms", ALL)):
        with tempfile.TemporaryDirectory() as folder:
            files = {step: Path(folder) / f"{step.__name__}.pt" for step in (dense, fast)}
            found = {step: in_new_process(measure, step, terms, size, setting, file) for step, file in files.items()}
            difference = largest_difference(files[dense], files[fast])
        if difference > TOLERANCE:
            raise RuntimeError(f"the objective differs from its dense formulation by {difference:.1e} ({name})")
        case = f"VOC, 10 clicks, {name}, dense"
        seconds, gigabytes = zip(*(found[step] for step in (dense, fast)), strict=True)
        yield Figure("dense", case, seconds[0], "s", "the objective", seconds[1], seconds[0] / seconds[1], ">= 1")
        gigabytes = tuple(max(value, 1e-3) for value in gigabytes)
        yield Figure("dense", case, gigabytes[0], "GB", "the objective", gigabytes[1], gigabytes[0] / gigabytes[1])
        yield Figure("dense", case, difference, "relative", "tolerance", TOLERANCE, difference / TOLERANCE, "<= 1")


def dense(
    terms: tuple[str, ...], features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor
) -> dict[str, Tensor]:
    """Terms and gradients of `agmm.dense.dense_agmm`."""
    leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()
    loss, values = dense_agmm(*leaves, labels, image_classes, terms=terms)
    return differentiate(loss, values, leaves)


def fast(
    terms: tuple[str, ...], features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor
) -> dict[str, Tensor]:
    """Terms and gradients of `agmm.objectives.AGMM`."""
    leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()
    output = objectives.AGMM(logits.shape[1], terms=terms)(*leaves, labels, image_classes)
    return differentiate(output.loss, output.terms, leaves)


def differentiate(loss: Tensor, terms: dict[str, Tensor], leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Terms and gradients in one dictionary."""
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    named = dict(zip(("gradient of features", "gradient of logits"), gradients, strict=True))
    return {k: v.detach() for k, v in terms.items()} | {k: v for k, v in named.items() if v is not None}


def measure(step: Step, terms: tuple[str, ...], size: Size, setting: Setting, target: Path) -> tuple[float, float]:
    """Fastest time in seconds and peak of memory in GB beyond the inputs; the results go to the file ``target``."""
    torch.set_num_threads(setting.threads)
    step(terms, *tensors(SMALL, device=setting.device))  # lazily loaded libraries are not what we measure
    inputs = tensors(size, device=setting.device)
    before = reset_peak(setting.device)
    result = step(terms, *inputs)
    gigabytes = (peak_bytes(setting.device) - before) / 1e9
    torch.save(result, target)
    if setting.device == "cpu":
        machine.keep_freed_memory()
    seconds: list[float] = []
    for _ in range(2 if step is dense else 1 + setting.repeats):  # the first faults in what is kept from then on
        result.clear()
        start = time.perf_counter()
        result = step(terms, *inputs)
        synchronize(setting.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), gigabytes


def largest_difference(expected: Path, found: Path) -> float:
    """Largest relative L2 difference of any term or gradient."""
    reference, other = (torch.load(path, map_location="cpu", weights_only=True) for path in (expected, found))
    return max(relative(other[name], value) for name, value in reference.items())


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative L2 difference without the share ``KINKS`` of the largest differences."""
    difference = (found.double() - expected).flatten().abs()
    kept = difference.sort().values[: len(difference) - int(KINKS * len(difference))]
    return float(kept.norm() / expected.double().norm().clamp_min(1e-30))


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a fresh process, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def reset_peak(device: str) -> int:
    """Forget the peak of memory, where the system can, and return what is held now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif LINUX.exists():
        LINUX.with_name("clear_refs").write_text("5")
    return peak_bytes(device)


def peak_bytes(device: str) -> int:
    """Largest memory since `reset_peak`: of the allocator (cuda) or the whole process (cpu)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if LINUX.exists():
        (line,) = (line for line in LINUX.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""The clock of comparisons: functions take turns, so that a change of the machine's speed concerns all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def in_turn(
    functions: Mapping[str, Callable[[], object]], device: str, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every function in ``repeats`` rounds in which each is called once, after ``warmup`` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the quotients of neighboring rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def synchronize(device: str) -> None:
    """Wait for a GPU; return at once on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()

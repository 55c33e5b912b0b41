"""Command line of the benchmarks: ``python -m agmm.bench [branch step …] [--device cuda] [--csv FILE]``."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from agmm import environment
from agmm.bench import branch, dense, evaluation, input, step, sweep
from agmm.bench.figure import Figure, Setting, hardware, show, write

GROUPS: dict[str, Callable[[Setting], Iterator[Figure]]] = {
    "dense": dense.figures,  # first, while this process is small
    "branch": branch.figures,
    "step": step.figures,
    "input": input.figures,
    "evaluation": evaluation.figures,
    "sweep": sweep.figures,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(prog="python -m agmm.bench", description="Speed, as ratios of one run.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--small", action="store_true", help="shapes of a test: shows that the command works")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the figures and the hardware to this file")
    options = parser.parse_args(arguments)
    for name in options.groups:
        if name not in GROUPS:
            parser.error(f"there is no group {name!r}; known: {', '.join(GROUPS)}")
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; use --device cpu")
    setting = Setting(device, options.threads, options.repeats, options.small)
    torch.set_num_threads(setting.threads)
    if device == "cpu":
        environment.keep_freed_memory()
    print(f"{hardware(device)}, {setting.threads} thread(s), torch {torch.__version__}")
    figures = show(figure for name in options.groups or GROUPS for figure in GROUPS[name](setting))
    if options.csv:
        write(figures, setting, options.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())

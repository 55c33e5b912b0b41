"""How fast the package is, as ratios of two times taken in one run: ``agmm bench [branch step …] [--csv FILE]``.

A module per question: `branch` (the mixture and its losses beside the bytes they must move), `dense` (the same beside a
dense formulation), `step` (an optimizer step beside the baseline's), `input` (reading and augmentation beside what a
network consumes), `evaluation` (beside one tile at a time), `sweep` (processes beside threads), `spml` (its k-means
beside a library's, its objective beside a network). Each has a function ``figures(setting)`` that yields
`agmm.tools.bench.figure.Figure`.
"""

import argparse
from pathlib import Path

from agmm.host import atomic_files
from agmm.tools.bench import step
from agmm.tools.bench.groups import GROUPS, markdown, measure, setting, write


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
    for name in args.groups:
        if name not in GROUPS:
            raise ValueError(f"there is no group {name!r}; known: {', '.join(GROUPS)}")
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

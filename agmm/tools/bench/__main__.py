"""Command line of the benchmarks: ``python -m agmm.tools.bench [branch step …] [--device cuda] [--csv FILE]``."""

import argparse
import sys
from pathlib import Path

from agmm.host import atomic_files
from agmm.tools.bench import step
from agmm.tools.bench.groups import GROUPS, measure, setting, write


def main(arguments: list[str] | None = None) -> int:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(prog="python -m agmm.tools.bench", description="Speed, as ratios of one run.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--small", action="store_true", help="shapes of a test: shows that the command works")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures to this file, and to an .md beside")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="instead, write which operations a step spends on")
    options = parser.parse_args(arguments)
    for name in options.groups:
        if name not in GROUPS:
            parser.error(f"there is no group {name!r}; known: {', '.join(GROUPS)}")
    if options.csv is not None and options.csv.suffix != ".csv":
        parser.error(f"--csv {options.csv} does not end in .csv")
    try:
        how = setting(options.device, options.threads, options.repeats, options.small)
    except ValueError as error:
        parser.error(str(error))
    if options.profile is not None:
        with atomic_files.writable(options.profile.parent):
            atomic_files.write_text(options.profile, step.profile(how))
        return 0
    table = measure(how, options.groups)
    if options.csv is not None:
        write(table, options.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command line of the report: ``python -m agmm.report [--preset quick] [--results DIR]``; trains nothing."""

import argparse
import sys
from pathlib import Path

from agmm import report
from agmm.host import atomic_files
from agmm.papers import tables


def main(argv: list[str] | None = None) -> int:
    """Write the page and print its path; 2 after a mistake of the user."""
    parser = argparse.ArgumentParser("python -m agmm.report", description="One page about all results of a preset.")
    add = parser.add_argument
    add("--preset", default="quick", help="whose results (default: quick)")
    add("--results", type=Path, default=tables.RESULTS, metavar="DIR", help="folder of results (default: results)")
    add("--link-figures", action="store_true", help="link to the files of the figures instead of embedding them")
    args = parser.parse_args(argv)
    try:
        tables.preset(args.preset)
        if not (args.results / args.preset).is_dir():
            raise ValueError(f"there is no {args.results / args.preset}; run_all.py --preset {args.preset} makes it")
        print(report.write(args.preset, args.results, embed=not args.link_figures))
    except (ValueError, OSError, atomic_files.StorageError) as error:
        print(f"python -m agmm.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

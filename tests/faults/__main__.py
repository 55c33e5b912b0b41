"""The command; see the package's docstring."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import damage, disk, inputs, kills, together
from tests.faults.common import Tally, undisturbed

GROUPS = {"kills": kills.run, "concurrent": together.run, "disk": disk.run, "damage": damage.run, "inputs": inputs.run}


def main() -> int:
    """Returns 1 if any fault was not survived."""
    parser = argparse.ArgumentParser("python -m tests.faults", description="Faults on purpose, and what they do.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--kills", type=int, default=32, metavar="N", help="least number of kill -9 (default: 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every random choice (default: 0)")
    args = parser.parse_args()
    if unknown := set(args.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that file systems are unmounted and folders removed
    faults = survived = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        work = Path(scratch)
        for name in args.groups or GROUPS:
            started, tally = time.monotonic(), Tally()
            if name != "inputs" and not (work / "whole").exists():
                undisturbed(work / "whole")
            GROUPS[name](work, tally, args)
            print(f"{name}: {tally.total} faults, {tally.survived} survived ({time.monotonic() - started:.0f} s)")
            tally.show()
            faults, survived = faults + tally.total, survived + tally.survived
    print(f"{faults} faults, {survived} survived", flush=True)
    return int(survived < faults)


if __name__ == "__main__":
    sys.exit(main())

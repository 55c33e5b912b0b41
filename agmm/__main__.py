"""Train a single run of the tables: by its number in the paper's list of trainings, or by its identity.

    python -m agmm O005                                                         one training at the preset quick
    torchrun --nproc-per-node 4 -m agmm O005 --preset paper --data-root DIR     the same on four GPUs

``python -m agmm train`` and the like are those of `agmm.cli`, the command ``agmm``.
``python run_all.py --dry-run --only agmm`` lists numbers and identities; `run_all.py` finds the result.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import agmm
from agmm import cli
from agmm.papers import tables
from agmm.training import loop


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 after a mistake of the user."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in cli.COMMANDS:
        return cli.main(argv)
    parser = argparse.ArgumentParser(
        "python -m agmm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("training", help="number of a training such as O005, or the identity of a run")
    add("--preset", default="quick", help="scale of everything (default: quick)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--data-root", type=Path, metavar="PATH", help="folder of the data set; the embedded one needs none")
    add("--no-decoded", dest="keep_decoded", action="store_false", help="keep no decoded images in results/cache")
    add("--results", type=Path, default=tables.RESULTS, metavar="PATH", help="folder to write to (default: results)")
    args = parser.parse_args(argv)
    try:
        run = replace(find(args.training, args.preset), seed=args.seed)
        how = {name: getattr(args, name) for name in ("results", "data_root", "device", "keep_decoded")}
        result = agmm.run(run, **how)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"python -m agmm: {error}", file=sys.stderr)
        return 2
    if loop.is_main():
        print(f"{args.training}: {result.miou:.2f}, in {run.folder(args.results)}")
    return 0


def find(training: str, preset: str) -> agmm.Run:
    """Run with seed 0 by its number or identity; ValueError where the preset has none of it."""
    tables.preset(preset)
    numbers = tables.trainings(tables.TABLES, preset)
    for run in tables.needed(tables.TABLES, preset, 1):
        if training in (run.id, numbers.get(run.id)):
            return run
    raise ValueError(
        f"the preset {preset} has no training {training!r}; "
        f"`python run_all.py --preset {preset} --only agmm --dry-run` lists them"
    )


if __name__ == "__main__":
    sys.exit(main())

"""Regenerate the papers' tables: train what they need, write them, execute their notebooks, report on all of it.

    python run_all.py                                   every table at the preset `quick`
    python run_all.py --only agmm_table1 --seeds 3      one table, three seeds
    python run_all.py --preset camvid --data-root PATH  real road scenes
    python run_all.py --no-training --results results/reference    tables, claims and report of the committed records
    python run_all.py --engine slurm --slurm time=600   a job of Slurm for every training, of ten hours at a time

Whatever is complete is not trained again; an interrupted command resumes when it is repeated. Slurm's jobs need the
folder of the results, the data and this Python on a file system that all nodes share.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agmm import cli
from agmm.cli import ROOT

if TYPE_CHECKING:
    from agmm.training.run import Run

# Modules that need torch are imported inside of functions: --help and mistyped options should not wait for it.

say = partial(print, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Return 0, 1 if a run or a table failed, 2 after a mistake of the user, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    resumed = "the same command resumes from the last finished epochs"
    return cli.exit_code("run_all.py", lambda: show_list() if args.list else regenerate(args), resumed=resumed)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = cli.Parser("run_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parsed.add_argument
    add("--list", action="store_true", help="show tables, groups and presets, then stop")
    add("--only", nargs="+", metavar="NAME", help="tables or groups (default: all)")
    add("--preset", default="quick", help="scale of everything (default: quick)")
    add("--seeds", type=cli.positive, metavar="N", help="train the seeds 0 … N-1 (default: the preset's)")
    add("--jobs", type=cli.positive, metavar="N", help="trainings at a time (default: one per GPU or core; Slurm: all)")
    where = "processes of this machine, or jobs of Slurm through submitit (default: local)"
    add("--engine", choices=("local", "slurm"), default="local", help=where)
    keys = (
        "of the jobs: partition, time (minutes, after which it resumes), gpus_per_node, cpus_per_task, mem, account …"
    )
    add("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=keys)
    cli.where_arguments(parsed)
    cli.change_arguments(parsed)
    add("--dry-run", action="store_true", help="show what would be trained and how long it takes, then stop")
    add("--force", action="store_true", help="train the selected runs again; their folders are moved, not deleted")
    add("--no-notebooks", action="store_true", help="write the tables only")
    add("--no-training", action="store_true", help="write tables, claims and report of what is complete")
    return parsed


def regenerate(args: argparse.Namespace) -> int:
    """Check the arguments and the data, train what is missing, write the tables."""
    from agmm.papers import tables
    from agmm.training import slurm, sweep, trial
    from agmm.training.where import Where

    args.preset = cli.changed_preset(args)
    names = tables.select(args.only or tables.TABLES)
    seeds = args.seeds or tables.preset(args.preset).seeds
    runs = tables.needed(names, args.preset, seeds)
    if args.no_training:
        if args.force or args.dry_run:
            raise ValueError("--no-training trains nothing; leave out --force and --dry-run")
        return write(args, names, seeds, {}, 1)
    todo = runs if args.force else sweep.missing(runs, args.results)
    here = sweep.default_jobs(args.device)
    jobs = args.jobs or (here if args.engine == "local" else max(1, len(todo)))
    announce(args, names, runs, todo, jobs)
    if args.dry_run:
        list_runs(names, args.preset, runs, todo, args.results)
    check(args, names, seeds, todo)
    if args.dry_run:
        return 0
    where = Where(args.results, args.data_root, args.device, args.keep_decoded)
    if args.steps:
        return trial.attempt_all(todo, where, args.steps, say)
    engine = slurm.engine(args.engine, args.results, args.slurm)
    if args.force:
        moved = sweep.set_aside(runs, args.results)
        say(f"moved {len(moved)} folders to {args.results / args.preset / 'replaced'}")
    sweep.tidy(runs, args.results)
    failed = sweep.train_all(runs, where, jobs=jobs, engine=engine, report=say)
    return write(args, names, seeds, failed, jobs if args.engine == "local" else here)


def announce(args: argparse.Namespace, names: list[str], runs: "list[Run]", todo: "list[Run]", jobs: int) -> None:
    """Print how many runs there are, how many of them are cached, and how long the others take."""
    from agmm.host import machine
    from agmm.training import sweep

    seconds = sweep.total(todo, sweep.measured(args.results), jobs)
    processes = f"{jobs} process{'es' if jobs > 1 else ''}" + (" once they start" if args.engine == "slurm" else "")
    about = f", about {machine.duration(seconds)} on {processes}" if todo else ""
    what = ", ".join(names) if len(names) <= 6 else f"{len(names)} tables and figures"
    say(f"{what}: {len(runs)} runs, {len(runs) - len(todo)} cached{about}")
    for run in [run for run in todo if run.norm_scope == "microbatch" and "norm_microbatch" in run.preset][:1]:
        say(f"batch normalization extends over {run.microbatch} images, not over a batch of {run.batch_size}")


def list_runs(names: list[str], preset: str, runs: "list[Run]", todo: "list[Run]", results: Path) -> None:
    """Print the papers' trainings by number, then extras and their purpose, with times and published mIoU."""
    from dataclasses import replace

    from agmm.host import machine
    from agmm.papers import tables
    from agmm.training import sweep

    say(f"times are for {tables.preset(preset).hardware}")
    known, printed = tables.trainings(names, preset), tables.published(names, preset)
    measured = sweep.measured(results)
    lines = []
    for run in runs:
        first = replace(run, seed=0).id
        training = known.get(first, "extra:others start from it")
        state = f"about {machine.duration(sweep.estimate(run, measured))}" if run in todo else "cached"
        paper = f"  (published {printed[first]})" if first in printed else ""
        lines.append((training.startswith("extra:"), training, f"{run.id}  {state:12}  {sweep.describe(run)}{paper}"))
    lines.sort(key=lambda line: line[:2])
    for extra, title in ((False, "trainings of the paper"), (True, "extras")):
        part = [line for line in lines if line[0] == extra]
        say(f"{title}: {len(part)}")
        for _, training, text in part:
            say(f"  {training.removeprefix('extra:') if extra else training}  {text}")


def check(args: argparse.Namespace, names: list[str], seeds: int, todo: "list[Run]") -> None:
    """Raise now what would fail after hours: notebooks' parameters, results that cannot be written, devices, data."""
    from agmm.data import sets
    from agmm.papers import notebooks, tables
    from agmm.training import train as training
    from agmm.training import weights
    from agmm.training.where import Where, label_sources

    for name in names if not args.no_notebooks else ():
        notebooks.check(ROOT / tables.TABLES[name].notebook, parameters(args, seeds))
    try:
        # Nothing is left behind, as a dry run checks, too.
        existing = next(folder for folder in (args.results, *args.results.absolute().parents) if folder.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ValueError(
            f"cannot write to {args.results} ({error.strerror}); choose another folder with --results"
        ) from None
    if args.data_root is not None and not args.data_root.is_dir():
        raise ValueError(f"there is no folder {args.data_root}; --data-root is that of the data sets")
    if not todo:
        return
    for line in label_sources(todo, Where(args.results, args.data_root)):
        say(line)
    try:  # a plan may be for another machine
        device = training.choose_device(args.device if args.engine == "local" else "cpu")
        for run in todo if args.engine == "local" else ():
            training.check_device(run, args.device)
            training.check_memory(run, len(sets.class_names(run.dataset)), device)
    except ValueError as error:
        if not args.dry_run:
            raise
        say(f"not on this machine: {error}")
    if not (args.dry_run or args.steps):
        weights.check(todo, args.results)
    for dataset in dict.fromkeys(run.dataset for run in todo):
        if dataset in sets.PUBLIC and args.data_root is not None:
            say(f"checking the files of {sets.PUBLIC[dataset].title}")
        if problems := sets.check(dataset, args.data_root):
            more = f" (and {len(problems) - 1} more files)" if problems[1:] else ""
            raise ValueError(f"{problems[0]}{more}")


def write(args: argparse.Namespace, names: list[str], seeds: int, failed: dict[str, str], jobs: int) -> int:
    """Write every table, execute its notebook, judge the claims, write the report; a failure does not stop the others.

    ``failed`` holds a sentence for each run without a result, by its identity. Returns 1 if anything failed, else 0.
    """
    from agmm import report
    from agmm.papers import notebooks, tables, verdicts

    sentences = dict(failed)

    def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # a failing table must not take the others along
            kind = "" if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: "
            sentences[name] = f"{name}: {kind}{error}"

    tasks, executed = {}, set()
    for name in names:
        table = tables.TABLES[name]
        incomplete = [run for run in tables.needed([name], args.preset, seeds) if run.id in failed]
        written = attempt(name, tables.write, table, args.preset, args.results)
        if written is None:
            continue
        say(f"{name}: {written[1]}")
        if incomplete:
            say(f"{name}: {len(incomplete)} runs failed; their cells are blank and the notebook was not executed")
        elif not (args.no_notebooks or args.no_training or ROOT / table.notebook in executed):
            executed.add(ROOT / table.notebook)  # one notebook may show several tables
            target = args.results / args.preset / "notebooks" / f"{name}.ipynb"
            tasks[name] = ROOT / table.notebook, target, parameters(args, seeds)
    for name, problem in notebooks.execute_all(tasks, jobs):
        if problem is None:
            say(f"{name}: {tasks[name][1]}")
        else:
            sentences[name] = f"{name}: {problem}"
    if set(tables.GROUPS["agmm"]) <= set(names):
        claims = attempt("claims", verdicts.write, args.preset, args.results, args.data_root)
        if claims is not None:
            say(f"claims: {claims}")
    # Committed records have their figures in files, which the page need not hold once more.
    page = attempt("report", partial(report.write, embed=not args.no_training), args.preset, args.results)
    for sentence in sentences.values():
        print(f"failed: {sentence}", file=sys.stderr)
    if page is not None:
        say(f"report: {page}")
    return 1 if sentences else 0


def parameters(args: argparse.Namespace, seeds: int) -> dict[str, Any]:
    """Return the parameters that every notebook is given."""
    data_root = str(args.data_root.resolve()) if args.data_root else ""
    return {"preset": args.preset, "seeds": seeds, "results": str(args.results.resolve()), "data_root": data_root}


def show_list() -> int:
    """Print tables, groups and presets."""
    from agmm.papers import tables
    from agmm.training.presets import PRESETS

    for table in tables.TABLES.values():
        say(f"{table.name:20} {table.paper}, {table.title}")
    for group, members in tables.GROUPS.items():
        say(f"{group:20} group: {', '.join(members)}")
    for name, preset in PRESETS.items():
        say(f"--preset {name:11} {preset.needs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

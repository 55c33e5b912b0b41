"""Regenerate the papers' tables: train what they need, write them, execute their notebooks, report on all of it.

    python run_all.py                                   every table at the preset `quick`
    python run_all.py --only agmm_table1 --seeds 3      one table, three seeds
    python run_all.py --preset camvid --data-root PATH  real road scenes
    python run_all.py --engine slurm --slurm time=600   a job of Slurm for every training, of ten hours at a time

Whatever is complete is not trained again; an interrupted command resumes when it is repeated. Slurm's jobs need the
folder of the results, the data and this Python on a file system that all nodes share.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agmm.training.run import Run

ROOT = Path(__file__).resolve().parent
say = partial(print, flush=True)


class _Parser(argparse.ArgumentParser):
    """One sentence per mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"run_all.py: {message}; --help explains the options\n")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 if a run or a table failed, 2 after a mistake of the user, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        return regenerate(args)
    except KeyboardInterrupt:
        print("run_all.py: interrupted; the same command resumes from the last finished epochs", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parsed = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parsed.add_argument
    add("--list", action="store_true", help="show tables, groups and presets, then stop")
    add("--only", nargs="+", metavar="NAME", help="tables or groups (default: all)")
    add("--preset", default="quick", help="scale of everything (default: quick)")
    add("--seeds", type=_positive, metavar="N", help="train the seeds 0 … N-1 (default: the preset's)")
    add("--jobs", type=_positive, metavar="N", help="trainings at a time (default: one per GPU or core; Slurm: all)")
    where = "processes of this machine, or jobs of Slurm through submitit (default: local)"
    add("--engine", choices=("local", "slurm"), default="local", help=where)
    keys = (
        "of the jobs: partition, time (minutes, after which it resumes), gpus_per_node, cpus_per_task, mem, account …"
    )
    add("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=keys)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--data-root", type=Path, metavar="PATH", help="folder of the data set; the embedded one needs none")
    add("--no-decoded", dest="keep_decoded", action="store_false", help="keep no decoded images in results/cache")
    add("--results", type=Path, default=ROOT / "results", metavar="PATH", help="folder to write to (default: results)")
    add("--dry-run", action="store_true", help="show what would be trained and how long it takes, then stop")
    add("--force", action="store_true", help="train the selected runs again; their folders are moved, not deleted")
    add("--no-notebooks", action="store_true", help="write the tables only")
    return parsed


def regenerate(args: argparse.Namespace) -> int:
    """Check, train, write."""
    # Here, because a mistyped option should not wait seconds for torch.
    from agmm.papers import tables
    from agmm.training import slurm, sweep

    if args.list:
        return show_list()
    try:
        names = tables.select(args.only or tables.TABLES)
        seeds = args.seeds or tables.preset(args.preset).seeds
        runs = tables.needed(names, args.preset, seeds)
        todo = runs if args.force else sweep.missing(runs, args.results)
        here = sweep.default_jobs(args.device)
        jobs = args.jobs or (here if args.engine == "local" else max(1, len(todo)))
        announce(args, names, runs, todo, jobs)
        if args.dry_run:
            return 0
        engine = slurm.named(args.engine, args.results, args.slurm)
        check(args, names, seeds, todo)
        if args.force:
            moved = sweep.set_aside(runs, args.results)
            say(f"moved {len(moved)} folders to {args.results / args.preset / 'replaced'}")
        sweep.tidy(runs, args.results)
    except (ValueError, OSError) as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
    how = {name: getattr(args, name) for name in ("results", "data_root", "device", "keep_decoded")}
    failed = sweep.train_all(runs, **how, jobs=jobs, engine=engine, report=say)
    return write(args, names, seeds, failed, jobs if args.engine == "local" else here)


def announce(args: argparse.Namespace, names: list[str], runs: "list[Run]", todo: "list[Run]", jobs: int) -> None:
    """How many runs, how many of them cached, how long; every run with --dry-run."""
    from agmm.papers import tables
    from agmm.training import sweep

    seconds = sweep.forecast(todo, sweep.measure(args.results), jobs)
    processes = f"{jobs} process{'es' if jobs > 1 else ''}" + (" once they start" if args.engine == "slurm" else "")
    about = f", about {sweep.duration(seconds)} on {processes}" if todo else ""
    what = ", ".join(names) if len(names) <= 6 else f"{len(names)} tables and figures"
    say(f"{what}: {len(runs)} runs, {len(runs) - len(todo)} cached{about}")
    if args.dry_run:
        say(f"times are for {tables.preset(args.preset).hardware}")
        list_runs(names, args.preset, runs, todo, args.results)


def list_runs(names: list[str], preset: str, runs: "list[Run]", todo: "list[Run]", results: Path) -> None:
    """The papers' trainings by their number, then what is trained beside them and why; expected times, paper's mIoU."""
    from dataclasses import replace

    from agmm.papers import tables
    from agmm.training import sweep

    known, printed = tables.trainings(names, preset), tables.published(names, preset)
    measured = sweep.measure(results)
    lines = []
    for run in runs:
        first = replace(run, seed=0).id
        training = known.get(first, "extra:others start from it")
        state = f"about {sweep.duration(sweep.estimate(run, measured))}" if run in todo else "cached"
        paper = f"  (published {printed[first]})" if first in printed else ""
        lines.append((training.startswith("extra:"), training, f"{run.id}  {state:12}  {sweep.describe(run)}{paper}"))
    lines.sort(key=lambda line: line[:2])
    for extra, title in ((False, "trainings of the paper"), (True, "extras")):
        part = [line for line in lines if line[0] == extra]
        say(f"{title}: {len(part)}")
        for _, training, text in part:
            say(f"  {training.removeprefix('extra:') if extra else training}  {text}")


def check(args: argparse.Namespace, names: list[str], seeds: int, todo: "list[Run]") -> None:
    """Whatever could fail after hours fails now."""
    from agmm.data import sets
    from agmm.papers import notebooks, tables
    from agmm.training import train as training

    for name in names if not args.no_notebooks else ():
        notebooks.check(ROOT / tables.TABLES[name].notebook, parameters(args, seeds))
    try:
        args.results.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.results).close()
    except OSError as error:
        raise ValueError(
            f"cannot write to {args.results} ({error.strerror}); choose another folder with --results"
        ) from None
    if not todo:
        return
    if args.engine == "local":
        training.choose_device(args.device)
    for dataset in dict.fromkeys(run.dataset for run in todo):
        if dataset in sets.PUBLIC and args.data_root is not None:
            say(f"checking the files of {sets.PUBLIC[dataset].title}")
        if problems := sets.check(dataset, args.data_root):
            more = f" (and {len(problems) - 1} more files)" if problems[1:] else ""
            raise ValueError(f"{problems[0]}{more}")


def write(args: argparse.Namespace, names: list[str], seeds: int, failed: dict[str, str], jobs: int) -> int:
    """Write every table, execute its notebook, whatever becomes of the others; judge, report, sum up."""
    from agmm.papers import notebooks, tables

    broken = dict(failed)
    tasks = {}
    for name in names:
        table = tables.TABLES[name]
        incomplete = [run for run in tables.needed([name], args.preset, seeds) if run.id in failed]
        try:
            _, markdown = tables.write(table, args.preset, args.results)
            say(f"{name}: {markdown}")
            if incomplete:
                say(f"{name}: {len(incomplete)} runs failed; their cells are blank and the notebook was not executed")
            elif not args.no_notebooks:
                target = args.results / args.preset / "notebooks" / f"{name}.ipynb"
                tasks[name] = ROOT / table.notebook, target, parameters(args, seeds)
        except Exception as error:  # a failing table must not take the others along
            broken[name] = f"{name}: {in_words(error)}"
    for name, wrong in notebooks.execute_all(tasks, jobs):
        if wrong is None:
            say(f"{name}: {tasks[name][1]}")
        else:
            broken[name] = f"{name}: {wrong}"
    if set(tables.GROUPS["agmm"]) <= set(names):
        try:
            say(f"claims: {judge(args)}")
        except Exception as error:
            broken["claims"] = f"claims: {in_words(error)}"
    page = None
    try:
        page = report(args)
    except Exception as error:
        broken["report"] = f"report: {in_words(error)}"
    for sentence in broken.values():
        print(f"failed: {sentence}", file=sys.stderr)
    if page is not None:
        say(f"report: {page}")
    return 1 if broken else 0


def in_words(error: Exception) -> str:
    """What a user can act on as it is; of anything else its kind as well."""
    from agmm.host.atomic_files import StorageError

    return str(error) if isinstance(error, ValueError | OSError | StorageError) else f"{type(error).__name__}: {error}"


def judge(args: argparse.Namespace) -> Path:
    """Judge the paper's claims, which are about all of its tables."""
    from agmm.papers import verdicts

    return verdicts.write(args.preset, args.results, args.data_root)


def report(args: argparse.Namespace) -> Path:
    """One page about everything that is there, whatever has failed."""
    from agmm import report

    return report.write(args.preset, args.results)


def parameters(args: argparse.Namespace, seeds: int) -> dict[str, Any]:
    """What every notebook is given."""
    data_root = str(args.data_root.resolve()) if args.data_root else ""
    return {"preset": args.preset, "seeds": seeds, "results": str(args.results.resolve()), "data_root": data_root}


def show_list() -> int:
    """Tables, groups and presets."""
    from agmm.papers import tables
    from agmm.training.presets import PRESETS

    for table in tables.TABLES.values():
        say(f"{table.name:20} {table.paper}, {table.title}")
    for group, members in tables.GROUPS.items():
        say(f"{group:20} group: {', '.join(members)}")
    for name, preset in PRESETS.items():
        say(f"--preset {name:11} {preset.needs}")
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

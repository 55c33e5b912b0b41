"""What lies in the folders of the runs: descriptions, results, where and when they were made, and what they cost."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from agmm.data import sets
from agmm.papers import tables
from agmm.training import sweep
from agmm.training.result import Result
from agmm.training.run import Run, is_own

FILES = ("run.json", "result.json", "history.csv", "environment.json", "log.txt")
_ID = re.compile(r"[0-9a-f]{10}")
_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.MULTILINE)


@dataclass(frozen=True)
class Record:
    """The folder of one run; what is absent or damaged there is missing here, too."""

    id: str
    run: Run | None
    result: Result | None
    environment: dict[str, Any]
    ended: str  # time of the last line of the log; empty where there is no log
    files: tuple[str, ...]
    problems: tuple[str, ...] = ()
    command: str = ""  # what trains it; empty where no table of this version has it
    own: str = ""  # in a few words, where the method is a user's; the run itself is missing then

    @property
    def described(self) -> str:
        """The run in a few words."""
        return sweep.describe(self.run) if self.run else self.own or "unreadable description"


def read(preset: str, results: str | Path) -> dict[str, Record]:
    """Return every run of a preset's folder by its identity, in alphabetical order of their descriptions.

    Damaged files are sentences in ``problems`` and do not stop the others from being read.
    """
    folder = Path(results) / preset / "runs"
    found = [_record(path) for path in sorted(folder.glob("*")) if path.is_dir() and _ID.fullmatch(path.name)]
    known = {run.id for run in tables.needed(tables.TABLES, preset, 1)}
    found = [replace(record, command=_command(record.run, known)) for record in found]
    return {record.id: record for record in sorted(found, key=lambda record: (record.described, record.id))}


def _record(folder: Path) -> Record:
    problems: list[str] = []
    described = _parsed(folder / "run.json", _described, problems)
    run, own = (None, described) if isinstance(described, str) else (described, "")
    result = _parsed(folder / "result.json", _result, problems)
    environment = _parsed(folder / "environment.json", _mapping, problems) or {}
    files = tuple(name for name in FILES if (folder / name).is_file())
    times = _TIME.findall((folder / "log.txt").read_text(errors="replace")) if "log.txt" in files else []
    return Record(folder.name, run, result, environment, times[-1] if times else "", files, tuple(problems), own=own)


def _parsed(path: Path, make: Any, problems: list[str]) -> Any:
    """Return what ``make`` makes of a JSON file; None where there is none, or where it is damaged, which is noted."""
    try:
        return make(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file makes of the checks of a run
        problems.append(f"runs/{path.parent.name}/{path.name} is damaged ({type(error).__name__}: {error})")
        return None


def _described(plain: Any) -> Run | str:
    """Return the run, or a few words about one of a user's method: to build that would import the user's code."""
    method, teacher = (str(_mapping(plain).get(name, "")) for name in ("method", "teacher_method"))
    if is_own(method) or is_own(teacher):
        of = f" of {teacher}" if teacher else ""
        return f"{method}{of}, {plain.get('labels')} of {plain.get('dataset')}, seed {plain.get('seed')}"
    return Run.from_dict(plain)


def _result(plain: Any) -> Result:
    result = Result(**plain)
    for name in ("miou", "seconds", "images_per_second", "peak_memory_mb"):
        value = getattr(result, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is no number")
    _mapping(result.details)
    return result


def _mapping(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise ValueError("not a mapping")
    return plain


def _command(run: Run | None, known: set[str]) -> str:
    first = replace(run, seed=0) if run else None
    if run is None or first is None or first.id not in known:
        return ""
    seed = f" --seed {run.seed}" if run.seed else ""
    data = " --data-root DIR" if run.dataset in sets.PUBLIC else ""
    return f"agmm run {first.id} --preset {run.preset}{seed}{data}"


def made_with(records: Iterable[Record]) -> dict[str, list[tuple[str, int]]]:
    """Return devices, versions and commits of complete runs, each with its number of runs, the most frequent first."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("device", "versions", "commit")}
    for record in records:
        if record.result and record.environment:
            found = record.environment
            packages = found.get("packages")
            packages = packages if isinstance(packages, dict) else {}
            versions = {"Python": found.get("python", "?"), **{n: v for n, v in packages.items() if n != "agmm"}}
            counts["device"][str(found.get("device", "unknown"))] += 1
            counts["versions"][", ".join(f"{name} {version}" for name, version in versions.items())] += 1
            commit, _, remark = str(found.get("commit", "unknown")).partition(" ")
            counts["commit"][f"{commit[:10]} {remark}".strip()] += 1
    return {name: sorted(count.items(), key=lambda item: (-item[1], item[0])) for name, count in counts.items()}


class Cost(NamedTuple):
    """Hours of the runs behind a table, those that they start from included."""

    name: str
    title: str
    ids: set[str]
    cpu: float
    gpu: float


class Costs(NamedTuple):
    """What every table cost, all runs together, and the slowest runs."""

    tables: list[Cost]
    total: Cost
    slowest: list[Record]


def costs(named: dict[str, tuple[str, set[str]]], records: dict[str, Record], count: int = 10) -> Costs:
    """Return the hours by table, given its title and the runs that its numbers name, and the ``count`` slowest runs."""
    complete = [record for record in records.values() if record.result]
    by_table = [_cost(name, title, _closure(ids, records), records) for name, (title, ids) in named.items()]
    total = _cost("", "All runs, each once", {record.id for record in complete}, records)
    slowest = sorted(complete, key=lambda record: (-_seconds(record), record.id))[:count]
    return Costs([cost for cost in by_table if cost.ids], total, slowest)


def _closure(ids: Iterable[str], records: dict[str, Record]) -> set[str]:
    """Return runs and what they require, as far as they are there."""
    runs = [record.run for one in ids if (record := records.get(one)) and record.run]
    found = {run.id for run in sweep.distinct(runs)} | set(ids)
    return {one for one in found if one in records and records[one].result}


def _cost(name: str, title: str, ids: set[str], records: dict[str, Record]) -> Cost:
    hours = {True: 0.0, False: 0.0}
    for record in (records[one] for one in sorted(ids)):
        on_cpu = str(record.environment.get("device", "CPU")).startswith("CPU")
        hours[on_cpu] += _seconds(record) / 3600
    return Cost(name, title, ids, cpu=hours[True], gpu=hours[False])


def _seconds(record: Record) -> float:
    return record.result.seconds if record.result else 0.0

"""A disk that is full, and one that is read-only: a sentence, everything finished kept, completion with more room."""

import argparse
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.faults.common import Tally, different, finish, output, start

FREE = {"at the start": 0, "at the first data": 64, "at the first weights": 1500, "during the runs": 3000}
"""Where the disk becomes full -> kilobytes that are free when the command starts."""

Case = Callable[[Path, Path], str]
"""Prepares a results folder from undisturbed results; returns what every complaint must say."""


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """Each case on a small file system in memory of its own; nothing where mounting is refused."""
    cases: dict[str, Case] = {
        f"disk full {where}": lambda results, whole, free=free: _leave(results, free) for where, free in FREE.items()
    }
    cases |= {"disk full at the tables": _full_at_tables}
    cases |= {"disk read-only, empty": _read_only_empty, "disk read-only, some runs": _read_only_begun}
    for kind, prepare in cases.items():
        disk = work / "disk"
        disk.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
        if (mounted := subprocess.run(mount, capture_output=True, text=True)).returncode:
            print(f"  {kind}: skipped, as mounting is refused ({mounted.stderr.strip()})", flush=True)
            continue
        try:
            tally.add(kind, problem := _survives(disk, work / "whole", prepare))
            print(f"  {kind}: {problem or 'survived'}", flush=True)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def _survives(results: Path, whole: Path, prepare: Case) -> str | None:
    words = prepare(results, whole)
    problem = _refused(results, words)
    _remount(results, "rw,size=64m")
    kept = {path: path.stat().st_mtime_ns for path in results.glob("smoke/runs/*/result.json")}
    problem = problem or finish(results, "--no-notebooks") or different(results, whole)
    again = [path for path, time in kept.items() if path.stat().st_mtime_ns != time]
    return problem or (f"{again[0]} was made again" if again else None)


def _refused(results: Path, words: str) -> str | None:
    """What is wrong with how the command ends."""
    code = start(results, "--no-notebooks").wait(timeout=600)
    said = output(results, "err").read_text()
    lines = [line for line in said.splitlines() if "a run that it starts from failed" not in line]
    if code not in (1, 2) or "Traceback" in said:
        return f"exit code {code}: {said[-500:]}"
    if not lines or not all(words in line and str(results) in line for line in lines):
        return f"exit code {code}, not a sentence that names the folder: {said[:500]}"
    return None


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def _leave(disk: Path, kilobytes: int) -> str:
    """Shrink the file system to what it holds and so many kilobytes."""
    _remount(disk, f"size={max(shutil.disk_usage(disk).used // 1024 + kilobytes, 4)}k")
    return "the disk is full"


def _full_at_tables(results: Path, whole: Path) -> str:
    left_out = shutil.ignore_patterns("tables", "figures", "notebooks")
    shutil.copytree(whole, results, dirs_exist_ok=True, ignore=left_out)
    return _leave(results, 0)


def _read_only_empty(results: Path, whole: Path) -> str:
    _remount(results, "ro")
    return "ead-only"


def _read_only_begun(results: Path, whole: Path) -> str:
    shutil.copytree(whole, results, dirs_exist_ok=True)
    shutil.rmtree(max(results.glob("smoke/runs/*"), key=lambda folder: (folder / "log.txt").read_text()))
    return _read_only_empty(results, whole)

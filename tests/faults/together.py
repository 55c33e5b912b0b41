"""Two and four commands at the same time on one results folder."""

import argparse
import os
import subprocess
from pathlib import Path

from tests.faults.common import ROOT, Tally, command, different


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """Every command ends well, every run is trained once, and the results are those of one command."""
    for count in (2, 4):
        results = work / f"concurrent-{count}"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        line = command(results, "--jobs", "1" if count == 4 else "2")
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes = [subprocess.Popen(line, cwd=ROOT, env=environment, text=True, **pipes) for _ in range(count)]
        problem = None
        for process in processes:
            _, said = process.communicate(timeout=600)
            failed = process.returncode or said
            problem = problem or (f"exit code {process.returncode}: {said[-500:]}" if failed else None)
        problem = problem or _trained_once(results) or different(results, work / "whole")
        for _ in processes:
            tally.add(f"one of {count} commands at the same time", problem)


def _trained_once(results: Path) -> str | None:
    for log in results.glob("smoke/runs/*/log.txt"):
        if (times := log.read_text().count("  done: ")) != 1:
            return f"{log} says {times} times that it is done"
    return None

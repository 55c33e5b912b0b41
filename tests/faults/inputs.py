"""Malformed inputs."""

import argparse
from pathlib import Path

from tests.faults.common import Tally


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """To come."""

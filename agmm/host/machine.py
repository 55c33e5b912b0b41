"""The machine of a run: versions, device, commit, cores, memory."""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import resource
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions, device and commit, as ``environment.json`` has them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "packages": {
            name: _version(name) for name in ("agmm", "torch", "torchvision", "timm", "numpy", "scikit-image")
        },
        "commit": _commit(),
    }


def _version(package: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return "not installed"


def _commit() -> str:
    """Return the commit of the package's checkout, with a mark where files were changed."""
    here = Path(__file__).parent
    git = partial(subprocess.run, cwd=here, capture_output=True, text=True, timeout=10)
    try:
        commit = git(["git", "rev-parse", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if commit.returncode:
        return "unknown"
    return commit.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


@contextlib.contextmanager
def threads(count: int, device: torch.device) -> Iterator[None]:
    """Let torch use this number of threads on a CPU inside the block: another number sums in another order."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next step instead of handing them back to the system.

    Otherwise every step faults in again, page by page, the memory that the one before has freed, which costs a
    good part of the branch's time on a CPU. Elsewhere than on Linux with glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        most_blocks_of_their_own, trim_threshold = -4, -1
        libc = ctypes.CDLL(None)
        libc.mallopt(most_blocks_of_their_own, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or architecture and number of cores of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def free_memory(device: torch.device) -> int:
    """Return bytes: what is free on a GPU; for a CPU all memory of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory_mb(device: torch.device) -> float:
    """Return the most MiB that this process has held: on a GPU as tensors, on a CPU altogether."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def end_with_parent() -> None:
    """End this process of a pool as soon as its parent is gone, even by ``kill -9``."""

    def follow() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def duration(seconds: float) -> str:
    """Return seconds in the unit that a reader would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

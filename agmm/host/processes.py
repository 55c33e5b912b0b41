"""One function on many inputs, in several processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 32  # inputs that a process takes at a time


def each(function: Callable[[T], R], inputs: Sequence[T], jobs: int) -> Iterator[R]:
    """Yield the results of a function in the order of its inputs, from at most ``jobs`` processes.

    Function and inputs are pickled. An exception or Ctrl-C ends the processes when what they are at is done.
    """
    jobs = min(jobs, -(-len(inputs) // _CHUNK))
    if jobs <= 1:
        yield from map(function, inputs)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        yield from pool.map(function, inputs, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business

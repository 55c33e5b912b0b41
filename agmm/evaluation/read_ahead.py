"""Images and what belongs to them, in batches of equal size: read ahead by threads, copied while a GPU works."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from agmm.data.split import Arrays
from agmm.host import machine

MOST_READERS = 16


def readers(device: torch.device | str) -> int:
    """Return how many threads or processes read for a device: none on a CPU, which computes; else a GPU's share."""
    if torch.device(device).type == "cpu":
        return 0
    cores = machine.cores()
    return min(MOST_READERS, max(1, cores // max(1, torch.cuda.device_count())))


def ahead(*aligned: Arrays, readers: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the items of equal index, in order, each read once.

    Several threads (``readers``) read while the caller works, each item by one, two items each ahead of what has been
    taken. With 0 an item is read when it is asked for, as always where all ``aligned`` are arrays in memory.

    Raise ValueError if the lengths differ. What reading an item raises is raised when it is its turn.
    """
    lengths = sorted({len(arrays) for arrays in aligned})
    if len(lengths) > 1:
        raise ValueError(f"{lengths[-1]} images cannot share {lengths[0]} masks or labels; give one for each image")

    def item(index: int) -> tuple[np.ndarray, ...]:
        return tuple(arrays[index] for arrays in aligned)

    if readers == 0 or all(isinstance(arrays, np.ndarray) for arrays in aligned):
        yield from map(item, range(lengths[0]))
        return
    pool, indices = ThreadPoolExecutor(readers), iter(range(lengths[0]))
    try:
        waiting = deque(pool.submit(item, index) for index in islice(indices, 2 * readers))
        while waiting:
            first = waiting.popleft()
            waiting.extend(pool.submit(item, index) for index in islice(indices, 1))
            yield first.result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(*aligned: Arrays, batch_size: int, readers: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of images of equal size with what belongs to them, such as truth and labels; see `ahead`."""
    waiting: dict[tuple[int, ...], list[tuple[np.ndarray, ...]]] = {}
    for group in ahead(*aligned, readers=readers):
        alike = waiting.setdefault(group[0].shape, [])
        alike.append(group)
        if len(alike) == batch_size:
            yield _stack(waiting.pop(group[0].shape))
    for alike in waiting.values():
        yield _stack(alike)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device; to a GPU from page-locked memory, so that nobody waits for what the GPU has still to do."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _stack(groups: list[tuple[np.ndarray, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*groups, strict=True))

"""Arrays that are made once and kept in a folder; and decoded images in one file, which all processes share."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock

from agmm.data import image_files
from agmm.data.split import OnDemand
from agmm.host import atomic_files

MOST = 0.5  # share of memory and of free disk space that the file may take: a disk alone is slower than decoding
VERSION = 1


def array(folder: Path | None, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array of a ``.npy`` file, which one of the processes that want it makes; anew without a folder."""
    if folder is None:
        return make()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        return atomic_files.kept_array(folder / name, make)


def index(folder: Path | None, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the (H, W) uint8 values of a PNG file, made and written if there is no sound one, or no folder."""
    if folder is None:
        return make()
    try:
        return image_files.read_index(folder / name)
    except (FileNotFoundError, ValueError):
        values = make()
    folder.mkdir(parents=True, exist_ok=True)
    image_files.write_index(folder / name, values)
    return values


def keep(images: OnDemand, cache: Path, report: Callable[[str], None] = print) -> OnDemand:
    """Return the same images from a file in ``cache`` that holds them decoded, which is written now if it is not there.

    The keys of ``images`` are paths, read by `agmm.data.image_files.read_image`. The file's name follows from the
    names, sizes and times of all of them, so it is never stale; a deleted or damaged one costs time, not a run. Several
    processes that want it write it once. ``report`` receives a sentence where the images are left as they are: they do
    not fit, or the file cannot be written.
    """
    try:
        stats = [(path, path.stat()) for path in images.keys]
        described = [VERSION, PIL.__version__, *([str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats)]
        file = cache / f"decoded-{atomic_files.digest(described)}.bin"
        sizes = [image_files.read_size(path) for path in images.keys]
        starts = np.cumsum([0, *(3 * height * width for height, width in sizes)]).tolist()
        kept = OnDemand(partial(_read, file), list(zip(images.keys, sizes, starts, strict=False)))
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists() or file.stat().st_size != starts[-1]:
                if (problem := _too_large(starts[-1], cache)) is not None:
                    report(problem)
                    return images
                _write(file, images)
    except OSError as error:
        report(f"images are decoded again and again, as {cache} cannot keep them decoded ({error.strerror or error})")
        return images
    return kept


def _too_large(size: int, cache: Path) -> str | None:
    import torch  # here, so that processes that only read and write masks start fast

    from agmm.host import machine

    for free, where in (
        (machine.free_memory(torch.device("cpu")), "memory"),
        (shutil.disk_usage(cache).free, f"free space of {cache}"),
    ):
        if size > MOST * free:
            return f"images are not kept decoded: they take {size / 1e9:.1f} GB, more than half of the {where}"
    return None


def _write(file: Path, images: OnDemand) -> None:
    with atomic_files.writing(file) as target, ThreadPoolExecutor() as threads:
        for start in range(0, len(images), 64):  # the threads must not run ahead of the disk
            for image in threads.map(images.read, images.keys[start : start + 64]):
                target.write(image.tobytes())


def _read(file: Path, key: tuple[Path, tuple[int, int], int]) -> np.ndarray:
    """Read one image, of which only the rows that are looked at are read; from its own file if need be."""
    path, size, start = key
    try:
        return np.asarray(np.memmap(file, np.uint8, "r", start, (*size, 3)))
    except (OSError, ValueError):
        return image_files.read_image(path)

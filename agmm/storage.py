"""Files that are either complete or absent, and one sentence when the disk says no."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run again, everything finished so far is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, everything finished so far is kept",
    errno.EROFS: "it is read-only; choose another folder with {option}",
    errno.EACCES: "permission denied; choose another folder with {option}",
    errno.EPERM: "operation not permitted; choose another folder with {option}",
}


class StorageError(RuntimeError):
    """A folder cannot be written; the message says which and what to do."""


@contextmanager
def writable(folder: Path, option: str = "--results") -> Iterator[None]:
    """Make ``folder`` and turn the operating system's refusals inside the block into a `StorageError`.

    ``option`` of the command line is what chooses the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise StorageError(f"cannot write to {folder}: {_REMEDIES[error.errno].format(option=option)}") from error


def write(path: Path, data: bytes) -> None:
    """Write a temporary file beside ``path``, then move it there in one step.

    Callers serialize in memory: libraries that write files themselves hide a full disk behind errors of their own.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write` in UTF-8."""
    write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented JSON; NaN is refused as no JSON reader must accept it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Atomic ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write(path, buffer.getvalue())


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file, made and written there first if there is no sound one."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        array = make()
    write_array(path, array)
    return array


def digest(described: Any, sort_keys: bool = False) -> str:
    """Ten hexadecimal digits of what a file was made from."""
    return hashlib.sha256(json.dumps(described, sort_keys=sort_keys).encode()).hexdigest()[:10]

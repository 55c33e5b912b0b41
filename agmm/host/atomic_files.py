"""Files that are either complete or absent, and one sentence when the disk says no."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run again, everything finished so far is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, everything finished so far is kept",
    errno.EEXIST: "a file of this name is in the way; choose another folder with {option}",
    errno.ENOTDIR: "a file is in the way; choose another folder with {option}",
    errno.EROFS: "it is read-only; choose another folder with {option}",
    errno.EACCES: "permission denied; choose another folder with {option}",
    errno.EPERM: "operation not permitted; choose another folder with {option}",
    errno.ENOLCK: "its file system gives no locks; choose another folder with {option}",
    errno.EOPNOTSUPP: "its file system gives no locks; choose another folder with {option}",
}

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"
_TEMPORARY = re.compile(r"\.tmp-(?P<host>[A-Za-z0-9]+)-(?P<pid>\d+)-.+")
_FORGOTTEN = 24 * 3600  # seconds; no other machine takes so long to write a file


class StorageError(RuntimeError):
    """Raised for a folder that cannot be written; the message says which and what to do."""


@contextmanager
def writable(folder: Path, option: str = "--results") -> Iterator[None]:
    """Make ``folder``, which ``option`` chooses, and turn the system's refusals in the block into a `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise StorageError(f"cannot write to {folder}: {_REMEDIES[error.errno].format(option=option)}") from error


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file beside ``path``, and move it there in one step after the block, unless that failed."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with writing(path) as file:
        file.write(data)


def save(path: Path, serialize: Callable[[BinaryIO], object]) -> None:
    """Write like `write` what a library puts into a file; in memory, as libraries hide a full disk behind errors."""
    buffer = io.BytesIO()
    serialize(buffer)
    write(path, buffer.getvalue())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file for a library that writes itself and more than once, and move it to ``path`` after the block.

    After an exception it is moved as well, as half a notebook shows what went wrong.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
    finally:
        if temporary.exists():
            os.replace(temporary, path)


def temporary_beside(path: Path) -> Path:
    """Return where a file is written before it is moved to ``path``; other processes and machines write elsewhere."""
    return path.with_name(f".tmp-{_HOST}-{os.getpid()}-{path.name}")


def tidy(folder: Path) -> list[Path]:
    """Remove what processes that were killed while they wrote have left in a folder and below; returns the files.

    A process of another machine cannot be asked whether it lives, so its files are left alone for a day.
    """
    removed = []
    for path in sorted(folder.rglob(".tmp-*")):
        if (name := _TEMPORARY.fullmatch(path.name)) and _abandoned(path, name["host"], int(name["pid"])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _abandoned(path: Path, host: str, pid: int) -> bool:
    try:
        if host != _HOST:
            return time.time() - path.stat().st_mtime > _FORGOTTEN
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (PermissionError, OverflowError):
        return False
    return pid == os.getpid()  # as in a container, where the first process always has the same number


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 like `write`."""
    write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON like `write`; NaN is refused, as no JSON reader must accept it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in a file, made and written first if there is no sound one; nothing in the file is executed."""
    with contextlib.suppress(Exception):  # a damaged file may fail anywhere in the parser
        array = np.load(path, allow_pickle=False)
        if isinstance(array, np.ndarray):  # and no archive of several
            return array
    array = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, lambda file: np.save(file, array))
    return array


def one_line(error: BaseException) -> str:
    """Return what an error of a library says in one line, for a place within a sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def digest(described: Any, sort_keys: bool = False) -> str:
    """Return ten hexadecimal digits of what a file was made from."""
    return hashlib.sha256(json.dumps(described, sort_keys=sort_keys).encode()).hexdigest()[:10]

"""Storage: files are complete or absent, and a full disk is a sentence."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from agmm.host import atomic_files
from tests.faults import corpus


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.write_text(tmp_path / "kept.txt", "before")
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    sentence = f"cannot write to {tmp_path}: the disk is full; free some space"
    with pytest.raises(atomic_files.StorageError, match=sentence), atomic_files.writable(tmp_path):
        atomic_files.write_text(tmp_path / "kept.txt", "after")
    assert (tmp_path / "kept.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_other_errors_are_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_files.writable(tmp_path):
        (tmp_path / "absent").read_text()


def test_json_is_readable_or_refused(tmp_path: Path) -> None:
    atomic_files.write_json(tmp_path / "a.json", {"a": [1, None, "ä"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None, "ä"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_files.write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None, "ä"]}


def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = atomic_files.temporary_beside(tmp_path / "a.json").name
    below = tmp_path / "runs" / "abc"
    below.mkdir(parents=True)
    host = mine.split("-")[1]
    old, fresh = below / ".tmp-elsewhere-1-a.json", below / ".tmp-elsewhere-2-a.json"
    removed = [below / f".tmp-{host}-{dead.pid}-a.json", tmp_path / mine, old]
    kept = [below / f".tmp-{host}-{alive.pid}-a.json", fresh, below / ".hidden", below / "a.json"]
    for path in removed + kept:
        path.touch()
    os.utime(old, (0, 0))
    with alive:  # ends with its input
        assert sorted(atomic_files.tidy(tmp_path)) == sorted(removed)
    assert all(path.exists() for path in kept)


ARCHIVE = corpus.archive({"a.npy": corpus.array(np.ones(3))})
PICKLE = corpus.array(np.array([corpus.Touch()], object), pickled=True)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"noise" * 9, corpus.declared("(10**15,)"), PICKLE, ARCHIVE])
def test_a_damaged_array_is_made_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache" / "a.npy"
    path.parent.mkdir()
    path.write_bytes(content)
    for _ in range(2):
        assert atomic_files.kept_array(path, lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert not Path(corpus.Touch.path).exists()


def test_half_a_file_is_kept_after_an_exception_but_never_seen_before(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("before")
    with contextlib.suppress(RuntimeError), atomic_files.replacing(tmp_path / "a.ipynb") as temporary:
        temporary.write_text("half")
        assert (tmp_path / "a.ipynb").read_text() == "before"
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.ipynb": "half"}

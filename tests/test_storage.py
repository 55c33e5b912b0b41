"""Storage: files are complete or absent, and a full disk is a sentence."""

import errno
import json
import os
from pathlib import Path

import pytest

from agmm import storage


def _full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(tmp_path / "kept.txt", "before")
    monkeypatch.setattr(storage.os, "fsync", _full_disk)
    with (
        pytest.raises(storage.StorageError, match=f"cannot write to {tmp_path}: the disk is full; free some space"),
        storage.writable(tmp_path),
    ):
        storage.write_text(tmp_path / "kept.txt", "after")
    assert (tmp_path / "kept.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_other_errors_are_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage.writable(tmp_path):
        (tmp_path / "absent").read_text()


def test_json_is_readable_or_refused(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"a": [1, None, "ä"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None, "ä"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None, "ä"]}

"""Decoded images in one file: the same pixels, never stale, and never a reason for a run to end."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agmm.data import disk_cache, image_files
from agmm.data.split import OnDemand
from agmm.host import machine


@pytest.fixture
def images(tmp_path: Path) -> OnDemand:
    """JPEGs and a PNG of different sizes."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg")]
    for path, size in zip(paths, ((20, 30), (17, 9), (40, 41)), strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return OnDemand(image_files.read_image, paths)


def kept(images: OnDemand, folder: Path) -> tuple[OnDemand, list[str]]:
    said: list[str] = []
    return disk_cache.keep(images, folder / "cache", said.append), said


def same(found: OnDemand, expected: OnDemand) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def test_images_are_decoded_once(images: OnDemand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, said = kept(images, tmp_path)
    expected = list(images)
    monkeypatch.setattr(image_files, "read_image", lambda path: pytest.fail("decoded again"))
    again, _ = kept(images, tmp_path)
    for found in (first, again, pickle.loads(pickle.dumps(again))):
        assert all(map(np.array_equal, found, expected))
    np.testing.assert_array_equal(again[1:][0], expected[1])
    assert said == []
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".bin", ".lock"]


def test_a_changed_file_is_read_again(images: OnDemand, tmp_path: Path) -> None:
    before = kept(images, tmp_path)[0]
    path = images.keys[1]
    stat = path.stat()
    Image.fromarray(255 - images[1]).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = kept(images, tmp_path)[0]
    assert same(after, images)
    assert not same(before, images)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"short"), lambda file: file.unlink()])
def test_a_damaged_or_deleted_file_costs_time_only(images, tmp_path, damage):
    found = kept(images, tmp_path)[0]
    damage(next((tmp_path / "cache").glob("*.bin")))
    assert same(found, images)
    assert same(kept(images, tmp_path)[0], images)
    assert next((tmp_path / "cache").glob("*.bin")).stat().st_size == 3 * (20 * 30 + 17 * 9 + 40 * 41)


def test_a_full_disk_costs_time_only(images: OnDemand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found, said = kept(images, tmp_path)
    assert found is images
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_what_does_not_fit_is_left_on_disk(images: OnDemand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * (20 * 30 + 17 * 9 + 40 * 41)
    for free, fits in ((2 * size, True), (2 * size - 1, False)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        for module, name, value in ((machine, "free_memory", free), (shutil, "disk_usage", usage)):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, lambda _, value=value: value)
                found, said = kept(images, tmp_path / f"{name}{free}")
            assert (found is not images, said == []) == (fits, fits)


def test_an_undecodable_image_is_named(images: OnDemand, tmp_path: Path) -> None:
    images.keys[2].write_bytes(images.keys[2].read_bytes()[:400])
    with pytest.raises(ValueError, match=r"c\.jpg: cannot be decoded"):
        kept(images, tmp_path)
    assert not list((tmp_path / "cache").glob(".*"))

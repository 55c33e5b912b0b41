"""Reading images: ahead, in order, by threads, and decoded once into a file that is never stale nor a reason to end."""

import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from agmm.data import disk_cache, image_files
from agmm.data.split import OnDemand
from agmm.evaluation import predict
from agmm.host import machine

CPU = torch.device("cpu")


def slow(key: int) -> np.ndarray:
    """Later items are ready sooner, so that order is not kept by accident."""
    time.sleep(0.002 * (key % 3))
    return np.full((2 + key % 2, 3), key)


@pytest.mark.parametrize("readers", [0, 1, 3])
def test_items_come_in_order_and_are_read_once(readers: int) -> None:
    read = Mock(side_effect=slow)
    images, labels = OnDemand(read, range(17)), OnDemand(slow, range(100, 117))
    items = list(predict.ahead(images, labels, readers=readers))
    assert [(int(image[0, 0]), int(label[0, 0])) for image, label in items] == [(i, 100 + i) for i in range(17)]
    assert sorted(call.args[0] for call in read.call_args_list) == list(range(17))


def test_threads_read_while_the_caller_works_but_not_without_end() -> None:
    started: list[int] = []
    names: set[str] = set()

    def recorded(key: int) -> np.ndarray:
        started.append(key)
        names.add(threading.current_thread().name)
        return np.zeros(1)

    items = predict.ahead(OnDemand(recorded, range(100)), readers=2)
    next(items)
    deadline = time.monotonic() + 10
    while len(started) < 5:
        assert time.monotonic() < deadline, "nothing is read before it is asked for"
        time.sleep(0.001)
    time.sleep(0.02)
    assert sorted(started) == [0, 1, 2, 3, 4]
    assert threading.current_thread().name not in names
    items.close()
    assert not any(thread.name in names for thread in threading.enumerate())


def test_without_readers_an_item_is_read_when_it_is_asked_for() -> None:
    read = Mock(return_value=np.zeros(1))
    next(predict.ahead(OnDemand(read, range(5)), readers=0))
    read.assert_called_once_with(0)


@pytest.mark.parametrize("readers", [0, 2])
def test_a_bad_file_is_reported_in_its_turn(readers: int) -> None:
    def read(key: int) -> np.ndarray:
        if key == 3:
            raise ValueError("3.png: cannot be decoded")
        return np.full(1, key)

    items = predict.ahead(OnDemand(read, range(9)), readers=readers)
    assert [int(next(items)[0][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3.png"):
        next(items)


@pytest.mark.parametrize("readers", [0, 2])
def test_lengths_must_agree(readers: int) -> None:
    with pytest.raises(ValueError, match="4 images cannot share 3 masks"):
        next(predict.ahead(np.zeros((4, 1)), [np.zeros(1)] * 3, readers=readers))


@pytest.mark.parametrize("readers", [0, 3])
def test_batches_hold_arrays_of_one_size(readers: int) -> None:
    images, labels = OnDemand(slow, range(9)), OnDemand(slow, range(9))
    found = list(predict.batches(images, labels, batch_size=2, readers=readers))
    assert [part[:, 0, 0].tolist() for part, _ in found] == [[0, 2], [1, 3], [4, 6], [5, 7], [8]]
    assert all(torch.equal(image, label) for image, label in found)


def test_a_cpu_gets_no_readers_and_a_gpu_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 24)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert predict.readers("cpu") == predict.readers(CPU) == 0
    assert predict.readers("cuda:1") == 6
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert predict.readers(torch.device("cuda")) == predict.MOST_READERS


@pytest.fixture
def images(tmp_path: Path) -> OnDemand:
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

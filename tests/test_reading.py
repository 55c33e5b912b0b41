"""Reading ahead: the same items in the same order, whoever reads them; and what goes wrong does so in its turn."""

import threading
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from agmm.data.split import OnDemand
from agmm.evaluation import read_ahead
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
    items = list(read_ahead.ahead(images, labels, readers=readers))
    assert [(int(image[0, 0]), int(label[0, 0])) for image, label in items] == [(i, 100 + i) for i in range(17)]
    assert sorted(call.args[0] for call in read.call_args_list) == list(range(17))


def test_threads_read_while_the_caller_works_but_not_without_end() -> None:
    started: list[int] = []
    names: set[str] = set()

    def recorded(key: int) -> np.ndarray:
        started.append(key)
        names.add(threading.current_thread().name)
        return np.zeros(1)

    items = read_ahead.ahead(OnDemand(recorded, range(100)), readers=2)
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
    next(read_ahead.ahead(OnDemand(read, range(5)), readers=0))
    read.assert_called_once_with(0)


@pytest.mark.parametrize("readers", [0, 2])
def test_a_bad_file_is_reported_in_its_turn(readers: int) -> None:
    def read(key: int) -> np.ndarray:
        if key == 3:
            raise ValueError("3.png: cannot be decoded")
        return np.full(1, key)

    items = read_ahead.ahead(OnDemand(read, range(9)), readers=readers)
    assert [int(next(items)[0][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3.png"):
        next(items)


@pytest.mark.parametrize("readers", [0, 2])
def test_lengths_must_agree(readers: int) -> None:
    with pytest.raises(ValueError, match="4 images cannot share 3 masks"):
        next(read_ahead.ahead(np.zeros((4, 1)), [np.zeros(1)] * 3, readers=readers))


@pytest.mark.parametrize("readers", [0, 3])
def test_batches_hold_arrays_of_one_size(readers: int) -> None:
    images, labels = OnDemand(slow, range(9)), OnDemand(slow, range(9))
    found = list(read_ahead.batches(images, labels, batch_size=2, readers=readers))
    assert [part[:, 0, 0].tolist() for part, _ in found] == [[0, 2], [1, 3], [4, 6], [5, 7], [8]]
    assert all(torch.equal(image, label) for image, label in found)


def test_a_cpu_gets_no_readers_and_a_gpu_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 24)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert read_ahead.readers("cpu") == read_ahead.readers(CPU) == 0
    assert read_ahead.readers("cuda:1") == 6
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert read_ahead.readers(torch.device("cuda")) == read_ahead.MOST_READERS

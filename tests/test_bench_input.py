"""The benchmark of reading, at the shapes of a test."""

import pytest

from agmm.tools.bench import input
from agmm.tools.bench.figure import Setting


def test_every_way_of_reading_is_set_beside_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(functions, setting):
        for function in functions.values():
            function()
        # Times of 2, 3, 4 and 5 seconds, then half of them twice.
        return {name: [2.0 + n, 1 + n / 2, 1 + n / 2] for n, name in enumerate(functions)}

    monkeypatch.setattr(input, "in_turn", in_turn)
    figures = list(input.figures(Setting(repeats=3, small=True)))
    assert [figure.case for figure in figures] == [
        f"{dataset} at 33, 1 process, {how}"
        for dataset in ("VOC", "Cityscapes")
        for how in ("from files", "decoded images kept", "on the device")
    ]
    for figure, slower in zip(figures, (3, 4, 5) * 2, strict=True):
        assert figure.against_value == 2 / 1  # images of a step by its median time
        assert figure.value == pytest.approx(4 / (slower / 2))  # images of an epoch
        assert figure.ratio == pytest.approx(2 / slower * 4 / 2)

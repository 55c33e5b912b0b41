"""The benchmark of reading, at the shapes of a test."""

from agmm.bench import input
from agmm.bench.figure import Setting


def test_every_way_of_reading_is_set_beside_the_network() -> None:
    figures = list(input.figures(Setting(repeats=2, small=True)))
    assert [figure.case for figure in figures] == [
        f"{dataset} at 33, 1 process, {how}"
        for dataset in ("VOC", "Cityscapes")
        for how in ("from files", "decoded images kept", "on the device")
    ]
    for figure in figures:
        assert figure.value > 0
        assert 0.2 < figure.ratio / (figure.value / figure.against_value) < 5  # medians of other quotients

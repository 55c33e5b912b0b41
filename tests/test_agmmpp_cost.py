"""Table 11 of AGMM++: operations and measurements."""

import pytest

from agmm.papers.agmmpp import claims
from agmm.training.presets import PRESETS


def test_operations_follow_the_printed_order():
    frame = claims.operations().set_index("method")
    assert frame.loc["Baseline", "gmacs"] == pytest.approx(83.2, abs=0.06)  # as printed
    assert frame.loc["Baseline", "gmacs"] < frame.loc["AGMM++", "gmacs"] < frame.loc["AGMM", "gmacs"]
    assert 0 < frame.loc["AGMM++", "over_baseline"] < 0.8 * frame.loc["AGMM", "over_baseline"]
    assert frame["published"].to_list() == [83.2, 117.5, 96.3]
    assert frame["published_over_baseline"].to_list() == pytest.approx([0, 34.3, 13.1])


def test_steps_of_all_methods_are_measured():
    frame = claims.training_steps(PRESETS["smoke"], repeats=1).set_index("method")
    assert list(frame.index) == ["Baseline", "AGMM", "AGMM++"]
    assert frame.loc["Baseline", "ratio"] == 1
    assert (frame["milliseconds"] > 0).all()
    # The mixture keeps at least the scores of three classes for 16 images of 64 x 64 pixels.
    least = 16 * 3 * 64 * 64 * 4 / 2**20
    assert (frame["held_mb"][1:] - frame.loc["Baseline", "held_mb"] > least).all()

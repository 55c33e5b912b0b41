"""The loop that testing is timed beside, its equality with `agmm.evaluation`, and the figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics

from agmm import evaluation
from agmm.codes import VOID
from agmm.tools.bench import evaluation as bench
from agmm.tools.bench.figure import Figure, Setting

CASES = [
    *bench.SMALL,
    bench.Case("tiles of mirrored views", "small", 5, 2, 33, 40, scales=(0.75, 1.25), flip=True, tile=23),
    bench.Case("views without mirror images", "small", 5, 2, 20, 17, scales=(0.5, 2.0)),
]


@pytest.mark.parametrize("pixels", [1, 3000, evaluation.PIXELS])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_predictions_and_counts_equal_those_of_the_loop(case: bench.Case, pixels: int) -> None:
    """However many views and tiles are predicted together: no pixel differs that is not a tie in float32."""
    net, (images, truths) = bench.network(case, "cpu"), bench.data(case)
    truths[:, :3] = VOID
    options = {"scales": case.scales, "flip": case.flip, "tile": case.tile}
    maps, expected = bench.one_by_one(net, images, truths, case.num_classes, device="cpu", **options)
    assert len(np.unique(maps)) >= 3
    protocol = evaluation.Protocol(**options, pixels=pixels)
    probabilities = evaluation.predictor(net, protocol)(evaluation.to_input(images))
    second, best = probabilities.sort(dim=1).values[:, -2:].unbind(1)
    differs = evaluation.best_class(probabilities).numpy() != maps
    assert ((best - second)[torch.from_numpy(differs)] < 1e-5).all()
    assert differs.mean() <= 1e-4
    confusion = evaluation.evaluate(net, images, truths, case.num_classes, protocol, batch_size=2, device="cpu")
    assert np.abs(confusion.numpy() - expected).sum() <= 2 * differs.sum()


def test_the_loop_counts_as_sklearn_does() -> None:
    case = bench.SMALL[0]
    images, truths = bench.data(case)
    truths[:, 5:9] = VOID
    with torch.no_grad():
        maps, confusion = bench.one_by_one(bench.network(case, "cpu"), images, truths, case.num_classes, device="cpu")
    counted = truths != VOID
    expected = metrics.confusion_matrix(truths[counted], maps[counted], labels=range(case.num_classes))
    np.testing.assert_array_equal(confusion, expected)


def test_figures_of_every_case() -> None:
    figures = list(bench.figures(Setting(repeats=2, small=True)))
    assert [figure.target for figure in figures] == [">= 5", "", "<= 1"] * 3
    for speed, limit, difference in zip(figures[::3], figures[1::3], figures[2::3], strict=True):
        assert speed.value > 0
        assert speed.ratio > 0
        assert speed.against == limit.against == "one view or tile at a time"
        assert difference.met


def test_a_difference_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "best_class", lambda maps: maps.min(dim=1).indices)
    monkeypatch.setattr(bench, "SMALL", bench.SMALL[:1])
    *_, difference = bench.figures(Setting(repeats=1, small=True))
    assert isinstance(difference, Figure)
    assert difference.met is False
    assert difference.value > 5e5


def test_forward_passes_repeat_what_a_test_does() -> None:
    case = replace(bench.SMALL[2], images=2)
    net, (images, truths) = bench.network(case, "cpu"), bench.data(case)
    calls: list[tuple[int, ...]] = []
    net.register_forward_pre_hook(lambda module, arguments: calls.append(tuple(arguments[0].shape)))

    def evaluate() -> object:
        return evaluation.evaluate(net, images, truths, case.num_classes, case.protocol, batch_size=2, device="cpu")

    with torch.no_grad():
        passes = bench.forward_passes(net, evaluate)
        during, calls[:] = list(calls), []
        passes()
    assert calls == during
    tiles = 2 * len(evaluation.tile_positions(case.height, case.width, case.tile or 0))
    assert sum(shape[0] for shape in calls) == tiles

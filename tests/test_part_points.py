"""Part points: three zones by Gaussian heat maps, against their definition, and what they cover of embedded people."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm import labels
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.split import Split
from agmm.data.synthetic import people


def scene(seed, size=(24, 30)):
    """Mask and instances: people of a few rectangles each, some of them void, over background."""
    rng = np.random.default_rng(seed)
    mask, instances = np.zeros((2, *size), np.uint8)
    for number in range(1, 1 + rng.integers(1, 4)):
        top, left = rng.integers(0, 12, 2)
        for _ in range(rng.integers(1, 5)):
            window = tuple(
                slice(start, start + rng.integers(1, 9)) for start in (top + rng.integers(6), left + rng.integers(9))
            )
            mask[window], instances[window] = rng.integers(1, 6), number
    void = rng.random(size) < 0.03
    mask[void], instances[void] = VOID, rng.choice([0, VOID])
    return mask, instances


def by_definition(mask, instances, std, high, low, background=0):
    """Heat of every point at every pixel; of several points that label a pixel the nearest, of these the first."""
    points = []
    for number in sorted(set(instances.ravel().tolist()) - {0, VOID}):
        rows, columns = np.nonzero(instances == number)
        size = math.sqrt((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        for code in sorted(set(mask[rows, columns].tolist()) - {background, UNLABELED, VOID}):
            own = [(y, x) for y, x in zip(rows.tolist(), columns.tolist(), strict=True) if mask[y, x] == code]
            mean = Fraction(sum(y for y, _ in own), len(own)), Fraction(sum(x for _, x in own), len(own))
            middle = min(own, key=lambda p: ((p[0] - mean[0]) ** 2 + (p[1] - mean[1]) ** 2, p))
            points.append((middle, code, std * size))
    result = np.full(mask.shape, UNLABELED if background is None else background, int)
    for y, x in np.ndindex(mask.shape):
        distances = [((y - py) ** 2 + (x - px) ** 2, number) for number, ((py, px), _, _) in enumerate(points)]
        heats = [math.exp(-d / (2 * points[number][2] ** 2)) for d, number in distances]
        labeling = [place for place, heat in zip(distances, heats, strict=True) if heat >= high - 1e-9]
        if mask[y, x] == VOID:
            result[y, x] = VOID
        elif labeling:
            result[y, x] = points[min(labeling)[1]][1]
        elif any(heat >= low for heat in heats):
            result[y, x] = UNLABELED
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(0.06, 0.9, 0.02), (0.15, 0.9, 0.3), (0.3, 1.0, 0.5), (0.2, 0.5, 0.4)]))
def test_zones_equal_their_definition(seed, constants):
    mask, instances = scene(seed)
    options = dict(zip(("std", "high", "low"), constants, strict=True))
    for background in (0, None):
        found = labels.simulate(
            "part_points", mask, np.random.default_rng(0), instances=instances, background=background, **options
        )
        np.testing.assert_array_equal(found, by_definition(mask, instances, *constants, background))
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0}, "need std > 0"),
        ({"low": 0.9}, "0 < low < high <= 1, not 0.06, 0.9 and 0.9"),
        ({"low": 0}, "0 < low < high"),
        ({"high": 1.1}, "high <= 1"),
        ({"instances": None}, "this mask has no instances; choose labels='points'"),
    ],
)
def test_bad_options(options, message):
    mask, instances = scene(0)
    with pytest.raises(ValueError, match=message):
        labels.simulate("part_points", mask, np.random.default_rng(0), **{"instances": instances, **options})


def test_zones_of_the_embedded_people(tmp_path):
    """Nearly all that is labeled is right, most of the background and little of the people is labeled."""
    split = people.PEOPLE.make("train", 30)
    sparse = sets.weak_labels(split, "part_points", {}, 0, tmp_path)
    assert isinstance(sparse, np.ndarray)
    part, background = (sparse > 0) & (sparse < UNLABELED), sparse == 0
    assert 100 < part.sum() / len(split) < 170
    assert (sparse == split.truth)[part].mean() > 0.95
    assert 0.3 < background.mean() < 0.5
    assert (split.truth == 0)[background].mean() > 0.99
    assert labels.coverage(sparse, split.truth, 15).pair_share > 0.99
    np.testing.assert_array_equal(sets.weak_labels(split, "part_points", {}, 1, tmp_path), sparse)
    other = sets.weak_labels(split, "part_points", {"high": 0.7}, 0, tmp_path)
    assert (np.asarray(other) < UNLABELED).sum() > (sparse < UNLABELED).sum()


def test_images_without_people_are_background():
    images, truth = np.zeros((1, 9, 9, 3), np.uint8), np.zeros((1, 9, 9), np.uint8)
    split = Split("own", ("background", "a"), ("x",), images, truth, 0, instances=truth)
    assert (np.asarray(sets.sparse_labels(split, "part_points", {}, 0)) == 0).all()

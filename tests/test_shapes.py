"""The embedded shapes: the same bytes under every version, and of the documented statistics."""

import colorsys
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm.data.synthetic import recipe, shapes


@pytest.fixture(scope="module")
def split():
    return shapes.SHAPES.make("train", 500)


def arrays(split):
    return np.asarray(split.images), np.asarray(split.truth), np.asarray(split.instances)


def test_crowds_hold_more_and_smaller_objects():
    made = shapes.CROWDS.make("train", 200)
    _, truth, instances = arrays(made)
    assert (made.dataset, made.class_names) == ("crowds", shapes.CLASS_NAMES)
    per_image = instances.reshape(len(made), -1).max(axis=1)
    assert per_image.max() == 6
    assert per_image.mean() > 3
    areas = [np.bincount(objects.ravel())[1:] for objects in instances]
    assert 150 < np.mean(np.concatenate(areas)) < 260
    np.testing.assert_array_equal(truth > 0, instances > 0)


def test_documented_statistics(split):
    """2.35 labels per image with one click per object and one on the background; objects cover about 21 %."""
    _, truth, instances = arrays(split)
    per_image = instances.reshape(len(split), -1).max(axis=1)
    assert 1.28 < per_image.mean() < 1.42
    assert set(per_image) == {1, 2, 3}
    assert 0.20 < (truth > 0).mean() < 0.235


def test_classes_are_balanced(split):
    _, truth, instances = arrays(split)
    classes = [truth[i][instances[i] == n][0] for i in range(len(split)) for n in range(1, instances[i].max() + 1)]
    share = np.bincount(classes, minlength=7) / len(classes)
    assert share[0] == 0
    assert ((share[1:] > 0.11) & (share[1:] < 0.23)).all()


def test_instances_agree_with_the_classes(split):
    _, truth, instances = arrays(split)
    np.testing.assert_array_equal(truth > 0, instances > 0)
    assert truth.max() == 6
    for classes, objects in zip(truth, instances, strict=True):
        for number in range(1, objects.max() + 1):
            assert len(np.unique(classes[objects == number])) == 1


def test_color_tells_the_class(split):
    """The median hue over all pixels of a class is k/6, whatever photograph lies below."""
    images, truth, _ = arrays(split)
    for k in range(1, 7):
        pixels = images[truth == k][::40] / 255
        hues = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels]
        offsets = [(hue - k / 6 + 0.5) % 1 - 0.5 for hue in hues]
        assert abs(np.median(offsets)) < 0.03, shapes.CLASS_NAMES[k]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([32, 64, 100]))
def test_objects_overlap_by_three_percent_at_most(seed, size):
    placed = shapes._layout(np.random.default_rng(seed), size, (1, 3), (0.22, 0.36))
    assert 1 <= len(placed) <= 3
    for later in range(len(placed)):
        mask = placed[later][1]
        shared = sum(
            bool(mask[y, x]) and any(earlier[y, x] for _, earlier in placed[:later])
            for y, x in zip(*mask.nonzero(), strict=True)
        )
        assert shared <= 0.03 * mask.sum()


@pytest.mark.parametrize(
    ("k", "area"),
    [
        (1, math.pi),
        (2, 1.6**2),
        (3, 3 * math.sqrt(3) / 4),
        (4, math.pi * (1 - 0.55**2)),
        (5, 2 * 2 * 0.6 - 0.6**2),
        (6, 10 * math.tan(math.pi / 10) / (3 - math.tan(math.pi / 10) ** 2)),
    ],
)
def test_areas_of_the_shapes(k, area):
    """Closed forms in units of the squared half side, at any rotation."""
    for angle in (0, 0.3, 2):
        mask = shapes._MASKS[k](*recipe.local_grid(400, 0.5, 0.5, 0.4, 0.4, angle))
        assert mask.mean() / 0.4**2 == pytest.approx(area, rel=0.01)


@given(st.integers(0, 2**32), st.integers(1, 6), st.tuples(*[st.floats(0, 1)] * 3))
@settings(max_examples=50, deadline=None)
def test_fill_stands_out(seed, k, below):
    rng = np.random.default_rng(seed)
    background = np.clip(below + 0.1 * rng.standard_normal((200, 3)), 0, 1)
    fill = shapes._fill(rng, k, 0.1 * rng.standard_normal((200, 3)), background)
    assert np.abs(fill - background).mean() > 0.2
    assert fill.min() >= 0
    assert fill.max() <= 1

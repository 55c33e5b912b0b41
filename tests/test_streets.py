"""The embedded streets: reproducible, in a sound perspective, with classes that color does not tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm import labels
from agmm.data import sets
from agmm.data.synthetic import streets
from agmm.data.synthetic.streets import CLASS_NAMES, PERSON, POLE, ROAD, SIDEWALK, SKY
from agmm.training import train
from agmm.training.presets import PRESETS

STREET = streets._Street(size=64, horizon=0.4, vanishing=0.55, camera=3, curbs=(-4, 3), walls=(-6, 5))


@pytest.fixture(scope="module")
def split():
    return streets.STREETS.make("train", 100)


def present(split):
    """(N, K): which classes an image holds."""
    return np.array([labels.image_classes(mask, split.num_classes) for mask in split.truth])


def test_nearly_every_image_holds_most_classes(split):
    found = present(split)
    assert found.sum(axis=1).min() >= 6
    assert 9 < found.sum(axis=1).mean() < 9.6
    assert found[:, [ROAD, SIDEWALK, SKY]].all()
    assert (found.mean(axis=0) > 0.35).all(), dict(zip(CLASS_NAMES, found.mean(axis=0), strict=True))


@pytest.mark.parametrize(("clicks", "share"), [(10, 0.50), (20, 0.65), (40, 0.79)])
def test_clicks_name_about_half_of_the_classes_and_more(split, clicks, share):
    sparse = sets.sparse_labels(split, "clicks", {"n": clicks}, seed=0)
    assert labels.coverage(sparse, split.truth, split.num_classes).pair_share == pytest.approx(share, abs=0.04)


def test_sky_is_above_the_horizon_and_ground_below(split):
    for mask in split.truth:
        ground = np.isin(mask, (ROAD, SIDEWALK)).any(axis=1).nonzero()[0]
        assert (mask == SKY).any(axis=1).nonzero()[0].max() < ground.min()
        assert 0.3 * 64 - 1 <= ground.min() <= 0.45 * 64 + 2
        assert (mask[-1] != SKY).all()


def test_road_widens_towards_the_camera_between_the_sidewalks(split):
    for mask in split.truth:
        width = (mask == ROAD).sum(axis=1)
        assert width[-8:].mean() > width[32:40].mean()
        for row in mask[32:]:
            columns = (row == ROAD).nonzero()[0]
            inside = row[columns.min() : columns.max()] if len(columns) else row[:0]
            assert (inside != SIDEWALK).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(26, 63), st.integers(0, 63))
def test_ground_facade_and_upright_plane_are_one_perspective(row, column):
    """The ground point that a pixel sees is the origin of the plane put up there, and the foot of a wall through it."""
    across, depth = STREET.ground()
    position, distance = across[row, column], depth[row, 0]
    right, above = STREET.upright(position, distance)
    assert abs(right[0, column]) < 1e-9
    assert abs(above[row, 0]) < 1e-9
    wall_depth, wall_above = STREET.facade(position)
    assert wall_depth[0, column] == pytest.approx(distance)
    assert abs(wall_above[row, column]) < 1e-9


def test_a_person_at_half_the_distance_is_four_times_as_large():
    def area(depth):
        street = replace(STREET, size=256)
        textures = np.zeros((1, 256, 256, 3))
        picture = streets._Picture(
            np.random.default_rng(0), textures, np.zeros((256, 256, 3)), np.zeros((256, 256), np.uint8)
        )
        streets._paint_person(picture, street, 0, depth)
        assert picture.truth.max() == PERSON
        return (picture.truth == PERSON).sum()

    assert area(6) / area(12) == pytest.approx(4, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_objects_stand_in_front_of_the_walls_and_inside_the_image(seed):
    rng = np.random.default_rng(seed)
    street = streets._lay_out(rng, 64)
    placed = list(streets._place_objects(rng, street))
    assert {streets.CAR, PERSON, POLE} & {kind for _, kind, _ in placed}
    for depth, _, position in placed:
        assert street.walls[0] < position < street.walls[1]
        assert 0.04 <= street.vanishing + position / depth <= 0.96


def test_color_does_not_tell_the_class(split):
    """Sorting held-out pixels by the nearest mean color of a class fails."""
    means = np.array([split.images[split.truth == k].mean(axis=0) for k in range(10)])
    test = streets.STREETS.make("test", 20)
    nearest = np.square(test.images[..., None, :] - means).sum(axis=-1).argmin(axis=-1)
    matrix = np.bincount((test.truth * 10.0 + nearest).astype(int).ravel(), minlength=100).reshape(10, 10)
    iou = np.diag(matrix) / (matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix))
    assert iou.mean() < 0.2


def test_a_run_on_streets(tmp_path):
    run = replace(
        PRESETS["smoke"].run,
        dataset="streets",
        init="scratch",
        train_images=8,
        test_images=4,
        batch_size=4,
        microbatch=4,
        epochs=1,
        augmentation="crop_flip",
        crop=64,
        labels="clicks",
        label_options=(("n", 10),),
    )
    result = train.run(run, results=tmp_path, device="cpu")
    assert len(result.iou) == 10
    assert result.details["labeled_pixels_per_image"] == 10

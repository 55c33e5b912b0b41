"""Simulated labels: what every form promises, checked against brute force, libraries and real masks."""

import hashlib
import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage import draw

from agmm import labels
from agmm.codes import UNLABELED, VOID
from agmm.labels import geometry
from tests.helpers import one_sentence, shared

SPARSE = [
    ("points", {}),
    ("points", {"placement": "center"}),
    ("points", {"placement": "random"}),
    ("points", {"placement": "inside", "width": 1, "background_points": 1}),
    ("points", {"placement": "uniform", "width": 2}),
    ("clicks", {"n": 20}),
    ("scribbles", {}),
    ("scribbles", {"length": 0.3, "width": 1}),
    ("scribbles", {"length": 0.0}),
    ("blocks", {"ratio": 0.1}),
    ("blocks", {"ratio": 0.5}),
    ("blocks", {"ratio": 0.2, "shape": "rect"}),
]
FORMS = [*SPARSE, ("boxes", {}), ("boxes", {"inner": 0.2, "jitter": 0.02}), ("full", {})]


def rng(seed: int = 0) -> np.random.Generator:
    return labels.generator(seed, "test", "image", "form")


def scene(seed: int, size: tuple[int, int] = (64, 64), objects: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random ellipses with void outlines over background: mask and instances."""
    random = np.random.default_rng(seed)
    mask, instances = np.zeros((2, *size), np.uint8)
    for number in range(1, objects + 1):
        center, radii = random.uniform(0, size), random.uniform(3, max(4, min(size) / 3), 2)
        angle = random.uniform(0, np.pi)
        outer = draw.ellipse(*center, *(radii + 1), shape=size, rotation=angle)
        inner = draw.ellipse(*center, *radii, shape=size, rotation=angle)
        mask[outer], instances[outer] = VOID, 0
        mask[inner], instances[inner] = random.integers(1, 5), number
    return mask, instances


@pytest.mark.parametrize(("form", "options"), SPARSE)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    background=st.sampled_from([0, None]),
    with_instances=st.booleans(),
)
def test_labels_agree_with_the_mask_and_spare_void(form, options, seed, size, background, with_instances):
    mask, instances = scene(seed, size)
    result = labels.simulate(
        form, mask, rng(seed), instances=instances if with_instances else None, background=background, **options
    )
    assert (result.dtype, result.shape) == (np.uint8, mask.shape)
    annotated = result != UNLABELED
    assert (mask[annotated] != VOID).all()
    np.testing.assert_array_equal(result[annotated], mask[annotated])


@pytest.mark.parametrize(("form", "options"), FORMS)
@pytest.mark.parametrize("code", [0, 3, UNLABELED, VOID])
def test_uniform_masks(form, options, code):
    for shape, background, number in product([(1, 1), (1, 40), (3, 2), (20, 20)], [0, None], [None, 0, 1]):
        instances = None if number is None else np.full(shape, number)
        mask = np.full(shape, code, np.uint8)
        result = labels.simulate(form, mask, rng(), instances=instances, background=background, **options)
        if form != "boxes":
            assert set(np.unique(result)) <= {code, UNLABELED}


@pytest.mark.parametrize(("form", "options"), FORMS)
def test_the_mask_is_left_alone_and_the_seed_decides(form, options):
    mask, _ = scene(1, (90, 90), objects=5)
    before = mask.copy()
    first, again, other = (labels.simulate(form, mask, rng(seed), **options) for seed in (0, 0, 1))
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(first, again)
    fixed = form in ("full", "boxes", "blocks") and "jitter" not in options and "shape" not in options
    assert (first == other).all() == fixed or options == {"placement": "center"}


def test_generator_is_the_documented_hash():
    digest = hashlib.blake2b(b"7|voc|2007_000032|points", digest_size=8).digest()
    expected = np.random.default_rng(int.from_bytes(digest, "big")).random(4)
    np.testing.assert_array_equal(labels.generator(7, "voc", "2007_000032", "points").random(4), expected)
    assert labels.generator(7, "voc", "2007_000032", "clicks").random() != expected[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "lines"}, "unknown label form 'lines'; choose one of points, clicks"),
        ({"mask": np.zeros((4, 4, 3), np.uint8)}, r"a mask is an \(H, W\) array of codes"),
        ({"mask": np.zeros((4, 4))}, "float64"),
        ({"mask": np.full((4, 4), 300)}, "codes 0 … 255"),
        ({"instances": np.zeros((2, 2), int)}, r"instances have shape \(2, 2\)"),
        ({"placement": "corner"}, "unknown placement 'corner'"),
        ({"width": 0}, "width is 0"),
        ({"form": "clicks", "n": -1}, "must not be negative"),
        ({"form": "scribbles", "length": 1.5}, "between 0 and 1"),
        ({"form": "blocks", "ratio": 0}, "above 0"),
        ({"form": "blocks", "shape": "star"}, "unknown shape of blocks 'star'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message):
    with one_sentence(ValueError, message):
        labels.simulate(**{"form": "points", "mask": np.ones((20, 20), np.uint8), "rng": rng(), **arguments})


def brute_force_depth(region: np.ndarray, edge_is_outside: bool = True) -> np.ndarray:
    padded = np.pad(region, 1, constant_values=not edge_is_outside)
    outside = np.argwhere(~padded) - 1
    depth = np.zeros(region.shape)
    depth[region] = cdist(np.argwhere(region), outside).min(axis=1)
    return depth


@pytest.mark.parametrize(("placement", "share"), [("random", 0.3), ("inside", 0.5), ("uniform", 0.0)])
def test_points_are_uniform_where_the_object_is_deep_enough(placement, share):
    mask = np.zeros((16, 14), np.uint8)
    mask[2:12, 3:14] = 1
    mask[2:5, 3:6] = 0
    depth = brute_force_depth(mask == 1, edge_is_outside=placement != "inside")
    allowed = (depth >= share * depth.max()) & (mask == 1)
    hits, generator = np.zeros(mask.shape), np.random.default_rng(0)
    for _ in range(10 * int(allowed.sum())):
        options = {"placement": placement, "width": 1, "background_points": 0}
        hits += labels.simulate("points", mask, generator, **options) == 1
    assert not hits[~allowed].any()
    assert np.square(hits[allowed] - 10).sum() / 10 < allowed.sum() + 5 * math.sqrt(2 * allowed.sum())  # chi square


def test_center_is_the_first_deepest_pixel():
    mask, _ = scene(5)
    result = labels.simulate("points", mask, rng(), placement="center", width=1, background_points=0)
    expected = np.full(mask.shape, UNLABELED)
    for code in range(1, 5):
        components, number = ndimage.label(mask == code)
        for component in (components == i for i in range(1, number + 1)):
            if component.sum() >= 32:
                expected.flat[brute_force_depth(component).argmax()] = code
    assert (expected != UNLABELED).any()
    np.testing.assert_array_equal(result, expected)


def test_human_clicks_scatter_around_the_center():
    mask = np.zeros((101, 101), np.uint8)
    mask[draw.disk((50, 50), 40.5)] = 1
    options = {"width": 1, "background_points": 0}
    found = [np.argwhere(labels.simulate("points", mask, rng(seed), **options) == 1)[0] for seed in range(400)]
    np.testing.assert_allclose(np.mean(found, axis=0), 50, atol=3)
    # A normal distribution of 0.35 times the radius, of which the disc cuts off 2 %.
    np.testing.assert_allclose(np.std(found, axis=0), 0.34 * 40.5, rtol=0.1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), placement=st.sampled_from(geometry.PLACEMENTS), width=st.sampled_from([1, 3]))
def test_every_instance_gets_exactly_one_disc(seed, placement, width):
    mask, instances = scene(seed)
    options = {"placement": placement, "width": width, "background_points": 1}
    result = labels.simulate("points", mask, rng(seed), instances=instances, **options)
    for number in np.unique(instances[instances > 0]):
        drawn = np.argwhere((result != UNLABELED) & (instances == number))
        assert 1 <= len(drawn) <= width**2
        assert np.ptp(drawn, axis=0).max() < width
    if width == 1:
        assert (result == 0).sum() == (mask == 0).any()


def test_large_components_get_a_point_and_small_ones_none():
    mask = np.zeros((300, 300), np.uint8)  # 0.0005 of the area is 45 pixels
    mask[10:15, 10:19] = 1
    mask[100:104, 100:111] = 1
    drawn = labels.simulate("points", mask, rng()) == 1
    assert drawn[10:15, 10:19].any()
    assert not drawn[100:104, 100:111].any()


def test_background_clicks_keep_their_distances():
    mask = np.zeros((64, 64), np.uint8)
    for number, corner in enumerate([(2, 2), (2, 40), (40, 2), (40, 40)]):
        mask[corner[0] : corner[0] + 9, corner[1] : corner[1] + 9] = 1 + number
    depth = brute_force_depth(mask == 0)
    for seed in range(20):
        result = labels.simulate("points", mask, rng(seed), width=1)
        rows = np.argwhere(result == 0)
        assert len(rows) == 3
        assert all(depth[tuple(row)] >= 5 for row in rows)
        assert min(np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[:i]) >= 16
        assert result.flat[depth.argmax()] == 0
    for count in (0, 1, 7):
        drawn = labels.simulate("points", mask, rng(), width=1, background_points=count)
        assert (drawn == 0).sum() == count


def test_without_background_every_class_is_clicked():
    mask = np.repeat(np.arange(4, dtype=np.uint8), 10)[:, None] * np.ones((1, 30), np.uint8)
    result = labels.simulate("points", mask, rng(), background=None, width=1)
    assert np.bincount(result[result != UNLABELED], minlength=4).tolist() == [1, 1, 1, 1]


def test_instances_are_cut_to_their_class_and_void_is_none():
    mask = np.zeros((30, 30), np.uint8)
    mask[5:20, 5:20], mask[5:7, 5:20], mask[25:, 25:] = 2, VOID, 3
    instances = np.zeros_like(mask)
    instances[3:22, 3:22], instances[25:, 25:] = 4, VOID
    options = {"instances": instances, "background_points": 0, "placement": "uniform"}
    for seed in range(10):
        drawn = labels.simulate("points", mask, rng(seed), **options)
        assert set(np.unique(drawn)) == {2, UNLABELED}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.integers(2, 40))
def test_clicks_are_nested_and_counted(seed, side):
    mask, _ = scene(seed, (side, side + 3))
    valid = int((mask != VOID).sum())
    numbers = (0, 4, 20, 50, 100)
    drawn = [labels.simulate("clicks", mask, rng(seed), n=n) != UNLABELED for n in numbers]
    assert [one.sum() for one in drawn] == [min(n, valid) for n in numbers]
    assert all(more[fewer].all() for fewer, more in pairwise(drawn))


def test_clicks_are_uniform():
    mask = np.zeros((5, 6), np.uint8)
    mask[0, 0] = VOID
    hits = sum((labels.simulate("clicks", mask, rng(seed), n=3) == 0).astype(int) for seed in range(3000))
    assert hits[0, 0] == 0
    expected = 3000 * 3 / 29
    assert np.square(hits.ravel()[1:] - expected).sum() / expected < 60  # chi square, 28 degrees of freedom


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.sampled_from([1, 2, 3]))
def test_scribble_lengths_are_nested_and_never_empty(seed, width):
    mask, instances = scene(seed)
    options = {"instances": instances, "width": width}
    lengths = (0.0, 0.3, 0.5, 0.8, 1.0)
    drawn = [labels.simulate("scribbles", mask, rng(seed), length=n, **options) != UNLABELED for n in lengths]
    assert all(longer[shorter].all() for shorter, longer in pairwise(drawn))
    assert all(drawn[0][instances == number].any() for number in np.unique(instances[instances > 0]))


def test_scribble_follows_the_middle_of_a_bar():
    mask = np.zeros((60, 200), np.uint8)
    mask[20:41, 10:190] = 3
    full = labels.simulate("scribbles", mask, rng()) == 3
    rows, columns = np.nonzero(full)
    assert ndimage.label(full, np.ones((3, 3)))[1] == 1
    assert abs(rows.mean() - 30) < 2
    # 80 % of a path that ends 3 pixels deep at the bar's ends, plus the width and some jitter
    assert 130 < np.ptp(columns) < 155
    assert 2.5 < full.sum() / np.ptp(columns) < 3.8
    for length in (0.8, 0.5, 0.3):
        part = np.nonzero(labels.simulate("scribbles", mask, rng(), length=length) == 3)[1]
        assert abs(np.ptp(part) / np.ptp(columns) - length) < 0.05


def test_stroke_is_the_set_of_pixels_near_the_path():
    path = np.array([[3.2, 4.1], [10.5, 20.0], [18.0, 6.4], [18.0, 6.4], [-4.0, -2.0]])
    for width in (1, 2, 3, 6):
        samples = np.concatenate([np.linspace(a, b, 4001) for a, b in pairwise(path)])
        expected = cdist(list(np.ndindex(20, 24)), samples).min(axis=1).reshape(20, 24) <= width / 2
        np.testing.assert_array_equal(geometry.stroke((20, 24), path, width), expected)
    assert geometry.stroke((9, 9), [np.array([4, 4])], 3)[3:6, 3:6].sum() == 9


def test_scribbles_label_a_few_percent_of_real_masks():
    paths = sorted(shared("data/voc_masks/SegmentationClassAug").glob("*.png"))[:6]
    masks = [np.array(Image.open(path)) for path in paths]
    found = labels.coverage([labels.simulate("scribbles", mask, rng(i)) for i, mask in enumerate(masks)], masks, 21)
    assert 0.01 < found.pixel_share < 0.04
    assert found.pair_share > 0.95


def test_blocks_are_the_innermost_pixels():
    mask, _ = scene(2, (40, 50))
    result = labels.simulate("blocks", mask, rng(), ratio=0.2)
    for code in range(5):
        components, number = ndimage.label(mask == code)
        for i in range(1, number + 1):
            component = components == i
            depth = brute_force_depth(component, edge_is_outside=False)
            count = math.ceil(0.2 * component.sum()) if component.sum() >= 64 else 0
            expected = np.zeros(mask.shape, bool)
            expected.flat[np.argsort(-depth.ravel(), kind="stable")[:count]] = True
            np.testing.assert_array_equal((result != UNLABELED) & component, expected)


def test_small_components_get_blocks_at_half_only():
    mask = np.zeros((30, 30), np.uint8)
    mask[4:11, 4:11] = 1
    shares = [(labels.simulate("blocks", mask, rng(), ratio=ratio) == 1).sum() for ratio in (0.1, 0.2, 0.5)]
    assert shares == [0, 0, 25]


def test_rectangular_blocks_fill_most_of_their_share():
    mask = np.zeros((60, 60), np.uint8)
    mask[:, 30:] = 1
    for seed in range(10):
        drawn = labels.simulate("blocks", mask, rng(seed), ratio=0.2, shape="rect")
        for code in (0, 1):
            assert 0.9 * 360 <= (drawn == code).sum() <= 360


def test_boxes_are_tight_and_small_ones_are_in_front():
    mask = np.zeros((50, 60), np.uint8)
    mask[draw.disk((25, 30), 20)] = 1
    mask[30:36, 40:45] = 2
    instances = (mask == 1) + 2 * (mask == 2)
    expected = np.zeros_like(mask)
    expected[6:45, 11:50], expected[30:36, 40:45] = 1, 2
    np.testing.assert_array_equal(labels.simulate("boxes", mask, rng(), instances=instances), expected)
    np.testing.assert_array_equal(labels.simulate("boxes", mask, rng()), expected)
    outside = labels.simulate("boxes", mask, rng(), background=None, instances=instances)
    np.testing.assert_array_equal(outside, np.where(expected == 0, UNLABELED, expected))


def test_box_i_keeps_the_central_fifth_of_each_side():
    mask = np.zeros((120, 100), np.uint8)
    mask[10:110, 20:70] = 5
    result = labels.simulate("boxes", mask, rng(), inner=0.2)
    expected = np.zeros_like(mask)
    expected[10:110, 20:70] = UNLABELED
    expected[50:70, 40:50] = 5
    np.testing.assert_array_equal(result, expected)


def test_close_components_share_a_box():
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 5:10], mask[5:15, 14:20] = 1, 1  # nearest pixels are 5 columns apart, 4 empty ones between them
    mask[25:35, 5:10], mask[25:35, 20:25] = 1, 1
    result = labels.simulate("boxes", mask, rng())
    assert (result[5:15, 5:20] == 1).all()
    assert (result[25:35, 10:20] == 0).all()


def test_jittered_boxes_move_by_a_share_of_their_sides():
    mask = np.zeros((300, 300), np.uint8)
    mask[50:250, 100:200] = 1
    edges = []
    for seed in range(100):
        drawn = labels.simulate("boxes", mask, rng(seed), jitter=0.02) == 1
        edges.append([np.flatnonzero(drawn.any(axis=axis))[[0, -1]] for axis in (1, 0)])
    np.testing.assert_allclose(np.std(edges, axis=0), [[4, 4], [2, 2]], rtol=0.2)


def test_tags_and_classes():
    mask = np.zeros((50, 40), np.uint8)
    mask[0, :2], mask[1, :1], mask[2, 0], mask[3, 0] = 2, 4, VOID, UNLABELED
    assert labels.image_tags(mask, 5).tolist() == [True, False, True, False, True]
    assert labels.image_tags(mask, 5, min_share=0.001).tolist() == [True, False, True, False, False]
    assert labels.image_classes(mask, 5).tolist() == [True, False, True, False, True]
    assert not labels.image_classes(np.full((3, 3), UNLABELED, np.uint8), 5).any()
    for function in (labels.image_tags, labels.image_classes):
        with pytest.raises(ValueError, match="code 4 is no class of 3"):
            function(mask, 3)


def test_coverage_counts():
    truth = [np.array([[0, 1], [1, VOID]], np.uint8), np.array([[2, 2], [0, 0]], np.uint8)]
    sparse = [np.array([[254, 1], [1, 254]], np.uint8), np.array([[2, 254], [0, 254]], np.uint8)]
    found = labels.coverage(sparse, truth, 4)
    assert (found.pixel_share, found.pixels_per_image, found.pair_share) == (0.5, 2.0, 0.75)
    assert found.class_pixels.tolist() == [1, 2, 1, 0]
    assert found.class_images.tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="at least one image"):
        labels.coverage([], [], 4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.15, 2), form=st.sampled_from(["points", "clicks", "full"]))
def test_moving_loses_no_class(seed, scale, form):
    mask, _ = scene(seed, (48, 40), objects=4)
    sparse = labels.simulate(form, mask, rng(seed))
    size = (round(48 * scale), round(40 * scale))
    moved, nearest = (labels.resize_labels(sparse, size, clicks) for clicks in ("move", "nearest"))
    assert moved.shape == size
    np.testing.assert_array_equal(nearest, Image.fromarray(sparse).resize(size[::-1], Image.NEAREST))
    np.testing.assert_array_equal(labels.image_classes(moved, 5), labels.image_classes(sparse, 5))
    assert (moved[moved != nearest] < UNLABELED).all()


def test_moving_scales_the_coordinates_of_single_clicks():
    sparse = np.full((40, 60), UNLABELED, np.uint8)
    sparse[[0, 7, 20, 39], [0, 31, 44, 59]] = [1, 2, 3, 4]
    moved = labels.resize_labels(sparse, (10, 20))
    expected = np.full((10, 20), UNLABELED, np.uint8)
    expected[[0, 1, 5, 9], [0, 10, 14, 19]] = [1, 2, 3, 4]
    np.testing.assert_array_equal(moved, expected)
    assert (labels.resize_labels(sparse, (10, 20), clicks="nearest") != UNLABELED).sum() < 4


def test_colliding_clicks_share_the_neighborhood():
    sparse = np.full((16, 16), UNLABELED, np.uint8)
    sparse[0, 0], sparse[0, 2], sparse[2, 0], sparse[2, 2] = 0, 1, 2, 3
    assert sorted(labels.resize_labels(sparse, (2, 2)).ravel()) == [0, 1, 2, 3]
    assert labels.resize_labels(sparse, (1, 1)).item() < UNLABELED


def test_resizing_rejects_nonsense():
    for size, clicks, message in (((2, 2), "linear", "choose move or nearest"), ((0, 2), "move", "at least 1")):
        with pytest.raises(ValueError, match=message):
            labels.resize_labels(np.zeros((4, 4), np.uint8), size, clicks)

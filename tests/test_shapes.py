"""The embedded data set: reproducible, independent of count and versions, and of the documented statistics."""

import colorsys
import hashlib
import math
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agmm.data import shapes


@pytest.fixture(scope="module")
def split():
    return shapes.make("train", 500)


def arrays(split):
    return np.asarray(split.images), np.asarray(split.truth), np.asarray(split.instances)


def test_contents_and_types(split):
    images, truth, instances = arrays(split)
    assert images.shape == (500, 64, 64, 3)
    assert truth.shape == instances.shape == (500, 64, 64)
    assert images.dtype == truth.dtype == instances.dtype == np.uint8
    assert (split.dataset, split.class_names, split.background) == ("shapes", shapes.CLASS_NAMES, 0)
    assert split.num_classes == 7
    assert len(set(split.ids)) == len(split) == 500


@pytest.mark.parametrize("name", ["train", "test", "pretrain"])
def test_an_image_does_not_depend_on_the_count(name):
    few, many = shapes.make(name, 3, seed=5), shapes.make(name, 9, seed=5)
    for short, long in zip(arrays(few), arrays(many), strict=True):
        np.testing.assert_array_equal(short, long[:3])
    assert few.ids == many.ids[:3]


def test_seeds_and_splits_are_different_streams():
    variants = [("train", 0), ("train", 1), ("test", 0), ("pretrain", 0)]
    layouts = {shapes.make(name, 4, seed=seed).truth.tobytes() for name, seed in variants}
    assert len(layouts) == len(variants)


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("train", "e08232bfaca4a685", "1c45b22b137432ad"),
        ("test", "be0036b1d9830a00", "59a353b59f875010"),
        ("pretrain", "a469ab239a2d53e7", "ceed1f3e43584826"),
    ],
)
def test_checksum_of_the_first_eight_images(name, images, masks):
    """The same bytes under NumPy 1.26 to 2.4, Pillow 10.3 to 13 and scikit-image 0.24 to 0.26."""
    made = shapes.make(name, 8)
    digests = [hashlib.blake2b(np.asarray(a).tobytes(), digest_size=8).hexdigest() for a in (made.images, made.truth)]
    assert digests == [images, masks], "the data have changed: raise shapes.VERSION or look for the cause"


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
    placed = shapes._layout(np.random.default_rng(seed), size)
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
        mask = shapes._SHAPES[k](*shapes._local_grid(400, 0.5, 0.5, 0.4, 0.4, angle))
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


def test_held_out_images_see_other_parts_of_the_photographs():
    for left, right, (_, name) in zip(
        shapes._photographs("left"), shapes._photographs("right"), shapes.PHOTOGRAPHS, strict=True
    ):
        whole = np.concatenate([left, right], axis=1)
        assert left.shape[1] / whole.shape[1] == pytest.approx(0.7, abs=0.002), name
        assert whole.shape[2] == 3


def test_photo_crop_agrees_with_pillow_when_enlarging():
    """Pillow's bilinear resize does the same where it does not average, up to its rounding to 8 bits."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    crop = shapes._photo_crop(rng, (photo,), 64)
    twin.integers(1)
    side = min((0.6 + 1.4 * twin.random()) * 64, 40)
    y, x = twin.random() * (40 - side), twin.random() * (40 - side)
    expected = Image.fromarray(photo).resize((64, 64), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    assert np.abs(crop * 255 - np.asarray(expected)).max() <= 1.5


@pytest.mark.parametrize("package", ["scikit-learn", "scikit-image"])
def test_photographs_ship_in_the_wheels(package):
    module = {"scikit-learn": "sklearn", "scikit-image": "skimage"}[package]
    listed = {str(file) for file in metadata.files(package) or ()}
    if not any(file.endswith("__init__.py") for file in listed):
        pytest.skip(f"{package} was installed without a list of its files")
    wanted = {f"{module}/{name}" for owner, name in shapes.PHOTOGRAPHS if owner == module}
    assert wanted
    assert wanted <= listed


def test_cache_is_used_and_gives_the_same(tmp_path, monkeypatch):
    fresh = shapes.make("test", 4, size=32, seed=1)
    shapes.make("test", 4, size=32, seed=1, cache=tmp_path / "new" / "folder")
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert f"v{shapes.VERSION}" in file.name
    monkeypatch.setattr(shapes, "_generate", lambda *_: pytest.fail("generated although the cache holds it"))
    cached = shapes.make("test", 4, size=32, seed=1, cache=tmp_path / "new" / "folder")
    for a, b in zip(arrays(fresh), arrays(cached), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_argument_has_its_own_cache_file(tmp_path):
    for name, count, size, seed in [
        ("train", 2, 32, 0),
        ("test", 2, 32, 0),
        ("train", 3, 32, 0),
        ("train", 2, 16, 0),
        ("train", 2, 32, 1),
    ]:
        shapes.make(name, count, size=size, seed=seed, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "other arrays"])
def test_damaged_cache_is_generated_again(tmp_path, damage):
    fresh = shapes.make("train", 3, size=32, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "other arrays":
        np.savez(file, images=np.zeros((2, 32, 32, 3), np.uint8), truth=fresh.truth, instances=fresh.instances)
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        file.write_bytes({"empty": b"", "truncated": content[:middle], "flipped": flipped, "text": b"hello"}[damage])
    for a, b in zip(arrays(fresh), arrays(shapes.make("train", 3, size=32, cache=tmp_path)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert file.read_bytes() == content


def test_failing_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(stream, **_):
        stream.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(shapes.np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        shapes.make("train", 1, size=16, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val", "count": 1}, "unknown split 'val'.*train, test, pretrain"),
        ({"split": "train", "count": 0}, "count=0"),
        ({"split": "train", "count": 1, "size": 8}, "size=8"),
        ({"split": "train", "count": 1, "seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        shapes.make(**arguments)


def test_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(shapes, "PHOTOGRAPHS", (("skimage", "data/nowhere.png"),))
    shapes._photographs.cache_clear()
    with pytest.raises(FileNotFoundError, match="skimage lacks its file data/nowhere.png"):
        shapes.make("train", 1)
    shapes._photographs.cache_clear()

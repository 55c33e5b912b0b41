"""What generated data sets share: independence of the count, disjoint photographs, and a cache that survives damage."""

import hashlib
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from agmm.data import sets
from agmm.data.synthetic import people, recipe, shapes, streets


@pytest.fixture(params=[shapes.SHAPES, streets.STREETS, people.PEOPLE], ids=lambda data: data.dataset)
def data(request):
    return request.param


# Of the images and masks of the first eight images of each split.
CHECKSUMS = {
    "shapes": {
        "train": ("e08232bfaca4a685", "1c45b22b137432ad"),
        "test": ("be0036b1d9830a00", "59a353b59f875010"),
        "pretrain": ("a469ab239a2d53e7", "ceed1f3e43584826"),
    },
    "crowds": {"train": ("96317f1ecc0c6dc2", "8536290fe805d47e")},
    "streets": {
        "train": ("455f579a8a9084b9", "4668c05a1e1ed5d3"),
        "test": ("31458f2c8ef235f3", "da0264be3b1efce5"),
        "pretrain": ("6415488e9111f87f", "10de30e967b013bd"),
    },
    "people": {
        "train": ("2dca5564b8f94569", "97665c37ab1e9390"),
        "test": ("46e46b2947c60edb", "2df02fe82f9de45c"),
        "pretrain": ("f33408bc870f60f9", "edec31c4fbbff8f5"),
    },
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_names_types_and_checksums(name):
    """The same bytes under NumPy 1.26 to 2.4, Pillow 10.3 to 13 and scikit-image 0.24 to 0.26."""
    data = sets.GENERATED[name]
    for part, expected in CHECKSUMS[name].items():
        split = data.make(part, 8)
        assert (split.dataset, split.class_names, len(set(split.ids))) == (name, sets.class_names(name), 8)
        assert (split.background, split.mirrored) == (None if name == "streets" else 0, data.mirrored)
        assert (split.instances is None) == (name == "streets")
        assert all(array.shape[:3] == (8, 64, 64) and array.dtype == np.uint8 for array in arrays(split))
        assert split.truth.max() < split.num_classes, "every pixel has a class"
        made = [hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest() for array in arrays(split)[:2]]
        assert made == list(expected), "the data have changed: raise their version or look for the cause"


def test_generated_data_by_name(data, tmp_path):
    loaded = sets.load(data.dataset, "test", count=2, cache=tmp_path)
    np.testing.assert_array_equal(loaded.images, data.make("test", 2).images)
    with pytest.raises(ValueError, match="needs a number of images"):
        sets.load(data.dataset, "train")
    with pytest.raises(ValueError, match="streets has no images for tag pretraining"):
        sets.load("streets", "pretrain", count=2)


def arrays(split):
    return [np.asarray(array) for array in (split.images, split.truth, split.instances) if array is not None]


@pytest.mark.parametrize("name", ["train", "test", "pretrain"])
def test_an_image_does_not_depend_on_the_count(data, name):
    few, many = data.make(name, 3, seed=5), data.make(name, 9, seed=5)
    for short, long in zip(arrays(few), arrays(many), strict=True):
        np.testing.assert_array_equal(short, long[:3])
    assert few.ids == many.ids[:3]


def test_seeds_and_splits_are_different_streams(data):
    variants = [("train", 0), ("train", 1), ("test", 0), ("pretrain", 0)]
    layouts = {data.make(name, 4, seed=seed).truth.tobytes() for name, seed in variants}
    assert len(layouts) == len(variants)


def test_held_out_images_see_other_parts_of_the_photographs():
    for left, right, (_, name) in zip(
        recipe.photographs("left"), recipe.photographs("right"), recipe.PHOTOGRAPHS, strict=True
    ):
        whole = np.concatenate([left, right], axis=1)
        assert left.shape[1] / whole.shape[1] == pytest.approx(0.7, abs=0.002), name
        assert whole.shape[2] == 3


def test_photo_crop_agrees_with_pillow_when_enlarging():
    """Pillow's bilinear resize does the same where it does not average, up to its rounding to 8 bits."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    crop = recipe.photo_crop(rng, (photo,), 64)
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
    wanted = {f"{module}/{name}" for owner, name in recipe.PHOTOGRAPHS if owner == module}
    assert wanted
    assert wanted <= listed


def test_cache_is_used_and_gives_the_same(data, tmp_path, monkeypatch):
    fresh = data.make("test", 4, size=32, seed=1)
    data.make("test", 4, size=32, seed=1, cache=tmp_path / "new" / "folder")
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert f"{data.dataset}-v{data.version}-" in file.name
    monkeypatch.setattr(recipe.Recipe, "_draw", lambda *_: pytest.fail("generated although the cache holds it"))
    cached = data.make("test", 4, size=32, seed=1, cache=tmp_path / "new" / "folder")
    for a, b in zip(arrays(fresh), arrays(cached), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_argument_has_its_own_cache_file(data, tmp_path):
    for name, count, size, seed in [
        ("train", 2, 32, 0),
        ("test", 2, 32, 0),
        ("train", 3, 32, 0),
        ("train", 2, 16, 0),
        ("train", 2, 32, 1),
    ]:
        data.make(name, count, size=size, seed=seed, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "other arrays"])
def test_damaged_cache_is_generated_again(data, tmp_path, damage):
    fresh = data.make("train", 3, size=32, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "other arrays":
        np.savez(file, images=np.zeros((2, 32, 32, 3), np.uint8), truth=fresh.truth, instances=fresh.truth)
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        file.write_bytes({"empty": b"", "truncated": content[:middle], "flipped": flipped, "text": b"hello"}[damage])
    for a, b in zip(arrays(fresh), arrays(data.make("train", 3, size=32, cache=tmp_path)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert file.read_bytes() == content


def test_failing_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(stream, **_):
        stream.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(recipe.np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        shapes.SHAPES.make("train", 1, size=16, cache=tmp_path)
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
def test_bad_arguments(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.make(**arguments)


def test_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(recipe, "PHOTOGRAPHS", (("skimage", "data/nowhere.png"),))
    recipe.photographs.cache_clear()
    with pytest.raises(FileNotFoundError, match="skimage lacks its file data/nowhere.png"):
        shapes.SHAPES.make("train", 1)
    recipe.photographs.cache_clear()

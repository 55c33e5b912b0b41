"""Generated data: the same bytes under every version, a cache that survives damage, the documented statistics."""

import colorsys
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics

from agmm import labels
from agmm.data import sets, synthetic
from agmm.data.synthetic import people, shapes, streets
from agmm.data.synthetic.streets import ROAD, SIDEWALK, SKY
from agmm.training import train, weights
from agmm.training.presets import PRESETS


@pytest.fixture(params=[shapes.SHAPES, streets.STREETS, people.PEOPLE], ids=lambda data: data.dataset)
def data(request):
    return request.param


def arrays(split):
    return [np.asarray(array) for array in (split.images, split.truth, split.instances) if array is not None]


def objects(split):
    """The mask of its image and the pixels of every object."""
    for mask, numbers in zip(split.truth, split.instances, strict=True):
        for number in range(1, numbers.max() + 1):
            yield mask, numbers == number


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
    parts = list(zip(synthetic.photographs("left"), synthetic.photographs("right"), strict=True))
    assert len(parts) == len(synthetic.PHOTOGRAPHS)
    for left, right in parts:
        assert left.shape[1] / (left.shape[1] + right.shape[1]) == pytest.approx(0.7, abs=0.002)


def test_cache_is_used_and_gives_the_same(data, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"
    fresh = data.make("test", 4, size=32, seed=1, cache=folder)
    (file,) = folder.iterdir()
    assert f"{data.dataset}-v{data.version}-" in file.name
    monkeypatch.setattr(synthetic.Recipe, "_draw", lambda *_: pytest.fail("generated although the cache holds it"))
    cached = data.make("test", 4, size=32, seed=1, cache=folder)
    for a, b in zip(arrays(fresh), arrays(cached), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_argument_has_its_own_cache_file(tmp_path):
    usual = {"split": "train", "count": 2, "size": 32, "seed": 0}
    for changed in ({}, {"split": "test"}, {"count": 3}, {"size": 16}, {"seed": 1}):
        shapes.SHAPES.make(**usual | changed, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "other arrays"])
def test_damaged_cache_is_generated_again(tmp_path, damage):
    fresh = shapes.SHAPES.make("train", 3, size=32, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "other arrays":
        np.savez(file, images=np.zeros((2, 32, 32, 3), np.uint8), truth=fresh.truth, instances=fresh.truth)
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        file.write_bytes({"empty": b"", "truncated": content[:middle], "flipped": flipped, "text": b"hello"}[damage])
    for a, b in zip(arrays(fresh), arrays(shapes.SHAPES.make("train", 3, size=32, cache=tmp_path)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert file.read_bytes() == content


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
        shapes.SHAPES.make(**arguments)


def test_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(synthetic, "PHOTOGRAPHS", (("skimage", "data/nowhere.png"),))
    synthetic.photographs.cache_clear()
    with pytest.raises(FileNotFoundError, match="skimage lacks its file data/nowhere.png"):
        shapes.SHAPES.make("train", 1)
    synthetic.photographs.cache_clear()


@pytest.fixture(scope="module")
def made_shapes():
    return shapes.SHAPES.make("train", 200)


def test_crowds_hold_more_and_smaller_objects():
    made = shapes.CROWDS.make("train", 80)
    assert (made.dataset, made.class_names) == ("crowds", shapes.CLASS_NAMES)
    per_image = made.instances.max(axis=(1, 2))
    assert per_image.max() == 6
    assert per_image.mean() > 3
    assert 150 < np.mean([inside.sum() for _, inside in objects(made)]) < 260
    np.testing.assert_array_equal(made.truth > 0, made.instances > 0)


def test_documented_statistics_of_shapes(made_shapes):
    """2.35 labels per image with one click per object and one on the background; objects cover about 21 %."""
    per_image = made_shapes.instances.max(axis=(1, 2))
    assert 1.28 < per_image.mean() < 1.42
    assert set(per_image) == {1, 2, 3}
    np.testing.assert_array_equal(made_shapes.truth > 0, made_shapes.instances > 0)
    assert 0.20 < (made_shapes.truth > 0).mean() < 0.235


def test_classes_are_balanced(made_shapes):
    classes = [mask[inside][0] for mask, inside in objects(made_shapes)]
    share = np.bincount(classes, minlength=7) / len(classes)
    assert share[0] == 0
    assert ((share[1:] > 0.11) & (share[1:] < 0.23)).all()


def test_color_tells_the_class(made_shapes):
    """The median hue over all pixels of a class is k/6, whatever photograph lies below."""
    for k in range(1, 7):
        pixels = made_shapes.images[made_shapes.truth == k][::40] / 255
        hues = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels]
        offsets = [(hue - k / 6 + 0.5) % 1 - 0.5 for hue in hues]
        assert abs(np.median(offsets)) < 0.03, shapes.CLASS_NAMES[k]


@pytest.fixture(scope="module")
def made_streets():
    return streets.STREETS.make("train", 60)


def test_nearly_every_image_holds_most_classes(made_streets):
    found = sets.image_tags(made_streets)
    assert found.sum(axis=1).min() >= 6
    assert 9 < found.sum(axis=1).mean() < 9.6
    assert found[:, [ROAD, SIDEWALK, SKY]].all()
    assert (found.mean(axis=0) > 0.35).all(), dict(zip(streets.CLASS_NAMES, found.mean(axis=0), strict=True))


@pytest.mark.parametrize(("clicks", "share"), [(10, 0.50), (20, 0.65), (40, 0.79)])
def test_clicks_name_about_half_of_the_classes_and_more(made_streets, clicks, share):
    sparse = sets.sparse_labels(made_streets, "clicks", {"n": clicks}, seed=0)
    assert labels.coverage(sparse, made_streets.truth, 10).pair_share == pytest.approx(share, abs=0.04)


def test_sky_is_above_the_horizon_and_ground_below(made_streets):
    for mask in made_streets.truth:
        ground = np.isin(mask, (ROAD, SIDEWALK)).any(axis=1).nonzero()[0]
        assert (mask == SKY).any(axis=1).nonzero()[0].max() < ground.min()
        assert 0.3 * 64 - 1 <= ground.min() <= 0.45 * 64 + 2
        assert (mask[-1] != SKY).all()


def test_color_does_not_tell_the_class(made_streets):
    """Sorting held-out pixels by the nearest mean color of a class fails."""
    means = np.array([made_streets.images[made_streets.truth == k].mean(axis=0) for k in range(10)])
    test = streets.STREETS.make("test", 20)
    nearest = np.square(test.images[..., None, :] - means).sum(axis=-1).argmin(axis=-1)
    assert metrics.jaccard_score(test.truth.ravel(), nearest.ravel(), average="macro") < 0.2


def test_a_run_on_streets(tmp_path):
    clicks = {"labels": "clicks", "label_options": (("n", 10),)}
    run = replace(PRESETS["smoke"].run, **FEW, **clicks, dataset="streets", init="scratch", epochs=1)
    result = train.run(run, results=tmp_path, device="cpu")
    assert len(result.iou) == 10
    assert result.details["labeled_pixels_per_image"] == 10


@pytest.fixture(scope="module")
def made_people():
    return people.PEOPLE.make("train", 100)


def test_documented_statistics_of_people(made_people):
    """One to three people, of whom nearly all parts are visible, and cover about 30 % of an image."""
    np.testing.assert_array_equal(made_people.truth > 0, made_people.instances > 0)
    assert (made_people.truth > 0).sum() == (made_people.truth[:, 1:-1, 1:-1] > 0).sum(), "figures stay off the border"
    share = np.bincount(made_people.instances.max(axis=(1, 2)), minlength=4) / len(made_people)
    np.testing.assert_allclose(share, [0, 0.5, 0.35, 0.15], atol=0.1)
    assert 0.25 < (made_people.truth > 0).mean() < 0.35
    areas = np.array([np.bincount(mask[inside], minlength=15)[1:] for mask, inside in objects(made_people)])
    assert ((areas >= 4).mean(axis=0) > 0.8).all()
    assert (areas >= 4).all(axis=1).mean() > 0.5
    assert (np.median(areas, axis=0) > 12).all()


def test_mirror_images_look_like_the_others(made_people):
    """With sides exchanged, the shares of all classes at every height and column are those of the mirror image."""
    exchanged = np.array(made_people.mirrored)[made_people.truth[:, :, ::-1]]
    areas, mirrored = (np.bincount(mask.ravel(), minlength=15) for mask in (made_people.truth, exchanged))
    np.testing.assert_allclose(areas, mirrored, rtol=0.1)
    # Not exchanged they are not: right limbs are mostly on the viewer's left of their person.
    for name in ("hand", "arm", "thigh", "foot"):
        sides = [people.CLASS_NAMES.index(f"{side} {name}") for side in ("right", "left")]
        columns = [[np.nonzero(inside & (mask == k))[1] for k in sides] for mask, inside in objects(made_people)]
        beside = [right.mean() < left.mean() for right, left in columns if len(right) and len(left)]
        assert 0.7 < np.mean(beside) < 0.95


FEW = {"train_images": 8, "test_images": 4, "batch_size": 4, "microbatch": 4, "augmentation": "crop_flip", "crop": 64}
RUN = replace(PRESETS["smoke"].run, **FEW, dataset="people", init="tags", epochs=2, labels="part_points", flip=True)


def test_a_run_on_people(tmp_path):
    """Its test adds what the network sees in mirror images, with left and right exchanged."""
    result = train.run(RUN, results=tmp_path, device="cpu")
    assert result.details["label_source"] == "simulated from dense masks and objects"
    test = people.PEOPLE.make("test", 4)
    net = weights.load_network(RUN, tmp_path, 15, torch.device("cpu"))
    images = torch.from_numpy(np.asarray(test.images)).permute(0, 3, 1, 2) / 255
    other = [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14]
    with torch.no_grad():
        plain, turned = (net(views)[1].softmax(1) for views in (images, images.flip(3)))
    best = (plain + turned.flip(3)[:, other]).argmax(1).numpy()
    confusion = metrics.confusion_matrix(test.truth.ravel(), best.ravel(), labels=range(15))
    assert np.abs(confusion - np.array(result.confusion)).sum() <= 8  # where two classes are equally likely


def test_tags_do_not_tell_left_from_right(tmp_path):
    with pytest.raises(ValueError, match="classes of people have a left and a right, which tags do not tell"):
        train.run(replace(RUN, init="scratch", labels="tags"), results=tmp_path, device="cpu")

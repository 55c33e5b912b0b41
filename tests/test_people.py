"""The embedded people: the same bytes under every version, limbs that hang together, a left and a right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm.data.synthetic import people
from agmm.data.synthetic.people import CLASS_NAMES
from agmm.training import train, weights
from agmm.training.presets import PRESETS

HEAD, TORSO = (CLASS_NAMES.index(name) for name in ("head", "torso"))
CHAIN = ("torso", "arm", "forearm", "hand"), ("torso", "thigh", "leg", "foot")


@pytest.fixture(scope="module")
def split():
    return people.PEOPLE.make("train", 200)


def test_documented_statistics(split):
    """One to three people, of whom nearly all parts are visible, and cover about 30 % of an image."""
    np.testing.assert_array_equal(split.truth > 0, split.instances > 0)
    for edge in (split.truth[:, 0], split.truth[:, -1], split.truth[:, :, 0], split.truth[:, :, -1]):
        assert not edge.any(), "figures stay off the border"
    number = split.instances.reshape(200, -1).max(axis=1)
    share = np.bincount(number, minlength=4) / 200
    np.testing.assert_allclose(share, [0, 0.5, 0.35, 0.15], atol=0.1)
    assert 0.25 < (split.truth > 0).mean() < 0.35
    areas = []
    for mask, persons in zip(split.truth, split.instances, strict=True):
        for person in range(1, persons.max() + 1):
            areas.append(np.bincount(mask[persons == person], minlength=15))
    seen = np.array(areas)[:, 1:] >= 4
    assert (seen.mean(axis=0) > 0.8).all()
    assert seen.all(axis=1).mean() > 0.5
    assert (np.median(areas, axis=0)[1:] > 12).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_limbs_hang_together_and_sides_follow_from_the_view(seed):
    """Along arms and legs the axes meet; the right shoulder is on the viewer's left, or of who turns the back not."""
    front = people._pose(np.random.default_rng(seed))
    for figure in (front, people._turned(front)):
        start, end, radius = (
            dict(zip((CLASS_NAMES[part] for part in figure.parts), array, strict=True))
            for array in (figure.starts, figure.ends, figure.radii)
        )
        assert len(start) == 14
        for side in ("left", "right"):
            for chain in CHAIN:
                for inner, outer in zip(chain[1:], chain[2:], strict=False):
                    inner, outer = f"{side} {inner}", f"{side} {outer}"
                    assert np.linalg.norm(end[inner] - start[outer]) < 0.026
            for limb in ("arm", "thigh"):
                joint = start[f"{side} {limb}"]
                axis = np.linspace(start["torso"], end["torso"])
                assert np.linalg.norm(joint - axis, axis=1).min() < radius["torso"].max() + radius[f"{side} {limb}"][0]
        for limb in ("arm", "thigh"):
            assert (start[f"right {limb}"][0] < start[f"left {limb}"][0]) == (not figure.back)
        assert end["head"][1] < start["torso"][1] < end["torso"][1] < end["left foot"][1]
        order = [CLASS_NAMES[part] for part in figure.parts]
        assert (order.index("torso") < order.index("left forearm")) == (not figure.back)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([16, 33, 64]))
def test_limbs_are_tapered_capsules(seed, size):
    """A pixel belongs to the last limb of which some point of the axis is nearer than the radius there."""
    rng = np.random.default_rng(seed)
    figure = people._placed(rng, people._pose(rng), 2, 1)
    limb, distance = figure.limbs_of_pixels(size)
    along = np.linspace(0, 1, 401)[:, None]
    for y, x in rng.integers(0, size, (20, 2)):
        found, nearest = -1, 0.0
        pixel = (np.array([x, y]) + 0.5) / size
        for number, (start, end, radii) in enumerate(zip(figure.starts, figure.ends, figure.radii, strict=True)):
            gaps = np.linalg.norm(start + along * (end - start) - pixel, axis=1)
            ratio = gaps.min() / (radii[0] + along[gaps.argmin(), 0] * (radii[1] - radii[0]))
            if abs(ratio - 1) < 1e-3:
                break  # too close to tell
            if ratio < 1:
                found, nearest = number, ratio
        else:
            assert limb[y, x] == found
            assert distance[y, x] == pytest.approx(nearest**2, abs=1e-3)


def test_mirror_images_look_like_the_others(split):
    """With sides exchanged, the shares of all classes at every height and column are those of the mirror image."""
    exchanged = np.array(split.mirrored)[split.truth[:, :, ::-1]]
    areas, mirrored = (np.bincount(mask.ravel(), minlength=15) for mask in (split.truth, exchanged))
    np.testing.assert_allclose(areas, mirrored, rtol=0.1)
    # Not exchanged they are not: right limbs are mostly on the viewer's left of their person.
    for name in ("hand", "arm", "thigh", "foot"):
        right, left = CLASS_NAMES.index(f"right {name}"), CLASS_NAMES.index(f"left {name}")
        beside = []
        for mask, persons in zip(split.truth, split.instances, strict=True):
            for person in range(1, persons.max() + 1):
                columns = [np.nonzero((mask == k) & (persons == person))[1] for k in (right, left)]
                if all(len(found) for found in columns):
                    beside.append(columns[0].mean() < columns[1].mean())
        assert 0.7 < np.mean(beside) < 0.95


def test_colors_tell_head_and_hands_from_clothes(split):
    """Hands and the face are of one skin: hands and head differ less in color than hands and shirt or shoes."""
    gaps = {name: [] for name in ("head", "torso", "left foot")}
    for image, mask, persons in zip(split.images, split.truth, split.instances, strict=True):
        for person in range(1, persons.max() + 1):
            own = persons == person

            def color(name, image=image, mask=mask, own=own):
                return np.median(image[own & (mask == CLASS_NAMES.index(name))], axis=0)

            if {*map(CLASS_NAMES.index, (*gaps, "left hand"))} <= set(mask[own].tolist()):
                for name in gaps:
                    gaps[name].append(np.abs(color(name) - color("left hand")).mean())
    means = {name: np.mean(values) for name, values in gaps.items()}
    assert means["head"] < 0.7 * means["torso"]
    assert means["head"] < 0.7 * means["left foot"]


RUN = replace(
    PRESETS["smoke"].run,
    dataset="people",
    init="tags",
    train_images=8,
    test_images=4,
    batch_size=4,
    microbatch=4,
    epochs=2,
    augmentation="crop_flip",
    crop=64,
    labels="part_points",
    flip=True,
)


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
    confusion = np.zeros((15, 15), int)
    np.add.at(confusion, (np.asarray(test.truth).ravel(), best.ravel()), 1)
    assert np.abs(confusion - np.array(result.confusion)).sum() <= 8  # where two classes are equally likely


def test_tags_do_not_tell_left_from_right(tmp_path):
    with pytest.raises(ValueError, match="classes of people have a left and a right, which tags do not tell"):
        train.run(replace(RUN, init="scratch", labels="tags"), results=tmp_path, device="cpu")

"""Augmentation: labels move with the image, padding is void, and the draws have the documented distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from agmm import evaluation
from agmm.codes import UNLABELED, VOID
from agmm.data import augment


def coded(count, height, width):
    """Images whose channels are row + 1, column + 1 and a number per pixel; labels that repeat the number."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    number = (3 * rows + 7 * columns) % 200 + torch.arange(count)[:, None, None]
    planes = ((rows + 1).expand(count, -1, -1), (columns + 1).expand(count, -1, -1), number + 1)
    return torch.stack(planes, dim=-1).to(torch.uint8), number.to(torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_dihedral_moves_labels_with_images(seed, count, height, width):
    images, labels = coded(count, height, width)
    turned, moved, _ = augment.dihedral(images, labels, generator(seed))
    assert moved.shape in {(count, height, width), (count, width, height)}
    torch.testing.assert_close(turned[..., 2], moved + 1)
    torch.testing.assert_close(moved.flatten(1).sort(1).values, labels.flatten(1).sort(1).values)


def test_dihedral_reaches_each_of_the_eight_symmetries():
    images, labels = coded(2, 4, 4)
    plain = labels[0].numpy()
    expected = {np.rot90(m, k).tobytes() for m in (plain, plain[:, ::-1]) for k in range(4)}
    source = generator()
    seen = []
    for _ in range(160):
        moved = augment.dihedral(images, labels, source)[1]
        torch.testing.assert_close(moved[1], moved[0] + 1)  # one draw for the whole batch
        seen.append(moved[0].numpy().tobytes())
    assert set(seen) == expected
    assert max(seen.count(one) for one in expected) < 45


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_crop_is_a_window_of_the_padded_image(seed, height, width, size):
    images, labels = coded(3, height, width)
    cropped, moved, _ = augment.crop_flip(images, labels, size, generator(seed))
    assert cropped.shape == (3, size, size, 3)
    assert cropped.dtype == moved.dtype == torch.uint8
    for b in range(3):
        padded = np.full((max(height, size), max(width, size)), VOID, np.uint8)
        padded[:height, :width] = labels[b]
        windows = {
            padded[y : y + size, x : x + size][:, ::step].tobytes()
            for y in range(padded.shape[0] - size + 1)
            for x in range(padded.shape[1] - size + 1)
            for step in (1, -1)
        }
        assert moved[b].numpy().tobytes() in windows
    void = moved == VOID
    assert (cropped[void] == 0).all()
    torch.testing.assert_close(cropped[..., 2][~void], moved[~void] + 1)


def test_crop_and_flip_are_drawn_per_image_and_reach_everything():
    images, labels = coded(400, 5, 6)
    cropped, _, told = augment.crop_flip(images, labels % 200, 4, generator())
    first, last = cropped[:, 0, 0, 1].int(), cropped[:, 0, -1, 1].int()
    mirrored = first > last
    assert torch.equal(told, mirrored)
    assert 0.4 < mirrored.float().mean() < 0.6
    corners = set(zip(cropped[:, 0, 0, 0].tolist(), torch.minimum(first, last).tolist(), strict=True))
    assert corners == {(y, x) for y in (1, 2) for x in (1, 2, 3)}


@given(st.integers(0, 10**6), st.integers(8, 70), st.integers(8, 70), st.integers(4, 90))
@settings(max_examples=80, deadline=None)
def test_official_equals_pillow_step_by_step(seed, height, width, crop):
    height = min(height, 2 * width - 2)  # beyond that Pillow 13 resizes in another order than those before it
    source = np.random.default_rng(seed)
    image = source.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = source.integers(0, 5, (height, width), dtype=np.uint8)
    picture, moved, turned = augment.official(image, labels, crop, np.random.default_rng(seed), color=False)
    rng = np.random.default_rng(seed)
    long = max(height, width)
    new_long = int(rng.integers(long // 2, 2 * long + 1))
    new_short = int(min(height, width) * new_long / long + 0.5)
    size = (new_long, new_short) if height >= width else (new_short, new_long)
    large = np.zeros((*np.maximum(size, crop), 3), np.uint8)
    sparse = np.full(large.shape[:2], 255, np.uint8)
    large[: size[0], : size[1]] = np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))
    sparse[: size[0], : size[1]] = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.NEAREST))
    top, left = (int(rng.integers(side - crop + 1)) for side in sparse.shape)
    step = -1 if rng.random() < 0.5 else 1
    assert turned == (step == -1)
    np.testing.assert_array_equal(picture, large[top : top + crop, left : left + crop][:, ::step])
    np.testing.assert_array_equal(moved, sparse[top : top + crop, left : left + crop][:, ::step])


def test_nearest_loses_single_pixel_labels_and_move_keeps_them():
    image = np.zeros((40, 40, 3), np.uint8)
    labels = np.full((40, 40), UNLABELED, np.uint8)
    labels[4::8, 4::8] = 3
    counts = {}
    for clicks in ("nearest", "move"):
        rng = np.random.default_rng(0)
        results = [augment.official(image, labels, 80, rng, color=False, clicks=clicks)[1] for _ in range(100)]
        counts[clicks] = np.array([(result == 3).sum() for result in results])
    assert counts["move"].min() == 25  # enlarging repeats pixels
    assert counts["nearest"].min() < 20


def test_color_changes_leave_geometry_and_labels_alone():
    image, labels = (part[0].numpy() for part in coded(1, 20, 20))
    unchanged = gray = 0
    for seed in range(200):
        (plain, moved, _), (colored, same, _) = (
            augment.official(image, labels, 16, np.random.default_rng(seed), color=color) for color in (False, True)
        )
        assert (colored.shape, colored.dtype) == (plain.shape, np.uint8)
        np.testing.assert_array_equal(moved, same)
        unchanged += np.array_equal(plain, colored)
        gray += bool((colored == colored[..., :1]).all())
    assert 0.06 < unchanged / 200 < 0.18  # 0.5 * 0.9 * 0.5 * 0.5, and additions that round to nothing
    assert 0.05 < gray / 200 < 0.16


@pytest.mark.parametrize("amount", [-0.25, -0.01, 0.1, 0.6, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gray"])
def test_color_changes_are_torchvisions(name, amount):
    """On Pillow images, as the released code calls them."""
    from torchvision.transforms import functional as tv

    noise = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    amount = amount % 0.5 - 0.25 if name == "hue" else abs(amount)
    picture = Image.fromarray(noise)
    expected = tv.to_grayscale(picture, 3) if name == "gray" else getattr(tv, f"adjust_{name}")(picture, amount)
    np.testing.assert_array_equal(augment.COLOR_CHANGES[name](picture, amount), expected)


@pytest.mark.parametrize(("classifier", "most"), [(False, 1.5), (True, 2.0)])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_spml_scale_and_padding(shape, classifier, most):
    """A crop larger than every enlargement shows the whole image in a corner, and beyond it the mean color."""
    image = np.full((*shape, 3), 40, np.uint8)
    image[shape[0] // 2 :] = 220
    labels, rng = image[..., 0] // 200, np.random.default_rng(0)
    scales, mirrored = [], 0
    for _ in range(200):
        drawn = replace(augment.draw_spml(shape, 90, rng, classifier), changes=())
        picture, moved, turned = augment._augment(image, labels, 90, drawn, augment.MEAN_COLOR)
        inside = moved != VOID
        height, width = inside.any(1).sum(), inside.any(0).sum()
        assert inside.sum() == height * width
        assert inside[0, -1 if turned else 0]
        assert (picture[~inside] == (124, 116, 104)).all()
        assert set(np.unique(picture[inside])) <= set(range(40, 221))
        assert abs(height / shape[0] - width / shape[1]) <= 0.5 / shape[0] + 0.5 / shape[1]
        scales.append(height / shape[0])
        mirrored += turned
    assert 0.48 <= min(scales) < 0.55
    assert most - 0.1 < max(scales) <= most + 0.02
    assert np.mean(scales) == pytest.approx((0.5 + most) / 2, abs=0.1)
    assert 70 < mirrored < 130


def test_mean_color_is_next_to_nothing_after_normalization():
    color = np.array([[augment.MEAN_COLOR]], np.uint8)
    assert evaluation.to_input(color, evaluation.IMAGENET).abs().max() < 0.01


def test_only_images_of_the_classifier_become_gray_or_blurred():
    seen = {True: [], False: []}
    for classifier, drawn in seen.items():
        for seed in range(600):
            drawn += augment.draw_spml((30, 40), 20, np.random.default_rng(seed), classifier).changes
    assert not seen[False]
    widths = [amount for name, amount in seen[True] if name == "kernel_blur"]
    assert sum(name == "weighted_gray" for name, _ in seen[True]) == pytest.approx(180, abs=40)
    assert len(widths) == pytest.approx(300, abs=50)
    assert 0.1 <= min(widths) < 0.3
    assert 4.8 < max(widths) <= 5
    assert np.mean(widths) == pytest.approx(2.55, abs=0.3)


@pytest.mark.parametrize("width", [0.1, 0.7, 2.3, 5.0])
def test_blur_of_spml_weights_5_by_5_neighbors(width):
    """By exp(-r^2 / width^2), with a sum of 1."""
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    weights = np.exp(-np.square(np.mgrid[-2:3, -2:3]).sum(axis=0) / width**2)[..., None]
    expected = ndimage.correlate(image.astype(float), weights / weights.sum(), mode="nearest")
    found = np.asarray(augment.COLOR_CHANGES["kernel_blur"](Image.fromarray(image), width))
    assert np.abs(found - expected).max() <= 0.5 + 1e-4
    if width > 1:
        assert np.abs(image - expected).max() > 20


def test_gray_of_spml_is_its_weighted_mean():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    expected = image @ np.array([0.3, 0.59, 0.11])
    found = np.asarray(augment.COLOR_CHANGES["weighted_gray"](Image.fromarray(image), 0.0))
    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0] - expected).max() <= 0.5 + 1e-4

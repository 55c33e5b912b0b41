"""Labels from boxes and images: their rules on tiny cases, fallbacks, determinism, and what they are worth."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import draw

from agmm import labels
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.labels import Boxes, from_boxes

WHOLE = np.array([0, 0, 8, 8])


def rng(seed: int = 0) -> np.random.Generator:
    return labels.generator(seed, "test", "image", "form")


def scene(seed: int, size: tuple[int, int] = (48, 56)) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses of one color each on a textured background: image and mask."""
    random = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    image = random.normal((60, 80, 70), 6, (*size, 3))
    for code in random.permutation([1, 2, 3])[: random.integers(1, 4)]:
        center, radii = random.uniform(0.2, 0.8, 2) * size, random.uniform(4, 12, 2)
        inside = draw.ellipse(*center, *radii, shape=size)
        mask[inside] = code
        image[inside] = random.normal((200, 60 * code, 40), 6, (len(inside[0]), 3))
    return image.round().clip(0, 255).astype(np.uint8), mask


def blank(size: tuple[int, int], codes: Sequence[int] = (), corners: Sequence = (), **options) -> from_boxes.BoxedImage:
    boxes = Boxes(size, codes, np.array(corners, int).reshape(-1, 4))
    return from_boxes.BoxedImage(np.zeros((*size, 3), np.uint8), boxes, rng(), **options)


def in_boxes(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    inside = np.zeros(shape, bool)
    for top, left, bottom, right in corners:
        inside[top:bottom, left:right] = True
    return inside


def test_grabcut_finds_a_disk_in_its_box() -> None:
    image = np.random.default_rng(0).normal(60, 5, (50, 60, 3))
    disk = draw.disk((24, 30), 12)
    image[disk] += 120
    truth = np.zeros((50, 60), bool)
    truth[disk] = True
    found = from_boxes.grabcut_segment(image.astype(np.uint8), np.array([8, 14, 40, 46]))
    assert (found == truth).mean() > 0.995
    assert found.sum() < 0.6 * 32 * 32


@pytest.mark.parametrize(
    ("side", "box"),
    [(0, (10, 10, 40, 40)), (6, (10, 10, 40, 40)), (20, (0, 0, 50, 50)), (0, (49, 49, 50, 50)), (0, (0, 0, 50, 49))],
    ids=["empty", "too small", "no background", "one pixel", "hardly any background"],
)
def test_where_grabcut_fails_the_whole_box_is_taken(side: int, box: tuple[int, ...]) -> None:
    image = np.full((50, 50, 3), 90, np.uint8)
    image[20 : 20 + side, 20 : 20 + side] = (250, 10, 10)
    whole = in_boxes(np.array([box]), (50, 50))
    np.testing.assert_array_equal(from_boxes.grabcut_segment(image, np.array(box)), whole)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), background=st.sampled_from([0, None]), runs=st.sampled_from([1, 2]))
def test_grabcut_stays_in_its_boxes(seed: int, background: int | None, runs: int) -> None:
    image, mask = scene(seed)
    boxes = labels.tight_boxes(labels.Scene(mask, rng(), background=background))
    codes, corners = boxes.codes, boxes.corners
    made = from_boxes.simulate("grabcut", image, mask, rng(seed), background=background, runs=runs)
    outside = UNLABELED if background is None else background
    assert (made[~in_boxes(corners, mask.shape)] == outside).all()
    assert set(np.unique(made)) <= {*codes, outside, UNLABELED}
    if runs == 1:
        assert UNLABELED not in made or background is None
    for code, box in zip(codes, corners, strict=True):
        others = in_boxes(corners[[other != code for other in codes]], mask.shape)
        if not others[from_boxes._window(box)].any():
            assert (made[from_boxes._window(box)] == code).any() or runs > 1


def test_the_seed_decides_and_threads_do_not() -> None:
    image, mask = scene(3)
    threads = cv2.getNumThreads()
    for runs in (1, 3):
        first, again = (from_boxes.simulate("grabcut", image, mask, rng(1), runs=runs) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        cv2.setNumThreads(1)
        np.testing.assert_array_equal(from_boxes.simulate("grabcut", image, mask, rng(1), runs=runs), first)
        cv2.setNumThreads(threads)
    other = from_boxes.simulate("grabcut", image, mask, rng(2), runs=3)
    assert (first != other).any()


def test_smaller_segments_are_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of the segment, not of the box."""

    def segment(image: np.ndarray, box: np.ndarray, seed: int) -> np.ndarray:
        found = np.zeros((8, 8), bool)
        found[(slice(2, 6), slice(2, 6)) if box[2] == 8 else (slice(1, 7), slice(1, 7))] = True
        return found

    monkeypatch.setattr(from_boxes, "grabcut_segment", segment)
    made = from_boxes.grabcut(blank((8, 8), [1, 2], [[0, 0, 8, 8], [1, 1, 7, 7]]))
    expected = np.zeros((8, 8), np.uint8)
    expected[1:7, 1:7] = 2
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(made, expected)


def test_ensemble_labels_where_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = np.tile([0, 0.19, 0.2, 0.5, 0.7, 0.71, 1, 1], (8, 1))
    monkeypatch.setattr(from_boxes, "grabcut_votes", lambda *_: votes)
    made = from_boxes.grabcut(blank((8, 8), [4], [WHOLE]), runs=15)
    assert made[0].tolist() == [0, 0, *[UNLABELED] * 3, 4, 4, 4]
    with pytest.raises(ValueError, match="number of runs of GrabCut is 0"):
        from_boxes.grabcut(blank((8, 8), [4], [WHOLE]), runs=0)


def test_votes_come_from_moved_boxes_with_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = []

    def segment(image: np.ndarray, box: np.ndarray, seed: int) -> np.ndarray:
        boxes.append((image.shape[:2], box))
        found = np.zeros(image.shape[:2], bool)
        found[from_boxes._window(box)] = len(boxes) % 2
        return found

    image, box = np.zeros((200, 300, 3), np.uint8), np.array([60, 100, 140, 200])
    monkeypatch.setattr(from_boxes, "grabcut_segment", segment)
    votes = from_boxes.grabcut_votes(image, box, rng(), runs=14)
    assert len(boxes) == 14
    assert votes[100, 150] == 0.5
    assert (votes[~in_boxes(box[None], votes.shape)] == 0).all()
    for shape, moved in boxes:
        assert np.abs((moved[2:] - moved[:2]) - (80, 100)).max() <= 11
        margins = [moved[0], moved[1], shape[0] - moved[2], shape[1] - moved[3]]
        assert all(0.1 * side - 1 <= m <= 0.6 * side + 1 for m, side in zip(margins, (80, 100, 80, 100), strict=True))
    assert len({shape for shape, _ in boxes}) > 5


def test_without_opencv_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RuntimeError, match="install opencv-python-headless, or choose labels='boxes'"):
        from_boxes.grabcut_segment(np.zeros((8, 8, 3), np.uint8), WHOLE)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.5, 0.9]))
def test_boxcam_takes_what_is_above_the_threshold_in_each_box(seed: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    cams = {1: random.random((9, 11)).round(1), 3: np.full((9, 11), 0.7)}
    codes, corners = [1, 3, 1, 2], [[0, 0, 9, 8], [1, 2, 5, 6], [3, 1, 6, 11], [7, 7, 9, 9]]
    made = from_boxes.boxcam(blank((9, 11), codes, corners, cams=cams), threshold=threshold)
    expected = np.zeros((9, 11), int)
    for index in (0, 2, 1, 3):  # by area
        top, left, bottom, right = corners[index]
        values = cams[1][top:bottom, left:right]
        found = (values - values.min()) / np.ptp(values) > threshold + 1e-12
        expected[top:bottom, left:right] = np.where(found & (codes[index] == 1), 1, UNLABELED)
    np.testing.assert_array_equal(made, expected)


def test_cam_labels_are_the_best_of_all_scores() -> None:
    """Pixel by pixel, the background's score among them; two classes with the same one are the first."""
    random = np.random.default_rng(0)
    cams = {2: random.random((6, 7)) ** 3, 5: random.random((6, 7)) ** 3}
    made = from_boxes.cam(blank((6, 7), cams=cams), exponent=6)
    for pixel in np.ndindex(6, 7):
        scores = {0: (1 - max(cam[pixel] for cam in cams.values())) ** 6} | {k: cam[pixel] for k, cam in cams.items()}
        assert made[pixel] == max(scores, key=lambda k: scores[k])
    assert {0, 2, 5} == set(np.unique(made))
    assert (from_boxes.cam(blank((6, 7), cams={}, background=None)) == UNLABELED).all()


def test_grabcut_and_cams_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows: GrabCut's segment is 0 … 3; columns: the CAM's class is found in 2 … 5 of the upper half only."""
    segment = np.zeros((8, 8), bool)
    segment[:4] = True
    monkeypatch.setattr(from_boxes, "grabcut_segment", lambda *_: segment)
    cam, box = np.zeros((8, 8)), [[0, 0, 8, 7]]
    cam[2:6, :] = 1
    made = from_boxes.grabcut_cam(blank((8, 8), [2], box, cams={2: cam}))
    expected = np.zeros((8, 8), int)
    expected[:2], expected[2:4, :7], expected[2:4, 7] = UNLABELED, 2, UNLABELED
    expected[4:6, :7] = UNLABELED  # the CAM alone, within the box
    np.testing.assert_array_equal(made, expected)
    # Another class is seen there, or the class on less than 15 % of the segment: GrabCut alone.
    few = np.zeros((8, 8))
    few[0, :4] = 1
    for cams in ({3: cam}, {}, {2: few}):
        alone = from_boxes.grabcut_cam(blank((8, 8), [2], box, cams=cams))
        np.testing.assert_array_equal(alone, np.where(segment, 2, 0))


@pytest.mark.parametrize("form", from_boxes.NEED_CAMS)
def test_maps_that_are_missing_or_do_not_fit_are_refused(form: str) -> None:
    image, mask = scene(0)
    with pytest.raises(ValueError, match="need class activation maps, and there are none"):
        from_boxes.simulate(form, image, mask, rng())
    with pytest.raises(ValueError, match=r"the CAM of class 2 has shape \(3, 3\), its image \(48, 56\)"):
        from_boxes.simulate(form, image, mask, rng(), cams={2: np.zeros((3, 3))})


def test_void_of_a_mask_is_no_label_but_annotated_boxes_do_not_know_it() -> None:
    image, mask = scene(5)
    mask[:3] = VOID
    boxes = Boxes(mask.shape, (2,), np.array([[2, 5, 30, 30]]))
    assert (from_boxes.simulate("grabcut", image, mask, rng())[:3] == UNLABELED).all()
    made = from_boxes.simulate("grabcut", image, mask, rng(), boxes=boxes)
    assert set(np.unique(made)) == {0, 2}


def test_published_boxes_and_maps_are_used_where_a_split_has_them(tmp_path) -> None:
    split = sets.load("shapes", "train", count=2)
    plain = {form: sets.sparse_labels(split, form, {}, 0, tmp_path) for form in ("boxes", "grabcut", "points")}
    cams = [{4: np.random.default_rng(i).random((64, 64))} for i in range(2)]
    split = replace(split, boxes=[Boxes((64, 64), (4,), np.array([[3, 4, 50, 60]]))] * 2, cams=cams)
    for form in (*plain, *from_boxes.NEED_CAMS):
        made = sets.sparse_labels(split, form, {}, 0, tmp_path)  # what is kept without them is another file
        assert set(np.unique(made)) <= ({0, 4, UNLABELED} if form != "points" else {*range(7), UNLABELED})
        if form != "points":
            assert (made[:, :3] == 0).all() != (form == "cam")  # which sees no boxes
    assert (sets.sparse_labels(split, "points", {}, 0, tmp_path) == plain["points"]).all()
    assert sets.label_source(split, "boxes", {}) == "published: boxes of the data set's annotations"
    assert sets.label_source(split, "grabcut_cam", {}) == "grabcut_cam from published boxes and published cams"
    of_a_run = replace(split, cams=[{4: 1 - maps[4]} for maps in cams], cams_from="CAMs of a run")
    assert sets.label_source(of_a_run, "cam", {}) == "cam from CAMs of a run"
    first, other = (sets.sparse_labels(one, "cam", {}, 0, tmp_path) for one in (split, of_a_run))
    assert (first != other).any(), "labels of other maps are not read from the same file"

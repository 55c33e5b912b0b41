"""CamVid's reader and the checks of image and mask folders below it."""

import numpy as np
import pytest
from PIL import Image

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public import camvid
from tests.helpers import shared

CODES = {**{k: k for k in range(11)}, 11: VOID}
few = pytest.mark.filterwarnings("ignore:CamVid .* images, not")


def write(root, split, stem, *, image=None, mask=None, suffix=".png"):
    """An image and a mask of 12 x 8 pixels, or the given ones."""
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(stem))
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8) if image is None else image
    mask = rng.integers(0, 12, (8, 12), dtype=np.uint8) if mask is None else mask
    Image.fromarray(image).save(root / split / f"{stem}{suffix}")
    Image.fromarray(mask).save(root / f"{split}annot" / f"{stem}.png")
    return image, mask


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for stem in ("a", "bb"):
            write(tmp_path, split, stem)
    return tmp_path


def test_names_and_colors():
    assert len(camvid.CLASS_NAMES) == len(camvid.PALETTE) == len(set(camvid.PALETTE)) == 11


@few
def test_reads_images_and_translates_masks(tmp_path):
    image, mask = write(tmp_path, "train", "frame")
    split = camvid.load(tmp_path, "train")
    assert (split.dataset, split.ids, split.background, split.instances) == ("camvid", ("frame",), None, None)
    np.testing.assert_array_equal(split.images[0], image)
    np.testing.assert_array_equal(split.truth[0], np.where(mask == 11, 255, mask))
    assert split.images.dtype == split.truth.dtype == np.uint8


@few
def test_images_are_sorted_by_name_and_paired_by_it(tmp_path):
    expected = {stem: write(tmp_path, "val", stem, suffix=suffix) for stem, suffix in [("z", ".png"), ("mm", ".jpg")]}
    (tmp_path / "val" / ".hidden.png").write_bytes(b"")
    (tmp_path / "val" / "Thumbs.db").write_bytes(b"")
    split = camvid.load(tmp_path, "val")
    assert split.ids == ("mm", "z")
    for i, stem in enumerate(split.ids):
        np.testing.assert_array_equal(split.truth[i], np.where(expected[stem][1] == 11, VOID, expected[stem][1]))


@few
def test_resizing(tmp_path):
    image, mask = write(tmp_path, "train", "frame")
    split = camvid.load(tmp_path, "train", size=(4, 6))
    assert split.images.shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(split.images[0], np.asarray(Image.fromarray(image).resize((6, 4), Image.BILINEAR)))
    np.testing.assert_array_equal(split.truth[0], np.where(mask == 11, VOID, mask)[1::2, 1::2])


def test_other_number_of_images_warns(root):
    with pytest.warns(UserWarning, match="CamVid train in .* has 2 images, not 367"):
        camvid.load(root, "train")


@few
def test_palette_masks_are_read_as_indices(tmp_path):
    _, mask = write(tmp_path, "train", "frame")
    picture = Image.fromarray(mask)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    picture.save(tmp_path / "trainannot" / "frame.png")
    np.testing.assert_array_equal(camvid.load(tmp_path, "train").truth[0], np.where(mask == 11, VOID, mask))


def test_gray_images_become_rgb(tmp_path):
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "gray.png"), np.stack([gray] * 3, axis=-1))


def test_sound_folders_have_no_problems(root):
    assert camvid.check(root) == []


def truncated_jpeg(root):
    path = root / "val" / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-150])
    (root / "val" / "a.png").unlink()


def truncated_mask(root):
    path = root / "valannot" / "a.png"
    path.write_bytes(path.read_bytes()[:60])


def not_an_image(root):
    (root / "val" / "a.png").write_text("hello")


def deep_mask(root):
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(root / "valannot" / "a.png")


def deep_image(root):
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(root / "val" / "a.png")


def rgb_mask(root):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "valannot" / "a.png")


def unknown_code(root):
    Image.fromarray(np.full((8, 12), 200, np.uint8)).save(root / "valannot" / "a.png")


def wider_mask(root):
    Image.fromarray(np.zeros((8, 13), np.uint8)).save(root / "valannot" / "a.png")


def no_mask(root):
    (root / "valannot" / "a.png").unlink()


def no_image(root):
    (root / "val" / "a.png").unlink()


BAD = [
    (truncated_jpeg, "val/a.jpg", "cannot be decoded"),
    (truncated_mask, "valannot/a.png", "cannot be decoded"),
    (not_an_image, "val/a.png", "cannot be decoded"),
    (deep_mask, "valannot/a.png", "16-bit mask"),
    (deep_image, "val/a.png", "16-bit"),
    (rgb_mask, "valannot/a.png", "mode RGB; save its class codes"),
    (unknown_code, "valannot/a.png", "code 200"),
    (wider_mask, "valannot/a.png", "13 x 8 pixels for an image of 12 x 8"),
    (no_mask, "valannot/a.png", "without its mask"),
    (no_image, "val/a.png", "without its image"),
]


@pytest.mark.parametrize(("spoil", "file", "message"), BAD, ids=[spoil.__name__ for spoil, *_ in BAD])
def test_bad_files_are_named(root, spoil, file, message):
    spoil(root)
    (problem,) = camvid.check(root)
    assert str(root / file) in problem
    assert message in problem
    assert "\n" not in problem
    with pytest.raises(ValueError, match="CamVid val in .*: 1 problem found") as error:
        camvid.load(root, "val")
    assert problem in str(error.value)


def test_the_first_bad_files_and_their_number_are_told(tmp_path):
    for i in range(7):
        write(tmp_path, "train", f"frame{i}", mask=np.full((8, 12), 200 + i, np.uint8))
    with pytest.raises(ValueError, match="7 problems found") as error:
        camvid.load(tmp_path, "train")
    lines = str(error.value).splitlines()
    assert [f"frame{i}.png" in lines[1 + i] for i in range(5)] == [True] * 5
    assert lines[6:] == ["  and 2 more"]


def test_no_problem_raises_nothing():
    image_files.raise_if_bad([], "anything")


def test_unequal_sizes_need_a_size(root):
    write(root, "val", "c", image=np.zeros((9, 9, 3), np.uint8), mask=np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match="c.png: not of the first image's size"):
        camvid.load(root, "val")
    with pytest.warns(UserWarning, match="3 images"):
        assert camvid.load(root, "val", size=(4, 4)).images.shape == (3, 4, 4, 3)


def test_two_images_of_one_name(root):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "val" / "a.jpg")
    with pytest.raises(ValueError, match="a.png: a second image beside a.jpg"):
        camvid.load(root, "val")


@pytest.mark.parametrize("call", [lambda root: camvid.load(root, "train"), camvid.check])
def test_missing_and_empty_folders_name_the_layout(tmp_path, call):
    with pytest.raises(FileNotFoundError, match="no folder .*train; .* must hold train/, trainannot/"):
        call(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder .*trainannot; .* must hold train/, trainannot/"):
        call(tmp_path)
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in .*train; .* must hold train/, trainannot/"):
        call(tmp_path)


def test_missing_files():
    with pytest.raises(FileNotFoundError, match="nowhere.png: no such file"):
        image_files.read_mask(camvid.Path("nowhere.png"), CODES)


def test_unknown_split(root):
    with pytest.raises(ValueError, match="unknown split 'training', choose one of train, val, test"):
        camvid.load(root, "training")


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_real_data(split, count):
    root = shared("data/camvid")
    loaded = camvid.load(root, split)
    assert loaded.images.shape == (count, 360, 480, 3)
    assert set(np.unique(loaded.truth)) == {*range(11), VOID}
    mask = np.asarray(Image.open(root / f"{split}annot" / f"{loaded.ids[-1]}.png"))
    np.testing.assert_array_equal(loaded.truth[-1], np.where(mask == 11, 255, mask))
    # Sky is bright and above, road below: a wrong class table or a wrong pairing would not show this.
    assert loaded.images[loaded.truth == 0].mean() > 1.5 * loaded.images[loaded.truth != 0].mean()
    assert np.bincount(loaded.truth[:, -60:].ravel(), minlength=256)[:11].argmax() == 3


def test_real_data_have_no_problems():
    assert camvid.check(shared("data/camvid"), splits=("val",)) == []

"""CamVid, which is read at once, and what is said of bad files of images and masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agmm.codes import VOID
from agmm.data import image_files
from agmm.data.public.scenes import CAMVID
from tests import layouts
from tests.helpers import shared

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not [0-9]+")


def write(root, stem, *, image=None, mask=None, suffix=".png"):
    """Write an image and a mask of "val", of 12 x 8 pixels or as given."""
    rng = np.random.default_rng(len(stem))
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8) if image is None else image
    mask = rng.integers(0, 12, (8, 12), dtype=np.uint8) if mask is None else mask
    layouts.save_index(root / "val" / f"{stem}{suffix}", image)
    layouts.save_index(root / "valannot" / f"{stem}.png", mask)
    return image, mask


@pytest.fixture
def root(tmp_path):
    for stem in ("a", "bb"):
        write(tmp_path, stem)
    return tmp_path


def test_images_are_sorted_by_name_and_paired_by_it(tmp_path):
    expected = {stem: write(tmp_path, stem, suffix=suffix)[1] for stem, suffix in [("z", ".png"), ("mm", ".jpg")]}
    (tmp_path / "val" / ".hidden.png").write_bytes(b"")
    (tmp_path / "val" / "Thumbs.db").write_bytes(b"")
    split = CAMVID.load(tmp_path, "val")
    assert split.ids == ("mm", "z")
    for stem, mask in zip(split.ids, split.truth, strict=True):
        np.testing.assert_array_equal(mask, np.where(expected[stem] == 11, VOID, expected[stem]))


def test_resizing(tmp_path):
    image, mask = write(tmp_path, "frame")
    split = CAMVID.load(tmp_path, "val", size=(4, 6))
    assert split.images.shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(split.images[0], np.asarray(Image.fromarray(image).resize((6, 4), Image.BILINEAR)))
    np.testing.assert_array_equal(split.truth[0], np.where(mask == 11, VOID, mask)[1::2, 1::2])
    write(tmp_path, "other", image=np.zeros((9, 9, 3)), mask=np.zeros((9, 9)))
    with pytest.raises(ValueError, match="other.png: not of the first image's size"):
        CAMVID.load(tmp_path, "val")
    assert CAMVID.load(tmp_path, "val", size=(4, 4)).images.shape == (2, 4, 4, 3)


def test_palette_masks_are_read_as_indices(tmp_path):
    _, mask = write(tmp_path, "frame")
    layouts.save_index(tmp_path / "valannot" / "frame.png", mask, palette=True)
    np.testing.assert_array_equal(CAMVID.load(tmp_path, "val").truth[0], np.where(mask == 11, VOID, mask))


def save(array):
    return lambda path: Image.fromarray(array).save(path)


def cut_jpeg(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-150])
    path.with_suffix(".png").unlink()


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("val/a.jpg", cut_jpeg, "cannot be decoded"),
        ("valannot/a.png", lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be decoded"),
        ("val/a.png", lambda path: path.write_text("hello"), "cannot be decoded"),
        ("valannot/a.png", save(np.zeros((8, 12), np.uint16)), "more than 8 bits"),
        ("val/a.png", save(np.zeros((8, 12), np.uint16)), "16-bit"),
        ("valannot/a.png", save(np.zeros((8, 12, 3), np.uint8)), "holds colors (mode RGB)"),
        ("valannot/a.png", save(np.full((8, 12), 200, np.uint8)), "code 200"),
        ("valannot/a.png", save(np.zeros((8, 13), np.uint8)), "is for 13 x 8 pixels, its image has 12 x 8"),
        ("valannot/a.png", Path.unlink, "without its mask"),
        ("val/a.png", Path.unlink, "without its image"),
    ],
)
def test_bad_files_are_named(root, file, spoil, message):
    spoil(root / file)
    (problem,) = CAMVID.check(root, ("val",))
    assert str(root / file) in problem
    assert message in problem
    assert "\n" not in problem
    with pytest.raises(ValueError, match="CamVid val in .*: 1 problem found") as error:
        CAMVID.load(root, "val")
    assert problem in str(error.value)


def test_the_first_bad_files_and_their_number_are_told(tmp_path):
    for i in range(7):
        write(tmp_path, f"frame{i}", mask=np.full((8, 12), 200 + i))
    with pytest.raises(ValueError, match="7 problems found") as error:
        CAMVID.load(tmp_path, "val")
    lines = str(error.value).splitlines()
    assert [f"frame{i}.png" in lines[1 + i] for i in range(5)] == [True] * 5
    assert lines[6:] == ["  and 2 more"]


def test_two_images_of_one_name(root):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "val" / "a.jpg")
    with pytest.raises(ValueError, match="a.png: a second image beside a.jpg"):
        CAMVID.load(root, "val")


@pytest.mark.parametrize("call", [lambda root: CAMVID.load(root, "train"), CAMVID.check])
def test_missing_and_empty_folders_name_the_layout(tmp_path, call):
    for name in ("train", "trainannot", ""):
        message = f"no folder .*{name}" if name else "no images of train"
        with pytest.raises(FileNotFoundError, match=f"CamVid: {message}; .* must hold train/, trainannot/"):
            call(tmp_path)
        (tmp_path / name).mkdir(exist_ok=True)


def test_files_that_are_not_there():
    for read in (image_files.read_image, image_files.read_size, lambda path: image_files.read_mask(path, {0: 0})):
        with pytest.raises(FileNotFoundError, match="nowhere.png: no such file"):
            read(Path("nowhere.png"))


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_real_data(split, count):
    root = shared("data/camvid")
    loaded = CAMVID.load(root, split)
    assert loaded.images.shape == (count, 360, 480, 3)
    assert set(np.unique(loaded.truth)) == {*range(11), VOID}
    mask = np.asarray(Image.open(root / f"{split}annot" / f"{loaded.ids[-1]}.png"))
    np.testing.assert_array_equal(loaded.truth[-1], np.where(mask == 11, 255, mask))
    # Sky is bright and above, road below: a wrong class table or a wrong pairing would not show this.
    assert loaded.images[loaded.truth == 0].mean() > 1.5 * loaded.images[loaded.truth != 0].mean()
    assert np.bincount(loaded.truth[:, -60:].ravel(), minlength=256)[:11].argmax() == 3


def test_real_data_have_no_problems():
    assert CAMVID.check(shared("data/camvid"), splits=("val",)) == []

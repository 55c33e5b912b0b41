"""Images as cameras, microscopes and satellites write them: turned, of any depth, and named where they are not read."""

import json
import logging
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps

from agmm import networks, own
from agmm.data import image_files, user_folder
from agmm.data.user_folder import pictures
from agmm.own import prediction
from tests.helpers import one_sentence
from tests.test_annotations import folders, names_file, write
from tests.test_cases import CASES, NAMES

SHORT = own.Options(side=48, steps=4, network="small")


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


# --- EXIF -------------------------------------------------------------------------------------------------------------


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_pixels_and_masks_turn_together(tmp_path, suffix):
    """Masks of the size of the stored pixels turn with their image, and others as their own EXIF data say."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    codes = Image.fromarray(pixels[..., 0] % 3)
    path, mask = tmp_path / f"a{suffix}", tmp_path / "mask.png"
    for orientation in range(1, 9):
        Image.fromarray(pixels).save(path, exif=exif(orientation))
        np.testing.assert_array_equal(pictures.read(path, {}), by_pillow(path))
        codes.save(mask, exif=exif(orientation))
        turned, about = by_pillow(mask), pictures.header(path)
        np.testing.assert_array_equal(user_folder.read_mask(mask, NAMES, about), turned)
        for given in [Image.fromarray(turned), codes][: 1 + (orientation > 4)]:
            given.save(mask)
            np.testing.assert_array_equal(user_folder.read_mask(mask, NAMES, about), turned)
    Image.fromarray(turned).save(mask, exif=exif(6))
    with one_sentence(ValueError, "mask.png is for .* EXIF orientation"):
        user_folder.read_mask(mask, NAMES, about)


@pytest.mark.parametrize(("form", "size", "click"), [("coco", (20, 30), (5, 5)), ("csv", None, (25, 5))])
def test_labels_fit_the_turned_image_and_refusals_name_exif_where_it_is_the_reason(tmp_path, form, size, click):
    """Coordinates that fit the image in both positions beside the size of the stored one, and those that fit this."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif(6))
    write(form, tmp_path / "labels", {"a": [(click, 1)]}, NAMES, size=size, suffix=".jpg")
    names_file(tmp_path, NAMES)
    (problem,), _ = own.check(*folders(tmp_path))
    assert "its EXIF orientation, 6, turns the image: draw labels on it as viewers show it" in problem
    write(form, tmp_path / "labels", {"a": [((5, 25), 1)]}, NAMES, size=(30, 20), suffix=".jpg")
    (sample,) = user_folder.render(user_folder.survey(*folders(tmp_path)), 64, width=1)
    assert (sample.image.shape, sample.labels[25, 5]) == ((30, 20, 3), 1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_exif_data_end_in_an_image_or_a_sentence(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.jpg"
    data, outcomes = exif(6), set()
    data[0x010F], data[0x011A], data[0x0132] = "Maker", 72.0, "2020:01:01 00:00:00"
    data.get_ifd(0x8769)[0x829A], data.get_ifd(0x8825)[2] = 0.01, (1.0, 2.0, 3.0)
    for _ in range(600):
        spoiled = np.frombuffer(data.tobytes(), np.uint8).copy()
        spoiled[rng.integers(6, len(spoiled), rng.integers(1, 12))] = rng.integers(0, 256)
        Image.new("RGB", (24, 16)).save(path, exif=spoiled[: rng.integers(6, 4 * len(spoiled))].tobytes())
        try:
            outcomes.add(pictures.read(path, {}).shape)
        except ValueError as error:
            outcomes.add(str(error).partition(" (")[0])
    assert outcomes - {f"{path}: cannot be decoded"} == {(24, 16, 3), (16, 24, 3)}
    for broken in sorted((CASES / "45-broken-exif" / "more").iterdir()):
        assert pictures.read(broken, {}).shape == (24, 16, 3)


# --- More than 8 bits -------------------------------------------------------------------------------------------------


def opencv(path, numbers, options=()):
    ordered = numbers if numbers.ndim == 2 else numbers[..., [2, 1, 0, 3][: numbers.shape[2]]]
    path.write_bytes(cv2.imencode(path.suffix, ordered, options)[1].tobytes())  # TIFF with LZW


def planes(path, numbers):
    tifffile.imwrite(path, np.moveaxis(numbers, 2, 0), photometric="minisblack", planarconfig="separate", byteorder=">")


FLOAT = (cv2.IMWRITE_TIFF_PREDICTOR, 3, cv2.IMWRITE_TIFF_COMPRESSION, 8)
packed = partial(tifffile.imwrite, compression="zlib", predictor=True)
DEEP = {
    "gray PNG": (".png", "uint16", (), opencv),
    "RGB PNG": (".png", "uint16", (3,), opencv),
    "RGBA PNG": (".png", "uint16", (4,), opencv),
    "gray TIFF": (".tif", "uint16", (), opencv),
    "RGB TIFF": (".tif", "uint16", (3,), opencv),
    "two channels": (".tif", "int32", (2,), partial(packed, photometric="minisblack", planarconfig="contig")),
    "five planes": (".tiff", "uint16", (5,), planes),
    "float": (".tif", "float32", (3,), partial(opencv, options=FLOAT)),
    "no data": (".tif", "int16", (), partial(tifffile.imwrite, extratags=[(42113, "s", 0, "-9", True)])),
}


def deep_folder(root, kind):
    """Three images, each brighter than the last, with clicks. Return their numbers, ranges and what they are as RGB."""
    suffix, dtype, channels, save = DEEP[kind]
    rng, numbers = np.random.default_rng(0), []
    (root / "images").mkdir()
    for stem, brightness in {"a": 1, "b": 3, "c": 9}.items():
        numbers.append((brightness * rng.gamma(2, 100, (24, 36, *channels))).astype(dtype))
        if kind == "no data":
            numbers[-1][:9] = -9
        save(root / "images" / f"{stem}{suffix}", numbers[-1])
    write("csv", root / "labels", dict.fromkeys("abc", [((5, 5), 1), ((20, 9), 2)]), NAMES, suffix=suffix)
    names_file(root, NAMES)
    known = np.reshape(numbers, (3, 24, 36, -1))[..., :3].astype(float)
    known[known == -9] = np.nan
    ranges = np.nanpercentile(known, (0.1, 99.9), axis=(0, 1, 2))
    colors = 255 * np.nan_to_num(np.clip((known - ranges[0]) / (ranges[1] - ranges[0]), 0, 1))
    if known.shape[-1] == 2:
        colors = np.concatenate([colors, np.zeros_like(colors[..., :1])], axis=-1)
    return numbers, ranges.T, np.broadcast_to(colors, (3, 24, 36, 3))


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_by_percentiles_of_their_folder(tmp_path, kind):
    _, ranges, colors = deep_folder(tmp_path, kind)
    problems, notes = own.check(*folders(tmp_path))
    assert not problems
    listed = user_folder.survey(*folders(tmp_path))
    (found,) = listed.scales.values()
    np.testing.assert_allclose(found, ranges, rtol=1e-6)
    for sample, wanted in zip(user_folder.render(listed, 99), colors, strict=True):
        np.testing.assert_allclose(sample.image, wanted, atol=0.501)
    assert ("hold 5 channels, of which the first three are read" in "\n".join(notes)) == (kind == "five planes")
    if kind == "RGB PNG":
        with one_sentence(ValueError, "a.png: a 16-bit"):  # Pillow would read 8 bits
            image_files.read_image(tmp_path / "images" / "a.png")


def test_a_model_keeps_the_scale_of_its_folder(tmp_path, monkeypatch, caplog):
    numbers, ranges, colors = deep_folder(tmp_path, "RGB TIFF")
    monkeypatch.setattr("agmm.own.options.EPOCH_STEPS", 2)
    with caplog.at_level(logging.INFO, "agmm"):
        own.train(*folders(tmp_path), tmp_path / "model", SHORT, device="cpu")
    assert "a.tif first, are of uint16 x 3, scaled to 8 bits from" in caplog.text
    kept = json.loads((tmp_path / "model" / "model.json").read_text())["scales"]
    np.testing.assert_allclose(kept["uint16 x 3"], ranges)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "images" / "a.tif", alone)
    for folder in ("images", "alone"):
        own.predict(tmp_path / "model", tmp_path / folder, tmp_path / f"predicted {folder}", device="cpu")
    masks = [np.asarray(Image.open(tmp_path / f"predicted {folder}/masks/a.png")) for folder in ("images", "alone")]
    np.testing.assert_array_equal(*masks)
    model = own.load(tmp_path / "model", "cpu")
    np.testing.assert_array_equal(own.mask(model, numbers[0]), masks[0])
    maps = [own.probabilities(model, image) for image in (numbers[0], colors[0].round().astype(np.uint8))]
    torch.testing.assert_close(*maps, rtol=0, atol=0)
    Image.new("RGB", (36, 24)).save(alone / "b.png")
    with one_sentence(ValueError, "b.png: an image of 8 bits, but the model has learned from uint16 x 3"):
        own.predict(tmp_path / "model", alone, tmp_path / "other", device="cpu")


def test_predict_names_what_it_leaves_out(tmp_path, monkeypatch, caplog):
    net = networks.build("small", 3, stem=8, feature_channels=16).eval()
    model = own.Model(net, NAMES, 0, 64, None, torch.device("cpu"))
    monkeypatch.setattr(prediction, "load", lambda *_: model)
    with caplog.at_level(logging.INFO, "agmm"):
        own.predict("model", CASES / "46-predict-other-endings" / "images", tmp_path)
    assert "1 files are left out" in caplog.text
    assert "six.HEIC" in caplog.text
    masks = {path.stem: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
    assert set(masks) == {"one", "two", "three", "four", "five"}
    assert masks["one"] == masks["two"] == masks["three"]  # the same JPEG
    deep = tmp_path / "deep"
    deep.mkdir()
    deep_folder(deep, "gray PNG")
    with one_sentence(ValueError, "a.png: an image of uint16 x 1, but the model has learned from 8 bits"):
        own.predict("model", deep / "images", tmp_path)

"""Batches: the same data whoever reads them, and what a step's means divide by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agmm import evaluation, gmm, labels
from agmm.codes import UNLABELED, VOID
from agmm.data import augment, disk_cache, image_files
from agmm.data.split import OnDemand
from agmm.evaluation import predict
from agmm.objectives.common import Batch
from agmm.training import batches
from agmm.training.batches import InMemory, OneByOne
from agmm.training.run import Run

K = 5
CPU = torch.device("cpu")
RUN = Run(preset="test", dataset="voc", augmentation="official", crop=24, batch_size=6, microbatch=2, normalize=True)
RNG = np.random.default_rng(0)
SIZES = [(int(h), int(w)) for h, w in RNG.integers(20, 40, (15, 2))]
IMAGES = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
SPARSE = [np.where(RNG.random(size) < 0.05, RNG.integers(0, K, size), UNLABELED).astype(np.uint8) for size in SIZES]
for _label in SPARSE:
    _label[:2] = VOID


def _steps(run: Run = RUN, epoch: int = 0) -> list[list[Batch]]:
    return list(OneByOne(run, IMAGES, SPARSE, K, CPU).epoch(epoch))


def _same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "image_classes"))


def test_images_are_augmented_and_normalized_one_by_one() -> None:
    """Image 3 wherever it turns up: its own random numbers, the classes of the whole image, ImageNet's statistics."""
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))[:12].tolist()  # two batches of 6
    flat = [(batch, i) for step in _steps() for batch in step for i in range(len(batch.images))]
    for index, (batch, i) in zip(order, flat, strict=True):
        drawn = np.random.default_rng((0, 0, index))
        image, sparse, _ = augment.official(IMAGES[index], SPARSE[index], 24, drawn, False)
        mean, std = np.array(evaluation.IMAGENET.mean), np.array(evaluation.IMAGENET.std)
        expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
        np.testing.assert_allclose(batch.images[i].numpy(), expected, atol=1e-5)
        np.testing.assert_array_equal(batch.labels[i].numpy(), sparse)
        np.testing.assert_array_equal(batch.image_classes[i].numpy(), np.isin(np.arange(K), SPARSE[index]))
    assert flat[0][0].labels.dtype == torch.int64
    inside = [np.isin(np.arange(K), batch.labels[i]) for batch, i in flat]
    assert any((batch.image_classes[i].numpy() != here).any() for (batch, i), here in zip(flat, inside, strict=True))


@pytest.mark.parametrize("decoded", [False, True])
def test_worker_processes_read_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decoded: bool) -> None:
    """From wherever, also from a file of decoded images whose own files are gone."""
    images = OnDemand(IMAGES.__getitem__, range(15))
    if decoded:
        paths = [tmp_path / f"{i}.png" for i in range(15)]
        for path, image in zip(paths, IMAGES, strict=True):
            Image.fromarray(image).save(path)
        images = disk_cache.keep(OnDemand(image_files.read_image, paths), tmp_path)
        for path in paths:
            path.unlink()
    expected = _steps()
    monkeypatch.setattr(predict, "readers", lambda device: 2)
    source = OneByOne(RUN, images, OnDemand(SPARSE.__getitem__, range(15)), K, CPU)
    other, found = list(source.epoch(1)), list(source.epoch(0))  # the processes stay from epoch to epoch
    for steps, same in ((found, True), (other, False)):
        pairs = [pair for two in zip(steps, expected, strict=True) for pair in zip(*two, strict=True)]
        assert [_same(a, b) for a, b in pairs] == [same] * 6


@pytest.mark.parametrize("augmentation", ["official", "dihedral"])
def test_processes_share_the_microbatches_of_a_step(monkeypatch: pytest.MonkeyPatch, augmentation: str) -> None:
    run = replace(RUN, augmentation=augmentation)
    square = [torch.from_numpy(np.stack([a[:20, :20] for a in arrays])) for arrays in (IMAGES, SPARSE)]
    classes = torch.ones(15, K, dtype=torch.bool)

    def epoch() -> list[list[Batch]]:
        return _steps(run) if augmentation == "official" else list(InMemory(run, *square, classes).epoch(0))

    whole = epoch()
    for rank in range(3):
        monkeypatch.setattr(batches, "rank_and_world", lambda rank=rank: (rank, 3))
        for all_parts, (part,) in zip(whole, epoch(), strict=True):
            assert _same(all_parts[rank], part)


@pytest.mark.parametrize("augmentation", ["official", "crop_flip", "dihedral"])
def test_left_and_right_change_places_with_the_image(augmentation: str) -> None:
    """Red grows towards the right and green downwards; the left is of class 1, the right of class 2 or unlabeled."""
    run = replace(RUN, augmentation=augmentation, normalize=False, crop=30)
    images, sparse = np.zeros((15, 64, 64, 3), np.uint8), np.full((15, 64, 64), 1, np.uint8)
    images[..., 0], images[..., 1] = np.linspace(0, 255, 64), np.linspace(0, 255, 64)[:, None]
    sparse[::2, :, 32:], sparse[1::2, :, 32:] = 2, UNLABELED
    classes = np.stack([labels.image_classes(label, K) for label in sparse])
    mirrored = (0, 2, 1, 3, 4)
    source: InMemory | OneByOne
    if run.augmentation == "official":
        source = OneByOne(run, images, sparse, K, CPU, None, mirrored)
    else:
        source = InMemory(run, *(torch.from_numpy(array) for array in (images, sparse, classes)), mirrored=mirrored)
    seen = set()
    for batch in (batch for epoch in range(4) for step in source.epoch(epoch) for batch in step):
        for image, label, present in zip(batch.images, batch.labels, batch.image_classes, strict=True):
            slopes = [(channel[:8, 7] - channel[:8, 0]).mean() for plane in image[:2] for channel in (plane, plane.T)]
            red_across, red_down, green_across, green_down = slopes
            turned = bool(red_across * green_down < red_down * green_across)
            left, right = (2, 1) if turned else (1, 2)
            assert set(label[image[0] < 0.45].tolist()) <= {left}
            assert set(label[image[0] > 0.55].tolist()) <= {right, UNLABELED}
            named = present.nonzero()[:, 0].tolist()
            assert named in ([left], [1, 2])
            seen.add((turned, len(named)))
    assert seen == {(turned, count) for turned in (False, True) for count in (1, 2)}


def test_means_extend_over_the_effective_batch() -> None:
    for step in _steps(replace(RUN, loss_scope="effective")):
        label = torch.cat([batch.labels for batch in step])
        for batch in step:
            assert batch.counts.labeled.item() == pytest.approx((label < K).sum().item() / 3)
            assert batch.counts.valid.item() == pytest.approx((label != VOID).sum().item() / 3)
    assert all(batch.counts is None for step in _steps() for batch in step)


def test_steps_are_refused_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches.steps(RUN, 13) == 2
    with pytest.raises(ValueError, match="5 training images are fewer than one batch of 6"):
        batches.steps(RUN, 5)
    monkeypatch.setattr(batches, "rank_and_world", lambda: (0, 2))
    with pytest.raises(ValueError, match="2 processes cannot share the 3 microbatches of a step evenly"):
        batches.steps(RUN, 13)


def test_batches_ahead_are_the_same_batches() -> None:
    """On a CPU untouched; on a GPU with the components of their labels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, sparse = torch.randint(256, (15, 40, 50, 3), dtype=torch.uint8), torch.randint(K, (15, 40, 50)).byte()
    tensors = (tensor.to(device) for tensor in (images, sparse, torch.ones(15, K, dtype=torch.bool)))
    source = InMemory(replace(RUN, augmentation="crop_flip"), *tensors)
    given, found = (list(steps) for steps in (source.epoch(0), batches.ahead(source.epoch(0), K, device)))
    assert len(given) == len(found) > 1
    for one, two in zip(given, found, strict=True):
        for a, b in zip(one, two, strict=True):
            assert _same(a, replace(b, components=None))
            if device.type == "cuda":
                assert torch.equal(b.components.present, gmm.components(a.labels, K).present)


def test_all_tensors_of_a_batch_are_found() -> None:
    (step,) = list(_steps(replace(RUN, loss_scope="effective")))[:1]
    part = replace(step[0], components=gmm.components(step[0].labels, K))
    found = {id(tensor) for tensor in batches._tensors(part)}
    known = (part.images, part.labels, part.image_classes, part.counts.labeled, part.counts.valid)
    assert found == {id(t) for t in (*known, part.components.classes, part.components.filled, part.components.counts)}

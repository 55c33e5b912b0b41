"""Evaluation: the metric, views and tiles as the original code has them, and whole data sets."""

import threading
from collections.abc import Callable
from dataclasses import astuple, replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import Tensor, nn

from agmm import evaluation
from agmm.codes import VOID
from agmm.data.split import OnDemand
from agmm.evaluation import Protocol, crf
from tests.helpers import golden

EXACT = {"rtol": 1e-10, "atol": 1e-12}
STORED_AS_FLOAT32 = {"rtol": 1e-6, "atol": 1e-7}


def tiny_network(arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float64):
    """The network behind the golden vectors: images -> probabilities."""
    w1, b1, w2, b2, w3, b3 = (torch.tensor(arrays[name], dtype=dtype) for name in ("w1", "b1", "w2", "b2", "w3", "b3"))

    def predict(images: Tensor) -> Tensor:
        y = F.conv2d(images, w1, b1, stride=2, padding=1).relu()
        y = F.conv2d(y, w2, b2, padding=2, dilation=2).relu()
        y = F.conv2d(y, w3, b3)
        return F.interpolate(y, size=images.shape[-2:], mode="bilinear", align_corners=True).softmax(dim=1)

    return predict


def shapes(predict: Mock) -> list[tuple[int, ...]]:
    """Shapes of what a recorded network was asked to predict."""
    return [tuple(call.args[0].shape) for call in predict.call_args_list]


class Thirds(nn.Module):
    """(features, logits) that depend on one pixel's color only: exact under crops, tiles and flips."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.training
        return images, 9 * images


def random_split(sizes: list[tuple[int, int]], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    truths = [rng.choice(np.array([0, 1, 2, VOID], np.uint8), size) for size in sizes]
    return images, truths


def counted(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return metrics.confusion_matrix(truth[truth < 3], predictions[truth < 3], labels=range(3))


@pytest.mark.parametrize(("data", "num_classes"), [("voc", 21), ("city", 19)])
def test_metric_equals_the_official_one(data: str, num_classes: int) -> None:
    arrays, _ = golden("eval_metric_iou")
    predictions = torch.tensor(arrays[f"{data}_pred"])
    truth = torch.tensor(arrays[f"{data}_gt"])
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for i, expected in enumerate(arrays[f"{data}_hist_after_each_image"]):
        confusion += evaluation.confusion_matrix(predictions[i], truth[i], num_classes)
        np.testing.assert_array_equal(confusion, expected)
    np.testing.assert_allclose(evaluation.iou(confusion), arrays[f"{data}_iou"], rtol=1e-12)
    assert evaluation.mean_iou(confusion) == pytest.approx(100 * arrays[f"{data}_miou"], rel=1e-12)
    with_unlabeled = torch.tensor(arrays[f"{data}_gt_withK"])
    confusion = evaluation.confusion_matrix(predictions, with_unlabeled, num_classes)
    np.testing.assert_array_equal(confusion, arrays[f"{data}_hist_withK"])


@pytest.mark.parametrize("wrong", [-1, 3, VOID])
def test_prediction_that_is_no_class_is_refused_where_it_counts(wrong: int) -> None:
    predictions = torch.tensor([[0, wrong]])
    with pytest.raises(ValueError, match=r"predictions must lie in 0 … 2"):
        evaluation.confusion_matrix(predictions, torch.tensor([[0, 1]]), 3)
    confusion = evaluation.confusion_matrix(predictions, torch.tensor([[0, VOID]]), 3)
    assert confusion.sum() == confusion[0, 0] == 1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_best_class_is_the_first_of_the_largest(memory_format: torch.memory_format) -> None:
    maps = torch.randint(0, 3, (2, 5, 40, 7), generator=torch.Generator().manual_seed(0)).float()
    best = evaluation.best_class(maps.contiguous(memory_format=memory_format))
    np.testing.assert_array_equal(best, maps.numpy().argmax(axis=1))


@pytest.mark.parametrize("case", ["eval_ms_test_voc", "eval_ms_test_odd"])
def test_multi_scale_equals_the_official_one(case: str) -> None:
    arrays, info = golden(case)
    assert list(evaluation.SCALES) == info["arguments"]["scales"]
    predict = Mock(side_effect=tiny_network(arrays))
    image = torch.tensor(arrays["image"]).double()
    probabilities = evaluation.multi_scale(predict, image)
    assert [list(shape[-2:]) for shape in shapes(predict)] == info["arguments"]["scaled_sizes"]
    np.testing.assert_allclose(probabilities, arrays["ms_f64"], **EXACT)
    np.testing.assert_array_equal(probabilities.argmax(dim=1), arrays["argmax"])
    single = evaluation.multi_scale(predict, image, (1.0,), flip=False)
    np.testing.assert_allclose(single, arrays["single_scale_f64_as_f32"], **STORED_AS_FLOAT32)
    float32 = evaluation.multi_scale(tiny_network(arrays, torch.float32), torch.tensor(arrays["image"]))
    np.testing.assert_allclose(float32, arrays["ms_f32"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_left_and_right_change_places_in_mirrored_views(merge: evaluation.Merge) -> None:
    """A network that calls red pixels right hands if green is on the viewer's right, and left hands otherwise."""

    class Sided(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            half = x.shape[-1] // 2
            facing = (x[:, 1, :, half:].sum((1, 2)) > x[:, 1, :, :half].sum((1, 2)))[:, None, None]
            hands = 5 * x[:, 0]
            right, left = torch.where(facing, hands, 0), torch.where(facing, 0, hands)
            return x, torch.stack([torch.ones_like(hands), right, left], dim=1)

    images = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    single = Protocol(merge=merge)
    flipped = replace(single, flip=True)
    swapped = replace(flipped, mirrored=(0, 2, 1))
    plain, together, ignored = (evaluation.predictor(Sided(), p)(images) for p in (single, swapped, flipped))
    if merge == "mean":
        torch.testing.assert_close(together, plain)
    else:
        torch.testing.assert_close(together, (2 * Sided()(images)[1]).softmax(1))
    assert (ignored - together).abs().max() > 0.3
    pixels = (255 * images).byte().movedim(1, -1)
    truths = Sided()(evaluation.to_input(pixels))[1].argmax(1).byte()
    counted = evaluation.evaluate(Sided(), pixels.numpy(), truths.numpy(), 3, swapped, batch_size=2, device="cpu")
    assert evaluation.mean_iou(counted) == 100


@pytest.mark.parametrize("flip", [False, True])
def test_largest_logits_of_the_scales_equal_a_loop(flip: bool) -> None:
    """ToCo's rule: at each scale the sum of the two maps, of all scales the largest, then the softmax."""
    logits_of = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
    images = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, 20 * logits_of(x)

    predict = evaluation.predictor(Net(), Protocol(scales=(1.0, 1.25, 1.5), flip=flip, merge="max"))
    with torch.no_grad():
        for image, found in zip(images, predict(images), strict=True):
            sums = []
            for size in ((20, 17), (25, 21), (30, 25)):
                view = F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)
                maps = [Net()(view)[1]] + [Net()(view.flip(3))[1].flip(3)] * flip
                sums.append(sum(F.interpolate(m, size=(20, 17), mode="bilinear", align_corners=True) for m in maps))
            expected = torch.stack(sums).amax(0)[0].softmax(0)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # logits are float32
    assert found.dtype == torch.float32


def test_views_that_are_predicted_together_are_bounded_in_pixels() -> None:
    arrays, _ = golden("eval_ms_test_odd")
    predict = Mock(side_effect=tiny_network(arrays))
    images = torch.rand(5, 3, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = evaluation.multi_scale(predict, images, (0.5, 1.0, 2.0), pixels=4 * 20 * 17)
    assert shapes(predict) == [(10, 3, 10, 8), (4, 3, 20, 17), (4, 3, 20, 17), (2, 3, 20, 17), *[(2, 3, 40, 34)] * 5]
    np.testing.assert_allclose(result, evaluation.multi_scale(predict, images, (0.5, 1.0, 2.0)), **EXACT)


def test_tiles_lie_where_the_official_ones_lie() -> None:
    arrays, _ = golden("eval_slide_tile_tables")
    for height, width, tile, _, count in arrays["summary"].tolist():
        expected = arrays[f"tiles_{height}x{width}_tile{tile}"]
        positions = evaluation.tile_positions(height, width, tile)
        assert len(positions) == count
        assert [[row, column, tile, tile] for row, column in positions] == expected.tolist()


@pytest.mark.parametrize("case", ["eval_slide_voc", "eval_slide_city"])
@pytest.mark.parametrize("batch", [1, 100])
def test_sliding_window_equals_the_official_one(case: str, batch: int) -> None:
    arrays, info = golden(case)
    image = torch.tensor(arrays["image"]).double()
    tile = info["arguments"]["tile_size"][0]
    predict = tiny_network(arrays)
    double = evaluation.sliding_window(predict, image, tile, double_softmax=True, batch=batch)
    np.testing.assert_allclose(double, arrays["probs_f64"], **EXACT)
    single = evaluation.sliding_window(predict, image, tile, batch=batch)
    np.testing.assert_allclose(single, arrays["probs_single_softmax_f64_as_f32"], **STORED_AS_FLOAT32)
    differing = (single.argmax(dim=1) != torch.tensor(arrays["argmax"])).sum()
    assert differing == info["arguments"]["pixels_where_argmax_of_double_and_single_softmax_differ"]


@pytest.mark.parametrize("shape", [(10, 16), (16, 10), (30, 41), (12, 12)])
def test_squares_show_the_whole_image_above_left(shape: tuple[int, int]) -> None:
    """What a network would see, and the way back: the nearest of the pixels predicted."""
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) + 0.1
    predict = Mock(return_value=torch.arange(24.0 * 24).view(1, 1, 24, 24).repeat(2, 3, 1, 1))
    found = evaluation.in_square(predict, images, 24)
    ((squares,), _) = predict.call_args
    assert squares.shape == (2, 3, 24, 24)
    height, width = (int((squares[0, 0] > 0).any(axis).sum()) for axis in (1, 0))
    assert max(height, width) == 24
    assert height * shape[1] == pytest.approx(width * shape[0], rel=0.05)
    assert (squares[..., height:, :] == 0).all()
    assert (squares[..., width:] == 0).all()
    torch.testing.assert_close(squares[..., :height, :width].mean(), images.mean(), rtol=0.05, atol=0)
    rows, columns = (torch.arange(side) * seen // side for side, seen in zip(shape, (height, width), strict=True))
    assert (found == 24 * rows[:, None] + columns).all()


def test_squares_are_what_a_test_predicts() -> None:
    """With a network that looks at single pixels nothing but the resizing makes a difference."""
    images = np.zeros((1, 20, 30, 3), np.uint8)
    images[:, :, 15:] = 255
    truth = (images[..., 0] > 0).astype(np.uint8)

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            assert images.shape[-2:] == (45, 45)
            logits = torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], 1)
            return images, logits

    found = evaluation.evaluate(Bright(), images, truth, 2, Protocol(long_side=45), batch_size=1, device="cpu")
    assert found.sum() == 600
    assert found.diagonal().sum() >= 580  # a column at the edge may fall to either side


def test_tiles_of_several_images_fill_a_batch() -> None:
    arrays, _ = golden("eval_slide_voc")
    predict = Mock(side_effect=tiny_network(arrays))
    images = torch.rand(3, 3, 16, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = evaluation.sliding_window(predict, images, 13, batch=4)
    number = 3 * len(evaluation.tile_positions(16, 22, 13))
    assert [shape[0] for shape in shapes(predict)] == [4] * (number // 4) + [number % 4] * (number % 4 > 0)
    for image, probabilities in zip(images, together, strict=True):
        np.testing.assert_allclose(probabilities, evaluation.sliding_window(predict, image[None], 13)[0], **EXACT)


@pytest.mark.parametrize("name", ["low", "narrow", "both"])
def test_small_image_is_padded_right_and_below_unlike_the_official_defect(name: str) -> None:
    arrays, info = golden("eval_slide_small_image")
    predict = tiny_network(arrays)
    image = torch.tensor(arrays[f"{name}_image"]).double()
    tile = info["arguments"]["tile_size"][0]
    height, width = image.shape[-2:]
    result = evaluation.sliding_window(predict, image, tile)
    padded = torch.zeros(1, 3, max(height, tile), max(width, tile), dtype=torch.float64)
    padded[..., :height, :width] = image
    expected = evaluation.sliding_window(predict, padded, tile) if name != "both" else predict(padded)
    assert result.shape == (1, 5, height, width)
    np.testing.assert_allclose(result, expected[..., :height, :width], **EXACT)
    official = torch.tensor(arrays[f"{name}_probs_f64"])
    assert not torch.allclose(evaluation.sliding_window(predict, image, tile, double_softmax=True), official)


@pytest.mark.parametrize("mode", ["original", "sliding_window"])
def test_modes_equal_the_official_evaluation(mode: str) -> None:
    arrays, info = golden("eval_evaluate_modes")
    num_classes, size = info["arguments"]["nclass"], info["arguments"]["crop_size"]
    predict = tiny_network(arrays)  # one pixel is a tie in float32: the two best differ by 6e-9
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for i in range(3):
        image, truth = torch.tensor(arrays[f"image{i}"]).double(), torch.tensor(arrays[f"mask{i}"])
        if mode == "sliding_window":
            probabilities = evaluation.sliding_window(predict, image, size, double_softmax=True)
        else:
            probabilities = predict(image)
        confusion += evaluation.confusion_matrix(probabilities.argmax(dim=1), truth, num_classes)
    np.testing.assert_allclose(evaluation.iou(confusion), arrays[f"iou_{mode}"], rtol=1e-12)
    assert evaluation.mean_iou(confusion) == pytest.approx(arrays[f"miou_percent_{mode}"].item(), rel=1e-12)


def test_refined_evaluation_equals_mean_field_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of two sizes, a few at a time, normalized for the network but not for the CRF."""
    images, truths = random_split([(12, 10), (9, 14), (12, 10), (12, 10)])
    parameters = crf.Parameters(5, 9, 2, 9, 9, 60)
    monkeypatch.setattr(evaluation.predict, "CRF_PIXELS", 2 * 12 * 10)
    normalization = evaluation.Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    protocol = Protocol(normalization, crf=parameters)
    found = evaluation.evaluate(Thirds(), images, truths, 3, protocol, batch_size=3, device="cpu")
    expected = np.zeros((3, 3), int)
    changed = 0
    for image, truth in zip(images, truths, strict=True):
        rgb = torch.from_numpy(image).movedim(-1, 0)[None]
        probabilities = (9 * evaluation.normalize(rgb / 255, normalization)).softmax(1)
        refined = crf.mean_field(probabilities, rgb, parameters, "lattice").argmax(1)[0]
        changed += int((refined != probabilities.argmax(1)[0]).sum())
        expected += counted(refined.numpy(), truth)
    np.testing.assert_array_equal(found, expected)
    assert changed > 0


GRAY = evaluation.Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "protocol", [Protocol(), Protocol(flip=True), Protocol(tile=5), Protocol(GRAY, flip=True, tile=5)]
)
@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_evaluate_counts_images_of_any_size(protocol: Protocol, batch_size: int) -> None:
    images, truths = random_split([(6, 8), (7, 5), (6, 8), (6, 8), (4, 4), (7, 5)])
    expected = sum(counted(i.argmax(axis=2), t) for i, t in zip(images, truths, strict=True))
    net = Thirds().train()
    confusion = evaluation.evaluate(net, images, truths, 3, protocol, batch_size=batch_size, device="cpu")
    assert net.training
    assert confusion.dtype == torch.int64
    np.testing.assert_array_equal(confusion, expected)


def test_evaluate_reads_ahead_and_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, truths = random_split([(6, 8), (7, 5), (6, 8), (6, 8), (4, 4), (7, 5)])
    expected = evaluation.evaluate(Thirds(), images, truths, 3, Protocol(), batch_size=2, device="cpu")
    threads = set()

    def read(index: int) -> np.ndarray:
        threads.add(threading.current_thread())
        return images[index]

    on_demand = OnDemand(read, range(len(images)))
    for readers in (0, 2):
        monkeypatch.setattr(evaluation.predict, "readers", lambda device, readers=readers: readers)
        threads.clear()
        found = evaluation.evaluate(Thirds(), on_demand, truths, 3, Protocol(), batch_size=2, device="cpu")
        assert torch.equal(found, expected)
        assert (threading.main_thread() in threads) == (readers == 0)


def test_input_is_scaled_and_normalized_per_channel() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    plain = evaluation.to_input(images)
    assert plain.dtype == torch.float32
    assert plain.shape == (2, 3, 4, 5)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(plain, images.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    normalized = evaluation.to_input(torch.tensor(images[0]), evaluation.IMAGENET)
    for channel, (mean, std) in enumerate(zip(*astuple(evaluation.IMAGENET), strict=True)):
        np.testing.assert_allclose(normalized[channel], (images[0, ..., channel] / 255 - mean) / std, atol=1e-5)
    for inputs, normalization in ((plain[0], None), (normalized, evaluation.IMAGENET)):
        colors = evaluation.denormalize(inputs, normalization)
        assert torch.equal((255 * colors).round(), plain[0].mul(255).round())


@pytest.mark.parametrize(
    ("sentence", "call"),
    [
        ("differ in shape", lambda: evaluation.confusion_matrix(torch.zeros(1, 4, 4), torch.zeros(4, 4), 3)),
        ("merge is 'median'; known: mean, max", lambda: Protocol(merge="median")),  # type: ignore[arg-type]
        ("0 x 2 pixels", lambda: evaluation.multi_scale(lambda images: images, torch.rand(1, 3, 3, 8), (0.25,))),
        ("at least one", lambda: evaluation.multi_scale(lambda images: images, torch.rand(1, 3, 3, 8), ())),
        ("must be positive, not 0", lambda: evaluation.tile_positions(20, 20, 0)),
        ("must be uint8", lambda: evaluation.to_input(np.zeros((4, 4, 3), np.float32))),
        ("must be uint8", lambda: evaluation.to_input(np.zeros((3, 4, 4), np.uint8))),
    ],
)
def test_mistakes_are_refused_in_words(sentence: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()

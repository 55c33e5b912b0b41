"""Prediction: masks of a folder of images by a trained model, pictures of them, and the model as an ONNX file."""

import hashlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from agmm import evaluation, networks
from agmm.codes import UNLABELED
from agmm.data import image_files, user_folder
from agmm.data.split import Split
from agmm.data.user_folder import pictures as user_pictures
from agmm.host import atomic_files
from agmm.training import loop, weights
from agmm.training.batches import normalization
from agmm.training.run import Run
from agmm.training.train import choose_device

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # largest difference of a probability between torch and onnxruntime


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and what is needed to predict with it."""

    net: networks.Segmenter  # in eval mode
    names: tuple[str, ...]  # of the K classes
    background: int | None  # its code
    side: int  # longest side of its training images, to which larger images are shrunk
    normalization: evaluation.Normalization | None  # of the network's input
    device: torch.device
    learned: frozenset[str] = frozenset()  # sha256 of each image that it was trained on, in the working size
    scales: user_pictures.Scales = field(default_factory=dict)  # of images of more than 8 bits


def load(model: str | Path, device: str = "auto") -> Model:
    """Read a trained model from the folder that `train` wrote; raise ValueError if there is none."""
    folder, where = Path(model), choose_device(device)
    try:
        content = json.loads((folder / "model.json").read_text())
        run, names = Run.from_dict(content["run"]), tuple(content["classes"])
        net = weights.build_network(replace(run, init="scratch"), len(names))
        loop.load_weights(net, folder / "model.safetensors", run.id)
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise ValueError(f"{folder}: no trained model, {name} is missing; check --model") from error
    except Exception as error:  # damaged JSON, weights of another network and all that safetensors may find
        raise ValueError(f"{folder / 'model.json'}: the model cannot be read ({error}); train it again") from error
    net.to(where).eval()
    about: dict[str, Any] = {"scales": content.get("scales", {}), "learned": frozenset(content.get("images", ()))}
    return Model(net, names, content["background"], content["side"], normalization(run), where, **about)


@torch.no_grad()
def probabilities(model: Model, image: np.ndarray) -> Tensor:
    """Return the probabilities (1, K, h, w) of an image in its working size.

    The image is (H, W, 3) uint8 or, for a model of images of more than 8 bits, an array of a file's numbers.
    """
    image = image if image.dtype == np.uint8 else user_pictures.rgb(image, model.scales)
    small = torch.from_numpy(user_folder.shrink(image, model.side).copy())[None].to(model.device)
    return model.net(evaluation.to_input(small, model.normalization))[1].float().softmax(dim=1)


def mask(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the predicted classes (H, W) uint8 of an image for `probabilities`, in the image's own size."""
    maps, size = probabilities(model, image), image.shape[:2]
    best = torch.full((1, 1, *size), -1.0, device=maps.device)
    classes = torch.zeros((1, 1, *size), dtype=torch.uint8, device=maps.device)
    for code in range(maps.shape[1]):  # one class at a time, as all of a photograph would not fit into memory
        large = F.interpolate(maps[:, code : code + 1], size, mode="bilinear", align_corners=False)
        classes[large > best] = code
        best = torch.maximum(best, large)
    return classes[0, 0].cpu().numpy()


def predict(
    model: str | Path, images: str | Path, out: str | Path, *, truth: str | Path | None = None, device: str = "auto"
) -> pd.DataFrame | None:
    """Predict masks of a folder of images by the model in the folder that `train` wrote.

    ``out`` is a new folder, or that of an earlier call. It receives ``masks/<id>.png`` (palette, index = class) and
    ``overlays/<id>.jpg`` for every image (`agmm.data.user_folder.images`), classes.csv with the colors and, if
    ``truth`` is a folder of dense masks of some of the images, report.csv. Return the IoU per class in per cent, in the
    images' own size, where there is truth. ValueError with a sentence about the first file that something is wrong
    with; then nothing is written.
    """
    out = output_folder(out, "classes.csv")
    net, images = load(model, device), Path(images)
    apart = [out] if truth is None else [out, Path(truth)]
    listed = user_folder.images(images, apart)
    masks = {} if truth is None else user_folder.dense_masks(Path(truth), listed, images)
    headers = user_pictures.headers(listed.values())
    for stem, path in listed.items():  # read all of them before the first mask is written
        user_pictures.read(path, net.scales)
        if stem in masks:
            user_folder.read_mask(masks[stem], net.names, headers[path])
    drawn = {listed[stem]: () for stem in masks}
    for note in (*user_pictures.notes(headers, {}, drawn), *user_folder.skipped(images, apart)):
        loop.LOGGER.info(f"note: {note}")
    folders = len({path.parent for path in listed.values()})
    loop.LOGGER.info(f"{len(listed)} images to predict{f', in {folders} folders' if folders > 1 else ''}")
    # Of images that were not learned from, and of those that were.
    confusion, counts = torch.zeros(2, len(net.names), len(net.names), dtype=torch.int64), [0, 0]
    colors = palette(len(net.names), net.background)
    with atomic_files.writable(out / "masks", "--out"), atomic_files.writable(out / "overlays", "--out"):
        atomic_files.write_text(out / "classes.csv", legend(net.names, colors).to_csv(index=False))
        for stem, path in listed.items():
            image = user_pictures.read(path, net.scales)
            classes = mask(net, image)
            for part in ("masks", "overlays"):  # which mirror the folders in the folder of images
                (out / part / stem).parent.mkdir(parents=True, exist_ok=True)
            write_mask(out / "masks" / f"{stem}.png", classes, colors)
            laid = Image.fromarray(overlay(image, classes, colors, net.background))
            atomic_files.save(out / "overlays" / f"{stem}.jpg", partial(laid.save, format="JPEG", quality=90))
            if stem in masks:
                true = torch.tensor(user_folder.read_mask(masks[stem], net.names, headers[path]))
                small = user_folder.shrink(image, net.side)
                learned = hashlib.sha256(small.tobytes()).hexdigest() in net.learned
                confusion[int(learned)] += evaluation.confusion_matrix(torch.from_numpy(classes), true, len(net.names))
                counts[learned] += 1
        if truth is None:
            return None
        words = "dense masks", "dense masks; learned from, so this says nothing about others"
        table = pd.concat(
            iou_table(net.names, (100 * evaluation.iou(part)).tolist(), f"{count} images, {text}")
            for part, count, text in zip(confusion, counts, words, strict=True)
            if count
        )
        atomic_files.write_text(out / "report.csv", table.to_csv(index=False))
    return table


def labels_right(tests: Sequence[tuple[Model, Split]], names: Sequence[str], what: str) -> tuple[pd.DataFrame, str]:
    """Return how many labels models get right of images that they have not learned from: by class, and as a sentence.

    A label is a click, line or area of one class, right where most of its pixels are predicted to be of the class.
    """
    counts = np.zeros((len(names) + 1, 2), int)  # labels that are right, and all; the last row for all classes
    for model, test in tests:
        for image, labels in zip(test.images, test.truth, strict=True):
            predicted = mask(model, image)
            for code in np.unique(labels[labels < UNLABELED]):
                spots, count = ndimage.label(labels == code, np.ones((3, 3)))
                right = ndimage.mean(predicted == code, spots, range(1, count + 1)) > 0.5
                counts[code] += right.sum(), count
    counts[-1] = counts.sum(0)
    images, shares = sum(len(test) for _, test in tests), 100 * counts[:, 0] / np.maximum(counts[:, 1], 1)
    measured = f"{images} images, {what} only"
    table = pd.DataFrame({"class": [*names, "all"], "right": shares, what: counts[:, 1], "measured_on": measured})
    table.loc[counts[:, 1] == 0, "right"] = np.nan
    if not images:
        return table, "no figure, as all labeled images were learned from; label more, or use --validate cross"
    return table, f"{shares[-1]:.0f} % of {counts[-1, 1]} {what} right ({images} images; {what}, not outlines)"


def pictures(images: str | Path, predicted: str | Path, count: int = 4) -> list[dict[str, np.ndarray]]:
    """Return the first images of a folder with the masks that `predict` wrote to ``predicted``, for a gallery."""
    masks = Path(predicted) / "masks"
    files, read = user_folder.images(Path(images)), image_files.read_index
    scales = user_pictures.scales(user_pictures.headers(files.values()))
    return [
        {"image": user_pictures.read(path, scales), "prediction": read(masks / f"{stem}.png")}
        for stem, path in list(files.items())[:count]
    ]


def output_folder(out: str | Path, mark: str) -> Path:
    """Return the folder to write to; raise ValueError if it holds files without the ``mark`` of an earlier call."""
    out = Path(out)
    if out.exists() and not (out.is_dir() and ((out / mark).exists() or not any(out.iterdir()))):
        raise ValueError(f"{out}: holds files that would be mixed with new ones; name a new folder with --out")
    return out


def iou_table(names: Sequence[str], iou: Sequence[float | None], measured: str) -> pd.DataFrame:
    """Return a table of the IoU in per cent of every class that occurs, and their mean."""
    values = pd.Series([*iou], dtype=float)
    return pd.DataFrame({"class": [*names, "mean"], "iou": [*values, values.mean()], "measured_on": measured})


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, background: int | None) -> np.ndarray:
    """Lay classes over an image in half-transparent colors, all but the background."""
    mixed = (image.astype(np.uint16) + colors[classes]) // 2
    return np.where((classes == background)[..., None], image, mixed).astype(np.uint8)


def palette(count: int, background: int | None) -> np.ndarray:
    """Return colors (K, 3) uint8 of classes: those of VOC's masks from 1 on, and black for the background."""
    numbers = [0 if code == background else code + (background is None or code < background) for code in range(count)]
    bits = (np.array(numbers)[:, None, None] >> (3 * np.arange(8) + np.arange(3)[:, None])) & 1
    return (bits << (7 - np.arange(8))).sum(axis=2).astype(np.uint8)


def legend(names: Sequence[str], colors: np.ndarray) -> pd.DataFrame:
    """Return code, name and hexadecimal color of every class."""
    hexadecimal = ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]
    return pd.DataFrame({"code": range(len(names)), "class": names, "color": hexadecimal})


def write_mask(path: Path, index: np.ndarray, colors: np.ndarray) -> None:
    """Write an (H, W) uint8 mask of classes as a PNG with a palette of their colors."""
    image = Image.fromarray(index)
    image.putpalette(colors.tobytes())
    atomic_files.save(path, partial(image.save, format="PNG"))


class _Probabilities(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to class probabilities (B, K, H, W), normalization included."""

    def __init__(self, net: nn.Module, normalization: evaluation.Normalization | None) -> None:
        super().__init__()
        self.net = net
        mean, std = (normalization.mean, normalization.std) if normalization else ((0.0,) * 3, (1.0,) * 3)
        self.mean, self.std = (nn.Buffer(torch.tensor(channels)[:, None, None]) for channels in (mean, std))

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of the classes."""
        return self.net((images - self.mean) / self.std)[1].softmax(dim=1)


def require_onnx() -> None:
    """Raise a RuntimeError with a remedy where a package that the export needs is missing."""
    if names := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"ONNX export needs {', '.join(names)}: pip install 'agmm[onnx]', or leave it out")


def export_onnx(net: nn.Module, normalization: evaluation.Normalization | None, path: Path) -> float:
    """Write a network as one file for images of any size, and compare what it predicts.

    The network (B, 3, H, W) -> (features, logits) is on the CPU, in eval mode; normalization becomes a part of the
    file. Return the largest difference of a probability between torch and onnxruntime, at two sizes. RuntimeError if a
    package is missing, or the file predicts otherwise; then it is not written.
    """
    require_onnx()
    module = _Probabilities(net, normalization).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program: Any = torch.onnx.export(
            module,
            (torch.rand(2, 3, 64, 96),),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),),
            dynamo=True,
            verbose=False,
        )
    content = program.model_proto.SerializeToString()
    difference = max(_difference(module, content, size) for size in ((64, 96), (75, 50)))
    if not difference <= TOLERANCE:  # or NaN
        what = f"onnxruntime's probabilities differ from torch's by {difference:.2g}"
        raise RuntimeError(f"{what}; {path} is not written")
    atomic_files.write(path, content)
    return difference


@torch.no_grad()
def _difference(module: nn.Module, content: bytes, size: tuple[int, int]) -> float:
    """Return the largest difference between onnxruntime's and torch's probabilities of a random image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    (probabilities,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(probabilities - module(images).numpy()).max())

"""Prediction: masks of a folder of images by a trained model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import evaluation, networks
from agmm.data import image_files
from agmm.data.own import palettes, survey
from agmm.host import atomic_files
from agmm.training import loop, weights
from agmm.training.batches import normalization
from agmm.training.run import Run
from agmm.training.train import choose_device


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and what is needed to predict with it."""

    net: networks.Segmenter  # in eval mode
    names: tuple[str, ...]  # of the K classes
    background: int | None  # its code
    side: int  # longest side of its training images, to which larger images are shrunk
    normalization: evaluation.Normalization | None  # of the network's input
    device: torch.device


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
        raise ValueError(f"{folder}: the model cannot be read ({error}); train it again") from error
    net.to(where).eval()
    return Model(net, names, content["background"], content["side"], normalization(run), where)


@torch.no_grad()
def probabilities(model: Model, image: np.ndarray) -> Tensor:
    """Return the probabilities (1, K, h, w) of an (H, W, 3) uint8 image, in its working size."""
    small = torch.from_numpy(survey.shrink(image, model.side).copy())[None].to(model.device)
    return model.net(evaluation.to_input(small, model.normalization))[1].float().softmax(dim=1)


def mask(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the predicted classes (H, W) uint8 of an (H, W, 3) uint8 image, in the image's own size."""
    maps, size = probabilities(model, image), image.shape[:2]
    best = torch.full((1, 1, *size), -1.0, device=maps.device)
    classes = torch.zeros((1, 1, *size), dtype=torch.uint8, device=maps.device)
    for code in range(maps.shape[1]):  # one class at a time, as all of a photograph would not fit into memory
        large = F.interpolate(maps[:, code : code + 1], size, mode="bilinear", align_corners=False)
        classes[large > best] = code
        best = torch.maximum(best, large)
    return classes[0, 0].cpu().numpy()


def predict(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    truth: str | Path | None = None,
    device: str = "auto",
) -> pd.DataFrame | None:
    """Predict masks of a folder of images.

    Parameters
    ----------
    model : path
        Folder that `train` wrote.
    images : path
        Folder of images.
    out : path
        A new folder, or that of an earlier call. Receives ``masks/<name>.png`` (palette, index = class),
        ``overlays/<name>.jpg``, classes.csv with the colors and, with ``truth``, report.csv.
    truth : path, optional
        Folder of dense masks of some of the images.
    device : str

    Returns
    -------
    DataFrame or None
        IoU per class in per cent, in the images' own size, where there is truth.

    Raises
    ------
    ValueError
        With a sentence about the first file that something is wrong with; then nothing is written.
    """
    out = output_folder(out, "classes.csv")
    net, listed = load(model, device), survey.images(Path(images))
    masks = {} if truth is None else survey.dense_masks(Path(truth), listed)
    for stem, path in listed.items():  # read all of them before the first mask is written
        size = image_files.read_image(path, upright=True).shape[:2]
        if stem in masks:
            survey.read_mask(masks[stem], net.names, size)
    loop.LOGGER.info(f"{len(listed)} images to predict")
    confusion = torch.zeros(len(net.names), len(net.names), dtype=torch.int64)
    colors = palettes.palette(len(net.names), net.background)
    with atomic_files.writable(out / "masks", "--out"), atomic_files.writable(out / "overlays", "--out"):
        atomic_files.write_text(out / "classes.csv", palettes.legend(net.names, colors).to_csv(index=False))
        for stem, path in listed.items():
            image = image_files.read_image(path, upright=True)
            classes = mask(net, image)
            atomic_files.write(out / "masks" / f"{stem}.png", palettes.png(classes, colors))
            overlay = palettes.overlay(image, classes, colors, net.background)
            atomic_files.write(out / "overlays" / f"{stem}.jpg", palettes.jpeg(overlay))
            if stem in masks:
                true = torch.from_numpy(survey.read_mask(masks[stem], net.names, classes.shape))
                confusion += evaluation.confusion_matrix(torch.from_numpy(classes), true, len(net.names))
        if truth is None:
            return None
        iou = (100 * evaluation.iou(confusion)).tolist()
        table = iou_table(net.names, iou, f"{len(masks)} images, dense masks")
        atomic_files.write_text(out / "report.csv", table.to_csv(index=False))
    return table


def pictures(images: str | Path, predicted: str | Path, count: int = 4) -> list[dict[str, np.ndarray]]:
    """Return the first images of a folder with the masks that `predict` wrote to ``predicted``, for a gallery."""
    masks = Path(predicted) / "masks"
    return [
        {
            "image": image_files.read_image(path, upright=True),
            "prediction": image_files.read_index(masks / f"{stem}.png"),
        }
        for stem, path in list(survey.images(Path(images)).items())[:count]
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

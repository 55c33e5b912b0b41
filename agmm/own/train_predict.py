"""Images of your own: train on a folder with sparse labels, predict masks of others, say what is wrong with a folder.

``agmm train``, ``agmm predict`` and ``agmm check`` call these three functions. Formats and codes of labels are those of
`agmm.data.own.survey` and `agmm.data.own.annotations`.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import evaluation, networks
from agmm.codes import UNLABELED, VOID
from agmm.data import image_files
from agmm.data.own import palettes, prepared, survey
from agmm.host import atomic_files
from agmm.objectives import one_of
from agmm.own import onnx as exported
from agmm.training import loop, weights
from agmm.training import train as training
from agmm.training.batches import normalization
from agmm.training.run import Result, Run

CPU_STEPS, GPU_STEPS = 600, 4000
CPU_SIDE, GPU_SIDE = 256, 512
"""Steps and longest side of images by default: some minutes on a CPU, less than an hour on a GPU."""

EPOCH_STEPS = 25
"""Steps of an epoch at least, however few images there are: after each a checkpoint is written."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and what is needed to predict with it.

    Attributes
    ----------
    net : Segmenter
        In eval mode.
    names : tuple of str
        The K class names.
    background : int or None
        Code of the background.
    side : int
        Longest side of the images that it was trained on; larger ones are shrunk to it.
    normalization : dict
        Options of `agmm.evaluation.to_input`.
    device : torch.device
    """

    net: networks.Segmenter
    names: tuple[str, ...]
    background: int | None
    side: int
    normalization: dict[str, Any]
    device: torch.device


def train(
    images: str | Path,
    labels: str | Path,
    classes: str | Path,
    out: str | Path,
    *,
    truth: str | Path | None = None,
    complete: bool = False,
    method: str | None = None,
    network: str | None = None,
    init: str | None = None,
    side: int | None = None,
    steps: int | None = None,
    width: int = 3,
    validation: float = 0.2,
    seed: int = 0,
    device: str = "auto",
    onnx: bool = False,
) -> Result:
    """Train a network on images with sparse labels; an interrupted training is resumed by the same call.

    Parameters
    ----------
    images, labels, classes : path
        Folder of images; folder of masks or annotation files, or one such file; text file with a class name a line.
    out : path
        A new folder, or that of an earlier call. Receives model.safetensors, model.json, report.csv, log.txt, with
        ``onnx`` model.onnx; besides ``training`` with the images in their working size and the run as of `agmm.run`.
    truth : path, optional
        Folder of dense masks of some images: they are validated on, not learned from.
    complete : bool
        Whether the labels of an image name every class that it shows.
    method : {"AGMM", "Baseline"}, optional
        Default: AGMM with all its terms if labels are complete, else partial cross-entropy alone. The mixture has no
        component for a class that nobody clicked in an image, and from clicks that miss classes it was behind. AGMM of
        labels that are not complete goes without its absent-class loss.
    network : {"small", "resnet50"}, optional
        Default: ResNet-50 on a GPU, else the small network.
    init : {"imagenet", "scratch"}, optional
        Start of the ResNet-50. Default: ImageNet weights if they can be had; to look for them without a connection
        takes a minute. The small network starts from scratch.
    side : int, optional
        Longest side that larger images are shrunk to; default 256 on a CPU, 512 on a GPU.
    steps : int, optional
        Optimizer steps, rounded up to whole epochs; default 600 on a CPU, 4000 on a GPU.
    width : int
        Width of points and lines in pixels.
    validation : float
        Share of the labeled images to validate on.
    seed : int
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` …
    onnx : bool
        Export the network and check it with onnxruntime.

    Returns
    -------
    Result
        IoU of the validation images, in their working size.

    Raises
    ------
    ValueError
        With a sentence about the first file that something is wrong with; then nothing is written.
    """
    if onnx:
        exported.require()
    out, where = _output(out, "training"), training.choose_device(device)
    one_of("network", network, (None, "small", "resnet50"))
    small = (network or ("small" if where.type == "cpu" else "resnet50")) == "small"
    side = side or (CPU_SIDE if where.type == "cpu" else GPU_SIDE)
    steps = steps or (CPU_STEPS if where.type == "cpu" else GPU_STEPS)
    if min(side, steps, width) < 1 or not 0 <= validation < 1:
        raise ValueError("side, steps and width must be positive, and validation a share from 0 to below 1")
    found = survey.survey(Path(images), Path(labels), Path(classes), None if truth is None else Path(truth))
    with (
        atomic_files.writable(out.parent, "--out"),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".agmm-") as temporary,
    ):
        about = prepared.prepare(found, Path(temporary) / "data", side=side, width=width, validation=validation)
        run = describe(about, small=small, steps=steps, method=method, complete=complete, init=init, seed=seed)
        (out / "training").mkdir(parents=True, exist_ok=True)
        prepared.replace_folder(Path(temporary) / "data", out / "training" / "data")
    for line in summary(about, run):
        loop.LOGGER.info(line)
    # Batches come from files that are small already.
    results = out / "training"
    result = training.run(run, results=results, data_root=results / "data", device=device, keep_decoded=False)
    with atomic_files.writable(out, "--out"):
        _write_model(run, about, result, out)
        if onnx:
            exported.export(load(out, device="cpu").net, normalization(run), out / "model.onnx")
    return result


def _output(out: str | Path, mark: str) -> Path:
    """The folder to write to; a ValueError where it holds something, and not the ``mark`` of an earlier call."""
    out = Path(out)
    if out.exists() and not (out.is_dir() and ((out / mark).exists() or not any(out.iterdir()))):
        raise ValueError(f"{out}: holds files that would be mixed with new ones; name a new folder with --out")
    return out


def describe(
    about: prepared.Prepared,
    *,
    small: bool,
    steps: int,
    method: str | None = None,
    complete: bool = False,
    init: str | None = None,
    seed: int = 0,
) -> Run:
    """The run that suits a prepared folder.

    Few images are shown so often that an epoch has `EPOCH_STEPS`, those with rare classes more often. Options are those
    of `train`.
    """
    method = method or ("AGMM" if complete else "Baseline")
    run = _small(about) if small else _resnet50(about, init)
    shown = max(prepared.weights(about).sum(), EPOCH_STEPS * run.batch_size)
    per_epoch = math.ceil(shown / run.batch_size)
    terms = ("seg", "self", "spar", "con") + (("absent",) if complete else ())
    return replace(
        run,
        method=method,
        options=(("terms", terms),) if method == "AGMM" else (),
        train_images=per_epoch * run.batch_size,
        epochs=math.ceil(steps / per_epoch),
        seed=seed,
    )


def _small(about: prepared.Prepared) -> Run:
    return Run(
        preset="own",
        dataset="own",
        labels="own",
        label_options=(("data", about.digest),),
        normalize=True,
        network="small",
        network_options=(("stem", 24), ("feature_channels", 64)),
        batch_size=8,
        microbatch=8,
        # Crops of images that have been enlarged or shrunk by a factor of up to two.
        crop=max(32, about.side * 3 // 4),
        augmentation="official_clicks",
        history_images=0,
        threads=torch.get_num_threads(),
    )


def _resnet50(about: prepared.Prepared, init: str | None) -> Run:
    """On a GPU; the rates are those of camvid_r50 from scratch, and of Cityscapes' protocol from ImageNet."""
    run = replace(_small(about), network="resnet50", network_options=(), batch_size=16, microbatch=16, threads=1)
    run = replace(run, optimizer="sgd", weight_decay=1e-4, precision="bfloat16")
    if init is None:
        try:
            networks.build("resnet50", len(about.names), init="imagenet")
        except RuntimeError as error:
            loop.LOGGER.warning(f"training from scratch: {error}")
            init = "scratch"
    if init == "scratch":
        return replace(run, lr=0.01)
    return replace(run, init="imagenet", lr=0.004, head_factor=10)


def summary(about: prepared.Prepared, run: Run) -> Iterator[str]:
    """Lines that tell what is about to be trained."""
    validated = "dense masks" if about.dense else "their labels"
    overlap = " (the training images themselves: label more)" if set(about.validation) <= set(about.train) else ""
    yield f"{len(about.train)} images to learn from, {len(about.validation)} to validate on by {validated}{overlap}"
    for name, pixels, images in zip(about.names, about.labeled_pixels, about.labeled_images, strict=True):
        yield f"  {name}: {pixels} labeled pixels in {images} images" + (
            "" if pixels else ": it will never be predicted"
        )
    steps = (run.train_images or 0) // run.batch_size
    how = {"Baseline": "partial cross-entropy (AGMM if labels are complete)"}.get(run.method, run.method)
    yield f"{run.network} network, {how}, {run.epochs} epochs of {steps} steps"


def _write_model(run: Run, about: prepared.Prepared, result: Result, out: Path) -> None:
    folder = run.folder(out / "training")
    for name in ("model.safetensors", "log.txt"):
        atomic_files.write(out / name, (folder / name).read_bytes())
    described = {"classes": about.names, "background": about.background, "side": about.side}
    atomic_files.write_json(
        out / "model.json", described | {"run": run.to_dict(), "network": result.details["network"]}
    )
    measured = f"{len(about.validation)} images, {'dense masks' if about.dense else 'labels only'}"
    table = _report(about.names, result.iou, measured)
    table.insert(2, "labeled_pixels", [*about.labeled_pixels, sum(about.labeled_pixels)])
    table.insert(3, "labeled_images", [*about.labeled_images, len(about.train)])
    atomic_files.write_text(out / "report.csv", table.to_csv(index=False))


def _report(names: Sequence[str], iou: Sequence[float | None], measured: str) -> pd.DataFrame:
    """IoU in per cent of every class that occurs, and their mean."""
    values = [math.nan if value is None else value for value in iou]
    mean = float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
    return pd.DataFrame({"class": [*names, "mean"], "iou": [*values, mean], "measured_on": measured})


# --- Prediction -------------------------------------------------------------------------------------------------------


def load(model: str | Path, device: str = "auto") -> Model:
    """A trained model from the folder that `train` wrote; ValueError where it is none."""
    folder, where = Path(model), training.choose_device(device)
    try:
        about = json.loads((folder / "model.json").read_text())
        run, names = Run.from_dict(about["run"]), tuple(about["classes"])
        net = weights.build_network(replace(run, init="scratch"), len(names))
        loop.load_weights(net, folder / "model.safetensors", run.id)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: no trained model, {Path(error.filename).name} is missing; check --model"
        ) from error
    except Exception as error:  # damaged JSON, weights of another network and all that safetensors may find
        raise ValueError(f"{folder}: the model cannot be read ({error}); train it again") from error
    return Model(net.to(where).eval(), names, about["background"], about["side"], normalization(run), where)


@torch.no_grad()
def probabilities(model: Model, image: np.ndarray) -> Tensor:
    """Softmax of a model (1, K, h, w) for an (H, W, 3) uint8 image, in its working size."""
    small = torch.from_numpy(survey.shrink(image, model.side).copy())[None].to(model.device)
    return model.net(evaluation.to_input(small, **model.normalization))[1].float().softmax(dim=1)


def mask(model: Model, image: np.ndarray) -> np.ndarray:
    """Classes (H, W) uint8 that a model predicts for an (H, W, 3) uint8 image, in the image's own size."""
    maps = probabilities(model, image)
    size = image.shape[:2]
    best = torch.full((1, 1, *size), -1.0, device=maps.device)
    found = torch.zeros((1, 1, *size), dtype=torch.uint8, device=maps.device)
    for code in range(maps.shape[1]):  # one class at a time, as all of a photograph would not fit into memory
        large = F.interpolate(maps[:, code : code + 1], size, mode="bilinear", align_corners=False)
        found[large > best] = code
        best = torch.maximum(best, large)
    return found[0, 0].cpu().numpy()


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
    out = _output(out, "classes.csv")
    loaded, listed = load(model, device), survey.images(Path(images))
    masks = {} if truth is None else survey.dense_masks(Path(truth), listed)
    for stem, path in listed.items():  # all of them before the first is written
        size = image_files.read_image(path, upright=True).shape[:2]
        if stem in masks:
            survey.read_mask(masks[stem], loaded.names, size)
    loop.LOGGER.info(f"{len(listed)} images to predict")
    confusion = torch.zeros(len(loaded.names), len(loaded.names), dtype=torch.int64)
    colors = palettes.palette(len(loaded.names), loaded.background)
    with atomic_files.writable(out / "masks", "--out"), atomic_files.writable(out / "overlays", "--out"):
        atomic_files.write_text(out / "classes.csv", palettes.legend(loaded.names, colors).to_csv(index=False))
        for stem, path in listed.items():
            image = image_files.read_image(path, upright=True)
            predicted = mask(loaded, image)
            atomic_files.write(out / "masks" / f"{stem}.png", palettes.png(predicted, colors))
            shown = palettes.overlay(image, predicted, colors, loaded.background)
            atomic_files.write(out / "overlays" / f"{stem}.jpg", palettes.jpeg(shown))
            if stem in masks:
                true = torch.from_numpy(survey.read_mask(masks[stem], loaded.names, predicted.shape))
                confusion += evaluation.confusion_matrix(torch.from_numpy(predicted), true, len(loaded.names))
        if truth is None:
            return None
        iou = [None if math.isnan(value) else 100 * value for value in evaluation.iou(confusion).tolist()]
        table = _report(loaded.names, iou, f"{len(masks)} images, dense masks")
        atomic_files.write_text(out / "report.csv", table.to_csv(index=False))
    return table


def pictures(images: str | Path, predicted: str | Path, count: int = 4) -> list[dict[str, np.ndarray]]:
    """The first images of a folder with the masks that `predict` wrote to ``predicted``, for a gallery."""
    masks = Path(predicted) / "masks"
    return [
        {
            "image": image_files.read_image(path, upright=True),
            "prediction": image_files.read_index(masks / f"{stem}.png"),
        }
        for stem, path in list(survey.images(Path(images)).items())[:count]
    ]


# --- Check ------------------------------------------------------------------------------------------------------------


def check(
    images: str | Path, labels: str | Path, classes: str | Path, truth: str | Path | None = None
) -> tuple[list[str], list[str]]:
    """Read a folder as `train` would.

    Returns
    -------
    problems, notes : list of str
        A sentence per mistake, which must be corrected; what was found, class by class, and what looks odd.
    """
    try:
        found = survey.survey(Path(images), Path(labels), Path(classes), None if truth is None else Path(truth))
    except ValueError as error:
        return [str(error)], []
    problems, pixels, shown = list(found.problems), np.zeros(VOID + 1, int), np.zeros(VOID + 1, int)
    for sample in survey.render(found, CPU_SIDE):
        if sample.problem:
            problems.append(sample.problem)
        elif sample.labels is not None:
            counts = np.bincount(sample.labels.ravel(), minlength=VOID + 1)
            pixels, shown = pixels + counts, shown + (counts > 0)
    if not problems and not pixels[:UNLABELED].any():
        problems.append(survey.NOTHING_LABELED)
    for stem in sorted(found.images.keys() - set(found.labeled) - found.truth.keys()):
        try:
            image_files.read_image(found.images[stem])
        except ValueError as error:
            problems.append(str(error))
    return problems, [*_counted(found, pixels, shown), *found.notes]


def _counted(found: survey.Survey, pixels: np.ndarray, shown: np.ndarray) -> Iterator[str]:
    labeled = len(found.labeled)
    yield f"{len(found.images)} images, {labeled} with labels, {len(found.truth)} with dense masks"
    for code, name in enumerate(found.names):
        hint = "" if pixels[code] else ": it will never be predicted"
        yield f"  {name} (code {code}): {pixels[code]} labeled pixels in {shown[code]} images{hint}"
    if labeled and found.masks and not pixels[UNLABELED] and pixels[VOID]:
        yield (
            f"no pixel has code {UNLABELED}, many have {VOID}: {VOID} is ignored altogether; if it means that "
            f"nobody labeled the pixel, write {UNLABELED}, and unlabeled pixels are learned from, too"
        )
    if labeled < 10:
        yield f"only {labeled} labeled images: validation means little; label more, a few clicks each"

"""One run from data to result: train or load it, on which batches, and what is measured. The loop is `agmm.loop`."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from agmm import environment, evaluation, gmm, labels, loop, losses, methods, networks, objectives, storage
from agmm.data import Split, augment, sets
from agmm.loop import Batch
from agmm.runs import Result, Run, load_result

IMAGENET = {"mean": evaluation.IMAGENET_MEAN, "std": evaluation.IMAGENET_STD}


def run(
    run: Run, *, results: str | Path = "results", data_root: str | Path | None = None, device: str = "auto"
) -> Result:
    """Result of a run: loaded if complete, resumed if interrupted, trained otherwise.

    Two processes that ask for the same run train it once: the second waits for the first.

    Parameters
    ----------
    run : Run
    results : path
        Folder that holds ``<preset>/runs/<id>``.
    data_root : path, optional
        Where the data set lies; the embedded one needs none.
    device : str
        ``"auto"`` takes a GPU where there is one.

    Raises
    ------
    agmm.storage.StorageError
        If the results folder cannot be written.
    agmm.loop.TrainingDiverged
        If the loss becomes NaN or infinite.
    """
    return _complete(run, Path(results), data_root, device)


def _complete(run: Run, results: Path, data_root: str | Path | None, device: str) -> Result:
    if (done := load_result(run, results)) is not None:
        return done
    for need in run.requires:
        _complete(need, results, data_root, device)
    folder = run.folder(results)
    with storage.writable(folder), _lock(folder):
        # Another process may have finished it while this one waited.
        if (done := load_result(run, results)) is not None:
            return done
        storage.write_json(folder / "run.json", run.to_dict())
        result = train(run, results, data_root, device)
        if loop.is_main():
            storage.write_json(folder / "result.json", asdict(result))
    return result


def _lock(folder: Path) -> contextlib.AbstractContextManager[object]:
    """One process at a time, freed by the operating system if it dies; the processes of one ``torchrun`` share it."""
    return FileLock(folder / "lock") if int(os.environ.get("RANK", 0)) == 0 else contextlib.nullcontext()


def train(run: Run, results: Path, data_root: str | Path | None = None, device: str = "auto") -> Result:
    """Train one run whose required runs are complete, resuming from its ``checkpoint.pt`` if there is one.

    Its folder receives log.txt, history.csv and checkpoint.pt while training, then model.safetensors and
    environment.json.

    Parameters
    ----------
    run : Run
    results : Path
        Folder that holds ``<preset>/runs/<id>`` and ``cache``, for generated data and simulated labels.
    data_root : path, optional
        Folder of the data set.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` …

    Raises
    ------
    agmm.loop.TrainingDiverged
        If the loss becomes NaN or infinite; the last good checkpoint is kept.
    """
    where = choose_device(device)
    loop.join_torchrun(where)
    with _threads(run.threads, where):
        if run.method == "ImageTags":
            return _train_image_tags(run, results, where)
        return _train_segmenter(run, results, data_root, where)


def choose_device(device: str) -> torch.device:
    """``"auto"`` is a GPU where there is one; under ``torchrun`` each process takes its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use the device cpu")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(device)


def _train_segmenter(run: Run, results: Path, data_root: str | Path | None, device: torch.device) -> Result:
    folder, cache = run.folder(results), results / "cache"
    load = partial(sets.load, run.dataset, size=run.image_size, data_root=data_root, cache=cache)
    data, test = load("train", count=run.train_images), load("test", count=run.test_images)
    sparse = sets.sparse_labels(data, run.labels, dict(run.label_options), run.seed, cache)
    classes = np.stack([labels.image_classes(s, data.num_classes) for s in sparse])
    objective = methods.build(run.method, data.num_classes, **dict(run.options))
    net = build_network(run, data.num_classes)
    if run.pretraining is not None:
        loop.load_weights(net.backbone, _weights(run.pretraining, results))
    if isinstance(objective, nn.Module):
        # As a part of the network its parameters are distributed, optimized and resumed with the head.
        objective = net.objective = replace(objective, in_channels=net.feature_channels)
    net.to(device).to(memory_format=torch.channels_last)
    targets = sparse if run.teacher is None else _pseudo_labels(run.teacher, results, data, sparse, classes, device)
    tensors = _Tensors(
        _images(data).to(device), torch.from_numpy(targets).to(device), torch.from_numpy(classes).to(device)
    )

    needs = getattr(objective, "needs", ())

    def loss(module: nn.Module, batch: Batch) -> objectives.Output:
        with _autocast(run, device):
            features, logits, *inner = module(batch.images, inner="fused" in needs)
        given = dict(zip(("grid_logits", "fused"), inner, strict=False))
        if "images" in needs:
            given["images"] = evaluation.denormalize(batch.images, **normalization(run))
        return objective(features, logits, batch.labels, batch.image_classes, batch.counts, **given)

    def measure() -> dict[str, float]:
        curves = training_curves(net, objective, data, sparse, run, device)
        if run.selection == "best":
            curves["test_miou"] = evaluation.mean_iou(_evaluate(net, test, run, device))
        return curves

    groups = networks.parameter_groups(net, run.lr, run.head_factor)
    progress = _fit(run, net, groups, tensors, loss, measure, folder)
    if isinstance(objective, nn.Module):
        del net.objective
    started = time.perf_counter()
    confusion = _evaluate(net, test, run, device)
    found = labels.coverage(sparse, data.truth, data.num_classes)
    details = {
        "network": net.provenance,
        "init": f"{run.init}, run {run.pretraining.id}" if run.pretraining else run.init,
        "device": environment.device_name(device),
        "test_images": len(test),
        "train_images": len(data),
        "label_source": sets.label_source(data, run.labels, dict(run.label_options)),
        "labeled_share": float(found.pixel_share),
        "labeled_pixels_per_image": float(found.pixels_per_image),
        "coverage": float(found.pair_share),
    }
    progress.seconds += time.perf_counter() - started
    ious = [None if math.isnan(v) else 100 * v for v in evaluation.iou(confusion).tolist()]
    miou = evaluation.mean_iou(confusion)
    return _finish(run, folder, net, progress, len(data), miou, ious, confusion.tolist(), details, device)


def _pseudo_labels(
    teacher: Run, results: Path, data: Split, sparse: np.ndarray, classes: np.ndarray, device: torch.device
) -> np.ndarray:
    """Labels of a second stage: what the first one predicts for its training images, by its test procedure."""
    net = load_network(teacher, results, data.num_classes, device)
    options = _test_options(teacher, device)
    predict = evaluation.as_tested(net, **options)
    about = {"batch_size": options["batch_size"], "device": device, **normalization(teacher)}
    with _autocast(teacher, device):
        return evaluation.pseudo_labels(predict, data.images, sparse, classes, **about)


def load_network(run: Run, results: Path, num_classes: int, device: torch.device) -> networks.Segmenter:
    """Network of a complete run, in eval mode."""
    net = build_network(run, num_classes)
    loop.load_weights(net, _weights(run, results))
    return net.to(device).to(memory_format=torch.channels_last).eval()


def _weights(run: Run, results: Path) -> Path:
    """Weights of a complete run; ValueError where they have been deleted."""
    path = run.folder(results) / "model.safetensors"
    if not path.exists():
        raise ValueError(f"{path} is missing, and another run starts from it; delete its folder to train it again")
    return path


def _train_image_tags(run: Run, results: Path, device: torch.device) -> Result:
    """Pretrain the backbone to predict image tags: the embedded counterpart of ImageNet weights."""
    folder, cache = run.folder(results), results / "cache"
    data = sets.load(run.dataset, "pretrain", count=run.train_images, cache=cache)
    test = sets.load(run.dataset, "test", count=run.test_images, cache=cache)
    segmenter = build_network(run, data.num_classes)
    net = networks.TagClassifier(segmenter, data.num_classes - 1)
    net.to(device).to(memory_format=torch.channels_last)
    tags, test_tags = (
        torch.from_numpy(np.stack([labels.image_tags(mask, data.num_classes)[1:] for mask in split.truth])).to(device)
        for split in (data, test)
    )
    unused = torch.zeros(len(data), *data.truth[0].shape, dtype=torch.uint8, device=device)

    def loss(module: nn.Module, batch: Batch) -> objectives.Output:
        bce = F.binary_cross_entropy_with_logits(module(batch.images), batch.image_classes.float())
        return objectives.Output(bce, {"tags": bce})

    groups = [{"params": list(net.parameters()), "lr": run.lr}]
    progress = _fit(run, net, groups, _Tensors(_images(data).to(device), unused, tags), loss, dict, folder)
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(evaluation.to_input(part.to(device))) for part in _images(test).split(100)])
    accuracy = 100 * ((logits > 0) == test_tags).float().mean().item()
    details = {"network": segmenter.provenance, "metric": "correct tags, %", "device": environment.device_name(device)}
    return _finish(run, folder, segmenter.backbone, progress, len(data), accuracy, [], [], details, device)


def build_network(run: Run, num_classes: int) -> networks.Segmenter:
    """Network of a run with the head initialization of its seed."""
    torch.manual_seed(run.seed)
    init = "imagenet" if run.init == "imagenet" else "scratch"
    return networks.build(run.network, num_classes, init=init, **dict(run.network_options))


@dataclass
class _Tensors:
    """A training split in memory: images (N, H, W, 3) and labels (N, H, W) uint8, image classes (N, K) bool."""

    images: Tensor
    labels: Tensor
    image_classes: Tensor


def _fit(
    run: Run, net: nn.Module, groups: list[dict[str, Any]], data: _Tensors, loss: Any, measure: Any, folder: Path
) -> loop.Progress:
    steps = len(data.images) // run.batch_size
    if not steps:
        raise ValueError(f"{len(data.images)} training images are fewer than one batch of {run.batch_size}")
    return loop.fit(run, net, groups, partial(_batches, run, data), steps, loss, measure, folder)


def _batches(run: Run, data: _Tensors, epoch: int) -> Iterator[list[Batch]]:
    """The microbatches of every effective batch of an epoch; under ``torchrun``, those of this process.

    Every process draws the whole effective batch from the same generator and keeps its share, so the data do not depend
    on how many processes there are. An incomplete last batch is dropped.
    """
    generator = torch.Generator().manual_seed(loop.mix(run.seed, epoch))
    order = torch.randperm(len(data.images), generator=generator)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for index in order[: len(order) // run.batch_size * run.batch_size].split(run.batch_size):
        index = index.to(data.images.device)
        images, sparse, classes = data.images[index], data.labels[index], data.image_classes[index]
        if run.augmentation == "crop_flip":
            assert run.crop is not None
            images, sparse = augment.crop_flip(images, sparse, run.crop, generator)
        else:
            images, sparse = augment.dihedral(images, sparse, generator)
        sparse = sparse.long()
        counts = None
        if run.loss_scope == "effective":
            whole, share = losses.count(sparse, classes.shape[1]), run.microbatch / run.batch_size
            counts = losses.Counts(whole.labeled * share, whole.valid * share)
        inputs = evaluation.to_input(images, **normalization(run))
        parts = zip(*(tensor.split(run.microbatch) for tensor in (inputs, sparse, classes)), strict=True)
        yield [Batch(i, s, c, counts) for i, s, c in list(parts)[rank::world]]


@torch.no_grad()
def training_curves(
    net: nn.Module, objective: methods.Objective, data: Split, sparse: np.ndarray, run: Run, device: torch.device
) -> dict[str, float]:
    """mIoU on training images of P, of P restricted to the labeled classes, and of G (supplement, Fig. 2).

    Whole images without augmentation, measured against the dense truth, which serves nothing else. G chooses among an
    image's labeled classes only, so P restricted in the same way is the fair comparison.
    """
    net.eval()
    matrices: dict[str, Tensor] = {}
    images = min(run.history_images, len(data))
    for start in range(0, images, 50):
        part = slice(start, min(start + 50, images))
        truth = torch.from_numpy(np.asarray(data.truth[part])).to(device)
        label = torch.from_numpy(sparse[part]).to(device).long()
        with _autocast(run, device):
            features, logits = net(evaluation.to_input(_images(data, part).to(device), **normalization(run)))
        present = gmm.components(label, data.num_classes).present
        restricted = logits.masked_fill(~present[..., None, None], -torch.inf)
        predictions = {"p_miou": logits.argmax(1), "p_restricted_miou": restricted.argmax(1)}
        if isinstance(objective, objectives.AGMM):
            scores = objective(features, logits, label, present).scores
            predictions["g_miou"] = scores.masked_fill(~present[..., None, None], -1).argmax(1)
        for name, prediction in predictions.items():
            matrix = evaluation.confusion_matrix(prediction, truth, data.num_classes)
            matrices[name] = matrices.get(name, torch.zeros_like(matrix)) + matrix
    return {name: evaluation.mean_iou(matrix) for name, matrix in matrices.items()}


def _evaluate(net: nn.Module, test: Split, run: Run, device: torch.device) -> Tensor:
    with _autocast(run, device):
        return evaluation.evaluate(
            net,
            test.images,
            test.truth,
            test.num_classes,
            device=device,
            **_test_options(run, device),
            **normalization(run),
        )


def _test_options(run: Run, device: torch.device) -> dict[str, Any]:
    batch_size = 50 if device.type == "cpu" else 16
    return {"batch_size": batch_size, "scales": run.scales, "flip": run.flip, "tile": run.tile}


def _finish(
    run: Run,
    folder: Path,
    net: nn.Module,
    progress: loop.Progress,
    images: int,
    score: float,
    ious: list[float | None],
    confusion: list[list[int]],
    details: dict[str, Any],
    device: torch.device,
) -> Result:
    """Write the weights and the environment, drop the checkpoints."""
    per_epoch = images // run.batch_size * run.batch_size
    if loop.is_main():
        loop.save_weights(net, folder / "model.safetensors")
        storage.write_json(folder / "environment.json", environment.describe(device))
        for name in ("checkpoint.pt", "best.safetensors"):
            (folder / name).unlink(missing_ok=True)
        loop.log(folder, f"done: {score:.2f} on the test split")
    loop.wait_for_all()
    return Result(
        run_id=run.id,
        miou=score,
        iou=ious,
        confusion=confusion,
        epoch=progress.best_epoch or progress.epoch,
        seconds=progress.seconds,
        images_per_second=progress.epoch * per_epoch / progress.train_seconds,
        peak_memory_mb=environment.peak_memory_mb(device),
        details=details,
    )


def _images(split: Split, part: slice = slice(None)) -> Tensor:
    return torch.from_numpy(np.asarray(split.images[part]))


def normalization(run: Run) -> dict[str, Any]:
    """Options of `evaluation.to_input` for a run's images."""
    return IMAGENET if run.normalize else {}


def _autocast(run: Run, device: torch.device) -> torch.autocast:
    mixed = run.precision == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


@contextlib.contextmanager
def _threads(count: int, device: torch.device) -> Iterator[None]:
    """The run's number of threads on a CPU: another number sums in another order."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

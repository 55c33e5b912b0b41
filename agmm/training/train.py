"""One run from data to result: train or load it, on which batches, and what is measured."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from agmm import evaluation, labels, networks, objectives
from agmm.data import disk_cache, sets
from agmm.data import regions as oversegmentation
from agmm.data.split import Arrays, OnDemand, Split
from agmm.evaluation import crf
from agmm.host import atomic_files, machine
from agmm.objectives.common import Batch
from agmm.rivals import spml, toco
from agmm.training import batches, loop, methods, pseudo_labels, weights
from agmm.training.batches import normalization
from agmm.training.run import Result, Run, load_result
from agmm.training.where import Where, at

Source = batches.InMemory | batches.OneByOne

COUNTED_IMAGES = 1000
"""Images on which the coverage of the labels is counted."""

LATE_EPOCHS = 20
"""With sliding windows, only so many last epochs can be the best: AGMM's code tests earlier ones by a center crop."""


def run(
    run: Run,
    *,
    results: str | Path = "results",
    data_root: str | Path | None = None,
    device: str = "auto",
    keep_decoded: bool = True,
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
    keep_decoded : bool
        Whether the processes that read keep decoded images in a file below ``results/cache``, where it fits.

    Raises
    ------
    agmm.host.atomic_files.StorageError
        If the results folder cannot be written.
    agmm.training.loop.TrainingDiverged
        If the loss becomes NaN or infinite.
    """
    return complete(run, at(results, data_root, device, keep_decoded))


def complete(run: Run, where: Where) -> Result:
    """As `run`, with folders and device in one."""
    results = where.results
    if (done := load_result(run, results)) is not None:
        return done
    for need in run.requires:
        complete(need, where)
    folder = run.folder(results)
    with atomic_files.writable(folder), _lock(folder):
        # Another process may have finished it while this one waited.
        if (done := load_result(run, results)) is not None:
            return done
        atomic_files.tidy(folder)  # only processes that are dead have left anything, as this one holds the lock
        atomic_files.write_json(folder / "run.json", run.to_dict())
        result = train(run, where)
        if loop.is_main():
            atomic_files.write_json(folder / "result.json", asdict(result))
            # Not before: whoever is killed during the last test must not train again.
            drop_checkpoints(folder)
    return result


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in ("checkpoint.pt", "best.safetensors"):
        (folder / name).unlink(missing_ok=True)


def _lock(folder: Path) -> contextlib.AbstractContextManager[object]:
    """One process at a time; the processes of one ``torchrun`` share the lock.

    It is ``flock``, which the operating system frees when a process dies, so that no lock can be stale. NFS passes it
    on to the server (Linux 2.6.12 and later) and thus to other machines, and frees it when a machine is gone. A file
    system without it (ENOSYS) gets a file with machine and number of the process instead, which the machine itself sees
    through when the process is dead; one that refuses (ENOLCK) is an error. Only where NFS is mounted with ``nolock``
    does the lock not reach other machines: two of them may then train the same run, and as every file is written beside
    its place under a name of its own and moved there in one step, the folder ends with one of two equal results.
    """
    return FileLock(folder / "lock") if int(os.environ.get("RANK", 0)) == 0 else contextlib.nullcontext()


def train(run: Run, where: Where) -> Result:
    """Train one run whose required runs are complete, resuming from its ``checkpoint.pt`` if there is one.

    Its folder receives log.txt, history.csv and checkpoint.pt while training, then model.safetensors, environment.json
    and, where the objective has parameters of its own, objective.safetensors. A run that tests the weights of another
    one writes log.txt and environment.json.

    Raises
    ------
    agmm.training.loop.TrainingDiverged
        If the loss becomes NaN or infinite; the last good checkpoint is kept.
    """
    device = choose_device(where.device)
    if device.type == "cpu":
        machine.keep_freed_memory()
    loop.join_torchrun(device)
    with _threads(run.threads, device):
        if run.trained is not None:
            return _test_again(run, run.trained, where, device)
        if run.method == "ImageTags":
            return _train_image_tags(run, where, device)
        return _train_segmenter(run, where, device)


def choose_device(device: str) -> torch.device:
    """``"auto"`` is a GPU where there is one; under ``torchrun`` each process takes its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use the device cpu")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(device)


def _train_segmenter(run: Run, where: Where, device: torch.device) -> Result:
    results, cache = where.results, where.cache
    folder, data, test = run.folder(results), where.load(run, "train"), where.load(run, "test")
    data = pseudo_labels.with_cams(run, data, results, device)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), run.seed, cache)
    tags = _tags(run, data, cache)
    net = weights.build_network(run, data.num_classes)
    if run.pretraining is not None:
        loop.load_weights(net.backbone, weights.weights(run.pretraining, results), run.pretraining.id)
    objective = weights.build_objective(run, net, data.num_classes)
    if isinstance(objective, spml.SPMLClassifier):
        assert run.teacher is not None
        weights.start_from(net, run.teacher, results)
    if isinstance(objective, nn.Module):
        # As a part of the network its parameters are distributed, optimized and resumed with the head.
        net.objective = objective
    net.to(device).to(memory_format=torch.channels_last)
    if run.compiled:
        net.compile()
    source = _source(run, where, data, sparse, device, tags, objective)

    def measure(epoch: int) -> dict[str, float]:
        curves = pseudo_labels.training_curves(net, objective, data, sparse, run, device, tags)
        if run.selection == "best" and (run.tile is None or epoch >= run.last_epoch - LATE_EPOCHS):
            curves["test_miou"] = evaluation.mean_iou(
                pseudo_labels.confusion(net, test, run, device, single_scale=True)
            )
        return curves

    def epoch(number: int) -> Iterator[list[Batch]]:
        if isinstance(objective, spml.SPML):
            objective.begin_epoch()
        return batches.ahead(source.epoch(number), data.num_classes, device)

    groups, steps = (
        networks.parameter_groups(net, run.lr, run.head_factor, run.bias_factor),
        batches.steps(run, len(source)),
    )
    progress = loop.fit(run, net, groups, epoch, steps, partial(_loss, run, objective, device), measure, folder)
    if isinstance(objective, nn.Module):
        del net.objective
        if loop.is_main():
            loop.save_weights(objective, folder / "objective.safetensors", run.id)
    started = time.perf_counter()
    confusion = pseudo_labels.confusion(net, test, run, device)
    details = _details(run, net, data, test, sparse, device, tags)
    if isinstance(objective, toco.FromTags):
        assert tags is not None
        about, first = (run, device), run.history_images or COUNTED_IMAGES
        details["cam_miou"] = pseudo_labels.cam_miou(net, objective, data, tags, *about, count=first)
        details["cam_miou_test"] = pseudo_labels.cam_miou(
            net, objective, test, sets.image_tags(test, cache=cache), *about
        )
    if run.scales != (1.0,) or run.flip:
        single = pseudo_labels.confusion(net, test, run, device, single_scale=True)
        details["single_scale_miou"] = evaluation.mean_iou(single)
    progress.seconds += time.perf_counter() - started
    miou = evaluation.mean_iou(confusion)
    return _finish(run, folder, net, progress, len(data), miou, _ious(confusion), confusion.tolist(), details, device)


def _ious(confusion: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else 100 * v for v in evaluation.iou(confusion).tolist()]


def _test_again(run: Run, trained: Run, where: Where, device: torch.device) -> Result:
    """Test the weights of a complete run by another protocol; nothing is trained or copied."""
    folder, started = run.folder(where.results), time.perf_counter()
    base = load_result(trained, where.results)
    assert base is not None  # it is required
    test = where.load(run, "test")
    net = weights.load_network(trained, where.results, test.num_classes, device)
    confusion = pseudo_labels.confusion(net, test, run, device)
    seconds, miou = time.perf_counter() - started, evaluation.mean_iou(confusion)
    details = {name: value for name, value in base.details.items() if name != "single_scale_miou"}
    details |= {"tested_run": trained.id, "device": machine.device_name(device)}
    if run.crf:
        details["crf"] = asdict(crf.PARAMETERS[run.crf]) | {"backend": "lattice"}
    if loop.is_main():
        atomic_files.write_json(folder / "environment.json", machine.describe(device))
        loop.log(folder, f"tested the weights of run {trained.id}: {miou:.2f} on the test split")
    loop.wait_for_all()
    return Result(
        run_id=run.id,
        miou=miou,
        iou=_ious(confusion),
        confusion=confusion.tolist(),
        epoch=base.epoch,
        seconds=seconds,
        images_per_second=len(test) / seconds,
        peak_memory_mb=machine.peak_memory_mb(device),
        details=details,
    )


def _source(
    run: Run,
    where: Where,
    data: Split,
    sparse: Arrays,
    device: torch.device,
    tags: np.ndarray | None = None,
    objective: methods.Trained | None = None,
) -> Source:
    """Images with the labels that a run learns from: its sparse ones, or what its first stage predicts."""
    objectives.one_of("augmentation", run.augmentation, batches.ALL_AT_ONCE + batches.ONE_BY_ONE)
    targets = sparse
    if run.teacher is not None:
        teacher = weights.load_network(run.teacher, where.results, data.num_classes, device)
        targets = pseudo_labels.pseudo_labels(teacher, run, where.results, data, sparse, device, tags)
    if isinstance(objective, spml.SPML):
        regions = oversegmentation.regions(data, objective.regions, where.cache)
        targets = oversegmentation.with_regions(targets, regions)
    if run.augmentation in batches.ONE_BY_ONE:
        images = data.images
        if where.keep_decoded and isinstance(images, OnDemand):
            images = disk_cache.keep(images, where.cache, partial(loop.log, run.folder(where.results)))
        return batches.OneByOne(run, images, targets, data.num_classes, device, tags, data.mirrored)
    if not isinstance(targets, np.ndarray):
        raise ValueError(
            f"the images of {data.dataset} stay on disk and are augmented one by one: choose the augmentation "
            f"{' or '.join(batches.ONE_BY_ONE)}, not {run.augmentation!r}"
        )
    classes = tags
    if classes is None:
        classes = np.stack([labels.image_classes(label, data.num_classes) for label in sparse])
    arrays = data.images, targets, classes
    pictures, learned, named = (torch.from_numpy(np.asarray(array)).to(device) for array in arrays)
    return batches.InMemory(run, pictures, learned, named, data.mirrored)


def _loss(
    run: Run, objective: methods.Trained, device: torch.device, module: nn.Module, batch: Batch
) -> objectives.Output:
    """Objective of one microbatch, with whatever it needs besides features and logits."""
    if isinstance(objective, toco.FromTags):
        # Its pseudo labels are made by the network.
        with pseudo_labels.autocast(run, device):
            return objective.learn(module, batch, normalization(run))
    needs = getattr(objective, "needs", ())
    with pseudo_labels.autocast(run, device):
        features, logits, *inner = module(batch.images, inner="fused" in needs)
    given: dict[str, Any] = dict(zip(("grid_logits", "fused"), inner, strict=False))
    given |= {name: getattr(batch, name) for name in ("components", "regions") if name in needs}
    if "images" in needs:
        given["images"] = evaluation.denormalize(batch.images, normalization(run))
    return objective(features, logits, batch.labels, batch.image_classes, batch.counts, **given)


def _details(
    run: Run,
    net: networks.Segmenter,
    data: Split,
    test: Split,
    sparse: Arrays,
    device: torch.device,
    tags: np.ndarray | None = None,
) -> dict[str, Any]:
    """Provenance of network and labels; what the labels cover is counted on the first images of a large set."""
    counted = slice(COUNTED_IMAGES)
    found = labels.coverage(sparse[counted], data.truth[counted], data.num_classes)
    named = found.pair_share
    if tags is not None:
        shown = np.stack([labels.image_classes(mask, data.num_classes) for mask in data.truth[counted]])
        named = tags[counted][shown].mean()
    return {
        "network": net.provenance,
        "init": f"{run.init}, run {run.pretraining.id}" if run.pretraining else run.init,
        "device": machine.device_name(device),
        "test_images": len(test),
        "train_images": len(data),
        "label_source": sets.label_source(data, run.labels, dict(run.label_options)),
        "labeled_share": float(found.pixel_share),
        "labeled_pixels_per_image": float(found.pixels_per_image),
        "coverage": float(named),
    } | _regions(run, data)


def _regions(run: Run, data: Split) -> dict[str, str]:
    """Which over-segmentation the embedding of SPML has learned from; nothing of other methods."""
    embedding: Run | None = run
    while embedding is not None and embedding.method == "SPMLClassifier":
        embedding = embedding.teacher
    if embedding is None or embedding.method != "SPML":
        return {}
    objective = methods.build("SPML", data.num_classes, **dict(embedding.options))
    assert isinstance(objective, spml.SPML)
    method = oversegmentation.chosen(data, objective.regions)
    return {"regions": f"published ({oversegmentation.FOLDER})" if method == "published" else method}


def _tags(run: Run, split: Split, cache: Path) -> np.ndarray | None:
    """Image tags (N, K) of a split, where these are a run's labels, or what its labels are made of."""
    if run.labels not in ("tags", "cam"):
        return None
    if split.background != 0:
        raise ValueError(f"image tags need a background of code 0, which {split.dataset} does not have")
    if split.mirrored is not None:
        raise ValueError(f"classes of {split.dataset} have a left and a right, which tags do not tell: choose points")
    return sets.image_tags(split, cache=cache)


def _train_image_tags(run: Run, where: Where, device: torch.device) -> Result:
    """Pretrain the backbone to predict image tags: the embedded counterpart of ImageNet weights."""
    folder, data, test = run.folder(where.results), where.load(run, "pretrain"), where.load(run, "test")
    segmenter = weights.build_network(run, data.num_classes)
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
    mirrored = None if data.mirrored is None else tuple(k - 1 for k in data.mirrored[1:])
    source = batches.InMemory(run, _images(data).to(device), unused, tags, mirrored)
    steps = batches.steps(run, len(source))
    progress = loop.fit(run, net, groups, source.epoch, steps, loss, lambda epoch: {}, folder)
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(evaluation.to_input(part.to(device))) for part in _images(test).split(100)])
    accuracy = 100 * ((logits > 0) == test_tags).float().mean().item()
    details = {"network": segmenter.provenance, "metric": "correct tags, %", "device": machine.device_name(device)}
    return _finish(run, folder, segmenter.backbone, progress, len(data), accuracy, [], [], details, device)


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
    """Write the weights and the environment."""
    per_epoch = images // run.batch_size * run.batch_size
    if loop.is_main():
        loop.save_weights(net, folder / "model.safetensors", run.id)
        atomic_files.write_json(folder / "environment.json", machine.describe(device))
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
        peak_memory_mb=machine.peak_memory_mb(device),
        details=details,
    )


def _images(split: Split, part: slice = slice(None)) -> Tensor:
    return torch.from_numpy(np.asarray(split.images[part]))


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

"""One run from data to result: train or load it, on which batches, and what it reports."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from agmm import evaluation, networks, objectives
from agmm.data import disk_cache, sets
from agmm.data.split import OnDemand, Split
from agmm.evaluation import crf
from agmm.host import atomic_files, machine
from agmm.objectives.common import Batch
from agmm.rivals import spml, toco
from agmm.training import batches, loop, measure, pseudo_labels, weights
from agmm.training.batches import normalization
from agmm.training.presets import PRESETS
from agmm.training.result import MEASURED, Result, load_result
from agmm.training.run import AnyObjective, LabelObjective, Run, objective_for
from agmm.training.where import Context, Where, at, label_line

LATE_EPOCHS = 20  # that can be the best with sliding windows; AGMM's code tests earlier ones by a center crop


def run(
    run: Run,
    *,
    results: str | Path = "results",
    data_root: str | Path | None = None,
    device: str = "auto",
    keep_decoded: bool = True,
) -> Result:
    """Return the result of a run: loaded if complete, resumed if interrupted, trained otherwise.

    Two processes that ask for the same run train it once: the second waits for the first. Folders and device are those
    of `agmm.training.where.Where`. Raise `agmm.host.atomic_files.StorageError` if the results folder cannot be written,
    and `agmm.training.loop.TrainingDiverged` if the loss becomes NaN or infinite.
    """
    return complete(run, at(results, data_root, device, keep_decoded))


def complete(run: Run, where: Where) -> Result:
    """Return the result of a run like `run`, with folders and device in one."""
    if (result := load_result(run, where.results)) is not None:
        return result
    for need in run.requires:
        complete(need, where)
    folder = run.folder(where.results)
    with atomic_files.writable(folder), _lock(folder):
        # Another process may have completed it while this one waited.
        if (result := load_result(run, where.results)) is not None:
            return result
        atomic_files.tidy(folder)  # only processes that are dead have left anything, as this one holds the lock
        atomic_files.write_json(folder / "run.json", run.to_dict())
        (folder / MEASURED).unlink(missing_ok=True)  # of weights that this training replaces
        result = train(run, where)
        if loop.is_main():
            atomic_files.write_json(folder / "result.json", asdict(result))
            # Not before: a run that is killed during its last test must not train again.
            drop_checkpoints(folder)
    return result


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in ("checkpoint.pt", "best.safetensors"):
        (folder / name).unlink(missing_ok=True)


def _lock(folder: Path) -> contextlib.AbstractContextManager[object]:
    """One process at a time; the processes of one ``torchrun`` share the lock.

    It is ``flock``, which the operating system frees when a process dies, so that no lock can be stale; NFS passes it
    on to other machines, and frees it when one is gone. A file system without it (ENOSYS) gets a file with machine and
    number of the process instead; one that refuses (ENOLCK) is an error. Where NFS is mounted with ``nolock``, two
    machines may train the same run; as files are moved to their place in one step, one of two equal results stays.
    """
    return FileLock(folder / "lock") if int(os.environ.get("RANK", 0)) == 0 else contextlib.nullcontext()


def train(run: Run, where: Where) -> Result:
    """Train one run whose required runs are complete, resuming from its ``checkpoint.pt`` if there is one.

    Its folder receives log.txt, history.csv and checkpoint.pt while training, then model.safetensors, environment.json
    and, where the objective has parameters of its own, objective.safetensors. A run that tests the weights of another
    one writes log.txt and environment.json. Raise as `agmm.training.loop.fit`.
    """
    check_device(run, where.device)
    device = choose_device(where.device)
    if device.type == "cpu":
        machine.keep_freed_memory()
    loop.join_torchrun(device)
    with machine.threads(run.threads, device):
        if run.trained is not None:
            return _test_again(run, run.trained, where, device)
        if run.method == "ImageTags":
            return _finish(run, where, device, train_image_tags(run, where, device))
        return _finish(run, where, device, train_segmenter(pseudo_labels.prepare(run, where, device)))


def choose_device(device: str) -> torch.device:
    """``"auto"`` is a GPU where there is one; under ``torchrun`` each process takes its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use the device cpu")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(device)


def train_segmenter(context: Context) -> loop.Outcome:
    """Train a network on sparse labels, pseudo labels or tags, and test it."""
    run, data, test, device = context.run, context.data, context.test, context.device
    check_memory(run, data.num_classes, device)
    loop.log(context.folder, label_line(run, data))
    net, objective = _start(context)
    source = _source(context, objective)

    def epoch(number: int) -> Iterator[list[Batch]]:
        objective.begin_epoch()
        return batches.ahead(source.epoch(number), data.num_classes, device)

    def curves(epoch: int) -> dict[str, float]:
        row = measure.training_curves(net, objective, context)
        if run.selection == "best" and (run.tile is None or epoch >= run.last_epoch - LATE_EPOCHS):
            row["test_miou"] = evaluation.mean_iou(measure.confusion(net, test, run, device, single_scale=True))
        return row

    groups = networks.parameter_groups(net, run.lr, run.head_factor, run.bias_factor)
    steps, alone = batches.steps(run, len(source)), objectives.Baseline(data.num_classes)

    def loss(module: nn.Module, micros: list[Batch]) -> objectives.Output:
        return _loss(run, alone if micros[0].step < run.plain_epochs * steps else objective, device, module, micros)

    progress = loop.fit(run, net, groups, epoch, steps, loss, curves, context.folder)
    if isinstance(objective, nn.Module):
        del net.objective
        if loop.is_main():
            loop.save_weights(objective, context.folder / "objective.safetensors", run.id)
    started = time.perf_counter()
    confusion = measure.confusion(net, test, run, device)
    details = measure.details(context, net, objective)
    details |= {"processes": loop.processes(progress), "normalized_images": normalized_images(run, net)}
    if run.scales != (1.0,) or run.flip:
        single = measure.confusion(net, test, run, device, single_scale=True)
        details["single_scale_miou"] = evaluation.mean_iou(single)
    progress.seconds += time.perf_counter() - started
    return loop.Outcome(net, progress, len(data), _scores(confusion), details)


def normalized_images(run: Run, net: nn.Module) -> int:
    """Return how many images batch normalization extends over in training, 0 where the network has none."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        return 0
    return run.batch_size if run.norm_scope == "effective" else run.microbatch


def check_device(run: Run, device: str) -> None:
    """Raise ValueError where a run of a preset for GPUs would begin on a CPU that nobody has asked for."""
    preset = run.preset.partition("+")[0]
    if preset in PRESETS and PRESETS[preset].on_gpu and device == "auto" and not torch.cuda.is_available():
        made_for = f"is for GPUs (its times are for {PRESETS[preset].hardware}) and torch sees none"
        raise ValueError(f"the preset {preset} {made_for}; choose another, or --device cpu to train here nevertheless")


def check_memory(run: Run, num_classes: int, device: torch.device) -> None:
    """Raise ValueError where what the backward pass of a step needs does not fit into the memory of the device."""
    images, needed = step_memory(run, num_classes)
    if needed > (free := machine.free_memory(device)):
        step = f"a step of {run.network} keeps about {needed / 2**30:.0f} GiB of {images} images of {run.crop} pixels"
        remedy = "start more processes with torchrun, choose --precision bfloat16, or normalize over fewer images with "
        raise ValueError(f"{step}, {free / 2**30:.0f} GiB are free: {remedy}--norm-scope microbatch --microbatch N")


def step_memory(run: Run, num_classes: int) -> tuple[int, int]:
    """Return how many images pass the network of a process at once, and the bytes that it keeps of them."""
    if run.trained is not None or run.method == "ImageTags" or run.crop is None:
        return 0, 0
    world = int(os.environ.get("WORLD_SIZE", 1))
    images = run.batch_size // world if run.norm_scope == "effective" else run.microbatch
    image = _saved_bytes(run.network, num_classes, run.network_options, run.crop)
    return images, images * image // (2 if run.precision == "bfloat16" else 1)


@cache
def _saved_bytes(network: str, num_classes: int, options: tuple[tuple[str, Any], ...], side: int) -> int:
    with torch.device("meta"):
        return networks.saved_bytes(networks.build(network, num_classes, **dict(options)), side)


def _start(context: Context) -> tuple[networks.Segmenter, AnyObjective]:
    """Return the network as a training begins, and its objective, both on the device."""
    run, results, num_classes = context.run, context.where.results, context.data.num_classes
    net = weights.build_network(run, num_classes)
    if run.init_weights:
        weights.load_init(net, run, results)
    weights.remember(net.provenance, results)
    if run.pretraining is not None:
        loop.load_weights(net.backbone, weights.weights(run.pretraining, results), run.pretraining.id)
    if start := dict(run.label_options).get("start"):
        loop.load_weights(net, weights.own_start(results, start))
    objective = objective_for(run, net, num_classes)
    if objective.trains_classifier_only and run.teacher is not None:
        weights.start_from(net, run.teacher, results)
    if isinstance(objective, nn.Module):
        # As a part of the network its parameters are distributed, optimized and resumed with the head.
        net.objective = objective
    net.to(context.device).to(memory_format=torch.channels_last)
    if run.compiled:
        net.compile()
    return net, objective


def _source(context: Context, objective: AnyObjective) -> batches.InMemory | batches.OneByOne:
    """Return images with the labels that a run learns from: its sparse ones, or what its first stage predicts."""
    run, where, data, device = context.run, context.where, context.data, context.device
    objectives.one_of("augmentation", run.augmentation, batches.ALL_AT_ONCE + batches.ONE_BY_ONE)
    labels = context.sparse
    if run.teacher is not None:
        teacher = weights.load_network(run.teacher, where.results, data.num_classes, device)
        labels = pseudo_labels.pseudo_labels(teacher, run.teacher, context)
    if isinstance(objective, spml.SPML):
        labels = sets.with_regions(labels, sets.regions(data, objective.regions, where.cache))
    if run.augmentation in batches.ONE_BY_ONE:
        images = data.images
        if where.keep_decoded and isinstance(images, OnDemand):
            images = disk_cache.keep(images, where.cache, partial(loop.log, context.folder))
        return batches.OneByOne(run, images, labels, data.num_classes, device, context.image_tags, data.mirrored)
    if not isinstance(labels, np.ndarray):
        raise ValueError(
            f"the images of {data.dataset} stay on disk and are augmented one by one: choose the augmentation "
            f"{' or '.join(batches.ONE_BY_ONE)}, not {run.augmentation!r}"
        )
    arrays = np.asarray(data.images), labels, context.image_classes()
    pixels, codes, image_classes = (torch.from_numpy(array).to(device) for array in arrays)
    return batches.InMemory(run, pixels, codes, image_classes, data.mirrored)


def _loss(
    run: Run, objective: AnyObjective, device: torch.device, module: nn.Module, micros: list[Batch]
) -> objectives.Output:
    """Return the mean of the objective over microbatches that pass the network together."""
    if isinstance(objective, toco.FromTags):
        # Its pseudo labels are made by the network, of a microbatch.
        (batch,) = micros
        with measure.autocast(run, device):
            return objective.learn(module, batch, normalization(run))
    inner = "inner_features" in objective.needs
    with measure.autocast(run, device):
        computed = module(torch.cat([batch.images for batch in micros]), inner=inner)
    sizes = [len(batch.images) for batch in micros]
    parts = zip(*(value.split(sizes) for value in computed), strict=True)
    outputs = [_objective(run, objective, batch, part) for batch, part in zip(micros, parts, strict=True)]
    terms = {name: torch.stack([one.terms[name] for one in outputs]).mean() for name in outputs[0].terms}
    return objectives.Output(torch.stack([one.loss for one in outputs]).mean(), terms)


def _objective(run: Run, objective: LabelObjective, batch: Batch, computed: tuple[Tensor, ...]) -> objectives.Output:
    """Return the objective of one microbatch, given what it needs besides the features and logits computed."""
    features, logits, *inner = computed
    needs = objective.needs
    others: dict[str, Any] = dict(zip(("grid_logits", "inner_features"), inner, strict=False))
    others |= {name: getattr(batch, name) for name in ("components", "regions") if name in needs}
    if "images" in needs:
        others["images"] = evaluation.denormalize(batch.images, normalization(run))
    return objective(features, logits, batch.labels, batch.image_classes, batch.counts, **others)


def train_image_tags(run: Run, where: Where, device: torch.device) -> loop.Outcome:
    """Train a backbone to predict which classes images show; reports the share of correct tags."""
    data, test = where.load(run, "pretrain"), where.load(run, "test")
    segmenter = weights.build_network(run, data.num_classes)
    net = networks.TagClassifier(segmenter, data.num_classes - 1)
    net.to(device).to(memory_format=torch.channels_last)
    unused = torch.zeros(len(data), *data.truth[0].shape, dtype=torch.uint8, device=device)
    mirrored = None if data.mirrored is None else tuple(k - 1 for k in data.mirrored[1:])
    source = batches.InMemory(run, _images(data).to(device), unused, _tags(data).to(device), mirrored)

    def loss(module: nn.Module, micros: list[Batch]) -> objectives.Output:
        images, tags = (torch.cat([getattr(one, name) for one in micros]) for name in ("images", "image_classes"))
        bce = F.binary_cross_entropy_with_logits(module(images), tags.float())
        return objectives.Output(bce, {"tags": bce})

    groups = [{"params": list(net.parameters()), "lr": run.lr}]
    steps = batches.steps(run, len(source))
    progress = loop.fit(run, net, groups, source.epoch, steps, loss, lambda epoch: {}, run.folder(where.results))
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(evaluation.to_input(part.to(device))) for part in _images(test).split(100)])
    accuracy = 100 * ((logits > 0) == _tags(test).to(device)).float().mean().item()
    details = {"network": segmenter.provenance, "metric": "correct tags, %", "device": machine.device_name(device)}
    scores: dict[str, Any] = {"miou": accuracy, "iou": [], "confusion": []}
    return loop.Outcome(segmenter.backbone, progress, len(data), scores, details)


def _images(split: Split) -> Tensor:
    return torch.from_numpy(np.asarray(split.images))


def _tags(split: Split) -> Tensor:
    """Return the tags (N, K - 1) of all images, without the background."""
    return torch.from_numpy(sets.image_tags(split)[:, 1:])


def _scores(confusion: Tensor) -> dict[str, Any]:
    """Return mIoU and IoU in per cent, and the confusion matrix, as `Result` has them."""
    iou = [None if math.isnan(value) else 100 * value for value in evaluation.iou(confusion).tolist()]
    return {"miou": evaluation.mean_iou(confusion), "iou": iou, "confusion": confusion.tolist()}


def _finish(run: Run, where: Where, device: torch.device, outcome: loop.Outcome) -> Result:
    """Write weights and environment, and return what is reported."""
    progress = outcome.progress
    if loop.is_main():
        loop.save_weights(outcome.net, run.folder(where.results) / "model.safetensors", run.id)
    # The validation of a user's images may be a few clicks, see `agmm.own`.
    figure = "" if run.dataset == "own" else f": {outcome.scores['miou']:.2f} on the test split"
    _log_end(run, where, device, f"done{figure}")
    images = progress.epoch * (outcome.images // run.batch_size * run.batch_size)
    return Result(
        **outcome.scores,
        run_id=run.id,
        epoch=progress.best_epoch or progress.epoch,
        seconds=progress.seconds,
        images_per_second=images / progress.train_seconds,
        peak_memory_mb=machine.peak_memory_mb(device),
        details=outcome.details,
    )


def _test_again(run: Run, trained: Run, where: Where, device: torch.device) -> Result:
    """Test the weights of a complete run by another protocol; nothing is trained or copied."""
    started = time.perf_counter()
    test = where.load(run, "test")
    net = weights.load_network(trained, where.results, test.num_classes, device)
    confusion = measure.confusion(net, test, run, device)
    seconds = time.perf_counter() - started
    base = load_result(trained, where.results)
    assert base is not None  # it is required
    details = {name: value for name, value in base.details.items() if name != "single_scale_miou"}
    details |= {"tested_run": trained.id, "device": machine.device_name(device)}
    if run.crf:
        details["crf"] = asdict(crf.PARAMETERS[run.crf]) | {"backend": "lattice"}
    scores = _scores(confusion)
    _log_end(run, where, device, f"tested the weights of run {trained.id}: {scores['miou']:.2f} on the test split")
    cost: dict[str, Any] = {"seconds": seconds, "images_per_second": len(test) / seconds}
    cost["peak_memory_mb"] = machine.peak_memory_mb(device)
    return replace(base, run_id=run.id, details=details, **scores, **cost)


def _log_end(run: Run, where: Where, device: torch.device, line: str) -> None:
    """Write what the run ran on, and the last line of its log."""
    folder = run.folder(where.results)
    if loop.is_main():
        atomic_files.write_json(folder / "environment.json", machine.describe(device))
        loop.log(folder, line)
    loop.wait_for_all()

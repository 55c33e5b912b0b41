"""A trial of trainings on this machine: a few steps and a test batch of each, and how long all of it would take."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from agmm.data.split import Split
from agmm.host import machine
from agmm.training import loop, measure, pseudo_labels, sweep, train, weights
from agmm.training.run import Run, objective_for
from agmm.training.where import Where

_RANDOM = "trial"  # in the place of the digits of a file of weights


@dataclass(frozen=True)
class Trial:
    """What a run costs on this machine."""

    step: float
    """Seconds of a training step, the first one left out where there are others; 0 where nothing is trained."""
    test: float
    """Seconds of a test image by the run's protocol; 0 for image tags, whose test takes no time."""
    peak_memory_mb: float
    hours: float
    """Of the whole run by these: training, curves and tests, without labels that are made before the first step."""

    def __str__(self) -> str:
        parts = [(self.step, "a step"), (self.test, "a test image")]
        seconds = "".join(f"{value:.3g} s {what}, " for value, what in parts if value)
        return f"{seconds}{self.peak_memory_mb / 1024:.1f} GiB at most, {machine.duration(3600 * self.hours)} in all"


@dataclass(frozen=True)
class _Sample(Where):
    """A place where training and test split have only their first images."""

    training: int = 1

    def load(self, run: Run, split: str) -> Split:
        """Return the first images of a split."""
        data = super().load(run, split)
        return data.first(measure.images_at_a_time(data) if split == "test" else self.training)


def attempt(run: Run, where: Where, steps: int) -> Trial:
    """Train so many steps of a run and test a batch of images, in a temporary folder.

    Networks that the run starts from, that of ImageNet too, or whose predictions it learns, are untrained ones. What
    begins after some steps begins at once. Raise what a training raises.
    """
    device = train.choose_device(where.device)
    loop.join_torchrun(device)
    with tempfile.TemporaryDirectory() as folder, machine.threads(run.threads, device):
        shared = [folder]  # the processes of torchrun exchange files
        if dist.is_initialized():
            dist.broadcast_object_list(shared)
        sample = _Sample(Path(shared[0]), where.data_root, where.device, where.keep_decoded, steps * run.batch_size)
        short = _shortened(run)
        if loop.is_main():
            short.folder(sample.results).mkdir(parents=True)
            _stand_in_init(short, sample.results)
            for need in short.requires:
                _stand_in(need, sample)
        loop.wait_for_all()
        step, net = _train(short, sample, device)
        test, image = sample.load(short, "test"), 0.0
        if run.method != "ImageTags":
            started = time.perf_counter()
            measure.confusion(net, test, short, device)
            image = (time.perf_counter() - started) / len(test)
        loop.wait_for_all()
        hours = _hours(run, replace(where, results=sample.results), step, image)
        return Trial(step, image, machine.peak_memory_mb(device), hours)


def _shortened(run: Run) -> Run:
    """Return a run of one epoch in which everything begins at once."""
    changes: dict[str, object] = {"plain_epochs": 0, "stop_after": 1 if run.epochs > 1 else None}
    changes |= {"init_weights": _RANDOM} if run.init == "imagenet" else {}
    if run.from_tags:
        changes["label_options"] = tuple((dict(run.label_options) | {"warmup_steps": 0, "auxiliary_until": 0}).items())
    return replace(run, **changes)  # type: ignore[arg-type]


def _stand_in_init(run: Run, results: Path) -> None:
    """Write random weights in the place of those of ImageNet."""
    if run.init_weights:
        state = weights.build_network(run, 2).backbone.state_dict()
        whose = {"sha256": "none", "file": "a trial"}
        path = results / f"init-{run.init_weights}.safetensors"
        path.write_bytes(safetensors.torch.save({name: value.contiguous() for name, value in state.items()}, whose))


def _stand_in(run: Run, where: Where) -> None:
    """Write random weights in the place of a complete run's."""
    folder, num_classes = run.folder(where.results), where.load(run, "test").num_classes
    folder.mkdir(parents=True)
    net = weights.build_network(run, num_classes, filled=False)
    tagger = run.method == "ImageTags"
    weights.save_weights(net.backbone if tagger else net, folder / "model.safetensors", run.id)
    if not tagger and isinstance(objective := objective_for(run, net, num_classes), nn.Module):
        weights.save_weights(objective, folder / "objective.safetensors", run.id)


def _train(run: Run, where: Where, device: torch.device) -> tuple[float, nn.Module]:
    """Return the seconds of a step, and the network to be tested."""
    if run.trained is not None:
        num_classes = where.load(run, "test").num_classes
        return 0.0, weights.load_network(run.trained, where.results, num_classes, device)
    if run.method == "ImageTags":
        outcome = train.train_image_tags(run, where, device)
    else:
        outcome = train.train_segmenter(pseudo_labels.prepare(run, where, device))
    progress, steps = outcome.progress, outcome.images // run.batch_size
    if steps == 1:
        return progress.train_seconds, outcome.net
    return (progress.train_seconds - progress.first_step) / (steps - 1), outcome.net


def _hours(run: Run, where: Where, step: float, image: float) -> float:
    """Return the hours of a whole run from the seconds of a step and of a test image."""
    splits = "pretrain" if run.method == "ImageTags" else "train", "test"
    images, tested = (len(where.load(run, split)) for split in splits)
    single = image / (len(run.scales) * (1 + run.flip))  # of one scale without flips
    if run.trained is not None:
        return tested * image / 3600
    epoch = images // run.batch_size * step + min(run.history_images, images) * single
    epoch += tested * single if run.selection == "best" else 0
    return (run.last_epoch * epoch + tested * (image + single)) / 3600


def attempt_all(runs: Sequence[Run], where: Where, steps: int, report: Callable[[str], object]) -> int:
    """Attempt every run with its first seed in a process of its own, one after the other; return 1 if any failed."""
    seeds: dict[str, list[Run]] = {}
    for run in runs:
        seeds.setdefault(replace(run, seed=0).id, []).append(run)
    hours, failed = 0.0, 0
    for number, same in enumerate(seeds.values(), 1):
        line = f"[{number}/{len(seeds)}] {sweep.describe(same[0])}"
        with sweep.pool() as pool:
            try:
                trial = pool.submit(attempt, same[0], where, steps).result()
            except Exception as error:  # of any kind: the others are tried nevertheless
                failed += 1
                report(f"{line}: failed: {' '.join(str(error).split())}")
            else:
                hours += len(same) * trial.hours
                report(f"{line}: {trial}")
    missing = f" and {failed} that failed" if failed else ""
    report(f"{len(runs)} runs: {hours:.1f} hours one after the other{missing}; nothing was kept")
    return 1 if failed else 0

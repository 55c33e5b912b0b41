"""Time and memory of the objective beside its dense formulation, and the cost of a training step.

``python -m agmm.bench`` compares `agmm.objectives.AGMM` with `agmm.reference.dense_agmm`, forward and backward, at the
size of a VOC training step, each in a process of its own. ``python -m agmm.bench --step`` compares a training step of
AGMM with one of the baseline at the size of preset quick.
"""

import argparse
import csv
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from agmm import networks, objectives
from agmm.labels import UNLABELED
from agmm.reference import dense_agmm

PARTS = {
    "means, distances, scores, spar, con": ("spar", "con"),
    "the same and self": ("self", "spar", "con"),
    "all five terms": ("seg", "self", "spar", "con", "absent"),
}
FORMULATIONS = ("dense", "agmm")
FORMS = ("points", "scribbles", "dense")
TOLERANCE = 1e-4
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """Shapes of one training step."""

    batch: int
    num_classes: int
    channels: int
    grid: int
    label: int


SIZES = {"voc": Size(16, 21, 256, 81, 321), "small": Size(4, 7, 32, 16, 64)}


@dataclass(frozen=True)
class Measurement:
    """One formulation of one part: the fastest of ``repeats``.

    Attributes
    ----------
    seconds : float
        Forward and backward.
    gigabytes : float
        Peak of what is held beyond the inputs: saved tensors, temporaries and the gradients of features and logits.
    """

    part: str
    formulation: str
    labels: str
    device: str
    threads: int
    repeats: int
    seconds: float
    gigabytes: float


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 1 where the two formulations disagree."""
    parser = argparse.ArgumentParser(prog="python -m agmm.bench", description="Time and memory of the objective.")
    parser.add_argument("--size", choices=SIZES, default="voc")
    parser.add_argument("--labels", choices=FORMS, default="points")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="of agmm; the fastest counts, of both")
    parser.add_argument("--dense-repeats", type=int, default=2, help="of dense: about half a minute each")
    parser.add_argument("--csv", type=Path, help="also write the measurements to this file")
    parser.add_argument("--step", action="store_true", help="time training steps of preset quick instead")
    options = parser.parse_args(arguments)
    if options.step:
        print_step(options.device, options.threads, options.repeats)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # This process must stay small until all others have ended: a new process inherits its peak as a lower bound.
        measurements = [
            in_new_process(measure, part, formulation, options, Path(folder) / f"{number} {formulation}.pt")
            for number, part in enumerate(PARTS)
            for formulation in FORMULATIONS
        ]
        errors = [
            compare(Path(folder) / f"{number} dense.pt", Path(folder) / f"{number} agmm.pt")
            for number in range(len(PARTS))
        ]
    print_table(measurements, errors, SIZES[options.size])
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, asdict(measurements[0]))
            writer.writeheader()
            writer.writerows(asdict(m) for m in measurements)
    return int(max(max(e.values()) for e in errors) > TOLERANCE)


def inputs(size: Size, form: str, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random features, logits, labels and image classes; 2 to 4 classes in each image."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size.batch, size.channels, size.grid, size.grid, generator=generator).relu_()
    logits = torch.randn(size.batch, size.num_classes, size.label, size.label, generator=generator)
    labels = torch.full((size.batch, size.label, size.label), UNLABELED)
    image_classes = torch.zeros(size.batch, size.num_classes, dtype=torch.bool)
    for image in range(size.batch):
        classes = torch.randperm(size.num_classes, generator=generator)[: 2 + image % 3]
        draw(labels[image], classes, form, generator)
        image_classes[image, classes] = True
    return features.to(device), logits.to(device), labels.to(device), image_classes.to(device)


def draw(labels: Tensor, classes: Tensor, form: str, generator: torch.Generator) -> None:
    """Write ten pixels, one stroke of width 3 per class, or stripes that cover everything."""
    side = labels.shape[0]
    if form == "points":
        row, column = torch.randint(side, (2, 10), generator=generator)
        labels[row, column] = classes[torch.arange(10) % len(classes)]
    elif form == "scribbles":
        for code in classes:
            start, end = torch.randint(1, side - 1, (2, 2, 1), generator=generator)
            row, column = (start + (end - start) * torch.linspace(0, 1, side)).round().long()
            for shift in (-1, 0, 1):
                labels[row + shift, column] = labels[row, column + shift] = code
    else:
        labels[:] = classes[torch.arange(side) * len(classes) // side]


def measure(part: str, formulation: str, options: argparse.Namespace, target: Path) -> Measurement:
    """Time and peak memory of one formulation; its losses and gradients go to the file ``target``."""
    torch.set_num_threads(options.threads)
    step = formulations(PARTS[part])[formulation]
    step(*inputs(SIZES["small"], options.labels, options.device))  # lazily loaded libraries are not what we measure
    tensors = inputs(SIZES[options.size], options.labels, options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(options.device)
    seconds: list[float] = []
    result: dict[str, Tensor] = {}
    for _ in range(options.dense_repeats if formulation == "dense" else options.repeats):
        result.clear()
        start = time.perf_counter()
        result = step(*tensors)
        synchronize(options.device)
        seconds.append(time.perf_counter() - start)
    gigabytes = (peak_bytes(options.device) - before) / 1e9
    torch.save(result, target)
    setting = options.labels, options.device, options.threads
    return Measurement(part, formulation, *setting, len(seconds), min(seconds), gigabytes)


def formulations(terms: tuple[str, ...]) -> dict[str, Callable[..., dict[str, Tensor]]]:
    """Functions of the inputs that return every loss term and gradient."""

    def dense(features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor) -> dict[str, Tensor]:
        leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()
        loss, values = dense_agmm(*leaves, labels, image_classes, logits.shape[1], terms)
        return differentiate(loss, values, leaves)

    def agmm(features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor) -> dict[str, Tensor]:
        leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()
        output = objectives.AGMM(logits.shape[1], terms=terms)(*leaves, labels, image_classes)
        return differentiate(output.loss, output.terms, leaves)

    return {"dense": dense, "agmm": agmm}


def differentiate(loss: Tensor, terms: dict[str, Tensor], leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Terms and gradients in one dictionary."""
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    named = dict(zip(("gradient of features", "gradient of logits"), gradients, strict=True))
    return {k: v.detach() for k, v in terms.items()} | {k: v for k, v in named.items() if v is not None}


def compare(dense: Path, agmm: Path) -> dict[str, float]:
    """Relative L2 difference of every term and gradient."""
    expected, found = (torch.load(path, map_location="cpu", weights_only=True) for path in (dense, agmm))
    assert expected.keys() == found.keys()
    return {name: relative(found[name], expected[name]) for name in expected}


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative L2 difference."""
    return float((found.double() - expected).norm() / expected.double().norm().clamp_min(1e-30))


def print_table(measurements: list[Measurement], errors: list[dict[str, float]], size: Size) -> None:
    """Measurements with ratios, and the largest differences."""
    first = measurements[0]
    print(
        f"batch {size.batch}, {size.num_classes} classes, features {size.channels} x {size.grid} x {size.grid}, "
        f"labels {size.label} x {size.label} ({first.labels}), float32, {first.device}, {first.threads} thread(s)\n"
        "forward + backward; memory: peak beyond the inputs, gradients of features and logits included"
    )
    line = "{:38}{:>10}{:>10}{:>9}{:>10}{:>10}{:>8}{:>12}"
    print(line.format("", "dense s", "agmm s", "faster", "dense GB", "agmm GB", "leaner", "difference"))
    for dense, agmm, error in zip(measurements[::2], measurements[1::2], errors, strict=True):
        seconds = f"{dense.seconds:.3f}", f"{agmm.seconds:.3f}", f"{dense.seconds / agmm.seconds:.1f} x"
        lean = dense.gigabytes / max(agmm.gigabytes, 1e-3)
        memory = f"{dense.gigabytes:.2f}", f"{agmm.gigabytes:.2f}", f"{lean:.1f} x"
        print(line.format(dense.part, *seconds, *memory, f"{max(error.values()):.1e}"))
    for error in errors:
        print("  " + ", ".join(f"{name} {value:.1e}" for name, value in error.items()))


def print_step(device: str, threads: int, repeats: int) -> None:
    """Median times of a training step with and without the mixture, at the size of preset quick."""
    torch.set_num_threads(threads)
    size = SIZES["small"]
    images = torch.rand(16, 3, size.label, size.label, device=device).to(memory_format=torch.channels_last)
    labels, image_classes = clicks(16, size, device)
    steps = {
        name: training_step(objective, images, labels, image_classes)
        for name, objective in (
            ("baseline", objectives.Baseline(size.num_classes)),
            ("agmm", objectives.AGMM(size.num_classes)),
        )
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(20 * repeats + 5):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            if turn >= 5:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["agmm"], seconds["baseline"], strict=True))
    for name, value in medians.items():
        print(f"{name:10}{1e3 * value:8.1f} ms a step")
    print(f"ratio     {ratio:8.2f} (median over {len(seconds['agmm'])} neighboring pairs of steps)")


def clicks(batch: int, size: Size, device: str) -> tuple[Tensor, Tensor]:
    """Labels with one pixel of 2 or 3 classes per image, and the image classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((batch, size.label, size.label), UNLABELED)
    image_classes = torch.zeros(batch, size.num_classes, dtype=torch.bool)
    for image in range(batch):
        classes = torch.randperm(size.num_classes, generator=generator)[: 3 if image % 3 == 0 else 2]
        row, column = torch.randint(size.label, (2, len(classes)), generator=generator)
        labels[image, row, column] = classes
        image_classes[image, classes] = True
    return labels.to(device), image_classes.to(device)


def training_step(
    objective: objectives.Baseline | objectives.AGMM, images: Tensor, labels: Tensor, image_classes: Tensor
) -> Callable[[], None]:
    """One optimizer step of the small network on a fixed batch."""
    torch.manual_seed(0)
    net = networks.build("small", objective.num_classes).to(images.device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)

    def step() -> None:
        optimizer.zero_grad()
        features, logits = net(images)
        objective(features, logits, labels, image_classes).loss.backward()
        optimizer.step()

    return step


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(device: str) -> int:
    """Largest memory so far: of the allocator (cuda) or the whole process (cpu)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())

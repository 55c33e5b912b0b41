"""The groups "step", "spml" and "sweep": training steps of the methods, SPML's k-means, several trainings at a time.

The arithmetic of the baseline's step is set beside large matrix products, SPML's k-means beside a library's. Times of
"sweep" are those of `train_all` as a whole, start of the processes and their imports included; data and labels lie in
the cache beforehand.
"""

import shutil
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from agmm import networks, objectives
from agmm.data import sets
from agmm.rivals.spml import SPML, segments
from agmm.tools.bench.objective import CITYSCAPES, VOC, Figure, Setting, compared, hardware
from agmm.training import sweep, timing
from agmm.training.presets import PRESETS
from agmm.training.run import Run
from agmm.training.timing import QUICK, Objective, Shapes, random_labels, random_outputs, training_step
from agmm.training.where import Where

TARGET = {"cpu": "<= 1.1", "cuda": "<= 1.05"}
CLUSTERS, ITERATIONS, REGIONS = (6, 6), 10, 100
TRAININGS, MOST_REPEATS = 4, 3


@dataclass(frozen=True)
class Case:
    """A network and the shapes that it is trained with."""

    name: str
    network: str
    shapes: Shapes

    def step(self, objective: Objective, device: str, precision: str = "float32") -> Callable[[], None]:
        """Return a function that takes an optimizer step with an objective."""
        net = networks.build(self.network, self.shapes.num_classes, init="scratch")
        return training_step(net, objective, self.shapes, device, precision)


SMALL = Case("quick, small network", "small", QUICK)
ON_A_GPU = (
    SMALL,
    Case("VOC, ResNet-50", "resnet50", VOC),
    Case("VOC, ResNet-101", "resnet101", VOC),
    Case("Cityscapes, ResNet-50", "resnet50", replace(CITYSCAPES, clicks=20, classes=7)),
)
ON_A_CPU = (SMALL, Case("VOC, ResNet-50", "resnet50", replace(VOC, batch=2)))


def cases(setting: Setting) -> tuple[Case, ...]:
    """Return the papers' networks on a GPU, with fewer images on a CPU; and that of preset quick."""
    if setting.small:
        return (replace(SMALL, shapes=replace(QUICK, batch=2)),)
    return ON_A_GPU if setting.device == "cuda" else ON_A_CPU


def steps(setting: Setting) -> Iterator[Figure]:
    """Yield steps of all methods in turn, so that the ratio is one of neighbors."""
    for case in cases(setting):
        for precision in ("float32", "bfloat16"):
            yield from _steps(case, setting, precision)


def _steps(case: Case, setting: Setting, precision: str) -> Iterator[Figure]:
    shapes, device = case.shapes, setting.device
    methods: dict[str, Objective] = {
        "baseline": objectives.Baseline(shapes.num_classes),
        "AGMM": objectives.AGMM(shapes.num_classes),
        "AGMM++": objectives.AGMMpp(shapes.num_classes, shapes.channels),
    }
    steps = {name: case.step(objective, device, precision) for name, objective in methods.items()}
    rounds = setting.repeats * (20 if case is SMALL else 1)
    seconds = timing.in_turn(steps, device, rounds, warmup=0 if setting.small else 3)
    target = "" if case.network == "small" else TARGET[device]
    for method in ("AGMM", "AGMM++"):
        times = seconds[method], "the baseline", seconds["baseline"]
        yield compared(f"{method}, {case.name}", *times, target=target, precision=precision)
    if device == "cuda":
        waits = float(synchronizations(steps["AGMM"]))
        name = f"AGMM, {case.name}: waits for the GPU in a step"
        yield Figure(name, waits, "waits", "none", 0.0, waits, "<= 0", precision)
    forward = 2 * shapes.batch * networks.network_macs(networks.build(case.network, shapes.num_classes), shapes.label)
    achieved = 3 * forward / statistics.median(seconds["baseline"]) / 1e12
    peak = matrix_rate(setting, precision) / 1e12
    name = f"baseline, {case.name}, 3 x forward operations"
    yield Figure(name, achieved, "TFLOP/s", "matrix products", peak, achieved / peak, precision=precision)


def synchronizations(step: Callable[[], None]) -> int:
    """Return how often a step on a GPU waits for it."""
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def matrix_rate(setting: Setting, precision: str) -> float:
    """Return the operations per second of large matrix products, the ceiling of a network."""
    side = 256 if setting.small else 2048 if setting.device == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=setting.device).to(getattr(torch, precision))
    seconds = timing.in_turn({"": lambda: a @ b}, setting.device, repeats=5, warmup=2)
    return 2 * side**3 / min(seconds[""])


def profile(setting: Setting, rows: int = 25) -> str:
    """Return the most expensive operations of three steps of AGMM, of the last of `cases`, in bfloat16 on a GPU."""
    case = cases(setting)[-1]
    precision = "bfloat16" if setting.device == "cuda" else "float32"
    step = case.step(objectives.AGMM(case.shapes.num_classes), setting.device, precision)
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if setting.device == "cuda" else []
    with torch.profiler.profile(activities=activities) as trace:
        for _ in range(3):
            step()
        timing.synchronize(setting.device)
    table = trace.key_averages().table(sort_by=f"self_{setting.device}_time_total", row_limit=rows)
    return f"Three steps of AGMM, {case.name}, {precision}, {hardware(setting.device)}\n\n{table}\n"


def spml(setting: Setting) -> Iterator[Figure]:
    """Yield k-means of one image, and the objective with crops of 512, fewer of them on a CPU."""
    yield clustering(setting)
    batch = 16 if setting.device == "cuda" else 2
    case = Case("SPML", "resnet101", Shapes(batch, 21, 64, 128, 512, form="scribbles"))
    if setting.small:
        case = Case("SPML", "small", Shapes(2, 7, 16, 16, 64, form="scribbles"))
    steps = {"objective": spml_step(case.shapes, setting.device)}
    steps["baseline"] = case.step(objectives.Baseline(case.shapes.num_classes), setting.device)
    for _ in range(2):  # fills the memory
        steps["objective"]()
    slow = setting.device == "cpu" and not setting.small
    seconds = timing.in_turn(steps, setting.device, 1 if slow else setting.repeats, warmup=0 if slow else 2)
    name = f"objective, {case.shapes.batch} images at {case.shapes.label}, three relations"
    yield compared(name, seconds["objective"], f"step of the baseline, {case.network}", seconds["baseline"])


def clustering(setting: Setting) -> Figure:
    """Compare k-means of one map of embeddings with the library's, of the same start and number of iterations."""
    side, channels, number = *((16, 16) if setting.small else (64, 64)), CLUSTERS[0] * CLUSTERS[1]
    maps = F.normalize(embeddings(1, channels, side), dim=1)
    vectors = segments.with_location(maps).flatten(2).mT.contiguous().to(setting.device)
    first = segments.grid_clusters((side, side), CLUSTERS).flatten()[None].to(setting.device)
    points, centers = vectors[0].cpu().numpy(), segments.directions(vectors[0], first[0], number).cpu().numpy()
    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: segments.spherical_kmeans(vectors, first, number, ITERATIONS),
        "library": lambda: library_kmeans(points, centers),
    }
    with threadpool_limits(setting.threads):
        seconds = timing.in_turn(functions, setting.device, max(10, setting.repeats), warmup=3)
    name, target = f"k-means, {side} x {side} x {points.shape[1]}, {number} clusters", "" if setting.small else "<= 3"
    return compared(name, seconds["ours"], "scikit-learn (CPU)", seconds["library"], target=target)


def library_kmeans(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return clusters by as many iterations from the same centers; its centers are means, of no unit length."""
    model = KMeans(len(centers), init=centers, n_init=1, max_iter=ITERATIONS, tol=0)
    with warnings.catch_warnings(action="ignore"):  # of iterations that were too few
        return model.fit(vectors).labels_


def spml_step(shapes: Shapes, device: str) -> Callable[[], None]:
    """Return forward and backward of the objective with scribbles, down to embeddings and logits."""
    _, logits = random_outputs(shapes, device)
    labels, image_classes = random_labels(shapes, device)
    features = embeddings(shapes.batch, shapes.channels, shapes.grid).to(device)
    regions = oversegmentation(shapes.batch, shapes.label).to(device)
    objective = SPML(shapes.num_classes, clusters=CLUSTERS, iterations=ITERATIONS)
    outputs = features.requires_grad_(), logits.requires_grad_()

    def step() -> None:
        torch.autograd.grad(objective(*outputs, labels, image_classes, regions=regions).loss, outputs)

    return step


def embeddings(batch: int, channels: int, side: int) -> Tensor:
    """Return embeddings (B, C, h, w) that change slowly from place to place, with some noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, channels, side // 8, side // 8, generator=generator)
    noise = torch.randn(batch, channels, side, side, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * noise


def oversegmentation(batch: int, side: int, number: int = REGIONS) -> Tensor:
    """Return regions (B, H, W): the pixels that are nearest to each of some random places."""
    places = side * torch.rand(batch, number, 2, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(side, dtype=torch.float32)
    pixels = torch.cartesian_prod(axis, axis).expand(batch, -1, -1)
    return torch.cdist(pixels, places).argmin(2).view(batch, side, side)


def trainings(setting: Setting) -> Iterator[Figure]:
    """Compare two processes and, on a CPU, two threads with one; a target only where there are two cores."""
    with tempfile.TemporaryDirectory() as folder:
        cache, number = Path(folder) / "cache", count()
        prepare(quick_runs(setting), cache)

        def train(threads: int, jobs: int) -> None:
            results = Path(folder) / str(next(number))
            shutil.copytree(cache, results / "cache")
            runs = [replace(run, threads=threads) for run in quick_runs(setting)]
            failed = sweep.train_all(runs, Where(results, device=setting.device), jobs=jobs, report=lambda _: None)
            if failed:
                raise RuntimeError(f"a training of the benchmark failed: {next(iter(failed.values()))}")

        ways = {"one": partial(train, 1, 1), "processes": partial(train, 1, 2)}
        if setting.device == "cpu":
            ways["threads"] = partial(train, 2, 1)
        seconds = timing.in_turn(ways, setting.device, min(setting.repeats, MOST_REPEATS), warmup=0)
    rates = {name: [60 * TRAININGS / value for value in values] for name, values in seconds.items()}
    processes, threads = (f"{TRAININGS} trainings of preset quick's network, two {w}" for w in ("processes", "threads"))
    yield compared(processes, rates["processes"], "one process", rates["one"], unit="runs/min")
    if "threads" in rates:
        yield compared(threads, rates["threads"], "one thread", rates["one"], unit="runs/min")
        target = ">= 1" if sweep.default_jobs("cpu") > 1 and not setting.small else ""
        yield compared(processes, rates["processes"], "two threads", rates["threads"], unit="runs/min", target=target)


def quick_runs(setting: Setting) -> list[Run]:
    """Return runs that differ in their seeds: four epochs of preset quick each, or next to nothing."""
    template = replace(PRESETS["quick"].at("points", "AGMM", init="scratch"), epochs=4, warmup=1, history_images=100)
    if setting.small:
        template = replace(template, epochs=1, train_images=32, test_images=16)
    return [replace(template, seed=seed) for seed in range(TRAININGS)]


def prepare(runs: list[Run], cache: Path) -> None:
    """Generate the images and simulate the labels of all runs."""
    for run in runs:
        train = sets.load(run.dataset, "train", count=run.train_images, cache=cache)
        sets.load(run.dataset, "test", count=run.test_images, cache=cache)
        sets.weak_labels(train, run.labels, dict(run.label_options), run.seed, cache)

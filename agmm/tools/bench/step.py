"""An optimizer step of AGMM beside one of the baseline, and what bfloat16 and compilation bring to both."""

import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agmm import gmm, networks, objectives
from agmm.tools.bench.figure import Figure, Setting, hardware, in_turn, median_ratio, synchronize
from agmm.tools.bench.inputs import CITYSCAPES, QUICK, VOC, Size, tensors

TARGET = {"cpu": "<= 1.1", "cuda": "<= 1.05"}


@dataclass(frozen=True)
class Case:
    """A network and the shapes that it is trained with."""

    name: str
    network: str
    size: Size
    classes: int = 4
    clicks: int = 10


def cases(setting: Setting) -> tuple[Case, ...]:
    """The papers' networks on a GPU, with fewer images on a CPU; and that of preset quick."""
    quick = Case("quick, small network", "small", QUICK, classes=3, clicks=3)
    if setting.small:
        return (quick,)
    batch = 16 if setting.device == "cuda" else 2
    voc = Size(batch, VOC.num_classes, VOC.channels, VOC.grid, VOC.label)
    if setting.device == "cpu":
        return quick, Case("VOC, ResNet-50", "resnet50", voc)
    return (
        quick,
        Case("VOC, ResNet-50", "resnet50", voc),
        Case("VOC, ResNet-101", "resnet101", voc),
        Case("Cityscapes, ResNet-50", "resnet50", CITYSCAPES, classes=7, clicks=20),
    )


def figures(setting: Setting) -> Iterator[Figure]:
    """Steps of both methods in turn, so that the ratio is one of neighbors."""
    for case in cases(setting):
        for precision in ("float32", "bfloat16"):
            yield from _figures(case, setting, precision)


def _figures(case: Case, setting: Setting, precision: str) -> Iterator[Figure]:
    batch = images, *_ = _batch(case, setting)
    count = case.size.num_classes
    steps = {
        name: training_step(case.network, objective, precision, *batch)
        for name, objective in (
            ("baseline", objectives.Baseline(count)),
            ("AGMM", objectives.AGMM(count)),
            ("AGMM++", objectives.AGMMpp(count, case.size.channels)),
        )
    }
    rounds = 20 if case.network == "small" else 1
    seconds = in_turn(steps, Setting(setting.device, setting.threads, rounds * setting.repeats), warmup=3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    target = TARGET[setting.device] if case.network != "small" else ""
    for method in ("AGMM", "AGMM++"):
        ratio, name = median_ratio(seconds[method], seconds["baseline"]), f"{method}, {case.name}"
        yield Figure("step", name, medians[method], "s", "the baseline", medians["baseline"], ratio, target, precision)
    if setting.device == "cuda":
        name = f"AGMM, {case.name}: waits for the GPU in a step"
        count_waits = float(waits(steps["AGMM"]))
        yield Figure("step", name, count_waits, "waits", "none", 0.0, count_waits, "<= 0", precision)
    operations = forward_operations(case.network, count, images[:1])
    achieved = 3 * operations * len(images) / medians["baseline"] / 1e12
    peak = matrix_rate(setting, precision) / 1e12
    name = f"baseline, {case.name}, 3 x forward operations"
    yield Figure("step", name, achieved, "TFLOP/s", "matrix products", peak, achieved / peak, "", precision)


def _batch(case: Case, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and image classes."""
    _, _, labels, image_classes = tensors(case.size, "clicks", case.clicks, case.classes, setting.device)
    images = torch.rand(case.size.batch, 3, case.size.label, case.size.label, device=setting.device)
    return images.contiguous(memory_format=torch.channels_last), labels, image_classes


def training_step(
    network: str,
    objective: objectives.Baseline | objectives.AGMM | objectives.AGMMpp,
    precision: str,
    images: Tensor,
    labels: Tensor,
    image_classes: Tensor,
) -> Callable[[], None]:
    """One optimizer step on a fixed batch."""
    torch.manual_seed(0)
    net = networks.build(network, objective.num_classes, init="scratch").to(images.device)
    if isinstance(objective, nn.Module):
        net.objective = objective.to(images.device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
    mixed = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    # On a GPU the training loop finds the components while the step before is computed.
    ahead = isinstance(objective, objectives.AGMM | objectives.AGMMpp) and images.is_cuda
    given: dict[str, Any] = {"components": gmm.components(labels, objective.num_classes)} if ahead else {}

    def step() -> None:
        optimizer.zero_grad()
        with mixed:
            features, logits = net(images)
        objective(features, logits, labels, image_classes, **given).loss.backward()
        optimizer.step()

    return step


def waits(step: Callable[[], None]) -> int:
    """How often a step on a GPU waits for it."""
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def profile(setting: Setting, rows: int = 25) -> str:
    """The most expensive operations of three steps of AGMM, of the last of `cases`, in bfloat16 on a GPU."""
    case = cases(setting)[-1]
    precision = "bfloat16" if setting.device == "cuda" else "float32"
    step = training_step(case.network, objectives.AGMM(case.size.num_classes), precision, *_batch(case, setting))
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if setting.device == "cuda" else []
    with torch.profiler.profile(activities=activities) as trace:
        for _ in range(3):
            step()
        synchronize(setting.device)
    table = trace.key_averages().table(sort_by=f"self_{setting.device}_time_total", row_limit=rows)
    return f"Three steps of AGMM, {case.name}, {precision}, {hardware(setting.device)}\n\n{table}\n"


def forward_operations(network: str, num_classes: int, image: Tensor) -> int:
    """Floating-point operations (two per multiplication and addition) of a forward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    net = networks.build(network, num_classes, init="scratch").to(image.device).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return int(counter.get_total_flops())


def matrix_rate(setting: Setting, precision: str) -> float:
    """Operations per second of large matrix products, the ceiling of a network."""
    side = 256 if setting.small else 2048 if setting.device == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=setting.device).to(getattr(torch, precision))
    seconds = in_turn({"product": lambda: a @ b}, Setting(setting.device, setting.threads, 5), warmup=2)
    return 2 * side**3 / min(seconds["product"])

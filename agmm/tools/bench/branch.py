"""The mixture and its losses, forward and backward, beside the time their bytes need.

The floor: every feature is read once forward and once backward and its gradient is written once, and so is every logit
where a term reads them, at the bandwidth of a copy measured in the same run. Labels and scores are left out: both are
small beside them.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from agmm import fast, objectives
from agmm.tools.bench.figure import Figure, Setting, bandwidth, in_turn, median_ratio
from agmm.tools.bench.inputs import CITYSCAPES, SMALL, VOC, Size, tensors

SPARSE = ("spar", "con")
FEATURES = ("self", "spar", "con")
ALL = ("seg", "self", "spar", "con", "absent")
TARGET = {"cpu": "<= 5", "cuda": "<= 3"}


def figures(setting: Setting) -> Iterator[Figure]:
    """Floors of the cases of the papers, and the compiled loops beside plain torch operations."""
    voc, cityscapes = (SMALL, SMALL) if setting.small else (VOC, CITYSCAPES)
    rate = bandwidth(setting)
    yield Figure("branch", "copy of memory", rate / 1e9, "GB/s", "itself", rate / 1e9, 1.0)
    precisions = ("float32",) if setting.device == "cpu" else ("float32", "bfloat16")
    for precision in precisions:
        for name, terms in (("spar, con", SPARSE), ("self, spar, con", FEATURES), ("all five terms", ALL)):
            yield _floor(f"VOC, 10 clicks, {name}", setting, rate, precision, terms, voc)
        for form in ("scribbles", "blocks", "dense"):
            yield _floor(f"VOC, {form}, all five terms", setting, rate, precision, ALL, voc, form)
        for clicks, classes in ((20, 7), (100, 14)):
            case = f"Cityscapes, {clicks} clicks, all five terms"
            yield _floor(case, setting, rate, precision, ALL, cityscapes, "clicks", clicks, classes)
        yield _floor("Cityscapes, dense, all five terms", setting, rate, precision, ALL, cityscapes, "dense", 0, 14)
        for form in ("clicks", "dense"):
            yield _floor(f"AGMM++, VOC, {form}", setting, rate, precision, None, voc, form)
    if setting.device == "cpu":
        yield _against_plain(setting, voc)


def _floor(
    case: str,
    setting: Setting,
    rate: float,
    precision: str,
    terms: tuple[str, ...] | None,
    size: Size,
    form: str = "clicks",
    clicks: int = 10,
    classes: int = 4,
) -> Figure:
    """``terms`` of AGMM; None is AGMM++, whose squeezed features are small beside the others."""
    inputs = tensors(size, form, clicks, classes, setting.device)
    objective = objectives.AGMM(size.num_classes, terms=terms) if terms else squeezing(size, setting.device)
    step = branch_step(objective, precision, *inputs)
    read = inputs[:2] if terms is None or {"seg", "self", "absent"} & set(terms) else inputs[:1]
    width = 2 if precision == "bfloat16" else 4
    floor = 3 * sum(x.numel() * width for x in read) / rate
    seconds = statistics.median(in_turn({"branch": step}, setting, warmup=2)["branch"])
    target = "" if setting.small else TARGET[setting.device]
    return Figure("branch", case, seconds, "s", "bytes over bandwidth", floor, seconds / floor, target, precision)


def _against_plain(setting: Setting, size: Size) -> Figure:
    """The same gradients from torch operations in blocks."""
    objective = objectives.AGMM(size.num_classes, terms=ALL)
    step = branch_step(objective, "float32", *tensors(size, device=setting.device))

    def plain() -> None:
        with plain_loops():
            step()

    seconds = in_turn({"plain": plain, "fast": step}, setting)
    values = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = median_ratio(seconds["plain"], seconds["fast"])
    case = "VOC, 10 clicks, all five terms: torch operations"
    return Figure("branch", case, values["plain"], "s", "compiled loops", values["fast"], ratio, ">= 1")


def squeezing(size: Size, device: str) -> objectives.AGMMpp:
    """AGMM++ for some shapes."""
    torch.manual_seed(0)
    return objectives.AGMMpp(size.num_classes, size.channels).to(device).to(memory_format=torch.channels_last)


def branch_step(
    objective: objectives.AGMM | objectives.AGMMpp,
    precision: str,
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    image_classes: Tensor,
) -> Callable[[], None]:
    """Forward and backward of the objective, with gradients of features, logits and its own parameters."""
    dtype = getattr(torch, precision)
    features, logits = (x.detach().to(dtype).requires_grad_() for x in (features, logits))
    own = tuple(objective.parameters()) if isinstance(objective, nn.Module) else ()

    def step() -> None:
        output = objective(features, logits, labels, image_classes)
        torch.autograd.grad(output.loss, (features, logits, *own), allow_unused=True)

    return step


@contextmanager
def plain_loops() -> Iterator[None]:
    """Leave the compiled loops out."""
    with mock.patch.object(fast, "loops", return_value=fast.plain):
        yield

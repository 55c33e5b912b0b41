"""The training loop: one for a CPU, one GPU and ``torchrun``; checkpoints, resume, distributed averaging.

Every random choice of an epoch follows from the run's seed and the epoch's number, so a run that is resumed at an epoch
boundary repeats an uninterrupted one, on a CPU to the last bit.
"""

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from agmm import objectives
from agmm.codes import UNLABELED
from agmm.host import atomic_files, machine
from agmm.objectives.common import Batch
from agmm.training.run import Run
from agmm.training.weights import load_weights, save_weights

LOOK_EVERY = 20  # steps between two looks at the loss; each look waits for the device
SAY_EVERY = 60.0  # seconds between two lines of the log in long epochs

LOGGER = logging.getLogger("agmm")
History = list[dict[str, float]]


class TrainingDiverged(RuntimeError):
    """Raised when the loss is not a number any more; the message names run, epoch and step."""


@dataclass
class Progress:
    """State of a run at an epoch boundary."""

    epoch: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    first_step: float = 0.0  # seconds of the first step since the training began or was resumed, part of the others
    processes: dict[int, int] = field(default_factory=dict)  # number of processes by the first epoch that they trained


@dataclass(frozen=True)
class Outcome:
    """Weights that a training leaves, and its scores and details as `agmm.training.result.Result` has them."""

    net: nn.Module
    progress: Progress
    images: int
    scores: dict[str, Any]
    details: dict[str, Any]


def fit(
    run: Run,
    net: nn.Module,
    groups: list[dict[str, Any]],
    batches: Callable[[int], Iterator[list[Batch]]],
    steps: int,
    loss: Callable[[nn.Module, list[Batch]], objectives.Output],
    measure: Callable[[int], dict[str, float]],
    folder: Path,
) -> Progress:
    """Train ``net`` in place, from ``folder/checkpoint.pt`` if there is one; there go history.csv and log.txt, too.

    ``groups`` are parameters with their base learning rates. For an epoch (from 0) ``batches`` gives the microbatches
    of each of its ``steps``, and ``measure``, after it, further columns of the history. Raise `TrainingDiverged` if the
    loss becomes NaN or infinite; the checkpoint of the last good epoch is kept.
    """
    optimizer = _optimizer(run, groups)
    checkpoint = folder / "checkpoint.pt"
    progress, history = _load_checkpoint(run, checkpoint, net, optimizer)
    module = _distributed(net, run)
    start = f"epoch {progress.epoch} of {run.last_epoch}, {_count_processes(progress)}"
    log(folder, f"{run.method} {dict(run.options)} on {run.labels}, seed {run.seed}: {start}")
    while progress.epoch < run.last_epoch:
        started = said = time.perf_counter()
        torch.backends.cudnn.benchmark = True  # crops have one size; test images have many
        net.train()
        torch.manual_seed(mix(run.seed, progress.epoch))
        sums: dict[str, Tensor] = {}
        for step, batch in enumerate(batches(progress.epoch)):
            rate = schedule(run, progress.epoch * steps + step, run.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
            # Microbatches that are normalized together pass the network together.
            passes = [batch] if run.norm_scope == "effective" else [[micro] for micro in batch]
            for i, micros in enumerate(passes):
                for micro in micros:
                    micro.step = progress.epoch * steps + step
                with _accumulating(module, i < len(passes) - 1):
                    try:
                        output = loss(module, micros)
                    except objectives.NotFinite as error:
                        raise _diverged(run, folder, progress.epoch, step, str(error)) from error
                    (output.loss / len(passes)).backward()
                labeled = torch.stack([(micro.labels < UNLABELED).sum() / len(micro.labels) for micro in micros]).mean()
                for name, value in ({"loss": output.loss, "labeled_pixels": labeled} | output.terms).items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(passes)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % LOOK_EVERY == LOOK_EVERY - 1 or step == steps - 1 or not progress.first_step:
                _check_finite(sums, run, folder, progress.epoch, step)
                if (now := time.perf_counter()) - said > SAY_EVERY:
                    said, epoch = now, f"epoch {progress.epoch + 1} of {run.last_epoch}, step {step + 1} of {steps}"
                    speed = run.batch_size * (step + 1) / (now - started)
                    means = f"loss {sums['loss'].item() / (step + 1):.4g}, {speed:.3g} images/s"
                    log(folder, f"{epoch}: {means}{_eta(run, progress, steps, step + 1, now - started)}")
            if not progress.first_step:
                progress.first_step = time.perf_counter() - started
        progress.train_seconds += time.perf_counter() - started
        torch.backends.cudnn.benchmark = False

        shares = steps * rank_and_world()[1]
        row: dict[str, float] = {"epoch": progress.epoch + 1, "lr": run.lr * rate}
        row |= {name: over_processes(value).item() / shares for name, value in sums.items()}
        row |= measure(progress.epoch)
        history.append(row)
        progress.epoch += 1
        _keep_best(run, net, row, progress, folder)
        progress.seconds += time.perf_counter() - started
        if is_main():
            _save_checkpoint(run, checkpoint, net, optimizer, progress, history)
            log(folder, "  ".join(f"{name} {value:.4g}" for name, value in row.items()) + _eta(run, progress, steps))
    if run.selection == "best":
        wait_for_all()
        load_weights(net, folder / "best.safetensors", run.id)
    return progress


def _eta(run: Run, progress: Progress, steps: int, step: int = 0, seconds: float = 0.0) -> str:
    """Return the time left by what has passed, so many steps and seconds of the present epoch included."""
    done = progress.epoch * steps + step
    left = (progress.seconds + seconds) * (run.last_epoch * steps - done) / done
    return f", ETA {machine.duration(left)}" if left > SAY_EVERY else ""


def _count_processes(progress: Progress) -> str:
    """Record the processes that train from here on, and return those of all epochs in words."""
    world = rank_and_world()[1]
    progress.first_step = 0.0
    if not progress.processes or list(progress.processes.values())[-1] != world:
        progress.processes[progress.epoch] = world
    return processes(progress)


def processes(progress: Progress) -> str:
    """Return by how many processes a run was trained, and from which epoch on where that changed."""
    parts = [f"{world} process{'es' * (world > 1)}" for world in progress.processes.values()]
    first = list(progress.processes)[1:]
    return ", ".join([*parts[:1], *(f"{one} from epoch {e + 1}" for one, e in zip(parts[1:], first, strict=True))])


def schedule(run: Run, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step from 0: linear warm-up, then poly decay (AGMM, Sec. 4.1).

    A warm-up from a share of the rate never exceeds the decay (SPML, released code).
    """
    decayed: float = (1 - step / steps) ** run.power
    if step >= run.warmup:
        return decayed
    if run.warmup_from:
        return min(decayed, run.warmup_from + (1 - run.warmup_from) * step / run.warmup)
    return (step + 1) / run.warmup


def mix(seed: int, epoch: int) -> int:
    """Return one seed from a run's seed and an epoch."""
    return seed * 1_000_003 + epoch


def is_main() -> bool:
    """Return whether this is the one process that writes files."""
    return rank_and_world()[0] == 0


def log(folder: Path, line: str) -> None:
    """Append a line with the time to the run's log.txt, and send it to the logger ``agmm``."""
    if is_main():
        LOGGER.info(line)
        with open(folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


def _optimizer(run: Run, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the run's optimizer, with one fused kernel instead of several per parameter."""
    groups = [group | {"initial_lr": group["lr"]} for group in groups]
    if run.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=run.lr, momentum=run.momentum, weight_decay=run.weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=run.lr, weight_decay=run.weight_decay, fused=True)


def _save_checkpoint(
    run: Run, path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, history: History
) -> None:
    """Write history.csv and checkpoint.pt, from which a run goes on."""
    atomic_files.write_text(path.with_name("history.csv"), pd.DataFrame(history).to_csv(index=False))
    state: dict[str, Any] = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
    state |= {"history": history, "run": run.id}
    atomic_files.save(path, lambda file: torch.save(state, file))


def _load_checkpoint(
    run: Run, path: Path, net: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, History]:
    if not path.exists():
        return Progress(), []
    try:
        with warnings.catch_warnings(action="ignore"):  # the exception says it
            state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("run", run.id) != run.id:
            raise ValueError(f"it is of run {state['run']}")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"]), state["history"]
    except Exception as error:
        raise ValueError(f"{path} is damaged or of another run; delete it to train this run from its start") from error


def _distributed(net: nn.Module, run: Run) -> nn.Module:
    """Wrap the network where ``torchrun`` started several processes, which normalize together if the run says so."""
    if not dist.is_initialized():
        return net
    device = next(net.parameters()).device
    on_gpu = device.type == "cuda"
    if run.norm_scope == "effective":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net) if on_gpu else _spanning(net)
    return DistributedDataParallel(net, device_ids=[device] if on_gpu else None)


class SpanningBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the images of all processes on a CPU, where torch has none; each holds as many."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Mean.apply(wide.mean((0, 2, 3)))
        centered = wide - mean[:, None, None]
        variance = _Mean.apply(centered.square().mean((0, 2, 3)))
        count = dist.get_world_size() * x.numel() / x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Mean(torch.autograd.Function):
    """The mean of a tensor over the processes, whose losses are averaged."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return over_processes(value / dist.get_world_size())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return over_processes(gradient / dist.get_world_size())


def _spanning(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SpanningBatchNorm
    return net


def _accumulating(module: nn.Module, more: bool) -> contextlib.AbstractContextManager[None]:
    """Exchange gradients once per step, after the last microbatch."""
    return module.no_sync() if more and isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def _check_finite(sums: dict[str, Tensor], run: Run, folder: Path, epoch: int, step: int) -> None:
    if not math.isfinite(sums["loss"].item()):
        wrong = [name for name, value in sums.items() if name != "loss" and not math.isfinite(value.item())]
        raise _diverged(run, folder, epoch, step, f"the loss is not a number (terms: {', '.join(wrong)})")


def _diverged(run: Run, folder: Path, epoch: int, step: int, problem: str) -> TrainingDiverged:
    kept = f"the checkpoint of epoch {epoch} is kept in {folder}" if epoch else "no epoch was finished"
    remedy = f"try a learning rate below {run.lr}"
    return TrainingDiverged(f"{problem} in run {run.id} at epoch {epoch + 1}, step {step + 1}; {kept}; {remedy}")


def rank_and_world() -> tuple[int, int]:
    """Return the number of this process and of all, (0, 1) without ``torchrun``."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def over_processes(value: Tensor) -> Tensor:
    """Return the sum over the processes of ``torchrun``."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def agree(net: nn.Module) -> None:
    """Give every process of ``torchrun`` the buffers of the first, whose weights are kept."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def _keep_best(run: Run, net: nn.Module, row: dict[str, float], progress: Progress, folder: Path) -> None:
    """Write the weights of an epoch that is better than all before it, where the best one is reported."""
    if run.selection == "best" and row.get("test_miou", -math.inf) > progress.best:
        progress.best, progress.best_epoch = row["test_miou"], progress.epoch
        if is_main():
            save_weights(net, folder / "best.safetensors", run.id)


def join_torchrun(device: torch.device) -> None:
    """Join the process group that ``torchrun`` announces; nothing in a plain process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def wait_for_all() -> None:
    """Keep the processes of ``torchrun`` from going on before the files of the main one are written."""
    if dist.is_initialized():
        dist.barrier()

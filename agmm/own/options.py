"""What a training on images of one's own is like: its options, and the run that follows from them."""

import math
from dataclasses import dataclass, replace

import torch

from agmm import networks
from agmm.data import user_folder
from agmm.objectives import one_of
from agmm.training import loop
from agmm.training.presets import PRESETS
from agmm.training.run import Run

CPU_STEPS, GPU_STEPS = 600, 4000
CPU_SIDE, GPU_SIDE = 256, 512
"""Steps and longest side of images by default: some minutes on a CPU; no GPU was measured."""
EPOCH_STEPS = 25  # fewest steps of an epoch, however few images there are: a checkpoint is written after each


@dataclass(frozen=True)
class Options:
    """How to train on images of one's own."""

    complete: bool = False  # whether the labels of an image name every class that it shows
    method: str = "auto"
    """``"AGMM"``, ``"Baseline"`` or ``"auto"``: AGMM with all its terms if labels are complete, else partial
    cross-entropy alone. The mixture has no component for a class that nobody clicked in an image, and from clicks that
    miss classes it was mostly behind. AGMM of labels that are not complete goes without its absent-class loss."""
    network: str = "auto"
    """``"lite0"``, ``"small"``, ``"resnet50"``, or ``"auto"``: ResNet-50 on a GPU; else "lite0", which starts from
    ImageNet weights, or the small network, from scratch, where these cannot be had."""
    init: str = "auto"
    """Start of the ResNet-50: ``"imagenet"``, ``"scratch"`` or ``"auto"``, ImageNet weights if they can be had. To look
    for them without a connection takes a minute."""
    side: int = 0  # longest side that images are shrunk to; 0: `CPU_SIDE`, or `GPU_SIDE` on a GPU
    steps: int = 0  # of the optimizer; 0: `CPU_STEPS`, or `GPU_STEPS` on a GPU
    width: int = 3  # of points and lines in pixels
    fill_background: bool = False  # whether what no polygon, mask or box of an image covers is background
    validation: float = 0.2  # share of the labeled images to validate on
    validate: str = "apart"
    """``"apart"``: on images that are not learned from. ``"cross"``: on all labeled images, each by one of `FOLDS`
    further trainings, which have not learned from it; the model itself learns from all."""
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("method", self.method, ("auto", "AGMM", "Baseline"))
        one_of("network", self.network, ("auto", "lite0", "small", "resnet50"))
        one_of("init", self.init, ("auto", "imagenet", "scratch"))
        one_of("validate", self.validate, ("apart", "cross"))
        if min(self.side, self.steps, self.width - 1) < 0 or not 0 <= self.validation < 1:
            raise ValueError("side, steps and width must be positive, and validation a share from 0 to below 1")

    def on(self, device: torch.device) -> "Options":
        """Return the options with all but ``init`` decided for a device."""
        cpu = device.type == "cpu"
        return replace(
            self,
            method=("AGMM" if self.complete else "Baseline") if self.method == "auto" else self.method,
            network=(_of_cpu() if cpu else "resnet50") if self.network == "auto" else self.network,
            side=self.side or (CPU_SIDE if cpu else GPU_SIDE),
            steps=self.steps or (CPU_STEPS if cpu else GPU_STEPS),
        )


def _of_cpu() -> str:
    """Return the network of a CPU: "lite0" if its ImageNet weights can be had, else "small"."""
    try:
        networks.build("lite0", 2, init="imagenet")
    except RuntimeError as error:
        loop.LOGGER.warning(f"training the small network from scratch: {error}")
        return "small"
    return "lite0"


def describe(data: user_folder.Prepared, options: Options) -> Run:
    """Return the run for a prepared folder, with options decided for a device; an epoch has `EPOCH_STEPS` at least."""
    run = _small(data)
    if options.network == "lite0":
        run = _lite0(run)
    elif options.network == "resnet50":
        run = _resnet50(run, data, options.init)
    images = max(user_folder.weights(data).sum(), EPOCH_STEPS * run.batch_size)
    per_epoch = math.ceil(images / run.batch_size)
    terms = ("seg", "self", "spar", "con") + (("absent",) if options.complete else ())
    return replace(
        run,
        method=options.method,
        options=(("terms", terms),) if options.method == "AGMM" else (),
        train_images=per_epoch * run.batch_size,
        epochs=math.ceil(options.steps / per_epoch),
        seed=options.seed,
    )


def _small(data: user_folder.Prepared) -> Run:
    return Run(
        preset="own",
        dataset="own",
        labels="own",
        label_options=(("data", data.digest),),
        normalize=True,
        network="small",
        network_options=(("stem", 24), ("feature_channels", 64)),
        batch_size=8,
        microbatch=8,
        # Crops of images that have been enlarged or shrunk by a factor of up to two.
        crop=max(32, data.side * 3 // 4),
        augmentation="official_clicks",
        history_images=0,
        threads=torch.get_num_threads(),
    )


def _lite0(small: Run) -> Run:
    """Return a run with the network, rates and start of the preset voc_animals."""
    like = PRESETS["voc_animals"].run
    run = replace(small, network=like.network, network_options=like.network_options, init=like.init, normalize=False)
    return replace(run, lr=like.lr, head_factor=like.head_factor, warmup=like.warmup)


def _resnet50(small: Run, data: user_folder.Prepared, init: str) -> Run:
    """Return a run for a GPU, with the rates of camvid_r50 from scratch and of Cityscapes' protocol from ImageNet."""
    run = replace(small, network="resnet50", network_options=(), batch_size=16, microbatch=16, threads=1)
    run = replace(run, optimizer="sgd", weight_decay=1e-4, precision="bfloat16")
    if init == "auto":
        try:
            networks.build("resnet50", len(data.names), init="imagenet")
        except RuntimeError as error:
            loop.LOGGER.warning(f"training from scratch: {error}")
            init = "scratch"
    return replace(run, lr=0.01) if init == "scratch" else replace(run, init="imagenet", lr=0.004, head_factor=10)

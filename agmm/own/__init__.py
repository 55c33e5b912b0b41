"""Images of your own: train on a few clicks, predict, check a folder."""

from agmm.own.train_predict import (
    CPU_SIDE,
    CPU_STEPS,
    EPOCH_STEPS,
    GPU_SIDE,
    GPU_STEPS,
    Model,
    check,
    describe,
    load,
    mask,
    pictures,
    predict,
    probabilities,
    summary,
    train,
)

__all__ = [
    "CPU_SIDE",
    "CPU_STEPS",
    "EPOCH_STEPS",
    "GPU_SIDE",
    "GPU_STEPS",
    "Model",
    "check",
    "describe",
    "load",
    "mask",
    "pictures",
    "predict",
    "probabilities",
    "summary",
    "train",
]

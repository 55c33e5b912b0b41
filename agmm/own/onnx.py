"""Networks as ONNX files, checked with onnxruntime."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agmm.evaluation import Normalization
from agmm.host import atomic_files

NEEDS = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference of a probability between torch and onnxruntime."""


class Probabilities(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to class probabilities (B, K, H, W), normalization included."""

    def __init__(self, net: nn.Module, normalization: Normalization | None) -> None:
        super().__init__()
        self.net = net
        mean, std = (normalization.mean, normalization.std) if normalization else ((0.0,) * 3, (1.0,) * 3)
        self.mean, self.std = (nn.Buffer(torch.tensor(channels)[:, None, None]) for channels in (mean, std))

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of the classes."""
        return self.net((images - self.mean) / self.std)[1].softmax(dim=1)


def missing() -> list[str]:
    """Return the packages that the export needs and that are not installed."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def require() -> None:
    """Raise a RuntimeError with a remedy where a package is missing."""
    if names := missing():
        raise RuntimeError(f"ONNX export needs {', '.join(names)}: pip install 'agmm[onnx]', or leave it out")


def export(net: nn.Module, normalization: Normalization | None, path: Path) -> float:
    """Write a network as one file for images of any size, and compare what it predicts.

    The network (B, 3, H, W) -> (features, logits) is on the CPU, in eval mode; normalization becomes a part of the
    file. Return the largest difference of a probability between torch and onnxruntime, at two sizes. RuntimeError if a
    package is missing, or the file predicts otherwise; then it is not written.
    """
    require()
    module = Probabilities(net, normalization).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program: Any = torch.onnx.export(
            module,
            (torch.rand(2, 3, 64, 96),),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),),
            dynamo=True,
            verbose=False,
        )
    content = program.model_proto.SerializeToString()
    difference = max(_difference(module, content, size) for size in ((64, 96), (75, 50)))
    if not difference <= TOLERANCE:  # or NaN
        what = f"onnxruntime's probabilities differ from torch's by {difference:.2g}"
        raise RuntimeError(f"{what}; {path} is not written")
    atomic_files.write(path, content)
    return difference


@torch.no_grad()
def _difference(module: nn.Module, content: bytes, size: tuple[int, int]) -> float:
    """Return the largest difference between onnxruntime's and torch's probabilities of a random image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    (probabilities,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(probabilities - module(images).numpy()).max())

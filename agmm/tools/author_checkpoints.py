"""Networks from files: checkpoints of AGMM's released code, and the weights of our own runs."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from agmm import networks
from agmm.data import sets

State = Mapping[str, Tensor]

DILATIONS: dict[str, dict[str, Any]] = {
    "voc": {"rates": (6, 12, 18), "multi_grid": (1, 1, 1)},
    "cityscapes": {"rates": (12, 24, 36), "multi_grid": (2, 2, 4)},
}
"""Dilations by the data set that a network was trained on, as in the released configurations; no file holds them."""

_BLOCKS = {6: "resnet50", 23: "resnet101"}
_ANCHOR = "layer1.0.conv1.weight"
_EXPECTED = "expected is the authors' network: DeepLabV3+ on a ResNet-50 or ResNet-101 with deep stem"
_OURS = "expected are the names that a run of this package gives; the authors' checkpoints end in .pth"

# A score kept beside the weights is often a number of numpy's.
_HARMLESS: list[Any] = [np.dtype, type(np.dtype(np.float64))]
_HARMLESS += [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def load(path: str | Path, dataset: str) -> networks.Segmenter:
    """Return the network of a file, in eval mode on the CPU.

    A ``.pth`` is a state dict, alone or as one entry of a dictionary, with or without the prefix ``module.`` of
    ``DataParallel``. Backbones have the names of timm's ``resnet50s`` and ``resnet101s`` below any prefix; a leftover
    classifier ``fc`` is left out. We do not know the names in the authors' head and match it by structure: its
    convolutions, each followed by its batch normalization, are told apart by their shapes. Where shapes are equal, the
    order in the file decides, which is the order of definition: of the two 1x1 convolutions from the last stage the
    first is the branch and the second the image pooling, and the three 3x3 ones follow the rates.

    A ``.safetensors`` is one that a run of this package wrote, with our names. The data set that the network was
    trained on decides K and the dilations, which are not in the file; ResNet-50 and ResNet-101 are told apart by the
    file. Raise FileNotFoundError, or ValueError where the file is damaged, holds something else, or does not fill every
    tensor of the network exactly once.
    """
    path = Path(path)
    return assemble(read(path), dataset, str(path), ours=path.suffix == ".safetensors")


def read(path: Path) -> State:
    """Return the tensors of a checkpoint by name; nothing in the file is executed. Raises as `load`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name a checkpoint (.pth) or a run's model.safetensors")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"{path}: not readable; change its permissions") from error
    except Exception as error:  # a damaged file may fail anywhere in the parser
        code = re.search(r"GLOBAL (\w+(\.\w+)+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            remedy = "where you trust it, save the state dict alone with torch.save(model.state_dict(), …)"
            problem = f"holds {code[1]}, and a file that could run code is not opened"
            raise ValueError(f"{path}: {problem}; {remedy}") from None
        raise ValueError(f"{path}: no checkpoint of torch, or a damaged one; copy it again") from error
    if _is_state(content):
        return content
    states = {name: value for name, value in content.items() if _is_state(value)} if isinstance(content, dict) else {}
    if len(states) != 1:
        what = f"{len(states)} networks ({', '.join(map(str, states))})" if states else "no state dict"
        raise ValueError(f"{path}: holds {what}; save the state dict of one network with torch.save")
    return next(iter(states.values()))


def assemble(state: State, dataset: str, file: str, *, ours: bool = False) -> networks.Segmenter:
    """Fill a network from tensors, which have our names or not; ``file`` names them in errors. See `load`."""
    if dataset not in DILATIONS:
        raise ValueError(f"unknown data set {dataset!r}; known: {', '.join(DILATIONS)}")
    anchors = [name for name in state if f".{name}".endswith(f".{_ANCHOR}")]
    if len(anchors) != 1:
        found = f"{len(anchors)} tensors end in {_ANCHOR}, so it holds no or several ResNets"
        raise ValueError(f"{file}: {found}; {_EXPECTED}")
    prefix = anchors[0].removesuffix(_ANCHOR)
    third = f"{prefix}layer3."
    blocks = len({name.removeprefix(third).split(".")[0] for name in state if name.startswith(third)})
    if blocks not in _BLOCKS:
        raise ValueError(f"{file}: {prefix}layer3 has {blocks} blocks, not 6 or 23; {_EXPECTED}")
    name = _BLOCKS[blocks]
    with torch.device("meta"):
        net = networks.build(name, len(sets.class_names(dataset)), **DILATIONS[dataset])
    rest, left_out = dict(state), ""
    if ours:
        filled = _take(file, rest, net.state_dict(), "", _OURS)
        if rest:
            raise ValueError(f"{file}: the network has no place for {next(iter(rest))}; {_OURS}")
    else:
        backbone = _take(file, rest, net.backbone.state_dict(), prefix, _EXPECTED)
        if [rest.pop(key) for key in (f"{prefix}fc.weight", f"{prefix}fc.bias") if key in rest]:
            left_out = " without its classifier fc"
        head = _match(file, _units(file, rest), _units("this package", net.head.state_dict()), dataset)
        filled = {f"backbone.{key}": value for key, value in backbone.items()}
        filled |= {f"head.{key}": value for key, value in head.items()}
    wanted = net.state_dict()
    net.load_state_dict({key: value.to(wanted[key].dtype) for key, value in filled.items()}, assign=True)
    net.provenance = f"{name}s (deep stem), DeepLabV3+, weights of {Path(file).name}{left_out}"
    return net.eval()


def _is_state(value: Any) -> bool:
    """Return whether this is a dictionary of names with tensors, and nothing else."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def _take(file: str, rest: dict[str, Tensor], wanted: State, prefix: str, expected: str) -> dict[str, Tensor]:
    """Move the wanted tensors out of ``rest``, by name; torch before 0.4.1 kept no num_batches_tracked."""
    taken = {}
    for name, ours in wanted.items():
        tensor = rest.pop(prefix + name, None)
        if tensor is None and name.endswith("num_batches_tracked"):
            tensor = torch.zeros((), dtype=torch.int64)
        if tensor is None:
            raise ValueError(f"{file}: there is no tensor {prefix}{name}; {expected}")
        if tensor.shape != ours.shape:
            raise ValueError(f"{file}: {prefix}{name} is {_size(tensor)}, not {_size(ours)}; {expected}")
        taken[name] = tensor
    return taken


@dataclass(frozen=True, eq=False)
class _Unit:
    """A convolution and, unless it is the classifier, its batch normalization."""

    name: str
    convolution: dict[str, Tensor]
    norm_name: str = ""
    norm: dict[str, Tensor] | None = None

    @property
    def kind(self) -> tuple[tuple[int, ...], bool]:
        return tuple(self.convolution["weight"].shape), self.norm is not None

    def __str__(self) -> str:
        (channels, in_channels, height, width), normalized = self.kind
        words = "and batch norm" if normalized else "without batch norm"
        return f"convolution {height}x{width}, {in_channels} -> {channels}, {words}"


_NORM = ("weight", "bias", "running_mean", "running_var")


def _units(file: str, tensors: State) -> list[_Unit]:
    """Return the convolutions with their batch normalization, in the order of the file."""
    units: list[_Unit] = []
    for module, group in groupby(tensors, key=lambda name: name.rpartition(".")[0]):
        names = list(group)
        leaves = {name.rpartition(".")[2]: tensors[name] for name in names}
        weight = leaves.get("weight", torch.empty(()))
        if weight.ndim == 4 and leaves.keys() <= {"weight", "bias"}:
            units.append(_Unit(module, leaves))
            wanted = {"bias": weight.shape[:1]}
        elif units and not units[-1].norm and set(_NORM) <= leaves.keys() <= {*_NORM, "num_batches_tracked"}:
            units[-1] = replace(units[-1], norm_name=module, norm=leaves)
            wanted = dict.fromkeys(_NORM, units[-1].convolution["weight"].shape[:1])
            wanted["num_batches_tracked"] = torch.Size()
        else:
            problem = f"no convolution and no whole batch norm after one: {', '.join(names)}"
            raise ValueError(f"{file}: {problem}; {_EXPECTED}")
        for leaf, size in wanted.items():
            if leaf in leaves and leaves[leaf].shape != size:
                target = f"{units[-1].name}.weight of {_size(units[-1].convolution['weight'])}"
                problem = f"{module}.{leaf} is {_size(leaves[leaf])}, which does not fit {target}"
                raise ValueError(f"{file}: {problem}; {_EXPECTED}")
    return units


def _match(file: str, theirs: Iterable[_Unit], ours: Iterable[_Unit], dataset: str) -> dict[str, Tensor]:
    """Return the tensors of the file under the names of our head: units of the same kind in order, each used once."""
    theirs = list(theirs)
    _check_classes(file, [unit for unit in theirs if not unit.norm], dataset)
    filled: dict[str, Tensor] = {}
    missing = []
    for target in ours:
        source = next((unit for unit in theirs if unit.kind == target.kind), None)
        if source is None:
            missing.append(f"{target} (our head.{target.name})")
            continue
        theirs.remove(source)
        filled |= _renamed(file, source, target)
    if missing or theirs:
        lacks = f"lacks: {missing[0]}" if missing else ""
        extra = f"has no place for: {theirs[0].name} ({theirs[0]})" if theirs else ""
        raise ValueError(f"{file}: the head {' and '.join(filter(None, (lacks, extra)))}; {_EXPECTED}")
    return filled


def _check_classes(file: str, classifiers: list[_Unit], dataset: str) -> None:
    """Raise ValueError where the classifier is that of another data set."""
    expected = len(sets.class_names(dataset))
    if len(classifiers) != 1 or (number := len(classifiers[0].convolution["weight"])) == expected:
        return
    fitting = [name for name in DILATIONS if len(sets.class_names(name)) == number]
    remedy = f"choose the data set {fitting[0]}" if fitting else "evaluate it on the data set it was trained on"
    problem = f"{classifiers[0].name} has {number} classes, but {sets.PUBLIC[dataset].title} has {expected}"
    raise ValueError(f"{file}: {problem}; {remedy}")


def _renamed(file: str, source: _Unit, target: _Unit) -> dict[str, Tensor]:
    """Return the tensors of a unit under our names; a bias before a batch norm becomes part of its running mean."""
    bias = source.convolution.get("bias")
    filled = {f"{target.name}.weight": source.convolution["weight"]}
    if source.norm is None:
        if bias is None:
            raise ValueError(f"{file}: there is no tensor {source.name}.bias; {_EXPECTED}")
        return filled | {f"{target.name}.bias": bias}
    norm = {"num_batches_tracked": torch.zeros((), dtype=torch.int64)} | source.norm
    if bias is not None:
        norm["running_mean"] = norm["running_mean"] - bias
    return filled | {f"{target.norm_name}.{leaf}": tensor for leaf, tensor in norm.items()}


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"

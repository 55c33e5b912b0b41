"""What objectives refuse: calls whose tensors do not belong together, each with a sentence that names the argument.

``python -m tests.test_wrong_calls FIRST COUNT`` makes wrong calls of consecutive seeds in a process that they may kill:
it prints each seed before its call, and what ended other than in ValueError.
"""

import random
import sys
from collections.abc import Callable
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest
import torch

from agmm import UNLABELED, VOID, fast, gmm
from agmm.objectives import AGMM
from agmm.training.run import METHODS
from tests.helpers import ROOT, one_sentence

B, K, C = 2, 4, 8
Call = dict[str, Any]


def right_call(method: str, seed: int = 0) -> Call:
    torch.manual_seed(seed)
    labels = torch.full((B, 12, 16), UNLABELED)
    labels[:, 2, 3], labels[0, 8, 9], labels[:, 11] = 0, 3, VOID
    image_classes = torch.tensor([[True, False, False, True], [True, False, True, False]])
    call: Call = {"features": torch.randn(B, C, 6, 8), "logits": torch.randn(B, K, 12, 16), "labels": labels}
    call |= {"image_classes": image_classes}
    others = {"components": gmm.components(labels, K), "images": torch.rand(B, 3, 12, 16)}
    others |= {"regions": torch.randint(5, (B, 12, 16))}
    others |= {"grid_logits": torch.randn(B, K, 6, 8), "inner_features": torch.randn(B, C, 6, 8)}
    return call | {name: others[name] for name in METHODS[method].needs}


def objective(method: str) -> Any:
    return METHODS[method](K, in_channels=C) if method in ("AGMMpp", "TreeEnergy") else METHODS[method](K)


AXES = {"features": [0], "logits": [0, 1, 2, 3], "labels": [0, 1, 2], "image_classes": [0, 1], "images": [0, 1, 2, 3]}
AXES |= {"regions": [0, 1, 2], "grid_logits": [0, 1], "inner_features": [0, 1]}
"""Axes of every argument whose lengths follow from the others."""

TYPES = {"features": [torch.int64, torch.float64], "logits": [torch.int32, torch.float64, torch.bool]}
TYPES |= {"labels": [torch.float32, torch.bool], "image_classes": [torch.complex64], "images": [torch.uint8]}
TYPES |= {"regions": [torch.float32], "grid_logits": [torch.int64], "inner_features": [torch.float64, torch.int64]}

VALUES = {"features": [np.nan, np.inf, -np.inf], "logits": [np.nan, np.inf], "labels": [-1, K, 253, 256, 2**40]}
VALUES |= {"image_classes": [2, -1]}
"""Types and values that an argument must not have."""


def spoil(name: str, x: torch.Tensor) -> Any:
    """Make something of an argument that must be refused."""
    axis, value = random.choice(AXES[name]), random.choice(VALUES.get(name, [None]))
    spoiled = x.long() if x.dtype == torch.bool else x.clone()
    if value is not None:
        spoiled.view(-1)[random.randrange(x.numel())] = value
    ways = [x[:0], x[0], x[None], x[..., :0], x.to("meta"), x.to_sparse(), x.numpy(), x.tolist(), None]
    ways += [torch.cat([x, x], axis), x.narrow(axis, 0, x.shape[axis] // 2), x.to(random.choice(TYPES[name]))] * 3
    ways = [way for way in ways if not (name == "image_classes" and way is None)]
    return random.choice(ways if value is None else ways + [spoiled] * 3)


def spoil_components(right: gmm.Components) -> Any:
    """Return components of other labels, or none at all."""
    labels = torch.randint(K, (random.choice([1, B, B, 3]), 12, 16))
    return random.choice([gmm.components(labels, K), gmm.components(labels, K + 2), right.classes, "components"])


def wrong_call(method: str, seed: int) -> Call:
    random.seed(seed)
    call = right_call(method, seed)
    name = random.choice(list(call))
    return call | {name: spoil_components(call[name]) if name == "components" else spoil(name, call[name])}


def wrong_loop(seed: int) -> None:
    """Call a compiled loop with tensors that do not belong together, past all other checks."""
    random.seed(seed)
    sizes = [random.choice([1, 2, 3, 5]) for _ in range(8)]
    features, means = torch.randn(2, 3, sizes[0] * 4), torch.randn(2, sizes[1], sizes[2] + 3)
    labels, classes = torch.randint(K, (2, 12, 16)), torch.randint(-9, 99, (2, 3))
    share, logits, scores = torch.rand(2, 3 + sizes[3]), torch.randn(2, K, 192), torch.rand(2, 3, 192)
    flat, weight, absent = labels.flatten(1), torch.ones(2, 3), torch.zeros(2, K + sizes[4], dtype=torch.bool)

    def terms(labels: torch.Tensor, classes: torch.Tensor, absent: torch.Tensor | None = None) -> Callable[[], object]:
        supervision = fast.Supervision(labels, classes, weight, weight, True, absent, True)
        return lambda: fast.segmentation_terms(logits, scores, supervision)

    calls = [
        lambda: fast.mean_absolute_difference(features, means, (sizes[1], sizes[1])),
        lambda: fast.mean_absolute_difference(features, torch.randn(2, 2, 3), (99, 2)),
        lambda: fast.means_and_differences(features, torch.rand(2, 2, sizes[0] * 4 + 1), (2, 2)),
        lambda: fast.upsample(torch.rand(2, 2, 3, 3), (6, 6), (2, 3)),
        lambda: fast.upsample(torch.rand(2, 2, 0, 3), (6, 6), (2, 2)),
        lambda: fast.mean_weights(labels, classes, share, (3, 4)),
        *(terms(flat, classes), terms(flat[:, 1:], classes % K), terms(flat, classes % K, absent)),
    ]
    random.choice(calls)()


def test_no_wrong_call_kills_the_process_or_is_accepted() -> None:
    """Called at random in processes of their own, which a loop that reads beyond memory would end."""
    command = [sys.executable, "-m", __name__]
    processes = [Popen([*command, str(first), "250"], cwd=ROOT, stdout=PIPE, text=True) for first in (0, 250)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    wrong = [line for output in outputs for line in output if not line.startswith("seed")]
    assert not wrong, wrong
    died = [output[-1:] for output, process in zip(outputs, processes, strict=True) if process.returncode]
    assert not died, f"the process died in the call of {died}"


WRONG = {
    "logits at a quarter": ({"logits": torch.zeros(2, K, 3, 4)}, r"^labels is \(2, 12, 16\).*\(2, 3, 4\).*interpolate"),
    "logits of other classes": ({"logits": torch.zeros(2, K + 1, 12, 16)}, r"^logits .*num_classes is 4"),
    "labels of one image": ({"labels": torch.zeros(1, 12, 16, dtype=torch.int64)}, r"^labels is \(1, 12, 16\)"),
    "labels with a channel": ({"labels": torch.zeros(2, 1, 12, 16, dtype=torch.int64)}, r"^labels is \(2, 1, 12, 16\)"),
    "labels as floats": ({"labels": torch.zeros(2, 12, 16)}, "^labels .* float32 on cpu; it must be .* integers"),
    "no labels": ({"labels": None}, "^labels is a NoneType, no tensor"),
    "an empty batch": ({"logits": torch.zeros(0, K, 12, 16)}, r"^logits is \(0, 4, 12, 16\)"),
    "another device": ({"features": torch.zeros(2, 8, 6, 8, device="meta")}, "^features .* on meta; .* on cpu"),
    "classes of one image": ({"image_classes": torch.ones(1, K)}, r"^image_classes is \(1, 4\).*must be \(2, 4\)"),
    "classes as shares": ({"image_classes": torch.full((2, K), 0.5)}, "^image_classes hold numbers besides 0 and 1"),
    "features without values": ({"features": torch.full((2, 8, 6, 8), torch.nan)}, "^features hold NaN"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("method", METHODS)
def test_wrong_arguments_are_named(method: str, name: str) -> None:
    changes, sentence = WRONG[name]
    with one_sentence(ValueError, sentence):
        objective(method)(**(right_call(method) | changes))


@pytest.mark.parametrize("method", METHODS)
def test_types_of_integers_and_of_classes_change_nothing(method: str) -> None:
    call = right_call(method)
    expected = objective_loss(method, call)
    for labels in (torch.uint8, torch.int16, torch.int32):
        for classes in (torch.uint8, torch.int64, torch.float32):
            changes = {"labels": call["labels"].to(labels), "image_classes": call["image_classes"].to(classes)}
            assert torch.equal(objective_loss(method, call | changes), expected)


@pytest.mark.parametrize("method", METHODS)
def test_image_classes_are_those_of_the_labels_by_default(method: str) -> None:
    call = right_call(method)
    labeled = torch.stack([(call["labels"] == k).flatten(1).any(1) for k in range(K)], 1)
    expected = objective_loss(method, call | {"image_classes": labeled})
    del call["image_classes"]
    assert torch.equal(objective_loss(method, call), expected)


def objective_loss(method: str, call: Call) -> torch.Tensor:
    torch.manual_seed(0)
    return objective(method)(**call).loss.detach()


def test_a_class_may_be_excluded_by_its_logit() -> None:
    call = right_call("AGMM")
    call["logits"][:, 1] = -torch.inf
    assert AGMM(K)(**call).loss.isfinite()


def test_channels_of_another_network_are_refused() -> None:
    for method, name in (("AGMMpp", "features"), ("TreeEnergy", "inner_features")):
        with one_sentence(ValueError, f"^{name} .*must have 8 channels, the objective's in_channels"):
            objective(method)(**(right_call(method) | {name: torch.zeros(2, 9, 6, 8)}))


def main(first: int, count: int) -> None:
    torch.set_num_threads(1)
    methods = sorted(METHODS)
    for seed in range(first, first + count):
        print(f"seed {seed}", flush=True)
        method = methods[seed % len(methods)]
        try:
            if seed % 5:
                output = objective(method)(**wrong_call(method, seed))
                output.loss.backward()
            else:
                wrong_loop(seed)
        except ValueError:
            continue
        except BaseException as error:
            print(f"wrong: {method}, seed {seed}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"wrong: {method}, seed {seed}: accepted", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""Wrong calls of the objectives and of the compiled loops, made in a process that they may kill.

``python -m tests.wrong_calls FIRST COUNT`` prints each seed before its call, and what ended other than in ValueError.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agmm import UNLABELED, VOID, fast, gmm
from agmm.training.run import METHODS

B, K, C = 2, 4, 8
Call = dict[str, Any]


def right_call(method: str, seed: int = 0) -> Call:
    """Return arguments that an objective accepts."""
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
    """Return an objective by name, for features of C channels."""
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
    """Spoil an argument of a right call."""
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


def main(first: int, count: int) -> None:
    """Make wrong calls of consecutive seeds."""
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

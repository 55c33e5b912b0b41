"""What objectives refuse: calls whose tensors do not belong together, each with a sentence that names the argument."""

import sys
from subprocess import PIPE, Popen

import pytest
import torch

from agmm import objectives
from agmm.training.run import METHODS
from tests.helpers import ROOT, one_sentence
from tests.wrong_calls import K, objective, right_call


def test_no_wrong_call_kills_the_process_or_is_accepted() -> None:
    """Called at random in processes of their own, which a loop that reads beyond memory would end."""
    command = [sys.executable, "-m", "tests.wrong_calls"]
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


def objective_loss(method: str, call: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(0)
    output: objectives.Output = objective(method)(**call)
    return output.loss.detach()


def test_a_class_may_be_excluded_by_its_logit() -> None:
    call = right_call("AGMM")
    call["logits"][:, 1] = -torch.inf
    assert objectives.AGMM(K)(**call).loss.isfinite()


def test_channels_of_another_network_are_refused() -> None:
    for method, name in (("AGMMpp", "features"), ("TreeEnergy", "inner_features")):
        with one_sentence(ValueError, f"^{name} .*must have 8 channels, the objective's in_channels"):
            objective(method)(**(right_call(method) | {name: torch.zeros(2, 9, 6, 8)}))

from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from agmm import gmm, losses, objectives
from agmm.codes import UNLABELED, VOID
from agmm.objectives import AGMM, Baseline, LabelAssignment
from agmm.training.run import build_objective
from tests import loops
from tests.helpers import golden
from tests.loops import Problem, problems, random_problem

CORNER_VECTORS = ("class_in_one_image", "image_all_padding", "no_label_in_batch", "nothing_left_in_one_image")
CORNER_VECTORS += ("one_class_in_batch", "padding_all_sides", "single_pixel_per_class")
VECTORS = ("city_points", "small_all_outputs", "small_signed_far")
VECTORS += ("voc_points_b4", "voc_points_c64", "voc_scribble_c16")
GOLDEN = [f"agmm_{name}" for name in (*VECTORS, *(f"corner_{corner}" for corner in CORNER_VECTORS))]
VARIANTS = ("official", "paper")
TERMS = objectives.TERMS


def golden_problem(arrays, info):
    labels = arrays["mask"].astype(np.int64)
    labels[labels == info["arguments"]["unlabelled_value"]] = UNLABELED
    return Problem(arrays["feat"], arrays["pred"], labels, arrays["cls_label"] > 0)


def relative(found, expected):
    """Relative L2 difference; where the original gives NaN, ours must be finite and is not compared."""
    found, expected = (np.asarray(torch.as_tensor(x).detach(), dtype=np.float64).ravel() for x in (found, expected))
    assert np.isfinite(found).all()
    if expected.size == 1 and np.isnan(expected).all():  # one NaN stands for an array of them
        return 0.0
    expected = np.where(np.isnan(expected), found, expected)
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300)


def outputs(output, features, logits):
    gradients = torch.autograd.grad(output.loss, (features, logits), retain_graph=True)
    return {
        "seg_loss": output.terms["seg"],
        "cls_loss": output.terms["absent"],
        "proto_loss": output.terms["con"],
        "gmm_loss": output.terms["self"] + output.terms["spar"],
        "total_loss": output.loss,
        "res": output.scores,
        "grad_feat": gradients[0],
        "grad_logits": gradients[1],
    }


def compared(arrays, name, value, tolerances):
    """How many of the vectors with these suffixes there are, after a comparison with each."""
    present = [suffix for suffix in tolerances if name + suffix in arrays]
    for suffix in present:
        assert relative(value, arrays[name + suffix]) < tolerances[suffix], name + suffix
    return len(present)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name):
    arrays, info = golden(name)
    problem = golden_problem(arrays, info)
    features, logits, *rest = problem.tensors()
    found = outputs(AGMM(problem.num_classes)(features, logits, *rest), features, logits)
    found["prototypes"], present = gmm.class_means(features, rest[0], problem.num_classes)
    assert np.array_equal(present, arrays["cur_cls_label"].reshape(present.shape) > 0)
    # The original's own masks stay in float32 beside float64 features ("_f64").
    double = {"_f64pure": 1e-9, "_f64pure_as_f32": 1e-6, "_f64": 2e-6}
    assert sum(compared(arrays, key, value, double) for key, value in found.items()) >= len(found)
    features, logits, *rest = problem.tensors(torch.float32)
    for key, value in outputs(AGMM(problem.num_classes)(features, logits, *rest), features, logits).items():
        compared(arrays, key, value, {"_f32": 5e-3 if key == "grad_feat" else 2e-5})


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("letter", "sigma"), [("A", "code_a"), ("B", "code_b")])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors_of_the_commented_out_spreads(name, letter, sigma, detach):
    arrays, info = golden(name)
    features, logits, *rest = golden_problem(arrays, info).tensors()
    found = outputs(AGMM(logits.shape[1], sigma=sigma, detach_sigma=detach)(features, logits, *rest), features, logits)
    prefix = f"commented_out_variant{letter}_"
    names = {f"{prefix}_{key}": key for key in ("res", "gmm_loss", "total_loss")}
    # Where the original gradient is NaN, the vectors also hold the finite one of the same formula.
    for safe in ("", "_nansafe"):
        names |= {f"{prefix}{'' if detach else 'no'}detach{safe}__{k}": k for k in ("grad_feat", "grad_logits")}
    assert sum(compared(arrays, name, found[key], {"": 1e-9, "_as_f32": 1e-6}) for name, key in names.items()) >= 4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sigma", [None, 0.4, "adaptive", "code_a", "code_b"])
@settings(deadline=None, max_examples=15)
@given(problem=problems(), options=st.sampled_from([{}, {"con_vectors": "mean"}, {"self_reduction": "sum"}]))
def test_all_terms_equal_loops(variant, sigma, problem, options):
    inputs = problem.tensors()
    output = AGMM(problem.num_classes, variant, sigma, terms=TERMS, lambda_gmm=0.25, **options)(*inputs)
    expected = loops.terms(problem, variant, sigma, **options)
    for name in TERMS:
        np.testing.assert_allclose(output.terms[name].item(), expected[name], rtol=1e-8, atol=1e-9, err_msg=name)
    weighted = sum(value * (1 if name == "seg" else 0.25) for name, value in expected.items())
    np.testing.assert_allclose(output.loss.item(), weighted, rtol=1e-8, atol=1e-9)
    _, _, g = loops.mixture(problem, variant, sigma)
    without_mixture = AGMM(problem.num_classes, variant, sigma, terms=("seg",))(*inputs)
    for scores in (output.scores, without_mixture.scores):
        np.testing.assert_allclose(scores.detach().numpy(), g, rtol=1e-8, atol=1e-9)


def one_class(problem):
    problem.labels[problem.labels < UNLABELED] = 2
    problem.image_classes[:] = np.arange(5) == 2


def click(labels, *clicks):
    """Nothing else is labeled."""
    labels[labels < UNLABELED] = UNLABELED
    for y, x, code in clicks:
        labels[:, y, x] = code


CORNERS = {
    "no label": lambda problem: click(problem.labels),
    "padding only": lambda problem: problem.labels.fill(VOID),
    "one image of padding": lambda problem: problem.labels[0].fill(VOID),
    "one image without label": lambda problem: click(problem.labels[0]),
    "one class": one_class,
    "one pixel per class": lambda problem: click(problem.labels, (3, 5, 0), (8, 2, 4)),
    "middles of feature cells": lambda problem: click(problem.labels, (1, 1, 0), (7, 4, 3)),  # not interpolated
    "everything labeled": lambda problem: np.copyto(problem.labels, np.indices(problem.labels.shape).sum(0) % 5),
    "features all equal": lambda problem: problem.features.fill(1.0),
    "features all zero": lambda problem: problem.features.fill(0.0),
    "confident segmentation": lambda problem: np.multiply(problem.logits, 1e4, out=problem.logits),
}


def corner(name):
    problem = random_problem(batch=2, grid=(6, 6), size=(18, 18))
    CORNERS[name](problem)
    return problem


SIGMAS = (None, 0.5, "adaptive", "code_a", "code_b")
OBJECTIVES = [AGMM(5, *form, terms=TERMS) for form in product(VARIANTS, SIGMAS, (True, False))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", [*OBJECTIVES, LabelAssignment(5, absent=True)])
def test_corner_cases_are_finite(objective, dtype):
    for name in CORNERS:
        inputs = corner(name).tensors(dtype)
        output = objective(*inputs)
        assert output.loss.isfinite(), name
        assert not objective.has_mixture or output.scores.isfinite().all(), name
        gradients = torch.autograd.grad(output.loss, inputs[:2], allow_unused=not objective.has_mixture)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_stop_gradient_teaches_the_segmentation_only(variant):
    features, logits, labels, image_classes = random_problem().tensors()
    stopped = AGMM(5, variant=variant, stop_gradient=True)(features, logits, labels, image_classes)
    full = AGMM(5, variant=variant, detach_sigma=True)(features, logits, labels, image_classes)
    assert list(stopped.terms) == ["seg", "self"]
    through_features, through_logits = torch.autograd.grad(
        stopped.terms["self"], (features, logits), allow_unused=True, retain_graph=True
    )
    assert through_features is None
    expected = torch.autograd.grad(full.terms["self"], logits, retain_graph=True)[0]
    torch.testing.assert_close(through_logits, expected)


def test_default_terms():
    assert AGMM(5).terms == TERMS
    assert AGMM(5, variant="paper").terms == ("seg", "self", "spar", "con")
    assert AGMM(5, stop_gradient=True).terms == ("seg", "self")
    assert AGMM(5, stop_gradient=True, terms=("con",)).terms == ("con",)


def test_baseline_is_partial_cross_entropy_alone():
    _, logits, labels, _ = inputs = random_problem().tensors()
    output = Baseline(5)(*inputs)
    ignored = labels.where(labels < UNLABELED, -100)
    assert output.loss.item() == pytest.approx(F.cross_entropy(logits, ignored, ignore_index=-100).item())
    assert list(output.terms) == ["seg"]
    with pytest.raises(AttributeError, match="no mixture"):
        _ = output.scores


@settings(deadline=None, max_examples=30)
@given(problems())
def test_label_assignment_is_cross_entropy_against_the_assigned_labels(problem):
    features, logits, labels, image_classes = problem.tensors()
    output = LabelAssignment(problem.num_classes)(features, logits, labels, image_classes)
    assert list(output.terms) == ["seg", "assign"]
    assigned = replace(problem, labels=loops.assign(problem))
    assert output.terms["seg"].item() == pytest.approx(loops.seg(problem))
    assert output.terms["assign"].item() == pytest.approx(loops.seg(assigned))
    assert output.loss.item() == pytest.approx(loops.seg(problem) + loops.seg(assigned))
    assert torch.autograd.grad(output.loss, features, allow_unused=True)[0] is None


def test_a_pixel_on_the_edge_of_another_class_is_not_assigned():
    """Beyond sigma means strictly beyond, as inside means strictly inside."""
    labels = torch.tensor([[[0, 1, UNLABELED, UNLABELED, UNLABELED]]])
    d = torch.tensor([[[[0.0, 2, 0.5, 0.5, 1.0]], [[2.0, 0, 1.0, 1.5, 1.5]]]])
    found = losses.assign_labels(d, torch.ones(1, 2), labels, gmm.components(labels, 2))
    assert found.tolist() == [[[VOID, VOID, VOID, 0, VOID]]]


ADDITIVE = ("seg", "self", "spar", "absent")


@pytest.mark.parametrize(
    "objective", [Baseline(5), *(AGMM(5, variant=variant, terms=ADDITIVE) for variant in VARIANTS)]
)
def test_microbatches_with_shared_counts_add_up(objective):
    inputs = random_problem().tensors()
    counts = losses.count(inputs[2], 5)
    micro = [objective(*(x[i : i + 1] for x in inputs), counts).terms for i in range(3)]
    for name, value in objective(*inputs).terms.items():
        torch.testing.assert_close(sum(terms[name] for terms in micro), value)


LAYOUTS = (
    lambda x: x,
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    lambda x: torch.cat([x] * 2, 3)[..., : x.shape[3]],
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_differentiating_twice_and_other_memory_layouts_give_the_same(variant, dtype):
    *maps, labels, image_classes = random_problem().tensors(dtype)
    results = []
    for laid_out in LAYOUTS:
        inputs = [laid_out(x.detach()).requires_grad_() for x in maps]
        output = AGMM(5, variant=variant, terms=TERMS)(*inputs, labels, image_classes)
        first = torch.autograd.grad(output.loss, inputs, retain_graph=True)
        second = torch.autograd.grad(output.loss, inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        results.append((output.loss, output.scores, *first))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("objective", [Baseline(5), AGMM(5), AGMM(5, variant="paper"), LabelAssignment(5)])
def test_half_precision_inputs_are_computed_in_float32(objective):
    features, logits, labels, image_classes = random_problem().tensors(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = objective(features, logits, labels, image_classes)
        gradient = torch.autograd.grad(output.loss, logits)[0]
    expected = objective(features.float(), logits.float(), labels, image_classes)
    assert output.loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(output.terms, expected.terms, rtol=1e-6, atol=1e-7)
    if isinstance(objective, AGMM):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(output.scores, expected.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("code", [200, 5, 253, -1, 256])
def test_other_label_codes_are_refused(code):
    problem = random_problem()
    problem.labels[1, 4, 4] = code
    for objective in (Baseline(5), AGMM(5), LabelAssignment(5)):
        with pytest.raises(ValueError, match=f"label code {code} is neither"):
            objective(*problem.tensors())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "offical"}, "variant is 'offical'; known: official, paper"),
        ({"sigma": "code_c"}, "sigma is 'code_c'; known: adaptive, code_a, code_b"),
        ({"sigma": -0.5}, "sigma must be positive, not -0.5"),
        ({"sigma": 0.0}, "sigma must be positive, not 0.0"),
        ({"con_vectors": "max"}, "con_vectors is 'max'; known: sum, mean"),
        ({"self_reduction": "max"}, "self_reduction is 'max'; known: mean, sum"),
        ({"terms": ("seg", "spare")}, "terms is 'spare'; known: seg, self, spar, con, absent"),
        ({"lamda": 1}, "option of AGMM is 'lamda'; known: variant, sigma, "),
    ],
)
def test_unknown_options_are_refused_with_the_known_ones(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_objective("AGMM", 5, **options)


def test_build_by_name():
    assert build_objective("AGMM", 7, variant="paper", sigma=0.5) == AGMM(7, variant="paper", sigma=0.5)
    assert build_objective("Baseline", 7) == Baseline(7)
    with pytest.raises(ValueError, match="method is 'AGNM'; known: Baseline, AGMM, LabelAssignment"):
        build_objective("AGNM", 7)
    with pytest.raises(FrozenInstanceError):
        AGMM(7).sigma = 1.0

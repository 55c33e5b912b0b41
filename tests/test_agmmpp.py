import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agmm.codes import UNLABELED, VOID
from agmm.objectives import AGMMpp, agmmpp
from agmm.training.run import build_objective
from tests import loops, loops_em
from tests.loops import problems, random_problem

ALL = agmmpp.TERMS


def identity(num_classes, channels, **options):
    """An objective whose squeeze changes nothing, in float64."""
    objective = AGMMpp(num_classes, channels, channels=channels, **options).double()
    objective.squeeze.weight.data = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    objective.squeeze.bias.data.zero_()
    return objective


def random_objective(num_classes=5, channels=6, squeezed=4, **options):
    torch.manual_seed(0)
    return AGMMpp(num_classes, channels, channels=squeezed, **options).double()


OPTIONS = {"oem": (True, False), "assignment": ("argmax", "responsibility", "soft"), "keep_labels": (True, False)}
OPTIONS |= {"con_members": ("new", "old"), "sigma": (None, "pooled"), "sigma_min": (0.01, 0.1)}
DISTANCES, CLASSES = st.sampled_from(["absolute", "signed", "rms"]), st.sampled_from(["present", "all"])


@settings(deadline=None, max_examples=80)
@given(problems(), st.fixed_dictionaries({k: st.sampled_from(v) for k, v in OPTIONS.items()}), DISTANCES, CLASSES)
def test_terms_and_scores_equal_loops(problem, options, how, self_classes):
    names = ALL if self_classes == "present" else ALL[:-1]
    assume(not loops_em.undecided(problem, **options, how=how))
    expected, g = loops_em.terms(problem, self_classes, **options, how=how)
    options |= {"self_classes": self_classes, "lambda_gmm": 0.5, "lambda_self": 2.0}
    options |= {"lambda_weak": 3.0, "lambda_con": 5.0}
    objective = identity(problem.num_classes, problem.features.shape[1], terms=names, distance=how, **options)
    output = objective(*problem.tensors())
    assert tuple(output.terms) == names
    for name, value in output.terms.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    np.testing.assert_allclose(output.scores.detach(), g, atol=1e-4)
    e = expected
    rest = 2 * e["self"] + 3 * e["weak"] + 5 * (e["con"] + e["con_old"]) + e["absent"] * ("absent" in names)
    assert output.loss.item() == pytest.approx(e["seg"] + 0.5 * rest, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"oem": False}, {"sigma": "pooled"}, {"sigma_min": 3.0}])
def test_gradients_equal_finite_differences(options):
    """With steps too small to change a member, which carries no gradient."""
    objective = identity(3, 2, terms=ALL, **options)
    features, logits, *rest = random_problem(batch=2, k=3, c=2, grid=(3, 4), size=(6, 7)).tensors()

    def terms(features, logits):
        return tuple(objective(features, logits, *rest).terms.values())

    assert torch.autograd.gradcheck(terms, (features, logits), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("terms", [("self",), ("weak",), ("con",), ("con_old",), ("seg",)])
def test_which_terms_teach_the_squeeze(terms):
    features, logits, labels, classes = random_problem().tensors()
    objective = random_objective(terms=("seg", *terms))
    objective(features, logits, labels, classes).loss.backward()
    taught = objective.squeeze.weight.grad is not None and objective.squeeze.weight.grad.abs().sum() > 0
    assert taught == (terms != ("seg",))
    # A layer that nothing teaches must not be waited for when several processes train.
    assert objective.squeeze.weight.requires_grad == taught


def test_scores_of_other_mixtures_equal_loops():
    problem = random_problem()
    features, _, labels, _ = problem.tensors(torch.bfloat16)
    objective = identity(5, 6).float()
    problem.features = features.detach().double().numpy()
    found = objective.other_scores(features, labels)
    _, present, d, variance, _ = loops_em.mixture(problem)
    old = loops_em.from_labels(problem)
    n = loops_em.assign(problem, loops_em.exponents(*old[2:]), present).sum((2, 3))
    pooled = np.broadcast_to((variance * n).sum(1, keepdims=True) / n.sum(1, keepdims=True), n.shape)
    for name, mixture in {"labels": old[2:], "pooled": (d, pooled)}.items():
        expected = loops.resize(loops_em.scores(*mixture, present), labels.shape[1:])
        np.testing.assert_allclose(found[name].detach(), expected, atol=1e-4)


def test_stop_gradient_teaches_the_segmentation_alone():
    features, logits, labels, classes = random_problem().tensors()
    objective = random_objective(stop_gradient=True)
    output = objective(features, logits, labels, classes)
    assert tuple(output.terms) == ("seg", "self")
    output.loss.backward()
    assert features.grad is None
    assert logits.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_binary_cross_entropy_of_eq_10():
    features, logits, labels, classes = random_problem().tensors()
    output = random_objective(seg="bce", terms=("seg",))(features, logits, labels, classes)
    known = labels < UNLABELED
    p, target = logits.softmax(1).movedim(1, -1)[known], torch.nn.functional.one_hot(labels[known], 5).double()
    expected = torch.nn.functional.binary_cross_entropy(p, target)
    assert output.terms["seg"].item() == pytest.approx(expected.item(), rel=1e-4)


CLICKS = {(0, 3, 3): 0, (0, 12, 12): 1, (1, 5, 5): 2}


@pytest.mark.parametrize("oem", [True, False])
@pytest.mark.parametrize(("code", "clicks"), [(UNLABELED, CLICKS), (UNLABELED, {}), (VOID, {})])
def test_few_or_no_labels_give_finite_losses_and_gradients(code, clicks, oem):
    features, logits, labels, classes = random_problem(batch=2, k=3, size=(16, 16)).tensors(torch.float32)
    labels.fill_(code)
    for place, label in clicks.items():
        labels[place] = label
    output = AGMMpp(3, 6, channels=4, oem=oem, terms=ALL)(features, logits, labels, classes)
    output.loss.backward()
    found = output.loss, output.scores, logits.grad, *([features.grad] if clicks else [])
    assert all(torch.isfinite(x).all() for x in found)


def test_float32_loops_agree_with_float64():
    problem = random_problem(grid=(12, 14), size=(48, 56), c=32)
    objective = random_objective(channels=32, squeezed=8, terms=ALL)
    exact = objective(*problem.tensors())
    fast = objective.float()(*problem.tensors(torch.float32))
    for name in ALL:
        assert fast.terms[name].item() == pytest.approx(exact.terms[name].item(), rel=1e-4), name


def test_only_the_squeeze_is_learned_which_has_a_quarter_of_the_channels_up_to_128():
    assert set(random_objective().state_dict()) == {"squeeze.weight", "squeeze.bias"}
    assert [agmmpp.squeezed(c) for c in (256, 768, 32, 1)] == [64, 128, 8, 1]
    assert build_objective("AGMMpp", 21, channels=32).squeeze.out_channels == 32


WRONG = {"assignment": "nearest", "distance": "cosine", "seg": "focal", "sigma_min": 0.0, "sigma": -1.0}
WRONG |= {"channels": 0, "terms": ("seg", "spar"), "lamda_gmm": 1.0}


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_refused_by_name(option):
    with pytest.raises(ValueError, match=option):
        build_objective("AGMMpp", 21, **{option: WRONG[option]})

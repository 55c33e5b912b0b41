import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agmm import em, gmm, losses, networks
from agmm.codes import UNLABELED, VOID
from agmm.objectives import AGMM, AGMMpp, agmmpp
from agmm.training import methods
from tests import loops_em
from tests.loops import Problem, problems, random_problem

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


@settings(deadline=None, max_examples=60)
@given(
    problems(),
    st.booleans(),
    st.sampled_from(["argmax", "responsibility", "soft"]),
    st.booleans(),
    st.sampled_from(["absolute", "signed", "rms"]),
)
def test_terms_and_scores_equal_loops(problem, oem, assignment, keep_labels, how):
    assume(not loops_em.undecided(problem, how=how))
    options = {"oem": oem, "assignment": assignment, "keep_labels": keep_labels}
    expected, g = loops_em.terms(problem, **options, how=how)
    objective = identity(problem.num_classes, problem.features.shape[1], terms=ALL, distance=how, **options)
    output = objective(*problem.tensors())
    assert tuple(output.terms) == ALL
    for name, value in expected.items():
        assert output.terms[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name
    np.testing.assert_allclose(output.scores.detach(), g, atol=1e-4)
    weighted = expected["seg"] + sum(value for name, value in expected.items() if name != "seg")
    assert output.loss.item() == pytest.approx(weighted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("oem", [True, False])
@pytest.mark.parametrize("term", ALL)
def test_gradients_equal_finite_differences(term, oem):
    """With a constant spread, and steps too small to change a member: neither carries a gradient."""
    problem = random_problem(batch=2, k=3, c=3, grid=(2, 3), size=(5, 6))
    objective = identity(3, 3, terms=(term,), oem=oem, sigma_min=3.0)  # above every spread, so that it is constant
    features, logits, labels, classes = problem.tensors()

    def loss(features, logits):
        return objective(features, logits, labels, classes).loss

    assert torch.autograd.gradcheck(loss, (features, logits), eps=1e-7, atol=1e-5)


def test_settings_of_agmm_give_its_scores():
    problem = random_problem()
    problem.labels[problem.labels == VOID] = UNLABELED  # at whose border AGMM's released code scales distances
    features, logits, labels, classes = problem.tensors()
    ours = identity(5, 6, oem=False, sigma=0.5**0.5)(features, logits, labels, classes)
    agmm = AGMM(5)(features, logits, labels, classes)
    torch.testing.assert_close(ours.scores, agmm.scores, atol=1e-5, rtol=1e-5)


def test_weights_multiply_terms():
    problem = random_problem()
    weights = {"lambda_gmm": 0.5, "lambda_self": 2.0, "lambda_weak": 3.0, "lambda_con": 5.0}
    output = random_objective(terms=ALL, **weights)(*problem.tensors())
    t = {name: value.item() for name, value in output.terms.items()}
    rest = 2 * t["self"] + 3 * t["weak"] + 5 * (t["con"] + t["con_old"]) + t["absent"]
    assert output.loss.item() == pytest.approx(t["seg"] + 0.5 * rest)


@pytest.mark.parametrize("terms", [("self",), ("weak",), ("con",), ("con_old",), ("seg",)])
def test_which_terms_teach_the_squeeze(terms):
    features, logits, labels, classes = random_problem().tensors()
    objective = random_objective(terms=("seg", *terms))
    objective(features, logits, labels, classes).loss.backward()
    taught = objective.squeeze.weight.grad is not None and objective.squeeze.weight.grad.abs().sum() > 0
    assert taught == (terms != ("seg",))
    # A layer that nothing teaches must not be waited for when several processes train.
    assert objective.squeeze.weight.requires_grad == taught


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
    p, values = logits.softmax(1), []
    for b, y, x in (labels < UNLABELED).nonzero().tolist():
        target = torch.nn.functional.one_hot(labels[b, y, x], 5).double()
        values.append(torch.nn.functional.binary_cross_entropy(p[b, :, y, x], target).item())
    assert output.terms["seg"].item() == pytest.approx(np.mean(values), rel=1e-4)


def far_apart(distance):
    """Two components, every pixel at its own mean, the other at a distance."""
    d = torch.tensor([[[[0.0, distance]], [[distance, 0.0]]]], dtype=torch.float64, requires_grad=True)
    members = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    return d, members, gmm.components(torch.tensor([[[0, 1]]]), 2)


def test_contrast_is_zero_far_apart_and_two_at_worst():
    assert losses.contrast_pixels(*far_apart(50.0)).item() == pytest.approx(0)
    d, members, components = far_apart(50.0)
    assert losses.contrast_pixels(d, 1 - members, components).item() == pytest.approx(2)


def test_contrast_pulls_to_the_own_mean_and_pushes_from_others():
    d, members, components = far_apart(0.5)
    with torch.no_grad():
        d += 0.5
    losses.contrast_pixels(d, members, components).backward()
    assert (d.grad[members == 1] > 0).all()
    assert (d.grad[members == 0] < 0).all()
    assert losses.contrast_pixels(d, 0 * members, components).item() == 0


def test_contrast_leaves_empty_slots_out():
    problem = random_problem(k=6)
    features, _, labels, _ = problem.tensors()
    components = gmm.components(labels, 6)
    assert not components.filled.all()
    mixture = em.from_labels(features, labels, components, 0.1)
    members = em.assign(mixture.log_scores(components), labels, components)
    present = components.present.numpy()
    dense = components.to_classes(mixture.d).detach().numpy(), present, components.to_classes(members).numpy()
    assert losses.contrast_pixels(mixture.d, members, components).item() == pytest.approx(loops_em.contrast(*dense))


@pytest.mark.parametrize("oem", [True, False])
def test_one_click_per_class_gives_finite_losses_and_gradients(oem):
    labels = np.full((2, 16, 16), UNLABELED)
    labels[0, 3, 3], labels[0, 12, 12], labels[1, 5, 5] = 0, 1, 2
    rng = np.random.default_rng(0)
    classes = np.array([[True, True, False], [False, False, True]])
    problem = Problem(rng.normal(size=(2, 6, 4, 4)), rng.normal(size=(2, 3, 16, 16)), labels, classes)
    features, logits, labels, classes = problem.tensors(torch.float32)
    output = AGMMpp(3, 6, channels=4, oem=oem, terms=ALL)(features, logits, labels, classes)
    output.loss.backward()
    assert all(torch.isfinite(x).all() for x in (output.loss, features.grad, logits.grad, output.scores))
    absent = ~torch.tensor([[True, True, False], [False, False, True]])
    assert not output.scores[absent].any()


@pytest.mark.parametrize("code", [UNLABELED, VOID])
def test_nothing_labeled_gives_zero_for_what_needs_labels(code):
    features, logits, labels, classes = random_problem().tensors(torch.float32)
    labels = torch.full_like(labels, code)
    output = AGMMpp(5, 6, terms=ALL)(features, logits, labels, classes)
    output.loss.backward()
    assert all(output.terms[name].item() == 0 for name in ("seg", "self", "weak", "con", "con_old"))
    assert torch.isfinite(logits.grad).all()


def test_float32_loops_agree_with_float64():
    problem = random_problem(grid=(12, 14), size=(48, 56), c=32)
    objective = random_objective(channels=32, squeezed=8, terms=ALL)
    exact = objective(*problem.tensors())
    fast = objective.float()(*problem.tensors(torch.float32))
    for name in ALL:
        assert fast.terms[name].item() == pytest.approx(exact.terms[name].item(), rel=1e-4), name


def test_branch_leaves_no_trace_in_the_network():
    torch.manual_seed(0)
    net = networks.build("small", 7, stem=8, feature_channels=16).eval()
    images = torch.rand(2, 3, 64, 64)
    before = net(images)[1]
    names = set(net.state_dict())
    net.objective = AGMMpp(7, net.feature_channels)
    assert torch.equal(net(images)[1], before)
    del net.objective
    assert set(net.state_dict()) == names


def test_state_is_the_squeeze_alone():
    objective, buffer = random_objective(), io.BytesIO()
    assert set(objective.state_dict()) == {"squeeze.weight", "squeeze.bias"}
    torch.save(objective.state_dict(), buffer)
    other = copy.deepcopy(objective)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    problem = random_problem()
    assert torch.equal(other(*problem.tensors()).loss, objective(*problem.tensors()).loss)


def test_channels_of_the_squeeze():
    assert [agmmpp.squeezed(c) for c in (256, 768, 32, 1)] == [64, 128, 8, 1]
    assert methods.build("AGMMpp", 21, channels=32).squeeze.out_channels == 32


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("assignment", "nearest"),
        ("distance", "cosine"),
        ("seg", "focal"),
        ("sigma_min", 0.0),
        ("sigma", -1.0),
        ("channels", 0),
        ("terms", ("seg", "spar")),
        ("lamda_gmm", 1.0),
    ],
)
def test_wrong_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        methods.build("AGMMpp", 21, **{option: value})

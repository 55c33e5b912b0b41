"""Learning from image tags: loss terms against loops and properties; what an objective is given; trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import agmm
from agmm import figures, networks, objectives
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.rivals import toco
from agmm.training import batches, loop, measure, pseudo_labels, train
from agmm.training import weights as models
from agmm.training.presets import PRESETS
from agmm.training.result import load_history
from tests.helpers import resumes_to_same_bits, saved_weights, train_in_two_processes

CPU = torch.device("cpu")
SMOKE = PRESETS["smoke"]
OPTIONS = SMOKE.labels["tags"].options | {"reg": 0.05}
RUN = replace(SMOKE.at("tags", "AGMM", init="scratch"), label_options=OPTIONS)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_tag_loss_pools_channels_before_it_classifies() -> None:
    tokens, tags, layer = _random(3, 4, 5, 6), torch.rand(3, 2) > 0.5, nn.Conv2d(4, 2, 1, bias=False)
    logits = tokens.amax((2, 3)) @ layer.weight[:, :, 0, 0].T
    expected = nn.functional.multilabel_soft_margin_loss(logits, tags.float())
    torch.testing.assert_close(toco.tag_loss(layer, tokens, tags), expected)


def test_balanced_cross_entropy_is_the_mean_of_background_and_classes() -> None:
    logits, labels = _random(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :3], labels[1, :2] = UNLABELED, VOID
    losses = nn.functional.cross_entropy(logits, labels.where(labels < 4, -100), reduction="none")
    behind, front = (losses[where].mean().item() for where in (labels == 0, (labels > 0) & (labels < 4)))
    assert toco.balanced_cross_entropy(logits, labels, 4).item() == pytest.approx((behind + front) / 2, rel=1e-5)
    half = toco.balanced_cross_entropy(logits, torch.where(labels == 0, 0, UNLABELED), 4)
    assert half.item() == pytest.approx(behind / 2, rel=1e-5)
    assert toco.balanced_cross_entropy(logits, torch.full_like(labels, VOID), 4) == 0


def test_patch_contrast_by_loops() -> None:
    tokens, labels = _random(2, 7, 3, 3).double(), torch.randint(0, 3, (2, 3, 3))
    labels[0, 0, 0], labels[1, 2] = UNLABELED, VOID
    same, other = [], []
    for x, y in zip(nn.functional.normalize(tokens.flatten(2), dim=1), labels.flatten(1), strict=True):
        for i, j in np.ndindex(9, 9):
            if i != j and y[i] < UNLABELED and y[j] < UNLABELED:
                (same if y[i] == y[j] else other).append(abs(float(x[:, i] @ x[:, j])))
    expected = 0.5 * (1 - sum(same) / (len(same) + 1)) + 0.5 * sum(other) / (len(other) + 1)
    assert toco.patch_contrast(tokens, labels).item() == pytest.approx(expected, rel=1e-9)
    assert toco.patch_contrast(tokens, torch.full_like(labels, UNLABELED)).item() == 0.5


@pytest.mark.parametrize("negatives", [0, 3, 8])
def test_class_contrast_by_loops(negatives: int) -> None:
    reference, student = _random(2, 2, 5).double(), _random(2, 10, 5, seed=1).double()
    positive = torch.arange(10).expand(2, 10) < 10 - negatives
    expected = 0.0
    for r, s, chosen in zip(reference, student, positive, strict=True):
        e = (r @ s.T / 0.5).exp()
        negative, attracted = e[:, ~chosen].sum(1, keepdim=True), torch.cat([e[:, chosen], torch.ones(2, 1)], 1)
        losses = -(attracted / (attracted + negative + 1e-4)).log()
        expected += losses.sum().item() / 2 / (chosen.sum().item() + 1e-4) / len(reference)
    assert toco.class_contrast(reference, student, positive, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_class_contrast_is_finite_for_large_vectors() -> None:
    student = 100 * _random(1, 3, 6)
    assert toco.class_contrast(student[:, :2], student, torch.tensor([[True, True, False]]), 0.5).isfinite()


def test_contrast_head_has_unit_directions_and_its_teacher_follows() -> None:
    head, x = toco.ContrastHead(6, 8, 4, 9), _random(3, 6)
    teacher = toco.ContrastHead(6, 8, 4, 9)
    z = head.mlp(x)
    expected = (z / z.norm(dim=1, keepdim=True)) @ (head.directions / head.directions.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(head(x), expected)
    before = [p.clone() for p in teacher.parameters()]
    teacher.follow(head, 0.9)
    for old, mine, theirs in zip(before, teacher.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.9 * old + 0.1 * theirs)


def test_gated_energy_against_all_pairs() -> None:
    """Value and gradient written out with the exact kernel, at half the size."""
    logits, colors = (2 * _random(2, 3, 8, 10)).double().requires_grad_(), torch.rand(2, 3, 8, 10).double()
    labels = torch.randint(0, 3, (2, 8, 10))
    labels[:, :4], labels[0, :, 8:] = UNLABELED, VOID
    energy = toco.gated_energy(logits, colors, labels, backend="exact", sigma_xy=6)
    (grad,) = torch.autograd.grad(energy, logits)
    p = nn.functional.interpolate(logits.softmax(1), scale_factor=0.5, mode="bilinear")
    small, seen = (255 * colors).round()[..., ::2, ::2].flatten(2).mT, labels[:, ::2, ::2]
    places = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0)).double()
    kernel = (-0.5 * (torch.cdist(small, small) / 15).square() - 0.5 * (torch.cdist(places, places) / 3).square()).exp()
    valid, gate = (seen != VOID)[:, None], torch.where(seen == UNLABELED, 1, 1 - p.detach().amax(1))[:, None]
    s = p.detach() * valid
    filtered = (s.flatten(2) @ kernel).view_as(s)
    value, slope = -(gate * s * filtered).sum().item() / 2, -gate * filtered * valid
    assert energy.item() == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(grad, torch.autograd.grad(p, logits, slope)[0], rtol=1e-5, atol=1e-9)


def test_local_crops_avoid_foreground_and_know_what_they_show() -> None:
    torch.manual_seed(0)
    states = torch.full((2, 20, 24), 2)
    states[0, :, :8] = 0
    states[1, 5, 5] = 1  # too few places: anywhere
    images = torch.stack([states * 100, states * 100, states * 100], 1).to(torch.uint8)
    images[:, 2] = torch.arange(24)
    crops, positive = toco.local_crops(images, states, 6, 5)
    assert crops.shape == (2, 6, 3, 5, 5)
    assert (crops[0, :, 0, 2, 2] == 0).all(), "centers lie where the state is at most 1"
    assert torch.equal(positive, (crops[:, :, 0] / 100.0).mean((2, 3)) > 0.2)
    assert (crops[..., 1:] - crops[..., :-1])[:, :, 2].unique().tolist() == [1], "neighbors stay neighbors"
    assert len({tuple(c.flatten().tolist()) for c in crops[1]}) > 1
    with pytest.raises(ValueError, match="do not fit into images of 20 x 24; choose a smaller side"):
        toco.local_crops(images, states, 6, 20)


def test_color_changes_follow_the_seed_and_differ_between_images() -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(2, -1, -1, -1)

    def drawn() -> Tensor:
        torch.manual_seed(3)
        return torch.stack([toco.photometric(images, blur=1.0), toco.second_global(images)])

    first = drawn()
    assert torch.equal(first, drawn())
    assert (first[0, 0] != first[0, 1]).any()
    assert (first.shape, first.dtype) == ((2, *images.shape), torch.uint8)


class Stub(nn.Module):
    """A network with middle tokens and class tokens, as a transformer has."""

    token_channels = feature_channels = 12

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.BatchNorm2d(12))
        self.last, self.head = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 5, 1)
        self.seen: list[tuple[bool, int]] = []

    def forward(self, images: Tensor, inner: bool = False, views: list[Tensor] | None = None) -> tuple:
        self.seen.append((torch.is_grad_enabled(), len(images)))
        middle = self.backbone(images)
        final = self.last(middle)
        logits = nn.functional.interpolate(self.head(final), images.shape[-2:], mode="bilinear")
        if views is None:
            return final, logits
        summaries = (final.mean((2, 3)), *(self.last(self.backbone(view)).mean((2, 3)) for view in views))
        return final, logits, networks.Tokens(final, middle, summaries)


def _batch(step: int = 0) -> loop.Batch:
    labels = torch.full((3, 32, 32), UNLABELED)
    labels[0, :, 24:] = VOID
    tags = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    return loop.Batch(torch.rand(3, 3, 32, 32), labels, tags, None, step=step)


def _objective(inner: objectives.Baseline | objectives.AGMM, **options: object) -> tuple[toco.FromTags, Stub]:
    torch.manual_seed(0)
    chosen = toco.options(local_size=8, local_crops=4, warmup_steps=2, dilations=(1, 2), **options)
    return toco.FromTags(inner, 5, chosen, 12, transformer=True), Stub()


def test_all_terms_are_there_and_weighted() -> None:
    objective, net = _objective(objectives.AGMM(5))
    before = objective.learn(net, _batch(1))
    names = ("cls", "cls_aux", "ptc", "ctc", "seg", "self", "spar", "con", "absent", "reg")
    assert tuple(before.terms) == names
    assert all(before.terms[name] == 0 for name in names[4:])
    weights = {"ptc": 0.2, "ctc": 0.5, "seg": 0.1, "self": 0.1, "spar": 0.1, "con": 0.1, "absent": 0.1, "reg": 0.05}
    for output in (before, objective.learn(net, _batch(2))):
        total = sum(weights.get(name, 1.0) * value for name, value in output.terms.items())
        torch.testing.assert_close(output.loss, total)
    assert all(output.terms[name] != 0 for name in names)


@pytest.mark.parametrize("step", [0, 2])
def test_one_pass_with_gradient_and_a_gradient_for_every_parameter(step: int) -> None:
    """As several processes expect it; the views without gradient leave the batch statistics alone."""
    objective, net = _objective(objectives.Baseline(5))
    objective.learn(net, _batch(step)).loss.backward()
    assert [grad for grad, _ in net.seen] == [False] * 3 + [True]
    assert net.backbone[1].num_batches_tracked == 3, "the images and two kinds of views"
    parameters = [*net.parameters(), *objective.parameters()]
    assert all((p.grad is not None) == p.requires_grad for p in parameters)
    assert all(not p.requires_grad for p in objective.teacher.parameters())


def test_the_objective_is_given_pseudo_labels_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Watched(objectives.Baseline):
        def __call__(self, features, logits, labels, image_classes, counts=None):
            given.append((labels, image_classes))
            return super().__call__(features, logits, labels, image_classes, counts)

    objective, net = _objective(Watched(5), photometric=False, refine=False)
    batch = _batch(5)
    output = objective.learn(net, batch)
    ((labels, classes),) = given
    assert torch.equal(labels == VOID, batch.labels == VOID)
    assert torch.equal(classes, batch.image_classes)
    for label, shown in zip(labels, batch.image_classes, strict=True):
        assert set(label.unique().tolist()) <= {*shown.nonzero()[:, 0].tolist(), UNLABELED, VOID}
    assert {0, UNLABELED} <= set(labels.unique().tolist())
    assert ((labels > 0) & (labels < 5)).any()
    seg = toco.balanced_cross_entropy(net(batch.images)[1], labels, 5)
    torch.testing.assert_close(output.terms["seg"], seg, rtol=1e-4, atol=1e-5)


def test_the_schedule_of_coco() -> None:
    """First tags alone, then pseudo labels of the auxiliary CAMs, then everything."""
    objective, net = _objective(objectives.Baseline(5), auxiliary_until=4)
    seeds = []
    objective.labels = lambda maps, tags, colors: seeds.append(maps) or torch.zeros(3, 32, 32, dtype=torch.int64)
    objective.maps = lambda net, inputs, tags: (torch.ones(3, 4, 32, 32), torch.zeros(3, 4, 32, 32))
    active = []
    for step in (1, 2, 4):
        terms = objective.learn(net, _batch(step)).terms
        active.append({name for name, value in terms.items() if value != 0})
    assert active[0] == {"cls", "cls_aux"}
    assert active[1] == {"cls", "cls_aux", "seg", "reg"}
    assert active[2] == {"cls", "cls_aux", "ptc", "ctc", "seg", "reg"}
    assert [float(maps.max()) for maps in seeds] == [0, 1]


def test_terms_can_be_left_out() -> None:
    objective, net = _objective(objectives.Baseline(5), ptc=0.0, ctc=0.0, reg=0.0)
    assert objective.student is None
    assert tuple(objective.learn(net, _batch(2)).terms) == ("cls", "cls_aux", "seg")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label_options": {"hihg": 0.5}}, "option of tags is 'hihg'; known: high, low, background"),
        ({"label_options": {"high": 0.2}}, "thresholds must be ordered 0 <= low <= high <= 1, not 0.25 and 0.2"),
        ({"label_options": {"scales": ()}}, "scales of CAMs are positive numbers, at least one"),
        ({"loss_scope": "effective"}, "choose the loss_scope 'microbatch'"),
    ],
)
def test_impossible_options_are_refused_with_the_run(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(RUN, **change)


def test_tags_are_given_to_every_source_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sets.load("shapes", "train", count=16)
    tags = sets.image_tags(data)
    assert tags[:, 0].all()
    for row, mask in zip(tags, data.truth, strict=True):
        assert set(np.flatnonzero(row)) == {0, *np.unique(mask)}
    sparse = sets.weak_labels(data, "tags", {}, 0)
    assert (sparse == UNLABELED).all()
    run = replace(RUN, augmentation="official", crop=80)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(loop.mix(0, 0)))
    ((batch,),) = batches.OneByOne(run, data.images, sparse, 7, CPU, tags).epoch(0)
    assert torch.equal(batch.image_classes, torch.from_numpy(tags)[order])
    assert set(batch.labels.unique().tolist()) == {UNLABELED, VOID}
    with pytest.raises(ValueError, match="need a background of code 0, which streets does not have"):
        pseudo_labels._image_tags(RUN, replace(data, dataset="streets", background=None), Path())


def test_a_training_from_tags_records_its_seeds_and_keeps_its_heads(tmp_path: Path) -> None:
    result = agmm.run(RUN, results=tmp_path, device="cpu")
    history = load_history(RUN, tmp_path)
    columns = {"cls", "seg", "self", "spar", "con", "absent", "reg"}
    columns |= {"cam_miou", "p_miou", "p_restricted_miou", "g_miou"}
    assert columns <= set(history.columns)
    assert np.isfinite(history.to_numpy()).all()
    assert history["cam_miou"].iloc[-1] == pytest.approx(result.details["cam_miou"], abs=1e-4)
    assert result.details["label_source"] == "image tags from dense masks"
    assert (result.details["labeled_share"], result.details["coverage"]) == (0, 1)
    weights = saved_weights(RUN, tmp_path)
    assert weights.keys() == models.build_network(RUN, 7).state_dict().keys()
    trained = figures.load(RUN, tmp_path)
    objective = models.load_objective(RUN, tmp_path, 7, CPU)
    found = measure.cam_miou(trained.net.cpu(), objective, trained.test, sets.image_tags(trained.test), RUN, CPU)
    assert found == result.details["cam_miou_test"]


def test_a_training_from_tags_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Its step, its heads, those of its objective and the colors that it draws go on where they were."""
    options = OPTIONS | {"photometric": True, "warmup_steps": 3}
    run = replace(RUN, method="TreeEnergy", options=(), label_options=options)
    agmm.run(run, results=tmp_path / "whole", device="cpu")
    assert resumes_to_same_bits(run, tmp_path / "whole", tmp_path / "broken", ("model", "objective"))
    objective, kept = (
        models.load_objective(run, tmp_path / "whole", 7, CPU),
        saved_weights(run, tmp_path / "whole", "objective"),
    )
    assert torch.equal(objective.inner.embed[0].weight, kept["inner.embed.0.weight"])
    assert torch.equal(objective.classifier.weight, kept["classifier.weight"])


def test_two_processes_of_torchrun_learn_from_tags(tmp_path: Path) -> None:
    """One pass with gradient each, whatever else the network is asked; the second of two steps has pseudo labels."""
    run = replace(RUN, method="TreeEnergy", options=(), microbatch=8, epochs=1)
    train_in_two_processes(run, tmp_path)
    agmm.run(run, results=tmp_path / "single", device="cpu")
    ours, theirs = load_history(run, tmp_path), load_history(run, tmp_path / "single")
    assert ours["cls"].iloc[0] == pytest.approx(theirs["cls"].iloc[0], rel=1e-4)
    assert ours["seg"].iloc[0] > 0


def test_second_stage_learns_predictions_among_the_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = replace(RUN, method="Baseline", options=(), epochs=1)
    second = first.second_stage()
    assert (second.restrict, second.from_tags, second.teacher) == (True, False, first)
    seen = []
    source_of = train._source
    monkeypatch.setattr(train, "_source", lambda *given: seen.append(source_of(*given)) or seen[-1])
    result = agmm.run(second, results=tmp_path, device="cpu")
    assert "cam_miou" not in result.details
    assert load_history(second, tmp_path)["p_restricted_miou"].iloc[-1] > 0
    dense, tags = seen[-1].labels, seen[-1].image_classes
    assert (dense < 7).all()
    for label, shown in zip(dense, tags, strict=True):
        assert set(label.unique().tolist()) <= set(shown.nonzero()[:, 0].tolist())

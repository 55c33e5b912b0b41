"""Claims of AGMM++: verdicts on results written by hand, and what is measured on networks against loops."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from agmm import figures
from agmm.codes import UNLABELED, VOID
from agmm.data.split import Split
from agmm.objectives import AGMMpp
from agmm.papers.agmm.claims import CLICKS, VOC
from agmm.papers.agmm.tables import LAMBDAS
from agmm.papers.agmmpp import claims
from agmm.papers.agmmpp.tables import PSEUDO, SEGMENTATION
from agmm.papers.claim import Entry, Evidence
from agmm.papers.table import Row, figure_cells
from agmm.training import loop, weights
from agmm.training.presets import PRESETS, Kind, Network
from agmm.training.run import objective_for
from tests import loops, loops_em
from tests.helpers import mean_iou
from tests.test_claims import BAD, GOOD, NOISE, by_class, effects, fill, judged
from tests.test_tables import complete


def furnished(name):
    """An embedded preset whose labels from tags are quickly made and whose transformer starts from scratch."""
    preset = PRESETS[name]
    tags = Kind("tags", {"refine": False, "scales": (1.0,), "reg": 0.0})
    vit = replace(preset.networks["vit"], changes=preset.networks["vit"].changes | {"init": "scratch"})
    return replace(preset, labels=preset.labels | {"tags": tags}, networks=preset.networks | {"vit": vit})


FULL, SMOKE = furnished("quick"), furnished("smoke")
ALL = tuple(dict.fromkeys(claim.id for claim in claims.CLAIMS))
BLOCKS = ("block 10%", "block 20%", "block 50%")
SELF, WEAK, CON = ("+ L_self", "+ L_self + L_weak", "+ L_self + L_weak + L_con")


@pytest.fixture
def evidence(tmp_path):
    return Evidence(FULL, tmp_path)


def fill_table(evidence, number, columns, rows):
    fill(evidence, {Entry(f"agmmpp_table{number}", row): dict(zip(columns, v, strict=True)) for row, v in rows.items()})


def test_voc_by_hand(evidence):
    table = {"AGMM": (60.0, 66.0), "AGMM++, old L_con": (62.0, 67.5), "AGMM++": (63.0, 67.0)}
    fill_table(evidence, 10, VOC.values(), table)
    fill_table(evidence, 15, VOC.values(), {"AGMM++ (SG)": (61.0, 68.0), "Label Assignment": (55.0, 65.0)})
    others = {"AGMM++ (ViT)": (66.0, 66.0), "AGMM++ (ResNet) + CRF": (65.0, 68.0), "AGMM++ (ViT) + CRF": (67.0, 65.0)}
    for number, column, k in ((3, "point", 0), (5, "scribble", 1)):
        fill_table(evidence, number, [column], {row: (values[k],) for row, values in others.items()})
    found = judged(evidence, "P01", "P02", "P03", "P04", "P05", "P06", "P22")
    assert effects(found, "P01") == {"points": 3, "scribbles": 1}
    assert effects(found, "P02") == {"points": 2, "scribbles": 1.5}
    assert effects(found, "P03") == {"points": 1, "scribbles": -0.5}
    assert effects(found, "P04") == {"points - scribbles": 0.5}
    networks = {"points, ResNet": 2, "scribbles, ResNet": 1, "points, ViT": 1, "scribbles, ViT": -1}
    assert effects(found, "P05") == networks
    assert effects(found, "P06") == {"points": 3, "scribbles": -1}
    against = {"points, against SG": 2, "scribbles, against SG": -1}
    assert effects(found, "P22") == against | {"points, against assignment": 8, "scribbles, against assignment": 2}
    assert set(found["n"]) == {3}
    assert found["verdict"].to_list() == np.where(found["effect"] > 0, GOOD, BAD).tolist()


def test_weight_of_the_mixture(evidence):
    """Points peak at 1, scribbles at 0.2."""
    values = zip((50, 51, 52, 53, 54, 53.5), (60, 64, 63, 62, 60, 59), strict=True)
    rows = {f"λ_G = {weight}": both for weight, both in zip(LAMBDAS, values, strict=True)}
    fill_table(evidence, 14, VOC.values(), rows)
    found = judged(evidence, "P20", "P21")
    assert found["verdict"].to_list() == [GOOD, BAD] * 2
    assert effects(found, "P20") == {"points": 0.5, "scribbles": -4}
    assert effects(found, "P21") == {"points": 1, "scribbles": -0.2}


def test_steps_of_a_transformer(evidence):
    table = {"box": (50, 55, 56, 58, 57), "point": (40, 43, 47, 48, 50), "scribble": (60, 61, 62, 63, 64)}
    rows = ("L_seg", *(f"L_seg {step}" for step in (SELF, WEAK, CON)), "AGMM++")
    fill_table(evidence, 12, table, dict(zip(rows, zip(*table.values(), strict=True), strict=True)))
    found = effects(judged(evidence, "P15"), "P15")
    steps = ("L_self", "L_weak", "L_con", "online EM")
    assert [found[f"boxes, {name}"] for name in steps] == [5, 1, 2, -1]
    assert [found[f"points, {name}"] for name in steps] == [3, 4, 1, 2]
    assert len(found) == 12


def test_boxes(evidence):
    rows = {"Cross-entropy (ResNet)": 50, "AGMM++ (ResNet)": 54, "Cross-entropy (ViT)": 60, "AGMM++ (ViT)": 59}
    fill_table(evidence, 6, ["box"], {row: (value,) for row, value in rows.items()})
    found = judged(evidence, "P19")
    assert effects(found, "P19") == {"boxes, ResNet": 4, "boxes, ViT": -1}
    assert found.loc[("P19", "boxes, ResNet"), "claimed"] == 10.1
    assert math.isnan(found.loc[("P19", "boxes, ViT"), "claimed"])


def test_all_forms_on_one_data_set(evidence):
    """Where one form is missing the claim stays open, however good the others are."""
    for form in claims.FORMS:
        rows = Row("", ("any",), method="AGMMpp"), Row("", ("any",))
        for cell, value in zip(figure_cells(FULL, *((form, row) for row in rows)), (53.0, 50.0), strict=True):
            for seed in range(3):
                worse = 4 * (form == "blocks" and cell.method == "AGMMpp")
                complete(evidence.results, replace(cell.run, seed=seed), value - worse + seed / 10)
    found = judged(evidence, "P28")["verdict"]["P28"]
    assert found.to_dict() == dict.fromkeys(claims.FORMS, GOOD) | {"blocks": BAD}
    labels = {name: kind for name, kind in FULL.labels.items() if name != "blocks"}
    found = judged(replace(evidence, preset=replace(FULL, labels=labels)), "P28")
    assert found["verdict"]["P28"].to_list() == [GOOD] * 4 + ["inconclusive"]
    assert found.loc[("P28", "all five forms"), "note"] == "no blocks on shapes"


def test_clicks_and_blocks_by_hand(evidence):
    clicks = {"Baseline": (50, 55, 60), "AGMM": (56, 60, 64), "AGMM++": (60, 62, 65)}
    blocks = {"Baseline": (30, 33, 37), "TEL": (34, 36, 41), "AGMM": (36, 37, 39), "AGMM++": (35, 38, 40)}
    fill_table(evidence, 4, CLICKS, clicks)
    fill_table(evidence, 7, BLOCKS, blocks)
    steps = {f"L_seg {SELF}": (57, 32), f"L_seg {WEAK}": (58, 33), f"L_seg {CON}": (59, 36)}
    fill_table(evidence, 13, ("20 clicks", "block 10%"), steps)
    found = judged(evidence, "P07", "P08", "P09", "P10", "P11", "P16")
    assert list(effects(found, "P07").values()) == [4, 2, 1]
    assert (found.loc[("P08", "fewer clicks"), "verdict"], found["effect"]["P08"].item()) == (GOOD, 1)
    assert effects(found, "P09") == {"10 % blocks": 5, "20 % blocks": 5, "50 % blocks": 3}
    assert [value for name, value in effects(found, "P10").items() if "TEL" in name] == [1, 2, -1]
    assert [value for name, value in effects(found, "P10").items() if "AGMM" in name] == [-1, 1, 1]
    assert found["effect"]["P11"].item() > 0
    assert [value for name, value in effects(found, "P16").items() if "clicks" in name] == [7, 1, 1, 1]
    assert [value for name, value in effects(found, "P16").items() if "blocks" in name] == [2, 1, 3, -1]


def test_tags_by_hand(evidence):
    """Segmentation is read at a single scale, pseudo labels from histories; small steps need ten seeds."""
    rows = [Entry("agmmpp_table8", row) for row in ("ToCo", SELF, WEAK, CON, "AGMM++")]
    for row, segmentation, pseudo in zip(rows, (60, 61, 62, 64, 63), (50, 54, 55, 57, 58), strict=True):
        (cell,) = evidence.cells([row], PSEUDO)
        assert [cell.run] == evidence.runs([row], SEGMENTATION)
        for seed, noise in enumerate(NOISE):
            curves = {"cam_miou" if row == rows[0] else "g_miou": [1.0, pseudo + noise]}
            run = replace(cell.run, seed=seed)
            complete(evidence.results, run, segmentation * (1 + noise / 50), curves=curves)
    for number, shift in ((1, 0), (2, -20)):
        refined = {"AGMM++ (ViT)": (66.0 + shift,), "ToCo (ViT)": (65.0 + shift,)}
        fill_table(evidence, number, ["image-level, val"], refined)
    found = judged(evidence, "P12", "P13", "P14", "P17")
    assert effects(found, "P12") == {"single scale": 3, "refined test": 1}
    assert effects(found, "P17") == {"COCO tags": 1}
    assert list(effects(found, "P13").values()) == [4, 1, 2, 1, 8]
    assert list(effects(found, "P14").values()) == [1, 1, 2, -1, 3]
    assert found["verdict"]["P13"].to_list() == ["inconclusive"] * 4 + [GOOD]
    assert found.loc[("P13", "L_self"), "note"] == "fewer than 10 seeds"


def test_second_stages_of_tags(evidence):
    values = {(1, "ResNet"): (60, 64), (1, "ViT"): (66, 65), (2, "ViT"): (40, 43)}
    for (number, network), (first, second) in values.items():
        rows = {f"AGMM++ ({network})": (first,), f"AGMM++ (MT) ({network})": (second,)}
        fill_table(evidence, number, ["image-level, val"], rows)
    found = judged(evidence, "P18")
    nothing = pytest.approx(math.nan, nan_ok=True)
    expected = {"tags, ResNet": 4, "tags, ViT": -1, "COCO tags, ViT": 3, "COCO tags, ResNet": nothing}
    assert effects(found, "P18") == expected
    assert found.loc[("P18", "COCO tags, ResNet"), "note"] == "no seeds"


def test_settings_follow_the_preset(tmp_path):
    """Without a transformer, tags and boxes, nothing asks for them; without results, nothing is concluded."""
    labels = {name: kind for name, kind in PRESETS["camvid"].labels.items() if not name.startswith("blocks")}
    plain = replace(FULL, networks={"resnet": Network()}, labels=labels)
    found = judged(Evidence(plain, tmp_path), *ALL)
    asked = {f"P{n:02}" for n in (1, 2, 3, 7, 8, 16, 20, 21, 22, 26, 27, 28)}
    assert set(found.index.get_level_values(0)) == asked
    settings = {setting for _, setting in found.index}
    assert not any(word in setting for setting in settings for word in ("scribbles", "ViT", "blocks,", "COCO"))
    assert set(found["verdict"]) == {"inconclusive"}


@pytest.mark.parametrize(("ours", "increment", "total"), [(70, GOOD, GOOD), (85, BAD, GOOD), (101, BAD, BAD)])
def test_an_expensive_branch_would_be_noticed(tmp_path, monkeypatch, ours, increment, total):
    evidence = Evidence(FULL, tmp_path)
    counted = {"Baseline": 0.0, "AGMM++": float(ours), "AGMM": 100.0}
    rows = [{"method": name, "gmacs": 80 + over, "over_baseline": over} for name, over in counted.items()]
    monkeypatch.setattr(claims, "operations", lambda: pd.DataFrame(rows))
    found = [*claims.mixture_costs_less(evidence).values(), *claims.cheaper_than_agmm(evidence).values()]
    assert [one.verdict for one in found] == [increment, total]
    assert [one.effect for one in found] == [ours / 100, (80 + ours) / 180]


def test_curves_by_hand(evidence):
    (run,) = evidence.runs([claims.AGMMPP], "point")
    for seed in range(3):
        curves = {"p_miou": [20.0, 50.0], "p_restricted_miou": [30.0, 50.0], "g_miou": [28.0 + seed / 10, 51.0]}
        complete(evidence.results, replace(run, seed=seed), 60.0, curves=curves)
    found = judged(evidence, "P26")["verdict"]["P26"]
    expected = {"against P, early": GOOD, "against P among labeled classes, early": BAD, "closing": GOOD}
    assert found.to_dict() == {f"points, {name}": verdict for name, verdict in expected.items()}


class Pooled(nn.Module):
    """Features are the image's colors, averaged over 2 x 2 pixels."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 2), images


def painted() -> figures.Trained:
    """Classes with a color each, noise upon them, and a few labels, part of them wrong; features are the colors."""
    generator = np.random.default_rng(5)
    truth = generator.integers(0, 3, (3, 2, 2)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[truth]
    pictures = np.clip(colors + generator.normal(0, 40, colors.shape), 0, 255).astype(np.uint8)
    wrong = np.where(generator.random(truth.shape) < 0.2, generator.integers(0, 3, truth.shape), truth)
    sparse = np.where(generator.random(truth.shape) < 0.1, wrong, UNLABELED).astype(np.uint8)
    truth[:, 0, 0] = VOID
    split = Split("shapes", ("a", "b", "c"), tuple("xyz"), pictures, truth, background=0)
    objective = AGMMpp(3, 3, channels=3)
    objective.squeeze.weight.data = torch.eye(3)[:, :, None, None]
    objective.squeeze.bias.data.zero_()
    return figures.Trained(SMOKE.at("points", "AGMMpp"), Pooled(), split, split, sparse, objective)


def test_reestimated_mixture_equals_loops():
    """Wrong labels pull the first means away; the truth's are those of its own pixels."""
    trained = painted()
    target, images = trained.data.truth, torch.from_numpy(trained.data.images).movedim(-1, 1) / 255
    features, every = nn.functional.avg_pool2d(images, 2).double().numpy(), np.ones((3, 3), bool)
    problem = loops.Problem(features, np.zeros((3, 3, 8, 8)), trained.sparse.astype(int), every)
    goal, exists = loops.means(features, target.astype(int), 3)
    found = claims.reestimated(trained)
    assert found[1] < found[0]
    for oem, distance, miou in ((False, found[0], found[2]), (True, found[1], found[3])):
        mu, present, d, variance, _ = loops_em.mixture(problem, oem)
        assert distance == pytest.approx(np.abs(mu - goal).mean(2)[present & exists].mean(), rel=1e-4)
        scores = loops.resize(loops_em.scores(d, variance, present), target.shape[1:])
        best = np.where(present[..., None, None], scores, -1).argmax(1)
        assert miou == pytest.approx(mean_iou(best, target))


TAGS = [Entry("agmmpp_table8", row) for row in ("AGMM++", CON, "ToCo")]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Untrained networks with what AGMM++ and ToCo learn beside them, for three seeds at `smoke`; one without that."""
    evidence = Evidence(SMOKE, tmp_path_factory.mktemp("results"))
    for run in (*evidence.runs([claims.AGMMPP], "point"), *evidence.runs(TAGS, SEGMENTATION)):
        for one in (replace(run, seed=seed) for seed in range(3)):
            complete(evidence.results, one, 50.0)
            net = weights.build_network(one, 7)
            loop.save_weights(net, one.folder(evidence.results) / "model.safetensors", one.id)
            objective = objective_for(one, net, 7)
            loop.save_weights(objective, one.folder(evidence.results) / "objective.safetensors", one.id)
    (run,) = evidence.runs([claims.AGMMPP], "scribble")
    complete(evidence.results, run, 50.0)
    (run.folder(evidence.results) / "model.safetensors").touch()
    return evidence


def test_claims_about_networks(networks, monkeypatch):
    accuracy = {"similar": [9, 9, 9, 9, 9, 1, 9], "dissimilar": [8, 8, 8, 8, 8, 2, math.nan]}
    monkeypatch.setattr(figures, "measure_label_accuracy", lambda runs, images: by_class(accuracy, "accuracy"))
    found = judged(networks, "P25", "P27", "P29")
    assert found["n"].to_list() == [3, 3, 3, 0, 0, 3, 3]
    assert found.loc[("P25", "tags"), ["effect", "verdict"]].to_list() == [pytest.approx(5 / 6), GOOD]
    (run,) = networks.runs([claims.AGMMPP], "point")
    old, new, old_miou, new_miou = claims.reestimated(figures.load(run, networks.results))
    assert found.loc[("P27", "points, means"), "each"][0] == pytest.approx(1 - new / old)
    assert found.loc[("P27", "points, mIoU of G"), "each"][0] == pytest.approx(new_miou - old_miou)
    trained = (figures.load(run, networks.results) for run in networks.runs(TAGS[:2], SEGMENTATION))
    ours, theirs = (figures.silhouette(*figures.sample_features(one, 2000, 1000)) for one in trained)
    assert found.loc[("P29", "EM against none"), "each"][0] == pytest.approx(ours - theirs)
    # Without the squeeze, the mixture cannot be formed.
    assert set(found.loc[[("P27", "scribbles, means"), ("P27", "scribbles, mIoU of G")], "note"]) == {"no weights kept"}

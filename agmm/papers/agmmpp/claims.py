"""The claims of AGMM++ (TPAMI 2025): on its tables, on training curves and trained networks, and on cost."""

import statistics
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from agmm import em, evaluation, fast, figures, gmm, networks, objectives
from agmm.figures.trained import Trained, mixture_of, outputs, tensor, weak_labels
from agmm.objectives.agmmpp import squeezed
from agmm.papers import claim, rules
from agmm.papers.agmm.claims import CLICKS, VOC, gap_narrows, mixture_leads_early, share_of_similar, silhouettes
from agmm.papers.agmm.tables import LAMBDAS
from agmm.papers.agmmpp.tables import SEGMENTATION
from agmm.papers.claim import Entry, Evidence
from agmm.papers.rules import Finding
from agmm.papers.table import Row, figure_cells, lines
from agmm.training import timing
from agmm.training.presets import Preset
from agmm.training.timing import QUICK, Objective, Shapes, training_step

IMAGES = 200  # training images that are measured at most

AGMMPP = Entry("agmmpp_table10", "AGMM++")
_AGMM, _OLD = AGMMPP._replace(row="AGMM"), AGMMPP._replace(row="AGMM++, old L_con")
_FROM_TAGS = Entry("agmmpp_table8", "AGMM++")
_WITHOUT_EM, _TOCO = _FROM_TAGS._replace(row="+ L_self + L_weak + L_con"), _FROM_TAGS._replace(row="ToCo")
_CLICKS = Entry("agmmpp_table4", "AGMM++"), Entry("agmmpp_table4", "AGMM")
_BLOCKS = Entry("agmmpp_table7", "AGMM++"), Entry("agmmpp_table7", "Baseline")
_WEIGHTS = tuple(Entry("agmmpp_table14", f"λ_G = {weight}") for weight in LAMBDAS)
_RISING_WEIGHTS = [entry for entry, weight in zip(_WEIGHTS, LAMBDAS, strict=True) if weight <= 1]

FORMS = ("tags", "points", "scribbles", "blocks", "boxes")  # all forms of weak labels, as kinds of a preset


def every_form_gains(evidence: Evidence) -> dict[str, Finding]:
    """Judge AGMM++ against its own segmentation loss with every form of weak labels, on the preset's first data set.

    The baselines of tags and boxes are in no table: those are tested with a DenseCRF.
    """
    preset, missing = evidence.preset, []
    rows = Row("AGMM++", ("extra:one data set",), method="AGMMpp"), Row("L_seg", ("extra:one data set",))
    findings = {}
    for form in FORMS:
        cells = figure_cells(preset, *((form, row) for row in rows))
        if cells and cells[0].dataset == preset.run.dataset:
            findings[form] = rules.direction(evidence.lead(*cells))
        else:
            missing.append(form)
    if missing:
        note = f"no {' or '.join(missing)} on {preset.run.dataset}"
        findings["all five forms"] = Finding("inconclusive", note=note)
    return findings


PRINTED_SIDE = 448
SHAPES = {
    "small": QUICK,
    "small_vit": Shapes(16, 7, 96, 8, 64, clicks=3, classes=3),
    "vit_base": Shapes(2, 21, 768, 28, PRINTED_SIDE, clicks=3, classes=3),
}
"""Shapes of a step of every network that is measured."""


def operations() -> pd.DataFrame:
    """Count multiply-accumulates of ViT-B/16 with and without the mixture, beside the published "GFLOPs", in 10^9.

    Three of VOC's 21 classes have a Gaussian. The published baseline is matched by multiply-accumulates, not by twice
    as many operations, and with two further classifiers of image tags. How the elementwise work of the mixtures is
    counted the paper does not say (our rule: `agmm.networks.branch_macs`).
    """
    with torch.device("meta"):
        net = networks.build("vit_base", 21)
    channels, cells = net.feature_channels, PRINTED_SIDE // 16
    tag_classifiers = 2 * channels * (21 - 1) * cells**2
    alone = networks.network_macs(net, PRINTED_SIDE) + tag_classifiers
    grid, size = (cells, cells), (PRINTED_SIDE, PRINTED_SIDE)
    agmm = networks.branch_macs("AGMM", channels, grid, size, classes=3)
    agmmpp = networks.branch_macs("AGMMpp", channels, grid, size, squeezed=squeezed(channels), classes=3)
    branches = {"Baseline": 0, "AGMM": sum(agmm.values()), "AGMM++": sum(agmmpp.values())}
    printed = {line["method"]: float(line["value"]) for line in lines("agmmpp_table11") if line["metric"] == "GFLOPs"}
    rows = [
        [name, (alone + branch) / 1e9, branch / 1e9, printed[name], printed[name] - printed["Baseline"]]
        for name, branch in branches.items()
    ]
    columns = ["method", "gmacs", "over_baseline", "published", "published_over_baseline"]
    return pd.DataFrame(rows, columns=columns)


def training_steps(preset: Preset, device: str = "cpu", repeats: int = 20) -> pd.DataFrame:
    """Measure the time of a training step of the preset's transformer, and what it keeps for its backward pass.

    Milliseconds are medians, ratios to the baseline medians over turns; ``held_mb`` includes the weights.
    """
    network = preset.at("points", network="vit").network if "vit" in preset.networks else "small"
    shapes = SHAPES[network]
    methods: dict[str, Objective] = {
        "Baseline": objectives.Baseline(shapes.num_classes),
        "AGMM": objectives.AGMM(shapes.num_classes),
        "AGMM++": objectives.AGMMpp(shapes.num_classes, shapes.channels),
    }
    steps = {
        name: training_step(networks.build(network, shapes.num_classes, init="scratch"), objective, shapes, device)
        for name, objective in methods.items()
    }
    seconds = timing.in_turn(steps, device, repeats, warmup=2)
    rows = []
    for name, times in seconds.items():
        ratio = timing.median_ratio(times, seconds["Baseline"])
        rows.append([name, 1e3 * statistics.median(times), ratio, held(steps[name]) / 2**20])
    return pd.DataFrame(rows, columns=["method", "milliseconds", "ratio", "held_mb"])


def held(step: Callable[[], None]) -> int:
    """Return the bytes that the forward pass of a step keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _cheaper(evidence: Evidence, setting: str, column: str, below: float, published: float) -> dict[str, Finding]:
    """Judge what AGMM++ costs as a share of AGMM, of the paper's transformer: its operations depend on no weights."""
    if "vit" not in evidence.preset.networks:
        return {}
    counted = operations().set_index("method")[column]
    ratio = float(counted["AGMM++"] / counted["AGMM"])
    note = f"multiply-accumulates of ViT-B/16 at {PRINTED_SIDE} pixels"
    return {setting: rules.fact(0 < ratio < below, ratio, published, note=note)}


# What they add to the baseline is clearly less, and the operations in all are fewer.
mixture_costs_less = partial(_cheaper, setting="increments", column="over_baseline", below=0.8, published=13.1 / 34.3)
cheaper_than_agmm = partial(_cheaper, setting="operations", column="gmacs", below=1, published=96.3 / 117.5)


def close_labels_are_right(evidence: Evidence) -> dict[str, Finding]:
    """Judge the share of the classes whose pseudo labels are more accurate close to the class's mean than far away."""

    def share(trained: Trained) -> tuple[float]:
        return share_of_similar(figures.measure_label_accuracy({"": trained}, IMAGES), "accuracy")

    runs = evidence.runs([_FROM_TAGS], SEGMENTATION)
    quantity = "accuracy of pseudo labels near means"
    return claim.of_networks(evidence, quantity, runs, share, {"tags": rules.share}) if runs else {}


@torch.no_grad()
def reestimated(trained: Trained) -> tuple[float, float, float, float]:
    """Set the labels' mixture and the re-estimated one beside the truth, on training images (Section 3.3).

    Return the mean distances (Eq. 3) of the classes' means to the mean features of their true masks, old and new, and
    the mIoU in per cent of the class with the largest score among those labeled, old and new.
    """
    num_classes, objective = trained.data.num_classes, mixture_of(trained)
    assert isinstance(objective, objectives.AGMMpp)
    matrices = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
    apart: list[Tensor] = []
    for part, features, _ in outputs(trained, trained.data, IMAGES):
        labels, truth = weak_labels(trained, part), tensor(trained.data.truth[part]).long()
        narrow = objective.squeeze(features.to(trained.device)).cpu()
        components = gmm.components(labels, num_classes)
        old = em.from_labels(narrow, labels, components, objective.estimator)
        members = em.assign(old, labels, components, objective.assignment, objective.keep_labels)
        new = em.reestimate(narrow, old, members, components, objective.estimator)
        everywhere, exists = gmm.class_means(narrow, truth, num_classes)
        known, goal = components.filled & components.from_classes(exists), components.from_classes(everywhere)
        apart.append(torch.stack([(one.means - goal).abs().mean(2)[known] for one in (old, new)]))
        for matrix, scores in zip(matrices, (old.scores(components), new.scores(components)), strict=True):
            dense = components.to_classes(fast.upsample(scores, labels.shape[-2:], components.per_image))
            best = evaluation.best_class(dense.masked_fill(~components.present[..., None, None], -1))
            matrix += evaluation.confusion_matrix(best, truth, num_classes)
    old_distance, new_distance = torch.cat(apart, 1).double().mean(1).tolist()
    old_miou, new_miou = (evaluation.mean_iou(matrix) for matrix in matrices)
    return old_distance, new_distance, old_miou, new_miou


def em_estimates_better(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether online EM brings means (as a share of their distance) and scores closer to the truth."""

    def measure(trained: Trained) -> tuple[float, float]:
        old, new, old_miou, new_miou = reestimated(trained)
        return 1 - new / old, new_miou - old_miou

    findings: dict[str, Finding] = {}
    for setting, column in VOC.items():
        if runs := evidence.runs([AGMMPP], column):
            judged: dict[str, claim.Rule] = {f"{setting}, means": partial(rules.direction, unit="share")}
            judged[f"{setting}, mIoU of G"] = rules.direction
            findings |= claim.of_networks(evidence, "online EM", runs, measure, judged)
    return findings


def mixture_leads(evidence: Evidence) -> dict[str, Finding]:
    """Judge whether G is ahead of P over the first tenth of the epochs, and less so over the last."""
    early = {f"{name}, early": finding for name, finding in mixture_leads_early(evidence, AGMMPP).items()}
    return early | {f"{name}, closing": finding for name, finding in gap_narrows(evidence, AGMMPP).items()}


def features_are_more_discriminative(evidence: Evidence) -> dict[str, Finding]:
    """Judge the mean silhouette of the features of test pixels: from tags with online EM, without it, and of ToCo."""
    runs = evidence.runs((_FROM_TAGS, _WITHOUT_EM, _TOCO), SEGMENTATION)
    if not runs:
        return {}
    findings = silhouettes(evidence, "EM against none", *runs[:2])
    return findings | silhouettes(evidence, "no EM against ToCo", *runs[1:])


_SHARES = [f"block {share}%" for share in (10, 20, 50)]
_POINTS_MORE = partial(claim.helps_first_more, claimed=1.0)
CLAIMS = claim.claims_of(
    "agmmpp",
    {
        "P04": claim.across((_OLD, _AGMM), VOC.values(), _POINTS_MORE, "points - scribbles"),
        "P08": claim.across(_CLICKS, CLICKS.values(), claim.gain_shrinks, "fewer clicks"),
        "P11": claim.across(_BLOCKS, _SHARES, claim.gain_shrinks, "fewer blocks"),
        "P20": claim.compare(_WEIGHTS, VOC, partial(rules.optimum, best=LAMBDAS.index(1.0))),
        "P21": claim.compare(_RISING_WEIGHTS, VOC, rules.trend),
        "P23": mixture_costs_less,
        "P24": cheaper_than_agmm,
        "P25": close_labels_are_right,
        "P26": mixture_leads,
        "P27": em_estimates_better,
        "P28": every_form_gains,
        "P29": features_are_more_discriminative,
    },
)

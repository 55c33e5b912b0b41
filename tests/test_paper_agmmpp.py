"""AGMM++ under the papers' protocol: two iterations on fixtures of every data set, kind of labels and network."""

from dataclasses import replace

import pytest

import agmm
from agmm.training.presets import PRESETS
from tests import layouts
from tests.test_paper import trained

pytestmark = pytest.mark.filterwarnings("ignore:.* images, not")
PAPER = PRESETS["paper"]
NETWORKS = {
    "resnet": {"network": "small", "network_options": (("stem", 8), ("feature_channels", 8))},
    "vit": {"network": "small_vit", "network_options": ()},
}
BOTH = ("points", "scribbles", "boxes", "tags", "full", "coco_tags")
RESNET = ("clicks20", "clicks_full", "blocks10", "blocks50", "blocks_full")
SOURCES = {"points": "published: What's the Point", "boxes": "grabcut from published boxes"}
SOURCES |= dict.fromkeys(("tags", "coco_tags"), "tags")
SOURCES |= dict.fromkeys(("full", "clicks_full", "blocks_full"), "dense masks")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return layouts.data_root(tmp_path_factory.mktemp("data"), "voc", "cityscapes", "coco", "ade20k")


def short(run: agmm.Run, network: str, **changes: object) -> agmm.Run:
    """One or two iterations of a run with a small network; what is made of image tags trains the second."""
    size = {"crop": 33, "batch_size": 2, "microbatch": 2, "epochs": 2, "warmup": 1, "history_images": 2}
    size |= {"tile": 33} if run.tile else {"scales": (0.5, 1.0)}
    if run.labels == "tags":
        options = dict(run.label_options) | {"warmup_steps": 1, "auxiliary_until": 0, "local_crops": 2}
        size["label_options"] = tuple((options | {"local_size": 16}).items())
    else:
        size["label_options"] = tuple(pair for pair in run.label_options if pair[0] != "source")
    return replace(run, init="scratch", **NETWORKS[network] | size | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "network", "method"),
    [
        *((labels, network, "AGMMpp") for labels in BOTH for network in NETWORKS),
        *((labels, "resnet", "AGMMpp") for labels in RESNET),
        *((labels, "vit", "Baseline") for labels in BOTH),
        *((labels, "resnet", "Baseline") for labels in ("tags", "clicks_full", "blocks50")),
    ],
)
def test_two_iterations_of_every_kind_of_labels_and_network(root, tmp_path, labels, network, method):
    run = short(PAPER.at(labels, method, network=network), network)
    result, history = trained(run, tmp_path, root)
    assert SOURCES.get(labels, "simulated") in result.details["label_source"]
    if method == "AGMMpp":
        assert (history[["self", "weak"]].iloc[-1] > 0).all()
        assert {"g_miou", "con"} <= set(history)


def test_an_iteration_of_the_papers_transformer(root, tmp_path):
    preset = PAPER.at("tags", "AGMMpp", network="vit")
    assert preset.network == "vit_base"
    run = short(preset, "vit", crop=48, epochs=1, scales=(1.0,), flip=False)
    result = agmm.run(replace(run, network="vit_base"), results=tmp_path, data_root=root, device="cpu")
    assert "random weights" in result.details["network"]


def test_protocol_of_transformers_is_that_of_toco():
    points, tags, coco = (PAPER.at(kind, "AGMMpp", network="vit") for kind in ("points", "tags", "coco_tags"))
    for run in (points, tags, coco):
        assert (run.network, run.crop, run.optimizer, run.lr, run.head_factor) == ("vit_base", 448, "adamw", 6e-5, 10)
        assert (run.weight_decay, run.warmup, run.power, run.microbatch) == (0.01, 1500, 0.9, 2)
        assert (run.scales, run.flip, run.scale_merge) == ((1.0, 1.25, 1.5), True, "max")
    assert 10_582 // tags.batch_size * tags.epochs == pytest.approx(20_000, rel=0.06)
    assert 82_081 // coco.batch_size * coco.epochs == pytest.approx(80_000, rel=0.03)
    blocks = PAPER.at("blocks10", "AGMMpp")
    assert 20_210 // blocks.batch_size * blocks.epochs == pytest.approx(150_000, rel=0.01)
    assert PAPER.networks["vit"].refined == {"crf": "toco"}

"""The scale of everything: what a `Run` looks like at each preset."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from agmm.evaluation import SCALES
from agmm.labels import from_boxes as seeds
from agmm.training.run import Init, Run


class Kind(NamedTuple):
    """A kind of weak labels: form and options (see `agmm.labels.simulate`), and the run it belongs to.

    The tables of a paper are about several data sets; ``run`` is the template of those that are not the preset's first.
    Labels that are not ``accurate`` are guesses, from boxes or image tags, which online EM may correct. No network
    changes what is ``fixed``.
    """

    form: str
    options: dict[str, Any]
    run: Run | None = None
    accurate: bool = True
    fixed: dict[str, Any] = {}


@dataclass(frozen=True)
class Network:
    """A network of a preset: what it changes of a template, how results are refined, and what it changes of image tags.

    ``refined`` are arguments of `Run.tested`, ``tags`` some of `agmm.rivals.toco.Options`.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    refined: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedding:
    """How SPML is trained at a preset, beside its options for a form of labels (`SPML_OPTIONS`).

    Attributes
    ----------
    changes : dict
        Fields of the run that trains the embedding; ``network_options`` are added to those of the template.
    options : dict
        Of `agmm.rivals.spml.SPML`.
    classifier, classifier_changes : dict
        Options of `agmm.rivals.spml.SPMLClassifier`, and the fields that are different for it.
    of_parts, of_tags : dict
        Further options of the classifier where the labels are those of parts of people, or are made of image tags.
    of_labels : dict of str to dict
        Further options of `agmm.rivals.spml.SPML` by form and by kind of labels, on top of `SPML_OPTIONS`.
    elsewhere : dict of str to Embedding
        How it is trained on data sets other than the preset's first.
    """

    options: dict[str, Any]
    changes: dict[str, Any]
    classifier: dict[str, Any]
    classifier_changes: dict[str, Any]
    of_parts: dict[str, Any]
    of_tags: dict[str, Any] = field(default_factory=dict)
    of_labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    elsewhere: "dict[str, Embedding]" = field(default_factory=dict)

    def on(self, dataset: str) -> "Embedding":
        """How the embedding of a data set is trained."""
        return self.elsewhere.get(dataset, self)

    def classified(self, run: Run) -> Run:
        """The last classifier on the embeddings of a run; from image tags it is the second (Algorithm 2)."""
        options, changes = self.classifier, self.classifier_changes
        if run.labels != "cam":
            return run.classified(options | (self.of_parts if run.labels == "part_points" else {}), **changes)
        options = options | self.of_tags
        return run.classified(options | {"first": "cam"}, **changes).classified(options, **changes)


_OF_POINTS = {"lambda_c": 0.1, "lambda_i": 0.1, "lambda_o": 0.1, "kappa_o": 8.0}
_OF_BOXES = {"lambda_c": 0.3, "lambda_i": 0.1, "lambda_o": 0.3, "kappa_o": 8.0}
SPML_OPTIONS: dict[str, dict[str, Any]] = {
    "points": _OF_POINTS,
    "clicks": _OF_POINTS,
    "grabcut": _OF_BOXES,
    "boxcam": _OF_BOXES,
    "cam": _OF_BOXES,
    "part_points": {"lambda_o": 0.0, "lambda_a": 0.5, "memory": 0, "located": False, "colors": True},
    "full": {"lambda_i": 0.0, "lambda_o": 0.0},
}
"""Options of SPML by form of labels, where they are not those of scribbles.

Weights are those of the released scripts, which share the proportions of the paper's (`SPML_PRINTED`). Parts of people
have the affinity that the paper describes and the script leaves out. With dense labels the annotation alone says what
belongs together, as in SegSort (Hwang et al., ICCV 2019).
"""

_PRINTED_OF_POINTS = {"lambda_c": 1.0, "lambda_i": 1.0, "lambda_o": 1.0, "kappa_o": 8.0}
_PRINTED_OF_BOXES = {"lambda_c": 1.0, "lambda_i": 0.3, "lambda_o": 1.0}
SPML_PRINTED: dict[str, dict[str, Any]] = {
    "points": _PRINTED_OF_POINTS,
    "scribbles0": _PRINTED_OF_POINTS,
    **dict.fromkeys(("grabcut", "boxcam", "cam"), _PRINTED_OF_BOXES),
    "part_points": {"memory": 2},
}
"""What the paper prints (Table 5) where the released scripts have other weights, and its memory on parts of people."""


@dataclass(frozen=True)
class Preset:
    """A template run with the weak-label settings that go with it.

    Attributes
    ----------
    run : Run
        Template; tables change its method, labels, initialization, network and seed.
    labels : dict of str to Kind
        The kinds of weak labels at this image size.
    inits : tuple of str
        Initializations that make sense here, the default first.
    seconds : dict of str to float
        Rough time of one run on each data set, on `hardware`, for estimates made before any run; ``"voc, vit_base"``,
        ``"voc, tags"`` and ``"shapes, SPML"`` are those with another network, those that learn from image tags, and
        those of another method.
    seeds : int
        Seeds that ``run_all.py`` trains by default.
    needs : str
        What a user must bring.
    hardware : str
        What the times are meant for.
    networks : dict of str to Network
        ``"resnet"``, the template's own or its counterpart, and ``"vit"``, where the preset has a transformer.
    embedding : Embedding or None
        How SPML is trained, where the preset has it.
    """

    run: Run
    labels: dict[str, Kind]
    inits: tuple[Init, ...]
    seconds: dict[str, float]
    seeds: int
    needs: str
    hardware: str = "one core of a laptop"
    networks: dict[str, Network] = field(default_factory=lambda: {"resnet": Network()})
    embedding: Embedding | None = None

    def at(
        self,
        labels: str,
        method: str = "Baseline",
        *,
        network: str = "resnet",
        init: Init | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Run:
        """The run of one table cell; ``labels`` is one of this preset's kinds, ``network`` one of its networks."""
        kind, chosen = self.labels[labels], self.networks[network]
        template = replace(kind.run or self.run, **(chosen.changes | kind.fixed))
        label_options = kind.options | (chosen.tags if kind.form == "tags" else {})
        if method == "AGMMpp" and not kind.accurate:
            options = {"keep_labels": False} | options
        if method == "SPML":
            if self.embedding is None:
                raise ValueError(f"the preset {template.preset} has no SPML")
            if kind.form == "tags":
                raise ValueError("SPML learns from maps that are there before it: choose the labels cam, not tags")
            embedding = self.embedding.on(template.dataset)
            changes = dict(embedding.changes)
            network_options = template.network_options + tuple(changes.pop("network_options", {}).items())
            template = replace(template, network_options=network_options, **(changes | kind.fixed))
            of_labels = SPML_OPTIONS.get(kind.form, {})
            for name in (kind.form, labels):
                of_labels = of_labels | embedding.of_labels.get(name, {})
            options = embedding.options | of_labels | options
        run = replace(
            template,
            method=method,
            options=tuple(options.items()),
            labels=kind.form,
            label_options=tuple(label_options.items()),
            init=init or template.init,
            seed=seed,
        )
        if kind.form not in seeds.NEED_CAMS:
            return run
        return run.with_cams_of(self.at("tags", network=network, init=init, seed=seed))

    def spml(self, labels: str, method: str = "SPML", **how: Any) -> Run:
        """The run of SPML's last classifier, and with it of the whole method; parameters as of `at`.

        From dense labels there is one classifier, that learns beside the embedding; from image tags there are two more,
        each on what the nearest segments of all images say (Algorithm 2).
        """
        run, chosen = self.at(labels, method, **how), self.embedding
        if run.labels == "full" or chosen is None:
            return run
        return chosen.on(run.dataset).classified(run)


# One click per object and one on the background, well inside; strokes one pixel wide, as images are 64 pixels wide.
_SHAPES_LABELS = {
    "points": Kind("points", {"placement": "inside", "width": 1, "background_points": 1}),
    "points_uniform": Kind("points", {"placement": "uniform", "width": 1, "background_points": 1}),
    "scribbles": Kind("scribbles", {"width": 1}),
    **{f"scribbles{n}": Kind("scribbles", {"width": 1, "length": n / 100}) for n in (80, 50, 30, 0)},
    "boxes": Kind("grabcut", {}, accurate=False),
    "blocks": Kind("blocks", {"ratio": 0.1}),
    "full": Kind("full", {}),
    "cam": Kind("cam", {}, accurate=False),
    "boxcam": Kind("boxcam", {}, accurate=False),
}
_QUICK = Run(
    preset="quick",
    dataset="shapes",
    train_images=1000,
    test_images=300,
    network="small",
    network_options=(("stem", 16), ("feature_channels", 32)),
    init="tags",
    epochs=14,
    batch_size=16,
    microbatch=16,
    augmentation="dihedral",
    optimizer="adamw",
    lr=2e-3,
    weight_decay=1e-2,
    warmup=50,
)
# Random clicks need an image with many classes. 10, 20 and 40 clicks on 64 x 64 pixels name about as many of an image's
# classes as 20, 50 and 100 on the 2048 x 1024 of Cityscapes.
_STREETS = replace(_QUICK, dataset="streets", init="scratch", augmentation="crop_flip", crop=64)
# CAMs of the convolutional network cover little of an object at VOC's thresholds. These were chosen on training images,
# by how much of the objects the refined labels cover and how much of that is right, after one training. For the
# transformer VOC's are right: 54 % of the objects, of which 90 % are right. Two epochs learn only tags.
_TAGS = {
    "high": 0.3,
    "low": 0.15,
    "background": 0.25,
    "warmup_steps": 124,
    "scales": (1.0,),
    "ctc": 0.0,  # its local views would hold less than two patches of a transformer
    "reg": 0.0,
    "photometric": False,
}
# People stand upright, and their mirror images have other left sides.
_PEOPLE = replace(_QUICK, dataset="people", init="scratch", augmentation="crop_flip", crop=64)
_QUICK_LABELS = _SHAPES_LABELS | {
    "parts": Kind("part_points", {}, _PEOPLE),
    "parts_full": Kind("full", {}, _PEOPLE),
    "clicks20": Kind("clicks", {"n": 10}, _STREETS),
    "clicks50": Kind("clicks", {"n": 20}, _STREETS),
    "clicks100": Kind("clicks", {"n": 40}, _STREETS),
    "clicks_full": Kind("full", {}, _STREETS),
    **{f"blocks{n}": Kind("blocks", {"ratio": n / 100}, _STREETS) for n in (10, 20, 50)},
    "blocks_full": Kind("full", {}, _STREETS),
    "regions": Kind("points", {"placement": "human", "width": 1}, _STREETS),
    "tags": Kind("tags", _TAGS, accurate=False),
    "coco_tags": Kind("tags", _TAGS, replace(_QUICK, dataset="crowds"), accurate=False),
}
# At the convolutional network's learning rate the transformer ends with a loss of 1.37, at this one with 0.78 (AGMM++
# from points, seed 0).
_SMALL_VIT = {"network": "small_vit", "network_options": (), "lr": 5e-4, "pretrain_lr": 2e-3}
_QUICK_NETWORKS = {
    "resnet": Network(refined={"crf": "deeplab_64"}),
    "vit": Network(_SMALL_VIT, refined={"crf": "toco_64"}, tags={"high": 0.7, "low": 0.25, "background": 0.5}),
}
# Clicks and strokes are a pixel wide, the grid of the embeddings four: any label of a cell counts. Regions of 64 x 64
# pixels are finer than those of VOC in the same proportion.
_QUICK_EMBEDDING = Embedding(
    options={"clusters": (4, 4), "regions": "felzenszwalb_small", "grid_labels": "any"},
    changes={"network_options": {"embedding": 32}},
    classifier={"stride": 4, "crf": "deeplab_64"},
    classifier_changes={"epochs": 4},
    of_parts={"first": "nearest", "clusters": (8, 8)},
    of_tags={"neighbors": 20, "cells": (6, 6), "scales": (1.0,), "query_scales": (1.0,)},
)
# Regions of CamVid at half size: one click per connected region of every class, three pixels wide.
_CAMVID_LABELS = {
    "points": Kind("points", {"placement": "human", "width": 3}),
    **{f"clicks{n}": Kind("clicks", {"n": n}) for n in (20, 50, 100)},
    "blocks10": Kind("blocks", {"ratio": 0.1}),
    "clicks_full": Kind("full", {}),
    "regions": Kind("points", {"placement": "human", "width": 3}),
    "full": Kind("full", {}),
}
_CAMVID = replace(
    _QUICK,
    preset="camvid",
    dataset="camvid",
    image_size=(180, 240),
    train_images=None,
    test_images=None,
    network_options=(("stem", 24), ("feature_channels", 64)),
    init="scratch",
    epochs=10,
    batch_size=8,
    microbatch=8,
    crop=176,
    augmentation="crop_flip",
    history_images=50,
)
# No class is background, and nearly all images share classes: co-occurrence finds nothing to repel.
_CAMVID_EMBEDDING = Embedding(
    options={"regions": "felzenszwalb_medium", "grid_labels": "any", "background": None},
    changes={"network_options": {"embedding": 32}},
    classifier={"stride": 8, "crf": ""},
    classifier_changes={"epochs": 3},
    of_parts={},
)

# The regions and strokes of CamVid at its own size are those of VOC; the classifier has the paper's share of the steps.
_CAMVID_R50_EMBEDDING = Embedding(
    options={"regions": "felzenszwalb", "grid_labels": "any", "background": None},
    changes={"network_options": {"embedding": 64}},
    classifier={"stride": 8, "crf": ""},
    classifier_changes={"epochs": 5},
    of_parts={},
)

_SMOKE: dict[str, Any] = {
    "preset": "smoke",
    "train_images": 32,
    "test_images": 16,
    "network_options": (("stem", 8), ("feature_channels", 16)),
    "epochs": 2,
    "warmup": 1,
    "history_images": 8,
    "pretrain_images": 32,
    "pretrain_epochs": 1,
}


_SMOKE_TAGS = _TAGS | {"warmup_steps": 1}


def _published(preset: str, protocol: Literal["paper", "official"]) -> Preset:
    """VOC and Cityscapes as the paper prints the protocol, or as the released configurations have it.

    Where the paper is silent the released configuration speaks in both: batch, color augmentation on VOC. Batches are
    those of the number of GPUs named there, 4 on VOC and 8 on Cityscapes; fewer GPUs accumulate microbatches. The paper
    does not say how VOC is tested; the released script averages seven scales with flips, so both do.
    """
    released = protocol == "official"
    voc = Run(
        preset=preset,
        dataset="voc",
        network="resnet101",
        init="imagenet",
        normalize=True,
        epochs=80,
        batch_size=64,
        microbatch=16,
        crop=321,
        augmentation="official_color",
        optimizer="sgd",
        lr=0.001,
        head_factor=10,
        weight_decay=1e-4,
        selection="best" if released else "last",
        scales=SCALES,
        flip=True,
        history_images=500,
    )
    crop = 721 if released else 769
    cityscapes = replace(
        voc,
        dataset="cityscapes",
        network="resnet50",
        network_options=(("multi_grid", (2, 2, 4)), ("rates", (12, 24, 36))),
        epochs=240,
        batch_size=32,
        microbatch=4,
        crop=crop,
        augmentation="official",
        lr=0.005 if released else 0.004,
        head_factor=1 if released else 10,
        scales=(1.0,),
        flip=False,
        tile=crop,
        history_images=100,
    )
    labels = {
        "points": Kind("points", {"placement": "human", "width": 3}),
        "scribbles": Kind("scribbles", {"width": 3}),
        "full": Kind("full", {}),
        **{f"clicks{n}": Kind("clicks", {"n": n}, cityscapes) for n in (20, 50, 100)},
        "clicks_full": Kind("full", {}, cityscapes),
        **_further_labels(voc),
        **_spml_labels(voc),
    }
    return Preset(
        run=voc,
        labels=labels,
        inits=("imagenet",),
        # Three times the operations of a forward pass (109 and 435, at 721 383 GMACs an image) at 60 TFLOP/s.
        seconds={"voc": 2.6 * 3600, "cityscapes": (7.6 if released else 8.6) * 3600} | _FURTHER_SECONDS | _SPML_SECONDS,
        seeds=1,
        needs=f"--data-root with VOC, SBD and Cityscapes; GPUs; protocol {_PROTOCOLS[protocol]}",
        hardware="one GPU that sustains 60 TFLOP/s, such as an A100 or better in TF32 (estimated, not measured)",
        networks={"resnet": Network(refined={"crf": "deeplab"}), "vit": Network(_VIT, refined={"crf": "toco"})},
        embedding=_spml_embedding(released),
    )


# AGMM++ prints neither schedules nor test settings; these are ToCo's for transformers and image tags (AdamW, 20,000
# steps of 4 images on VOC, 80,000 of 8 on COCO, in whole epochs) and TEL's for ADE20K (150,000 steps of 16).
_TOCO_SCHEDULE: dict[str, Any] = {
    "crop": 448,
    "batch_size": 4,
    "microbatch": 2,
    "epochs": 8,
    "optimizer": "adamw",
    "lr": 6e-5,
    "head_factor": 10,
    "weight_decay": 0.01,
    "warmup": 1500,
}
_VIT: dict[str, Any] = _TOCO_SCHEDULE | {
    "network": "vit_base",
    "scales": (1.0, 1.25, 1.5),
    "flip": True,
    "scale_merge": "max",
}
# As the hours above; learning from image tags takes 14 forward passes a step instead of 3.
_FURTHER_SECONDS = {
    "voc, vit_base": 0.2 * 3600,
    "voc, tags": 0.9 * 3600,
    "coco, tags": 7.1 * 3600,
    "coco": 1.5 * 3600,
    "ade20k": 18.5 * 3600,
}


def _further_labels(voc: Run) -> dict[str, Kind]:
    """Kinds of labels of AGMM++ beside points, scribbles and clicks."""
    tags = replace(voc, **_TOCO_SCHEDULE)
    coco = replace(tags, dataset="coco")
    late = {"warmup_steps": 8000, "auxiliary_until": 12000, "high": 0.65, "background": 0.45, "temperature": 1.0}
    ade20k = replace(
        voc,
        dataset="ade20k",
        crop=512,
        batch_size=16,
        microbatch=4,
        epochs=119,
        lr=0.02,
        head_factor=1,
        warmup=1000,
        scales=(1.0,),
        flip=False,
    )
    return {
        "boxes": Kind("grabcut", {}, accurate=False),
        "tags": Kind("tags", {}, tags, accurate=False),
        "coco_tags": Kind("tags", late, coco, accurate=False, fixed={"batch_size": 8}),
        **{f"blocks{n}": Kind("blocks", {"ratio": n / 100}, ade20k) for n in (10, 20, 50)},
        "blocks_full": Kind("full", {}, ade20k),
    }


# SPML's released configurations, whose batch of 16 lies on 4 GPUs: start them with torchrun and 4 processes, which
# exchange segments; on fewer, pixels contrast with those of fewer images. Iterations (30,000 of the embedding on VOC,
# 45,000 on DensePose, 4,000 of the classifier) are rounded to whole epochs.
_SPML_TRAINING: dict[str, Any] = {
    "crop": 512,
    "batch_size": 16,
    "microbatch": 4,
    "augmentation": "spml",
    "lr": 0.003,
    "head_factor": 10,
    "bias_factor": 2.0,
    "weight_decay": 5e-4,
    "warmup": 100,
    "warmup_from": 0.1,
    "selection": "last",
    "scales": (1.0,),
    "flip": False,
}
# As the hours above for the embeddings, and a forward pass for the classifiers. Nearly all the time of these is that of
# the CRF on every training image, taken to last 0.2 s on VOC and 0.3 s on DensePose (guessed).
_SPML_SECONDS = {
    "voc, SPML": 2.7 * 3600,
    "voc, SPMLClassifier": 0.8 * 3600,
    "densepose": 5.2 * 3600,
    "densepose, SPML": 5.2 * 3600,
    "densepose, SPMLClassifier": 2.6 * 3600,
}


def _spml_labels(voc: Run) -> dict[str, Kind]:
    """Kinds of labels of SPML beside those of others: from class activation maps, short scribbles, parts of people.

    The paper does not say how its softmax and the DenseCRF loss were trained on DensePose: as the embedding here.
    """
    changes = _SPML_TRAINING | {"epochs": 27, "network_options": (("decoder", "pyramid"),), "long_side": 640}
    densepose = replace(voc, dataset="densepose", **changes)
    tested = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5), "flip": True, "tile": 512, "long_side": None}
    return {
        "boxcam": Kind("boxcam", {}, accurate=False),
        "cam": Kind("cam", {}, accurate=False, fixed=tested),
        **{f"scribbles{n}": Kind("scribbles", {"width": 3, "length": n / 100}) for n in (80, 50, 30)},
        "scribbles0": Kind("scribbles", {"width": 6, "length": 0.0}),
        "parts": Kind("part_points", {}, densepose),
        "parts_full": Kind("full", {}, densepose),
    }


def _spml_embedding(released: bool) -> Embedding:
    """The embeddings of VOC and DensePose with the weights that the paper prints, or with those of the scripts.

    The script of DensePose never computes the affinity that the paper has on parts of people, and has no memory.
    """
    classifier_changes = {"epochs": 6, "augmentation": "spml_classifier"}
    people = Embedding(
        options={"regions": "auto", "clusters": (12, 12), "colors": True, "located": False},
        changes={"network_options": {"embedding": 32}},
        classifier={},
        classifier_changes=classifier_changes | {"epochs": 2},
        of_parts={"first": "nearest"},
        of_labels={"part_points": {"lambda_a": 0.0}} if released else SPML_PRINTED,
    )
    return Embedding(
        options={"regions": "auto"},
        changes=_SPML_TRAINING | {"epochs": 45, "long_side": 512, "network_options": {"embedding": 64}},
        classifier={},
        classifier_changes=classifier_changes,
        of_parts={},
        of_tags={"neighbors": 20},
        of_labels={"scribbles0": _OF_POINTS} if released else SPML_PRINTED,
        elsewhere={"densepose": people},
    )


_PROTOCOLS = {
    "paper": "as the papers print it",
    "official": "of the released configurations, best epoch on the test split",
}
PRESETS = {
    "smoke": Preset(
        run=replace(_QUICK, **_SMOKE),
        labels={
            name: kind._replace(run=replace(kind.run, **_SMOKE) if kind.run else None)
            for name, kind in _QUICK_LABELS.items()
        }
        | {
            "tags": Kind("tags", _SMOKE_TAGS, accurate=False),
            "coco_tags": Kind("tags", _SMOKE_TAGS, replace(_QUICK, dataset="crowds", **_SMOKE), accurate=False),
        },
        inits=("tags", "scratch"),
        seconds={"shapes": 1, "streets": 1, "crowds": 1, "people": 1},
        seeds=1,
        needs="nothing: a handful of embedded images, for tests",
        networks=_QUICK_NETWORKS,
        embedding=replace(_QUICK_EMBEDDING, classifier_changes={"epochs": 1}),
    ),
    "quick": Preset(
        run=_QUICK,
        labels=_QUICK_LABELS,
        inits=("tags", "scratch"),
        seconds={
            "shapes": 60,
            "streets": 60,
            "crowds": 60,
            "people": 60,
            "shapes, small_vit": 80,
            "shapes, tags": 200,
            "crowds, tags": 200,
            "shapes, SPML": 150,
            "people, SPML": 150,
        },
        seeds=1,
        needs="nothing: embedded images, a small network, about a CPU minute a run",
        networks=_QUICK_NETWORKS,
        embedding=_QUICK_EMBEDDING,
    ),
    "camvid": Preset(
        run=_CAMVID,
        labels=_CAMVID_LABELS,
        inits=("scratch",),
        seconds={"camvid": 240},
        seeds=1,
        needs="--data-root with CamVid (train, trainannot, val, valannot); a patient CPU",
        embedding=_CAMVID_EMBEDDING,
    ),
    "camvid_r50": Preset(
        run=replace(
            _CAMVID,
            preset="camvid_r50",
            image_size=(360, 480),
            network="resnet50",
            network_options=(),
            epochs=40,
            crop=360,
            optimizer="sgd",
            lr=0.01,
            weight_decay=1e-4,
            precision="bfloat16",
            normalize=True,
        ),
        labels=_CAMVID_LABELS,
        inits=("scratch", "imagenet"),
        # That of SPML's classifier is guessed: pseudo labels and a few epochs without backward passes.
        seconds={"camvid": 600, "camvid, SPMLClassifier": 120},
        seeds=3,
        needs="--data-root with CamVid; one GPU",
        hardware="one GPU",
        embedding=_CAMVID_R50_EMBEDDING,
    ),
    "paper": _published("paper", "paper"),
    "paper_official": _published("paper_official", "official"),
}
"""`quick` is the default. The network and the data of `smoke` and `quick` were chosen because the effects show."""

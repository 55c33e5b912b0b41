"""The presets of the papers: VOC, Cityscapes, COCO, ADE20K and DensePose at the papers' own scale."""

from dataclasses import replace
from typing import Any

from agmm.evaluation import SCALES
from agmm.training.presets.preset import SPML_OF_POINTS, Embedding, Kind, Network, Preset
from agmm.training.run import Run

_PUBLISHED = {"source": "published"}  # labels that their authors published are not simulated unless one asks for it

# AGMM++ prints neither schedules nor test settings; these are ToCo's for transformers and image tags (AdamW, 20,000
# steps of 4 images on VOC, 80,000 of 8 on COCO, in whole epochs) and TEL's for ADE20K (150,000 steps of 16).
_TOCO_SCHEDULE: dict[str, Any] = {"crop": 448, "batch_size": 4, "microbatch": 4, "epochs": 8, "warmup": 1500}
_TOCO_SCHEDULE |= {"optimizer": "adamw", "lr": 6e-5, "head_factor": 10, "weight_decay": 0.01}
# ToCo has two images on each GPU; a transformer has no batch normalization that would notice.
_VIT = _TOCO_SCHEDULE | {"microbatch": 2, "norm_scope": "microbatch"}
_VIT |= {"network": "vit_base", "scales": (1.0, 1.25, 1.5), "flip": True, "scale_merge": "max"}
# As the hours of `_published`; those from image tags are the GPU hours of ToCo's logs, of a transformer.
_FURTHER_HOURS = {"voc, vit_base": 0.5, "voc, tags": 7.3, "coco, tags": 109, "coco, vit_base": 4.0, "coco": 9.7}
_FURTHER_HOURS |= {"ade20k": 46.7}
# Trees of TEL are built on the CPU: 0.6 s a step on VOC, elsewhere in proportion to the pixels of a step's grids.
_FURTHER_HOURS |= {"voc, trees": 2.2, "cityscapes, trees": 10.4, "ade20k, trees": 15.8}
# Forward passes of all views, at 23 TFLOP/s: of the training images for a second stage (500 x 375 pixels, of COCO 640 x
# 480), of the test images for a test with a CRF, which takes 0.2 s an image besides.
_FURTHER_HOURS |= {"voc, pseudo labels": 1.25, "voc, vit_base, pseudo labels": 0.2, "cityscapes, pseudo labels": 0.4}
_FURTHER_HOURS |= {"coco, pseudo labels": 15.9, "coco, vit_base, pseudo labels": 3.0}
_FURTHER_HOURS |= {"voc, test": 0.25, "voc, vit_base, test": 0.11, "coco, test": 9.9, "coco, vit_base, test": 3.7}


def _further_labels(voc: Run) -> dict[str, Kind]:
    """Return the kinds of labels of AGMM++ beside points, scribbles and clicks."""
    tags = replace(voc, **_TOCO_SCHEDULE)
    coco = replace(tags, dataset="coco", batch_size=8, microbatch=8)
    late = {"warmup_steps": 8000, "auxiliary_until": 12000, "high": 0.65, "background": 0.45, "temperature": 1.0}
    ade20k = replace(voc, dataset="ade20k", crop=512, batch_size=16, microbatch=4, epochs=119, warmup=1000)
    ade20k = replace(ade20k, lr=0.02, head_factor=1, scales=(1.0,), flip=False)
    return {
        "boxes": Kind("grabcut"),
        "tags": Kind("tags", {}, tags),
        "coco_tags": Kind("tags", late, coco, fixed={"batch_size": 8}),
        **{f"blocks{n}": Kind("blocks", {"ratio": n / 100} | _PUBLISHED, ade20k) for n in (10, 20, 50)},
        "blocks_full": Kind("full", run=ade20k),
    }


_PRINTED_OF_POINTS = {"lambda_c": 1.0, "lambda_i": 1.0, "lambda_o": 1.0, "kappa_o": 8.0}
_PRINTED_OF_BOXES = {"lambda_c": 1.0, "lambda_i": 0.3, "lambda_o": 1.0}
_SPML_PRINTED: dict[str, dict[str, Any]] = {
    "points": _PRINTED_OF_POINTS,
    "scribbles0": _PRINTED_OF_POINTS,
    **dict.fromkeys(("grabcut", "boxcam", "cam"), _PRINTED_OF_BOXES),
    "part_points": {"memory": 2},
}
"""Weights that the paper prints (Table 5) where the released scripts have others, and its memory on parts of people."""

# SPML's released configurations, whose batch of 16 lies on 4 GPUs: start them with torchrun and 4 processes, which
# exchange segments; on fewer, pixels contrast with those of fewer images. Iterations (30,000 of the embedding on VOC,
# 45,000 on DensePose, 4,000 of the classifier) are rounded to whole epochs.
_SPML_TRAINING: dict[str, Any] = {"crop": 512, "batch_size": 16, "microbatch": 4, "augmentation": "spml"}
_SPML_TRAINING |= {"lr": 0.003, "head_factor": 10, "bias_factor": 2.0, "weight_decay": 5e-4}
_SPML_TRAINING |= {"warmup": 100, "warmup_from": 0.1, "selection": "last", "scales": (1.0,), "flip": False}
# As the hours of `_published` for the embeddings, and a forward pass for the classifiers. Nearly all the time of these
# is that of the CRF on every training image, taken to last 0.2 s on VOC and 0.3 s on DensePose (guessed).
_SPML_HOURS = {"voc, SPML": 7.1, "voc, SPMLClassifier": 1.1}
_SPML_HOURS |= {"densepose": 13.5, "densepose, SPML": 13.6, "densepose, SPMLClassifier": 3.2}


def _spml_labels(voc: Run) -> dict[str, Kind]:
    """Return the kinds of labels that SPML adds: from class activation maps, short scribbles, parts of people.

    The paper does not say how its softmax and the DenseCRF loss were trained on DensePose: as the embedding here.
    """
    changes = _SPML_TRAINING | {"epochs": 27, "network_options": (("decoder", "pyramid"),), "long_side": 640}
    densepose = replace(voc, dataset="densepose", **changes)
    tested = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5), "flip": True, "tile": 512, "long_side": None}
    return {
        "boxcam": Kind("boxcam"),
        "cam": Kind("cam", fixed=tested),
        **{f"scribbles{n}": Kind("scribbles", {"width": 3, "length": n / 100}) for n in (80, 50, 30)},
        "scribbles0": Kind("scribbles", {"width": 6, "length": 0.0}),
        "parts": Kind("part_points", run=densepose),
        "parts_full": Kind("full", run=densepose),
    }


def _spml_embedding(released: bool) -> Embedding:
    """Return how VOC and DensePose are embedded with the weights that the paper prints, or with those of the scripts.

    The script of DensePose never computes the affinity that the paper has on parts of people, and has no memory.
    """
    classifier_changes = {"epochs": 6, "augmentation": "spml_classifier"}
    people = Embedding(
        options={"regions": "auto", "clusters": (12, 12), "colors": True, "located": False},
        changes={"network_options": {"embedding": 32}},
        classifier={},
        classifier_changes=classifier_changes | {"epochs": 2},
        of_parts={"first": "nearest"},
        of_labels={"part_points": {"lambda_a": 0.0}} if released else _SPML_PRINTED,
    )
    return Embedding(
        options={"regions": "auto"},
        changes=_SPML_TRAINING | {"epochs": 45, "long_side": 512, "network_options": {"embedding": 64}},
        classifier={},
        classifier_changes=classifier_changes,
        of_tags={"neighbors": 20},
        of_labels={"scribbles0": SPML_OF_POINTS} if released else _SPML_PRINTED,
        elsewhere={"densepose": people},
    )


def _published(released: bool) -> Preset:
    """Return the preset with the protocol as the papers print it, or as the released configurations have it.

    Where the paper is silent the released configuration speaks in both: batch, color augmentation on VOC. Batches are
    those of the number of GPUs named there, and microbatches those of one of them: on VOC 4 GPUs of 16. On Cityscapes a
    comment of the configuration names 8 of 4; but the paper trains on 4, and its author names a batch of 16 (issue 7 of
    its repository), which "paper" has: 44,400 updates instead of 22,080 at one learning rate. Batch normalization
    extends over the batch, as there, on any number of GPUs. The paper does not say how VOC is tested; the released
    script averages seven scales with flips, so both do.
    """
    voc = Run(preset="paper_official" if released else "paper", dataset="voc", network="resnet101", init="imagenet")
    voc = replace(voc, epochs=80, batch_size=64, microbatch=16, crop=321, augmentation="official_color", normalize=True)
    voc = replace(voc, optimizer="sgd", lr=0.001, head_factor=10, weight_decay=1e-4, history_images=500)
    voc = replace(voc, scales=SCALES, flip=True, selection="best" if released else "last", norm_scope="effective")
    dilations, side = (("multi_grid", (2, 2, 4)), ("rates", (12, 24, 36))), 721 if released else 769
    cityscapes = replace(voc, dataset="cityscapes", network="resnet50", network_options=dilations, history_images=100)
    cityscapes = replace(cityscapes, epochs=240, crop=side, augmentation="official", microbatch=4)
    cityscapes = replace(cityscapes, batch_size=32 if released else 16)
    cityscapes = replace(cityscapes, lr=0.005 if released else 0.004, head_factor=1 if released else 10)
    cityscapes = replace(cityscapes, scales=(1.0,), flip=False, tile=side)
    labels = {
        "points": Kind("points", {"placement": "human", "width": 3} | _PUBLISHED),
        "scribbles": Kind("scribbles", {"width": 3} | _PUBLISHED),
        "full": Kind("full"),
        **{f"clicks{n}": Kind("clicks", {"n": n} | _PUBLISHED, cityscapes) for n in (20, 50, 100)},
        "clicks_full": Kind("full", run=cityscapes),
        **_further_labels(voc),
        **_spml_labels(voc),
    }
    official = "of the released configurations, best epoch on the test split"
    protocol = official if released else "as the papers print it"
    # Three times the operations of a forward pass (109 and 435, at 721 383 GMACs an image) at 23 TFLOP/s: those of the
    # 938 images of a ResNet-50 that an A100 is published to train in a second, in TF32.
    hours = {"voc": 6.7, "cityscapes": 19.8 if released else 22.5} | _FURTHER_HOURS | _SPML_HOURS
    return Preset(
        run=voc,
        labels=labels,
        inits=("imagenet",),
        seconds={name: 3600 * value for name, value in hours.items()},
        seeds=1,
        needs=f"--data-root with VOC, SBD and Cityscapes; GPUs; protocol {protocol}",
        hardware="one A100 in TF32 (estimated from published throughputs, not measured)",
        on_gpu=True,
        networks={"resnet": Network(refined={"crf": "deeplab"}), "vit": Network(_VIT, refined={"crf": "toco"})},
        embedding=_spml_embedding(released),
    )


PAPER, PAPER_OFFICIAL = _published(released=False), _published(released=True)

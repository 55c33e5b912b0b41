"""The presets of embedded images: "quick" has 64 x 64 pixels and a small network, "smoke" a handful for tests."""

from dataclasses import replace
from typing import Any

from agmm.training.presets.preset import Embedding, Kind, Network, Preset
from agmm.training.run import Run

# Epochs, batches, augmentation and optimizer are the defaults of a run.
_RUN = Run(preset="quick", dataset="shapes", train_images=1000, test_images=300, init="tags", warmup=50)
_RUN = replace(_RUN, network="small", network_options=(("stem", 16), ("feature_channels", 32)))

# CAMs of the convolutional network cover little of an object at VOC's thresholds. These were chosen on training images,
# by how much of the objects the refined labels cover and how much of that is right, after one training. For the
# transformer VOC's are right: 54 % of the objects, of which 90 % are right. Two epochs learn only tags.
_TAGS: dict[str, Any] = {"high": 0.3, "low": 0.15, "background": 0.25, "warmup_steps": 124, "scales": (1.0,)}
# The local views of the contrast ctc would hold less than two patches of a transformer.
_TAGS |= {"ctc": 0.0, "reg": 0.0, "photometric": False}


def _labels(template: Run, tags: dict[str, Any]) -> dict[str, Kind]:
    """Return the kinds of labels of a template on shapes, and of the same on streets, people and crowds."""
    # Random clicks need an image with many classes. People stand upright; their mirror images have other left sides.
    streets, people = (
        replace(template, dataset=name, init="scratch", augmentation="crop_flip", crop=64)
        for name in ("streets", "people")
    )
    crowds = replace(template, dataset="crowds")
    return {
        # One click per object and one on the background, well inside; strokes are one pixel wide.
        "points": Kind("points", {"placement": "inside", "width": 1, "background_points": 1}),
        "points_uniform": Kind("points", {"placement": "uniform", "width": 1, "background_points": 1}),
        "scribbles": Kind("scribbles", {"width": 1}),
        **{f"scribbles{n}": Kind("scribbles", {"width": 1, "length": n / 100}) for n in (80, 50, 30, 0)},
        "boxes": Kind("grabcut"),
        "blocks": Kind("blocks", {"ratio": 0.1}),
        "full": Kind("full"),
        "cam": Kind("cam"),
        "boxcam": Kind("boxcam"),
        "parts": Kind("part_points", run=people),
        "parts_full": Kind("full", run=people),
        # They name about as many of an image's classes as 20, 50 and 100 on the 2048 x 1024 pixels of Cityscapes.
        "clicks20": Kind("clicks", {"n": 10}, streets),
        "clicks50": Kind("clicks", {"n": 20}, streets),
        "clicks100": Kind("clicks", {"n": 40}, streets),
        "clicks_full": Kind("full", run=streets),
        **{f"blocks{n}": Kind("blocks", {"ratio": n / 100}, streets) for n in (10, 20, 50)},
        "blocks_full": Kind("full", run=streets),
        "regions": Kind("points", {"placement": "human", "width": 1}, streets),
        "tags": Kind("tags", tags),
        "coco_tags": Kind("tags", tags, crowds),
    }


# The convolutional network's learning rate is too high for the transformer: its loss ended higher than with this one.
_SMALL_VIT = {"network": "small_vit", "network_options": (), "lr": 5e-4, "pretrain_lr": 2e-3}
# Clicks and strokes are a pixel wide, the grid of the embeddings four: any label of a cell counts. Regions of 64 x 64
# pixels are finer than those of VOC in the same proportion.
_EMBEDDING = Embedding(
    options={"clusters": (4, 4), "regions": "felzenszwalb_small", "grid_labels": "any"},
    changes={"network_options": {"embedding": 32}},
    classifier={"stride": 4, "crf": "deeplab_64"},
    classifier_changes={"epochs": 4},
    of_parts={"first": "nearest", "clusters": (8, 8)},
    of_tags={"neighbors": 20, "cells": (6, 6), "scales": (1.0,), "query_scales": (1.0,)},
)
QUICK = Preset(
    run=_RUN,
    labels=_labels(_RUN, _TAGS),
    inits=("tags", "scratch"),
    seconds={
        **dict.fromkeys(("shapes", "streets", "crowds", "people"), 60),
        "shapes, small_vit": 80,
        **dict.fromkeys(("shapes, tags", "crowds, tags"), 200),
        **dict.fromkeys(("shapes, SPML", "people, SPML"), 150),
    },
    seeds=1,
    needs="nothing: embedded images, a small network, about a CPU minute a run",
    networks={
        "resnet": Network(refined={"crf": "deeplab_64"}),
        "vit": Network(_SMALL_VIT, refined={"crf": "toco_64"}, tags={"high": 0.7, "low": 0.25, "background": 0.5}),
    },
    embedding=_EMBEDDING,
)

_FEW = replace(_RUN, preset="smoke", train_images=32, test_images=16, epochs=2, warmup=1, history_images=8)
_FEW = replace(_FEW, pretrain_images=32, pretrain_epochs=1, network_options=(("stem", 8), ("feature_channels", 16)))
SMOKE = replace(
    QUICK,
    run=_FEW,
    labels=_labels(_FEW, _TAGS | {"warmup_steps": 1}),
    seconds=dict.fromkeys(("shapes", "streets", "crowds", "people"), 1),
    needs="nothing: a handful of embedded images, for tests",
    embedding=replace(_EMBEDDING, classifier_changes={"epochs": 1}),
)

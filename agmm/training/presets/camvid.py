"""Real road scenes: CamVid at half size for a patient CPU, and at its own for a GPU."""

from dataclasses import replace

from agmm.training.presets.preset import Embedding, Kind, Preset
from agmm.training.presets.quick import TEMPLATE

# Clicks are human ones, on every connected region of a class, three pixels wide.
_LABELS = {
    "points": Kind("points", {"placement": "human", "width": 3}),
    **{f"clicks{n}": Kind("clicks", {"n": n}) for n in (20, 50, 100)},
    "blocks10": Kind("blocks", {"ratio": 0.1}),
    "clicks_full": Kind("full"),
    "regions": Kind("points", {"placement": "human", "width": 3}),
    "full": Kind("full"),
}
_RUN = replace(
    TEMPLATE,
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
_EMBEDDING = Embedding(
    options={"regions": "felzenszwalb_medium", "grid_labels": "any", "background": None},
    changes={"network_options": {"embedding": 32}},
    classifier={"stride": 8, "crf": ""},
    classifier_changes={"epochs": 3},
)
CAMVID = Preset(
    run=_RUN,
    labels=_LABELS,
    inits=("scratch",),
    seconds={"camvid": 240},
    seeds=1,
    needs="--data-root with CamVid (train, trainannot, val, valannot); a patient CPU",
    embedding=_EMBEDDING,
)
CAMVID_R50 = Preset(
    run=replace(
        _RUN,
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
    labels=_LABELS,
    inits=("scratch", "imagenet"),
    # That of SPML's classifier is guessed: pseudo labels and a few epochs without backward passes.
    seconds={"camvid": 600, "camvid, SPMLClassifier": 120},
    seeds=3,
    needs="--data-root with CamVid; one GPU",
    hardware="one GPU",
    # Regions and strokes at this size are those of VOC; the classifier has the paper's share of the steps.
    embedding=replace(
        _EMBEDDING,
        options=_EMBEDDING.options | {"regions": "felzenszwalb"},
        changes={"network_options": {"embedding": 64}},
        classifier_changes={"epochs": 5},
    ),
)

"""The presets of real photographs: "voc_animals", "voc_laptop" and "camvid" for a CPU, "camvid_r50" for a GPU.

On a CPU the network is EfficientNet-Lite0 with ImageNet weights and a narrow decoder, "lite0". Its learning rates were
chosen by the baseline and full supervision on a fifth of the training images of VOC's animals, put aside, after
training on the others (seed 0, batches of 8 crops of 224; rate of the backbone, factor of the head, steps, mIoU in %):

    1e-3    1   516    12.8 points, 44.2 full       frozen_stages 2, 96 channels in each branch of the ASPP
    3e-4    3   215    44.8 points
    1e-4   10   215    48.3 points
    5e-5   40   215    50.4 points
    5e-5   40   430    52.4 points, 68.7 full

A step takes a second on one core of two. In bfloat16 it took twelve times as long (a CPU without AVX-512), at output
stride 8 three times. VOC's images are brought to 0.7 of their size, as the crops have 0.7 of the sides of AGMM's.
"""

from dataclasses import replace

from agmm.training.presets.preset import Embedding, Kind, Preset
from agmm.training.run import Run

_ANIMALS_RUN = Run(preset="voc_animals", dataset="voc_animals", network="lite0", init="imagenet", warmup=50, epochs=7)
_ANIMALS_RUN = replace(_ANIMALS_RUN, network_options=(("feature_channels", 48), ("frozen_stages", 3)))
_ANIMALS_RUN = replace(_ANIMALS_RUN, batch_size=8, microbatch=8, crop=224, augmentation="official_clicks_70")
_ANIMALS_RUN = replace(_ANIMALS_RUN, lr=5e-5, head_factor=40, long_side=350, history_images=30)
# Published clicks are taken where they lie beside the images; all other labels are simulated. Lines are 3 pixels wide.
_VOC_LABELS = {
    "points": Kind("points", {"placement": "human", "width": 3}),
    "points_uniform": Kind(
        "points", {"placement": "uniform", "width": 3, "background_points": 1, "source": "simulated"}
    ),
    "scribbles": Kind("scribbles", {"width": 3}),
    **{f"scribbles{n}": Kind("scribbles", {"width": 3, "length": n / 100}) for n in (80, 50, 30, 0)},
    "boxes": Kind("grabcut"),
    "full": Kind("full"),
}
_ANIMALS_EMBEDDING = Embedding(
    options={"regions": "felzenszwalb", "grid_labels": "any"},
    changes={"network_options": {"embedding": 64}, "augmentation": "spml_70"},
    classifier={"stride": 8},
    classifier_changes={"epochs": 2, "augmentation": "spml_classifier_70"},
)
VOC_ANIMALS = Preset(
    run=_ANIMALS_RUN,
    labels=_VOC_LABELS,
    inits=("imagenet",),
    seconds={"voc_animals": 480, "voc_animals, SPML": 1400, "voc_animals, SPMLClassifier": 2000},
    seeds=3,
    needs="--data-root with VOC 2012 and the published clicks; eight CPU minutes a run",
    embedding=_ANIMALS_EMBEDDING,
)
_LAPTOP_RUN = replace(_ANIMALS_RUN, preset="voc_laptop", dataset="voc_1464", epochs=8)
VOC_LAPTOP = replace(
    VOC_ANIMALS,
    run=_LAPTOP_RUN,
    seconds={"voc_1464": 2000, "voc_1464, SPML": 5000, "voc_1464, SPMLClassifier": 6500},
    seeds=1,
    needs="--data-root with VOC 2012 and the published clicks; by forecast half an hour of a CPU a run",
)

# Clicks are human ones, on every connected region of a class, three pixels wide.
_CAMVID_LABELS = {
    "points": Kind("points", {"placement": "human", "width": 3}),
    **{f"clicks{n}": Kind("clicks", {"n": n}) for n in (20, 50, 100)},
    "blocks10": Kind("blocks", {"ratio": 0.1}),
    "clicks_full": Kind("full"),
    "regions": Kind("points", {"placement": "human", "width": 3}),
    "full": Kind("full"),
}
_CAMVID_RUN = replace(_ANIMALS_RUN, preset="camvid", dataset="camvid", image_size=(360, 480), augmentation="crop_flip")
_CAMVID_RUN = replace(_CAMVID_RUN, long_side=None, epochs=8, history_images=30)
_R50_RUN = replace(_CAMVID_RUN, preset="camvid_r50", crop=360, epochs=40, normalize=True, history_images=50)
_R50_RUN = replace(_R50_RUN, network="resnet50", network_options=(), init="scratch", precision="bfloat16")
_R50_RUN = replace(_R50_RUN, optimizer="sgd", lr=0.01, head_factor=1.0, weight_decay=1e-4)
# No class is background, and nearly all images share classes: co-occurrence finds nothing to repel.
_CAMVID_EMBEDDING = Embedding(
    options={"regions": "felzenszwalb_medium", "grid_labels": "any", "background": None},
    changes={"network_options": {"embedding": 32}},
    classifier={"stride": 8, "crf": ""},
    classifier_changes={"epochs": 2},
)
CAMVID = Preset(
    run=_CAMVID_RUN,
    labels=_CAMVID_LABELS,
    inits=("imagenet",),
    seconds={"camvid": 480},
    seeds=1,
    needs="--data-root with CamVid (train, trainannot, val, valannot); by forecast eight CPU minutes a run",
    embedding=_CAMVID_EMBEDDING,
)
CAMVID_R50 = Preset(
    run=_R50_RUN,
    labels=_CAMVID_LABELS,
    inits=("scratch", "imagenet"),
    # That of SPML's classifier is guessed: pseudo labels and a few epochs without backward passes.
    seconds={"camvid": 600, "camvid, SPMLClassifier": 120},
    seeds=3,
    needs="--data-root with CamVid; one GPU",
    hardware="one GPU",
    on_gpu=True,
    # Regions and strokes at this size are those of VOC; the classifier has the paper's share of the steps.
    embedding=replace(
        _CAMVID_EMBEDDING,
        options=_CAMVID_EMBEDDING.options | {"regions": "felzenszwalb"},
        changes={"network_options": {"embedding": 64}},
        classifier_changes={"epochs": 5},
    ),
)

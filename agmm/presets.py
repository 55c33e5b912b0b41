"""The scale of everything: what a `Run` looks like at each preset."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agmm.runs import Init, Run


class Kind(NamedTuple):
    """A kind of weak labels: form and options (see `agmm.labels.simulate`), and the run it belongs to.

    The tables of a paper are about several data sets; ``run`` is the template of those that are not the preset's first.
    """

    form: str
    options: dict[str, Any]
    run: Run | None = None


@dataclass(frozen=True)
class Preset:
    """A template run with the weak-label settings that go with it.

    Attributes
    ----------
    run : Run
        Template; tables change its method, labels, initialization and seed.
    labels : dict of str to Kind
        The kinds of weak labels at this image size.
    inits : tuple of str
        Initializations that make sense here, the default first.
    seconds : float
        Rough time of one run on one core of a laptop (or one GPU where ``gpu``), for estimates made before any run.
    seeds : int
        Seeds that ``run_all.py`` trains by default.
    needs : str
        What a user must bring.
    """

    run: Run
    labels: dict[str, Kind]
    inits: tuple[Init, ...]
    seconds: float
    seeds: int
    needs: str

    def at(
        self, labels: str, method: str = "Baseline", *, init: Init | None = None, seed: int = 0, **options: Any
    ) -> Run:
        """The run of one table cell; ``labels`` is one of this preset's kinds."""
        kind = self.labels[labels]
        template = kind.run or self.run
        return replace(
            template,
            method=method,
            options=tuple(options.items()),
            labels=kind.form,
            label_options=tuple(kind.options.items()),
            init=init or template.init,
            seed=seed,
        )


# One click per object and one on the background, well inside; strokes one pixel wide, as images are 64 pixels wide.
_SHAPES_LABELS = {
    "points": Kind("points", {"placement": "inside", "width": 1, "background_points": 1}),
    "points_uniform": Kind("points", {"placement": "uniform", "width": 1, "background_points": 1}),
    "scribbles": Kind("scribbles", {"width": 1}),
    "full": Kind("full", {}),
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
_QUICK_LABELS = _SHAPES_LABELS | {
    "clicks20": Kind("clicks", {"n": 10}, _STREETS),
    "clicks50": Kind("clicks", {"n": 20}, _STREETS),
    "clicks100": Kind("clicks", {"n": 40}, _STREETS),
    "clicks_full": Kind("full", {}, _STREETS),
}
# Regions of CamVid at half size: one click per connected region of every class, three pixels wide.
_CAMVID_LABELS = {
    "points": Kind("points", {"placement": "human", "width": 3}),
    **{f"clicks{n}": Kind("clicks", {"n": n}) for n in (20, 50, 100)},
    "clicks_full": Kind("full", {}),
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

PRESETS = {
    "smoke": Preset(
        run=replace(_QUICK, **_SMOKE),
        labels={
            name: kind._replace(run=replace(kind.run, **_SMOKE) if kind.run else None)
            for name, kind in _QUICK_LABELS.items()
        },
        inits=("tags", "scratch"),
        seconds=1,
        seeds=1,
        needs="nothing: a handful of embedded images, for tests",
    ),
    "quick": Preset(
        run=_QUICK,
        labels=_QUICK_LABELS,
        inits=("tags", "scratch"),
        seconds=60,
        seeds=1,
        needs="nothing: embedded images, a small network, about a CPU minute a run",
    ),
    "camvid": Preset(
        run=_CAMVID,
        labels=_CAMVID_LABELS,
        inits=("scratch",),
        seconds=240,
        seeds=1,
        needs="--data-root with CamVid (train, trainannot, val, valannot); a patient CPU",
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
        seconds=600,
        seeds=3,
        needs="--data-root with CamVid; one GPU",
    ),
}
"""`quick` is the default. The network and the data of `smoke` and `quick` were chosen because the effects show."""

"""One training: its immutable description, its identity and folder, and the objective that it asks for."""

import hashlib
import importlib
import inspect
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from agmm import networks
from agmm.evaluation import crf
from agmm.objectives import AGMM, AGMMpp, Baseline, LabelAssignment, Objective, one_of
from agmm.rivals import toco
from agmm.rivals.crf_loss import DenseCRFLoss
from agmm.rivals.spml import SPML, SPMLClassifier
from agmm.rivals.tree_energy import TreeEnergy

SCHEMA = 1  # raised when a fix changes what a run computes; part of every run's identity

Options = tuple[tuple[str, Any], ...]
Init = Literal["scratch", "tags", "imagenet"]
STARTS: dict[str, str] = {"tags": "from tag pretraining", "imagenet": "from ImageNet", "scratch": "from scratch"}

_SHARED_WITH_PRETRAINING = (
    *("preset", "dataset", "image_size", "test_images", "network", "normalize", "crop", "augmentation"),
    *("optimizer", "head_factor", "weight_decay", "momentum", "warmup", "power", "precision", "compiled"),
    *("scales", "flip", "tile", "scale_merge", "pretrain_images", "pretrain_epochs", "threads", "schema"),
)
"""Fields that a pretraining has from the runs that start from it; all others have a value of its own, or no effect."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that changes the result of one training (and nothing else: no devices, workers or paths)."""

    preset: str
    """Preset that it belongs to, and the folder below ``results/``."""
    dataset: str
    """One of `agmm.data.sets`; or ``"own"``, whose label option ``data`` is a digest of the user's folder."""
    method: str = "Baseline"
    options: Options = ()
    """Objective (`build_objective`) and its options; ``"ImageTags"`` trains a backbone on image tags."""
    labels: str = "points"
    label_options: Options = ()
    """Form of the weak labels and its options (see `agmm.labels.simulate`); ``"full"`` is dense supervision. The option
    ``source`` says whether published labels are wanted (see `agmm.data.sets.labels_on_demand`). Options of ``"tags"``
    are those of `agmm.rivals.toco.Options`."""
    teacher_method: str = ""
    teacher_options: Options = ()
    teacher_changes: Options = ()
    """Objective of a first stage whose predictions are the labels of this run (`second_stage`), and further fields that
    are different there; empty without a first stage."""
    cam_changes: Options = ()
    """Fields that are different in the run whose class activation maps the labels are made of (`cams_of`); empty for
    other labels, and where the maps come with the data set."""
    restrict: bool = True  # choose the predictions of a first stage among the classes that an image's labels name
    normalize: bool = False  # images with the mean and standard deviation of ImageNet; else they stay in [0, 1]
    image_size: tuple[int, int] | None = None  # size (H, W) that the images of CamVid are brought to
    train_images: int | None = None
    test_images: int | None = None
    """Numbers of images of the embedded data sets."""
    network: str = "small"
    network_options: Options = ()
    """See `agmm.networks.build`."""
    init: Init = "scratch"  # start of the backbone; ``"tags"`` is a run of its own that others share (`requires`)
    init_weights: str = ""
    """Ten digits of the file whose weights stand for those of timm (`agmm.training.weights.keep_init`)."""
    epochs: int = 14
    batch_size: int = 16
    microbatch: int = 16
    """``batch_size`` is the effective batch over all devices and accumulation steps of ``microbatch`` images each."""
    crop: int | None = None
    augmentation: str = "dihedral"
    """See `agmm.data.augment`."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    head_factor: float = 1.0
    bias_factor: float = 1.0
    """Factors of ``lr``. Biases have no decay unless their factor is 1 (see `agmm.networks.parameter_groups`)."""
    weight_decay: float = 1e-2
    momentum: float = 0.9
    warmup: int = 0
    warmup_from: float = 0.0
    power: float = 0.9
    """``lr (1 - t/T)^power`` per step, after ``warmup`` linear steps, which begin with the share ``warmup_from``."""
    loss_scope: Literal["microbatch", "effective"] = "microbatch"  # over what the averages over labeled pixels extend
    norm_scope: Literal["microbatch", "effective"] = "microbatch"
    """Over which images batch normalization extends: with ``"effective"`` a process sends its share of the effective
    batch through the network at once, and processes exchange statistics; the losses stay those of microbatches."""
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network; branch and losses are always float32
    compiled: bool = False  # train the network through ``torch.compile``: other kernels, the same sums in another order
    selection: Literal["last", "best"] = "last"
    """Model that is reported: of the last epoch, or of the best one *on the test split* (optimistic)."""
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None
    long_side: int | None = None
    scale_merge: Literal["mean", "max"] = "mean"
    """How the network is tested, see `agmm.evaluation.Protocol`."""
    crf: str = ""
    """Name in `agmm.evaluation.crf.PARAMETERS` of the CRF that refines the predictions, or empty. A run with a CRF
    trains nothing: it tests the weights of the same run without (`trained`)."""
    trained_test: Options = ()  # fields scales, flip and scale_merge of the run whose weights this one tests (`tested`)
    plain_epochs: int = 0  # first epochs with partial cross-entropy alone, before the objective begins (ours)
    stop_after: int | None = None  # last epoch of both stages; the schedule stays that of ``epochs``
    history_images: int = 200  # training images on which the per-epoch curves of P and G are measured (0: no curves)
    pretrain_images: int = 4000
    pretrain_epochs: int = 12
    pretrain_lr: float | None = None
    """Scale of the pretraining where ``init="tags"``, and its learning rate if that is not ``lr``."""
    threads: int = 1  # threads on a CPU, as they change the order of sums
    seed: int = 0
    """Changes labels, head initialization and data order. Data generation and pretraining have their own seeds."""
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        for name in _OPTION_FIELDS:
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        for name in ("image_size", "scales"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.batch_size % self.microbatch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of microbatch {self.microbatch}")
        if self.stop_after is not None and not 1 <= self.stop_after < self.epochs:
            raise ValueError(
                f"stop_after {self.stop_after} is not between 1 and {self.epochs - 1}; leave it out to train all epochs"
            )
        if not 0 <= self.plain_epochs <= self.epochs or (self.plain_epochs and self.labels == "tags"):
            problem = f"plain_epochs is {self.plain_epochs}; it must lie between 0 and the {self.epochs} epochs"
            raise ValueError(f"{problem}, and be 0 with image tags, which label no pixel")
        one_of("norm_scope", self.norm_scope, ("microbatch", "effective"))
        one_of("scale_merge", self.scale_merge, ("mean", "max"))
        one_of("crf", self.crf, ("", *crf.PARAMETERS))
        if self.method != "ImageTags":
            build_objective(self.method, 2, **dict(self.options))
            if self.labels == "tags":
                toco.options(**dict(self.label_options))
        if self.from_tags and self.loss_scope != "microbatch":
            problem = "pseudo labels from image tags are made of each microbatch"
            raise ValueError(f"{problem}: choose the loss_scope 'microbatch'")

    @cached_property
    def id(self) -> str:
        """Identity: ten hexadecimal digits over the schema and every field that differs from its default.

        Defaults are left out so that a field added later does not rename the runs that do not use it.
        """
        described: dict[str, Any] = {"preset": self.preset, "dataset": self.dataset, "schema": self.schema}
        described |= {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.method != "ImageTags":
            objective = build_objective(self.method, 2, **dict(self.options))
            values, default = asdict(objective), asdict(build_objective(self.method, 2))
            described["options"] = {name: value for name, value in values.items() if value != default[name]}
            described |= {"revision": objective.revision} if objective.revision else {}
            described |= {"source": source_digest(self.method)} if is_own(self.method) else {}
        described |= {"cams": self.cams_of.id} if self.cams_of is not None else {}
        described.pop("cam_changes", None)
        if self.teacher is not None:
            described |= {"teacher_method": "", "teacher_options": (), "teacher": self.teacher.id}
            described.pop("teacher_changes", None)
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def from_tags(self) -> bool:
        """Whether the labels are image tags, from which the run makes its pseudo labels (`agmm.rivals.toco`)."""
        return self.labels == "tags" and self.method != "ImageTags" and not self.teacher_method

    @property
    def last_epoch(self) -> int:
        """The epoch that the run ends with, from 1."""
        return self.stop_after or self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {name: dict(plain[name]) for name in _OPTION_FIELDS}

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> "Run":
        """Return the run of `to_dict`; unknown or missing fields are refused."""
        known = {f.name for f in fields(Run)}
        if unknown := sorted(set(plain) - known):
            raise ValueError(f"unknown field of a run: {', '.join(unknown)}")
        return Run(**plain)

    @property
    def requires(self) -> "tuple[Run, ...]":
        """The runs that must be complete before this one."""
        if self.trained is not None:
            return (self.trained,)
        return tuple(run for run in (self.pretraining, self.cams_of, self.teacher) if run is not None)

    @property
    def pretraining(self) -> "Run | None":
        """The run that trains this one's backbone on image tags."""
        if self.trained is not None:
            return self.trained.pretraining
        if self.init != "tags":
            return None
        changes: dict[str, Any] = {name: getattr(self, name) for name in _SHARED_WITH_PRETRAINING}
        options = tuple(pair for pair in self.network_options if pair[0] not in networks.OF_THE_HEAD)
        changes |= {"train_images": self.pretrain_images, "epochs": self.pretrain_epochs, "network_options": options}
        changes |= {"lr": self.pretrain_lr or self.lr, "history_images": 0}
        changes |= dict.fromkeys(("batch_size", "microbatch"), 2 * self.batch_size)
        return Run(method="ImageTags", labels="tags", **changes)

    @property
    def teacher(self) -> "Run | None":
        """The first stage, whose predictions this run learns."""
        if self.trained is not None:
            return self.trained.teacher
        if not self.teacher_method:
            return None
        first: dict[str, Any] = {"method": self.teacher_method, "options": self.teacher_options, "restrict": True}
        first |= {"teacher_method": "", "teacher_options": (), "teacher_changes": ()}
        return replace(self, **(first | dict(self.teacher_changes)))

    @property
    def cams_of(self) -> "Run | None":
        """The run on image tags whose class activation maps this one's labels are made of."""
        if not self.cam_changes:
            return None
        if (first := self.trained or self.teacher) is not None:
            return first.cams_of
        return replace(self, cam_changes=(), **dict(self.cam_changes))

    def with_cams_of(self, other: "Run") -> "Run":
        """Return the same run on labels that are made of the class activation maps of another one, from image tags."""
        different = {f.name: getattr(other, f.name) for f in fields(self) if f.name not in ("cam_changes", "seed")}
        return replace(self, cam_changes=tuple(pair for pair in different.items() if pair[1] != getattr(self, pair[0])))

    @property
    def trained(self) -> "Run | None":
        """The run whose weights this one tests, None if it trains its own."""
        if not (self.crf or self.trained_test):
            return None
        return replace(self, crf="", trained_test=(), **dict(self.trained_test))

    def tested(
        self,
        *,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        scale_merge: Literal["mean", "max"] | None = None,
        crf: str = "",
    ) -> "Run":
        """Return the run that tests this one's weights in another way; the run itself where nothing is different.

        Arguments are the fields of that name: None keeps a field, and without ``crf`` there is no CRF.
        """
        base = self.trained or self
        fields_asked = {"scales": scales, "flip": flip, "scale_merge": scale_merge}
        test: dict[str, Any] = {n: getattr(self, n) if value is None else value for n, value in fields_asked.items()}
        other = replace(base, crf=crf, **test)
        changed = {name: getattr(base, name) for name in test if getattr(base, name) != getattr(other, name)}
        return replace(other, trained_test=tuple(changed.items()))

    def second_stage(self) -> "Run":
        """Return the run that trains a fresh network, by cross-entropy alone, on this one's predictions (MT).

        The paper does not say whether these are restricted to the classes that an image's labels name. Ours are, except
        with clicks: scattered at random they miss many classes that are there.
        """
        if self.trained is not None:
            raise ValueError("a second stage learns what a run predicts as it was trained: call trained.second_stage()")
        return self._taught("Baseline", {})

    def classified(self, options: dict[str, Any] | None = None, **changes: Any) -> "Run":
        """Return the run that trains SPML's next classifier on this one's embeddings (SPML, Algorithms 1 and 2).

        ``options`` are those of `agmm.rivals.spml.SPMLClassifier`, ``changes`` further fields, such as ``epochs``.
        """
        if self.method not in ("SPML", "SPMLClassifier"):
            raise ValueError(f"the method {self.method} has no embeddings to classify; begin with SPML")
        stages = ("teacher_method", "teacher_options", "teacher_changes") if self.teacher_method else ()
        before = tuple((name, getattr(self, name)) for name in (*changes, *stages))
        return self._taught("SPMLClassifier", options or {}, teacher_changes=before, **changes)

    def _taught(self, method: str, options: dict[str, Any], **changes: Any) -> "Run":
        teacher: dict[str, Any] = {"teacher_method": self.method, "teacher_options": self.options}
        changes |= teacher | {"restrict": self.labels != "clicks"}
        return replace(self, method=method, options=tuple(options.items()), **changes)

    def folder(self, results: str | Path = "results") -> Path:
        """Return the folder of the run's files."""
        return Path(results) / self.preset / "runs" / self.id


_OPTION_FIELDS = tuple(f.name for f in fields(Run) if f.type == Options)  # fields that are written as dictionaries


def _frozen(options: Any) -> Options:
    """Return options as sorted pairs with tuples for lists, whatever they came as."""
    pairs = options.items() if isinstance(options, dict) else options
    return tuple(sorted((name, _hashable(value)) for name, value in pairs))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(one) for one in value) if isinstance(value, list | tuple) else value


METHODS = {
    one.__name__: one
    for one in (Baseline, AGMM, LabelAssignment, AGMMpp, TreeEnergy, DenseCRFLoss, SPML, SPMLClassifier)
}
LabelObjective = Baseline | AGMM | AGMMpp | LabelAssignment | TreeEnergy | DenseCRFLoss | SPML | SPMLClassifier
AnyObjective = LabelObjective | toco.FromTags  # objectives on a run's labels, or on pseudo labels from image tags
FROM_DATA = ("num_classes", "in_channels")  # fields of objectives that data set and network decide, not a run


def build_objective(method: str, num_classes: int, **options: Any) -> LabelObjective:
    """Return an objective by name; unknown names and options are refused with the list of known ones.

    A user's objective is ``"module:Name"``: a data class in an importable module, whose first field is ``num_classes``
    and whose other fields are its options. It is called as `agmm.objectives.AGMM` is and returns an
    `agmm.objectives.Output`; what it needs besides it says as an `agmm.objectives.Objective` does.
    """
    if is_own(method):
        kind = _own(method)
        if not issubclass(kind, Objective):
            # Whatever it does not say about itself is as in an objective that needs nothing in particular.
            kind = type(kind.__name__, (kind, Objective), {})
    else:
        one_of("method", method, tuple(METHODS))
        kind = METHODS[method]
    known = tuple(f.name for f in fields(kind) if f.name not in FROM_DATA)
    for name in options:
        one_of(f"option of {method}", name, known)
    return kind(num_classes, **options)


def objective_for(run: Run, net: networks.Segmenter, num_classes: int) -> AnyObjective:
    """Return the objective of a run with the layers that it needs on a network, and those that learn image tags."""
    objective = build_objective(run.method, num_classes, **dict(run.options))
    if isinstance(objective, nn.Module):
        objective = replace(objective, in_channels=net.feature_channels)
    if not run.from_tags:
        return objective
    options, transformer = toco.options(**dict(run.label_options)), networks.has_class_tokens(net)
    return toco.FromTags(objective, num_classes, options, net.token_channels, transformer)


def is_own(method: str) -> bool:
    """Return whether a method is a user's."""
    return ":" in method


def source_digest(method: str) -> str:
    """Return ten hexadecimal digits of the file that a user's method is in: part of the identity of its runs."""
    file = inspect.getsourcefile(_own(method))
    assert file is not None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:10]


def _own(method: str) -> Any:
    module, _, name = method.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "write module:Name and start where the module can be found, or put its folder on PYTHONPATH"
        raise ValueError(f"the method {method!r} cannot be imported ({error}); {remedy}") from error
    if not isinstance(kind, type) or not is_dataclass(kind) or "num_classes" not in {f.name for f in fields(kind)}:
        problem = "is no data class with a field num_classes"
        raise ValueError(f"the method {method!r} {problem}; see agmm.objectives.Baseline")
    return kind

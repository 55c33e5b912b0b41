"""A preset: a template run, kinds of weak labels, networks, how SPML is trained, and changes that fit a machine."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from agmm.labels import from_boxes
from agmm.training.run import Init, Run

SPML_OF_POINTS = {"lambda_c": 0.1, "lambda_i": 0.1, "lambda_o": 0.1, "kappa_o": 8.0}
_OF_BOXES = {"lambda_c": 0.3, "lambda_i": 0.1, "lambda_o": 0.3, "kappa_o": 8.0}
SPML_OPTIONS: dict[str, dict[str, Any]] = {
    "points": SPML_OF_POINTS,
    "clicks": SPML_OF_POINTS,
    "grabcut": _OF_BOXES,
    "boxcam": _OF_BOXES,
    "cam": _OF_BOXES,
    "part_points": {"lambda_o": 0.0, "lambda_a": 0.5, "memory": 0, "located": False, "colors": True},
    "full": {"lambda_i": 0.0, "lambda_o": 0.0},
}
"""Options of SPML by form of labels, where they are not those of scribbles.

Weights are those of the released scripts, which share the proportions of the paper's. Parts of people have affinity as
in the paper, which the script leaves out, in the form of the released helper (see `agmm.rivals.spml.SPML`). With dense
labels the annotation alone says what belongs together, as in SegSort (Hwang et al., ICCV 2019).
"""


class Kind(NamedTuple):
    """A kind of weak labels: form and options (see `agmm.labels.simulate`), and the run it belongs to.

    The tables of a paper are about several data sets; ``run`` is the template of those that are not the preset's first.
    ``fixed`` is for all networks.
    """

    form: str
    options: dict[str, Any] = {}
    run: Run | None = None
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
    """How SPML is trained at a preset, besides its options for a form of labels (`SPML_OPTIONS`)."""

    options: dict[str, Any]
    """Options of `agmm.rivals.spml.SPML`."""
    changes: dict[str, Any]
    """Fields of the run that trains the embedding; ``network_options`` are added to those of the template."""
    classifier: dict[str, Any]
    classifier_changes: dict[str, Any]
    """Options of `agmm.rivals.spml.SPMLClassifier`, and the fields that are different for it."""
    of_parts: dict[str, Any] = field(default_factory=dict)
    of_tags: dict[str, Any] = field(default_factory=dict)
    """Further options of the classifier where labels are those of parts of people, or are made of image tags."""
    of_labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further options of `agmm.rivals.spml.SPML` by form and by kind of labels, on top of `SPML_OPTIONS`."""
    elsewhere: "dict[str, Embedding]" = field(default_factory=dict)  # on data sets other than the preset's first

    def on(self, dataset: str) -> "Embedding":
        """Return how the embedding of a data set is trained."""
        return self.elsewhere.get(dataset, self)

    def template(self, run: Run) -> Run:
        """Return a template run with the fields and the network of the embedding."""
        changes = dict(self.changes)
        options = run.network_options + tuple(changes.pop("network_options", {}).items())
        return replace(run, network_options=options, **changes)

    def classified(self, run: Run) -> Run:
        """Return the last classifier on the embeddings of a run; from image tags it is the second (Algorithm 2)."""
        options, changes = self.classifier, self.classifier_changes
        if run.labels != "cam":
            return run.classified(options | (self.of_parts if run.labels == "part_points" else {}), **changes)
        options = options | self.of_tags
        return run.classified(options | {"first": "cam"}, **changes).classified(options, **changes)


@dataclass(frozen=True)
class Preset:
    """A template run with the weak-label settings that go with it."""

    run: Run
    """Template; tables change its method, labels, initialization, network and seed."""
    labels: dict[str, Kind]
    """The kinds of weak labels at this image size."""
    inits: tuple[Init, ...]
    """Initializations that make sense here, the default first."""
    seconds: dict[str, float]
    """Rough time of one run on each data set, on `hardware`, for estimates made before any run; ``"voc, vit_base"``,
    ``"voc, tags"`` and ``"shapes, SPML"`` are with another network, from image tags, and of another method;
    ``"voc, trees"`` and ``"voc, pseudo labels"`` come on top of those of TEL and second stages, ``"voc, test"`` is a
    test with a CRF; ``"voc, vit_base, test"`` is that of another network."""
    seeds: int
    """Seeds that ``run_all.py`` trains by default."""
    needs: str
    """What a user must bring."""
    hardware: str = "one core of a laptop"  # what the times are meant for
    on_gpu: bool = False  # whether a training takes days without one
    networks: dict[str, Network] = field(default_factory=lambda: {"resnet": Network()})
    """``"resnet"``, the template's own or its counterpart, and ``"vit"``, where the preset has a transformer."""
    embedding: Embedding | None = None  # how SPML is trained, where the preset has it
    changes: tuple[str, ...] = ()  # words of `changed`, which hold for every run

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
        """Return the run of one table cell: ``labels`` is a kind of this preset, ``network`` one of its networks."""
        kind, chosen = self.labels[labels], self.networks[network]
        label_options = kind.options | (chosen.tags if kind.form == "tags" else {})
        template = replace(kind.run or self.run, **(chosen.changes | kind.fixed))
        if method == "SPML":
            if self.embedding is None:
                raise ValueError(f"the preset {template.preset} has no SPML")
            if kind.form == "tags":
                raise ValueError("SPML learns from maps that are there before it: choose the labels cam, not tags")
            embedding = self.embedding.on(template.dataset)
            template = replace(embedding.template(template), **kind.fixed)
            further = embedding.of_labels.get(kind.form, {}) | embedding.of_labels.get(labels, {})
            options = embedding.options | SPML_OPTIONS.get(kind.form, {}) | further | options
        run = replace(template, method=method, options=tuple(options.items()), init=init or template.init, seed=seed)
        run = replace(run, labels=kind.form, label_options=tuple(label_options.items()))
        run = changed(run, self.changes)
        if kind.form not in from_boxes.NEED_CAMS:
            return run
        return run.with_cams_of(self.at("tags", network=network, init=init, seed=seed))

    def spml(self, labels: str, method: str = "SPML", **how: Any) -> Run:
        """Return the run of SPML's last classifier, and with it of the whole method; other arguments as in `at`.

        From dense labels there is one classifier, that learns beside the embedding; from image tags there are two more,
        each on what the nearest segments of all images say (Algorithm 2).
        """
        run, chosen = self.at(labels, method, **how), self.embedding
        if run.labels == "full" or chosen is None:
            return run
        return chosen.on(run.dataset).classified(run)


CHANGES = ("microbatch[1-9][0-9]*", "norm_effective|norm_microbatch", "bfloat16|float32", "compiled", "simulated")
"""Patterns of the words that change all runs of a preset alike, as in ``paper+microbatch8+bfloat16``, in this order;
after them may stand a network and ten digits of the file that it starts from, as in ``resnet101-0123456789``."""
_PATTERNS = (*CHANGES, "[a-z0-9_]+-[0-9a-f]{10}")
_SIMULATED = ("points", "scribbles", "clicks", "blocks")  # forms of labels that are published or simulated


def composed(name: str, words: Iterable[str]) -> str:
    """Return the name of a preset with further changes, which replace those of their kind."""
    base, *there = name.split("+")
    return "+".join((base, *(word for _, word in sorted({_kind(word): word for word in (*there, *words)}.items()))))


def _kind(word: str) -> tuple[int, str]:
    """Return what a word changes: the number of its pattern, -1 for an unknown word, and a network if it names one."""
    number = next((i for i, pattern in enumerate(_PATTERNS) if re.fullmatch(pattern, word)), -1)
    return number, word.partition("-")[0] if number == len(CHANGES) else ""


def changed(run: Run, words: tuple[str, ...]) -> Run:
    """Return a run with changes that fit it to a machine or to the files at hand; ValueError for unknown words.

    A microbatch is the largest divisor of the batch up to the number. Where the microbatch was the whole batch, batch
    normalization extends over that as before.
    """
    if not words:
        return run
    kinds = [_kind(word) for word in words]
    if kinds[0][0] < 0 or kinds != sorted(set(kinds)):
        known = f"words like {', '.join(_PATTERNS)}, in this order"
        raise ValueError(f"the preset {run.preset} is changed by {known}, not by {'+'.join(words)}")
    changes: dict[str, Any] = {"preset": "+".join((run.preset, *words))}
    for word in words:
        network, _, digits = word.partition("-")
        if digits:
            changes |= {"init_weights": digits} if (run.network, run.init) == (network, "imagenet") else {}
        elif word.startswith("microbatch"):
            most = int(word.removeprefix("microbatch"))
            changes["microbatch"] = max(n for n in range(1, most + 1) if run.batch_size % n == 0)
            if changes["microbatch"] < run.microbatch == run.batch_size:
                changes["norm_scope"] = "effective"
        elif word.startswith("norm_"):
            changes["norm_scope"] = word.removeprefix("norm_")
        elif word == "compiled":
            changes["compiled"] = True
        elif word == "simulated":
            simulated = dict(run.label_options) | ({"source": word} if run.labels in _SIMULATED else {})
            changes["label_options"] = tuple(simulated.items())
        else:
            changes["precision"] = word
    return replace(run, **changes)

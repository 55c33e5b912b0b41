"""Data sets by name, their sparse labels, their image tags and their over-segmentations."""

import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agmm import labels
from agmm.data import disk_cache, user_folder
from agmm.data.public import MOST_REGIONS, REGIONS, DataSet, count_pixels, dense_labels
from agmm.data.public.coco import COCO, DENSEPOSE
from agmm.data.public.scenes import ADE20K, CAMVID, CITYSCAPES
from agmm.data.public.voc import VOC, VOC_1464, VOC_ANIMALS
from agmm.data.split import Arrays, OnDemand, Published, Split
from agmm.data.synthetic import Recipe
from agmm.data.synthetic.people import PEOPLE
from agmm.data.synthetic.shapes import CROWDS, SHAPES
from agmm.data.synthetic.streets import STREETS
from agmm.host import atomic_files
from agmm.labels import from_boxes

GENERATED: dict[str, Recipe] = {recipe.dataset: recipe for recipe in (SHAPES, CROWDS, STREETS, PEOPLE)}
PUBLIC: dict[str, DataSet] = {
    data.name: data for data in (CAMVID, VOC, VOC_1464, VOC_ANIMALS, CITYSCAPES, COCO, ADE20K, DENSEPOSE)
}
"""Data sets by name: those that are drawn, and those that are read from a folder of the user's."""
PAPERS = tuple(data.name for data in PUBLIC.values() if data.in_papers)  # the papers' numbers were measured on them
LABELS_VERSION = 1  # raised whenever `agmm.labels` draws otherwise, so that labels kept on disk are made again
PUBLISHED_AS = {"width": 3, "length": 1.0, "jitter": 0.0}
"""How published labels are drawn; whoever asks for other strokes gets simulated ones."""
SCALE_IMAGES = 500
"""Images on disk, evenly spaced, on which the scale of blocks is found. At a ratio of 50 % the standard deviation of
the share is then 0.07 percentage points on VOC and 0.1 on CamVid."""


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of a data set's classes, in the order of their codes, without reading it."""
    return (GENERATED[dataset] if dataset in GENERATED else PUBLIC[dataset]).class_names


def load(
    dataset: str,
    split: str,
    *,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    data_root: str | Path | None = None,
    cache: Path | None = None,
) -> Split:
    """Return one split of a data set: a name of `GENERATED` or `PUBLIC`, or ``"own"``.

    Splits are ``"train"``, ``"test"`` (the val of public data) and, for generated data except streets, ``"pretrain"``;
    ValueError for any other. ``count`` is the number of images of a generated data set, or of an epoch of "own"
    (`agmm.data.user_folder.load`); ``size`` (H, W) is what images of CamVid are brought to, those of the others keep
    their own. Generated data need no ``data_root`` (`folder`) and are kept in ``cache``.
    """
    if dataset == "streets" and split == "pretrain":
        raise ValueError("streets has no images for tag pretraining, as nearly every image holds every class")
    if dataset in GENERATED:
        if count is None:
            raise ValueError("an embedded data set needs a number of images")
        return GENERATED[dataset].make(split, count, cache=cache)
    if dataset == "own":
        if data_root is None:
            raise ValueError("images of your own are read from a prepared folder: train with agmm.own.train")
        return user_folder.load(Path(data_root), split, count)
    if dataset not in PUBLIC:
        raise ValueError(f"unknown data set {dataset!r}; known: {', '.join((*GENERATED, *PUBLIC))}")
    if split == "pretrain":
        title = PUBLIC[dataset].title
        raise ValueError(f"{title} has no images for tag pretraining; use init='scratch' or 'imagenet'")
    return PUBLIC[dataset].load(folder(dataset, data_root), {"train": "train", "test": "val"}[split], size)


def folder(dataset: str, data_root: str | Path | None) -> Path:
    """Return the folder of a data set: ``<data_root>/<dataset>`` where there is one, as several fit below a root."""
    if not data_root:
        title = PUBLIC[dataset].title
        raise ValueError(f"{title} is read from a folder of yours: name it with --data-root (or data_root=…)")
    below = Path(data_root) / dataset
    return below if below.is_dir() else Path(data_root)


def check(dataset: str, data_root: str | Path | None, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """Read every file of a public data set once: one sentence per problem, none for the others."""
    return PUBLIC[dataset].check(folder(dataset, data_root), splits) if dataset in PUBLIC else []


def image_tags(split: Split, min_share: float = 0.0, cache: Path | None = None) -> np.ndarray:
    """Return the classes that the dense mask of each image shows, (N, K) bool; a background class is always among them.

    ``min_share`` is the least share of an image that a listed class covers, 0 … 1; one pixel always is the least. In
    ``cache`` the tags of data on disk are kept, as reading all masks takes minutes.
    """

    def all_tags() -> np.ndarray:
        def of_image(index: int) -> np.ndarray:
            return labels.image_tags(split.truth[index], split.num_classes, min_share)

        with ThreadPoolExecutor() as threads:
            tags = np.stack(list(threads.map(of_image, range(len(split)))))
        if split.background is not None:
            tags[:, split.background] = True
        return tags

    digest = atomic_files.digest([split.dataset, split.class_names, split.ids, min_share])
    on_disk = isinstance(split.truth, OnDemand)
    return disk_cache.array(cache if on_disk else None, f"tags-{split.dataset}-{digest}.npy", all_tags)


# --- Sparse labels ----------------------------------------------------------------------------------------------------


def weak_labels(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> Arrays:
    """Return weak labels in memory (`sparse_labels`) or on demand (`labels_on_demand`); tags label no pixel."""
    if form == "tags":
        if isinstance(split.truth, np.ndarray):
            return np.full_like(split.truth, labels.UNLABELED)
        return OnDemand(partial(_unlabeled, split.truth), range(len(split)))
    read = labels_on_demand if isinstance(split.images, OnDemand) else sparse_labels
    return read(split, form, options, seed, cache)


def _unlabeled(truth: Arrays, index: int) -> np.ndarray:
    return np.full_like(truth[index], labels.UNLABELED)


def sparse_labels(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> np.ndarray:
    """Return the sparse labels of a split in memory, (N, H, W) uint8: see `labels_on_demand`.

    The labels of an image depend on ``seed``, the data set, the image's id, form and options only; options that nest
    (the number of clicks, the length of scribbles) share their random numbers.
    """
    if isinstance(split.truth, OnDemand):
        raise ValueError(f"the {len(split)} images of {split.dataset} stay on disk; use labels_on_demand")
    if (published := _published(split, form, options)) is not None:
        return np.stack(list(_with_gaps(published).maps))
    options = _simulation_options(split, form, options, cache)
    described = [split.dataset, split.ids, split.truth[0].shape, form, options, seed, *_inputs(split, form).values()]
    name = f"labels-{split.dataset}-{form}-{seed}-{atomic_files.digest(described)}.npy"
    maps = (_simulate(split, form, options, seed, None, i) for i in range(len(split)))
    return disk_cache.array(cache, name, lambda: np.stack(list(maps)))


def labels_on_demand(split: Split, form: str, options: dict[str, Any], seed: int, cache: Path | None = None) -> Arrays:
    """Return the sparse labels of every image of a split, (H, W) uint8, read or simulated when asked for.

    ``form`` and ``options`` are those of `agmm.labels.simulate`; blocks are scaled so as to label their share of the
    whole split. A further option ``source`` is ``"auto"`` (the default: published labels where the split has them, else
    simulated ones), ``"published"``, ``"simulated"``, or the name of a publisher (``"annotations"`` for annotated
    boxes); `label_source` says what the labels are. ValueError if published labels are insisted on and there are none.
    Simulated ones depend on ``seed`` and are kept in the folder ``cache``, a PNG per image.
    """
    if (published := _published(split, form, options)) is not None:
        return _with_gaps(published).maps
    if form == "full":
        return split.truth
    options = _simulation_options(split, form, options, cache)
    folder = None
    if cache is not None:
        described = {"dataset": split.dataset, "form": form, "options": options, "seed": seed}
        described |= {"objects": split.instances is not None, "version": LABELS_VERSION}
        described |= dict.fromkeys(_inputs(split, form).values(), True)
        folder = cache / f"labels-{split.dataset}-{form}-{seed}-{atomic_files.digest(described, sort_keys=True)}"
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_json(folder / "labels.json", described)
    return OnDemand(partial(_simulate, split, form, options, seed, folder), range(len(split)))


def label_source(split: Split, form: str, options: dict[str, Any]) -> str:
    """Say where the labels of a split come from, for records and captions."""
    if form == "tags":
        return "image tags from dense masks"
    if (published := _published(split, form, options)) is not None:
        return f"published: {published.description}"
    if form == "full":
        return "dense masks"
    if form in from_boxes.FORMS:
        boxes = [] if form == "cam" else ["published boxes" if split.boxes is not None else "boxes of dense masks"]
        cams = [split.cams_from or "published cams"] if form in from_boxes.NEED_CAMS else []
        return f"{form} from {' and '.join(boxes + cams)}"
    return "simulated from dense masks" + (" and objects" if split.instances is not None else "")


def _with_gaps(published: Published) -> Published:
    """Return sparse labels whose first ones leave pixels unlabeled; ValueError for others."""
    if problem := dense_labels(published, [count_pixels(one) for one in published.maps[:20]]):
        raise ValueError(problem)
    return published


def _published(split: Split, form: str, options: dict[str, Any]) -> Published | None:
    """Return the labels to be read from files, None where they are to be simulated."""
    source = options.get("source", "auto")
    candidates = [labels for labels in (*split.published, *_annotated_boxes(split, options)) if labels.form == form]
    wanted = _defaults(form) | options
    for candidate in candidates:
        drawn = PUBLISHED_AS | dict(candidate.drawn)
        drawn_alike = all(wanted.get(name, value) == value for name, value in drawn.items())
        if drawn_alike and source in ("auto", "published", candidate.name):
            return candidate
    if source in ("auto", "simulated"):
        return None
    names = "; ".join(" ".join([one.name, *(f"{k} {v}" for k, v in one.drawn.items())]) for one in candidates)
    strokes = ", 3 pixels wide and whole" if form in ("points", "scribbles") else ""
    known = [one for one in PUBLIC[split.dataset].sources if one.form == form] if split.dataset in PUBLIC else []
    fitting = [one for one in known if all(wanted.get(name) == value for name, value in one.drawn.items())]
    places = "; ".join(one.places for one in fitting if source in ("published", one.name))
    raise ValueError(
        f"{form} with {options} are asked for, but published files of {split.dataset} hold {names or f'no {form}'}"
        f"{strokes}; put them below the data root{f', into {places}' if places else ''}, or ask for source='simulated' "
        "(--labels simulated)"
    )


def _defaults(form: str) -> dict[str, Any]:
    function = labels.FORMS.get(form)
    return {} if function is None else {n: p.default for n, p in inspect.signature(function).parameters.items()}


def _annotated_boxes(split: Split, options: dict[str, Any]) -> tuple[Published, ...]:
    if split.boxes is None:
        return ()
    paint = partial(labels.paint_boxes, background=split.background, inner=options.get("inner"))
    description = "boxes of the data set's annotations"
    return (Published("boxes", "annotations", description, OnDemand(paint, split.boxes)),)


def _simulation_options(split: Split, form: str, options: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """Return the options for the simulator: for blocks with the scale at which they label their share of the split."""
    options = {name: value for name, value in options.items() if name != "source"}
    if form != "blocks" or "scale" in options:
        return options
    ratio = options.get("ratio", _defaults(form)["ratio"])
    on_disk = isinstance(split.truth, OnDemand)
    chosen = range(0, len(split), max(1, len(split) // SCALE_IMAGES) if on_disk else 1)
    size = None if on_disk else split.truth[0].shape
    # Kept, because components of large masks take a second an image.
    digest = atomic_files.digest([split.dataset, ratio, size, [split.ids[i] for i in chosen], LABELS_VERSION])

    def scale() -> np.ndarray:
        return np.array(labels.block_scale((split.truth[i] for i in chosen), ratio))

    return options | {"scale": float(disk_cache.array(cache, f"blocks-{split.dataset}-{digest}.npy", scale))}


def _simulate(
    split: Split, form: str, options: dict[str, Any], seed: int, folder: Path | None, index: int
) -> np.ndarray:
    def simulated() -> np.ndarray:
        mask, rng = split.truth[index], labels.generator(seed, split.dataset, split.ids[index], form)
        instances = None if split.instances is None else split.instances[index]
        given: dict[str, Any] = {name: getattr(split, name)[index] for name in _inputs(split, form)}
        given |= {"instances": instances, "background": split.background} | options
        if form in from_boxes.FORMS:
            return from_boxes.simulate(form, split.images[index], mask, rng, **given)
        return labels.simulate(form, mask, rng, **given)

    return disk_cache.index(folder, f"{split.ids[index]}.png", simulated)


def _inputs(split: Split, form: str) -> dict[str, str]:
    """Return the fields of a split that a form is made from instead of the dense mask, and what made them."""
    inputs = {}
    if form in from_boxes.FORMS and split.boxes is not None:
        inputs["boxes"] = "boxes"
    if form in from_boxes.NEED_CAMS and split.cams is not None:
        inputs["cams"] = split.cams_from or "cams"
    return inputs


# --- Over-segmentations -----------------------------------------------------------------------------------------------
# Regions of one color, along whose borders SPML expects those of objects.

FELZENSZWALB: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"scale": 200, "sigma": 0.8, "min_size": 150},
    "felzenszwalb_small": {"scale": 100, "sigma": 0.5, "min_size": 10},
    "felzenszwalb_medium": {"scale": 100, "sigma": 0.5, "min_size": 20},
}
"""Parameters of Felzenszwalb and Huttenlocher, IJCV 2004, by name: for images of about 500, 64 and 240 pixels."""

REGIONS_FOLDER = f"{REGIONS.form}/{REGIONS.name}"  # of published ones, below the root of a data set


def oversegment(image: np.ndarray, method: str) -> np.ndarray:
    """Cut an (H, W, 3) uint8 image into regions, (H, W) uint8, coarser until they are fewer than `MOST_REGIONS`.

    This is the substitute (ours) for the published regions of SPML, which need a trained edge detector.
    """
    from skimage.segmentation import felzenszwalb  # here, as it takes a second, and published regions need it not

    parameters = dict(FELZENSZWALB[method])
    while (regions := felzenszwalb(image.astype(np.float64) / 255, **parameters)).max() >= MOST_REGIONS:
        parameters["scale"] *= 1.5
    return regions.astype(np.uint8)


def regions(split: Split, method: str, cache: Path | None = None) -> Arrays:
    """Return the regions of every image of a split, (H, W) uint8 each, in memory or on demand as its images are.

    ``method`` is one of `FELZENSZWALB`; ``"published"`` for those that came as files; or ``"auto"`` (`chosen_regions`).
    ``cache`` is a folder in which they are kept: one file for a split in memory, else a PNG per image.
    """
    method = chosen_regions(split, method)
    if method == "published" and split.regions is not None:
        return split.regions
    if isinstance(split.images, OnDemand):
        folder = None if cache is None else cache / f"regions-{split.dataset}-{method}"
        return OnDemand(partial(_regions_of, split, method, folder), range(len(split)))
    digest = atomic_files.digest([split.dataset, split.ids, split.images[0].shape, FELZENSZWALB[method]])
    name = f"regions-{split.dataset}-{method}-{digest}.npy"
    return disk_cache.array(cache, name, lambda: np.stack([oversegment(image, method) for image in split.images]))


def chosen_regions(split: Split, method: str) -> str:
    """Return what `regions` are: ``"auto"`` are the published ones of a split where it has them, else our substitute.

    ValueError if the method is unknown, or published regions are insisted on and there are none.
    """
    known = (*FELZENSZWALB, "published", "auto")
    if method not in known:
        raise ValueError(f"regions are {method!r}; known: {', '.join(known)}")
    if method == "published" and split.regions is None:
        raise ValueError(
            f"published regions of {split.dataset} are asked for, and there is no folder {REGIONS_FOLDER} below its "
            f"data root; put a PNG per training image there or ask for regions='auto'"
        )
    if method == "auto":
        return "felzenszwalb" if split.regions is None else "published"
    return method


def with_regions(labels: Arrays, regions: Arrays) -> Arrays:
    """Return labels and regions in one map, so that both move together: label + 256 region, int32."""
    if isinstance(labels, np.ndarray) and isinstance(regions, np.ndarray):
        return labels + 256 * regions.astype(np.int32)
    return OnDemand(partial(_with_regions, labels, regions), range(len(labels)))


def _with_regions(labels: Arrays, regions: Arrays, index: int) -> np.ndarray:
    return labels[index] + 256 * regions[index].astype(np.int32)


def _regions_of(split: Split, method: str, folder: Path | None, index: int) -> np.ndarray:
    return disk_cache.index(folder, f"{split.ids[index]}.png", lambda: oversegment(split.images[index], method))

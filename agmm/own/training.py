"""Training on a folder of images with sparse labels (`agmm.data.user_folder`), a check of one, and one to try both."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agmm.codes import UNLABELED, VOID
from agmm.data import annotations, image_files, user_folder
from agmm.data.split import Split
from agmm.data.synthetic.shapes import SHAPES
from agmm.data.user_folder import pictures
from agmm.host import atomic_files
from agmm.labels import generator, simulate
from agmm.own.options import CPU_SIDE, Options, describe
from agmm.own.prediction import Model, export_onnx, iou_table, labels_right, load, output_folder, require_onnx
from agmm.training import loop, weights
from agmm.training.batches import normalization
from agmm.training.result import Result
from agmm.training.run import Run
from agmm.training.train import choose_device
from agmm.training.train import run as train_run

FOLDS = 5  # further trainings of cross-validation
DEFAULTS = Options()


def train(
    images: str | Path,
    labels: str | Path,
    classes: str | Path,
    out: str | Path,
    options: Options = DEFAULTS,
    *,
    truth: str | Path | None = None,
    device: str = "auto",
    onnx: bool = False,
) -> Result:
    """Train a network on images with sparse labels; an interrupted training is resumed by the same call.

    ``images`` is a folder, ``labels`` a folder of masks or annotation files, or one such file, ``classes`` a text file
    with a class name a line, and ``truth`` a folder of dense masks of some images, which are validated on, not learned
    from. ``out`` is a new folder, or that of an earlier call: it receives model.safetensors, model.json, report.csv,
    log.txt, and ``training`` with the images in their working size and the run; with ``onnx`` also model.onnx, checked
    with onnxruntime. ``device`` is ``"auto"``, ``"cpu"``, ``"cuda"`` …

    Where the labels are others than those of an earlier call with this ``out``, the training begins with its weights.

    Return the result; the entry ``figure`` of its details says how good the model is, and on what that was measured in
    the images' working size. ValueError with a sentence about the first file that something is wrong with; then
    nothing is written.
    """
    if onnx:
        require_onnx()
    if options.validate == "cross" and truth is not None:
        raise ValueError("--validate cross is for labels alone; with --truth its dense masks are validated on")
    out, options = output_folder(out, "training"), options.on(choose_device(device))
    earlier = _earlier(out)
    listed, results = user_folder.survey(images, labels, classes, truth, options.fill_background), out / "training"
    with (
        atomic_files.writable(out.parent, "--out"),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".agmm-") as temporary,
    ):
        folder = Path(temporary) / "data"
        data = user_folder.prepare(
            listed,
            folder,
            side=options.side,
            width=options.width,
            validation=options.validation,
            folds=FOLDS if options.validate == "cross" else 0,
            learned=earlier.get("images", ()),
        )
        results.mkdir(parents=True, exist_ok=True)
        run, start = _begin(describe(data, options), data, earlier, out)
        replace_folder(folder, results / "data")
    for line in (*summary(data, run), *(f"note: {note}" for note in listed.notes), start):
        loop.LOGGER.info(line)
    if not data.dense and options.validate == "apart" and len(data.validation) < len(data.train):
        loop.LOGGER.info(f"--validate cross would measure on all labeled images, by {FOLDS} further trainings")
    # No decoded images are kept, as batches come from files that are small already.
    place: dict[str, Any] = {"results": results, "device": device, "keep_decoded": False}
    tests = _train_folds(options, **place) if options.validate == "cross" else [(run, results / "data")]
    result = train_run(run, data_root=results / "data", **place)
    with atomic_files.writable(out, "--out"):
        points = all(shape.kind in ("point", "tag") for id in listed.annotated for shape in listed.shapes(id))
        what = "clicks" if points and not listed.masks else "labels"
        figure = _write_model(run, data, result, out, [_tested(*test, results) for test in tests], what)
        if onnx:
            export_onnx(load(out, device="cpu").net, normalization(run), out / "model.onnx")
    return replace(result, details=result.details | {"figure": figure})


def _train_folds(options: Options, results: Path, **place: Any) -> list[tuple[Run, Path]]:
    """Train without each fold of the prepared images; return the runs, and the folders that say what they left out."""
    folds = sorted((results / "data").glob("fold*"))
    tests = [(describe(user_folder.read_prepared(fold), options), fold) for fold in folds]
    for number, (run, fold) in enumerate(tests, start=1):
        loop.LOGGER.info(f"cross-validation: training {number} of {len(tests)}, and then that of the model")
        train_run(run, results=results, data_root=fold, **place)
    return tests


def _earlier(out: Path) -> dict[str, Any]:
    """Return the model.json of an earlier training in a folder, with its run as a `Run`; empty without one."""
    path = out / "model.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return content | {"run": Run.from_dict(content["run"]), "classes": tuple(content["classes"])}
    except Exception as error:  # any field may hold anything
        raise ValueError(f"{path} is damaged ({error}); delete it to train from the start") from error


def _begin(run: Run, data: user_folder.Prepared, earlier: dict[str, Any], out: Path) -> tuple[Run, str]:
    """Return the run with the weights that it begins with, those of the earlier training where its labels were others.

    They are copied to the results, and a sentence says where the training begins.
    """
    if not earlier:
        return run, "a new training"
    before: Run = earlier["run"]
    kept = replace(before, label_options=tuple(pair for pair in before.label_options if pair[0] != "start"))
    if kept == run:
        return before, "these images and labels have been trained on"
    if dict(kept.label_options) == dict(run.label_options):
        return run, "starting from the beginning, as the options are others than before"
    same = (before.network, before.network_options) == (run.network, run.network_options)
    if not same or earlier["classes"] != data.names:
        return run, "starting from the beginning, as the network or the classes are others than before"
    content = (out / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    atomic_files.write(weights.own_start(out / "training", sha256), content)
    options = tuple({**dict(run.label_options), "start": sha256}.items())
    return replace(run, label_options=options), f"going on from the weights of the earlier training in {out}"


def replace_folder(new: Path, old: Path) -> None:
    """Put a complete folder into the place of another one."""
    if old.exists():
        shutil.rmtree(old)
    os.replace(new, old)


def summary(data: user_folder.Prepared, run: Run) -> Iterator[str]:
    """Yield lines about the training: its images, the labels of each class, its network and its length."""
    truth = "dense masks" if data.dense else "their labels"
    overlap = " (the training images themselves: label more)" if set(data.validation) <= set(data.train) else ""
    yield f"{len(data.train)} images to learn from, {len(data.validation)} to validate on by {truth}{overlap}"
    for name, pixels, images in zip(data.names, data.labeled_pixels, data.labeled_images, strict=True):
        yield f"  {_count(name, pixels, images)}"
    loss = "partial cross-entropy (AGMM if labels are complete)" if run.method == "Baseline" else run.method
    steps = (run.train_images or 0) // run.batch_size
    yield f"{run.network} network, {loss}, {run.epochs} epochs of {steps} steps"


def _count(name: str, pixels: int, images: int) -> str:
    return f"{name}: {pixels} labeled pixels in {images} images{'' if pixels else ': it will never be predicted'}"


def _tested(run: Run, folder: Path, results: Path) -> tuple[Model, Split | None]:
    """Return the model of a complete run, and the images with labels that it has not learned from, if there are any."""
    data = user_folder.read_prepared(folder)
    net = weights.load_network(run, results, len(data.names), torch.device("cpu"))
    model = Model(net, data.names, data.background, data.side, normalization(run), torch.device("cpu"))
    return model, None if set(data.validation) <= set(data.train) else user_folder.load(folder, "test")


def _write_model(
    run: Run,
    data: user_folder.Prepared,
    result: Result,
    out: Path,
    tests: list[tuple[Model, Split | None]],
    what: str,
) -> str:
    """Write the model and its report; return the figure of the models that were tested, and what it was measured on."""
    folder = run.folder(out / "training")
    for name in ("model.safetensors", "log.txt"):
        atomic_files.write(out / name, (folder / name).read_bytes())
    learned = {data.images[stem] for stem in data.train}
    if "start" in dict(run.label_options):
        learned |= {*_earlier(out).get("images", ())}
    model: dict[str, Any] = {"classes": data.names, "background": data.background, "side": data.side}
    model |= {"run": run.to_dict(), "network": result.details["network"], "images": sorted(learned)}
    model |= {"scales": data.scales} if data.scales else {}
    atomic_files.write_json(out / "model.json", model)
    if data.dense:
        measured = f"{len(data.validation)} images, dense masks"
        table, figure = iou_table(data.names, result.iou, measured), f"mean IoU {result.miou:.1f} ({measured})"
    else:
        table, figure = labels_right([(one, test) for one, test in tests if test is not None], data.names, what)
    table.insert(2, "labeled_pixels", [*data.labeled_pixels, sum(data.labeled_pixels)])
    table.insert(3, "labeled_images", [*data.labeled_images, len(data.train)])
    atomic_files.write_text(out / "report.csv", table.to_csv(index=False))
    return figure


# --- Check ------------------------------------------------------------------------------------------------------------


def check(
    images: str | Path,
    labels: str | Path,
    classes: str | Path,
    truth: str | Path | None = None,
    fill_background: bool = False,
) -> tuple[list[str], list[str]]:
    """Read a folder as `train` would, and return problems and notes.

    A problem is a mistake to correct; notes are numbers of images and of labels of each class, and what looks odd.
    """
    try:
        listed = user_folder.survey(images, labels, classes, truth, fill_background)
    except ValueError as error:
        return [str(error)], []
    tally = user_folder.Tally()
    for sample in user_folder.render(listed, CPU_SIDE):
        tally.add(sample)
        if sample.problem:
            listed.problems.append(sample.problem)
    tally.judge(listed)
    for stem in sorted(listed.images.keys() - set(listed.labeled) - listed.truth.keys()):
        try:
            pictures.read(listed.images[stem], listed.scales)
        except ValueError as error:
            listed.problems.append(str(error))
    return listed.problems, [*_numbers(listed, tally), *listed.notes]


def _numbers(listed: user_folder.Survey, tally: user_folder.Tally) -> Iterator[str]:
    labeled, counts = len(listed.labeled), np.array([np.zeros(VOID + 1, int), *tally.labels.values()])
    yield f"{len(listed.images)} images, {labeled} with labels, {len(listed.truth)} with dense masks"
    for code, name in enumerate(listed.names):
        yield f"  {_count(f'{name} (code {code})', counts[:, code].sum(), (counts[:, code] > 0).sum())}"
    if labeled < 10:
        yield f"only {labeled} labeled images: validation means little; label more, a few clicks each"


# --- Example ----------------------------------------------------------------------------------------------------------


def write_example(folder: Path, count: int = 40) -> dict[str, Path]:
    """Write embedded images with clicks and a few others with dense truth, as an annotator would have left them.

    ``folder`` receives ``images/``, ``clicks.csv`` (a click for each object, a few for the background), ``names.txt``,
    and a quarter as many images in ``new/`` with masks in ``truth/``. Return the paths under the names images, labels,
    classes, new and truth.
    """
    paths = {"images": folder / "images", "labels": folder / "clicks.csv", "classes": folder / "names.txt"}
    paths |= {name: folder / name for name in ("new", "truth")}
    for name in ("images", "new", "truth"):
        paths[name].mkdir(parents=True, exist_ok=True)
    clicked, new = SHAPES.make("train", count), SHAPES.make("test", max(1, count // 4))
    paths["classes"].write_text("\n".join(clicked.class_names) + "\n", encoding="utf-8")
    for split, images in ((clicked, paths["images"]), (new, paths["new"])):
        for stem, image in zip(split.ids, split.images, strict=True):
            Image.fromarray(image).save(images / f"{stem}.png")
    for stem, mask in zip(new.ids, new.truth, strict=True):
        image_files.write_index(paths["truth"] / f"{stem}.png", mask)
    with open(paths["labels"], "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(annotations.COLUMNS)
        for index, stem in enumerate(clicked.ids):
            rows.writerows((f"{stem}.png", x + 0.5, y + 0.5, name) for x, y, name in _clicks(clicked, index))
    return paths


def _clicks(split: Split, index: int) -> list[tuple[int, int, str]]:
    assert split.instances is not None
    rng = generator(0, split.dataset, split.ids[index], "points")
    drawn = simulate("points", split.truth[index], rng, instances=split.instances[index], width=1)
    return [(x, y, split.class_names[drawn[y, x]]) for y, x in np.argwhere(drawn < UNLABELED).tolist()]

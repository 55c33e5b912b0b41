"""Malformed inputs, one at a time, through the command lines: exit code 2, one sentence that names the file, no output.

A reader joins by a `Door`: what its sound tree looks like, which file is spoiled, the faults, and how it is called.
"""

import argparse
import contextlib
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import run_all
from agmm import cli, own
from agmm.own import options as own_options
from agmm.own import training as own_training
from agmm.training import sweep
from tests import layouts
from tests.faults import corpus
from tests.faults.common import Tally, complaint, in_process
from tests.helpers import ROOT

Call = Callable[[Path, Path], tuple[int, str]]
"""Folder of the inputs and folder of the outputs to exit code and complaints."""


@dataclass(frozen=True)
class Door:
    """A way in for files of users: ``make`` writes a sound tree, in which ``file`` is spoiled.

    At a ``readable`` door malformed content may be read all the same, as pixels that changed are pixels.
    """

    name: str
    make: Callable[[Path], object]
    file: str
    faults: Mapping[str, corpus.Fault]
    call: Call
    readable: bool = False


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """Every fault at every door; random bytes may be read, as pixels, as long as nothing breaks."""
    chance = random.Random(args.seed)
    refused = 0
    for door in doors():
        sound = work / "sound"
        shutil.rmtree(sound, ignore_errors=True)
        sound.mkdir()
        door.make(sound)
        ended = _try(door, sound, work, lambda content, _: content, chance)
        if ended[0] != 0:
            raise RuntimeError(f"{door.name} is refused before anything is spoiled: {ended}")
        for fault, spoil in door.faults.items():
            code, problem = _try(door, sound, work, spoil, chance)
            refused += code == 2
            tally.add(door.name, problem and f"{fault}: {problem}")
    print(f"  {refused} malformed inputs were refused, {tally.total - refused} were read all the same", flush=True)
    for problem in wrong_calls(args.seed, 500):
        tally.add("loss", problem)


def wrong_calls(seed: int, count: int) -> list[str | None]:
    """What is wrong with each of some calls of losses, which are made in a process that one of them might end."""
    command = [sys.executable, "-m", "tests.test_wrong_calls", str(count * seed), str(count)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    wrong = [line for line in process.stdout.splitlines() if not line.startswith("seed")]
    wrong += [f"exit code {process.returncode}: {process.stderr[-300:]}"] if process.returncode else []
    return [*wrong, *[None] * count][:count]


def _try(door: Door, sound: Path, work: Path, spoil: corpus.Fault, chance: random.Random) -> tuple[int, str | None]:
    """Spoil one file, call, and look at what is said and what is left."""
    root, out = work / "inputs", work / "outputs"
    for folder in (root, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, root)
    path = root / door.file
    path.write_bytes(spoil(path.read_bytes(), chance))
    before = _files(root)
    try:
        code, said = door.call(root, out)
    except Exception as error:
        return -1, f"{type(error).__name__}: {error}"
    finally:
        escaped = [file for file in (corpus.ESCAPED, Path(corpus.Touch.path), work / "escaped") if file.exists()]
        for file in escaped:
            file.unlink()
    if escaped:
        return code, f"{escaped[0]} was written"
    if code == 0 and door.readable:
        return code, said or None
    if code != 2:
        return code, f"exit code {code}: {said[-300:]}"
    left = sorted(_files(root) ^ before) + sorted(file for file in _files(out) if file.name != "results")
    # Where content may be legal, the folder may be what is wrong: nothing is labeled in it.
    named = path.name if path.name in said or not door.readable else path.parent
    return code, complaint(said, named) or (f"{left[0]} is left" if left else None)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def doors() -> Iterator[Door]:
    pictures = corpus.ANY | corpus.PICTURES
    masks = pictures | corpus.MASKS
    lists = {"noise": corpus.ANY["noise"], "UTF-16": corpus.JSON["UTF-16"]}
    wild = {f"random bytes {i}": corpus.overwritten for i in range(12)}
    camvid = _table("camvid", "agmm_table1")
    yield Door("CamVid image", _camvid, "train/a.png", pictures, camvid)
    yield Door("CamVid mask", _camvid, "trainannot/a.png", masks, camvid)
    yield Door("CamVid image, legal or nearly", _camvid, "val/a.png", corpus.LEGAL | wild, camvid, readable=True)
    yield Door("CamVid mask, nearly legal", _camvid, "valannot/a.png", wild, camvid, readable=True)
    tables_of_voc, folder, name = _table("paper", "agmm_table1"), "VOCdevkit/VOC2012", layouts.VOC_TRAIN[0]
    yield Door("VOC image", _voc, f"{folder}/JPEGImages/{name}.jpg", pictures, tables_of_voc)
    yield Door("VOC mask", _voc, f"{folder}/SegmentationClass/{name}.png", masks, tables_of_voc)
    yield Door("SBD mask", _voc, f"benchmark_RELEASE/dataset/cls/{layouts.SBD_TRAIN[2]}.mat", corpus.ANY, tables_of_voc)
    yield Door("VOC list", _voc, f"{folder}/ImageSets/Segmentation/val.txt", lists, tables_of_voc)
    yield Door(
        "VOC boxes",
        _voc,
        f"{folder}/Annotations/{name}.xml",
        corpus.ANY | corpus.XML | corpus.SIZES | corpus.BOXES,
        tables_of_voc,
    )
    clicks = corpus.ANY | corpus.JSON | corpus.CLICKS
    yield Door("clicks", _voc, "voc_whats_the_point.json", clicks, tables_of_voc)
    scribbles = corpus.ANY | corpus.XML | corpus.SIZES | corpus.SCRIBBLES
    yield Door("scribbles", _voc, f"scribbles/scribblesup/{name}.xml", scribbles, tables_of_voc)
    yield Door("published points", _voc, f"points/agmm_voc/{name}.png", masks, tables_of_voc)
    json_faults = corpus.ANY | corpus.JSON
    coco, parts = (_agmm("masks", name, "{root}", "--jobs", 1) for name in ("coco", "densepose"))
    yield Door("COCO annotations", _coco, "annotations/instances_train2014.json", json_faults | corpus.COCO, coco)
    dense = "annotations/densepose_coco_2014_train.json"
    yield Door("DensePose annotations", _densepose, dense, json_faults, parts)
    yield from _own_doors(pictures, masks)


def _own_doors(pictures: Mapping[str, corpus.Fault], masks: Mapping[str, corpus.Fault]) -> Iterator[Door]:
    """Images of one's own, with labels in all formats: what a reader refuses, and what may be read all the same."""
    # These doors read what those of data sets do not.
    pictures = {name: fault for name, fault in pictures.items() if name != "16 bits"}
    texts = {"noise": corpus.ANY["noise"], "UTF-16": corpus.JSON["UTF-16"]}
    formats: dict[str, tuple[str, Mapping[str, corpus.Fault], corpus.Fault]] = {
        "24-labelme-circle-and-mask": ("labels/a.json", corpus.ANY | corpus.JSON, corpus.changed_json),
        "18-coco-run-lengths": ("labels/instances.json", corpus.ANY | corpus.JSON, corpus.changed_json),
        "09-coco-keypoints-all-zero": ("labels/person_keypoints.json", {}, corpus.changed_json),
        "11-cvat-z-order": ("labels/annotations.xml", corpus.ANY | corpus.XML, corpus.changed_xml),
        "29-csv-empty-rows": ("labels/clicks.csv", texts, corpus.changed_text),
        "49-colored-masks-of-cvat": ("labels/labelmap.txt", texts, corpus.changed_text),
    }
    for case, (file, faults, change) in formats.items():
        make, changes = partial(_case, case), {f"change {i}": change for i in range(40)}
        yield Door(f"check {case[3:]}", make, file, faults, _check)
        yield Door(f"check {case[3:]}, nearly legal", make, file, changes, _check, readable=True)
        yield Door(f"train {case[3:]}, nearly legal", make, file, changes, _train, readable=True)
    for name, call in (("check", _check), ("train", _train)):
        yield Door(f"{name} image", partial(_case, "29-csv-empty-rows"), "images/a.png", pictures, call)
        yield Door(f"{name} mask", partial(_case, "44-scribble-masks-with-0-for-nothing"), "labels/a.png", masks, call)
    yield Door("class names", partial(_case, "29-csv-empty-rows"), "names.txt", texts, _check)
    yield Door("train on", _model, "model/model.json", corpus.ANY | corpus.JSON, _train_on)
    yield Door("predict image", _model, "images/a.png", pictures, _predict)
    yield Door("predict with a model", _model, "model/model.json", corpus.ANY | corpus.JSON, _predict)
    yield Door("predict with weights", _model, "model/model.safetensors", corpus.ANY | corpus.SAFETENSORS, _predict)


FOLDERS = ("--images", "{root}/images", "--labels", "{root}/labels", "--classes", "{root}/names.txt")


def _check(root: Path, out: Path) -> tuple[int, str]:
    """The first problem; `agmm check` prints all of them among its notes."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(["check", *(word.format(root=root) for word in FOLDERS)])
    problems = [line for line in said.getvalue().splitlines() if line.startswith("problem: ")]
    return code, next(iter(problems), "")


def _train(root: Path, out: Path) -> tuple[int, str]:
    """All that comes before the training itself."""
    with mock.patch.object(own_training, "train_run", side_effect=SystemExit(0)):
        code, said = _agmm("train", *FOLDERS, "--out", str(out / "model"), "--device", "cpu")(root, out)
    return code, said if code else ""


def _train_on(root: Path, out: Path) -> tuple[int, str]:
    """Train once more in the folder of a model."""
    return _train(root, root)


def _predict(root: Path, out: Path) -> tuple[int, str]:
    options = ("--model", "{root}/model", "--images", "{root}/images", "--device", "cpu")
    code, said = _agmm("predict", *options, "--out", str(out))(root, out)
    return code, said if code else ""


def _case(name: str, root: Path) -> None:
    """A folder of the tests' cases; images that it lacks are gray."""
    shutil.copytree(ROOT / "tests" / "cases" / name, root, dirs_exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for mask in sorted((root / "right").iterdir()):
        if not list((root / "images").glob(f"{mask.stem}.*")):
            Image.new("RGB", Image.open(mask).size, "gray").save(root / "images" / f"{mask.stem}.png")


def _model(root: Path) -> None:
    _case("29-csv-empty-rows", root)
    shutil.rmtree(root / "model", ignore_errors=True)
    with mock.patch.object(own_options, "EPOCH_STEPS", 1):
        own.train(root / "images", root / "labels", root / "names.txt", root / "model", own.Options(steps=1, side=32))


def _table(preset: str, table: str) -> Call:
    """The tables' command, which checks all files first; what it would do then is left out."""

    def call(root: Path, out: Path) -> tuple[int, str]:
        nothing = mock.patch.object(sweep, "train_all", return_value={})
        with nothing, mock.patch.object(run_all, "write", return_value=0):
            args = ("--preset", preset, "--only", table, "--seeds", 1, "--device", "cpu", "--no-notebooks")
            return in_process(run_all.main, *args, "--data-root", root, "--results", out)

    return call


def _agmm(*words: object) -> Call:
    return lambda root, out: in_process(cli.main, *(str(word).format(root=root) for word in words))


def _camvid(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            for part, shape in ((split, (24, 32, 3)), (f"{split}annot", (24, 32))):
                layouts.save_index(root / part / f"{name}.png", rng.integers(0, 12, shape))


def _voc(root: Path) -> None:
    layouts.WRITERS["voc"](root)
    layouts.write_scribbles(root, *layouts.TRAIN_AUG)
    for image in layouts.TRAIN_AUG:
        labels = np.random.default_rng(0).integers(0, 21, layouts.size(image), dtype=np.uint8)
        layouts.save_index(root / "points" / "agmm_voc" / f"{image}.png", labels)


_coco, _densepose = partial(layouts.coco, masks=False), partial(layouts.densepose, masks=False)

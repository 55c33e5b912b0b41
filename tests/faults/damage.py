"""Files of a results folder that are truncated, emptied, swapped, edited by hand, or of another version."""

import argparse
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agmm.papers import tables
from agmm.training import run as runs
from agmm.training import sweep
from agmm.training.result import load_history
from agmm.training.where import Where
from tests.faults.common import PER_RUN, TABLE, Tally, again, complaint, different, essence
from tests.faults.corpus import ANY, Fault, Touch, checkpoint
from tests.helpers import interrupt

Damage = Callable[[Path, random.Random], object]


def spoiled(fault: Fault) -> Damage:
    return lambda path, chance: path.write_bytes(fault(path.read_bytes(), chance))


def copied(source: Path) -> Damage:
    return lambda path, _: shutil.copy(source, path)


def flip(path: Path, chance: random.Random) -> None:
    """Another byte among the first 64, where formats keep what they say of themselves."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(min(64, len(content)))] ^= 255
    path.write_bytes(content)


def hostile(path: Path, chance: random.Random) -> None:
    path.write_bytes(pickle.dumps(Touch(path.with_name("touched"))))


_BYTES = ("truncated", "truncated elsewhere", "truncated once more", "empty", "noise")
BYTES: dict[str, Damage] = {name: spoiled(ANY[name]) for name in _BYTES} | {"hostile": hostile}
EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field": lambda plain: plain | {"loss": 0.5},
    "a missing field": lambda plain: dict(list(plain.items())[1:]),
    "the last field missing": lambda plain: dict(list(plain.items())[:-1]),
    "a list": lambda plain: [plain],
    "null": lambda plain: None,
    "a number": lambda plain: 7,
}
RESULT_EDITS = EDITS | {
    "mIoU in words": lambda plain: plain | {"miou": "high"},
    "mIoU NaN": lambda plain: plain | {"miou": float("nan")},
    "mIoU null": lambda plain: plain | {"miou": None},
    "no IoU": lambda plain: plain | {"iou": None},
    "another run": lambda plain: plain | {"run_id": "0123456789"},
}
RUN_EDITS = EDITS | {
    "another seed": lambda plain: plain | {"seed": 5},
    "more epochs": lambda plain: plain | {"epochs": 50},
    "another method": lambda plain: plain | {"method": "Nonsense"},
    "epochs in words": lambda plain: plain | {"epochs": "two"},
}


def run(work: Path, tally: Tally, args: argparse.Namespace) -> None:
    """Every damage to every kind of file: either repaired or one sentence that names it."""
    chance = random.Random(args.seed)
    needed = tables.needed([TABLE], "smoke", 1)
    for group in (_complete, _curves, _weights, _checkpoints, _caches):
        for kind, problem in group(work, needed, chance):
            tally.add(kind, problem)


def _copy(work: Path, source: str = "whole") -> Path:
    results = work / "damaged"
    shutil.rmtree(results, ignore_errors=True)
    shutil.copytree(work / source, results)
    return results


def _hidden(results: Path) -> str | None:
    return "code was run" if list(results.rglob("touched")) else None


def _complete(work: Path, needed: list[runs.Run], chance: random.Random) -> Iterator[tuple[str, str | None]]:
    """result.json and run.json of complete runs, through the command."""
    edits = [(name, *damage) for name in ("result.json", "run.json") for damage in BYTES.items()]
    for name, table in (("result.json", RESULT_EDITS), ("run.json", RUN_EDITS)):
        edits += [(name, what, lambda path, _, edit=edit: _edit(path, edit)) for what, edit in table.items()]
        edits.append((name, "of another run", lambda path, _: shutil.copy(_other(path), path)))
    for name, what, damage in edits:
        results = _copy(work)
        path = needed[chance.randrange(len(needed))].folder(results) / name
        damage(path, chance)
        code, said = again(results)
        problem = _hidden(results)
        if code == 0 and not problem:
            problem = different(results, work / "whole")
        elif not problem:
            problem = complaint(said, path) or (None if code == 2 else f"exit code {code}")
        yield f"{name} damaged", problem and f"{what}: {problem}"


def _other(path: Path) -> Path:
    return next(other for other in sorted(path.parents[1].glob(f"*/{path.name}")) if other != path)


def _edit(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def _curves(work: Path, needed: list[runs.Run], chance: random.Random) -> Iterator[tuple[str, str | None]]:
    """history.csv, which figures and some tables read."""
    for damage in (*BYTES.values(), lambda path, _: path.write_text("epoch\na\n")):
        results = _copy(work)
        path = needed[-1].folder(results) / "history.csv"
        before = essence(path)
        damage(path, chance)
        try:
            load_history(needed[-1], results)
            problem = None if essence(path) == before else "read as if nothing had happened"
        except ValueError as error:
            problem = complaint(str(error), path)
        yield "history.csv damaged", problem or _hidden(results)


def _weights(work: Path, needed: list[runs.Run], chance: random.Random) -> Iterator[tuple[str, str | None]]:
    """The weights that another run starts from."""
    last = needed[-1]
    swap = copied(last.folder(work / "whole") / "model.safetensors")
    for damage in (*BYTES.values(), flip, flip, swap, lambda path, _: path.unlink()):
        results = _copy(work)
        shutil.rmtree(last.folder(results))
        path = last.pretraining.folder(results) / "model.safetensors"
        damage(path, chance)
        yield "model.safetensors damaged", _trained(results, work, last, path)


def _checkpoints(work: Path, needed: list[runs.Run], chance: random.Random) -> Iterator[tuple[str, str | None]]:
    last, other = needed[-1], needed[-2]
    begun = work / "begun"
    for one in (last, other):
        shutil.copytree(last.pretraining.folder(work / "whole"), last.pretraining.folder(begun), dirs_exist_ok=True)
        interrupt(one, begun)
    swap, as_it_is = copied(other.folder(begun) / "checkpoint.pt"), spoiled(lambda sound, _: sound)
    aliens = [spoiled(lambda *_, alien=alien: checkpoint(alien)) for alien in ({"net": {}, "history": 3}, [1])]
    for damage in (*BYTES.values(), swap, *aliens, as_it_is):
        results = _copy(work, "begun")
        path = last.folder(results) / "checkpoint.pt"
        damage(path, chance)
        yield "checkpoint.pt damaged", _trained(results, work, last, path)


def _caches(work: Path, needed: list[runs.Run], chance: random.Random) -> Iterator[tuple[str, str | None]]:
    """Generated data and simulated labels."""
    files = sorted(path for path in (work / "whole" / "cache").iterdir() if path.suffix != ".lock")
    last = needed[-1]
    for file, other in zip(files, [files[-1], *files], strict=False):
        for damage in (*BYTES.values(), flip, copied(other)):
            results = _copy(work)
            shutil.rmtree(last.folder(results))
            path = results / "cache" / file.name
            damage(path, chance)
            yield "cache damaged", _trained(results, work, last, path)


def _trained(results: Path, work: Path, one: runs.Run, path: Path) -> str | None:
    """Train what is missing: the same bits, or one sentence that names the file."""
    said = sweep._train(one, Where(results, device="cpu"))
    if said is not None:
        return complaint(said, path) or _hidden(results)
    for name in PER_RUN:
        if essence(one.folder(results) / name) != essence(one.folder(work / "whole") / name):
            return f"{name} is another one after damage to {path.name}"
    return _hidden(results)

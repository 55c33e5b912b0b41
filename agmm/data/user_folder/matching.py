"""Which image a name means: images are their paths below their folder, and label files may say more or less of them."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agmm.data.annotations import SUFFIXES

WRITTEN = ("classes.csv", "training/data/data.json")
"""What a folder that `predict` or `train` has written holds: its images are none of the user's."""


@dataclass(frozen=True)
class Name:
    """A path of an image, or the end of one."""

    parts: tuple[str, ...]  # folders, and the file's name without ending, in Unicode's composed form (NFC)
    ending: str = ""  # of an image, in lower case; any other one is part of the name

    @property
    def id(self) -> str:
        """The path without ending, which is what an image is called."""
        return "/".join(self.parts)


def name_of(path: str | Path) -> Name:
    """Read a name with folders of any system in front, and with or without the ending of an image."""
    text = unicodedata.normalize("NFC", str(path)).strip().replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".", "..")] or [""]
    ending = PurePosixPath(parts[-1]).suffix
    if ending.lower() not in SUFFIXES:
        ending = ""
    return Name((*parts[:-1], parts[-1].removesuffix(ending)), ending.lower())


def agree(one: Name, other: Name) -> bool:
    """Return whether two names may be those of one image: one is the end of the other, and no endings differ."""
    length = min(len(one.parts), len(other.parts))
    same = one.parts[-length:] == other.parts[-length:]
    return same and (one.ending == other.ending or not (one.ending and other.ending))


def united(one: Name, other: Name) -> Name:
    """Return all that two names which `agree` say."""
    return Name(max(one.parts, other.parts, key=len), one.ending or other.ending)


def by_last_part(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of images by their last part, as `meant` needs them."""
    found = defaultdict(list)
    for id in ids:
        found[id.rpartition("/")[2]].append(id)
    return found


def meant(name: Name, ids: Mapping[str, list[str]]) -> list[str]:
    """Return which of the ids (`by_last_part`) a name may mean: itself, else those that end like it furthest."""
    parts = {id: tuple(id.split("/")) for id in ids.get(name.parts[-1], ())}
    if name.id in parts:
        return [name.id]
    common = {id: min(len(of), len(name.parts)) for id, of in parts.items() if agree(Name(of), name)}
    return [id for id, length in common.items() if length == max(common.values())]


def below(folder: Path, apart: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the files of a folder and of the folders in it, sorted, without hidden ones and those set ``apart``."""
    left_out = {path.resolve() for path in apart}
    for where, folders, files in os.walk(folder):
        inner = (Path(where, name) for name in folders if not name.startswith((".", "__MACOSX")))
        folders[:] = sorted(path.name for path in inner if path.resolve() not in left_out and not _is_written(path))
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def _is_written(folder: Path) -> bool:
    return any((folder / name).exists() for name in WRITTEN)

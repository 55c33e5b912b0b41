"""Which image a name means: images are their paths below their folder, and label files may say more or less of them."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from agmm.data.annotations import SUFFIXES

WRITTEN = ("classes.csv", "training/data/data.json")
"""What a folder that `predict` or `train` has written holds: its images are none of the user's."""


def plain(path: str | Path) -> str:
    """Return a path as any system writes it with slashes, in Unicode's composed form (NFC), without dots in front."""
    parts = unicodedata.normalize("NFC", str(path)).strip().replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def id_of(path: str | Path) -> str:
    """Return what an image is called: its path without ending; an ending of no image is part of the name."""
    ending = PurePosixPath(plain(path)).suffix
    return plain(path).removesuffix(ending) if ending.lower() in SUFFIXES else plain(path)


def agree(one: str, other: str) -> bool:
    """Return whether two `plain` paths may be of one image: one is the end of the other, and no endings differ."""
    endings = {path[len(id_of(path)) :].lower() for path in (one, other)} - {""}
    short, long = sorted((id_of(one), id_of(other)), key=len)
    return len(endings) < 2 and f"/{long}".endswith(f"/{short}")


def by_end(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return ids by each of their ends, as `meant` needs them."""
    found: dict[str, list[str]] = {}
    for id in ids:
        parts = id.split("/")
        for start in range(len(parts)):
            found.setdefault("/".join(parts[start:]), []).append(id)
    return found


def meant(path: str | Path, ids: Mapping[str, list[str]]) -> list[str]:
    """Return which ids (`by_end`) a path may mean: itself, else all that end like it, else the longest end of it."""
    for whole in (id_of(path), plain(path)):  # the second is that of an image with two endings
        if alike := ids.get(whole):
            return [whole] if whole in alike else alike
        parts = whole.split("/")
        for end in ("/".join(parts[start:]) for start in range(1, len(parts))):
            if end in ids.get(end, ()):
                return [end]
    return []


def below(folder: Path, apart: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the files of a folder and of the folders in it, sorted, without hidden ones and those set ``apart``."""
    left_out = {path.resolve() for path in apart}
    for where, folders, files in os.walk(folder):
        inner = [Path(where, name) for name in sorted(folders) if not name.startswith((".", "__MACOSX"))]
        written = {path for path in inner for name in WRITTEN if (path / name).exists()}
        folders[:] = [path.name for path in inner if path.resolve() not in left_out and path not in written]
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))

"""Archives of public data sets: fetched from their official homes, checked, extracted; only ever on a user's command.

``agmm download voc --data-root DIR`` fetches 3.4 GB from the homes of VOC and SBD, ``coco`` 20 GB from that of COCO, of
which masks are made, ``ade20k`` 1.0 GB from that of the scene parsing benchmark; ``cityscapes`` extracts what you
downloaded. A download that broke off goes on where it stopped. What is there already is left alone; an archive that was
fetched goes once it is extracted, unless ``--keep-archives`` is given. ``agmm download weights`` fills timm's cache.
"""

import argparse
import gzip
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from agmm.data import sets
from agmm.data.public import masks
from agmm.data.public.scenes import CITYSCAPES_ARCHIVES
from agmm.host import atomic_files

_CHUNK = 1 << 18
_TIMEOUT = 60  # seconds without a byte
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


@dataclass(frozen=True)
class Archive:
    """A file at its official home."""

    url: str
    md5: str  # published checksum; empty where the user downloads the file, whose name the address is
    holds: str  # the folder in it that is wanted
    below: str = "."  # where this folder goes below the data root

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rsplit("/", 1)[-1]


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012"
_SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_ADE = "http://data.csail.mit.edu/places/ADEchallenge"
_COCO = "http://images.cocodataset.org"  # has no certificate of its own; checksums do
ARCHIVES = {
    "voc": (
        Archive(f"{_VOC}/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd", "VOCdevkit/VOC2012"),
        Archive(f"{_SBD}/benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb", "benchmark_RELEASE"),
    ),
    "cityscapes": tuple(Archive(name, "", name.split("_")[0]) for name in CITYSCAPES_ARCHIVES),
    "coco": (
        Archive(f"{_COCO}/annotations/annotations_trainval2014.zip", "0a379cfc70b0e71301e0f377548639bd", "annotations"),
        Archive(f"{_COCO}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "train2014", "coco2014"),
        Archive(f"{_COCO}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "val2014", "coco2014"),
    ),
    "ade20k": (
        Archive(f"{_ADE}/ADEChallengeData2016.zip", "7328b3957e407ddae1d3cbf487f149ef", "ADEChallengeData2016"),
    ),
}
"""Archives of each data set; those of Cityscapes, which can be downloaded after logging in only, have no address."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``agmm download``."""
    parser.add_argument("dataset", choices=(*ARCHIVES, "weights"), help="weights: those of ImageNet")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder to write to; weights need none")
    parser.add_argument("--keep-archives", action="store_true", help="leave what was fetched beside what it held")


def command(args: argparse.Namespace) -> int:
    """Get the data set that ``agmm download`` asks for."""
    if args.dataset == "weights":
        get_weights()
        return 0
    if args.data_root is None:
        raise ValueError(f"agmm download {args.dataset} needs --data-root, the folder to write to")
    with atomic_files.writable(args.data_root, "--data-root"):
        get(args.dataset, args.data_root, args.keep_archives)
    return 0


def get_weights() -> None:
    """Load the ImageNet weights of every network that has any, which fetches those that timm's cache lacks.

    No revision of them is documented: whoever trains records their sha256 (`agmm.training.weights.remember`).
    """
    from agmm import networks  # here, as it loads torch

    for name in ("lite0", *networks.DEEP_STEM, "vit_base"):
        for options in [{"weights": one} for one in networks.VIT_WEIGHTS] if name == "vit_base" else [{}]:
            _say(f"{name}: {networks.build(name, 2, init='imagenet', **options).provenance}")


def get(dataset: str, root: Path, keep_archives: bool = False) -> None:
    """Fetch and extract what is missing of a data set below ``root``; make the masks of COCO."""
    for archive in ARCHIVES[dataset]:
        target = root / archive.below / archive.holds
        if target.exists():
            _say(f"{target} is there already; remove it to extract it again")
            continue
        file = root / archive.name
        if archive.md5:
            file = fetch(archive, root)
        elif not file.is_file():
            raise sets.PUBLIC[dataset].missing(f"no file {file}", root)
        extract(file, root / archive.below, archive.holds)
        _say(f"extracted {target}")
        if archive.md5 and not keep_archives:
            file.unlink()
    if dataset == "coco":
        masks.make("coco", root)
    training, test = (len(sets.PUBLIC[dataset].load(root, split)) for split in ("train", "val"))
    _say(f"{training} training and {test} test images are in place")


def _say(line: str) -> None:
    print(line, flush=True)


def fetch(archive: Archive, folder: Path, *, tries: int = 5, pause: float = 2) -> Path:
    """Download an archive to ``folder`` unless it is there, resuming what broke off, and compare its checksum.

    Until the file is complete and checked its name ends in ``.part``. There are ``tries`` connections, the second after
    ``pause`` seconds, the pause doubled before each further one. ConnectionError if the server refuses or the
    connection breaks off too often (what has arrived is kept), ValueError if the file has not the published checksum.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    with FileLock(folder / f".{archive.name}.lock"):
        if target.exists():
            if _md5(target) != archive.md5:
                raise ValueError(f"{target} has not the published checksum; remove it to download it again")
            return target
        _receive(archive.url, part, tries, pause)
        if _md5(part) != archive.md5:
            part.unlink()
            raise ValueError(f"what {archive.url} sent has not the published checksum and was removed; try again later")
        os.replace(part, target)
    return target


def _receive(url: str, part: Path, tries: int, pause: float) -> None:
    problem = ""
    for i in range(tries):
        if i:
            _say(f"{part.stem}: {problem}; connecting again")
            time.sleep(pause * 2 ** (i - 1))
        have = part.stat().st_size if part.exists() else 0
        try:
            if _append(url, part, have):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # nothing was missing; the checksum decides
            problem = f"the server answered {error.code} {error.reason}"
            if error.code < 500:
                break
        except _BROKEN as error:
            problem = str(error.reason if isinstance(error, urllib.error.URLError) else error)
    raise ConnectionError(
        f"{url}: {problem}; try again later, what has arrived is kept, or put the file into {part.parent} yourself"
    )


def _append(url: str, part: Path, have: int) -> bool:
    """Receive what is missing after ``have`` bytes; true if the file is complete as far as the server tells."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT  # else the server sends all of it again
        done = have if resumed else 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else 0
        bar = tqdm(desc=part.stem, total=total or None, initial=done, unit="B", unit_scale=True, disable=None)
        with open(part, "ab" if resumed else "wb") as file, bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
    return done >= total


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def extract(path: Path, folder: Path, holds: str) -> Path:
    """Extract the folder ``holds`` of a tar or zip archive to ``folder``, whole or not at all; one that is there stays.

    ``folder`` is also where the archive's content lies while it is being extracted. ValueError if the archive is
    damaged, lacks the folder, or has a member that would leave it.
    """
    target, scratch = folder / holds, folder / f".{path.name}.extracting"
    if target.exists():
        return target
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        _unpack(path, scratch)
        if not (scratch / holds).is_dir():
            raise ValueError(f"{path} has no folder {holds}; is it the right archive?")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / holds, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _unpack(path: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                _check_members(path, zipped.infolist())
                zipped.extractall(folder)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{path} is refused: {error}; get it from its official home") from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(":")  # tarfile lists what each of its formats says
        raise ValueError(f"{path} cannot be extracted ({problem}); download it again") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Zip files have no counterpart of tar's data filter: refuse members that would leave the folder, and links."""
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in str(name) or stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{path} is refused: its member {member.filename!r} is a link or leaves the folder")
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(path.parent).free
    if needed > free:
        raise ValueError(f"{path} extracts to {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; make room first")

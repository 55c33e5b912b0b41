"""Downloads from a server in this process: interrupted, resumed, refused; archives that are damaged or hostile."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest

from agmm.data.public import download
from agmm.data.public.download import Archive
from agmm.data.public.scenes import CITYSCAPES_ARCHIVES
from tests import layouts
from tests.faults import corpus
from tests.helpers import one_sentence, tool

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves ``files``; each of the first ``cuts`` answers ends after that many bytes, however many were promised."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.resumes = True
        self.status = 200

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.ranges.append(asked)
        content = server.files.get(self.path.lstrip("/"))
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.resumes else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:]
        self.wfile.write(sent[: server.cuts.pop(0)] if server.cuts else sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def archive(server):
    server.files["data.tar"] = CONTENT
    return Archive(f"{server.url}/data.tar", hashlib.md5(CONTENT).hexdigest(), "data")


def fetch(archive, folder, tries=3):
    return download.fetch(archive, folder, tries=tries, pause=0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_addresses_and_checksums_are_those_of_torchvision():
    datasets = pytest.importorskip("torchvision.datasets")
    voc, sbd = datasets.voc.DATASET_YEAR_DICT["2012"], datasets.SBDataset
    theirs = [(voc["url"], voc["md5"], voc["filename"]), (sbd.url, sbd.md5, sbd.filename)]
    assert [(one.url, one.md5, one.name) for one in download.ARCHIVES["voc"]] == theirs


@pytest.mark.parametrize(
    ("cuts", "part", "resumes", "ranges"),
    [
        ([], b"", True, [None]),
        ([300_000, 200_000], b"", True, [None, "bytes=300000-", "bytes=500000-"]),
        ([300_000], b"", False, [None, "bytes=300000-"]),  # the server sends all again
        ([], CONTENT, True, [f"bytes={len(CONTENT)}-"]),
    ],
)
def test_a_broken_download_goes_on_where_it_stopped(server, archive, tmp_path, capsys, cuts, part, resumes, ranges):
    server.cuts, server.resumes = list(cuts), resumes
    if part:
        (tmp_path / "data.tar.part").write_bytes(part)
    for _ in range(2):
        assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ranges, "the second call asks for nothing"
    assert names(tmp_path) == {"data.tar"}
    assert capsys.readouterr().out.count("connecting again") == len(cuts)


def test_a_later_command_goes_on_as_well(server, archive, tmp_path):
    server.cuts = [300_000, 200_000]
    with pytest.raises(ConnectionError, match="data.tar: .*broke off.*; try again later, what has arrived is kept"):
        fetch(archive, tmp_path, tries=2)
    assert names(tmp_path) == {"data.tar.part"}
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_wrong_checksums_leave_nothing_behind(server, archive, tmp_path):
    server.files["data.tar"] = CONTENT[::-1]
    with pytest.raises(ValueError, match="data.tar sent has not the published checksum and was removed"):
        fetch(archive, tmp_path)
    assert names(tmp_path) == set()
    (tmp_path / "data.tar.part").write_bytes(b"of another file")
    server.files["data.tar"] = CONTENT
    with pytest.raises(ValueError, match="checksum"):
        fetch(archive, tmp_path)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_of_the_users_is_not_overwritten(server, archive, tmp_path):
    (tmp_path / "data.tar").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="data.tar has not the published checksum; remove it"):
        fetch(archive, tmp_path)
    assert (tmp_path / "data.tar").read_bytes() == b"damaged"
    assert server.ranges == []


def test_refusals_are_not_repeated_but_failures_are(server, archive, tmp_path):
    for server.status, said, requests in ((403, "403 Forbidden; try again", 1), (503, "503 Service Unavailable", 4)):
        with pytest.raises(ConnectionError, match=f"data.tar: the server answered {said}"):
            fetch(archive, tmp_path)
        assert len(server.ranges) == requests


def test_no_server(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(ConnectionError, match="refused; try again later, .* or put the file into .* yourself"):
        fetch(Archive(f"{url}/data.tar", "", "data"), tmp_path)


def packed(path, members):
    """A tar or zip archive, as its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_extracts_the_folder_that_is_wanted(tmp_path, name):
    path = packed(tmp_path / name, {"kit/data/one.txt": b"1", "kit/data/sub/two.txt": b"2", "README": b"no"})
    assert download.extract(path, tmp_path, "kit/data") == tmp_path / "kit" / "data"
    assert (tmp_path / "kit" / "data" / "sub" / "two.txt").read_bytes() == b"2"
    assert names(tmp_path) == {name, "kit"}
    (tmp_path / "kit" / "data" / "one.txt").write_bytes(b"mine")
    download.extract(path, tmp_path, "kit/data")
    assert (tmp_path / "kit" / "data" / "one.txt").read_bytes() == b"mine", "an existing folder is left alone"


@pytest.mark.parametrize("fault", corpus.ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, fault):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "archive").write_bytes(corpus.ARCHIVES[fault](b"", Random(0)))
    with one_sentence(ValueError, "archive"):
        download.extract(tmp_path / "root" / "archive", tmp_path / "root", "leftImg8bit")
    assert (names(tmp_path), names(tmp_path / "root")) == ({"root"}, {"archive"})
    assert not corpus.ESCAPED.exists()


def test_absolute_names_in_tar_files_stay_inside(tmp_path):
    (tmp_path / "root").mkdir()
    path = packed(tmp_path / "root" / "a.tar", {"data/ok": b"1", str(tmp_path / "escaped"): b"2"})
    download.extract(path, path.parent, "data")
    assert (names(tmp_path), names(path.parent)) == ({"root"}, {"a.tar", "data"})


def test_damaged_archives_leave_nothing_behind(tmp_path):
    noise = hashlib.shake_128(b"noise").digest(200_000)
    for name in ("cut.tar", "cut.tgz", "cut.zip", "flipped.zip"):
        content = packed(tmp_path / name, {"data/a": noise, "data/b": noise}).read_bytes()
        flipped = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
        (tmp_path / name).write_bytes(flipped if name == "flipped.zip" else content[:150_000])
    (tmp_path / "text.tar").write_text("hello")
    before = names(tmp_path)
    for name in before:
        with one_sentence(ValueError, f"{name} cannot be extracted .*; download it again"):
            download.extract(tmp_path / name, tmp_path, "data")
    assert names(tmp_path) == before


def test_other_archives_and_full_disks(tmp_path, monkeypatch):
    path = packed(tmp_path / "a.zip", {"other/a": b"1" * 1000})
    with pytest.raises(ValueError, match="a.zip has no folder data; is it the right archive"):
        download.extract(path, tmp_path, "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 1, 999))
    with pytest.raises(ValueError, match="a.zip extracts to 0.0 GB, 0.0 GB are free; make room first"):
        download.extract(path, tmp_path, "other")


@pytest.mark.filterwarnings("ignore:.* images, not")
@pytest.mark.parametrize("keep", [(), ("--keep-archives",)])
@pytest.mark.parametrize("name", ["voc", "coco", "ade20k"])
def test_from_archives(server, tmp_path, monkeypatch, capsys, name, keep):
    source, root = tmp_path / "source", tmp_path / "root"
    {"voc": layouts.voc, "coco": partial(layouts.coco, masks=False), "ade20k": layouts.ade20k}[name](source)
    archives = []
    for one in download.ARCHIVES[name]:
        path = packed(tmp_path / one.name, files_below(source / one.below, one.holds.split("/")[0]))
        server.files[one.name] = path.read_bytes()
        md5 = hashlib.md5(server.files[one.name]).hexdigest()
        archives.append(replace(one, url=f"{server.url}/{one.name}", md5=md5))
    monkeypatch.setitem(download.ARCHIVES, name, tuple(archives))
    for _ in range(2):
        assert tool(download, name, "--data-root", root, *keep) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "4 training and 2 test images are in place"
    assert len(server.ranges) == len(archives), "what is there is not fetched again"
    expected = {one.below if one.below != "." else one.holds.split("/")[0] for one in archives}
    expected |= {one.name for one in archives if keep} | ({"SegmentationClass"} if name == "coco" else set())
    assert names(root) == expected


def files_below(folder, top):
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / top).rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:.* images, not")
def test_cityscapes_from_archives_of_the_users(tmp_path, capsys):
    words = download, "cityscapes", "--data-root", tmp_path / "root"
    assert tool(*words) == 2
    said = capsys.readouterr().err
    assert "leftImg8bit_trainvaltest.zip; log in at www.cityscapes-dataset.com" in said
    assert said.count("\n") == 1
    layouts.write_cityscapes(tmp_path / "source")
    for name in CITYSCAPES_ARCHIVES:
        members = files_below(tmp_path / "source", name.split("_")[0])
        packed(tmp_path / "root" / name, members | {"license.txt": b"", "README": b""})
    assert tool(*words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 training and 1 test images are in place"
    assert tool(*words) == 0
    assert "is there already" in capsys.readouterr().out


def test_unwritable_roots_are_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        assert tool(download, "cityscapes", "--data-root", root) == 2
        said = capsys.readouterr().err
        assert "is in the way; choose another folder with --data-root" in said
        assert said.count("\n") == 1

"""Downloads from a server in this process: interrupted, resumed, refused; archives that are damaged or hostile."""

import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agmm.data.public import cityscapes, download
from agmm.data.public.download import Archive
from tests import layouts
from tests.helpers import tool

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
    lines = []
    return download.fetch(archive, folder, report=lines.append, tries=tries, pause=0), lines


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_addresses_and_checksums_are_those_of_torchvision():
    sbd = pytest.importorskip("torchvision.datasets").SBDataset
    published = pytest.importorskip("torchvision.datasets.voc").DATASET_YEAR_DICT["2012"]
    assert (download.SBD.md5, download.SBD.name) == (sbd.md5, sbd.filename)
    assert (download.VOC2012.md5, download.VOC2012.name) == (published["md5"], published["filename"])
    assert download.SBD.url == sbd.url
    assert download.VOC2012.url == published["url"]


# --- Downloads --------------------------------------------------------------------------------------------------------


def test_fetches_once(server, archive, tmp_path):
    path, lines = fetch(archive, tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == {"data.tar"}
    assert lines[-1] == "data.tar: 1 of 1 MB"
    assert fetch(archive, tmp_path)[0] == path
    assert server.ranges == [None]


def test_a_broken_download_goes_on_where_it_stopped(server, archive, tmp_path):
    server.cuts = [300_000, 200_000]
    path, lines = fetch(archive, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert sum("connecting again" in line for line in lines) == 2


def test_a_later_command_goes_on_as_well(server, archive, tmp_path):
    server.cuts = [300_000, 200_000]
    with pytest.raises(ConnectionError, match="data.tar: .*broke off.*; try again later, what has arrived is kept"):
        fetch(archive, tmp_path, tries=2)
    assert names(tmp_path) == {"data.tar.part"}
    assert fetch(archive, tmp_path)[0].read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_that_cannot_resume_sends_all_again(server, archive, tmp_path):
    server.cuts, server.resumes = [300_000], False
    assert fetch(archive, tmp_path)[0].read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_complete_part_needs_nothing_more(server, archive, tmp_path):
    (tmp_path / "data.tar.part").write_bytes(CONTENT)
    assert fetch(archive, tmp_path)[0].read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_wrong_checksums_leave_nothing_behind(server, archive, tmp_path):
    server.files["data.tar"] = CONTENT[::-1]
    with pytest.raises(ValueError, match="data.tar sent has not the published checksum and was removed"):
        fetch(archive, tmp_path)
    assert names(tmp_path) == set()

    (tmp_path / "data.tar.part").write_bytes(b"of another file")
    server.files["data.tar"] = CONTENT
    with pytest.raises(ValueError, match="checksum"):
        fetch(archive, tmp_path)
    assert fetch(archive, tmp_path)[0].read_bytes() == CONTENT


def test_a_damaged_file_of_the_users_is_not_overwritten(server, archive, tmp_path):
    (tmp_path / "data.tar").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="data.tar has not the published checksum; remove it"):
        fetch(archive, tmp_path)
    assert (tmp_path / "data.tar").read_bytes() == b"damaged"
    assert server.ranges == []


def test_refusals_are_not_repeated_but_failures_are(server, archive, tmp_path):
    server.status = 403
    with pytest.raises(ConnectionError, match="data.tar: the server answered 403 Forbidden; try again later"):
        fetch(archive, tmp_path)
    assert len(server.ranges) == 1
    server.status = 503
    with pytest.raises(ConnectionError, match="503 Service Unavailable"):
        fetch(archive, tmp_path)
    assert len(server.ranges) == 4


def test_no_server(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(ConnectionError, match="refused; try again later, .* or put the file into .* yourself"):
        fetch(Archive(f"{url}/data.tar", "", "data"), tmp_path)


# --- Archives ---------------------------------------------------------------------------------------------------------


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
    return path


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_extracts_the_folder_that_is_wanted(tmp_path, name):
    members = {"kit/data/one.txt": b"1", "kit/data/sub/two.txt": b"2", "README": b"no"}
    path = tmp_path / name
    zipped(path, members) if name == "a.zip" else tar(path, members, "w:gz" if name == "a.tgz" else "w")
    assert download.extract(path, tmp_path, "kit/data") == tmp_path / "kit" / "data"
    assert (tmp_path / "kit" / "data" / "sub" / "two.txt").read_bytes() == b"2"
    assert names(tmp_path) == {name, "kit"}
    (tmp_path / "kit" / "data" / "one.txt").write_bytes(b"mine")
    download.extract(path, tmp_path, "kit/data")
    assert (tmp_path / "kit" / "data" / "one.txt").read_bytes() == b"mine", "an existing folder is left alone"


def hostile_tar_parent(folder):
    return tar(folder / "a.tar", {"data/ok": b"1", "../escaped": b"2"})


def hostile_tar_link(folder):
    return tar(folder / "a.tar", {"data/link": "../..", "data/link/escaped": b"2"})


def hostile_tar_absolute_link(folder):
    return tar(folder / "a.tar", {"data/link": str(folder.parent)})


def hostile_zip_parent(folder):
    return zipped(folder / "a.zip", {"data/ok": b"1", "data/../../escaped": b"2"})


def hostile_zip_absolute(folder):
    return zipped(folder / "a.zip", {"data/ok": b"1", str(folder.parent / "escaped"): b"2"})


def hostile_zip_backslash(folder):
    return zipped(folder / "a.zip", {"data/ok": b"1", "..\\escaped": b"2"})


def hostile_zip_link(folder):
    link = zipfile.ZipInfo("data/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped(folder / "a.zip", {link: ".."})


@pytest.mark.parametrize(
    "make",
    [
        hostile_tar_parent,
        hostile_tar_link,
        hostile_tar_absolute_link,
        hostile_zip_parent,
        hostile_zip_absolute,
        hostile_zip_backslash,
        hostile_zip_link,
    ],
)
def test_hostile_archives_are_refused(tmp_path, make):
    folder = tmp_path / "root"
    folder.mkdir()
    path = make(folder)
    with pytest.raises(ValueError, match=f"{path.name} is refused: ") as error:
        download.extract(path, folder, "data")
    assert "\n" not in str(error.value)
    assert names(folder) == {path.name}
    assert names(tmp_path) == {"root"}


def test_absolute_names_in_tar_files_stay_inside(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    path = tar(folder / "a.tar", {"data/ok": b"1", str(tmp_path / "escaped"): b"2"})
    download.extract(path, folder, "data")
    assert names(tmp_path) == {"root"}
    assert names(folder) == {"a.tar", "data"}


def test_damaged_archives_leave_nothing_behind(tmp_path):
    noise = hashlib.shake_128(b"noise").digest(200_000)
    whole = [
        tar(tmp_path / "cut.tar", {"data/a": noise, "data/b": noise}),
        tar(tmp_path / "cut.tgz", {"data/a": noise, "data/b": noise}, "w:gz"),
        zipped(tmp_path / "cut.zip", {"data/a": noise}),
    ]
    for path in whole:
        path.write_bytes(path.read_bytes()[:150_000])
    flipped = zipped(tmp_path / "flipped.zip", {"data/a": noise})
    content = bytearray(flipped.read_bytes())
    content[1000] ^= 1
    flipped.write_bytes(content)
    (tmp_path / "text.tar").write_text("hello")
    for name in ("cut.tar", "cut.tgz", "cut.zip", "flipped.zip", "text.tar"):
        with pytest.raises(ValueError, match=f"{name} cannot be extracted .*; download it again") as error:
            download.extract(tmp_path / name, tmp_path, "data")
        assert "\n" not in str(error.value)
    assert names(tmp_path) == {"cut.tar", "cut.tgz", "cut.zip", "flipped.zip", "text.tar"}


def test_other_archives_and_full_disks(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {"other/a": b"1" * 1000})
    with pytest.raises(ValueError, match="a.zip has no folder data; is it the right archive"):
        download.extract(path, tmp_path, "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 1, 999))
    with pytest.raises(ValueError, match="a.zip extracts to 0.0 GB, 0.0 GB are free; make room first"):
        download.extract(path, tmp_path, "other")


# --- Whole data sets --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:VOC .* images, not")
def test_voc_from_its_archives(server, tmp_path):
    source, root, lines = tmp_path / "source", tmp_path / "root", []
    layouts.write_voc2012(source)
    layouts.write_sbd(source)
    root.mkdir()
    archives = []
    for one, kind in ((download.VOC2012, "w"), (download.SBD, "w:gz")):
        top = one.holds.split("/")[0]
        with tarfile.open(tmp_path / one.name, kind) as archive:
            archive.add(source / top, top)
        server.files[one.name] = (tmp_path / one.name).read_bytes()
        md5 = hashlib.md5(server.files[one.name]).hexdigest()
        archives.append(Archive(f"{server.url}/{one.name}", md5, one.holds))

    download.get_voc(root, report=lines.append, archives=tuple(archives))
    assert lines[-1] == "4 training and 2 test images are in place"
    assert names(root) == {"VOCdevkit", "benchmark_RELEASE", *(archive.name for archive in archives)}
    requests = len(server.ranges)
    download.get_voc(root, report=lines.append, archives=tuple(archives))
    assert len(server.ranges) == requests


@pytest.mark.filterwarnings("ignore:COCO .* images, not", "ignore:ADE20K .* images, not")
@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_from_zip_archives(server, tmp_path, name):
    source, root, lines = tmp_path / "source", tmp_path / "root", []
    if name == "coco":
        layouts.coco(source, masks=False)
        official, counts = download.COCO, "4 training and 2 test"
    else:
        layouts.ade20k(source)
        official, counts = (download.ADE20K,), "4 training and 2 test"
    root.mkdir()
    archives = []
    for one in official:
        inside = source / one.below
        members = {p.relative_to(inside): p.read_bytes() for p in (inside / one.holds).rglob("*") if p.is_file()}
        content = zipped(tmp_path / one.name, {str(path): data for path, data in members.items()}).read_bytes()
        server.files[one.name] = content
        archives.append(replace(one, url=f"{server.url}/{one.name}", md5=hashlib.md5(content).hexdigest()))
    for _ in range(2):
        download.GET[name](root, report=lines.append, archives=tuple(archives))
        assert lines[-1] == f"{counts} images are in place"
    assert len(server.ranges) == len(official)
    expected = {one.below if one.below != "." else one.holds for one in official} | {one.name for one in official}
    assert names(root) == expected | ({"SegmentationClass"} if name == "coco" else set())


@pytest.mark.filterwarnings("ignore:Cityscapes .* images, not")
def test_cityscapes_from_archives_of_the_users(tmp_path, capsys):
    words = download, "cityscapes", "--data-root", tmp_path / "root"
    assert tool(*words) == 2
    said = capsys.readouterr().err
    assert "leftImg8bit_trainvaltest.zip: no such file; log in at www.cityscapes-dataset.com" in said
    assert said.count("\n") == 1

    layouts.write_cityscapes(tmp_path / "source")
    for name in cityscapes.ARCHIVES:
        folder = tmp_path / "source" / name.split("_")[0]
        members = {str(p.relative_to(tmp_path / "source")): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        zipped(tmp_path / "root" / name, members | {"license.txt": b"", "README": b""})
    assert tool(*words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 training and 1 test images are in place"
    assert tool(*words) == 0
    assert "is there already" in capsys.readouterr().out


def test_unwritable_roots_are_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tool(download, "cityscapes", "--data-root", tmp_path / "file") == 2
    said = capsys.readouterr().err
    assert "choose another folder with --data-root" in said
    assert said.count("\n") == 1

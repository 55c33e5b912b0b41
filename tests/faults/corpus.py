"""Ways to spoil a file, by kind of file. Each takes the sound content and returns a malformed one."""

import io
import json
import math
import pickle
import random
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

Fault = Callable[[bytes, random.Random], bytes]


def truncated(sound: bytes, chance: random.Random) -> bytes:
    return sound[: chance.randrange(1, 1 + len(sound) // 2)]


def overwritten(sound: bytes, chance: random.Random) -> bytes:
    """A stretch of random bytes within; a few formats still read that."""
    start = chance.randrange(len(sound))
    return sound[:start] + chance.randbytes(16) + sound[start + 16 :]


ANY: dict[str, Fault] = {
    "empty": lambda sound, chance: b"",
    "one byte": lambda sound, chance: sound[:1],
    "noise": lambda sound, chance: chance.randbytes(300),
    "text": lambda sound, chance: b"<html><body>404 not found</body></html>\n",
    "zeros": lambda sound, chance: bytes(len(sound)),
    **dict.fromkeys(("truncated", "truncated elsewhere", "truncated once more"), truncated),
    "a zip file": lambda sound, chance: archive({"a": sound}),
    "a pickle": lambda sound, chance: pickle.dumps({"a": 1}),
}


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, color: int = 0) -> bytes:
    """A PNG of any declared size and type, with rows that need not fit."""
    header, rows = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0), zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    return _written(lambda file: image.save(file, kind))


def _like(sound: bytes) -> Image.Image:
    return Image.open(io.BytesIO(sound))


def _converted(mode: str) -> Fault:
    return lambda sound, chance: saved(_like(sound).convert(mode))


_MODES = {"palette": "P", "alpha": "RGBA", "gray": "L", "gray and alpha": "LA", "colors": "RGB"}

PICTURES: dict[str, Fault] = {
    "no pixels": lambda sound, chance: png(0, 0),
    "no width": lambda sound, chance: png(0, 5),
    "50000 x 50000 pixels declared": lambda sound, chance: png(50_000, 50_000),
    "2^31 - 1 pixels wide": lambda sound, chance: png(2**31 - 1, 2**31 - 1),
    "depth of 3 bits": lambda sound, chance: png(8, 8, depth=3),
    "color type 9": lambda sound, chance: png(8, 8, color=9),
    "too few rows": lambda sound, chance: png(64, 64),
    "no compressed data": lambda sound, chance: png(8, 8)[:41] + bytes(30),
    "vector graphics": lambda sound, chance: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "a PDF": lambda sound, chance: b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n",
    "16 bits": lambda sound, chance: saved(Image.fromarray(np.asarray(_like(sound).convert("L"), np.uint16) * 200)),
    "text bomb": lambda sound, chance: _with_text_bomb(sound),
}
"""Refused as images and as masks."""

MASKS: dict[str, Fault] = {
    **{name: _converted(_MODES[name]) for name in ("alpha", "colors")},
    "another size": lambda sound, chance: saved(Image.new("L", (_like(sound).width + 1, _like(sound).height))),
    "one pixel": lambda sound, chance: saved(Image.new("L", (1, 1))),
    "an unknown code": lambda sound, chance: saved(Image.new("L", _like(sound).size, 200)),
    "one unknown code in a palette": lambda sound, chance: _one_code(sound, 99),
    "a JPEG": lambda sound, chance: saved(Image.effect_noise(_like(sound).size, 64), "JPEG"),
}

LEGAL: dict[str, Fault] = {name: _converted(_MODES[name]) for name in ("palette", "alpha", "gray", "gray and alpha")}
"""Images that are read all the same."""


def _with_text_bomb(sound: bytes) -> bytes:
    """A text chunk that expands to a hundred megabytes, before the image."""
    bomb, image = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)), saved(_like(sound))
    return image[:33] + bomb + image[33:]


def _one_code(sound: bytes, code: int) -> bytes:
    index = np.zeros(_like(sound).size[::-1], np.uint8)
    index[-1, -1] = code
    image = Image.fromarray(index)
    image.putpalette([value % 256 for value in range(768)])
    return saved(image)


def _edited(edit: Callable[[Any], object]) -> Fault:
    def fault(sound: bytes, chance: random.Random) -> bytes:
        plain = json.loads(sound)
        edit(plain)
        return json.dumps(plain).encode()

    return fault


def _nodes(plain: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key there."""
    pairs = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [place for key, value in pairs for place in ((plain, key), *_nodes(value))]


ODD = (None, -1, 1e308, 10**30, math.nan, "", "x", "\n", [], {}, [[]], True, 0.5, "254")


def changed_json(sound: bytes, chance: random.Random) -> bytes:
    plain = json.loads(sound)
    holder, key = chance.choice(_nodes(plain))
    if chance.random() < 0.2:
        del holder[key]
    else:
        holder[key] = chance.choice(ODD)
    return json.dumps(plain).encode()


def changed_xml(sound: bytes, chance: random.Random) -> bytes:
    root = ElementTree.fromstring(sound)
    element = chance.choice([one for one in root.iter() if one.attrib])
    name = chance.choice(sorted(element.attrib))
    del element.attrib[name]
    if chance.random() < 0.8:
        element.set(name, str(chance.choice(ODD)).replace("\n", ";"))
    return ElementTree.tostring(root)


def changed_text(sound: bytes, chance: random.Random) -> bytes:
    words = re.split(r"(\W+)", sound.decode())
    words[2 * chance.randrange((len(words) + 1) // 2)] = str(chance.choice(ODD))
    return "".join(words).encode()


JSON: dict[str, Fault] = {
    "nested without end": lambda sound, chance: b"[" * 100_000,
    "a list": lambda sound, chance: b"[1, 2]",
    "null": lambda sound, chance: b"null",
    "a number": lambda sound, chance: b"1e999",
    "a number of 5000 digits": lambda sound, chance: b'{"a": ' + b"9" * 5000 + b"}",
    "UTF-16": lambda sound, chance: sound.decode().encode("utf-16"),
    "not UTF-8": lambda sound, chance: b'{"\xff\xfe": []}',
    "a comma too many": lambda sound, chance: sound.rstrip().rstrip(b"}") + b",}",
    "values null": _edited(lambda plain: plain.update(dict.fromkeys(plain))),
    "values numbers": _edited(lambda plain: plain.update(dict.fromkeys(plain, 7))),
    "values strings": _edited(lambda plain: plain.update(dict.fromkeys(plain, "x"))),
}


def _clicks(**changed: object) -> Fault:
    return _edited(lambda plain: [clicks[0].update(changed) for clicks in plain.values()])


CLICKS: dict[str, Fault] = {
    "y infinite": _clicks(y=float("inf")),
    "an integer of 400 digits": _clicks(x=10**400),
    **{f"x {value}": _clicks(x=value) for value in (float("nan"), 1e12, "left")},
    **{f"class {value}": _clicks(cls=value) for value in (None, 99, -1, 1.5, [1])},
}


def _between(tag: bytes, value: bytes) -> Fault:
    """Another value after the first tag."""

    def fault(sound: bytes, chance: random.Random) -> bytes:
        before, _, rest = sound.partition(tag)
        return before + tag + value + rest[rest.index(b"<") :]

    return fault


_LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)) + "]>"
)
_FETCH = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'

XML: dict[str, Fault] = {
    "billion laughs": lambda sound, chance: _LAUGHS.encode() + sound.replace(b"</annotation", b"&l9;</annotation"),
    "an external entity": lambda sound, chance: _FETCH.encode() + sound.replace(b"</annotation", b"&x;</annotation"),
    "an external document type": lambda sound, chance: b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">' + sound,
    "an undeclared entity": lambda sound, chance: sound.replace(b"</annotation", b"&who;</annotation"),
    "nested without end": lambda sound, chance: b"<a>" * 100_000,
    "nested": lambda sound, chance: b"<a>" * 100_000 + b"</a>" * 100_000,
    "UTF-16": lambda sound, chance: sound.decode().encode("utf-16"),
    "not UTF-8": lambda sound, chance: sound.replace(b"</annotation", b"\xff</annotation"),
    "another root": lambda sound, chance: b"<svg/>",
}
SIZES: dict[str, Fault] = {
    "no size": lambda sound, chance: sound.replace(b"size>", b"extent>"),
    **{f"width {value.decode()}": _between(b"<width>", value) for value in (b"wide", b"nan", b"1e300", b"9")},
}
SCRIBBLES: dict[str, Fault] = {
    "a corner at infinity": _between(b"<X>", b"inf"),
    "a corner far away": _between(b"<X>", b"1e300"),
    "no corner": lambda sound, chance: sound.replace(b"point>", b"corner>"),
    "unknown class": _between(b"<tag>", b"unicorn"),
}
BOXES: dict[str, Fault] = {
    "a side in words": _between(b"<xmin>", b"left"),
    "a box without pixels": _between(b"<xmin>", b"900000"),
    "no box": lambda sound, chance: sound.replace(b"bndbox>", b"circle>"),
    "unknown class": _between(b"<name>", b"unicorn"),
}


def _annotation(**changed: object) -> Fault:
    return _edited(lambda plain: plain["annotations"][0].update(changed))


def _pictured(**changed: object) -> Fault:
    return _edited(lambda plain: [image.update(changed) for image in plain["images"]])


COCO: dict[str, Fault] = {
    **{f"category {value}": _annotation(category_id=value) for value in (12, "dog", [1])},
    **{f"image {value}": _annotation(image_id=value) for value in (-5, [1])},
    **{f"outline {value}": _annotation(segmentation=[value]) for value in (["a", "b"], [1.0])},
    **{f"outline of {value}": _annotation(segmentation=[[float(value)] * 6]) for value in ("nan", "inf")},
    "outline null": _annotation(segmentation=None),
    "run lengths of another size": _annotation(segmentation={"size": [1, 1], "counts": [1]}),
    "run lengths missing": _annotation(segmentation={"size": [1, 1]}),
    **{f"height {value}": _pictured(height=value) for value in ("tall", -4, 10**12, 1.5)},
    "name a number": _pictured(file_name=3),
}


def array(value: object, pickled: bool = False) -> bytes:
    return _written(lambda file: np.save(file, np.asarray(value), allow_pickle=pickled))


class Touch:
    """Writes a file when it is unpickled."""

    path = "touched"

    def __init__(self, path: Path | None = None) -> None:
        self.path = str(path or self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.path!r}, 'w').close()",)


def declared(shape: str, kind: str = "<f4") -> bytes:
    """The head of a ``.npy`` file that declares any shape, without content."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def _cams(value: object) -> Fault:
    return lambda sound, chance: array(np.array({0: value}, object), pickled=True)


CAMS: dict[str, Fault] = {
    "a pickle that runs code": lambda sound, chance: array(np.array({0: Touch()}, object), pickled=True),
    "a bare pickle that runs code": lambda sound, chance: pickle.dumps(Touch()),
    "NaN": _cams(np.full((4, 4), np.nan)),
    "infinite": _cams(np.full((4, 4), np.inf)),
    "integers": _cams(np.zeros((4, 4), int)),
    "three dimensions": _cams(np.zeros((4, 4, 4))),
    "objects": _cams(np.array([[None]])),
    "words": _cams("map"),
    "no dictionary": lambda sound, chance: array(np.zeros((4, 4))),
    "names for classes": lambda sound, chance: array(np.array({"dog": np.zeros((4, 4))}, object), pickled=True),
    "10^15 numbers declared": lambda sound, chance: declared("(1000000000000000,)"),
    "a shape that is code": lambda sound, chance: declared("(__import__('os').getpid(),)"),
    "a negative shape": lambda sound, chance: declared("(-1,)"),
    "a type that is none": lambda sound, chance: declared("(1,)", "oops"),
}


def checkpoint(value: object, **options: bool) -> bytes:
    return _written(lambda file: torch.save(value, file, **options))


def _state(value: object) -> Fault:
    return lambda sound, chance: checkpoint(value)


CHECKPOINTS: dict[str, Fault] = {
    "a pickle that runs code": _state({"state_dict": Touch()}),
    "a bare pickle that runs code": lambda sound, chance: pickle.dumps(Touch(), protocol=2),
    "a whole module": _state(torch.nn.Linear(1, 1)),
    "a list": _state([torch.zeros(1)]),
    "a number": _state(3),
    "nothing": _state({}),
    "tensors that are none of a network": _state({"a": torch.zeros(2)}),
    "names that are numbers": _state({1: torch.zeros(2)}),
    "two networks": _state({"a": {"x": torch.zeros(1)}, "b": {"x": torch.zeros(1)}}),
    "another ResNet": _state({"layer1.0.conv1.weight": torch.zeros(2)}),
    "safetensors under its name": lambda sound, chance: struct.pack("<Q", 2) + b"{}",
}
SAFETENSORS: dict[str, Fault] = {
    "a head of 2^60 bytes": lambda sound, chance: struct.pack("<Q", 2**60) + b"{}",
    "a head that is no JSON": lambda sound, chance: struct.pack("<Q", 3) + b"abc",
    "a tensor beyond the end": lambda sound, chance: _head({"a": ("F32", [9], [0, 36])}),
    "a negative offset": lambda sound, chance: _head({"a": ("F32", [1], [-4, 0])}),
    "overlapping tensors": lambda sound, chance: _head({n: ("F32", [1], [0, 4]) for n in "ab"}) + bytes(4),
    "a type that is none": lambda sound, chance: _head({"a": ("Q9", [1], [0, 4])}) + bytes(4),
    "tensors that are none of a network": lambda sound, chance: _head({"a": ("F32", [1], [0, 4])}) + bytes(4),
    "no tensors": lambda sound, chance: _head({}),
}


def _head(tensors: dict[str, tuple[str, list[int], list[int]]]) -> bytes:
    keys = ("dtype", "shape", "data_offsets")
    text = json.dumps({name: dict(zip(keys, fields, strict=True)) for name, fields in tensors.items()}).encode()
    return struct.pack("<Q", len(text)) + text


def archive(members: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _zipped(name: str, content: bytes = b"x", mode: int = 0) -> Fault:
    return lambda sound, chance: archive({"leftImg8bit/a": b"x", name: content}, mode)


def _tarred(name: str, target: str = "", kind: str = "") -> Fault:
    def fault(sound: bytes, chance: random.Random) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in ("leftImg8bit/a", name):
                info = tarfile.TarInfo(path)
                info.size = 1
                if path == name and kind:
                    info.type, info.linkname, info.size = getattr(tarfile, kind), target, 0
                archive.addfile(info, io.BytesIO(b"x"))
        return buffer.getvalue()

    return fault


ESCAPED = Path(tempfile.gettempdir()) / "escaped"
"""Where an archive of an absolute path wants to write."""

ARCHIVES: dict[str, Fault] = {
    "zip: above": _zipped("../escaped"),
    "zip: above, further in": _zipped("leftImg8bit/../../escaped"),
    "zip: absolute": _zipped(str(ESCAPED)),
    "zip: backslashes": _zipped("..\\escaped"),
    "zip: a drive": _zipped("C:/escaped"),
    "zip: a link": _zipped("leftImg8bit/link", b"../..", 0o120777),
    "zip: without the folder": lambda sound, chance: archive({"other/a": b"x"}),
    "zip: a file for the folder": lambda sound, chance: archive({"leftImg8bit": b"x"}),
    "tar: above": _tarred("../escaped"),
    "tar: a link to above": _tarred("leftImg8bit/link", "../../..", "SYMTYPE"),
    "tar: an absolute link": _tarred("leftImg8bit/link", "/etc", "SYMTYPE"),
    "tar: a hard link to above": _tarred("leftImg8bit/link", "../../escaped", "LNKTYPE"),
    "tar: a device": _tarred("leftImg8bit/null", "", "CHRTYPE"),
    "tar: a pipe": _tarred("leftImg8bit/pipe", "", "FIFOTYPE"),
    "tar: without the folder": lambda sound, chance: _tarred("x")(sound, chance).replace(b"leftImg", b"another"),
}

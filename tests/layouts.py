"""Tiny data sets in exactly the layouts that the public ones are published in."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from agmm.data.public.voc import CLASS_NAMES, CLICKS
from agmm.own.prediction import palette as colors

VOC_TRAIN = ("2007_000032", "2007_000039")
VOC_VAL = ("2007_000033", "2007_000042")
# Two images of VOC's val are among those of SBD, one of VOC's train as well.
SBD_TRAIN = ("2007_000032", "2007_000033", "2008_000002")
SBD_VAL = ("2007_000042", "2008_000008")
TRAIN_AUG = ("2007_000032", "2007_000039", "2008_000002", "2008_000008")

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def size(name: str) -> tuple[int, int]:
    """Height and width: no two images are equally large."""
    return 30 + int(name[-2:]) % 7, 40 + int(name[-2:])


def sbd_masks(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes and objects: two touching objects of one class on background, no void."""
    classes, objects = np.zeros((2, *size(name)), np.uint8)
    code = 1 + int(name[-2:]) % 20
    classes[5:20, 5:30] = code
    objects[5:20, 5:18], objects[5:20, 18:30] = 1, 2
    return classes, objects


def voc_masks(name: str) -> tuple[np.ndarray, np.ndarray]:
    """As SBD's, with a void border around the objects."""
    classes, objects = sbd_masks(name)
    void = np.zeros(size(name), bool)
    void[4:21, 4:31] = True
    void[6:19, 6:29] = False
    classes[void] = objects[void] = 255
    return classes, objects


def save_index(path: Path, index: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(index, np.uint8))
    if palette:
        image.putpalette(colors(256, 0).tobytes())
    image.save(path)
    return path


def save_noise(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_voc2012(root: Path) -> Path:
    """``VOCdevkit/VOC2012`` as the archive extracts."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in {*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL}:
        save_noise(folder / "JPEGImages" / f"{name}.jpg", size(name), int(name[-4:]))
    for name in VOC_TRAIN + VOC_VAL:
        for kind, mask in zip(("SegmentationClass", "SegmentationObject"), voc_masks(name), strict=True):
            save_index(folder / kind / f"{name}.png", mask, palette=True)
    for split, names in {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": sorted(VOC_TRAIN + VOC_VAL)}.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(names) + "\n")
    return folder


def write_sbd(root: Path) -> Path:
    """``benchmark_RELEASE/dataset`` as the archive extracts, without its images."""
    folder = root / "benchmark_RELEASE" / "dataset"
    for part in ("cls", "inst"):
        (folder / part).mkdir(parents=True)
    for split, names in {"train": SBD_TRAIN, "val": SBD_VAL}.items():
        (folder / f"{split}.txt").write_text("\n".join(names))  # the last line ends without a newline
        for name in names:
            classes, objects = sbd_masks(name)
            for struct, mask, key in (("GTcls", classes, "CategoriesPresent"), ("GTinst", objects, "Categories")):
                content = {"Boundaries": np.zeros((20, 1), object), "Segmentation": mask}
                content[key] = classes.max(keepdims=True)
                scipy.io.savemat(folder / struct[2:] / f"{name}.mat", {struct: content}, do_compression=True)
    return folder


def voc(root: Path) -> dict[str, np.ndarray]:
    """VOC and SBD; returns the masks of train_aug and val."""
    write_voc2012(root)
    write_sbd(root)
    own = dict.fromkeys(VOC_TRAIN + VOC_VAL, voc_masks)
    return {name: own.get(name, sbd_masks)(name)[0] for name in TRAIN_AUG + VOC_VAL}


def agmm_voc(root: Path, inside: str = "") -> Path:
    """VOC as AGMM's README draws it: all masks in one folder, labels in ``point`` and ``scribble``, no ``ImageSets``.

    Returns the root. Labels may lie in folders ``inside``, as TEL ships them.
    """
    for name in TRAIN_AUG + VOC_VAL:
        save_noise(root / "JPEGImages" / f"{name}.jpg", size(name), int(name[-4:]))
        save_index(root / "SegmentationClass" / f"{name}.png", voc_masks(name)[0], palette=True)
    for name in TRAIN_AUG:
        label = np.full(size(name), 21)
        label[6:9, 6:9] = sbd_masks(name)[0].max()
        for kind, below in (("point", "segcls"), ("scribble", "seginst")):
            save_index(root / kind / (below if inside else "") / f"{name}.png", label)
    return root


def camvid(root: Path, splits: tuple[str, ...] = ("train", "val")) -> dict[str, np.ndarray]:
    """CamVid's folders with images of 12 x 8 pixels, two in the first and one in the second; returns their masks."""
    written = {}
    for split, names in zip(splits, (("a", "bb"), ("ccc",)), strict=False):
        for name in names:
            rng = np.random.default_rng(len(name))
            written[name] = rng.integers(0, 12, (8, 12), dtype=np.uint8)
            save_index(root / split / f"{name}.png", rng.integers(0, 256, (8, 12, 3)))
            save_index(root / f"{split}annot" / f"{name}.png", written[name])
    return written


def write_cityscapes(root: Path, scale: int = 1) -> dict[str, np.ndarray]:
    """``leftImg8bit`` and ``gtFine`` with all kinds of files, 32 times smaller than in life at a scale of 1.

    Returns the label ids of every image; the images hold them in their red channel.
    """
    shape = 32 * scale, 64 * scale
    written = {}
    for place in ("train/aachen_000000_000019", "train/ulm_000001_000019", "val/lindau_000000_000019"):
        split, name = place.split("/")
        city = name.split("_")[0]
        ids = np.random.default_rng(len(city)).integers(0, 34, (32, 64), dtype=np.uint8)
        ids = ids.repeat(scale, axis=0).repeat(scale, axis=1)
        truth = root / "gtFine" / split / city
        save_index(truth / f"{name}_gtFine_labelIds.png", ids)
        Image.fromarray(ids.astype(np.uint16)).save(truth / f"{name}_gtFine_instanceIds.png")
        Image.new("RGBA", shape[::-1]).save(truth / f"{name}_gtFine_color.png")
        (truth / f"{name}_gtFine_polygons.json").write_text("{}")
        image = np.stack([ids, ids * 0, 255 - ids], axis=-1)
        save_index(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
        written[name] = ids
    return written


COCO_CATEGORIES = tuple(k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_IMAGES = {"train": (9, 25, 30, 34, 36), "val": (42, 73, 74)}  # the last of each has no annotation


def coco(root: Path, masks: bool = True) -> dict[str, np.ndarray]:
    """``coco2014`` and ``annotations`` as their archives extract; with ``masks`` also what is made from them.

    Images are of 60 x 80 pixels, one is gray. In all but the last of each split a large object, a small one in two
    parts in front of it and a crowd that both cover in part. Returns the mask of every annotated image.
    """
    written = {}
    for split, numbers in COCO_IMAGES.items():
        content = {"images": [], "annotations": [], "categories": [{"id": k} for k in COCO_CATEGORIES]}
        for number in numbers:
            name, rng = f"COCO_{split}2014_{number:012d}", np.random.default_rng(number)
            path = root / "coco2014" / f"{split}2014" / f"{name}.jpg"
            save_noise(path, (60, 80), number, "L" if number == 25 else "RGB")
            content["images"].append({"id": number, "file_name": path.name, "height": 60, "width": 80})
            if number == numbers[-1]:
                continue
            large, small = rng.choice(80, 2, replace=False)
            mask = np.zeros((60, 80), np.uint8)
            mask[40:55, 0:60] = 255
            mask[10:50, 10:40] = 1 + large
            mask[20:30, 30:50] = mask[20:30, 60:70] = 1 + small
            runs = [40, 15, *[45, 15] * 59, 5 + 20 * 60]
            for category, crowd, outlines in (
                (small, 0, [[30, 20, 50, 20, 50, 30, 30, 30], [60.0, 20, 70, 20, 70, 30, 60, 30]]),
                (large, 0, [[10, 10, 40, 10, 40, 50, 10, 50]]),
                (large, 1, {"counts": runs, "size": [60, 80]}),
            ):
                annotation = {"id": len(content["annotations"]), "image_id": number, "iscrowd": crowd}
                annotation |= {"category_id": COCO_CATEGORIES[category], "segmentation": outlines}
                content["annotations"].append(annotation)
            written[name] = mask
            if masks:
                save_index(root / "SegmentationClass" / f"{split}2014" / f"{name}.png", mask)
        write_text(root / "annotations" / f"instances_{split}2014.json", json.dumps(content))
        if masks:
            listed = [name for name in sorted(written) if split in name]
            write_text(root / "SegmentationClass" / f"{split}2014.txt", "\n".join(listed))
    return written


DENSEPOSE_IMAGES = {"train": (36, 49), "val": (192, 241, 257)}


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a mask, column by column; the first is outside."""
    return np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=False)), prepend=0, append=mask.size).tolist()


def compress(mask: np.ndarray) -> str:
    """COCO's compressed run-length code of a mask."""
    runs, text = run_lengths(mask), ""
    for i, run in enumerate(runs):
        number, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def densepose(root: Path, masks: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """DensePose's ``annotations`` and the images of ``coco2014``; with ``masks`` also what is made from them.

    Images are of 60 x 80 pixels. In each a large person whose parts are 14 stripes, a small one in front with a head
    alone, and a third without parts that both cover in part. Returns parts and people of every image.
    """
    written = {}
    for split, numbers in DENSEPOSE_IMAGES.items():
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        name = {"train": "train", "val": "minival"}[split]
        for number in numbers:
            stem, rng = f"COCO_{split}2014_{number:012d}", np.random.default_rng(number)
            image = root / "coco2014" / f"{split}2014" / f"{stem}.jpg"
            save_noise(image, (60, 80), number)
            content["images"].append({"id": number, "file_name": image.name, "height": 60, "width": 80})
            order = 1 + rng.permutation(14)
            parts, people = np.zeros((2, 60, 80), np.uint8)
            parts[40:, :30] = people[40:, :30] = 255
            # 16 stripes of 16 of the 256 rows; the box of 32 x 16 pixels shows two pixels of each.
            parts[12:40, 20:36], people[12:40, 20:36] = order.repeat(2)[:, None], 2
            parts[20:24, 30:38], people[20:24, 30:38] = 14, 1
            stripes = np.zeros((15, 256, 256), bool)
            for row, code in enumerate(order):
                stripes[code - 1, 16 * row : 16 * row + 16] = True
            stripes[14] = True  # the head alone, whose box it fills
            codes = [{"size": [256, 256], "counts": compress(stripe)} for stripe in stripes]
            for box, dp_masks in (
                ((29.7, 20.4, 8.2, 3.4), [[]] * 13 + codes[14:]),
                ((20.2, 11.8, 15.6, 32.1), codes[:14]),
                ((0, 40, 30, 20), None),
            ):
                left, top, width, height = box
                outline = [left, top, left + width, top, left + width, top + height, left, top + height]
                annotation = {"id": len(content["annotations"]), "image_id": number, "iscrowd": 0, "category_id": 1}
                annotation |= {"bbox": list(box), "area": width * height, "segmentation": [outline]}
                if dp_masks is not None:
                    annotation |= {"dp_masks": dp_masks, "dp_x": [1.0], "dp_I": [2.0], "dp_U": [0.5]}
                content["annotations"].append(annotation)
            written[stem] = parts, people
            if masks:
                for folder, mask in ((f"{name}2014", parts), (f"{name}2014_people", people)):
                    save_index(root / "PartMasks" / folder / f"{stem}.png", mask)
        write_text(root / "annotations" / f"densepose_coco_2014_{name}.json", json.dumps(content))
        if masks:
            listed = [stem for stem in sorted(written) if split in stem]
            write_text(root / "PartMasks" / f"{name}2014.txt", "\n".join(listed))
    return written


ADE_NAMES = {
    "training": tuple(f"ADE_train_{i:08d}" for i in range(1, 5)),
    "validation": tuple(f"ADE_val_{i:08d}" for i in (1, 2)),
}


def ade20k(root: Path) -> dict[str, np.ndarray]:
    """``ADEChallengeData2016`` as the archive extracts, images of 60 x 80 pixels; returns the values of every mask."""
    folder, written = root / "ADEChallengeData2016", {}
    for part, names in ADE_NAMES.items():
        for name in names:
            rng = np.random.default_rng(int(name[-8:]))
            values = rng.integers(0, 151, (3, 4), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
            values[-3:] = 0
            save_noise(folder / "images" / part / f"{name}.jpg", (60, 80), int(name[-8:]))
            save_index(folder / "annotations" / part / f"{name}.png", values)
            written[name] = values
    return written


def write_annotations(root: Path) -> dict[str, list[tuple[int, ...]]]:
    """Boxes of VOC in ``Annotations``, one-based and inclusive; returns class, left, top, right, bottom as written."""
    folder, written = root / "VOCdevkit" / "VOC2012", {}
    for path in (folder / "JPEGImages").iterdir():
        (height, width), code = size(path.stem), 1 + int(path.stem[-2:]) % 20
        written[path.stem] = [(code, 1, 1, width, height), (code % 20 + 1, 6, 6, 18, 20)]
        objects = "".join(
            f"<object><name>{CLASS_NAMES[k]}</name><part><name>head</name></part><bndbox><xmin>{left}</xmin>"
            f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for k, left, top, right, bottom in written[path.stem]
        )
        stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        write_text(folder / "Annotations" / f"{path.stem}.xml", f"<annotation>{stated}{objects}</annotation>")
    return written


def write_clicks(root: Path, names: tuple[str, ...] = TRAIN_AUG) -> None:
    """A click of its class and one of background for each of VOC's images."""
    foreground = {name: [{"x": 10.4, "y": 8.7, "cls": 1 + int(name[-2:]) % 20, "rank": 1}] for name in names}
    background = {name: [{"x": 35.0, "y": 25.0, "cls": 0}] for name in names}
    for path, content in zip(CLICKS, (foreground, background), strict=True):
        (root / path).write_text(json.dumps(content))


def write_scribbles(root: Path, *names: str) -> None:
    for name in names:
        height, width = size(name)
        points = "".join(f"<point><X>{x}</X><Y>10</Y></point>" for x in (8, 25))
        stated = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation>{stated}<polygon><tag>plane</tag>{points}</polygon></annotation>"
        write_text(root / "scribbles" / "scribblesup" / f"{name}.xml", text)


WRITERS: dict[str, Callable[[Path], object]] = {
    "voc": lambda root: (voc(root), write_clicks(root), write_annotations(root)),
    "cityscapes": lambda root: write_cityscapes(root, scale=2),
    "coco": coco,
    "ade20k": ade20k,
    "densepose": densepose,
}


def data_root(root: Path, *names: str) -> Path:
    """Data sets of the papers, each in its folder below one data root; VOC with clicks and boxes."""
    for name in names:
        (root / name).mkdir()
        WRITERS[name](root / name)
    return root

"""Tables of AGMM++ (TPAMI 2025): what its authors trained, and what that needs to be compared with.

The paper prints its own numbers in some places differently; notes say so. Networks are ``"resnet"`` (ResNet-101, on
Cityscapes ResNet-50) and ``"vit"`` (ViT-B/16), or a preset's counterparts of them.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

from agmm.objectives.agmmpp import squeezed
from agmm.papers.agmm.tables import AS_RELEASED, COLUMNS, WITHOUT, WITHOUT_ABSENT
from agmm.papers.quoted import left, quoted
from agmm.papers.table import SINGLE_SCALE, Cell, Column, Row, Table, cells, lines, protocol, source
from agmm.training.presets import Preset

PAPER = "AGMM++ (TPAMI 2025)"
CLICKS = tuple(Column(f"{n} clicks", f"clicks{n}", {"clicks": str(n)}) for n in (20, 50, 100))
BLOCKS = tuple(Column(f"block {n}%", f"blocks{n}", {"block_ratio": f"{n}%"}) for n in (10, 20, 50))
TAGS = Column("image-level, val", "tags", {"split": "val"})
COCO = Column("image-level, val", "coco_tags", {"split": "val"})
BOXES = Column("box", "boxes")
PSEUDO, SEGMENTATION = "pseudo labels, training images", "segmentation, test images"

_SELF, _WEAK, _CON = (("seg", "self", "weak", "con")[:n] for n in (2, 3, 4))
STEPS: dict[str, dict[str, Any]] = {
    "+ L_self": {"terms": _SELF, "oem": False},
    "+ L_self + L_weak": {"terms": _WEAK, "oem": False},
    "+ L_self + L_weak + L_con": {"terms": _CON, "oem": False},
}
"""Rows of the ablations between the baseline and the whole method; its online EM comes last."""

LAMBDAS = (0.1, 0.2, 0.5, 0.8, 1.0, 1.5)
_TOCO = "extra:ToCo, the baseline of image tags"
_SAME_SEEDS = "extra:cross-entropy on the same seeds"
_ONE_SET = "extra:every form of labels on one data set"
_BLOCKS = "extra:of unstated origin in the paper"


def table1(preset: Preset) -> tuple[Cell, ...]:
    """Image tags on VOC, at several scales and with a DenseCRF; the test split needs the evaluation server."""
    return _tags(preset, "agmmpp_table1", TAGS, {"6": "vit", "7": "resnet", "8": "vit"}, range(65, 69))


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Image tags on COCO."""
    return _tags(preset, "agmmpp_table2", COCO, {"4": "vit", "5": "resnet", "6": "vit"}, range(69, 73))


def _tags(preset: Preset, table: str, column: Column, numbers: dict[str, str], ids: range) -> tuple[Cell, ...]:
    toco, resnet, vit = numbers
    single = f"O{ids[0]:03}", f"O{ids[2]:03}"
    second = f"O{ids[1]:03}", f"O{ids[3]:03}"
    mt = [line["row"] for line in lines(table) if line["method"] == "AGMM++(MT)" and line["split"] == "val"]
    rows = [
        Row("ToCo (ResNet)", ("extra:ToCo with a ResNet",), None, network="resnet", refined=True),
        Row("ToCo (ViT)", (_TOCO,), {"row": toco}, network="vit", refined=True, note="quoted for another pre-training"),
        *(
            _pp(f"AGMM++ ({_NAMES[network]})", (identity,), {"row": row}, network=network, refined=True)
            for network, identity, row in zip(("resnet", "vit"), single, (resnet, vit), strict=True)
        ),
        *(
            _pp(f"AGMM++ (MT) ({_NAMES[network]})", (identity,), {"row": row}, network=network, refined=True)._replace(
                second_stage=True
            )
            for network, identity, row in zip(("resnet", "vit"), second, mt, strict=True)
        ),
    ]
    made = cells(preset, table, rows, (column,))
    return (*quoted(left(table, made), column="split", prefix="image-level, "), *made)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Points on VOC."""
    ids = {"8": "extra:TEL on points", "10": "O005", "11": "O074", "12": "O074", "13": "O075", "14": "O075"}
    notes = {"TEL (ResNet)": "AGMM's Table 4 prints 63.3", "AGMM++ (ResNet)": "the paper's text says 73.3"}
    spml = Row("SPML (ResNet) + CRF", ("extra:SPML on the points of the others",), {"row": "6"}, "SPML", refined=True)
    spml = spml._replace(note="published for 0 % scribbles and another decoder")
    return _one_form(preset, "agmmpp_table3", COLUMNS[0], ids, notes, spml)


def table5(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC."""
    ids = {"12": "O028", "15": "O011", "16": "O082", "17": "O082", "18": "O083", "19": "O083"}
    spml = Row("SPML (ResNet)", ("O029",), {"row": "7"}, "SPML", note="published for another decoder")
    notes = {"AGMM++ (ResNet)": "Tables 14 and 15 print 78.3"}
    return _one_form(preset, "agmmpp_table5", COLUMNS[1], ids, notes, spml)


def _one_form(
    preset: Preset, table: str, column: Column, ids: dict[str, str], notes: dict[str, str], spml: Row
) -> tuple[Cell, ...]:
    """SPML, TEL and AGMM, then AGMM++ with each network, without and, where the preset has one, with a DenseCRF."""
    (tel, tel_id), (agmm, agmm_id), *ours = ids.items()
    rows = [
        spml,
        Row("TEL (ResNet)", (tel_id,), {"row": tel}, "TreeEnergy"),
        Row("AGMM (ResNet)", (agmm_id,), {"row": agmm}, "AGMM", AS_RELEASED),
        Row("AGMM (ResNet)", (WITHOUT,), {"row": agmm}, "AGMM", WITHOUT_ABSENT),
    ]
    for (number, identity), (network, refined) in zip(ours, product(("resnet", "vit"), (False, True)), strict=True):
        if refined and not (network in preset.networks and preset.networks[network].refined):
            continue
        label = f"AGMM++ ({_NAMES[network]})" + (" + CRF" if refined else "")
        rows.append(_pp(label, (identity,), {"row": number}, network=network, refined=refined))
    rows = [row._replace(note=notes.get(row.label, row.note)) for row in rows]
    made = cells(preset, table, rows, (column,))
    with_crf = {("AGMM++", "true"): {"method": "AGMM++ + CRF"}}
    return (*quoted(line | with_crf.get((line["method"], line["crf"]), {}) for line in left(table, made)), *made)


def table4(preset: Preset) -> tuple[Cell, ...]:
    """Clicks on Cityscapes; Seminar has no specification and is shown as published."""
    columns = (*CLICKS, Column("full", "clicks_full", {"clicks": ""}))
    rows = [
        Row("Baseline", ("O030", "O035", "O040", "O045"), {"method": "Baseline"}),
        Row("DenseCRF loss", ("O031", "O036", "O041", ""), {"row": "2"}, "DenseCRFLoss", {"size_rule": "scaled_sigma"}),
        Row("TEL", ("O032", "O037", "O042", ""), {"method": "TEL"}, "TreeEnergy", {"sigma": 0.002}),
        Row("AGMM", ("O033", "O038", "O043", ""), {"method": "AGMM"}, "AGMM", AS_RELEASED),
        Row("AGMM", (WITHOUT, WITHOUT, WITHOUT, ""), {"method": "AGMM"}, "AGMM", WITHOUT_ABSENT),
        _pp("AGMM++", ("O077", "O079", "O081", ""), {"method": "AGMM++"}),
    ]
    seminar = [line for line in lines("agmmpp_table4") if line["method"] == "Seminar"]
    return (*quoted(seminar, column="clicks", suffix=" clicks"), *cells(preset, "agmmpp_table4", rows, columns))


def table6(preset: Preset) -> tuple[Cell, ...]:
    """Boxes on VOC; TSCD has no specification and is shown as published."""
    rows = [
        Row("Cross-entropy (ResNet)", (_SAME_SEEDS,), None, refined=True),
        Row("TEL (ResNet)", ("O085",), {"row": "11"}, "TreeEnergy", refined=True, note="on our seeds"),
        _pp("AGMM++ (ResNet)", ("O087",), {"row": "14"}, refined=True),
        Row("Cross-entropy (ViT)", ("O104",), None, network="vit", refined=True),
        _pp("AGMM++ (ViT)", ("O088",), {"row": "15"}, network="vit", refined=True)._replace(
            note="the paper's text says 76.7"
        ),
    ]
    spml = Row("SPML (ResNet)", ("O084",), {"row": "8"}, "SPML", refined=True, note="on CAMs in boxes")
    made = cells(preset, "agmmpp_table6", [spml], (Column("box", "boxcam"),))
    made += cells(preset, "agmmpp_table6", rows, (BOXES,))
    return (*quoted(left("agmmpp_table6", made)), *made)


def table7(preset: Preset) -> tuple[Cell, ...]:
    """Blocks on ADE20K; Seminar has no specification and is shown as published.

    Where a preset has them, blocks on the data set of points and scribbles, too: all forms of labels on one data set.
    """
    columns = (*BLOCKS, Column("full", "blocks_full", {"block_ratio": ""}))
    columns += (Column("block 10%, images of Table 10", "blocks", in_paper=False),)
    partly = (*(_BLOCKS,) * 3, "", "")
    rows = [
        Row("Baseline", (*(_BLOCKS,) * 4, _ONE_SET), {"method": "Baseline"}),
        Row("DenseCRF loss", partly, {"row": "2"}, "DenseCRFLoss", {"size_rule": "scaled_sigma"}),
        Row("TEL", partly, {"method": "TEL"}, "TreeEnergy", {"sigma": 0.002}),
        Row("AGMM", ("O089", "O091", "O093", "", ""), {"method": "AGMM"}, "AGMM", AS_RELEASED),
        Row("AGMM", (WITHOUT, WITHOUT, WITHOUT, "", ""), {"method": "AGMM"}, "AGMM", WITHOUT_ABSENT),
        _pp("AGMM++", ("O090", "O092", "O094", "", _ONE_SET), {"method": "AGMM++"}),
    ]
    seminar = [line for line in lines("agmmpp_table7") if line["method"] == "Seminar"]
    return (*quoted(seminar, column="block_ratio", prefix="block "), *cells(preset, "agmmpp_table7", rows, columns))


def table8(preset: Preset) -> tuple[Cell, ...]:
    """Image tags, component by component: quality of the pseudo labels, and of the segmentation.

    The pseudo labels are those of the CAMs for ToCo and those of the mixture for AGMM++, on training images.
    """
    rows = [Row("ToCo", (_TOCO,), {"row": "1"}, network="vit")]
    rows += _steps(("O095", "O096", "O097", "O067"), "vit", separate=True)
    rows = [row._replace(note=f"pseudo labels by {'G' if row.method == 'AGMMpp' else 'CAM'}") for row in rows]
    metrics = {PSEUDO: "mIoU_pseudo_label", SEGMENTATION: "mIoU_segmentation"}
    columns = tuple(Column(label, "tags", {"metric": metric}) for label, metric in metrics.items())
    return tuple(
        _pseudo_labels(cell) if cell.column == PSEUDO else _single_scale(cell)
        for cell in cells(preset, "agmmpp_table8", rows, columns)
    )


def _pseudo_labels(cell: Cell) -> Cell:
    assert cell.run is not None
    metric = f"training mIoU: {'G' if cell.method == 'AGMMpp' else 'CAM'}"
    return replace(cell, metric=metric, protocol=f"{cell.run.history_images} training images")


def _single_scale(cell: Cell) -> Cell:
    """Ablations are tested without a DenseCRF and, as those of ToCo, at a single scale."""
    assert cell.run is not None
    return replace(cell, metric=SINGLE_SCALE, protocol=protocol(replace(cell.run, scales=(1.0,), flip=False)))


def table9(preset: Preset) -> tuple[Cell, ...]:
    """Quality of pseudo labels from image tags, on training images."""
    ours = [
        replace(cell, column="image-level", published=float(line["value"]), published_source=source(line))
        for cell in table8(preset)
        for line in lines("agmmpp_table9")
        if cell.column == PSEUDO and (cell.row, line["method"]) in (("ToCo", "ToCo"), ("AGMM++", "AGMM++"))
    ]
    return (*quoted(left("agmmpp_table9", ours)), *ours)


def table10(preset: Preset) -> tuple[Cell, ...]:
    """From AGMM to AGMM++: online EM, and the contrast of pixels."""
    old: dict[str, Any] = {"terms": ("seg", "self", "weak", "con_old")}
    rows = [
        Row("AGMM", ("O005", "O011"), {"row": "1"}, "AGMM", AS_RELEASED),
        Row("AGMM", (WITHOUT,), {"row": "1"}, "AGMM", WITHOUT_ABSENT),
        _pp("AGMM++, old L_con", ("O098", "O099"), {"row": "2"}, **old),
        _pp("AGMM++", ("O074", "O082"), {"row": "3"}),
    ]
    return cells(preset, "agmmpp_table10", rows, COLUMNS)


def table11(preset: Preset) -> tuple[Cell, ...]:
    """Accuracy with a transformer; operations, time and memory need no trained network (`agmm.networks.macs`)."""
    accuracy = {"metric": "mIoU"}
    rows = [
        Row("Baseline", ("O100", "O102"), accuracy | {"row": "1"}, network="vit", note="Table 12 prints 63.2, 69.0"),
        Row("AGMM", ("O101", "O103"), accuracy | {"row": "2"}, "AGMM", AS_RELEASED, network="vit"),
        Row("AGMM", (WITHOUT,), accuracy | {"row": "2"}, "AGMM", WITHOUT_ABSENT, network="vit"),
        _pp("AGMM++", ("O075", "O083"), accuracy | {"row": "3"}, network="vit"),
    ]
    return cells(preset, "agmmpp_table11", rows, COLUMNS)


def table12(preset: Preset) -> tuple[Cell, ...]:
    """Components with a transformer: boxes, points, scribbles."""
    rows = [Row("L_seg", ("O104", "O100", "O102"), {"row": "1"}, network="vit")]
    numbers = [(first, first + 3, first + 6) for first in (105, 106, 107)]
    ids = [tuple(f"O{number:03}" for number in row) for row in numbers]
    rows += _steps((*ids, ("O088", "O075", "O083")), "vit")
    return tuple(_single_scale(cell) for cell in cells(preset, "agmmpp_table12", rows, (BOXES, *COLUMNS)))


def table13(preset: Preset) -> tuple[Cell, ...]:
    """Components with clicks on Cityscapes and blocks on ADE20K."""
    columns = (CLICKS[0], BLOCKS[0])
    rows = [Row("L_seg", ("O030", _BLOCKS), {"row": "1"})]
    ids = [(f"O{number:03}", f"O{number + 3:03}") for number in (114, 115, 116)]
    rows += _steps((*ids, ("O077", "O090")), "resnet")
    return cells(preset, "agmmpp_table13", rows, columns)


def table14(preset: Preset) -> tuple[Cell, ...]:
    """Weight lambda_G of the mixture's losses."""
    rows = []
    numbers = (120, 121, 122, 123, None, 124)
    for weight, number in zip(LAMBDAS, numbers, strict=True):
        ids = (f"O{number:03}", f"O{number + 5:03}") if number else ("O074", "O082")
        rows.append(_pp(f"λ_G = {weight}", ids, {"lambda_g": str(weight)}, lambda_gmm=weight))
    return cells(preset, "agmmpp_table14", rows, COLUMNS)


def table15(preset: Preset) -> tuple[Cell, ...]:
    """Soft and online supervision against hard and fixed ones."""
    copied = "printed as for AGMM (SG)"
    rows = [
        Row("Baseline", ("O001", "O007"), {"row": "1"}),
        Row("Baseline (+MT)", ("O002", "O008"), {"row": "2"}, second_stage=True),
        Row("Label Assignment", ("O013", "O015"), {"row": "3"}, "LabelAssignment", {"absent": False}),
        _pp("AGMM++ (SG)", ("O130", "O131"), {"row": "4"}, stop_gradient=True)._replace(note=copied),
        _pp("AGMM++", ("O074", "O082"), {"row": "5"})._replace(note="Tables 5 and 10 print 77.5 for scribbles"),
    ]
    return cells(preset, "agmmpp_table15", rows, COLUMNS)


def choices(preset: Preset) -> tuple[Cell, ...]:
    """Not in the paper: what it leaves open, each changed alone."""
    features = int(dict(preset.run.network_options).get("feature_channels", 256))
    changes: dict[str, dict[str, Any]] = {
        "as chosen": {},
        "assignment: responsibilities": {"assignment": "responsibility"},
        "assignment: scores": {"assignment": "soft"},
        "labeled pixels may move": {"keep_labels": False},
        "distance as printed, signed": {"distance": "signed"},
        "distance: root mean square": {"distance": "rms"},
        "least spread 0.5": {"sigma_min": 0.5},
        "one spread, as AGMM's released code": {"sigma": 0.5**0.5},
        "half the squeezed channels": {"channels": squeezed(features) // 2},
        "twice the squeezed channels": {"channels": 2 * squeezed(features)},
        "as many squeezed channels as features": {"channels": features},
        "L_seg as printed, binary": {"seg": "bce"},
        "with the absent-class loss": {"terms": (*_CON, "absent")},
    }
    rows = [_pp(name, ("extra:what the paper leaves open",), None, **options) for name, options in changes.items()]
    rows[0] = rows[0]._replace(ids=("O074", "O082"))
    return cells(preset, "agmmpp_table10", rows, COLUMNS)


def _steps(ids: Any, network: str, separate: bool = False) -> list[Row]:
    """Ablation rows 2 to 5 with their trainings."""
    names = [*STEPS, "AGMM++"]
    rows = []
    for number, (name, identity) in enumerate(zip(names, ids, strict=True), start=2):
        label = name if name == "AGMM++" or separate else f"L_seg {name}"
        identities = (identity,) if isinstance(identity, str) else identity
        rows.append(_pp(label, identities, {"row": str(number)}, network=network, **STEPS.get(name, {})))
    return rows


def _pp(
    label: str,
    ids: tuple[str, ...],
    printed: dict[str, str] | None,
    *,
    network: str = "resnet",
    refined: bool = False,
    **options: Any,
) -> Row:
    return Row(label, ids, printed, "AGMMpp", options, network=network, refined=refined)


_NAMES = {"resnet": "ResNet", "vit": "ViT"}
_VOC = "PASCAL VOC 2012 val, ResNet-101 or ViT-B with ImageNet weights"
_CITY, _ADE = "Cityscapes val, ResNet-50 with ImageNet weights", "ADE20K val, ResNet-101 with ImageNet weights"


def _table(
    rows: Callable[[Preset], tuple[Cell, ...]], title: str, data: str = "VOC", published_on: str = _VOC
) -> Table:
    number = rows.__name__.removeprefix("table")
    notebook = f"notebooks/agmmpp/table{number}.ipynb"
    return Table(f"agmmpp_table{number}", f"Table {number}: {title}", PAPER, notebook, rows, data, published_on)


TABLES = {
    table.name: table
    for table in (
        _table(table1, "image tags on VOC"),
        _table(table2, "image tags on COCO", "COCO", "COCO 2014 val, ResNet-101 or ViT-B with ImageNet weights"),
        _table(table3, "points on VOC"),
        _table(table4, "clicks on Cityscapes", "Cityscapes", _CITY),
        _table(table5, "scribbles on VOC"),
        _table(table6, "boxes on VOC"),
        _table(table7, "blocks on ADE20K", "ADE20K", _ADE),
        _table(table8, "components with image tags"),
        _table(table9, "pseudo labels from image tags"),
        _table(table10, "from AGMM to AGMM++"),
        _table(table11, "cost"),
        _table(table12, "components with a transformer"),
        _table(table13, "components on Cityscapes and ADE20K", "Cityscapes, ADE20K", f"{_CITY}; {_ADE}"),
        _table(table14, "weight of the mixture"),
        _table(table15, "soft and online supervision"),
        Table(
            "agmmpp_choices",
            "Not in the paper: what it leaves open",
            PAPER,
            "notebooks/agmmpp/choices.ipynb",
            choices,
        ),
    )
}

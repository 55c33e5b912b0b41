"""Tables of AGMM++ (TPAMI 2025): what its authors trained, and what that needs to be compared with.

The paper prints its own numbers in some places differently; notes say so. Networks are ``"resnet"`` (ResNet-101, on
Cityscapes ResNet-50) and ``"vit"`` (ViT-B/16), or a preset's counterparts of them.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from agmm.objectives.agmmpp import squeezed
from agmm.papers import table
from agmm.papers.agmm.tables import CLICKS, LAMBDAS, NARROW, SCALED, VOC, WITHOUT, agmm_rows, printed_rows
from agmm.papers.table import Cell, Column, Row, cells, lines, lines_of_others, quoted
from agmm.training.presets import Preset

BLOCKS = tuple(Column(f"block {n}%", f"blocks{n}", {"block_ratio": f"{n}%"}) for n in (10, 20, 50))
BOXES = Column("box", "boxes")
PSEUDO, SEGMENTATION = "pseudo labels, training images", "segmentation, test images"

_SELF, _WEAK, _CON = (("seg", "self", "weak", "con")[:n] for n in (2, 3, 4))
STEPS: dict[str, dict[str, Any]] = {
    "+ L_self": {"terms": _SELF, "oem": False},
    "+ L_self + L_weak": {"terms": _WEAK, "oem": False},
    "+ L_self + L_weak + L_con": {"terms": _CON, "oem": False},
}
"""Rows of the ablations between the baseline and the whole method; its online EM comes last."""

agmmpp_row = partial(Row, method="AGMMpp")
POOLED = {"sigma": "pooled"}
NETWORKS = {"resnet": "ResNet", "vit": "ViT"}
_TOCO = "extra:ToCo, the baseline of image tags"
_ONE_SET = "extra:every form of labels on one data set"
_BLOCKS = "extra:of unstated origin in the paper"
_ONE_SPREAD = "extra:AGMM++ with a pooled spread, ours"


def agmmpp_rows(label: str, ids: tuple[str, ...], **how: Any) -> list[Row]:
    """Return the rows of AGMM++ as printed, and of our variant with a pooled spread."""
    printed = agmmpp_row(label, ids, **how)
    ours = tuple(training and _ONE_SPREAD for training in ids)
    name = label.replace("AGMM++", "AGMM++, pooled σ")
    return [printed, replace(printed, label=name, ids=ours, options=POOLED, printed={}, note="ours")]


def table1(preset: Preset) -> tuple[Cell, ...]:
    """Image tags on VOC, at several scales and with a DenseCRF; the test split needs the evaluation server."""
    return _tags(preset, "agmmpp_table1", "tags", ("6", "7", "8"), ("O065", "O066", "O067", "O068"))


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Image tags on COCO."""
    return _tags(preset, "agmmpp_table2", "coco_tags", ("4", "5", "6"), ("O069", "O070", "O071", "O072"))


def _tags(preset: Preset, table: str, kind: str, printed: tuple[str, ...], ids: tuple[str, ...]) -> tuple[Cell, ...]:
    """Return ToCo and AGMM++ with each network, and second stages of AGMM++, which are every other one of ``ids``."""
    (toco, *ours), another = printed, "quoted for another pre-training"
    rows = [
        Row("ToCo (ResNet)", ("extra:ToCo with a ResNet",), refined=True),
        Row("ToCo (ViT)", (_TOCO,), printed={"row": toco}, network="vit", refined=True, note=another),
    ]
    again = [line["row"] for line in lines(table) if line["method"] == "AGMM++(MT)" and line["split"] == "val"]
    for label, numbers, trainings in (("AGMM++", ours, ids[::2]), ("AGMM++ (MT)", again, ids[1::2])):
        for (network, name), number, training in zip(NETWORKS.items(), numbers, trainings, strict=True):
            one: dict[str, Any] = {"printed": {"row": number}, "network": network, "refined": True}
            if label == "AGMM++":
                rows += agmmpp_rows(f"{label} ({name})", (training,), **one)
            else:
                rows.append(agmmpp_row(f"{label} ({name})", (training,), second_stage=True, **one))
    made = cells(preset, table, rows, (Column("image-level, val", kind, {"split": "val"}),))
    return (*quoted(lines_of_others(table, made), "image-level, {split}"), *made)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Points on VOC."""
    ids = {"8": "extra:TEL on points", "10": "O005", "11": "O074", "12": "O074", "13": "O075", "14": "O075"}
    notes = {"TEL (ResNet)": "AGMM's Table 4 prints 63.3", "AGMM++ (ResNet)": "the paper's text says 73.3"}
    extra, another = ("extra:SPML on the points of the others",), "published for 0 % scribbles and another decoder"
    spml = Row("SPML (ResNet) + CRF", extra, method="SPML", printed={"row": "6"}, refined=True, note=another)
    return _one_form(preset, "agmmpp_table3", VOC[0], ids, notes, spml)


def table5(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC."""
    ids = {"12": "O028", "15": "O011", "16": "O082", "17": "O082", "18": "O083", "19": "O083"}
    notes = {"AGMM++ (ResNet)": "Tables 14 and 15 print 78.3"}
    another = "published for another decoder"
    spml = Row("SPML (ResNet)", ("O029",), method="SPML", printed={"row": "7"}, note=another)
    return _one_form(preset, "agmmpp_table5", VOC[1], ids, notes, spml)


def _one_form(
    preset: Preset, table: str, column: Column, ids: dict[str, str], notes: dict[str, str], spml: Row
) -> tuple[Cell, ...]:
    """Return SPML, TEL and AGMM, then AGMM++ with each network, without a DenseCRF and with one."""
    (tel, tel_id), (agmm, agmm_id), *ours = ids.items()
    rows = [spml, Row("TEL (ResNet)", (tel_id,), method="TreeEnergy", printed={"row": tel})]
    rows += agmm_rows((agmm_id,), label="AGMM (ResNet)", printed={"row": agmm})
    rows += printed_rows("AGMM (ResNet)", printed={"row": agmm})
    for (number, training), (network, refined) in zip(ours, product(NETWORKS, (False, True)), strict=True):
        label = f"AGMM++ ({NETWORKS[network]})" + (" + CRF" if refined else "")
        rows += agmmpp_rows(label, (training,), printed={"row": number}, network=network, refined=refined)
    made = cells(preset, table, [replace(row, note=notes.get(row.label, row.note)) for row in rows], (column,))
    others = lines_of_others(table, made)
    for n, line in enumerate(others):
        if line["method"] == "AGMM++" and line["crf"] == "true":
            others[n] = line | {"method": "AGMM++ + CRF"}
    return (*quoted(others), *made)


def table4(preset: Preset) -> tuple[Cell, ...]:
    """Clicks on Cityscapes; Seminar has no specification and is shown as published."""
    rows = [
        Row("Baseline", ("O030", "O035", "O040", "O045"), printed={"method": "Baseline"}),
        *_low_level(("O031", "O036", "O041", ""), ("O032", "O037", "O042", "")),
        *agmm_rows(("O033", "O038", "O043", ""), (WITHOUT, WITHOUT, WITHOUT, ""), printed={"method": "AGMM"}),
        *agmmpp_rows("AGMM++", ("O077", "O079", "O081", ""), printed={"method": "AGMM++"}),
    ]
    seminar = [line for line in lines("agmmpp_table4") if line["method"] == "Seminar"]
    columns = (*CLICKS, Column("full", "clicks_full", {"clicks": ""}))
    return (*quoted(seminar, "{clicks} clicks"), *cells(preset, "agmmpp_table4", rows, columns))


def _low_level(crf: tuple[str, ...], tel: tuple[str, ...]) -> list[Row]:
    """Return the rows of DenseCRF loss and TEL with clicks and blocks."""
    return [
        Row("DenseCRF loss", crf, method="DenseCRFLoss", options=SCALED, printed={"row": "2"}),
        Row("TEL", tel, method="TreeEnergy", options=NARROW, printed={"method": "TEL"}),
    ]


def table6(preset: Preset) -> tuple[Cell, ...]:
    """Boxes on VOC; TSCD has no specification and is shown as published."""
    spml = Row("SPML (ResNet)", ("O084",), method="SPML", printed={"row": "8"}, refined=True, note="on CAMs in boxes")
    tel = Row("TEL (ResNet)", ("O085",), method="TreeEnergy", printed={"row": "11"}, refined=True, note="on our seeds")
    vit = agmmpp_rows("AGMM++ (ViT)", ("O088",), printed={"row": "15"}, network="vit", refined=True)
    rows = [
        Row("Cross-entropy (ResNet)", ("extra:cross-entropy on the same seeds",), refined=True),
        tel,
        *agmmpp_rows("AGMM++ (ResNet)", ("O087",), printed={"row": "14"}, refined=True),
        Row("Cross-entropy (ViT)", ("O104",), network="vit", refined=True),
        replace(vit[0], note="the paper's text says 76.7"),
        vit[1],
    ]
    made = cells(preset, "agmmpp_table6", [spml], (Column("box", "boxcam"),))
    made += cells(preset, "agmmpp_table6", rows, (BOXES,))
    return (*quoted(lines_of_others("agmmpp_table6", made)), *made)


def table7(preset: Preset) -> tuple[Cell, ...]:
    """Blocks on ADE20K; Seminar has no specification and is shown as published.

    Where a preset has them, blocks on the data set of points and scribbles, too: all forms of labels on one data set.
    """
    columns = (*BLOCKS, Column("full", "blocks_full", {"block_ratio": ""}))
    columns += (Column("block 10%, images of Table 10", "blocks", in_paper=False),)
    partly = (*(_BLOCKS,) * 3, "", "")
    without = (*(WITHOUT,) * 3, "", "")
    rows = [
        Row("Baseline", (*(_BLOCKS,) * 4, _ONE_SET), printed={"method": "Baseline"}),
        *_low_level(partly, partly),
        *agmm_rows(("O089", "O091", "O093", "", ""), without, printed={"method": "AGMM"}),
        *agmmpp_rows("AGMM++", ("O090", "O092", "O094", "", _ONE_SET), printed={"method": "AGMM++"}),
    ]
    seminar = [line for line in lines("agmmpp_table7") if line["method"] == "Seminar"]
    return (*quoted(seminar, "block {block_ratio}"), *cells(preset, "agmmpp_table7", rows, columns))


def table8(preset: Preset) -> tuple[Cell, ...]:
    """Image tags, component by component: quality of the pseudo labels, and of the segmentation.

    The pseudo labels are those of the CAMs for ToCo and those of the mixture for AGMM++, on training images.
    """
    rows = [Row("ToCo", (_TOCO,), printed={"row": "1"}, network="vit")]
    rows += _steps("vit", (("O095",), ("O096",), ("O097",), ("O067",)), "")
    rows = [replace(row, note=f"pseudo labels by {_pseudo_labels(row.method)}") for row in rows]
    metrics = {PSEUDO: "mIoU_pseudo_label", SEGMENTATION: "mIoU_segmentation"}
    columns = tuple(Column(label, "tags", {"metric": metric}) for label, metric in metrics.items())
    made = []
    for cell in cells(preset, "agmmpp_table8", rows, columns):
        if cell.column == SEGMENTATION:
            made.append(_single_scale(cell))
        else:
            images = f"{cell.trained_run.history_images} training images"
            made.append(replace(cell, metric=table.TRAINING + _pseudo_labels(cell.method), protocol=images))
    return tuple(made)


def _pseudo_labels(method: str) -> str:
    return "G" if method == "AGMMpp" else "CAM"


def _single_scale(cell: Cell) -> Cell:
    """Return the cell of an ablation, which is tested without a DenseCRF and, as those of ToCo, at a single scale."""
    single = replace(cell.trained_run, scales=(1.0,), flip=False)
    return replace(cell, metric=table.SINGLE_SCALE, protocol=table.protocol(single))


def table9(preset: Preset) -> tuple[Cell, ...]:
    """Quality of pseudo labels from image tags, on training images."""
    printed = {line["method"]: line for line in lines("agmmpp_table9") if line["method"] in ("ToCo", "AGMM++")}
    ours = [
        replace(cell, column="image-level", **table.of_line(line))
        for cell in table8(preset)
        if cell.column == PSEUDO and (line := printed.get(cell.row))
    ]
    return (*quoted(lines_of_others("agmmpp_table9", ours)), *ours)


def table10(preset: Preset) -> tuple[Cell, ...]:
    """From AGMM to AGMM++: online EM, and the contrast of pixels."""
    old = {"terms": ("seg", "self", "weak", "con_old")}
    rows = [
        *agmm_rows(("O005", "O011"), printed={"row": "1"}),
        *printed_rows(printed={"row": "1"}),
        agmmpp_row("AGMM++, old L_con", ("O098", "O099"), printed={"row": "2"}, options=old),
        *agmmpp_rows("AGMM++", ("O074", "O082"), printed={"row": "3"}),
        agmmpp_row("AGMM++ without OEM", ("extra:AGMM++ without online EM",), options={"oem": False}),
    ]
    return cells(preset, "agmmpp_table10", rows, VOC)


def table11(preset: Preset) -> tuple[Cell, ...]:
    """Accuracy with a transformer; its cost needs no trained network (`agmm.networks.network_macs`)."""
    printed = [{"metric": "mIoU", "row": row} for row in "123"]
    note = "Table 12 prints 63.2, 69.0"
    rows = [
        Row("Baseline", ("O100", "O102"), printed=printed[0], network="vit", note=note),
        *agmm_rows(("O101", "O103"), printed=printed[1], network="vit"),
        *agmmpp_rows("AGMM++", ("O075", "O083"), printed=printed[2], network="vit"),
    ]
    return cells(preset, "agmmpp_table11", rows, VOC)


def table12(preset: Preset) -> tuple[Cell, ...]:
    """Components with a transformer: boxes, points, scribbles."""
    rows = [Row("L_seg", ("O104", "O100", "O102"), printed={"row": "1"}, network="vit")]
    ids = [tuple(f"O{first + shift:03}" for shift in (0, 3, 6)) for first in (105, 106, 107)]
    rows += _steps("vit", (*ids, ("O088", "O075", "O083")))
    return tuple(_single_scale(cell) for cell in cells(preset, "agmmpp_table12", rows, (BOXES, *VOC)))


def table13(preset: Preset) -> tuple[Cell, ...]:
    """Components with clicks on Cityscapes and blocks on ADE20K."""
    rows = [Row("L_seg", ("O030", _BLOCKS), printed={"row": "1"})]
    rows += _steps("resnet", (("O114", "O117"), ("O115", "O118"), ("O116", "O119"), ("O077", "O090")))
    return cells(preset, "agmmpp_table13", rows, (CLICKS[0], BLOCKS[0]))


def table14(preset: Preset) -> tuple[Cell, ...]:
    """Weight lambda_G of the mixture's losses."""
    rows = []
    numbers = (120, 121, 122, 123, None, 124)
    for weight, number in zip(LAMBDAS, numbers, strict=True):
        ids = (f"O{number:03}", f"O{number + 5:03}") if number else ("O074", "O082")
        printed = {"lambda_g": str(weight)}
        rows.append(agmmpp_row(f"λ_G = {weight}", ids, options={"lambda_gmm": weight}, printed=printed, value=weight))
    return cells(preset, "agmmpp_table14", rows, VOC)


def table15(preset: Preset) -> tuple[Cell, ...]:
    """Soft and online supervision against hard and fixed ones."""
    hard = {"absent": False}
    stopped = agmmpp_row("AGMM++ (SG)", ("O130", "O131"), options={"stop_gradient": True}, printed={"row": "4"})
    rows = [
        Row("Baseline", ("O001", "O007"), printed={"row": "1"}),
        Row("Baseline (+MT)", ("O002", "O008"), printed={"row": "2"}, second_stage=True),
        Row("Label Assignment", ("O013", "O015"), method="LabelAssignment", options=hard, printed={"row": "3"}),
        replace(stopped, note="printed as for AGMM (SG)"),
        *agmmpp_rows("AGMM++", ("O074", "O082"), printed={"row": "5"}),
    ]
    rows[4] = replace(rows[4], note="Tables 5 and 10 print 77.5 for scribbles")
    return cells(preset, "agmmpp_table15", rows, VOC)


def choices(preset: Preset) -> tuple[Cell, ...]:
    """Not in the paper: what it leaves open, each changed alone."""
    features = int(dict(preset.run.network_options).get("feature_channels", 256))
    changes: dict[str, dict[str, Any]] = {
        "as chosen": {},
        "assignment: responsibilities": {"assignment": "responsibility"},
        "assignment: scores": {"assignment": "soft"},
        "labeled pixels stay": {"keep_labels": True},
        "L_con: pixels of the old mixture": {"con_members": "old"},
        "L_self: sum over all classes": {"self_classes": "all"},
        "distance as printed, signed": {"distance": "signed"},
        "distance: root mean square": {"distance": "rms"},
        "spread without gradient": {"detach_sigma": True},
        "least spread 0.5": {"sigma_min": 0.5},
        "one spread per image, ours": POOLED,
        "one spread, as AGMM's released code": {"sigma": 0.5**0.5},
        "half the squeezed channels": {"channels": squeezed(features) // 2},
        "twice the squeezed channels": {"channels": 2 * squeezed(features)},
        "as many squeezed channels as features": {"channels": features},
        "L_seg as printed, binary": {"seg": "bce"},
        "with the absent-class loss": {"terms": (*_CON, "absent")},
    }
    open_ = ("extra:what the paper leaves open",)
    rows = [agmmpp_row(name, open_, options=options) for name, options in changes.items()]
    rows[0] = replace(rows[0], ids=("O074", "O082"))
    return cells(preset, "agmmpp_table10", rows, VOC)


def _steps(network: str, ids: Iterable[tuple[str, ...]], prefix: str = "L_seg ") -> list[Row]:
    """Return the rows 2 to 5 of an ablation with their trainings."""
    *steps, whole = ids
    rows = []
    for number, ((label, options), trainings) in enumerate(zip(STEPS.items(), steps, strict=True), 2):
        printed = {"row": str(number)}
        rows.append(agmmpp_row(prefix + label, trainings, options=options, printed=printed, network=network))
    return rows + agmmpp_rows("AGMM++", whole, printed={"row": str(len(steps) + 2)}, network=network)


PAPER = "AGMM++ (TPAMI 2025)"
_CITY, _ADE = "Cityscapes val, ResNet-50 with ImageNet weights", "ADE20K val, ResNet-101 with ImageNet weights"
_BOTH_DATA = "Cityscapes, ADE20K"
_COCO = "COCO 2014 val, ResNet-101 or ViT-B with ImageNet weights"
_voc = partial(table.table, paper=PAPER, published_on="PASCAL VOC 2012 val, ResNet-101 or ViT-B with ImageNet weights")
TABLES = (
    _voc(table1, "Table 1: image tags on VOC"),
    _voc(table2, "Table 2: image tags on COCO", data="COCO", published_on=_COCO),
    _voc(table3, "Table 3: points on VOC"),
    _voc(table4, "Table 4: clicks on Cityscapes", data="Cityscapes", published_on=_CITY),
    _voc(table5, "Table 5: scribbles on VOC"),
    _voc(table6, "Table 6: boxes on VOC"),
    _voc(table7, "Table 7: blocks on ADE20K", data="ADE20K", published_on=_ADE),
    _voc(table8, "Table 8: components with image tags"),
    _voc(table9, "Table 9: pseudo labels from image tags"),
    _voc(table10, "Table 10: from AGMM to AGMM++"),
    _voc(table11, "Table 11: cost"),
    _voc(table12, "Table 12: components with a transformer"),
    _voc(table13, "Table 13: components on Cityscapes and ADE20K", data=_BOTH_DATA, published_on=f"{_CITY}; {_ADE}"),
    _voc(table14, "Table 14: weight of the mixture"),
    _voc(table15, "Table 15: soft and online supervision"),
    table.table(choices, "Not in the paper: what it leaves open", PAPER),
)

# --- Figures ----------------------------------------------------------------------------------------------------------
# Where the paper does not name the network of a figure it is the ResNet, and the transformer where the figure belongs
# to a table that has no other (image tags step by step, COCO).

_IMAGE_TAGS, _BOXES = ("tags", agmmpp_row("image tags", ("O065",))), ("boxes", agmmpp_row("boxes", ("O087",)))
_POINTS, _LINES = ("points", agmmpp_row("points", ("O074",))), ("scribbles", agmmpp_row("scribbles", ("O082",)))
_ALL_FORMS = _IMAGE_TAGS, _BOXES, _POINTS, _LINES
_ON_POINTS = ("points", Row("Baseline", ("O001",))), ("points", agmmpp_row("AGMM++", ("O074",)))
_WITHOUT_EM = agmmpp_row("AGMM++ without OEM", ("O097",), options=STEPS["+ L_self + L_weak + L_con"], network="vit")
_WHOLE, _TOCO_ROW = agmmpp_row("AGMM++", ("O067",), network="vit"), Row("ToCo", (_TOCO,), network="vit")
_EM = ("tags", _WITHOUT_EM), ("tags", _WHOLE)
_ON_COCO = ("coco_tags", _TOCO_ROW), ("coco_tags", replace(_WHOLE, ids=("O071",)))


def _kinds(columns: Iterable[Column], ids: Iterable[str]) -> list[tuple[str, Row]]:
    """Return AGMM++ with several kinds of labels; the paper does not say with which of them it drew Fig. 14 and 15."""
    return [(kind.labels, agmmpp_row(kind.label, (training,))) for kind, training in zip(columns, ids, strict=True)]


_figure = partial(table.figure, paper=PAPER)
FIGURES = (
    _figure("agmmpp_figure2a", "Fig. 2a: features of full supervision", ("full", Row("full supervision", ("O027",)))),
    # The paper names neither the labels nor the network of Fig. 2c.
    _figure("agmmpp_figure2c", "Fig. 2c: accuracy of similar and dissimilar pseudo labels", _IMAGE_TAGS, _BOXES),
    _figure("agmmpp_figure7", "Fig. 7: weak labels, segmentation and mixture", _IMAGE_TAGS, _BOXES, _LINES),
    _figure("agmmpp_figure8", "Fig. 8: mixtures of image tags, without and with online EM", *_EM),
    # Pseudo labels of other methods are not at hand.
    _figure("agmmpp_figure9", "Fig. 9: quality of pseudo labels", _IMAGE_TAGS, _BOXES, _LINES, _POINTS, curves="GP"),
    # Segmentation P against mixture G on the training images; the notebook draws all epochs.
    _figure("agmmpp_figure10", "Fig. 10: segmentation and mixture during training", *_ON_POINTS, curves=()),
    _figure("agmmpp_figure11", "Fig. 11: features from image tags", ("tags", _TOCO_ROW), *_EM),
    _figure("agmmpp_figure12", "Fig. 12: predictions from tags, boxes, points and scribbles", *_ALL_FORMS),
    _figure("agmmpp_figure13", "Fig. 13: predictions from image tags on COCO", *_ON_COCO),
    _figure("agmmpp_figure14", "Fig. 14: predictions from clicks", *_kinds(CLICKS, ("O077", "O079", "O081"))),
    _figure("agmmpp_figure15", "Fig. 15: predictions from blocks", *_kinds(BLOCKS, ("O090", "O092", "O094"))),
)

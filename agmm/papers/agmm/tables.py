"""Tables and figures of AGMM (CVPR 2023) and its supplement: on VOC, and on Cityscapes with clicks."""

from dataclasses import replace
from functools import partial
from typing import Any

from agmm.data import sets
from agmm.papers import table
from agmm.papers.table import CLASS_IOU, Cell, Column, Row, cells, figure_cells, lines, protocol, published, quoted
from agmm.training.presets import Preset

VOC = (Column("point", "points"), Column("scribble", "scribbles"))
CLICKS = tuple(Column(f"{n} clicks", f"clicks{n}", {"clicks": str(n)}) for n in (20, 50, 100))
SIGMAS = (0.1, 0.5, 0.8, 1.0, 1.5)  # fixed spreads of Table 3
LAMBDAS = (0.1, 0.2, 0.5, 0.8, 1.0, 1.5)  # weights of the mixture's losses

SCALED, NARROW = {"size_rule": "scaled_sigma"}, {"sigma": 0.002}
"""Options of the DenseCRF loss and of TEL on Cityscapes and ADE20K; those of TEL are its release's."""

# Printed row -> its loss terms, its number in Table 1, and its run for points and for scribbles.
ABLATION: dict[str, tuple[tuple[str, ...], str, tuple[str, str]]] = {
    "L_seg + L_self": (("seg", "self"), "3", ("O003", "O009")),
    "L_seg + L_self + L_spar": (("seg", "self", "spar"), "4", ("O004", "O010")),
    "L_seg + L_self + L_spar + L_con": (("seg", "self", "spar", "con"), "5", ("O005", "O011")),
}
_FULL = "L_seg + L_self + L_spar + L_con"
_TERMS = ABLATION[_FULL][0]
_WITH_ABSENT = (*_TERMS, "absent")
_STOPPED = {"stop_gradient": True}
WITHOUT = "extra:without the absent-class loss"
_PRINTED = "extra:equations as printed"
_ALONE = "extra:absent-class loss alone"
_BOTH = "extra:equations as printed, with the absent-class loss"
_EVERYWHERE: dict[str, Any] = {"self_classes": "all"}  # the other reading of Eq. 8: a sum over all K classes


def agmm_row(
    label: str, ids: tuple[str, ...], terms: tuple[str, ...] = _WITH_ABSENT, *, variant: str = "official", **how: Any
) -> Row:
    """Return a row of AGMM; ``how`` are other fields of `Row`, and ``options`` beside variant and terms."""
    how["options"] = {"variant": variant, "terms": terms} | how.get("options", {})
    return Row(label, ids, method="AGMM", **how)


def agmm_rows(
    ids: tuple[str, ...], without: tuple[str, ...] = (WITHOUT,), label: str = "AGMM", **how: Any
) -> list[Row]:
    """Return the rows of AGMM as released and without its absent-class loss."""
    return [agmm_row(label, ids, **how), agmm_row(label, without, _TERMS, **how)]


def printed_rows(label: str = "AGMM", **how: Any) -> list[Row]:
    """Return the rows of AGMM by its equations, in both readings of Eq. 8."""
    printed = partial(agmm_row, label, (_PRINTED,), _TERMS, variant="paper", **how)
    return [printed(options=reading) for reading in ({}, _EVERYWHERE)]


# --- VOC --------------------------------------------------------------------------------------------------------------


def table1(preset: Preset) -> tuple[Cell, ...]:
    """Loss ablation.

    Published numbers stand beside the released code's objective, which has an absent-class loss in every row with the
    mixture; whether the paper's rows had it is not known. No sentence of the paper describes that loss, so each row is
    also trained without it, and by the equations as printed in both readings of Eq. 8.
    """
    rows = [
        Row("L_seg", ("O001", "O007"), printed={"row": "1"}),
        Row("L_seg + MT", ("O002", "O008"), printed={"row": "2"}, second_stage=True),
        *_ablation({label: ids for label, (_, _, ids) in ABLATION.items()}),
        agmm_row(f"{_FULL} + MT", ("O006", "O012"), printed={"row": "6"}, second_stage=True),
        *_ablation(),
        *_ablation(variant="paper"),
        *_ablation(variant="paper", options=_EVERYWHERE),
        agmm_row(_FULL, (_BOTH,), variant="paper"),
        alone := agmm_row("L_seg + L_absent", (_ALONE,), ("seg", "absent")),
    ]
    if "scratch" in preset.inits[1:]:
        scratch = ("extra:from scratch",)
        corners = [rows[0], alone, agmm_row(_FULL, scratch, _TERMS), agmm_row(_FULL, scratch)]
        rows += [replace(row, ids=scratch, printed={}, init="scratch") for row in corners]
    return cells(preset, "agmm_table1", rows, VOC)


def _ablation(
    ids: dict[str, tuple[str, ...]] | None = None, variant: str = "official", options: dict[str, Any] | None = None
) -> list[Row]:
    """Return rows that add a loss each: with these trainings and the absent-class loss, or without that loss."""
    extra = (WITHOUT if variant == "official" else _PRINTED,)
    rows = []
    for label, (terms, number, _) in ABLATION.items():
        trainings, terms = (ids[label], (*terms, "absent")) if ids else (extra, terms)
        rows.append(agmm_row(label, trainings, terms, printed={"row": number}, variant=variant, options=options or {}))
    return rows


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Adaptive against non-adaptive supervision, with and without the absent-class loss."""
    with_absent = ("extra:with the absent-class loss",)
    assignment = partial(Row, "Label Assignment", method="LabelAssignment", printed={"row": "3"})
    stop_gradient = partial(agmm_row, "AGMM (SG)", options=_STOPPED, printed={"row": "4"})
    rows = [
        Row("Baseline", ("O001", "O007"), printed={"row": "1"}),
        Row("Baseline (+MT)", ("O002", "O008"), printed={"row": "2"}, second_stage=True),
        assignment(("O013", "O015"), options={"absent": False}),
        assignment(with_absent, options={"absent": True}),
        stop_gradient(("O014", "O016"), ("seg", "self")),
        stop_gradient(with_absent, ("seg", "self", "absent")),
        *agmm_rows(("O005", "O011"), printed={"row": "5"}),
        *printed_rows(printed={"row": "5"}),
    ]
    return cells(preset, "agmm_table2", rows, VOC)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Fixed against adaptive spread, in the printed variant: the released code has no spread to set.

    Set with a row per value, as each is trained with and without the absent-class loss, and two of them with Eq. 8
    over all classes, which contains it.
    """
    numbered = [(f"O{17 + i:03}", f"O{22 + i:03}") for i in range(len(SIGMAS))]
    adaptive = {"sigma": "Eq. (5)"}
    rows = []
    for terms, ids, last in ((_TERMS, numbered, _PRINTED), (_WITH_ABSENT, [(_BOTH,)] * len(SIGMAS), _BOTH)):
        for sigma, identity in zip(SIGMAS, ids, strict=True):
            fixed = agmm_row(f"σ = {sigma}", identity, terms, variant="paper", options={"sigma": sigma}, value=sigma)
            rows.append(replace(fixed, printed={"sigma": str(sigma)}))
        rows.append(agmm_row("σ by Eq. 5", (last,), terms, variant="paper", printed=adaptive))
    everywhere = partial(agmm_row, ids=(_PRINTED,), terms=_TERMS, variant="paper")
    constant = {"sigma": 1.0} | _EVERYWHERE
    rows.append(everywhere("σ = 1.0", options=constant, printed={"sigma": "1.0"}, value=1.0))
    rows.append(everywhere("σ by Eq. 5", options=_EVERYWHERE, printed=adaptive))
    rows.append(agmm_row("no σ: exp(-d²)", ("O005", "O011"), printed=adaptive))
    return cells(preset, "agmm_table3", rows, VOC)


def supp_table1(preset: Preset) -> tuple[Cell, ...]:
    """Weight lambda of the mixture's losses, the absent-class loss among them, and without that loss."""
    numbers = (*range(46, 50), None, 50)
    rows = []
    for terms in (_WITH_ABSENT, _TERMS):
        for weight, number in zip(LAMBDAS, numbers, strict=True):
            ids = (f"O{number:03}", f"O{number + 5:03}") if number else ("O005", "O011")
            trained = ids if terms == _WITH_ABSENT else (WITHOUT,)
            row = agmm_row(f"λ = {weight}", trained, terms, options={"lambda_gmm": weight}, value=weight)
            rows.append(replace(row, printed={"lambda": str(weight)}))
    return cells(preset, "agmm_supp_table1", rows, VOC)


def absent(preset: Preset) -> tuple[Cell, ...]:
    """Not in the paper: what the mixture and the absent-class loss bring alone and together, from every start.

    And whether it matters that the released contrast adds up class means over a batch instead of averaging them.
    """
    rows = []
    for init in preset.inits:
        corners = [Row("baseline", ("O001", "O007")), agmm_row("+ absent-class loss", (_ALONE,), ("seg", "absent"))]
        for variant, ids, without in (("official", ("O005", "O011"), WITHOUT), ("paper", (_BOTH,), _PRINTED)):
            corners.append(agmm_row("+ mixture", (without,), _TERMS, variant=variant))
            corners.append(agmm_row("+ both", ids, variant=variant))
        corners.append(agmm_row("+ mixture", (_PRINTED,), _TERMS, variant="paper", options=_EVERYWHERE))
        default = init == preset.inits[0]
        rows += [replace(row, init=init, ids=row.ids if default else ("extra:from scratch",)) for row in corners]
    constant = partial(agmm_row, "+ mixture, σ = 1.0", terms=_TERMS, variant="paper")
    rows.append(constant(("O020", "O025"), options={"sigma": 1.0}))
    rows.append(constant((_PRINTED,), options={"sigma": 1.0} | _EVERYWHERE))
    mean = partial(agmm_row, ids=("extra:contrast of means",), options={"con_vectors": "mean"})
    rows += [mean("+ mixture, con_vectors mean", terms=_TERMS), mean("+ both, con_vectors mean")]
    return cells(preset, "agmm_table1", rows, VOC)


def table4(preset: Preset) -> tuple[Cell, ...]:
    """All methods of the paper's comparison: quoted numbers as quoted, and what the authors trained, trained."""
    network = {"network_id": "3"}
    another = "published for the decoder of DeepLabV2"
    said = "the paper's text says 64.9 for points"
    elsewhere, tel_ids = ("", "extra:SPML on the points of the others", ""), ("", "extra:TEL on points", "O028")
    ours = [
        Row("DeepLabV3+", ("O027", "O001", "O007"), printed=network | {"method": "DeeplabV3+"}),
        Row("SPML", ("", "", "O029"), method="SPML", printed={"method": "SPML"}, note=another),
        Row("SPML", elsewhere, method="SPML", note=another),
        Row("TEL", tel_ids, method="TreeEnergy", printed=network | {"method": "TEL"}, note=said),
        *agmm_rows(("", "O005", "O011"), ("", WITHOUT, WITHOUT), printed=network | {"method": "AGMM"}),
        *(replace(row, ids=("", _PRINTED, _PRINTED)) for row in printed_rows(printed=network | {"method": "AGMM"})),
    ]
    trained = {("DeeplabV3+", "3"), ("TEL", "3"), ("AGMM", "3")}
    trained |= {("SPML", "2")} if preset.embedding else set()
    others = [line for line in lines("agmm_table4") if (line["method"], line["network_id"]) not in trained]
    return (*quoted(others), *cells(preset, "agmm_table4", ours, (Column("full", "full"), *VOC)))


def supp_table3(preset: Preset) -> tuple[Cell, ...]:
    """Every class, points and scribbles; published numbers where the data set has VOC's classes."""
    return _per_class(preset, "agmm_supp_table3", VOC, ("O005", "O011"), "voc")


def _per_class(
    preset: Preset, table: str, columns: tuple[Column, ...], ids: tuple[str, ...], dataset: str
) -> tuple[Cell, ...]:
    """Return AGMM with and without the absent-class loss, a row per class and one for the mean."""
    rows = agmm_rows(ids, (WITHOUT,) * len(ids))
    printed = {column.label: column.printed or {"supervision": column.label} for column in columns}
    made: dict[str, list[Cell]] = {}
    for cell in cells(preset, table, rows, columns):
        for name in (*sets.class_names(cell.dataset), "mIoU"):
            metric, line = (name, "mean") if name == "mIoU" else (CLASS_IOU + name, name.replace(" ", "_"))
            number = published(table, **{"class": line}, **printed[cell.column]) if cell.dataset == dataset else {}
            made.setdefault(name, []).append(replace(cell, row=name, metric=metric, **number))
    return tuple(cell for of_class in made.values() for cell in of_class)


# --- Cityscapes -------------------------------------------------------------------------------------------------------


def table5(preset: Preset) -> tuple[Cell, ...]:
    """Methods that the authors trained, and full supervision.

    Random clicks name only some of the classes of an image. Beside the paper's columns, a click per region names nearly
    all of them, to tell what a method owes to that.
    """
    columns = (*CLICKS, Column("full", "clicks_full", {"clicks": ""}))
    columns += (Column("click per region", "regions", in_paper=False),)
    regions = "extra:a click per region"
    rows = [
        Row("Baseline", ("O030", "O035", "O040", "O045", regions), printed={"row": "1"}),
        Row("DenseCRF Loss", (*_ids(31), "", ""), method="DenseCRFLoss", options=SCALED, printed={"row": "2"}),
        Row("TEL", (*_ids(32), "", ""), method="TreeEnergy", options=NARROW, printed={"row": "3"}),
        *agmm_rows((*_ids(33), "", regions), (WITHOUT, WITHOUT, WITHOUT, "", regions), printed={"row": "4"}),
        agmm_row("AGMM (+MT)", (*_ids(34), "", ""), printed={"row": "5"}, second_stage=True),
    ]
    return cells(preset, "agmm_table5", rows, columns)


def supp_table2(preset: Preset) -> tuple[Cell, ...]:
    """Loss ablation, as Table 1 with clicks: the released code with and without its absent-class loss."""
    ids = (("O057", "O060", "O063"), ("O058", "O061", "O064"), _ids(33))
    rows = [
        Row("L_seg", _ids(30), printed={"row": "1"}),
        Row("L_seg + MT", ("O056", "O059", "O062"), printed={"row": "2"}, second_stage=True),
        *_ablation(dict(zip(ABLATION, ids, strict=True))),
        agmm_row(f"{_FULL} + MT", _ids(34), printed={"row": "6"}, second_stage=True),
        *_ablation(),
        agmm_row("L_seg + L_absent", (_ALONE,), ("seg", "absent")),
    ]
    return cells(preset, "agmm_supp_table2", rows, CLICKS)


def supp_table4(preset: Preset) -> tuple[Cell, ...]:
    """Every class; published numbers where the data set is Cityscapes."""
    return _per_class(preset, "agmm_supp_table4", CLICKS, _ids(33), "cityscapes")


def _ids(first: int) -> tuple[str, str, str]:
    """Return the trainings of one method with 20, 50 and 100 clicks."""
    return f"O{first:03}", f"O{first + 5:03}", f"O{first + 10:03}"


PAPER = "AGMM (CVPR 2023)"
_voc = partial(table.table, paper=PAPER)
_cityscapes = partial(_voc, data="Cityscapes", published_on="Cityscapes val, ResNet-50 with ImageNet weights")
_absent = _voc(absent, "Not in the paper: mixture against absent-class loss")
TABLES = (
    _voc(table1, "Table 1: loss ablation"),
    _voc(table2, "Table 2: adaptive supervision"),
    _voc(table3, "Table 3: spread of the mixture"),
    _voc(supp_table1, "Supplementary Table 1: weight of the mixture"),
    replace(_absent, notebook="notebooks/agmm/absent_class_loss.ipynb"),
    _voc(table4, "Table 4: all methods on VOC"),
    _voc(supp_table3, "Supplementary Table 3: classes of VOC"),
    _cityscapes(table5, "Table 5: clicks on Cityscapes"),
    _cityscapes(supp_table2, "Supplementary Table 2: loss ablation on Cityscapes"),
    _cityscapes(supp_table4, "Supplementary Table 4: classes of Cityscapes"),
)

# --- Figures ----------------------------------------------------------------------------------------------------------

_BASELINE, _AGMM = ("points", Row("Baseline", ("O001",))), ("points", agmm_row("AGMM", ("O005",)))
_CURVES = _BASELINE, _AGMM, ("points", agmm_row("AGMM without L_absent", (WITHOUT,), _TERMS))
_READ = [
    ("points", replace(row, label=f"AGMM {name}")) for name, row in zip(table.READINGS, printed_rows(), strict=True)
]
_AGMM_SG = ("points", agmm_row("AGMM (SG)", ("O014",), ("seg", "self"), options=_STOPPED))
_FORMS = [("points", agmm_row("AGMM, points", ("O005",))), ("scribbles", agmm_row("AGMM, scribbles", ("O011",)))]
_CLICKED = [(column.labels, agmm_row(column.label, (id,))) for column, id in zip(CLICKS, _ids(33), strict=True)]


def figure4(preset: Preset) -> tuple[Cell, ...]:
    """How classes separate: AGMM after the first epoch, half of its epochs and all of them."""
    (cell,) = figure_cells(preset, _AGMM)
    epochs, made = cell.trained_run.epochs, []
    for stop in dict.fromkeys((1, epochs // 2)):
        run = replace(cell.trained_run, stop_after=stop)
        early = replace(cell, row=f"epoch {stop}", training_id="extra:stopped early", run=run, protocol=protocol(run))
        made.append(early)
    return (*made, replace(cell, row=f"epoch {epochs}"))


_figure = partial(table.figure, paper=PAPER)
FIGURES = (
    # The paper does not say which network Fig. 2b shows.
    _figure("agmm_figure2", "Fig. 2b: similar and dissimilar pixels", _BASELINE, _AGMM),
    _voc(figure4, "Fig. 4: classes separate during training"),
    _figure("agmm_supp_figure1", "Supplementary Fig. 1: segmentation and mixture", _AGMM),
    # Segmentation P against mixture G on the training images; the notebook draws all epochs.
    _figure(
        "agmm_supp_figure2",
        "Supplementary Fig. 2: segmentation and mixture during training",
        *_CURVES,
        *_READ,
        curves=(),
    ),
    _figure("agmm_supp_figure3", "Supplementary Fig. 3: features", _BASELINE, _AGMM_SG, _AGMM),
    _figure("agmm_supp_figure4", "Supplementary Fig. 4: predictions from points and scribbles", *_FORMS),
    _figure("agmm_supp_figure6", "Supplementary Fig. 5 and 6: clicks, and predictions from them", *_CLICKED),
)

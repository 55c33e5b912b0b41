"""Tables and figures of AGMM (CVPR 2023) and its supplement."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from agmm.presets import Preset
from agmm.runs import Init
from agmm.tables.cells import Cell, Table, describe, published

PAPER = "AGMM (CVPR 2023)"
COLUMNS = {"point": "points", "scribble": "scribbles"}
"""Printed column -> kind of labels; a preset without that kind leaves the column out."""

# Printed row -> its loss terms, its number in Table 1, and its run for points and for scribbles.
_ABLATION: dict[str, tuple[tuple[str, ...], int, tuple[str, str]]] = {
    "L_seg + L_self": (("seg", "self"), 3, ("O003", "O009")),
    "L_seg + L_self + L_spar": (("seg", "self", "spar"), 4, ("O004", "O010")),
    "L_seg + L_self + L_spar + L_con": (("seg", "self", "spar", "con"), 5, ("O005", "O011")),
}
_FULL = "L_seg + L_self + L_spar + L_con"
_TERMS = _ABLATION[_FULL][0]
_WITHOUT = "extra:without the absent-class loss"


class _Row(NamedTuple):
    """A row to be set in both columns."""

    label: str
    ids: tuple[str, str]
    printed: int | None = None
    method: str = "Baseline"
    options: dict[str, Any] = {}
    init: Init | None = None
    pending: bool = False


def table1(preset: Preset) -> tuple[Cell, ...]:
    """Loss ablation.

    The paper's runs are the released code's objective, which has an absent-class loss in every row with the mixture.
    The paper never mentions that loss, so each row is also trained without it, and by the equations as printed.
    """
    rows = [_Row("L_seg", ("O001", "O007"), 1), _Row("L_seg + MT", ("O002", "O008"), 2, pending=True)]
    rows += [_agmm(label, (*terms, "absent"), ids, n) for label, (terms, n, ids) in _ABLATION.items()]
    rows.append(_agmm(_FULL + " + MT", (*_TERMS, "absent"), ("O006", "O012"), 6)._replace(pending=True))
    rows += [_agmm(label, terms, (_WITHOUT, _WITHOUT), n) for label, (terms, n, _) in _ABLATION.items()]
    printed = "extra:equations as printed"
    rows += [_agmm(label, terms, (printed, printed), n, "paper") for label, (terms, n, _) in _ABLATION.items()]
    both = "extra:equations as printed, with the absent-class loss"
    rows.append(_agmm(_FULL, (*_TERMS, "absent"), (both, both), None, "paper"))
    alone = _agmm("L_seg + L_absent", ("seg", "absent"), ("extra:absent-class loss alone",) * 2)
    rows.append(alone)
    if "scratch" in preset.inits[1:]:
        corners = [rows[0], alone, _agmm(_FULL, _TERMS, ("", "")), _agmm(_FULL, (*_TERMS, "absent"), ("", ""))]
        rows += [row._replace(ids=("extra:from scratch",) * 2, printed=None, init="scratch") for row in corners]
    return _cells(preset, "agmm_table1", rows)


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Adaptive against non-adaptive supervision, with and without the absent-class loss."""
    with_absent = ("extra:with the absent-class loss",) * 2
    sg: dict[str, Any] = {"variant": "official", "stop_gradient": True}
    rows = [
        _Row("Baseline", ("O001", "O007"), 1),
        _Row("Baseline (+MT)", ("O002", "O008"), 2, pending=True),
        _Row("Label Assignment", ("O013", "O015"), 3, "LabelAssignment", {"absent": False}),
        _Row("Label Assignment", with_absent, 3, "LabelAssignment", {"absent": True}),
        _Row("AGMM (SG)", ("O014", "O016"), 4, "AGMM", sg | {"terms": ("seg", "self")}),
        _Row("AGMM (SG)", with_absent, 4, "AGMM", sg | {"terms": ("seg", "self", "absent")}),
        _agmm("AGMM", (*_TERMS, "absent"), ("O005", "O011"), 5),
        _agmm("AGMM", _TERMS, (_WITHOUT, _WITHOUT), 5),
    ]
    return _cells(preset, "agmm_table2", rows)


def supp_figure2(preset: Preset) -> tuple[Cell, ...]:
    """Segmentation P against mixture G on the training images, points; the notebook draws all epochs."""
    rows = {
        "Baseline": (preset.at("points"), "O001"),
        "AGMM": (preset.at("points", "AGMM", variant="official", terms=(*_TERMS, "absent")), "O005"),
        "AGMM without L_absent": (preset.at("points", "AGMM", variant="official", terms=_TERMS), _WITHOUT),
    }
    columns = ["P", "P among labeled classes", "G", "G - P, first epoch", "G - P, last epoch"]
    return tuple(
        Cell(
            row=row,
            column=column,
            training_id=training_id,
            run=run,
            metric=f"training mIoU: {column}",
            **describe(run) | {"protocol": f"{run.history_images} training images, single scale"},
        )
        for row, (run, training_id) in rows.items()
        for column in (columns if run.method == "AGMM" else columns[:2])
    )


def _agmm(
    label: str, terms: tuple[str, ...], ids: tuple[str, ...], printed: int | None = None, variant: str = "official"
) -> _Row:
    return _Row(label, (ids[0], ids[1]), printed, "AGMM", {"variant": variant, "terms": terms})


def _cells(preset: Preset, table: str, rows: Iterable[_Row]) -> tuple[Cell, ...]:
    cells = []
    for row in rows:
        for column, training_id in zip(COLUMNS, row.ids, strict=True):
            if COLUMNS[column] not in preset.labels:
                continue
            run = preset.at(COLUMNS[column], row.method, init=row.init, **row.options)
            value, source = published(table, row.printed, column) if row.printed else (None, "")
            cells.append(
                Cell(
                    row=row.label,
                    column=column,
                    training_id=training_id,
                    run=None if row.pending else run,
                    published=value,
                    published_source=source,
                    **describe(run),
                )
            )
    return tuple(cells)


TABLES = {
    table.name: table
    for table in (
        Table("agmm_table1", "Table 1: loss ablation", PAPER, "notebooks/agmm/table1.ipynb", table1),
        Table("agmm_table2", "Table 2: adaptive supervision", PAPER, "notebooks/agmm/table2.ipynb", table2),
        Table(
            "agmm_supp_figure2",
            "Supplementary Fig. 2: segmentation and mixture during training",
            PAPER,
            "notebooks/agmm/supp_figure2.ipynb",
            supp_figure2,
        ),
    )
}

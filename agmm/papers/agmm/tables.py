"""Tables and figures of AGMM (CVPR 2023) and its supplement, on VOC in the paper."""

from typing import Any

from agmm.papers.table import Cell, Column, Row, Table, cells
from agmm.training.presets import Preset

PAPER = "AGMM (CVPR 2023)"
COLUMNS = (Column("point", "points"), Column("scribble", "scribbles"))

# Printed row -> its loss terms, its number in Table 1, and its run for points and for scribbles.
ABLATION: dict[str, tuple[tuple[str, ...], str, tuple[str, str]]] = {
    "L_seg + L_self": (("seg", "self"), "3", ("O003", "O009")),
    "L_seg + L_self + L_spar": (("seg", "self", "spar"), "4", ("O004", "O010")),
    "L_seg + L_self + L_spar + L_con": (("seg", "self", "spar", "con"), "5", ("O005", "O011")),
}
_FULL = "L_seg + L_self + L_spar + L_con"
_TERMS = ABLATION[_FULL][0]
AS_RELEASED: dict[str, Any] = {"variant": "official", "terms": (*_TERMS, "absent")}
WITHOUT_ABSENT: dict[str, Any] = {"variant": "official", "terms": _TERMS}
WITHOUT = "extra:without the absent-class loss"
_PRINTED = "extra:equations as printed"
_ALONE = "extra:absent-class loss alone"
_BOTH = "extra:equations as printed, with the absent-class loss"


def table1(preset: Preset) -> tuple[Cell, ...]:
    """Loss ablation.

    The paper's runs are the released code's objective, which has an absent-class loss in every row with the mixture.
    The paper never mentions that loss, so each row is also trained without it, and by the equations as printed.
    """
    rows = [Row("L_seg", ("O001", "O007"), {"row": "1"})]
    rows.append(Row("L_seg + MT", ("O002", "O008"), {"row": "2"}, second_stage=True))
    rows += [_agmm(label, (*terms, "absent"), ids, n) for label, (terms, n, ids) in ABLATION.items()]
    full = _agmm(_FULL + " + MT", (*_TERMS, "absent"), ("O006", "O012"), "6")
    rows.append(full._replace(second_stage=True))
    rows += [_agmm(label, terms, (WITHOUT,), n) for label, (terms, n, _) in ABLATION.items()]
    rows += [_agmm(label, terms, (_PRINTED,), n, "paper") for label, (terms, n, _) in ABLATION.items()]
    rows.append(_agmm(_FULL, (*_TERMS, "absent"), (_BOTH,), None, "paper"))
    alone = _agmm("L_seg + L_absent", ("seg", "absent"), (_ALONE,))
    rows.append(alone)
    if "scratch" in preset.inits[1:]:
        corners = [rows[0], alone, _agmm(_FULL, _TERMS), _agmm(_FULL, (*_TERMS, "absent"))]
        rows += [row._replace(ids=("extra:from scratch",), printed=None, init="scratch") for row in corners]
    return cells(preset, "agmm_table1", rows, COLUMNS)


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Adaptive against non-adaptive supervision, with and without the absent-class loss."""
    with_absent = ("extra:with the absent-class loss",)
    sg = {"variant": "official", "stop_gradient": True}
    rows = [
        Row("Baseline", ("O001", "O007"), {"row": "1"}),
        Row("Baseline (+MT)", ("O002", "O008"), {"row": "2"}, second_stage=True),
        Row("Label Assignment", ("O013", "O015"), {"row": "3"}, "LabelAssignment", {"absent": False}),
        Row("Label Assignment", with_absent, {"row": "3"}, "LabelAssignment", {"absent": True}),
        Row("AGMM (SG)", ("O014", "O016"), {"row": "4"}, "AGMM", sg | {"terms": ("seg", "self")}),
        Row("AGMM (SG)", with_absent, {"row": "4"}, "AGMM", sg | {"terms": ("seg", "self", "absent")}),
        _agmm("AGMM", (*_TERMS, "absent"), ("O005", "O011"), "5"),
        _agmm("AGMM", _TERMS, (WITHOUT,), "5"),
    ]
    return cells(preset, "agmm_table2", rows, COLUMNS)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Fixed against adaptive spread, in the printed variant: the released code has no spread to set.

    Set with a row per value, as each is trained with and without the absent-class loss.
    """
    sigmas = (0.1, 0.5, 0.8, 1.0, 1.5)
    numbered = [(f"O{17 + i:03}", f"O{22 + i:03}") for i in range(len(sigmas))]
    adaptive = {"sigma": "Eq. (5)"}
    rows = []
    for terms, ids, last in ((_TERMS, numbered, _PRINTED), ((*_TERMS, "absent"), [(_BOTH,)] * len(sigmas), _BOTH)):
        options = {"variant": "paper", "terms": terms}
        for sigma, identity in zip(sigmas, ids, strict=True):
            rows.append(Row(f"σ = {sigma}", identity, {"sigma": str(sigma)}, "AGMM", options | {"sigma": sigma}))
        rows.append(Row("σ by Eq. 5", (last,), adaptive, "AGMM", options))
    rows.append(Row("no σ: exp(-d²)", ("O005", "O011"), adaptive, "AGMM", AS_RELEASED))
    return cells(preset, "agmm_table3", rows, COLUMNS)


def supp_table1(preset: Preset) -> tuple[Cell, ...]:
    """Weight lambda of the mixture's losses, the absent-class loss among them, and without that loss."""
    weights = (0.1, 0.2, 0.5, 0.8, 1.0, 1.5)
    numbers = (*range(46, 50), None, 50)
    rows = []
    for terms in ((*_TERMS, "absent"), _TERMS):
        for weight, number in zip(weights, numbers, strict=True):
            ids = (f"O{number:03}", f"O{number + 5:03}") if number else ("O005", "O011")
            options = {"variant": "official", "terms": terms, "lambda_gmm": weight}
            rows.append(
                Row(
                    f"λ = {weight}",
                    ids if "absent" in terms else (WITHOUT,),
                    {"lambda": str(weight)},
                    "AGMM",
                    options,
                )
            )
    return cells(preset, "agmm_supp_table1", rows, COLUMNS)


def absent(preset: Preset) -> tuple[Cell, ...]:
    """Not in the paper: what the mixture and the absent-class loss bring alone and together, from every start.

    And whether it matters that the released contrast adds up class means over a batch instead of averaging them.
    """
    rows = []
    for init in preset.inits:
        default = init == preset.inits[0]
        scratch = ("extra:from scratch",)
        corners = [Row("baseline", ("O001", "O007")), _agmm("+ absent-class loss", ("seg", "absent"), (_ALONE,))]
        for variant, ids, without in (("official", ("O005", "O011"), WITHOUT), ("paper", (_BOTH,), _PRINTED)):
            corners.append(_agmm("+ mixture", _TERMS, (without,), None, variant))
            corners.append(_agmm("+ both", (*_TERMS, "absent"), ids, None, variant))
        rows += [row._replace(init=init, ids=row.ids if default else scratch) for row in corners]
    for terms in (_TERMS, (*_TERMS, "absent")):
        mean = {"variant": "official", "terms": terms, "con_vectors": "mean"}
        name = "+ both" if "absent" in terms else "+ mixture"
        rows.append(Row(f"{name}, con_vectors mean", ("extra:contrast of means",), None, "AGMM", mean))
    return cells(preset, "agmm_table1", rows, COLUMNS)


def _agmm(
    label: str,
    terms: tuple[str, ...],
    ids: tuple[str, ...] = ("",),
    printed: str | None = None,
    variant: str = "official",
) -> Row:
    return Row(label, ids, {"row": printed} if printed else None, "AGMM", {"variant": variant, "terms": terms})


TABLES = {
    table.name: table
    for table in (
        Table("agmm_table1", "Table 1: loss ablation", PAPER, "notebooks/agmm/table1.ipynb", table1),
        Table("agmm_table2", "Table 2: adaptive supervision", PAPER, "notebooks/agmm/table2.ipynb", table2),
        Table("agmm_table3", "Table 3: spread of the mixture", PAPER, "notebooks/agmm/table3.ipynb", table3),
        Table(
            "agmm_supp_table1",
            "Supplementary Table 1: weight of the mixture",
            PAPER,
            "notebooks/agmm/supp_table1.ipynb",
            supp_table1,
        ),
        Table(
            "agmm_absent",
            "Not in the paper: mixture against absent-class loss",
            PAPER,
            "notebooks/agmm/absent_class_loss.ipynb",
            absent,
        ),
    )
}

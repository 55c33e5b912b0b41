"""Not in the papers: their methods side by side on real photographs, and what makes the mixture lose or win there."""

from dataclasses import replace
from functools import partial

from agmm.papers.agmm.tables import VOC, WITHOUT, agmm_row, printed_rows
from agmm.papers.agmmpp.tables import agmmpp_rows
from agmm.papers.table import Cell, Column, Row, Table, cells, curve_cells
from agmm.training.presets import Preset

_TERMS = ("seg", "self", "spar", "con")
_FULL = Column("full", "full")
_OURS = "extra:on photographs"


def methods(preset: Preset) -> tuple[Cell, ...]:
    """Return all methods from points and scribbles; from scribbles those that the papers compare there."""
    points, both = (_OURS, "", ""), (_OURS, _OURS, "")
    rows = [
        Row("baseline", ("O001", "O007", "O027")),
        Row("baseline + MT", ("O002", "", ""), second_stage=True),
        agmm_row("baseline + absent-class loss", both, ("seg", "absent")),
        agmm_row("AGMM", ("O005", "O011", "")),
        agmm_row("AGMM", (WITHOUT, "", ""), _TERMS),
        *(replace(row, ids=both) for row in printed_rows()),
        agmm_row("AGMM, σ = 1.0", ("O020", "", ""), _TERMS, variant="paper", options={"sigma": 1.0}),
        *(agmm_row(f"AGMM, λ = {weight}", points, options={"lambda_gmm": weight}) for weight in (0.1, 0.5)),
        agmm_row("AGMM (SG)", ("O014", "", ""), ("seg", "self"), options={"stop_gradient": True}),
        Row("Label Assignment", ("O013", "", ""), method="LabelAssignment"),
        Row("TEL", (_OURS, "O028", ""), method="TreeEnergy"),
        Row("DenseCRF Loss", points, method="DenseCRFLoss"),
        *(replace(row, ids=(*row.ids, "")) for row in agmmpp_rows("AGMM++", ("O074", "O082"))),
        Row("SPML", (_OURS, "O029", ""), method="SPML"),
    ]
    return cells(preset, "", rows, (*VOC, _FULL))


def during_training(preset: Preset) -> tuple[Cell, ...]:
    """Return segmentation and mixture on training images, epoch by epoch, of every method from points."""
    trained = [cell for cell in methods(preset) if cell.column == "point" and cell.method != "SPML"]
    return curve_cells([cell for cell in trained if "stage" not in cell.protocol])


PAPER = "AGMM, AGMM++ and SPML"
_table = partial(Table, paper=PAPER, notebook="notebooks/explore/real_photographs.ipynb")
TABLES = (
    _table("photographs", "Not in the papers: all methods on real photographs", cells=methods),
    _table("photographs_curves", "Not in the papers: training curves on real photographs", cells=during_training),
)

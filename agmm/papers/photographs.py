"""Not in the papers: their methods side by side on real photographs, and what makes the mixture lose or win there."""

from dataclasses import replace
from functools import partial
from typing import Any

from agmm.data import sets
from agmm.papers.agmm.tables import VOC, WITHOUT, agmm_row, printed_rows
from agmm.papers.agmmpp.tables import agmmpp_rows
from agmm.papers.table import Cell, Column, Row, Table, cells, curve_cells
from agmm.training.presets import Preset
from agmm.training.run import Run

_TERMS = ("seg", "self", "spar", "con")
_FULL = Column("full", "full")
_OURS = "extra:on photographs"


def methods(preset: Preset) -> tuple[Cell, ...]:
    """Return all methods from points and scribbles; from scribbles those that the papers compare there."""
    if preset.run.dataset in sets.GENERATED:
        return ()
    points, both = (_OURS, "", ""), (_OURS, _OURS, "")
    rows = [
        Row("baseline", ("O001", "O007", "O027")),
        Row("baseline + MT", ("O002", "", ""), second_stage=True),
        agmm_row("baseline + absent-class loss", both, ("seg", "absent")),
        agmm_row("AGMM", ("O005", "O011", "")),
        agmm_row("AGMM", (WITHOUT, "", ""), _TERMS),
        *(replace(row, ids=both) for row in printed_rows()),
        agmm_row("AGMM, σ = 1.0", ("O020", "", ""), _TERMS, variant="paper", options={"sigma": 1.0}),
        agmm_row("AGMM, λ = 0.1", ("O046", "", ""), options={"lambda_gmm": 0.1}),
        agmm_row("AGMM, λ = 0.5", ("O048", "", ""), options={"lambda_gmm": 0.5}),
        agmm_row("AGMM (SG)", ("O014", "", ""), ("seg", "self"), options={"stop_gradient": True}),
        Row("Label Assignment", ("O013", "", ""), method="LabelAssignment"),
        Row("TEL", (_OURS, "O028", ""), method="TreeEnergy"),
        Row("DenseCRF Loss", points, method="DenseCRFLoss"),
        *(replace(row, ids=(*row.ids, "")) for row in agmmpp_rows("AGMM++", ("O074", "O082"))),
        Row("SPML", (_OURS, "O029", ""), method="SPML"),
    ]
    return cells(preset, "", rows, (*VOC, _FULL))


_BASELINE, _RELEASED, _PRINTED = ("baseline", ""), ("AGMM", "released code"), ("AGMM", "as printed, present classes")
_ABSENT, _FIXED = ("baseline + absent-class loss", "released code"), ("AGMM, σ = 1.0", "as printed, present classes")


def during_training(preset: Preset) -> tuple[Cell, ...]:
    """Return segmentation and mixture on training images, epoch by epoch.

    With the absent-class loss alone the mixture is measured, too, on features that it does not shape.
    """
    wanted = _BASELINE, _ABSENT, _RELEASED, _PRINTED, _FIXED, ("AGMM++", "")
    shown = [cell for cell in methods(preset) if cell.column == "point" and (cell.row, cell.objective) in wanted]
    return curve_cells([replace(cell, row=_name(cell)) for cell in shown])


def _name(cell: Cell) -> str:
    return ", ".join(filter(None, (cell.row, cell.objective)))


def causes(preset: Preset) -> tuple[Cell, ...]:
    """Return the baseline and AGMM from points under other conditions: a column each, for the network "lite0"."""
    if preset.run.network != "lite0":
        return ()
    cells = [cell for cell in methods(preset) if cell.column == "point"]
    made = []
    for cell in (cell for cell in cells if (cell.row, cell.objective) in (_BASELINE, _RELEASED, _PRINTED)):
        for column, change in _conditions(preset.run).items():
            if cell.method != "Baseline" or "plain_epochs" not in change:
                run, training = replace(cell.trained_run, **change), _OURS if change else cell.training_id
                made.append(replace(cell, column=column, training_id=training, run=run))
    return tuple(made)


def _conditions(run: Run) -> dict[str, dict[str, Any]]:
    """Return what is different in a column of `causes`."""
    simulated = {"source": "simulated", "placement": "inside", "width": 3}
    conditions: dict[str, dict[str, Any]] = {"as it is": {}}
    for number in (1, 5, 20):
        labels = tuple((simulated | {"background_points": number}).items())
        conditions[f"simulated clicks, {number} on the background"] = {"label_options": labels}
    conditions |= {f"batches of {n}": {"batch_size": n, "microbatch": n} for n in (4, 16)}
    frozen = dict(run.network_options) | {"frozen_stages": 7}
    conditions["frozen backbone"] = {"network_options": tuple(frozen.items())}
    conditions["three plain epochs first"] = {"plain_epochs": 3}
    return conditions


PAPER = "AGMM, AGMM++ and SPML"
_table = partial(Table, paper=PAPER, notebook="notebooks/explore/real_photographs.ipynb")
TABLES = (
    _table("photographs_methods", "Not in the papers: all methods on real photographs", cells=methods),
    _table("photographs_curves", "Not in the papers: training curves on real photographs", cells=during_training),
    _table("photographs_causes", "Not in the papers: AGMM on real photographs under other conditions", cells=causes),
)

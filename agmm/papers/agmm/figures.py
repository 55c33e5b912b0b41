"""The trainings behind the figures of AGMM and its supplement."""

from collections.abc import Callable
from dataclasses import replace

from agmm.papers.agmm.tables import AS_RELEASED, PAPER, WITHOUT, WITHOUT_ABSENT
from agmm.papers.table import Cell, Table, describe
from agmm.training.presets import Preset
from agmm.training.run import Run

_CLICKS = {"20 clicks": ("clicks20", "O033"), "50 clicks": ("clicks50", "O038"), "100 clicks": ("clicks100", "O043")}


def figure2(preset: Preset) -> tuple[Cell, ...]:
    """Fig. 2b: pixels that are similar to labeled ones; the paper does not say which network it shows."""
    return _cells({"Baseline": (preset.at("points"), "O001"), "AGMM": (_agmm(preset), "O005")})


def figure4(preset: Preset) -> tuple[Cell, ...]:
    """How classes separate: AGMM after the first epoch, half of its epochs and all of them."""
    run = _agmm(preset)
    stops = dict.fromkeys((1, run.epochs // 2))
    rows = {f"epoch {stop}": (replace(run, stop_after=stop), "extra:stopped early") for stop in stops}
    return _cells(rows | {f"epoch {run.epochs}": (run, "O005")})


def supp_figure1(preset: Preset) -> tuple[Cell, ...]:
    """Segmentation and mixture side by side."""
    return _cells({"AGMM": (_agmm(preset), "O005")})


def supp_figure2(preset: Preset) -> tuple[Cell, ...]:
    """Segmentation P against mixture G on the training images, points; the notebook draws all epochs."""
    rows = {
        "Baseline": (preset.at("points"), "O001"),
        "AGMM": (preset.at("points", "AGMM", **AS_RELEASED), "O005"),
        "AGMM without L_absent": (preset.at("points", "AGMM", **WITHOUT_ABSENT), WITHOUT),
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


def supp_figure3(preset: Preset) -> tuple[Cell, ...]:
    """t-SNE of features."""
    sg = preset.at("points", "AGMM", variant="official", stop_gradient=True, terms=("seg", "self"))
    return _cells(
        {"Baseline": (preset.at("points"), "O001"), "AGMM (SG)": (sg, "O014"), "AGMM": (_agmm(preset), "O005")}
    )


def supp_figure4(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from points and scribbles, on VOC in the paper."""
    rows = {
        "AGMM, points": (_agmm(preset), "O005"),
        "AGMM, scribbles": (_agmm(preset, "scribbles") if "scribbles" in preset.labels else None, "O011"),
    }
    return _cells({name: (run, training) for name, (run, training) in rows.items() if run})


def supp_figure6(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from clicks, on Cityscapes in the paper."""
    return _cells({name: (_agmm(preset, labels), training) for name, (labels, training) in _CLICKS.items()})


def _agmm(preset: Preset, labels: str = "points") -> Run:
    return preset.at(labels, "AGMM", **AS_RELEASED)


def _cells(rows: dict[str, tuple[Run, str]]) -> tuple[Cell, ...]:
    return tuple(
        Cell(row=row, column="mIoU", training_id=training, run=run, **describe(run))
        for row, (run, training) in rows.items()
    )


def _table(name: str, title: str, rows: Callable[[Preset], tuple[Cell, ...]]) -> Table:
    return Table(f"agmm_{name}", title, PAPER, f"notebooks/agmm/{name}.ipynb", rows)


TABLES = {
    table.name: table
    for table in (
        _table("figure2", "Fig. 2b: similar and dissimilar pixels", figure2),
        _table("figure4", "Fig. 4: classes separate during training", figure4),
        _table("supp_figure1", "Supplementary Fig. 1: segmentation and mixture", supp_figure1),
        _table("supp_figure2", "Supplementary Fig. 2: segmentation and mixture during training", supp_figure2),
        _table("supp_figure3", "Supplementary Fig. 3: features", supp_figure3),
        _table("supp_figure4", "Supplementary Fig. 4: predictions from points and scribbles", supp_figure4),
        _table("supp_figure6", "Supplementary Fig. 5 and 6: clicks, and predictions from them", supp_figure6),
    )
}

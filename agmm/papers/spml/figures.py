"""The trainings behind the figures of SPML (ICLR 2021)."""

from collections.abc import Callable
from typing import NamedTuple

from agmm.papers.spml.tables import PAPER
from agmm.papers.table import Cell, Column, Row, Table, cells
from agmm.training.presets import Preset


class Panel(NamedTuple):
    """A kind of supervision in Fig. 6 and 8: what SPML is compared with, SPML itself, and full supervision.

    ``labels`` and ``full`` are kinds of labels of a preset, the latter with the same data.
    """

    label: str
    labels: str
    full: str
    rows: tuple[Row, Row, Row]


def _panel(label: str, labels: str, full: str, rival: Row, ours: str, whole: str) -> Panel:
    """A panel with SPML as the trainings ``ours`` and, from dense labels, ``whole``."""
    both = (Row("SPML", (ours,), None, "SPML"), Row("full supervision", (whole,), None, "SPML"))
    return Panel(label, labels, full, (rival, *both))


_ON_VOC = Row("DenseCRF loss", ("extra:the DenseCRF loss on the same network",), None, "DenseCRFLoss")
_ON_CAMS = Row("cross-entropy", ("extra:cross-entropy on the same pixel labels",))
PANELS = (
    _panel("image tags", "cam", "full", _ON_CAMS, "O132", "O133"),
    _panel("boxes", "boxcam", "full", _ON_CAMS, "O084", "O133"),
    _panel("scribbles", "scribbles", "full", _ON_VOC, "O029", "O133"),
    _panel("points on parts", "parts", "parts_full", _ON_VOC._replace(ids=("O137",)), "O138", "O140"),
)
"""Those that can be trained; a preset leaves out what it lacks."""

RELATIONS = (
    Row("C", ("O147",), None, "SPML", {"lambda_i": 0.0, "lambda_o": 0.0}),
    Row("C + I", ("O146",), None, "SPML", {"lambda_i": 0.1, "lambda_o": 0.0}),
    Row("C + I + O", ("O029",), None, "SPML", {"lambda_i": 0.1, "lambda_o": 0.5}),
)
"""One more relation at a time, as in Table 6: annotation, low-level similarity, co-occurrence."""


def figure6(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from several kinds of labels, a column for each, beside full supervision of the same pipeline."""
    made: list[Cell] = []
    for panel in PANELS:
        if preset.embedding is not None and {panel.labels, panel.full} <= set(preset.labels):
            *weak, full = panel.rows
            made += cells(preset, "", weak, [Column(panel.label, panel.labels)])
            made += cells(preset, "", [full], [Column(panel.label, panel.full)])
    return tuple(made)


def figure7(preset: Preset) -> tuple[Cell, ...]:
    """One more relation at a time; the paper does not name the labels, Table 6 has scribbles."""
    return cells(preset, "", RELATIONS, [Column("mIoU", "scribbles")])


def figure10(preset: Preset) -> tuple[Cell, ...]:
    """The embedding in which neighbors are looked for; the paper does not name the labels."""
    return cells(preset, "", [Row("SPML", ("O029",), None, "SPML")], [Column("mIoU", "scribbles")])


def _figure(rows: Callable[[Preset], tuple[Cell, ...]], number: str, title: str) -> Table:
    name = rows.__name__
    return Table(f"spml_{name}", f"Fig. {number}: {title}", PAPER, f"notebooks/spml/{name}.ipynb", rows)


TABLES = {
    table.name: table
    for table in (
        _figure(figure6, "6 and 8", "predictions from several kinds of labels"),
        _figure(figure7, "7 and 9", "one more relation at a time"),
        _figure(figure10, "10", "segments that are nearest to others"),
    )
}

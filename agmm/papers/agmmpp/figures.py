"""The trainings behind the figures of AGMM++ (TPAMI 2025).

Where the paper does not name the network of a figure it is the ResNet, and the transformer where the figure belongs to
a table that has no other (image tags step by step, COCO).
"""

from dataclasses import replace
from functools import partial

from agmm.papers.agmm.tables import CLICKS
from agmm.papers.agmmpp.tables import BLOCKS, PAPER, STEPS, agmmpp_row
from agmm.papers.table import Cell, Row, curve_cells, figure_cells, table
from agmm.training.presets import Preset

_TAGS = ("tags", agmmpp_row("image tags", ("O065",)))
_BOXES = ("boxes", agmmpp_row("boxes", ("O087",)))
_POINTS = ("points", agmmpp_row("points", ("O074",)))
_SCRIBBLES = ("scribbles", agmmpp_row("scribbles", ("O082",)))
_TOCO = Row("ToCo", ("extra:ToCo, the baseline of image tags",), network="vit")
_WHOLE = agmmpp_row("AGMM++", ("O067",), network="vit")
_WITHOUT_OEM = agmmpp_row("AGMM++ without OEM", ("O097",), options=STEPS["+ L_self + L_weak + L_con"], network="vit")


def figure2a(preset: Preset) -> tuple[Cell, ...]:
    """Features of full supervision."""
    return figure_cells(preset, ("full", Row("full supervision", ("O027",))))


def figure2c(preset: Preset) -> tuple[Cell, ...]:
    """Pseudo labels close to and far from their class; the paper names neither the labels nor the network."""
    return figure_cells(preset, _TAGS, _BOXES)


def figure7(preset: Preset) -> tuple[Cell, ...]:
    """Weak labels, segmentation and mixture."""
    return figure_cells(preset, _TAGS, _BOXES, _SCRIBBLES)


def figure8(preset: Preset) -> tuple[Cell, ...]:
    """Mixtures of image tags without and with online EM."""
    return figure_cells(preset, ("tags", _WITHOUT_OEM), ("tags", _WHOLE))


def figure9(preset: Preset) -> tuple[Cell, ...]:
    """Quality of pseudo labels from every kind of weak labels; other methods' are not at hand."""
    return curve_cells(figure_cells(preset, _TAGS, _BOXES, _SCRIBBLES, _POINTS), "GP")


def figure10(preset: Preset) -> tuple[Cell, ...]:
    """Segmentation P against mixture G on the training images, points; the notebook draws all epochs."""
    baseline, ours = Row("Baseline", ("O001",)), agmmpp_row("AGMM++", ("O074",))
    return curve_cells(figure_cells(preset, ("points", baseline), ("points", ours)))


def figure11(preset: Preset) -> tuple[Cell, ...]:
    """Features from image tags."""
    return figure_cells(preset, ("tags", _TOCO), ("tags", _WITHOUT_OEM), ("tags", _WHOLE))


def figure12(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from every kind of weak labels, on VOC in the paper."""
    return figure_cells(preset, _TAGS, _BOXES, _POINTS, _SCRIBBLES)


def figure13(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from image tags, on COCO in the paper."""
    return figure_cells(preset, ("coco_tags", _TOCO), ("coco_tags", replace(_WHOLE, ids=("O071",))))


def figure14(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from clicks, on Cityscapes in the paper, which does not say how many."""
    ids = zip(CLICKS, ("O077", "O079", "O081"), strict=True)
    return figure_cells(preset, *((column.labels, agmmpp_row(column.label, (training,))) for column, training in ids))


def figure15(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from blocks, on ADE20K in the paper, which does not say of which share."""
    ids = zip(BLOCKS, ("O090", "O092", "O094"), strict=True)
    return figure_cells(preset, *((column.labels, agmmpp_row(column.label, (training,))) for column, training in ids))


_figure = partial(table, paper=PAPER)
FIGURES = (
    _figure(figure2a, "Fig. 2a: features of full supervision"),
    _figure(figure2c, "Fig. 2c: accuracy of similar and dissimilar pseudo labels"),
    _figure(figure7, "Fig. 7: weak labels, segmentation and mixture"),
    _figure(figure8, "Fig. 8: mixtures of image tags, without and with online EM"),
    _figure(figure9, "Fig. 9: quality of pseudo labels"),
    _figure(figure10, "Fig. 10: segmentation and mixture during training"),
    _figure(figure11, "Fig. 11: features from image tags"),
    _figure(figure12, "Fig. 12: predictions from tags, boxes, points and scribbles"),
    _figure(figure13, "Fig. 13: predictions from image tags on COCO"),
    _figure(figure14, "Fig. 14: predictions from clicks"),
    _figure(figure15, "Fig. 15: predictions from blocks"),
)

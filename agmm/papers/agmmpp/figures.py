"""The trainings behind the figures of AGMM++ (TPAMI 2025).

Where the paper does not name the network of a figure it is the ResNet, and the transformer where the figure belongs to
a table that has no other (image tags step by step, COCO).
"""

from collections.abc import Callable
from dataclasses import replace

from agmm.papers.agmmpp.tables import PAPER, STEPS
from agmm.papers.table import Cell, Column, Row, Table, cells
from agmm.training.presets import Preset

_OURS = "AGMMpp"
_TAGS = ("tags", Row("image tags", ("O065",), None, _OURS))
_BOXES = ("boxes", Row("boxes", ("O087",), None, _OURS))
_POINTS = ("points", Row("points", ("O074",), None, _OURS))
_SCRIBBLES = ("scribbles", Row("scribbles", ("O082",), None, _OURS))
_TOCO = Row("ToCo", ("extra:ToCo, the baseline of image tags",), network="vit")
_WHOLE = Row("AGMM++", ("O067",), None, _OURS, network="vit")
_WITHOUT_OEM = Row("AGMM++ without OEM", ("O097",), None, _OURS, STEPS["+ L_self + L_weak + L_con"], network="vit")


def figure2a(preset: Preset) -> tuple[Cell, ...]:
    """Features of full supervision."""
    return _cells(preset, ("full", Row("full supervision", ("O027",))))


def figure2c(preset: Preset) -> tuple[Cell, ...]:
    """Pseudo labels close to and far from their class; the paper names neither the labels nor the network."""
    return _cells(preset, _TAGS, _BOXES)


def figure7(preset: Preset) -> tuple[Cell, ...]:
    """Weak labels, segmentation and mixture."""
    return _cells(preset, _TAGS, _BOXES, _SCRIBBLES)


def figure8(preset: Preset) -> tuple[Cell, ...]:
    """Mixtures of image tags without and with online EM."""
    return _cells(preset, ("tags", _WITHOUT_OEM), ("tags", _WHOLE))


def figure9(preset: Preset) -> tuple[Cell, ...]:
    """Quality of pseudo labels from every kind of weak labels; other methods' are not at hand."""
    found = _cells(preset, _TAGS, _BOXES, _SCRIBBLES, _POINTS)
    return tuple(_curve(cell, column) for cell in found for column in ("G", "P"))


def figure10(preset: Preset) -> tuple[Cell, ...]:
    """Segmentation P against mixture G on the training images, points; the notebook draws all epochs."""
    found = _cells(preset, ("points", Row("Baseline", ("O001",))), ("points", _POINTS[1]._replace(label="AGMM++")))
    columns = ["P", "P among labeled classes", "G", "G - P, first epoch", "G - P, last epoch"]
    return tuple(
        _curve(cell, column) for cell in found for column in (columns if cell.method == _OURS else columns[:2])
    )


def figure11(preset: Preset) -> tuple[Cell, ...]:
    """Features from image tags."""
    return _cells(preset, ("tags", _TOCO), ("tags", _WITHOUT_OEM), ("tags", _WHOLE))


def figure12(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from every kind of weak labels, on VOC in the paper."""
    return _cells(preset, _TAGS, _BOXES, _POINTS, _SCRIBBLES)


def figure13(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from image tags, on COCO in the paper."""
    return _cells(preset, ("coco_tags", _TOCO), ("coco_tags", _WHOLE._replace(ids=("O071",))))


def figure14(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from clicks, on Cityscapes in the paper, which does not say how many."""
    ids = {20: "O077", 50: "O079", 100: "O081"}
    return _cells(
        preset, *((f"clicks{n}", Row(f"{n} clicks", (training,), None, _OURS)) for n, training in ids.items())
    )


def figure15(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from blocks, on ADE20K in the paper, which does not say of which share."""
    ids = {10: "O090", 20: "O092", 50: "O094"}
    return _cells(
        preset, *((f"blocks{n}", Row(f"block {n}%", (training,), None, _OURS)) for n, training in ids.items())
    )


def _cells(preset: Preset, *rows: tuple[str, Row]) -> tuple[Cell, ...]:
    """A cell per kind of labels and row, as far as the preset has kind and network."""
    return tuple(cell for kind, row in rows for cell in cells(preset, "", [row], [Column("mIoU", kind)]))


def _curve(cell: Cell, column: str) -> Cell:
    assert cell.run is not None
    protocol = f"{cell.run.history_images} training images, single scale"
    return replace(cell, column=column, metric=f"training mIoU: {column}", protocol=protocol)


def _figure(rows: Callable[[Preset], tuple[Cell, ...]], title: str) -> Table:
    name = rows.__name__
    notebook = f"notebooks/agmmpp/{name}.ipynb"
    return Table(f"agmmpp_{name}", f"Fig. {name.removeprefix('figure')}: {title}", PAPER, notebook, rows)


TABLES = {
    table.name: table
    for table in (
        _figure(figure2a, "features of full supervision"),
        _figure(figure2c, "accuracy of similar and dissimilar pseudo labels"),
        _figure(figure7, "weak labels, segmentation and mixture"),
        _figure(figure8, "mixtures of image tags, without and with online EM"),
        _figure(figure9, "quality of pseudo labels"),
        _figure(figure10, "segmentation and mixture during training"),
        _figure(figure11, "features from image tags"),
        _figure(figure12, "predictions from tags, boxes, points and scribbles"),
        _figure(figure13, "predictions from image tags on COCO"),
        _figure(figure14, "predictions from clicks"),
        _figure(figure15, "predictions from blocks"),
    )
}

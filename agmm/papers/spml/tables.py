"""Tables of SPML (ICLR 2021): what its authors trained, with their columns of the test server as published.

"WvF" is the share of full supervision's mIoU that weak labels reach, of the same pipeline and test.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from agmm.data.synthetic import people
from agmm.papers.quoted import left, quoted
from agmm.papers.table import CLASS_IOU, WVF, Cell, Column, Row, Table, cells, lines, published
from agmm.training.presets import Preset

PAPER = "SPML (ICLR 2021)"
SCRIBBLES = Column("scribbles", "scribbles", {})
LENGTHS = {"100%": "scribbles", "80%": "scribbles80", "50%": "scribbles50", "30%": "scribbles30", "0%": "scribbles0"}
"""Length of scribbles as printed -> kind of labels."""

_DENSECRF = "extra:the DenseCRF loss on the same network"
_FULL, _SOFTMAX_FULL = "O133", "O027"


TAGS_AND_BOXES = {"image tags": ("cam", "O132"), "boxes": ("boxcam", "O084")}
"""Supervision as printed -> kind of labels, and the training that it is."""

_SAME_LABELS = "extra:cross-entropy on the same pixel labels"


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Image tags and boxes on VOC, tested with a DenseCRF; the test split needs the evaluation server.

    Both begin with the class activation maps of a network that learns image tags. Cross-entropy on the labels made of
    them, and SPML without a DenseCRF, are not in the paper.
    """
    made: list[Cell] = []
    for supervision, (kind, identity) in TAGS_AND_BOXES.items():
        column = Column(f"{supervision}, val", kind, {"supervision": supervision, "split": "val"})
        rows = (
            Row("Cross-entropy on CAM labels", (_SAME_LABELS,)),
            Row("Cross-entropy on CAM labels + CRF", (_SAME_LABELS,), refined=True),
            Row("SPML", (identity,), None, "SPML"),
            Row("SPML + CRF", (identity,), {"method": "Our SPML"}, "SPML", refined=True),
        )
        made += cells(preset, "spml_table2", rows, (column,))
    about = [
        line | {"backbone": line["backbone"] or "as published", "place": f"{line['supervision']}, {line['split']}"}
        for line in left("spml_table2", made)
    ]
    return (*quoted(about, column="place"), *made)


def table9(preset: Preset) -> tuple[Cell, ...]:
    """All forms of labels with a DenseCRF, mean over the classes.

    Published for the test split, which needs the evaluation server; ours are of the split that all other tables test.
    """
    forms = {
        "full": ("full", "O133"),
        "scribbles": ("scribbles", "O029"),
        "points (0% scribbles)": ("scribbles0", "O073"),
        "boxes": ("boxcam", "O084"),
        "image tags": ("cam", "O132"),
    }
    made: list[Cell] = []
    for supervision, (kind, identity) in forms.items():
        method = "Full mask" if supervision == "full" else "SPML"
        row = Row(
            f"{method} + CRF",
            (identity,),
            {"method": method if supervision == "full" else "Our SPML", "class": "mean"},
            "SPML",
            refined=True,
            note="published for the test split",
        )
        made += cells(preset, "spml_table9", (row,), (Column(supervision, kind),))
    return tuple(made)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC, beside full supervision of the same pipeline, with and without a DenseCRF; and a plot.

    The plot on the right is of Table 7's numbers as shares, without a DenseCRF.
    """
    left = _shares(preset, "spml_table3", {"100%": "scribbles"}, {"panel": "left"})
    right = []
    for length in LENGTHS:
        for cell in table7(preset):
            if (cell.row, cell.column, length != "100%") == ("SPML", f"scribbles {length}, {WVF}", True):
                value, source = published("spml_table3", panel="right", scribble_length=length)
                right.append(replace(cell, published=value, published_source=source))
    return (*left, *right)


def table7(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles of several lengths, down to points."""
    return _shares(preset, "spml_table7", LENGTHS, {})


def _shares(preset: Preset, table: str, lengths: dict[str, str], where: dict[str, str]) -> tuple[Cell, ...]:
    """Mean IoU of SPML and of the DenseCRF loss at some lengths and in full, and the share of the full one (WvF)."""
    made: list[Cell] = []
    ids = dict(zip(LENGTHS, ("O029", "O134", "O135", "O136", "O073"), strict=True))
    for method, label in (("DenseCRFLoss", "DenseCRF loss"), ("SPML", "SPML")):
        for refined in (False, True):
            if refined and not preset.networks["resnet"].refined:
                continue
            name = f"{label} + CRF" if refined else label
            ours = method == "SPML"
            crf = {"crf": str(refined).lower(), "method": "Our SPML", "metric": "mIoU"} | where
            full = Column("full", "full", {"supervision": "full"}, in_paper=ours)
            row = Row(name, (_FULL if ours else _SOFTMAX_FULL,), crf, method if ours else "Baseline", refined=refined)
            whole = cells(preset, table, (row,), (full,))
            made += whole
            for length, kind in lengths.items():
                identity = ids[length] if ours else _DENSECRF
                column = Column(f"scribbles {length}", kind, {"scribble_length": length}, in_paper=ours)
                for cell in cells(preset, table, (row._replace(ids=(identity,), method=method),), (column,)):
                    made += [cell, *_share(table, cell, whole, length if ours else "", crf)]
    return (*_quoted(table, made), *made)


def _share(table: str, cell: Cell, whole: Iterable[Cell], length: str, where: dict[str, str]) -> Iterator[Cell]:
    """The same cell as a share of full supervision."""
    for full in whole:
        wanted = where | {"metric": WVF, "scribble_length": length}
        found = [line for line in lines(table) if all(line.get(name) == value for name, value in wanted.items())]
        published = float(found[0]["value"]) if found else None
        yield replace(cell, column=f"{cell.column}, WvF", metric=WVF, full=full.run, published=published)


def table6(preset: Preset) -> tuple[Cell, ...]:
    """Weights of the relations, from scribbles."""
    rows = []
    sweeps: dict[str, list[tuple[float, float, float | None]]] = {
        "left": [(0.3, 0.5, None), (0.1, 0.5, None), (0.05, 0.5, None), (0.0, 0.5, None)],
        "middle": [(0.1, 1.0, None), (0.1, 0.5, None), (0.1, 0.1, None), (0.1, 0.0, None)],
        "right": [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 0.5, 0.0), (0.1, 0.5, 0.1)],
    }
    ids = {(0.3, 0.5): "O141", (0.05, 0.5): "O142", (0.0, 0.5): "O143", (0.1, 1.0): "O144", (0.1, 0.1): "O145"}
    ids |= {(0.1, 0.0): "O146", (0.0, 0.0): "O147", (0.1, 0.5): "O029"}
    names = {"left": "λ_I = {0:g} (λ_O = {1:g})", "middle": "λ_O = {1:g} (λ_I = {0:g})"}
    for panel, weights in sweeps.items():
        for number, (i, o, a) in enumerate(weights, start=1):
            name = names.get(panel, "λ_I = {0:g}, λ_O = {1:g}, λ_A = {2:g}").format(i, o, a)
            options = {"lambda_i": i, "lambda_o": o} | ({"lambda_a": a} if a else {})
            identity, where = "O148" if a else ids[i, o], {"panel": panel, "row": str(number)}
            rows.append(Row(name, (identity,), where, "SPML", options))
    return cells(preset, "spml_table6", rows, (SCRIBBLES,))


def table8(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC, mean over the classes; the classes of the paper are in its file of published numbers."""
    rows = []
    for refined in (False, True):
        where = {"class": "mean", "crf": str(refined).lower()}
        suffix = " + CRF" if refined else ""
        rows.append(
            Row(
                f"DenseCRF loss{suffix}",
                (_DENSECRF,),
                where | {"method": "Tang et al. (2018b)"},
                "DenseCRFLoss",
                refined=refined,
            )
        )
        rows.append(Row(f"SPML{suffix}", ("O029",), where | {"method": "Our SPML"}, "SPML", refined=refined))
    return cells(preset, "spml_table8", rows, (SCRIBBLES,))


PARTS, PARTS_FULL = Column("points", "parts", {}), Column("full", "parts_full", {})


def table4(preset: Preset) -> tuple[Cell, ...]:
    """Parts of people from points, on DensePose, and their share of full supervision."""
    return tuple(cell for cell in table10(preset) if cell.column in ("mean", WVF) and cell.labels != "full")


def table10(preset: Preset) -> tuple[Cell, ...]:
    """Parts of people, class by class: full supervision by a softmax and by SegSort, and points."""
    rows = [
        (Row("Softmax", ("O139",), {"method": "Softmax"}), PARTS_FULL, None),
        (Row("SegSort", ("O140",), {"method": "SegSort"}, "SPML"), PARTS_FULL, None),
        (Row("DenseCRF loss", ("O137",), {"method": "Tang et al. (2018b)"}, "DenseCRFLoss"), PARTS, "Softmax"),
        (Row("SPML", ("O138",), {"method": "Our SPML"}, "SPML"), PARTS, "SegSort"),
    ]
    made: dict[str, list[Cell]] = {}
    for row, column, whole in rows:
        for cell in cells(preset, "spml_table10", (row._replace(printed=None),), (column,)):
            made[row.label] = [_of_class(cell, name, row.printed or {}) for name in (*people.CLASS_NAMES, "mean")]
            if whole in made:
                share = _of_class(replace(cell, metric=WVF, full=made[whole][-1].run), "mean", row.printed or {})
                made[row.label].append(replace(share, column=WVF))
    return tuple(cell for row_cells in made.values() for cell in row_cells)


def _of_class(cell: Cell, name: str, where: dict[str, str]) -> Cell:
    """The cell of one class, or of the mean over all."""
    metric = cell.metric if name == "mean" else f"{CLASS_IOU}{name}"
    printed = {"IoU": "IoU", "mIoU": "mIoU", WVF: WVF}[metric.split(":")[0]]
    value, source = published("spml_table10", **where, **{"class": name.replace(" ", "_"), "metric": printed})
    return replace(cell, column=name, metric=metric, published=value, published_source=source)


def _quoted(table: str, made: Iterable[Cell]) -> tuple[Cell, ...]:
    """Published lines of others, beside which there is no cell of ours."""
    shown = [line for line in lines(table) if line["run_by_authors"] != "true" and line["metric"] == "mIoU"]
    both = {line["method"] for line in shown if line["crf"] == "true"} & {
        line["method"] for line in shown if line["crf"] == "false"
    }
    about = [
        line
        | {"backbone": line.get("backbone") or "as published"}
        | ({"method": f"{line['method']} + CRF"} if line["crf"] == "true" and line["method"] in both else {})
        for line in shown
    ]
    return tuple(
        replace(cell, column="full" if line["supervision"] == "full" else f"scribbles {line['scribble_length']}")
        for cell, line in zip(quoted(about), about, strict=True)
    )


_VOC = "PASCAL VOC 2012 val, ResNet-101 with ImageNet weights"
_DENSEPOSE = "DensePose-COCO minival2014, PSPNet with ImageNet weights"


def _table(
    rows: Callable[[Preset], tuple[Cell, ...]], title: str, data: str = "VOC", published_on: str = _VOC
) -> Table:
    number = rows.__name__.removeprefix("table")
    notebook = f"notebooks/spml/table{number}.ipynb"
    return Table(f"spml_table{number}", f"Table {number}: {title}", PAPER, notebook, rows, data, published_on)


TABLES = {
    table.name: table
    for table in (
        _table(table2, "image tags and boxes"),
        _table(table3, "scribbles, and full supervision"),
        _table(table4, "parts of people from points", "DensePose", _DENSEPOSE),
        _table(table6, "weights of the relations"),
        _table(table7, "scribbles of several lengths"),
        _table(table8, "scribbles, class by class"),
        _table(table9, "all forms of labels", "VOC", _VOC.replace(" val", " test")),
        _table(table10, "parts of people, class by class", "DensePose", _DENSEPOSE),
    )
}

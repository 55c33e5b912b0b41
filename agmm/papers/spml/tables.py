"""Tables of SPML (ICLR 2021): what its authors trained, with their columns of the test server as published.

"WvF" is the share of full supervision's mIoU that weak labels reach, of the same pipeline and test.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from agmm.data.synthetic import people
from agmm.papers import table
from agmm.papers.table import CLASS_IOU, WVF, Cell, Column, Row, cells, lines, lines_of_others, published, quoted
from agmm.training.presets import Preset

SCRIBBLES = Column("scribbles", "scribbles", {})
LENGTHS = {"100%": "scribbles", "80%": "scribbles80", "50%": "scribbles50", "30%": "scribbles30", "0%": "scribbles0"}
"""Length of scribbles as printed -> kind of labels."""

LAMBDAS_I, LAMBDAS_O = (0.3, 0.1, 0.05, 0.0), (1.0, 0.5, 0.1, 0.0)
"""Weights of low-level similarity and of co-occurrence, of which the paper chooses 0.1 and 0.5."""

FORMS = {
    "full": ("full", "O133"),
    "scribbles": ("scribbles", "O029"),
    "points (0% scribbles)": ("scribbles0", "O073"),
    "boxes": ("boxcam", "O084"),
    "image tags": ("cam", "O132"),
}
"""Supervision as printed -> kind of labels, and the training that it is."""

_DENSECRF = "extra:the DenseCRF loss on the same network"
_SAME_LABELS = "extra:cross-entropy on the same pixel labels"
_spml = partial(Row, method="SPML")


def table2(preset: Preset) -> tuple[Cell, ...]:
    """Image tags and boxes on VOC, tested with a DenseCRF; the test split needs the evaluation server.

    Both begin with the class activation maps of a network that learns image tags. Cross-entropy on the labels made of
    them, and SPML without a DenseCRF, are not in the paper.
    """
    made: list[Cell] = []
    for supervision in ("image tags", "boxes"):
        kind, training = FORMS[supervision]
        column = Column(f"{supervision}, val", kind, {"supervision": supervision, "split": "val"})
        rows = (
            Row("Cross-entropy on CAM labels", (_SAME_LABELS,)),
            Row("Cross-entropy on CAM labels + CRF", (_SAME_LABELS,), refined=True),
            _spml("SPML", (training,)),
            _spml("SPML + CRF", (training,), printed={"method": "Our SPML"}, refined=True),
        )
        made += cells(preset, "spml_table2", rows, (column,))
    others = [line | {"backbone": line["backbone"] or "as published"} for line in lines_of_others("spml_table2", made)]
    return (*quoted(others, "{supervision}, {split}"), *made)


def table9(preset: Preset) -> tuple[Cell, ...]:
    """All forms of labels with a DenseCRF, mean over the classes.

    Published for the test split, which needs the evaluation server; ours are of the split that all other tables test.
    """
    made: list[Cell] = []
    for supervision, (kind, training) in FORMS.items():
        label, method = ("Full mask", "Full mask") if supervision == "full" else ("SPML", "Our SPML")
        row = _spml(f"{label} + CRF", (training,), printed={"method": method, "class": "mean"}, refined=True)
        elsewhere = replace(row, note="published for the test split")
        made += cells(preset, "spml_table9", (elsewhere,), (Column(supervision, kind),))
    return tuple(made)


def table3(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC, beside full supervision of the same pipeline, with and without a DenseCRF; and a plot.

    The plot on the right is of Table 7's numbers as shares, without a DenseCRF.
    """
    left = _shares(preset, "spml_table3", {"100%": "scribbles"}, {"panel": "left"})
    shares = {f"scribbles {length}, {WVF}": length for length in LENGTHS if length != "100%"}
    right = []
    for cell in table7(preset):
        if cell.row == "SPML" and cell.column in shares:
            number = published("spml_table3", panel="right", scribble_length=shares[cell.column])
            right.append(replace(cell, **number))
    return (*left, *right)


def table7(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles of several lengths, down to points."""
    return _shares(preset, "spml_table7", LENGTHS, {})


def _shares(preset: Preset, table: str, lengths: dict[str, str], where: dict[str, str]) -> tuple[Cell, ...]:
    """Return mIoU of SPML and of the DenseCRF loss at some lengths and in full, and the share of the full one (WvF)."""
    made: list[Cell] = []
    trainings = dict(zip(LENGTHS, ("O029", "O134", "O135", "O136", "O073"), strict=True))
    for method, label in (("DenseCRFLoss", "DenseCRF loss"), ("SPML", "SPML")):
        for refined in (False, True):
            ours = method == "SPML"
            printed = {"crf": str(refined).lower(), "method": "Our SPML", "metric": "mIoU"} | where
            name, of_full = f"{label} + CRF" if refined else label, ("O133",) if ours else ("O027",)
            full = Row(name, of_full, method=method if ours else "Baseline", printed=printed, refined=refined)
            whole = cells(preset, table, (full,), (Column("full", "full", {"supervision": "full"}, in_paper=ours),))
            made += whole
            for length, kind in lengths.items():
                row = replace(full, ids=(trainings[length] if ours else _DENSECRF,), method=method)
                column = Column(f"scribbles {length}", kind, {"scribble_length": length}, in_paper=ours)
                fields = printed | {"metric": WVF, "scribble_length": length}
                share = [float(line["value"]) for line in lines(table) if ours and fields.items() <= line.items()]
                for cell in cells(preset, table, (row,), (column,)):
                    kept = replace(cell, column=f"{cell.column}, {WVF}", metric=WVF, published=next(iter(share), None))
                    made += [cell, *(replace(kept, full=one.run) for one in whole)]
    return (*_quoted(table, made), *made)


def table6(preset: Preset) -> tuple[Cell, ...]:
    """Weights of the relations, from scribbles."""
    trainings = {(0.3, 0.5): "O141", (0.05, 0.5): "O142", (0.0, 0.5): "O143", (0.1, 1.0): "O144", (0.1, 0.1): "O145"}
    trainings |= {(0.1, 0.0): "O146", (0.0, 0.0): "O147", (0.1, 0.5): "O029"}
    panels = {
        "left": {f"λ_I = {i:g} (λ_O = 0.5)": (i, 0.5, 0.0) for i in LAMBDAS_I},
        "middle": {f"λ_O = {o:g} (λ_I = 0.1)": (0.1, o, 0.0) for o in LAMBDAS_O},
        "right": {
            f"λ_I = {i:g}, λ_O = {o:g}, λ_A = {a:g}": (i, o, a)
            for i, o, a in ((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 0.5, 0.0), (0.1, 0.5, 0.1))
        },
    }
    rows = []
    for panel, weights in panels.items():
        for number, (label, (i, o, a)) in enumerate(weights.items(), start=1):
            options = {"lambda_i": i, "lambda_o": o} | ({"lambda_a": a} if a else {})
            training, where = "O148" if a else trainings[i, o], {"panel": panel, "row": str(number)}
            rows.append(_spml(label, (training,), options=options, printed=where))
    return cells(preset, "spml_table6", rows, (SCRIBBLES,))


def table8(preset: Preset) -> tuple[Cell, ...]:
    """Scribbles on VOC, mean over the classes; the classes of the paper are in its file of published numbers."""
    rows = []
    for refined in (False, True):
        suffix, where = " + CRF" if refined else "", {"class": "mean", "crf": str(refined).lower()}
        rival = Row(f"DenseCRF loss{suffix}", (_DENSECRF,), method="DenseCRFLoss", refined=refined)
        ours = _spml(f"SPML{suffix}", ("O029",), refined=refined)
        rows.append(replace(rival, printed=where | {"method": "Tang et al. (2018b)"}))
        rows.append(replace(ours, printed=where | {"method": "Our SPML"}))
    return cells(preset, "spml_table8", rows, (SCRIBBLES,))


PARTS, PARTS_FULL = Column("points", "parts", {}), Column("full", "parts_full", {})


def table4(preset: Preset) -> tuple[Cell, ...]:
    """Parts of people from points, on DensePose, and their share of full supervision."""
    return tuple(cell for cell in table10(preset) if cell.column in ("mean", WVF) and cell.labels != "full")


def table10(preset: Preset) -> tuple[Cell, ...]:
    """Parts of people, class by class: full supervision by a softmax and by SegSort, and points."""
    rows = (
        (Row("Softmax", ("O139",)), PARTS_FULL, "Softmax", ""),
        (_spml("SegSort", ("O140",)), PARTS_FULL, "SegSort", ""),
        (Row("DenseCRF loss", ("O137",), method="DenseCRFLoss"), PARTS, "Tang et al. (2018b)", "Softmax"),
        (_spml("SPML", ("O138",)), PARTS, "Our SPML", "SegSort"),
    )
    made: dict[str, list[Cell]] = {}
    for row, column, method, whole in rows:
        for cell in cells(preset, "spml_table10", (row,), (column,)):
            made[row.label] = [_of_class(cell, name, method) for name in (*people.CLASS_NAMES, "mean")]
            if whole in made:
                share = _of_class(replace(cell, metric=WVF, full=made[whole][-1].run), "mean", method)
                made[row.label].append(replace(share, column=WVF))
    return tuple(cell for of_row in made.values() for cell in of_row)


def _of_class(cell: Cell, name: str, method: str) -> Cell:
    """Return the cell of one class, or of the mean over all."""
    metric = cell.metric if name == "mean" else CLASS_IOU + name
    where = {"method": method, "class": name.replace(" ", "_"), "metric": metric.split(":")[0]}
    return replace(cell, column=name, metric=metric, **published("spml_table10", **where))


def _quoted(table: str, made: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return the published numbers of others."""
    shown = [line for line in lines(table) if line["run_by_authors"] != "true" and line["metric"] == "mIoU"]
    without, with_crf = ({line["method"] for line in shown if line["crf"] == crf} for crf in ("false", "true"))
    others = []
    for line in shown:
        both = line["crf"] == "true" and line["method"] in without & with_crf
        column = "full" if line["supervision"] == "full" else f"scribbles {line['scribble_length']}"
        method = f"{line['method']} + CRF" if both else line["method"]
        others.append(line | {"backbone": line.get("backbone") or "as published", "column": column, "method": method})
    return quoted(others, "{column}")


# --- Figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A kind of supervision in Fig. 6 and 8: what SPML is compared with, SPML itself, and full supervision.

    ``labels`` and ``full`` are kinds of labels of a preset, the latter with the same data; ``training`` and ``whole``
    the trainings of SPML with them.
    """

    label: str
    labels: str
    full: str
    rival: Row
    training: str
    whole: str = "O133"


_ON_VOC = Row("DenseCRF loss", (_DENSECRF,), method="DenseCRFLoss")
_ON_CAMS = Row("cross-entropy", (_SAME_LABELS,))
PANELS = (
    Panel("image tags", "cam", "full", _ON_CAMS, "O132"),
    Panel("boxes", "boxcam", "full", _ON_CAMS, "O084"),
    Panel("scribbles", "scribbles", "full", _ON_VOC, "O029"),
    Panel("points on parts", "parts", "parts_full", replace(_ON_VOC, ids=("O137",)), "O138", "O140"),
)
"""Those that can be trained; a preset leaves out what it lacks."""

RELATIONS = (
    _spml("C", ("O147",), options={"lambda_i": 0.0, "lambda_o": 0.0}),
    _spml("C + I", ("O146",), options={"lambda_i": 0.1, "lambda_o": 0.0}),
    _spml("C + I + O", ("O029",), options={"lambda_i": 0.1, "lambda_o": 0.5}),
)
"""One more relation at a time, as in Table 6: annotation, low-level similarity, co-occurrence."""


def figure6(preset: Preset) -> tuple[Cell, ...]:
    """Predictions from several kinds of labels, a column for each, beside full supervision of the same pipeline."""
    made: list[Cell] = []
    for panel in PANELS:
        if preset.embedding is not None and {panel.labels, panel.full} <= set(preset.labels):
            weak = (panel.rival, _spml("SPML", (panel.training,)))
            full = _spml("full supervision", (panel.whole,))
            made += cells(preset, "", weak, [Column(panel.label, panel.labels)])
            made += cells(preset, "", [full], [Column(panel.label, panel.full)])
    return tuple(made)


PAPER = "SPML (ICLR 2021)"
_voc = partial(table.table, paper=PAPER)
_parts = partial(_voc, data="DensePose", published_on="DensePose-COCO minival2014, PSPNet with ImageNet weights")
TABLES = (
    _voc(table2, "Table 2: image tags and boxes"),
    _voc(table3, "Table 3: scribbles, and full supervision"),
    _parts(table4, "Table 4: parts of people from points"),
    _voc(table6, "Table 6: weights of the relations"),
    _voc(table7, "Table 7: scribbles of several lengths"),
    _voc(table8, "Table 8: scribbles, class by class"),
    _voc(table9, "Table 9: all forms of labels", published_on="PASCAL VOC 2012 test, ResNet-101 with ImageNet weights"),
    _parts(table10, "Table 10: parts of people, class by class"),
)
_RELATIONS, _WHOLE = [("scribbles", row) for row in RELATIONS], _spml("SPML", ("O029",))
FIGURES = (
    _voc(figure6, "Fig. 6 and 8: predictions from several kinds of labels"),
    # The paper names the labels of neither figure; Table 6 has scribbles.
    table.figure("spml_figure7", "Fig. 7 and 9: one more relation at a time", *_RELATIONS, paper=PAPER),
    table.figure("spml_figure10", "Fig. 10: segments that are nearest to others", ("scribbles", _WHOLE), paper=PAPER),
)

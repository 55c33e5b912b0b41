"""AGMM on VOC: among other methods (Table 4) and class by class (supplementary Table 3)."""

from agmm.data import sets
from agmm.papers.agmm.tables import AS_RELEASED, COLUMNS, PAPER, WITHOUT, WITHOUT_ABSENT
from agmm.papers.quoted import quoted
from agmm.papers.table import CLASS_IOU, Cell, Column, Row, Table, cells, describe, lines, published
from agmm.training.presets import Preset

_ALL = (Column("full", "full"), *COLUMNS)


def table4(preset: Preset) -> tuple[Cell, ...]:
    """All methods of the paper's comparison: quoted numbers as quoted, and what the authors trained, trained."""
    network = {"network_id": "3"}
    tel = Row("TEL", ("", "extra:TEL on points", "O028"), network | {"method": "TEL"}, "TreeEnergy")
    another = "published for the decoder of DeepLabV2"
    spml = Row("SPML", ("", "", "O029"), {"method": "SPML"}, "SPML", note=another)
    ours = [
        Row("DeepLabV3+", ("O027", "O001", "O007"), network | {"method": "DeeplabV3+"}),
        spml,
        spml._replace(ids=("", "extra:SPML on the points of the others", ""), printed=None),
        tel._replace(note="the paper's text says 64.9 for points"),
        Row("AGMM", ("", "O005", "O011"), network | {"method": "AGMM"}, "AGMM", AS_RELEASED),
        Row("AGMM", ("", WITHOUT, WITHOUT), network | {"method": "AGMM"}, "AGMM", WITHOUT_ABSENT),
    ]
    trained = {("DeeplabV3+", "3"), ("TEL", "3"), ("AGMM", "3")}
    trained |= {("SPML", "2")} if preset.embedding else set()
    others = [line for line in lines("agmm_table4") if (line["method"], line["network_id"]) not in trained]
    return (*quoted(others), *cells(preset, "agmm_table4", ours, _ALL))


def supp_table3(preset: Preset) -> tuple[Cell, ...]:
    """Every class, points and scribbles; published numbers where the data set has VOC's classes."""
    return per_class(preset, "agmm_supp_table3", COLUMNS, ("O005", "O011"), "voc")


def per_class(
    preset: Preset, table: str, columns: tuple[Column, ...], ids: tuple[str, ...], dataset: str
) -> tuple[Cell, ...]:
    """AGMM with and without the absent-class loss, a row per class and one for the mean."""
    made = []
    for column, training_id in zip(columns, ids, strict=True):
        if column.labels not in preset.labels:
            continue
        for identity, options in ((training_id, AS_RELEASED), (WITHOUT, WITHOUT_ABSENT)):
            run = preset.at(column.labels, "AGMM", **options)
            same = run.dataset == dataset
            for name in (*sets.class_names(run.dataset), "mIoU"):
                where = column.printed or {"supervision": column.label}
                printed = "mean" if name == "mIoU" else name.replace(" ", "_")
                value, source = published(table, **{"class": printed}, **where) if same else (None, "")
                made.append(
                    Cell(
                        row=name,
                        column=column.label,
                        training_id=identity,
                        run=run,
                        metric=name if name == "mIoU" else CLASS_IOU + name,
                        published=value,
                        published_source=source,
                        **describe(run),
                    )
                )
    order = {cell.row: rank for rank, cell in enumerate(made)}
    return tuple(sorted(made, key=lambda cell: (order[cell.row], cell.variant, not cell.absent)))


TABLES = {
    table.name: table
    for table in (
        Table("agmm_table4", "Table 4: all methods on VOC", PAPER, "notebooks/agmm/table4.ipynb", table4),
        Table(
            "agmm_supp_table3",
            "Supplementary Table 3: classes of VOC",
            PAPER,
            "notebooks/agmm/supp_table3.ipynb",
            supp_table3,
        ),
    )
}

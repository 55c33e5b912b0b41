"""AGMM on Cityscapes with 20, 50 and 100 clicks an image: methods, ablation, classes."""

from dataclasses import replace

from agmm.papers.agmm.tables import ABLATION, AS_RELEASED, PAPER, WITHOUT, WITHOUT_ABSENT
from agmm.papers.agmm.tables_voc import per_class
from agmm.papers.table import Cell, Column, Row, Table, cells
from agmm.training.presets import Preset

_REGIONS = "extra:a click per region"
CLICKS = tuple(Column(f"{n} clicks", f"clicks{n}", {"clicks": str(n)}) for n in (20, 50, 100))


def table5(preset: Preset) -> tuple[Cell, ...]:
    """Methods that the authors trained, and full supervision.

    Random clicks name only some of the classes of an image. Beside the paper's columns, a click per region names nearly
    all of them, to tell what a method owes to that.
    """
    columns = (
        *CLICKS,
        Column("full", "clicks_full", {"clicks": ""}),
        Column("click per region", "regions", in_paper=False),
    )
    rows = [
        Row("Baseline", ("O030", "O035", "O040", "O045", _REGIONS), {"row": "1"}),
        Row("DenseCRF Loss", (*_ids(31), "", ""), {"row": "2"}, "DenseCRFLoss", {"size_rule": "scaled_sigma"}),
        Row("TEL", (*_ids(32), "", ""), {"row": "3"}, "TreeEnergy", {"sigma": 0.002}),
        Row("AGMM", (*_ids(33), "", _REGIONS), {"row": "4"}, "AGMM", AS_RELEASED),
        Row("AGMM", (WITHOUT, WITHOUT, WITHOUT, "", _REGIONS), {"row": "4"}, "AGMM", WITHOUT_ABSENT),
        Row("AGMM (+MT)", (*_ids(34), "", ""), {"row": "5"}, "AGMM", AS_RELEASED, second_stage=True),
    ]
    return cells(preset, "agmm_table5", rows, columns)


def supp_table2(preset: Preset) -> tuple[Cell, ...]:
    """Loss ablation, as Table 1 with clicks: the released code with and without its absent-class loss."""
    rows = [
        Row("L_seg", _ids(30), {"row": "1"}),
        Row("L_seg + MT", ("O056", "O059", "O062"), {"row": "2"}, second_stage=True),
    ]
    ids = (("O057", "O060", "O063"), ("O058", "O061", "O064"), _ids(33))
    for absent in (True, False):
        for (label, (terms, number, _)), identity in zip(ABLATION.items(), ids, strict=True):
            options = {"variant": "official", "terms": (*terms, *(("absent",) if absent else ()))}
            rows.append(Row(label, identity if absent else (WITHOUT,), {"row": number}, "AGMM", options))
    full = Row(f"{label} + MT", _ids(34), {"row": "6"}, "AGMM", AS_RELEASED, second_stage=True)
    rows.insert(5, full)
    alone = {"variant": "official", "terms": ("seg", "absent")}
    rows.append(Row("L_seg + L_absent", ("extra:absent-class loss alone",), None, "AGMM", alone))
    return cells(preset, "agmm_supp_table2", rows, CLICKS)


def supp_table4(preset: Preset) -> tuple[Cell, ...]:
    """Every class; published numbers where the data set is Cityscapes."""
    return per_class(preset, "agmm_supp_table4", CLICKS, _ids(33), "cityscapes")


def _ids(first: int) -> tuple[str, str, str]:
    """Trainings of one method with 20, 50 and 100 clicks."""
    return f"O{first:03}", f"O{first + 5:03}", f"O{first + 10:03}"


TABLES = {
    table.name: replace(table, data="Cityscapes", published_on="Cityscapes val, ResNet-50 with ImageNet weights")
    for table in (
        Table("agmm_table5", "Table 5: clicks on Cityscapes", PAPER, "notebooks/agmm/table5.ipynb", table5),
        Table(
            "agmm_supp_table2",
            "Supplementary Table 2: loss ablation on Cityscapes",
            PAPER,
            "notebooks/agmm/supp_table2.ipynb",
            supp_table2,
        ),
        Table(
            "agmm_supp_table4",
            "Supplementary Table 4: classes of Cityscapes",
            PAPER,
            "notebooks/agmm/supp_table4.ipynb",
            supp_table4,
        ),
    )
}

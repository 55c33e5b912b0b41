"""Clicks in a table: CSV as people and spreadsheets write it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from agmm.data.annotations.fields import Annotation, Annotations, code_of, number, text_of

COLUMNS = ("image", "x", "y", "class")


def read(path: Path, names: Sequence[str], faults: list[str]) -> Annotations:
    """Read clicks, a row each, under a header with the columns image, x, y and class, in any order and among others.

    Columns are separated by commas, semicolons (then a comma may be in a number) or tabs; a first line like ``sep=;``,
    which Excel understands, says by what. Rows without any entry do not count. Of every faulty line a sentence goes to
    ``faults``.
    """
    text = text_of(path)
    told = text[:4].lower() == "sep=" and text[4:5] in {*",;\t|"}
    lines = io.StringIO(text.partition("\n")[2] if told else text)
    header = lines.getvalue().partition("\n")[0]
    separator = text[4] if told else max(",;\t", key=header.count)
    rows = csv.DictReader(lines, delimiter=separator)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if missing := [name for name in COLUMNS if name not in rows.fieldnames]:
        raise ValueError(f"{path}: has no column {', '.join(missing)}; its first line must name {', '.join(COLUMNS)}")
    clicks: Annotations = {}
    for row in rows:
        if not any(value.strip() if isinstance(value, str) else value for value in row.values()):
            continue
        where = f"{path}, line {rows.line_num + told}"
        try:
            if any(row[name] is None for name in COLUMNS):
                raise ValueError(f"{where}: has fewer fields than the first line has columns; complete it")
            x, y = (row[name].replace(",", ".") if separator == ";" else row[name] for name in ("x", "y"))
            vertex, code = (number(x, where, "x"), number(y, where, "y")), code_of(row["class"], names, where)
            clicks.setdefault(row["image"], Annotation(path)).add("point", code, [vertex], where)
        except ValueError as error:
            faults.append(str(error))
    return clicks

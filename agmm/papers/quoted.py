"""Numbers that a paper took from elsewhere, or whose trainings have no specification: shown, never trained."""

from collections.abc import Iterable

from agmm.papers.table import QUOTED, Cell, lines, source

_EXTRAS = {"extra_data": "extra data", "mt": "multi-stage", "crf": "DenseCRF", "ms_test": "several scales"}


def left(table: str, made: Iterable[Cell]) -> list[dict[str, str]]:
    """Lines of a published table beside which there is no cell of ours, at this preset at least."""
    shown = {cell.published_source for cell in made}
    return [line for line in lines(table) if source(line) not in shown]


def quoted(
    published: Iterable[dict[str, str]], column: str = "supervision", prefix: str = "", suffix: str = ""
) -> tuple[Cell, ...]:
    """Cells of lines of a published table, in columns by one of its fields."""
    return tuple(
        Cell(
            row=f"{line['method']} ({line['backbone']})",
            column=f"{prefix}{line[column]}{suffix}",
            training_id=QUOTED,
            run=None,
            method=line["method"],
            variant="",
            absent=False,
            init="",
            dataset=line["dataset"],
            labels=line["supervision"],
            protocol="",
            published=float(line["value"]),
            published_source=f"{line['paper']} {line['table']}, row {line['row']}, quoted there",
            note=f"quoted: {', '.join(_about(line))}",
        )
        for line in published
    )


def _about(line: dict[str, str]) -> list[str]:
    about = [line["backbone"], *([line["publication"]] if line.get("publication") else [])]
    return about + [words for name, words in _EXTRAS.items() if line.get(name) == "true"]

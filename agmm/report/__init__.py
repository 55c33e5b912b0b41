"""One page about everything in ``results/<preset>``: tables, claims, figures, runs and what they cost."""

import argparse
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from agmm.data import sets
from agmm.host import atomic_files, machine
from agmm.papers import tables
from agmm.report import numbers, pictures, records
from agmm.training import presets


def write(preset: str, results: str | Path = "results", *, embed: bool = True) -> Path:
    """Write ``<results>/<preset>/report.html`` from what is there, and return its path; nothing is trained.

    Figures are in the page with ``embed``, so that it can be sent alone, else linked; records of runs always are.
    """
    tables.preset(preset)
    folder = Path(results) / preset
    page = render(preset, results, embed=embed)
    with atomic_files.writable(folder):
        atomic_files.write_text(folder / "report.html", page)
    return folder / "report.html"


def render(preset: str, results: str | Path = "results", *, embed: bool = True) -> str:
    """Return the page itself; the same for the same files."""
    environment = Environment(
        loader=PackageLoader("agmm.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["duration"] = machine.duration
    environment.filters["counted"] = lambda number, thing="run": f"{number} {thing}" + ("" if number == 1 else "s")
    return environment.get_template("report.html").render(collect(preset, results, embed))


def collect(preset: str, results: str | Path, embed: bool) -> dict[str, Any]:
    """Return everything that the page shows, by the name that its template uses."""
    folder = Path(results) / preset
    found = records.read(preset, results)
    shown, problems = pictures.figures(folder, embed)
    problems += [problem for record in found.values() for problem in record.problems]
    views: dict[str, numbers.View | None] = {}
    curves: dict[str, list[pictures.Panel]] = {}
    for name, table in tables.TABLES.items():
        try:
            view = views[name] = numbers.read(table, preset, folder / "tables")
        except ValueError as error:
            views[name] = None
            problems.append(str(error))
        else:
            curves[name], damaged = pictures.panels(view.runs, found, folder) if view else ([], [])
            problems += damaged
    try:
        papers = numbers.claims(folder)
    except ValueError as error:
        papers = []
        problems.append(str(error))
    complete = [record for record in found.values() if record.result]
    groups = [[tables.TABLES[name] for name in names] for names in tables.GROUPS.values()]
    datasets = sorted({record.run.dataset for record in complete if record.run})
    return {
        "preset": preset,
        "needs": presets.named(preset).needs,
        "groups": {group[0].paper: group for group in groups},
        "views": views,
        "sentences": {name: numbers.sentence(table) for name, table in tables.TABLES.items()},
        "trainable": {name for name in tables.TABLES if tables.runs(name, preset)},
        "executed": {name for name in tables.TABLES if (folder / "notebooks" / f"{name}.ipynb").exists()},
        "shown": {name for name, view in views.items() if view and view.ids},
        "curves_of": curves,
        "shape": pictures.SHAPE,
        "figures": shown,
        "claims": papers,
        "judged": {verdict: sum(paper.counts[verdict] for paper in papers) for verdict in numbers.MARKS},
        "others": [name for name in presets.PRESETS if name != preset and Path(results, name, "report.html").is_file()],
        "marks": numbers.MARKS,
        "numbered": {verdict: number for number, verdict in enumerate(numbers.MARKS, 1)},
        "records": found,
        "complete": complete,
        "unfinished": [record for record in found.values() if record.result is None],
        "by_data": {name: [r for r in complete if r.run and r.run.dataset == name] for name in datasets},
        "nameless": [record for record in complete if record.run is None],
        "datasets": datasets,
        "elsewhere": [name for name in datasets if name not in sets.PAPERS],
        "embedded": bool(datasets) and set(datasets) <= set(sets.GENERATED),
        "newest": max((record.ended for record in complete), default=""),
        "seeds": sorted({record.run.seed for record in complete if record.run}),
        "made_with": records.made_with(complete),
        "costs": records.costs({name: (view.table.title, view.ids) for name, view in views.items() if view}, found),
        "problems": list(dict.fromkeys(problems)),
        "embed": embed,
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``agmm report`` takes."""
    add = parser.add_argument
    add("--preset", default="quick", help="whose results (default: quick)")
    add("--results", type=Path, default=tables.RESULTS, metavar="DIR", help="folder of results (default: results)")
    add("--link-figures", action="store_true", help="link to the files of the figures instead of embedding them")


def command(args: argparse.Namespace) -> int:
    """Write the page and print its path; raise ValueError where there are no results."""
    tables.preset(args.preset)
    if not (args.results / args.preset).is_dir():
        raise ValueError(f"there is no {args.results / args.preset}; run_all.py --preset {args.preset} makes it")
    print(write(args.preset, args.results, embed=not args.link_figures))
    return 0

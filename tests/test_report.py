"""The page about all results: sound HTML, links that hold, the numbers of the files, and nothing that breaks it."""

import html
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image

from agmm import report
from agmm.cli import find
from agmm.papers import tables
from agmm.report import pictures, records
from tests.helpers import ROOT, tool
from tests.test_tables import cells, complete

REFERENCE = ROOT / "results" / "reference"
VOID = {"meta", "link", "img", "br", "input", "hr", "polyline"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.images, self.tags, self._open = [], [], [], [], []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if tag == "a" else []
        self.images += [given] if tag == "img" else []
        if tag == "table":
            self._caption, self._rows = "", []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1] += [""] * int(given.get("colspan") or 1)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag, f"</{tag}> at {self.getpos()}"
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if {"td", "th"} & set(self._open) and "small" not in self._open:
            self._rows[-1][-1] += data
        elif "caption" in self._open:
            self._caption += data


@pytest.fixture(scope="module")
def quick() -> str:
    return report.render("quick", REFERENCE, embed=False)


@pytest.fixture(scope="module")
def parsed(quick) -> Page:
    return Page(quick)


def smoke(tmp_path: Path, *names: str) -> None:
    for run in tables.needed(names, "smoke", 1):
        complete(tmp_path, run, 50.0)
        (run.folder(tmp_path) / "environment.json").write_text('{"device": "CPU (test)", "packages": {"torch": "2"}}')
        (run.folder(tmp_path) / "log.txt").write_text("2030-01-02 03:04:05  epoch 1\n")
    for name in names:
        tables.write(tables.TABLES[name], "smoke", tmp_path)


def test_sound_and_complete(quick, parsed):
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert set(tables.TABLES) <= set(parsed.ids)
    assert {"main", "nav", "header", "caption"} <= set(parsed.tags)
    assert parsed.tags.count("script") == 1
    assert '<html lang="en">' in quick
    assert all(image["alt"] for image in parsed.images)
    assert "{{" not in quick
    assert "Could not be read" not in quick


def check_links(page: Page, folder: Path) -> None:
    for link in (*page.links, *(image["src"] for image in page.images)):
        assert link[1:] in page.ids if link.startswith("#") else (folder / unquote(link)).is_file(), link


def test_every_link_holds_and_none_leaves(parsed):
    photographs = Page(report.render("voc_animals", REFERENCE, embed=False))
    for preset, page in {"quick": parsed, "voc_animals": photographs}.items():
        assert len(page.links) > 100
        check_links(page, REFERENCE / preset)


@pytest.mark.parametrize("name", [path.stem for path in sorted((REFERENCE / "quick" / "tables").glob("*.csv"))])
def test_numbers_are_those_of_the_file(parsed, name):
    table = tables.TABLES[name]
    frame = pd.read_csv(REFERENCE / "quick" / "tables" / f"{name}.csv", keep_default_na=False)
    found = parsed.tables.get(f"{table.paper}, {table.title}")
    if found is None:
        assert not any(frame["run_ids"])
        return
    columns, kinds, *rows = found
    # The parser gives a label over several columns to the last of them.
    columns = pd.Series(columns[1:]).replace("", None).bfill()
    shown, expected = defaultdict(list), defaultdict(list)
    for label, *texts in rows:
        for column, kind, text in zip(columns, kinds, texts, strict=True):
            shown[label.strip(), column, kind.split(" (")[0]].append(text.strip())
    for _, line in frame.iterrows():
        ours, spread, published = (line[key] for key in ("ours_mean", "ours_std", "published"))
        texts = {
            "published": f"{float(published):.1f}" if published != "" else "",
            "ours": (f"{float(ours):.1f}" if ours != "" else "") + (f" ± {float(spread):.1f}" if spread != "" else ""),
            "difference": f"{float(ours) - float(published):+.1f}" if "" not in (ours, published) else "",
        }
        for kind, text in texts.items():
            expected[line["row"], line["column"], kind].append(text.replace("-0.0", "+0.0").replace("-", "−"))
    for key, texts in expected.items():
        assert sorted(filter(None, shown[key])) == sorted(filter(None, texts)), key


def test_embedded_figures_need_no_files():
    page = Page(report.render("voc_animals", REFERENCE))
    assert page.images
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)


def test_same_files_make_the_same_small_page(quick):
    assert report.render("quick", REFERENCE, embed=False) == quick
    assert len(quick.encode()) < 2e6


def test_commands_train_the_runs():
    found = [record for record in records.read("quick", REFERENCE).values() if record.command]
    assert len(found) > 300
    for record in found[::100]:
        words = record.command.split()
        assert words[:2] == ["agmm", "run"]
        seed = int(words[words.index("--seed") + 1]) if "--seed" in words else 0
        assert replace(find(words[2], "quick"), seed=seed).id == record.id


def test_nothing_there(tmp_path):
    path = report.write("smoke", tmp_path)
    text = path.read_text()
    assert path == tmp_path / "smoke" / "report.html"
    check_links(Page(text), path.parent)
    for name in tables.TABLES:
        trainable = any(cell.run for cell in cells(name, "smoke"))
        assert (f"python run_all.py --preset smoke --only {name}<" in text) == trainable


def test_one_table_and_its_cost(tmp_path):
    smoke(tmp_path, "agmm_table1")
    (cells("agmm_table1", "smoke")[-1].run.folder(tmp_path) / "result.json").unlink()
    text = report.write("smoke", tmp_path).read_text()
    page = Page(text)
    for said in ("2030-01-02 03:04:05", "CPU (test)", "Without a result: 1 run,"):
        assert said in text
    hours = {row[0].strip(): row[1:] for row in page.tables["Hours by table"][1:]}
    complete_runs = len(tables.needed(["agmm_table1"], "smoke", 1)) - 1
    count, training, _ = map(float, hours["All runs, each once"])
    assert (count, training) == (complete_runs, pytest.approx(complete_runs * 3 / 3600, abs=0.0051))
    check_links(page, tmp_path / "smoke")


def test_hostile_text_stays_text(tmp_path):
    smoke(tmp_path, "agmm_table2")
    evil = '<script>alert("1")</script>'
    folder = tmp_path / "smoke"
    path = folder / "tables" / "agmm_table2.csv"
    path.write_text(path.read_text().replace("Label Assignment", '"' + evil.replace('"', '""') + '"'))
    path.with_suffix(".md").write_text(f"- {evil}\n")
    run = cells("agmm_table2", "smoke")[0].run
    (run.folder(tmp_path) / "environment.json").write_text(json.dumps({"device": evil, "commit": evil}))
    claims = pd.read_csv(REFERENCE / "quick" / "claims.csv", keep_default_na=False).assign(note=evil)
    claims.to_csv(folder / "claims.csv", index=False)
    (folder / "figures").mkdir()
    shutil.copy(REFERENCE / "quick" / "figures" / "agmm_table3.png", folder / "figures" / 'a"onerror="b.png')
    for embed in (True, False):
        text = report.render("smoke", tmp_path, embed=embed)
        page = Page(text)
        assert page.tags.count("script") == 1
        assert not any("onerror" in image for image in page.images)
        assert text.count(html.escape(evil).replace("&quot;", "&#34;")) > 300


def test_damaged_result_is_one_sentence(tmp_path):
    smoke(tmp_path, "agmm_table2")
    run = cells("agmm_table2", "smoke")[0].run
    path = run.folder(tmp_path) / "result.json"
    good = json.loads(path.read_text())
    wrong = [json.dumps(good | {"miou": float("nan")}), json.dumps(good | {"seconds": "<b>"})]
    for damage in ("", "{", "[]", "null", '{"miou": 3}', *wrong):
        path.write_text(damage)
        text = report.write("smoke", tmp_path).read_text()
        assert text.count(f"<li>runs/{run.id}/result.json is damaged (") == text.count("is damaged") == 1
        assert "Table 2: adaptive supervision</h3>" in text


def test_other_damaged_files(tmp_path):
    smoke(tmp_path, "agmm_table1", "agmm_table2")
    folder = tmp_path / "smoke"
    run = cells("agmm_table1", "smoke")[2].run
    (run.folder(tmp_path) / "run.json").write_text('{"preset": "smoke", "what": 1}')
    (run.folder(tmp_path) / "history.csv").write_text("epoch,p_miou,g_miou\n1,1.0,x\n2,2.0,y\n")
    (folder / "tables" / "agmm_table2.csv").write_text("table,row\n1\n")
    (folder / "claims.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "figures").mkdir()
    (folder / "figures" / "agmm_table1.png").write_text("no picture")
    page = report.write("smoke", tmp_path).read_text()
    damaged = {"tables/agmm_table2.csv", "claims.csv", "figures/agmm_table1.png"}
    damaged |= {f"runs/{run.id}/{name}" for name in ("run.json", "history.csv")}
    assert {found[0] for found in re.findall(r"<li>((\w+[./])+\w+) is damaged", page)} == damaged
    assert "or without a readable description: 1 run<" in page


def test_methods_of_the_user_are_not_imported(tmp_path):
    """Their module may be elsewhere by now, or do anything when it is imported."""
    smoke(tmp_path, "agmm_supp_figure1")
    folder = tmp_path / "smoke" / "runs" / "0123456789"
    shutil.copytree(next(folder.parent.iterdir()), folder)
    plain = json.loads((folder / "run.json").read_text()) | {"method": "antigravity:Mine", "options": {"sharpness": 2}}
    (folder / "run.json").write_text(json.dumps(plain))
    text = report.write("smoke", tmp_path).read_text()
    assert f"antigravity:Mine, {plain['labels']} of shapes, seed 0" in text
    assert "Could not be read" not in text
    assert "antigravity" not in sys.modules


def test_curves_are_means_over_seeds(tmp_path):
    run = cells("agmm_table1", "smoke")[4].run
    seeds = [replace(run, seed=seed) for seed in (0, 1)]
    for one, shift in zip(seeds, (0.0, 10.0), strict=True):
        complete(tmp_path, one, 50.0, curves={"p_miou": [20.0 + shift, 40.0 + shift], "g_miou": [30.0, 30.0]})
    found = records.read("smoke", tmp_path)
    (panel,), problems = pictures.panels({("a", "b"): tuple(found)}, found, tmp_path / "smoke")
    assert problems == []
    assert panel.ends == {"p": (25.0, 45.0), "g": (30.0, 30.0)}
    assert (panel.low, panel.high, panel.epochs) == (20, 50, 2)
    top, bottom = pictures.EDGE, pictures.SHAPE[1] - pictures.EDGE
    first, last = (float(point.split(",")[1]) for point in panel.p.split())
    assert first == pytest.approx(bottom - (bottom - top) * 5 / 30, abs=0.06)
    assert last == pytest.approx(bottom - (bottom - top) * 25 / 30, abs=0.06)


def test_command_line(tmp_path, capsys):
    for preset, sentence in (("smoke", f"there is no {tmp_path / 'smoke'}"), ("smok", "did you mean smoke")):
        assert tool(report, "--preset", preset, "--results", tmp_path) == 2
        assert sentence in capsys.readouterr().err
    smoke(tmp_path, "agmm_supp_figure1")
    assert tool(report, "--preset", "smoke", "--results", tmp_path, "--link-figures") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'smoke' / 'report.html'}\n"


def browse(tmp_path: Path, address: str, *options: str) -> str:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'browser'}"]
    given = [CHROMIUM, *quiet, *options, "--virtual-time-budget=5000", "--dump-dom", address]
    return subprocess.run(given, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_no_wider_than_the_screen(tmp_path, quick, width):
    """In a frame, as a window has a least width of its own. Only tables scroll sideways, in containers of their own."""
    measure = "document.title = this.contentDocument.documentElement.scrollWidth"
    frame = f'<iframe style="width:{width}px;height:800px;border:0" onload="{measure}" srcdoc="{html.escape(quick)}">'
    (tmp_path / "frame.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><title></title>{frame}</iframe>')
    found = browse(tmp_path, (tmp_path / "frame.html").as_uri(), f"--window-size={width + 40},900")
    title = re.search(r"<title>(\d+)</title>", found)
    assert title is not None
    assert int(title[1]) <= width


def test_link_to_a_run_opens_it(tmp_path, quick):
    one = next(iter(records.read("quick", REFERENCE)))
    (tmp_path / "report.html").write_text(quick)
    address = (tmp_path / "report.html").as_uri()
    assert f'<details id="run-{one}">' in browse(tmp_path, address)
    assert f'<details id="run-{one}" open="">' in browse(tmp_path, f"{address}#run-{one}")


def test_picture_of_the_page(tmp_path, quick):
    """It is drawn: not blank, light and dark being different."""
    (tmp_path / "report.html").write_text(quick)
    address = (tmp_path / "report.html").as_uri()
    darkness = []
    for scheme in (1, 0):
        shot = tmp_path / f"{scheme}.png"
        browse(tmp_path, address, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
        with Image.open(shot) as image:
            shades = image.convert("L").getcolors()
        assert len(shades) > 20
        darkness.append(max(shades)[1])
    assert darkness[0] > 200 > 60 > darkness[1]

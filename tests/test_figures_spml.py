"""Figures of SPML: boundaries, neighbors and shared classes against loops, their trainings against the paper's list."""

import math
from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist

import agmm
from agmm import figures
from agmm.codes import VOID
from agmm.data.split import Split
from agmm.figures import pixels, retrieval
from agmm.papers import tables
from agmm.papers.claim import Evidence
from agmm.papers.spml import claims
from agmm.rivals.spml.segments import Prototypes
from agmm.training.presets import PRESETS
from tests.helpers import mean_iou, one_thread  # noqa: F401

mpl.use("Agg")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> figures.Trained:
    results = tmp_path_factory.mktemp("results")
    run = PRESETS["smoke"].spml("scribbles", init="scratch")
    agmm.run(run, results=results)
    return figures.load(run, results)


def close(truth: np.ndarray, distance: float) -> np.ndarray:
    places, codes = np.argwhere(np.ones_like(truth)), truth.ravel()
    return ((cdist(places, places) <= distance) & (codes[:, None] != codes)).any(1).reshape(truth.shape)


@pytest.mark.parametrize("distance", [1.0, 1.9, 2.5, 5.0])
def test_pixels_close_to_a_boundary(distance: float) -> None:
    rng = np.random.default_rng(int(10 * distance))
    for _ in range(5):
        truth = np.kron(rng.choice([0, 1, 3, VOID], (4, 3)), np.ones((4, 5), int)).astype(np.uint8)
        assert (pixels.close_to_boundary(truth, distance) == close(truth, distance)).all()
    assert not pixels.close_to_boundary(np.zeros((6, 7), np.uint8), distance).any()


def test_the_distance_is_in_proportion_and_at_least_a_pixel() -> None:
    distances = {(375, 500): 5, (500, 333): 5, (1000, 600): 10, (64, 64): 1}
    assert {size: pixels.reach(size) for size in distances} == distances


def test_boundary_quality_by_sets_of_pixels(trained: figures.Trained) -> None:
    pictures = figures.predictions({"SPML": trained}, range(len(trained.test)))
    truth, predicted = (np.stack([picture[name] for picture in pictures]) for name in ("truth", "SPML"))
    framed = np.pad(truth, ((0, 0), (1, 1), (1, 1)), mode="edge")
    sides = framed[:, :-2, 1:-1], framed[:, 2:, 1:-1], framed[:, 1:-1, :-2], framed[:, 1:-1, 2:]
    near = np.any([side != truth for side in sides], 0)
    values = figures.measure_boundaries({"SPML": trained}).iloc[0]
    for column, counted in {"boundary": np.where(near, truth, VOID), "all": truth}.items():
        assert values[column] == pytest.approx(mean_iou(predicted, counted), abs=0.2)
    assert values["pixels"] == pytest.approx(near.mean())


def test_a_bank_holds_every_segment_once(trained: figures.Trained) -> None:
    bank = figures.bank(trained, trained.data, 3)
    assert retrieval.clusters(trained.run) == retrieval.clusters(trained.run.teacher) == (8, 8)
    with pytest.raises(ValueError, match="Baseline has no segments; choose a run of SPML or SPMLClassifier"):
        retrieval.clusters(PRESETS["smoke"].at("points"))
    for index in range(3):
        here = bank.prototypes.images == index
        segments, _ = retrieval._segments(trained, trained.data, index)
        own = segments.own.view(64, 64)
        assert bank.sizes[here].tolist() == torch.bincount(own.flatten()).tolist()
        assert bank.sizes[here].sum() == 64 * 64
        assert 1 < here.sum() <= 64
        image = torch.from_numpy(trained.data.images[index : index + 1]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            features, logits = trained.net(image)
        whole = torch.nn.functional.interpolate(features, (64, 64), mode="bilinear", align_corners=False)[0].double()
        units = whole / whole.norm(dim=0)
        shown = [k in trained.data.truth[index] and k > 0 for k in range(7)]
        for number, segment in enumerate(here.nonzero()[:, 0].tolist()):
            inside = own == number
            total = units[:, inside].sum(1)
            np.testing.assert_allclose(bank.prototypes.vectors[segment], total / total.norm(), rtol=0, atol=1e-4)
            counts = np.bincount(logits.argmax(1)[0][inside], minlength=7)
            assert counts[bank.prototypes.labels[segment]] == counts.max()
            assert bank.prototypes.tags[segment].tolist() == shown


def planted(rng: np.random.Generator, name: str, images: int, segments: int) -> retrieval.Bank:
    """Random prototypes of images with random classes; the tags of the first image are empty."""
    number, classes = images * segments, 4
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((number, 3))), dim=1)
    tags = torch.from_numpy(rng.random((images, classes)) < 0.5)
    tags[0] = False
    place = torch.arange(images).repeat_interleave(segments)
    labels = torch.from_numpy(rng.integers(classes, size=number))
    ids, nothing = tuple(f"{name}-{i}" for i in range(images)), np.zeros((images, 1, 1), np.uint8)
    split = Split("planted", tuple("abcd"), ids, nothing, nothing, background=0)
    prototypes = Prototypes(vectors, labels, place, tags[place])
    return retrieval.Bank(split, prototypes, torch.ones(number, dtype=torch.int64))


def elsewhere(queries: retrieval.Bank, among: retrieval.Bank) -> np.ndarray:
    """Whether two prototypes are of different images."""
    images = [np.array(bank.split.ids)[bank.prototypes.images] for bank in (queries, among)]
    return images[0][:, None] != images[1]


@pytest.mark.parametrize("seed", range(3))
def test_neighbors_are_the_nearest_of_other_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = planted(rng, "train", 6, 5), planted(rng, "test", 3, 4)
    for queries in (train, test):
        chosen = torch.from_numpy(rng.permutation(len(queries.sizes))[:7])
        cosines = np.where(elsewhere(queries, train), queries.prototypes.vectors @ train.prototypes.vectors.T, -2)
        expected = (-cosines).argsort(1)[chosen, :4]
        assert retrieval.neighbors(queries, train, chosen, 4).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="fewer than"):
        retrieval.neighbors(train, train, torch.tensor([0]), 26)


@pytest.mark.parametrize("seed", range(3))
def test_shared_classes_by_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = planted(rng, "train", 6, 5), planted(rng, "test", 3, 4)
    sets = lambda bank: [{*np.flatnonzero(tags)} for tags in bank.prototypes.tags]  # noqa: E731
    for queries in (train, test):
        found = figures.measure_context(queries, train, 4)
        shared = np.array([[len(a & b) / len(a | b) if a | b else 1 for b in sets(train)] for a in sets(queries)])
        nearest = retrieval.neighbors(queries, train, torch.arange(len(queries.sizes)), 4).numpy()
        np.testing.assert_allclose(found["nearest"], np.take_along_axis(shared, nearest, 1).mean(1))
        same = (queries.prototypes.labels[:, None] == train.prototypes.labels).numpy() & elsewhere(queries, train)
        chance = [line[own].mean() if own.any() else np.nan for line, own in zip(shared, same, strict=True)]
        np.testing.assert_allclose(found["chance"], chance)


def test_retrieved_segments(trained: figures.Trained, tmp_path) -> None:
    """The query is the largest segment of an object; what is drawn lies in other images, the nearest first."""
    queries, among = figures.bank(trained, trained.data, 4), figures.bank(trained, trained.data)
    rows = figures.retrieve(trained, queries, among, [1, 3], 3)
    for image, row in zip([1, 3], rows, strict=True):
        query, *found = row
        here = (queries.prototypes.images == image) & (queries.prototypes.labels > 0)
        here = here if here.any() else queries.prototypes.images == image
        assert query.mask.sum() == queries.sizes[here].max()
        assert (query.image == trained.data.images[image]).all()
        assert query.name not in {one.name for one in found}
        cosines = [one.cosine for one in found]
        assert len(cosines) == 3
        assert cosines == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
        for one in found:
            truth = trained.data.truth[trained.data.ids.index(one.name)]
            assert {trained.data.class_names[k] for k in np.unique(truth) if k} == set(one.tags)
    figure = figures.draw_retrieval(rows, tmp_path / "f")
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".csv"}
    listed = pd.read_csv(tmp_path / "f.csv")
    assert listed["image"].tolist() == [one.name for row in rows for one in row]
    assert [axis.get_title() for axis in figure.axes[:5]] == ["query", "", "1", "2", "3"]


def test_one_more_relation_at_a_time() -> None:
    """The trainings of Table 6 with these weights, none but those."""
    rows, table = tables.runs("spml_figure7", "quick"), tables.runs("spml_table6", "quick")
    weights = {"C": "λ_I = 0, λ_O = 0", "C + I": "λ_I = 0.1, λ_O = 0", "C + I + O": "λ_I = 0.1, λ_O = 0.5"}
    expected = {row: table[f"{weight}, λ_A = 0"].id for row, weight in weights.items()}
    assert {row: run.id for row, run in rows.items()} == expected


def test_panels() -> None:
    """Each with its data and the full supervision of the same; a preset leaves out what it lacks."""
    found = tables.panels("spml_figure6", "quick")
    guessed = ["cross-entropy", "SPML", "full supervision"]
    drawn = ["DenseCRF loss", *guessed[1:]]
    expected = {"image tags": guessed, "boxes": guessed, "scribbles": drawn, "points on parts": drawn}
    assert {label: list(rows) for label, rows in found.items()} == expected
    for rows in found.values():
        assert len({run.dataset for run in rows.values()}) == 1
        assert rows["full supervision"].labels == "full"
    quick = PRESETS["quick"]
    few = replace(quick, labels={kind: quick.labels[kind] for kind in ("scribbles", "full", "parts")})
    assert {cell.column for cell in tables.TABLES["spml_figure6"].cells(few)} == {"scribbles"}
    assert not tables.TABLES["spml_figure6"].cells(replace(quick, embedding=None))


class Kept(Evidence):
    """Evidence of three seeds with weights; a network is the number of its seed."""

    def measured(self, quantity, measure, runs):  # type: ignore[no-untyped-def]
        seeds = (SimpleNamespace(seed=seed, data="data", test="test") for seed in range(3))
        return [measure(*[one] * len(runs)) for one in seeds], ""


@pytest.mark.parametrize(
    ("qualities", "verdict"),
    [([[1, 2, 3], [4, 5, 6], [1, 3, 4]], "reproduced"), ([[3, 2, 1], [3, 1, 2], [1, 2, 3]], "not reproduced")],
)
def test_trend_of_boundaries(qualities, verdict, monkeypatch, tmp_path) -> None:
    def quality(runs: dict) -> pd.DataFrame:
        assert list(runs) == ["C", "C + I", "C + I + O"]
        return pd.DataFrame({"boundary": qualities[next(iter(runs.values())).seed]})

    monkeypatch.setattr(figures, "measure_boundaries", quality)
    (found,) = claims.boundaries_improve(Kept(PRESETS["quick"], tmp_path)).values()
    assert (found.verdict, found.n) == (verdict, 3)


def test_direction_of_shared_context(monkeypatch, tmp_path) -> None:
    """The mean over segments of nearest minus chance, without those that have no chance."""
    leads = {"data": (0.3, 0.2, 0.25), "test": (-0.3, -0.2, -0.25)}

    def context(queries: tuple, among: tuple) -> pd.DataFrame:
        assert among[1] is None
        assert queries[1] == claims.IMAGES
        lead = leads[queries[0]][queries[2]]
        return pd.DataFrame({"nearest": [0.5 + lead, 0.5 + lead, 9.0], "chance": [0.5, 0.5, math.nan]})

    def bank(trained, split, images=None):
        return ("data" if split is trained.data else "test", images, trained.seed)

    monkeypatch.setattr(figures, "bank", bank)
    monkeypatch.setattr(figures, "measure_context", context)
    found = claims.neighbors_share_context(Kept(PRESETS["quick"], tmp_path))
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {"queries of training images": "reproduced", "queries of test images": "not reproduced"}
    assert found["queries of training images"].effect == pytest.approx(0.25)
    assert found["queries of test images"].unit == "share"

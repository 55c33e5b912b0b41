"""Figures: the files, and that what is drawn is what the table of curves says."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

mpl.use("Agg")

from agmm import figures  # noqa: E402
from agmm.codes import UNLABELED, VOID  # noqa: E402
from agmm.figures import style  # noqa: E402


@pytest.fixture
def curves():
    values = {
        ("Baseline", "P"): [10.0, 20.0, 30.0],
        ("AGMM", "P"): [20.0, 40.0, 50.0],
        ("AGMM", "P among labeled classes"): [30.0, 45.0, 52.0],
        ("AGMM", "G"): [40.0, 48.0, 51.0],
    }
    rows = [
        {"row": row, "curve": curve, "epoch": epoch, "n_seeds": 2, "mean": value, "std": 1.0}
        for (row, curve), series in values.items()
        for epoch, value in enumerate(series, 1)
    ]
    return pd.DataFrame(rows)


def test_training_curves(curves, tmp_path):
    figure = figures.draw_training_curves(curves, tmp_path / "figures" / "curves")
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {"curves.pdf", "curves.png", "curves.csv"}
    assert (tmp_path / "figures" / "curves.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "figures" / "curves.png") as image:
        assert image.width == round(style.WIDTH * 200)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "figures" / "curves.csv"), curves)

    top, bottom = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in top.lines}
    assert drawn["Baseline: P"] == [10.0, 20.0, 30.0]
    assert drawn["G"] == [40.0, 48.0, 51.0]
    leads = [list(line.get_ydata()) for line in bottom.lines[:2]]
    assert leads == [[20.0, 8.0, 1.0], [10.0, 3.0, -1.0]]


def test_colors_are_distinct(curves, tmp_path):
    """In color, and in line style or gray value for those who see no color."""
    figure = figures.draw_training_curves(curves, tmp_path / "curves")
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len({color for color, _ in looks}) == len(set(looks)) == 4


def test_nothing_to_draw(tmp_path):
    empty = pd.DataFrame(columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    with pytest.raises(ValueError, match="no training curves yet"):
        figures.draw_training_curves(empty, tmp_path / "curves")


def test_sweep(tmp_path):
    lines = [("a", 0.1, 50.0, 69.0), ("a", 1.0, 60.0, 69.5), ("a", None, 55.0, 69.6), ("b", 0.1, None, 69.0)]
    values = pd.DataFrame(
        {
            "column": column,
            "objective": objective,
            "row": "σ by Eq. 5" if value is None else f"σ = {value}",
            "value": value,
            "n_seeds": 2,
            "mean": mean,
            "std": 1.0,
            "published": published,
        }
        for column in ("point", "scribble")
        for objective, value, mean, published in lines
    )
    figure = figures.draw_sweep(values, "σ", tmp_path / "sweep")
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.pdf", "sweep.png", "sweep.csv"}
    for axis in figure.axes:
        drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
        assert drawn.pop("a, σ by Eq. 5")[1] == [55.0, 55.0]
        assert drawn == {"a": ([0.1, 1.0], [50.0, 60.0]), "published (VOC)": ([0.1, 1.0], [69.0, 69.5])}


def test_sweep_of_one_nameless_objective(tmp_path):
    values = {"column": "point", "objective": "", "row": "x", "value": [0.1, 1.0], "mean": [50.0, 60.0], "std": 1.0}
    figure = figures.draw_sweep(pd.DataFrame(values | {"published": 70.0}), "λ_G", tmp_path / "sweep")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "published (VOC)"]


def test_classes_draws_the_released_code(tmp_path):
    rows = [
        {
            "row": row,
            "column": column,
            "absent": absent,
            "ours_mean": value + 10 * (column == "scribble"),
            "ours_std": 1.0,
        }
        for column in ("point", "scribble")
        for row, value in (("disk", 50.0), ("mIoU", 60.0))
        for absent in (True, False)
    ]
    figure = figures.draw_classes(pd.DataFrame(rows), tmp_path / "classes")
    heights = {
        bars.get_label(): [bar.get_height() for bar in bars]
        for bars in figure.axes[0].containers
        if bars.get_label() in ("point", "scribble")
    }
    assert heights == {"point": [50.0, 60.0], "scribble": [60.0, 70.0]}
    with pytest.raises(ValueError, match="no results yet"):
        figures.draw_classes(pd.DataFrame(rows).assign(ours_mean=float("nan")), tmp_path / "none")


def test_gains_draws_a_panel_per_start(tmp_path):
    rows = [
        {
            "column": column,
            "init": init,
            "row": "+ both",
            "objective": "released code",
            "seed": seed,
            "gain": 5.0 + seed,
        }
        for column in ("point", "scribble")
        for init in ("tags", "scratch")
        for seed in (0, 1)
    ]
    figure = figures.draw_gains(pd.DataFrame(rows), tmp_path / "gains")
    assert [axis.get_title() for axis in figure.axes] == [
        f"{column}, from {start}" for start in ("tag pretraining", "scratch") for column in ("point", "scribble")
    ]
    for axis in figure.axes:
        assert [bar.get_width() for bar in axis.patches] == [5.5]
        assert sorted(x for dots in axis.collections for x in dots.get_offsets()[:, 0]) == [5.0, 6.0]
    with pytest.raises(ValueError, match="no gains yet"):
        figures.draw_gains(pd.DataFrame(rows[:0]), tmp_path / "none")


def test_ellipses_are_one_standard_deviation_wide(tmp_path):
    """Every point of an ellipse has Mahalanobis distance 1 from its center."""
    spreads = {"disk": [[4.0, 1.5], [1.5, 1.0]], "star": [[0.5, -0.6], [-0.6, 2.0]]}
    rows = [
        {"kind": kind, "class": name, "x": 2.0 + k, "y": -1.0, "xx": s[0][0], "xy": s[0][1], "yy": s[1][1]}
        for k, (name, s) in enumerate(spreads.items())
        for kind in ("pixel", "mean", "component")
    ]
    about = {"explained": 0.5, "silhouette": 0.25}
    points = pd.concat([pd.DataFrame(rows).assign(method=f"epoch {n}", **about) for n in (1, 2)], ignore_index=True)
    figure = figures.draw_projection(points, tmp_path / "projection")
    assert {path.name for path in tmp_path.iterdir()} == {f"projection.{ending}" for ending in ("csv", "pdf", "png")}
    for axis in figure.axes:
        assert axis.get_title().endswith("silhouette 0.25, 50 % of variance")
        for k, (patch, spread) in enumerate(zip(axis.patches, spreads.values(), strict=True)):
            outline = patch.get_path().transformed(patch.get_patch_transform()).to_polygons(closed_only=False)[0]
            away = outline[::2] - [2.0 + k, -1.0]  # between them lie control points
            lengths = np.einsum("pi,ij,pj->p", away, np.linalg.inv(spread), away)
            np.testing.assert_allclose(lengths, 1, atol=1e-4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["disk", "star"]


def test_no_two_classes_look_alike(tmp_path):
    names = [f"class {k}" for k in range(21)]
    points = pd.DataFrame({"method": "AGMM", "class": names, "x": range(21), "y": 0.0, "silhouette": 0.1})
    (axis,) = figures.draw_embedding(points, tmp_path / "embedding").axes
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in axis.collections}
    assert len(looks) == 21


@pytest.fixture
def found():
    """Two claims in points, one of them with two settings; a correlation; one that nothing is known of."""
    common = {"n_seeds": 3, "each": "", "claimed": float("nan"), "unit": "mIoU", "sentence": "L_self helps"}
    rows = [
        {"claim": "A01", "setting": "points", "effect": 5.0, "low": 4.0, "high": 6.0, "verdict": "reproduced"},
        {"claim": "A02", "setting": "points", "effect": -3.0, "low": -4.0, "high": -2.0, "verdict": "not reproduced"},
        {"claim": "A02", "setting": "scribbles", "effect": 0.5, "low": -9.0, "high": 9.5, "verdict": "inconclusive"},
        {"claim": "A03", "setting": "points", "effect": 0.9, "low": 0.8, "high": 1.0, "verdict": "reproduced"},
        {"claim": "A04", "setting": "points", "effect": None, "low": None, "high": None, "verdict": "inconclusive"},
    ]
    rows[0] |= {"each": "+4.5 +5.5", "claimed": 10.4}
    rows[3] |= {"unit": "rank correlation"}
    frame = pd.DataFrame([common | row for row in rows]).astype({"effect": float, "low": float, "high": float})
    other = frame.assign(objective="released code without L_absent", effect=frame["effect"] + 1)
    other.loc[0, ["effect", "low", "high"]] = float("nan")
    return pd.concat([frame.assign(objective="released code"), other], ignore_index=True)


def markers(axis):
    """Place, marker and color of every effect, from the top."""
    lines = [line for line in axis.lines if line.get_marker() in ("o", "X", "s")]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_color()) for line in lines]


def test_claims(found, tmp_path):
    figure = figures.draw_claims(found, tmp_path / "claims")
    assert {path.name for path in tmp_path.iterdir()} == {"claims.pdf", "claims.png", "claims.csv"}
    points, without, others, _ = figure.axes
    looks = {"reproduced": ("o", "C0"), "not reproduced": ("X", "C3"), "inconclusive": ("s", "0.55")}
    first = [looks[verdict] for verdict in ("reproduced", "not reproduced", "inconclusive")]
    assert markers(points) == [(x, row, *look) for row, (x, look) in enumerate(zip((5, -3, 0.5), first, strict=True))]
    assert [(x, row) for x, row, _, _ in markers(without)] == [(-2, 1), (1.5, 2)]
    assert markers(others) == [(0.9, 0, "o", "C0")]
    assert points.get_xlabel() == "points of mIoU"
    assert points.get_xlim() == without.get_xlim()
    assert points.get_xlim()[0] < -9 < 10.4 < points.get_xlim()[1]
    intervals = [tuple(line.get_xdata()) for line in points.lines if len(line.get_xdata()) == 2]
    assert {(4, 6), (-4, -2), (-9, 9.5), (4.5, 5.5)} <= set(intervals)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts.count("A02  $L_{\\mathrm{self}}$ helps") == 1
    assert "points (rank correlation)" in texts
    assert [text.get_text() for text in figure.texts] == ["Left out, as there are no numbers for them yet: A04."]
    assert set(pd.read_csv(tmp_path / "claims.csv")["claim"]) == {"A01", "A02", "A03"}


def test_intervals_of_two_seeds_do_not_stretch_the_axis(found, tmp_path):
    found.loc[2, ["low", "high", "n_seeds"]] = [-900, 900, 2]
    figure = figures.draw_claims(found, tmp_path / "claims")
    assert -20 < figure.axes[0].get_xlim()[0] < figure.axes[0].get_xlim()[1] < 20


def test_claims_without_effects(found, tmp_path):
    with pytest.raises(ValueError, match="no effects yet"):
        figures.draw_claims(found[found["claim"] == "A04"], tmp_path / "claims")


def test_accuracy_of_similar_and_dissimilar_pixels(tmp_path):
    heights = {"similar": [90.0, 80.0], "all": [85.0, 70.0], "dissimilar": [60.0, 50.0]}
    rows = [
        {"method": "tags", "class": name, "subset": subset, "accuracy": values[k], "pixels": 1}
        for k, name in enumerate(("disk", "star"))
        for subset, values in heights.items()
    ]
    (axis,) = figures.draw_similarity(pd.DataFrame(rows), tmp_path / "accuracy", "accuracy").axes
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert bars == {"d < σ": heights["similar"], "d > σ": heights["dissimilar"]}
    assert list(axis.lines[0].get_ydata()) == heights["all"]
    assert axis.get_ylabel() == "accuracy (%)"
    low, high = axis.get_xlim()
    assert low < -0.38
    assert high > 1.38


def test_label_quality_draws_means_and_seeds(tmp_path):
    values = pd.DataFrame(
        [
            {"row": row, "labels": labels, "seed": seed, "miou": 10.0 * k + 2 * seed + 40 * (row == "boxes")}
            for row in ("points", "boxes")
            for k, labels in enumerate(("weak labels", "mixture G", "segmentation P"), 1)
            for seed in (0, 1)
        ]
    )
    figure = figures.draw_label_quality(values, tmp_path / "quality")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["points", "boxes"]
    drawn = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert drawn == [[11.0, 51.0], [21.0, 61.0], [31.0, 71.0]]
    dots = sorted(y for part in axis.collections for y in part.get_offsets()[:, 1])
    assert dots == sorted(values["miou"])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "weak labels",
        "mixture G",
        "segmentation P",
    ]
    with pytest.raises(ValueError, match="no pseudo labels yet"):
        figures.draw_label_quality(values[:0], tmp_path / "none")


def test_gallery_shows_the_image_where_labels_say_nothing(tmp_path):
    """Classes in their colors, unlabeled pixels pale, void ones white; what is written beside the rows."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    mask = rng.choice([0, 1, UNLABELED, VOID], (6, 8)).astype(np.uint8)
    pictures = [{"image": image, "weak labels": mask}] * 2
    figure = figures.draw_gallery(pictures, 2, tmp_path / "gallery", ["tags", "boxes"])
    assert [axis.get_ylabel() for axis in figure.axes] == ["tags", "", "boxes", ""]
    assert [axis.get_title() for axis in figure.axes] == ["image", "weak labels", "", ""]
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    colors = [{tuple(color) for color in drawn[mask == k]} for k in (0, 1)]
    assert [len(found) for found in colors] == [1, 1]
    assert colors[0] != colors[1]
    assert (drawn[mask == VOID] == 1).all()
    pale = drawn[mask == UNLABELED]
    gray = image[mask == UNLABELED].mean(1)
    assert np.corrcoef(pale[:, 0], gray)[0, 1] == pytest.approx(1)
    assert 0.6 < pale.min() < pale.max() <= 1
    shares = pd.read_csv(tmp_path / "gallery.csv")
    assert list(shares["share"][:2]) == pytest.approx([(mask == k).mean() for k in (0, 1)])

"""Figures that are drawn from tables: the files, and that marks, bars and lines have the numbers of the table."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

mpl.use("Agg")

from agmm import figures  # noqa: E402
from agmm.codes import UNLABELED, VOID  # noqa: E402
from agmm.figures import style  # noqa: E402


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(things) -> list[str]:
    return [thing.get_text() for thing in things]


def rows(**values: list) -> pd.DataFrame:
    """All combinations of values of columns, the last ones changing fastest."""
    return pd.MultiIndex.from_product(values.values(), names=values).to_frame(index=False)


def heights(axis) -> dict[str, list[float]]:
    bars = [bars for bars in axis.containers if isinstance(bars, mpl.container.BarContainer)]
    return {one.get_label(): [bar.get_height() for bar in one] for one in bars}


def test_nothing_to_draw(tmp_path):
    for draw, columns, sentence in (
        (figures.draw_training_curves, ["row", "curve"], "no training curves yet; train the runs of"),
        (figures.draw_gains, ["row", "objective"], "no gains yet; train the runs of this figure"),
        (figures.draw_label_quality, ["row", "labels"], "no pseudo labels yet; train the runs of this"),
        (figures.draw_claims, ["claim", "setting", "effect"], "no effects yet; train the runs of some claims"),
    ):
        with pytest.raises(ValueError, match=sentence):
            draw(pd.DataFrame(columns=columns), tmp_path / "figure")
    assert not list(tmp_path.iterdir())


def test_training_curves(tmp_path):
    values = {
        ("Baseline", "P"): [10.0, 20.0, 30.0],
        ("AGMM", "P"): [20.0, 40.0, 50.0],
        ("AGMM", "P among labeled classes"): [30.0, 45.0, 52.0],
        ("AGMM", "G"): [40.0, 48.0, 51.0],
    }
    lines = [[*key, epoch, 2, mean, 1.0] for key, means in values.items() for epoch, mean in enumerate(means, 1)]
    curves = pd.DataFrame(lines, columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    figure = figures.draw_training_curves(curves, tmp_path / "figures" / "curves")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"curves.pdf", "curves.png", "curves.csv"}
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
    # In color, and in line style or gray value for those who see no color.
    looks = [(line.get_color(), line.get_linestyle()) for line in top.lines]
    assert len({color for color, _ in looks}) == len(set(looks)) == 4


def test_spreads(tmp_path):
    names = ["P among labeled classes", "G of the labels' means", "G", "G, its means with one spread", "P"]
    lines = [
        [row, curve, e, 1, 10.0 * n + e, np.nan] for row in ("a", "b") for n, curve in enumerate(names) for e in (1, 2)
    ]
    curves = pd.DataFrame(lines, columns=["row", "curve", "epoch", "n_seeds", "mean", "std"])
    figure = figures.draw_spreads(curves, tmp_path / "spreads")
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    for axis in figure.axes:
        drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        assert drawn == {curve: [10 * n + 1, 10 * n + 2] for n, curve in enumerate(names[:4])}
    assert set(pd.read_csv(tmp_path / "spreads.csv")["curve"]) == set(names[:4])


def test_sweep(tmp_path):
    lines = [("a", 0.1, 50.0, 69.0), ("a", 1.0, 60.0, 69.5), ("a", None, 55.0, 69.6), ("b", 0.1, None, 69.0)]
    frame = pd.DataFrame(lines, columns=["objective", "value", "mean", "published"]).assign(std=1.0)
    frame["row"] = ["σ by Eq. 5" if pd.isna(value) else f"σ = {value}" for value in frame["value"]]
    both = pd.concat([frame.assign(column="point"), frame.assign(column="scribble")])
    for axis in figures.draw_sweep(both, "σ", tmp_path / "sweep").axes:
        drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
        assert drawn.pop("a, σ by Eq. 5")[1] == [55.0, 55.0]
        assert drawn == {"a": ([0.1, 1.0], [50.0, 60.0]), "published (VOC)": ([0.1, 1.0], [69.0, 69.5])}
    nameless = frame[:2].assign(objective="", column="point")
    figure = figures.draw_sweep(nameless, "λ_G", tmp_path / "sweep")
    assert texts(figure.legends[0].get_texts()) == ["ours", "published (VOC)"]


def test_classes_draws_the_released_code(tmp_path):
    frame = rows(row=["disk", "mIoU"], column=["point", "scribble"], absent=[True, False])
    frame["ours_mean"] = 50.0 + 10 * (frame["row"] == "mIoU") + 10 * (frame["column"] == "scribble")
    (axis,) = figures.draw_classes(frame.assign(ours_std=1.0), tmp_path / "classes").axes
    assert heights(axis) == {"point": [50.0, 60.0], "scribble": [60.0, 70.0]}
    with pytest.raises(ValueError, match="no results yet"):
        figures.draw_classes(frame.assign(ours_mean=float("nan"), ours_std=1.0), tmp_path / "none")


def test_gains_draws_a_panel_per_start(tmp_path):
    frame = rows(init=["tags", "scratch"], column=["point", "scribble"], row=["+ both"], objective=["any"], seed=[0, 1])
    figure = figures.draw_gains(frame.assign(gain=5.0 + frame["seed"]), tmp_path / "gains")
    starts, columns = ("tag pretraining", "scratch"), ("point", "scribble")
    assert [axis.get_title() for axis in figure.axes] == [f"{c}, from {start}" for start in starts for c in columns]
    for axis in figure.axes:
        assert [bar.get_width() for bar in axis.patches] == [5.5]
        assert sorted(x for dots in axis.collections for x in dots.get_offsets()[:, 0]) == [5.0, 6.0]


def test_areas(tmp_path):
    frame = rows(init=["tags", "scratch"], column=["point", "scribble"], row=["a", "b"], objective=["any"], seed=[0, 1])
    frame["area"] = 1.0 + (frame["row"] == "b") + (frame["init"] == "scratch")
    figure = figures.draw_areas(frame.assign(miou=50.0 + frame["seed"]), tmp_path / "areas")
    for axis in figure.axes:
        assert [one.get_offsets().tolist() for one in axis.collections] == [[[1.0, 50.5]], [[2.0, 50.5]]]
        assert [one.get_label() for one in axis.collections] == ["a, any", "b, any"]


def markers(axis):
    """Place, marker and color of every effect, from the top."""
    lines = [line for line in axis.lines if line.get_marker() in ("o", "X", "s")]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_color()) for line in lines]


def test_claims(tmp_path):
    """Two claims in points, one of them with two settings; a correlation; one that nothing is known of."""
    nan = float("nan")
    lines = [
        ["A01", "points", 5.0, 4.0, 6.0, "reproduced", "+4.5 +5.5", 10.4, "mIoU"],
        ["A02", "points", -3.0, -4.0, -2.0, "not reproduced", "", nan, "mIoU"],
        ["A02", "scribbles", 0.5, -9.0, 9.5, "inconclusive", "", nan, "mIoU"],
        ["A03", "points", 0.9, 0.8, 1.0, "reproduced", "", nan, "rank correlation"],
        ["A04", "points", nan, nan, nan, "inconclusive", "", nan, "mIoU"],
    ]
    names = ["claim", "setting", "effect", "low", "high", "verdict", "each", "claimed", "unit"]
    frame = pd.DataFrame(lines, columns=names).assign(n_seeds=3, sentence="L_self helps")
    other = frame.assign(objective="released code without L_absent", effect=frame["effect"] + 1)
    other.loc[0, ["effect", "low", "high"]] = nan
    judged = pd.concat([frame.assign(objective="released code"), other], ignore_index=True)
    figure = figures.draw_claims(judged, tmp_path / "claims")
    points, without, others, _ = figure.axes
    assert markers(points) == [(5, 0, "o", "C0"), (-3, 1, "X", "C3"), (0.5, 2, "s", "0.55")]
    assert [(x, row) for x, row, _, _ in markers(without)] == [(-2, 1), (1.5, 2)]
    assert markers(others) == [(0.9, 0, "o", "C0")]
    assert points.get_xlabel() == "points of mIoU"
    assert points.get_xlim() == without.get_xlim()
    assert points.get_xlim()[0] < -9 < 10.4 < points.get_xlim()[1]
    intervals = [tuple(line.get_xdata()) for line in points.lines if len(line.get_xdata()) == 2]
    assert {(4, 6), (-4, -2), (-9, 9.5), (4.5, 5.5)} <= set(intervals)
    names = [text for axis in figure.axes for text in texts(axis.texts)]
    assert names.count("A02  $L_{\\mathrm{self}}$ helps") == 1
    assert "points (rank correlation)" in names
    assert texts(figure.texts) == ["Left out, as there are no numbers for them yet: A04."]
    assert set(pd.read_csv(tmp_path / "claims.csv")["claim"]) == {"A01", "A02", "A03"}
    # Intervals of two seeds do not stretch the axis.
    judged.loc[2, ["low", "high", "n_seeds"]] = [-900, 900, 2]
    axis, *_ = figures.draw_claims(judged, tmp_path / "claims").axes
    assert -20 < axis.get_xlim()[0] < axis.get_xlim()[1] < 20


def test_ellipses_are_one_standard_deviation_wide(tmp_path):
    """Every point of an ellipse has Mahalanobis distance 1 from its center."""
    spreads = {"disk": [[4.0, 1.5], [1.5, 1.0]], "star": [[0.5, -0.6], [-0.6, 2.0]]}
    classes = [[name, 2.0 + k, -1.0, s[0][0], s[0][1], s[1][1]] for k, (name, s) in enumerate(spreads.items())]
    frame = rows(method=["epoch 1", "epoch 2"], kind=["pixel", "mean", "component"], **{"class": list(spreads)})
    frame = frame.merge(pd.DataFrame(classes, columns=["class", "x", "y", "xx", "xy", "yy"]))
    figure = figures.draw_projection(frame.assign(explained=0.5, silhouette=0.25), tmp_path / "projection")
    for axis in figure.axes:
        assert axis.get_title().endswith("silhouette 0.25, 50 % of variance")
        for k, (patch, spread) in enumerate(zip(axis.patches, spreads.values(), strict=True)):
            outline = patch.get_path().transformed(patch.get_patch_transform()).to_polygons(closed_only=False)[0]
            away = outline[::2] - [2.0 + k, -1.0]  # between them lie control points
            lengths = np.einsum("pi,ij,pj->p", away, np.linalg.inv(spread), away)
            np.testing.assert_allclose(lengths, 1, atol=1e-4)
    assert texts(figure.legends[0].get_texts()) == ["disk", "star"]


def test_no_two_classes_look_alike(tmp_path):
    names = [f"class {k}" for k in range(21)]
    points = pd.DataFrame({"method": "AGMM", "class": names, "x": range(21), "y": 0.0, "silhouette": 0.1})
    (axis,) = figures.draw_embedding(points, tmp_path / "embedding").axes
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in axis.collections}
    assert len(looks) == 21


def test_accuracy_of_similar_and_dissimilar_pixels(tmp_path):
    subsets = {"similar": [90.0, 80.0], "all": [85.0, 70.0], "dissimilar": [60.0, 50.0]}
    frame = rows(**{"class": ["disk", "star"]}, subset=list(subsets), method=["tags"])
    frame["accuracy"] = np.transpose(list(subsets.values())).ravel()
    (axis,) = figures.draw_similarity(frame, tmp_path / "accuracy", "accuracy").axes
    assert heights(axis) == {"d < σ": subsets["similar"], "d > σ": subsets["dissimilar"]}
    assert list(axis.lines[0].get_ydata()) == subsets["all"]
    assert axis.get_ylabel() == "accuracy (%)"
    low, high = axis.get_xlim()
    assert low < -0.38
    assert high > 1.38


def test_label_quality_draws_means_and_seeds(tmp_path):
    names = ["weak labels", "mixture G", "segmentation P"]
    values = rows(row=["points", "boxes"], labels=names, seed=[0, 1])
    label = values["labels"].map(names.index)
    values["miou"] = 2.0 * values["seed"] + 40 * (values["row"] == "boxes") + 10 * label + 10
    (axis,) = figures.draw_label_quality(values, tmp_path / "quality").axes
    assert texts(axis.get_xticklabels()) == ["points", "boxes"]
    drawn = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert drawn == [[11.0, 51.0], [21.0, 61.0], [31.0, 71.0]]
    dots = sorted(y for part in axis.collections for y in part.get_offsets()[:, 1])
    assert dots == sorted(values["miou"])
    assert texts(axis.get_legend().get_texts()) == names


def test_gallery_shows_the_image_where_labels_say_nothing(tmp_path):
    """Classes in their colors, unlabeled pixels pale, void ones white; texts beside rows and below names."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    mask = rng.choice([0, 1, UNLABELED, VOID], (6, 8)).astype(np.uint8)
    pictures = [{"image": image, "weak labels": mask}] * 2
    notes = {"weak labels": "12.3 %"}
    figure = figures.draw_gallery(pictures, 2, tmp_path / "gallery", ["tags", "boxes"], notes)
    assert [axis.get_ylabel() for axis in figure.axes] == ["tags", "", "boxes", ""]
    assert [axis.get_title() for axis in figure.axes] == ["image", "weak labels\n12.3 %", "", ""]
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    colors = [{tuple(color) for color in drawn[mask == k]} for k in (0, 1)]
    assert [len(one) for one in colors] == [1, 1]
    assert colors[0] != colors[1]
    assert (drawn[mask == VOID] == 1).all()
    pale, gray = drawn[mask == UNLABELED], image[mask == UNLABELED].mean(1)
    assert np.corrcoef(pale[:, 0], gray)[0, 1] == pytest.approx(1)
    assert 0.6 < pale.min() < pale.max() <= 1
    shares = pd.read_csv(tmp_path / "gallery.csv")
    assert list(shares["share"][:2]) == pytest.approx([(mask == k).mean() for k in (0, 1)])

"""The notebook that goes through the equations on one image."""

from unittest.mock import Mock

import matplotlib.pyplot as plt
import numpy as np
import torch

from agmm import dense, objectives
from agmm.codes import UNLABELED
from agmm.figures import playground
from tests.helpers import ROOT, run_notebook


def test_the_notebook_shows_both_formulations_alike():
    plt.close("all")
    run_notebook(ROOT / "notebooks/explore/from_paper_to_code.ipynb", {"size": 32})
    assert len(plt.get_fignums()) == 12


def test_the_example_is_clicked_and_its_segmentation_has_learned_the_clicks():
    one = playground.example(index=7, size=64, seed=0)
    clicked = one.labels < len(one.names)
    assert one.image.shape == (64, 64, 3)
    assert one.features.shape == (1, 9, 16, 16)
    assert one.image_classes[0].nonzero().flatten().tolist() == one.labels[clicked].unique().tolist()
    right = one.logits.argmax(1)[clicked] == one.labels[clicked]
    assert right.float().mean() > 0.9


def test_side_by_side():
    one = torch.tensor(1.0)
    table = playground.side_by_side(a={"seg": one, "con": one / 2}, b={"seg": 2 * one})
    assert table.loc["seg"].tolist() == [1, 2]
    assert np.isnan(table.loc["con", "b"])


def test_only_classes_of_the_image_are_drawn():
    one = playground.example(index=7, size=32, seed=0)
    maps = dense.distances(one.features, dense.class_means(one.features, dense.one_hot(one.labels, len(one.names))))
    figure = playground.draw_classes(one, "$d$", maps)
    assert [axis.get_title() for axis in figure.axes[:-1]] == [
        one.names[code] for code in one.image_classes[0].nonzero().flatten().tolist()
    ]


def test_along_scale_measures_what_a_larger_scale_does():
    one = playground.example(index=7, size=32, seed=0)
    kind = objectives.AGMM(len(one.names), terms=("self", "spar", "con"))
    table = playground.along_scale(one, factor=1.01, official=kind).loc["official"]
    change = (table["features times 1.01"] - table["value"]) / 0.01
    np.testing.assert_allclose(table["derivative"], change, rtol=0.03)
    assert table["part of the gradient"].between(0, 1).all()


def test_a_gradient_along_the_scale_is_all_along_it():
    one = playground.example(index=7, size=32, seed=0)
    spread = (one.features - one.features.mean((2, 3), keepdim=True)).square().sum()
    stub = Mock(side_effect=lambda features, *others: Mock(terms={"a": features.var((2, 3)).sum()}))
    table = playground.along_scale(one, factor=2.0, stub=stub).loc[("stub", "a")]
    value = spread.item() / (one.features[0, 0].numel() - 1)
    np.testing.assert_allclose(table, [value, 4 * value, 2 * value, 1], rtol=1e-4)


def test_a_lost_class_has_no_click_and_a_table_a_row_of_each_class_of_the_image():
    one = playground.example(index=7, size=32, seed=0)
    lost = playground.lose(one, "star").labels
    assert torch.equal(lost == UNLABELED, (one.labels == UNLABELED) | (one.labels == one.names.index("star")))
    clicks = dense.one_hot(one.labels, len(one.names)).sum((2, 3), True)
    table = playground.by_class(one, {"clicks": clicks})
    assert table["clicks"].to_dict() == {"background": 27, "triangle": 9, "cross": 9, "star": 9}
    figure = playground.draw_members(one, {"new": clicks, "old": clicks})
    assert [axis.get_title() for axis in figure.axes] == ["image", "new", "old"]


def test_norms():
    x, y = (torch.zeros(n, requires_grad=True) for n in (4, 9))
    norms = playground.norms(3 * x.sum() + y.sum(), x=x, y=y)
    assert {name: norm.item() for name, norm in norms.items()} == {"|gradient|, x": 6, "|gradient|, y": 3}

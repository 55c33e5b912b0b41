"""The notebook that goes through the equations on one image."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from agmm import dense
from agmm.figures import playground
from tests.helpers import ROOT, run_notebook


def test_the_notebook_shows_both_formulations_alike():
    plt.close("all")
    run_notebook(ROOT / "notebooks/explore/from_paper_to_code.ipynb", {"size": 32})
    assert len(plt.get_fignums()) == 8


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

"""Clicks on an image and the mixture that they make: against the definition, and in the notebook."""

from types import SimpleNamespace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from agmm import figures, objectives
from agmm.figures import Click, playground
from tests.helpers import ROOT, run_notebook

CLICKS = [Click(3, 4, 2), Click(20, 9, 0), Click(21, 30, 2)]
NAMES = ["ground", "disk", "ring", "star"]


@pytest.fixture
def seen() -> tuple[torch.Tensor, torch.Tensor]:
    """Features (1, 5, 8, 8) and logits (1, 4, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 5, 8, 8, generator=generator), torch.randn(1, 4, 32, 32, generator=generator)


def test_one_click_is_the_mean_of_its_class(seen):
    mixture = figures.mixture_of_clicks(*seen, CLICKS)
    upsampled = torch.nn.functional.interpolate(seen[0], size=(32, 32), mode="bilinear", align_corners=False)[0]
    assert mixture.classes.tolist() == [0, 2]
    assert mixture.means[0] == pytest.approx(upsampled[:, 20, 9].numpy(), abs=1e-5)
    both = (upsampled[:, 3, 4] + upsampled[:, 21, 30]) / 2
    assert mixture.means[1] == pytest.approx(both.numpy(), abs=1e-5)
    expected = (seen[0][0] - both[:, None, None]).abs().mean(0)
    assert mixture.distances[1] == pytest.approx(expected.numpy(), abs=1e-5)
    assert mixture.scores.shape == (2, 32, 32)
    assert set(np.unique(mixture.prediction)) <= {0, 2}


@pytest.mark.parametrize(("spread", "variant"), [(False, "official"), (True, "paper")])
def test_scores_are_those_of_the_objective(seen, spread, variant):
    labels = playground.click_labels(CLICKS, (32, 32), 4)
    named = torch.tensor([[True, False, True, False]])
    expected = objectives.AGMM(4, variant=variant)(*seen, labels, named).scores[0, [0, 2]]
    assert figures.mixture_of_clicks(*seen, CLICKS, spread).scores == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("clicks", "sentence"),
    [
        ([], "click on at least one pixel"),
        ([Click(32, 0, 0)], "row 32, column 0 is outside the image of 32 x 32"),
        ([Click(0, -1, 0)], "outside the image"),
        ([Click(0, 0, 4)], "no class 4; classes are 0 to 3"),
    ],
)
def test_impossible_clicks(seen, clicks, sentence):
    with pytest.raises(ValueError, match=sentence):
        figures.mixture_of_clicks(*seen, clicks)


def test_of_two_clicks_on_a_pixel_the_later_counts(seen):
    again = figures.mixture_of_clicks(*seen, [Click(3, 4, 1), Click(3, 4, 2)])
    assert again.classes.tolist() == [2]


def test_central_clicks():
    truth = np.full((9, 9), 255, np.uint8)
    truth[:, :5] = 1
    truth[2:5, 6:9] = 3
    assert figures.central_clicks(truth) == [Click(2, 2, 1), Click(3, 7, 3)]


@pytest.mark.parametrize("count", [1, 4])
def test_figure(seen, tmp_path, count):
    clicks = [Click(5 * k, 6, k) for k in range(count)]
    mixture = figures.mixture_of_clicks(*seen, clicks)
    figure = figures.draw_clicks(np.zeros((32, 32, 3), np.uint8), clicks, mixture, NAMES, tmp_path / "a")
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    plt.close(figure)
    assert len(titles) == 3 + 2 * count
    assert titles[0] == "clicks"
    numbers = pd.read_csv(tmp_path / "a.csv")
    assert list(numbers["class"]) == NAMES[:count]
    assert numbers.iloc[:, 2:].to_numpy() == pytest.approx(mixture.means)


def test_mosaic_calls_back_with_pixels():
    image = np.zeros((30, 50, 3), np.uint8)
    image[:4, :4] = 200, 100, 0
    found = []
    grid = playground.mosaic(image, lambda y, x: found.append((y, x)))
    assert len(grid.children) == 8 * 13
    assert grid.children[0].style.button_color == "rgb(200,100,0)"
    for button in grid.children:
        button.click()
    assert found[0] == (2, 2)
    assert len(set(found)) == len(found)
    assert all(0 <= y < 30 and 0 <= x < 50 for y, x in found)


def test_clicks_are_added_and_taken_back(seen, monkeypatch):
    drawn = []
    monkeypatch.setattr(playground, "click_mixture", lambda trained, index, clicks, spread: (list(clicks), spread))
    monkeypatch.setattr(playground, "draw_clicks", lambda *given: drawn.append(given[2]) or plt.figure())
    data = SimpleNamespace(images=np.zeros((1, 8, 8, 3), np.uint8), class_names=NAMES)
    box = figures.click_widget(SimpleNamespace(data=data), 0, [Click(1, 1, 3)])
    (label, spread, undo), grid, _ = box.children[0].children, box.children[1], box.children[2]
    assert isinstance(box, widgets.VBox)
    label.value = 2
    grid.children[0].click()
    spread.value = True
    for _ in range(3):
        undo.click()
    first, second = Click(1, 1, 3), Click(2, 2, 2)
    assert drawn == [([first], False), ([first, second], False), ([first, second], True), ([first], True)]


def test_notebook(tmp_path):
    """Trains what is missing and draws the clicks that are given, with nobody there to click."""
    given = {"preset": "smoke", "results": str(tmp_path)}
    run_notebook(ROOT / "notebooks/explore/gmm_playground.ipynb", given)
    made = {path.name for path in (tmp_path / "smoke" / "figures").glob("*.png")}
    assert made == {"gmm_playground.png", "gmm_playground_spreads.png", "gmm_playground_fewer.png"}

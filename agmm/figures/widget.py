"""To be clicked on in a notebook: an image whose mixture is drawn anew with every click."""

from collections.abc import Callable, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from agmm import figures
from agmm.figures import plots

CELLS = 24
"""Cells in a row of the mosaic to be clicked on, at most."""


def playground(trained: figures.Trained, index: int = 0, clicks: Sequence[figures.Click] = ()) -> widgets.VBox:
    """An image as a mosaic of buttons: each click adds a labeled pixel and draws the mixture anew.

    Parameters
    ----------
    trained : Trained
    index : int
        Training image.
    clicks : sequence of Click
        Those to begin with.
    """
    image = np.asarray(trained.data.images[index])
    made, names, output = list(clicks), trained.data.class_names, widgets.Output()
    label = widgets.Dropdown(options=[(name, k) for k, name in enumerate(names)], description="class")
    spread = widgets.Checkbox(description="spreads by Eq. 5")

    def draw(_: object = None) -> None:
        with output:
            output.clear_output(wait=True)
            if not made:
                print("Choose a class and click on the image.")
                return
            figure = plots.click_figure(image, made, figures.click_mixture(trained, index, made, spread.value), names)
            display(figure)
            plt.close(figure)

    def add(y: int, x: int) -> None:
        made.append(figures.Click(y, x, label.value))
        draw()

    def back(_: object) -> None:
        del made[-1:]
        draw()

    undo = widgets.Button(description="take back")
    undo.on_click(back)
    spread.observe(draw, "value")
    draw()
    return widgets.VBox([widgets.HBox([label, spread, undo]), mosaic(image, add), output])


def mosaic(image: np.ndarray, clicked: Callable[[int, int], None]) -> widgets.GridBox:
    """Buttons in the mean colors of an image's cells; each calls ``clicked`` with row and column of its center."""
    height, width = image.shape[:2]
    side = max(4, -(-width // CELLS))
    shape = widgets.Layout(width="18px", height="18px", margin="0", padding="0")
    buttons = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            red, green, blue = image[top : top + side, left : left + side].reshape(-1, 3).mean(0).astype(int)
            y, x = min(top + side // 2, height - 1), min(left + side // 2, width - 1)
            button = widgets.Button(layout=shape, tooltip=f"row {y}, column {x}")
            button.style.button_color = f"rgb({red},{green},{blue})"
            button.on_click(lambda _, y=y, x=x: clicked(y, x))
            buttons.append(button)
    columns = f"repeat({-(-width // side)}, 18px)"
    return widgets.GridBox(buttons, layout=widgets.Layout(grid_template_columns=columns, grid_gap="0"))

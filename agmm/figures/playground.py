"""One image with clicks: to go through the equations on, and to click on and see the mixture change, in notebooks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from agmm import gmm
from agmm.codes import UNLABELED, VOID
from agmm.data import sets
from agmm.data.synthetic.shapes import SHAPES
from agmm.figures.style import WIDTH, class_colors, panels, save
from agmm.figures.trained import Trained, forward
from agmm.training.run import AnyObjective

CELLS = 24  # buttons in a row of the mosaic to click on, at most


class Click(NamedTuple):
    """A labeled pixel: row, column, class."""

    y: int
    x: int
    label: int


class ClickMixture(NamedTuple):
    """The mixture of an image with N clicked classes, h x w feature cells and H x W pixels."""

    classes: np.ndarray  # (N,) clicked classes, ascending
    means: np.ndarray  # (N, C) class means (Eq. 4)
    distances: np.ndarray  # (N, h, w) distance of every feature to the means (Eq. 6)
    sigma: np.ndarray  # (N,) spreads by Eq. 5, also where the scores do not use them
    scores: np.ndarray  # (N, H, W) scores G (Eq. 7)

    @property
    def prediction(self) -> np.ndarray:
        """Return the class (H, W) with the largest score."""
        return self.classes[self.scores.argmax(0)].astype(np.uint8)


def click_mixture(trained: Trained, index: int, clicks: Sequence[Click], spread: bool = False) -> ClickMixture:
    """Return the mixture of clicks on a training image of a complete run; see `mixture_of_clicks`."""
    features, logits = forward(trained, trained.data, slice(index, index + 1))
    return mixture_of_clicks(features, logits, clicks, spread)


def mixture_of_clicks(features: Tensor, logits: Tensor, clicks: Sequence[Click], spread: bool = False) -> ClickMixture:
    """Return the mixture of clicks on one image from features (1, C, h, w) and logits (1, K, H, W).

    Of two clicks on one pixel the later counts; scores use the spreads of Eq. 5 or, as in the released code, none.
    ValueError if there is no click, or one lies outside the image or names a class that does not exist.
    """
    labels = click_labels(clicks, tuple(logits.shape[2:]), logits.shape[1])
    components = gmm.components(labels, logits.shape[1])
    means, d = gmm.means_and_distances(features, labels, components)
    sigma = gmm.spread(d, logits, labels, components.present, components, "adaptive")
    scores = gmm.scores(d, sigma if spread else None, labels.shape[1:], components)
    return ClickMixture(*(one[0].numpy() for one in (components.classes, means, d, sigma, scores)))


def click_labels(clicks: Sequence[Click], size: tuple[int, ...], num_classes: int) -> Tensor:
    """Return the labels (1, H, W) of clicks on an image of size (H, W); raise ValueError for impossible ones."""
    if not clicks:
        raise ValueError("without a click there is no mixture: click on at least one pixel")
    labels = torch.full((1, *size), UNLABELED)
    for y, x, label in clicks:
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            raise ValueError(f"the click at row {y}, column {x} is outside the image of {size[0]} x {size[1]} pixels")
        if not 0 <= label < num_classes:
            raise ValueError(f"there is no class {label}; classes are 0 to {num_classes - 1}")
        labels[0, y, x] = label
    return labels


def central_clicks(truth: np.ndarray) -> list[Click]:
    """Return a click on every class of a dense mask, where it is farthest from other classes and the border."""
    clicks = []
    for label in np.unique(truth[(truth != VOID) & (truth != UNLABELED)]):
        depth = ndimage.distance_transform_edt(np.pad(truth == label, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        clicks.append(Click(int(y), int(x), int(label)))
    return clicks


def draw_clicks(
    image: np.ndarray, clicks: Sequence[Click], mixture: ClickMixture, names: Sequence[str], stem: Path | None = None
) -> Figure:
    """Draw clicks, the mixture's prediction and means, and the distances and scores of every clicked class.

    The image is (H, W, 3) uint8, the names are those of all classes; nothing is written without a stem.
    """
    columns = max(len(mixture.classes), 3)
    figure, axes = panels(3, columns, height=3 * WIDTH / columns)
    clicked, predicted, means = axes[0, :3]
    clicked.imshow(image, interpolation="nearest")
    colors = class_colors(np.array([click.label for click in clicks]))
    x, y = [click.x for click in clicks], [click.y for click in clicks]
    clicked.scatter(x, y, s=28, c=colors, edgecolors="white", linewidths=0.9)
    clicked.set_title("clicks")
    predicted.imshow(class_colors(mixture.prediction), interpolation="nearest")
    predicted.set_title("largest score")
    _heat(means, mixture.means, "class means", aspect="auto")
    means.set_xlabel("channels")
    farthest = float(mixture.distances.max())
    for slot, label in enumerate(mixture.classes):
        distances, sigma, scores = mixture.distances[slot], mixture.sigma[slot], mixture.scores[slot]
        title = f"{names[label]}\nd ≤ {distances.max():.2f}, σ = {sigma:.2f}"
        _heat(axes[1, slot], distances, title, vmin=0, vmax=farthest)
        _heat(axes[2, slot], scores, f"G ≤ {scores.max():.2f}", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.spines[:].set_visible(False)
        axis.set_visible(axis.has_data())
        axis.set(xticks=[], yticks=[])
    classes = [names[label] for label in mixture.classes]
    means.set_yticks(range(len(classes)), classes)
    if stem is None:
        return figure
    numbers = pd.DataFrame({"class": classes, "sigma": mixture.sigma})
    return save(figure, numbers.join(pd.DataFrame(mixture.means).add_prefix("mean_")), stem)


def _heat(axis: Axes, values: np.ndarray, title: str, **options: Any) -> None:
    axis.imshow(values, cmap="cividis", interpolation="nearest", **options)
    axis.set_title(title)


def click_widget(trained: Trained, index: int = 0, clicks: Sequence[Click] = ()) -> widgets.VBox:
    """Return a training image as buttons, with some clicks: each adds a labeled pixel and draws the mixture anew."""
    image = np.asarray(trained.data.images[index])
    points, names, output = list(clicks), trained.data.class_names, widgets.Output()
    label = widgets.Dropdown(options=[(name, k) for k, name in enumerate(names)], description="class")
    spread = widgets.Checkbox(description="spreads by Eq. 5")

    def draw(_: object = None) -> None:
        with output:
            output.clear_output(wait=True)
            if not points:
                print("Choose a class and click on the image.")
                return
            figure = draw_clicks(image, points, click_mixture(trained, index, points, spread.value), names)
            display(figure)
            plt.close(figure)

    def add(y: int, x: int) -> None:
        points.append(Click(y, x, label.value))
        draw()

    def take_back(_: object) -> None:
        del points[-1:]
        draw()

    undo = widgets.Button(description="take back")
    undo.on_click(take_back)
    spread.observe(draw, "value")
    draw()
    return widgets.VBox([widgets.HBox([label, spread, undo]), mosaic(image, add), output])


def mosaic(image: np.ndarray, clicked: Callable[[int, int], None]) -> widgets.GridBox:
    """Return buttons in the mean colors of an image's cells; which call ``clicked`` with row and column."""
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


# --- The equations ----------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A batch of one image, and what is known of it."""

    image: np.ndarray  # (H, W, 3) uint8
    names: tuple[str, ...]  # all classes, of which the image shows a few
    features: Tensor  # (1, C, h, w): colors of each cell and of its surroundings
    logits: Tensor  # (1, K, H, W) of a linear classifier of the features, trained with the clicks
    labels: Tensor  # (1, H, W) int64: a few clicks
    image_classes: Tensor  # (1, K) bool


def example(index: int, size: int, seed: int, steps: int = 300) -> Example:
    """Return an embedded training image of ``size`` pixels with clicks, features and a segmentation.

    There is no network: features are colors averaged over 1, 3 and 7 cells of 4 x 4 pixels. The segmentation is a
    linear classifier of them that has learned the clicked pixels for some steps, with partial cross-entropy.
    """
    data = SHAPES.make("train", index + 1, size=size)
    clicks = np.asarray(sets.weak_labels(data, "points", {}, seed))
    image, labels = np.asarray(data.images[index]), torch.from_numpy(clicks[index : index + 1]).long()
    cells = F.avg_pool2d(torch.from_numpy(image).movedim(-1, 0)[None] / 255, 4)
    features = torch.cat([F.avg_pool2d(cells, k, 1, k // 2, count_include_pad=False) for k in (1, 3, 7)], 1)
    fine = F.interpolate(features, size=(size, size), mode="bilinear", align_corners=False)
    clicked, target = fine[0].movedim(0, -1)[labels[0] < UNLABELED], labels[labels < UNLABELED]
    torch.manual_seed(seed)
    classifier = torch.nn.Linear(features.shape[1], data.num_classes)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier(clicked), target).backward()
        optimizer.step()
    logits = classifier(fine.movedim(1, -1)).movedim(-1, 1).detach()
    shown = torch.isin(torch.arange(data.num_classes), labels)[None]
    return Example(image, data.class_names, features, logits, labels, shown)


def lose(example: Example, name: str) -> Example:
    """Return the example without the clicks on a class, as a crop that holds none of them."""
    return example._replace(labels=example.labels.masked_fill(example.labels == example.names.index(name), UNLABELED))


def draw_example(example: Example) -> Figure:
    """Draw the image with its clicks, and the most probable class of every pixel."""
    figure, axes = panels(1, 2, height=WIDTH / 3, width=2 * WIDTH / 3)
    labels = example.labels[0].numpy()
    y, x = (labels < UNLABELED).nonzero()
    colors = class_colors(labels[y, x])
    axes[0, 0].imshow(example.image)
    axes[0, 0].scatter(x, y, s=40, c="white")
    axes[0, 0].scatter(x, y, s=14, c=colors)
    axes[0, 0].set_title("image and clicks")
    axes[0, 1].imshow(class_colors(example.logits[0].argmax(0).numpy()), interpolation="nearest")
    axes[0, 1].set_title("segmentation, argmax P")
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def draw_classes(example: Example, symbol: str, maps: Tensor, numbers: Tensor | None = None) -> Figure:
    """Draw a map of every class of the image from maps (1, K, h, w), with a number of each from (1, K)."""
    codes = example.image_classes[0].nonzero().flatten().tolist()
    figure, axes = panels(1, len(codes), height=WIDTH / max(len(codes), 4) + 0.35)
    top = float(maps[0, codes].max())
    for axis, code in zip(axes[0], codes, strict=True):
        number = "" if numbers is None else f"\n$\\sigma$ = {numbers[0, code]:.3f}"
        drawn = axis.imshow(maps[0, code].numpy(), vmin=0, vmax=top, cmap="cividis", interpolation="nearest")
        axis.set_title(example.names[code] + number)
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label=symbol, shrink=0.8, aspect=12)
    return figure


def draw_matrix(example: Example, values: Tensor, symbol: str, columns: str | None = None) -> Figure:
    """Draw a matrix from (1, K, ·) with a row of each class of the image, and a column of each if none are named."""
    codes = example.image_classes[0].nonzero().flatten().tolist()
    rows = values[0, codes] if columns else values[0][codes][:, codes]
    names = [example.names[code] for code in codes]
    figure, axes = panels(1, 1, height=0.35 * len(codes) + 0.9, width=0.6 * WIDTH)
    drawn = axes[0, 0].imshow(rows.numpy(), cmap="cividis", aspect="auto")
    axes[0, 0].set_yticks(range(len(codes)), names)
    axes[0, 0].set_xticks([] if columns else range(len(codes)), None if columns else names)
    axes[0, 0].set_xlabel(columns or "")
    figure.colorbar(drawn, ax=axes, label=symbol)
    return figure


def side_by_side(**terms: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return a table with a row of each term and a column of each formulation."""
    return pd.DataFrame({name: {k: v.item() for k, v in one.items()} for name, one in terms.items()})


def terms_of(example: Example, objectives: Mapping[str, AnyObjective]) -> pd.DataFrame:
    """Return a table with a row of each term, and of their sum, and a column of each objective."""
    outputs = {name: objective(*example[2:]) for name, objective in objectives.items()}
    return side_by_side(**{name: output.terms | {"sum": output.loss} for name, output in outputs.items()})


def by_class(example: Example, numbers: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return a table with a row of each class of the image, from numbers of all classes (1, K, 1, 1)."""
    columns = {name: one.flatten().tolist() for name, one in numbers.items()}
    return pd.DataFrame(columns, index=example.names)[example.image_classes[0].numpy()]


def draw_members(example: Example, members: Mapping[str, Tensor]) -> Figure:
    """Draw the component of every cell, from members (1, K, h, w) of each name, beside the image."""
    pictures = {name: class_colors(one[0].argmax(0).numpy()) for name, one in members.items()}
    figure, axes = panels(1, 1 + len(pictures), height=WIDTH / 3, width=(1 + len(pictures)) * WIDTH / 3)
    for axis, (name, picture) in zip(axes[0], {"image": example.image, **pictures}.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(name)
        axis.set_axis_off()
    return figure


def along_scale(example: Example, factor: float = 3.0, **objectives: AnyObjective) -> pd.DataFrame:
    """Return how the terms of objectives change if all features are multiplied by a factor.

    A row of each term: its value; that of the multiplied features; its derivative by the factor at 1, which is the sum
    of gradient times features; and the part of the gradient's norm along this direction, without the shift of the
    features that it contains, which changes no mixture.
    """
    features, *others = example.features.clone().requires_grad_(), example.logits, example.labels, example.image_classes
    direction = F.normalize((features - features.mean((2, 3), keepdim=True)).detach().flatten(), dim=0)
    rows = {}
    for name, objective in objectives.items():
        terms, after = (objective(scale * features, *others).terms for scale in (1, factor))
        for term, value in terms.items():
            (gradient,) = torch.autograd.grad(value, features, retain_graph=True)
            slope, part = (gradient * features).sum(), (gradient.flatten() @ direction).abs() / gradient.norm()
            rows[name, term] = [x.item() for x in (value, after[term], slope, part)]
    columns = ["value", f"features times {factor:g}", "derivative", "part of the gradient"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).set_axis(pd.MultiIndex.from_tuples(rows))


def norms(loss: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """Return the norm of a loss's gradient along each input."""
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {f"|gradient|, {name}": one.norm() for name, one in zip(inputs, gradients, strict=True)}

"""Rows of pictures: images with their labels, predictions and mixtures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from agmm.codes import UNLABELED
from agmm.figures.style import WIDTH, class_colors, panels, save
from agmm.figures.trained import Trained, best_component, forward, weak_labels

Picture = dict[str, np.ndarray]  # name of a column -> image (H, W, 3) or mask (H, W), both uint8
CONTRAST = 0.3  # contrast of an image below its partial labels


def mixtures(trained: Trained, images: Iterable[int], labels: str = "labels") -> list[Picture]:
    """Return image, weak labels, segmentation, mixture and truth of training images (AGMM, supplementary Fig. 1).

    ``labels`` is the name of the labels' column, see `draw_gallery` for what ``"labels"`` means.
    """
    pictures = []
    for index in images:
        part = slice(index, index + 1)
        label = weak_labels(trained, part)
        features, logits = forward(trained, trained.data, part)
        picture = {"image": np.asarray(trained.data.images[index]), labels: _mask(label)}
        picture |= {"segmentation": _mask(logits.argmax(1))}
        picture |= {"mixture": _mask(best_component(trained, features, logits, label))}
        pictures.append(picture | {"truth": np.asarray(trained.data.truth[index])})
    return pictures


def compare_mixtures(runs: Mapping[str, Trained], images: Sequence[int]) -> list[Picture]:
    """Return training images with the labels of the last run, the mixtures of all and the truth (AGMM++, Fig. 8)."""
    by_method = {method: mixtures(trained, images, "weak labels") for method, trained in runs.items()}
    pictures = []
    for same_image in zip(*by_method.values(), strict=True):
        last = same_image[-1]
        picture = {name: last[name] for name in ("image", "weak labels")}
        picture |= {method: one["mixture"] for method, one in zip(by_method, same_image, strict=True)}
        pictures.append(picture | {"truth": last["truth"]})
    return pictures


def predictions(runs: Mapping[str, Trained], images: Iterable[int]) -> list[Picture]:
    """Return test images with their truth and the prediction of every method (AGMM, supplementary Fig. 4 and 6)."""
    pictures = []
    test = next(iter(runs.values())).test
    for index in images:
        picture = {"image": np.asarray(test.images[index]), "truth": np.asarray(test.truth[index])}
        for method, trained in runs.items():
            _, logits = forward(trained, trained.test, slice(index, index + 1))
            picture[method] = _mask(logits.argmax(1))
        pictures.append(picture)
    return pictures


def _mask(masks: Tensor) -> np.ndarray:
    return masks[0].numpy().astype(np.uint8)


def draw_gallery(
    pictures: Sequence[Mapping[str, np.ndarray]],
    num_classes: int,
    stem: Path,
    rows: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Draw rows of pictures with their masks in one palette; the CSV holds every mask's share of each class.

    Sparse labels called ``"labels"`` are drawn enlarged on the image; in other masks unlabeled pixels show the image,
    pale, and void ones are white. ``rows`` are texts beside the rows, ``notes`` texts below the names of some columns.
    """
    names, notes = [name for name in pictures[0] if name != "labels"], notes or {}
    height, width = pictures[0]["image"].shape[:2]
    row_height = WIDTH / len(names) * height / width
    figure, axes = panels(len(pictures), len(names), height=row_height * len(pictures) + (0.4 if notes else 0.25))
    shares = []
    for number, (line, picture) in enumerate(zip(axes, pictures, strict=True)):
        for axis, name in zip(line, names, strict=True):
            content = picture[name]
            if content.ndim == 2:
                shares += [[number, name, k, float((content == k).mean())] for k in range(num_classes)]
                content = _colored(content, picture["image"], num_classes)
            axis.imshow(content, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if number == 0:
                axis.set_title(f"{name}\n{notes[name]}" if name in notes else name)
        line[0].set_ylabel(rows[number] if rows else "")
        if "labels" in picture:
            y, x = np.nonzero(picture["labels"] < num_classes)
            colors = class_colors(picture["labels"][y, x])
            line[names.index("image")].scatter(x, y, s=22, c=colors, edgecolors="white", linewidths=0.8)
    return save(figure, pd.DataFrame(shares, columns=["picture", "column", "class", "share"]), stem)


def _colored(mask: np.ndarray, image: np.ndarray, num_classes: int) -> np.ndarray:
    """Return colors (H, W, 3) in [0, 1] of a mask; what has no class shows the image, or white where it is void."""
    pale = 1 - CONTRAST * (1 - image.mean(2, keepdims=True) / 255)
    background = np.where((mask == UNLABELED)[..., None], pale, 1.0)
    return np.where((mask < num_classes)[..., None], class_colors(mask), background)

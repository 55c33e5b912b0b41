"""Pictures of images with their labels, predictions and mixtures."""

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from agmm.figures.trained import Trained, best_component, forward, weak_labels

Picture = dict[str, np.ndarray]


def mixtures(trained: Trained, images: Iterable[int], labels: str = "labels") -> list[Picture]:
    """Image, weak labels, segmentation, mixture and truth of training images.

    AGMM, supplementary Fig. 1 and AGMM++, Fig. 7.

    Parameters
    ----------
    trained : Trained
    images : iterable of int
    labels : str
        Name of the labels; see `agmm.figures.plots.gallery` for what ``"labels"`` means.
    """
    pictures = []
    for index in images:
        label, segmentation, mixture = _of_training_image(trained, index)
        pictures.append(
            {
                "image": np.asarray(trained.data.images[index]),
                labels: label,
                "segmentation": segmentation,
                "mixture": mixture,
                "truth": np.asarray(trained.data.truth[index]),
            }
        )
    return pictures


def compare_mixtures(runs: Mapping[str, Trained], images: Iterable[int]) -> list[Picture]:
    """Training images with the labels of the last run, the mixtures of all and the truth (AGMM++, Fig. 8)."""
    pictures = []
    *_, last = runs.values()
    for index in images:
        picture = {"image": np.asarray(last.data.images[index])}
        seen = {method: _of_training_image(trained, index) for method, trained in runs.items()}
        *_, (picture["weak labels"], _, _) = seen.values()
        picture |= {method: mixture for method, (_, _, mixture) in seen.items()}
        pictures.append(picture | {"truth": np.asarray(last.data.truth[index])})
    return pictures


def predictions(runs: Mapping[str, Trained], images: Iterable[int]) -> list[Picture]:
    """Test images with their truth and the prediction of every method (AGMM, supplementary Fig. 4 and 6)."""
    pictures = []
    for index in images:
        first = next(iter(runs.values()))
        picture = {"image": np.asarray(first.test.images[index]), "truth": np.asarray(first.test.truth[index])}
        for method, trained in runs.items():
            _, logits = forward(trained, trained.test, slice(index, index + 1))
            picture[method] = _first_mask(logits.argmax(1))
        pictures.append(picture)
    return pictures


def _of_training_image(trained: Trained, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weak labels, segmentation and mixture."""
    part = slice(index, index + 1)
    label = weak_labels(trained, part)
    features, logits = forward(trained, trained.data, part)
    mixture = best_component(trained, features, logits, label)
    return _first_mask(label), _first_mask(logits.argmax(1)), _first_mask(mixture)


def _first_mask(masks: Tensor) -> np.ndarray:
    return masks[0].numpy().astype(np.uint8)

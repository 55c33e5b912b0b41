"""What figures show of trained networks: features, distances, scores and predictions, as tables and pictures.

Labels form the mixture, so whatever needs it is shown on training images; the dense truth serves for evaluation only.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from agmm import evaluation, gmm, networks, objectives, training
from agmm.data import Arrays, Split, sets
from agmm.labels import UNLABELED, VOID
from agmm.runs import Run

SUBSETS = ("similar", "all", "dissimilar")
BATCH = 25


@dataclass(frozen=True)
class Trained:
    """A complete run: its network with the data it was trained and tested on.

    Attributes
    ----------
    run : Run
    net : Segmenter
        In eval mode, on a GPU where there is one.
    data, test : Split
    sparse : sequence of (H, W) uint8 arrays
        Sparse labels of ``data``.
    """

    run: Run
    net: networks.Segmenter
    data: Split
    test: Split
    sparse: Arrays


def load(run: Run, results: str | Path = "results", data_root: str | Path | None = None) -> Trained:
    """Weights and data of a complete run; ValueError where the weights are missing."""
    cache = Path(results) / "cache"
    read = partial(sets.load, run.dataset, size=run.image_size, data_root=data_root or None, cache=cache)
    data, test = read("train", count=run.train_images), read("test", count=run.test_images)
    sparse = sets.weak_labels(data, run.labels, dict(run.label_options), run.seed, cache)
    net = training.load_network(run, Path(results), data.num_classes, training.choose_device("auto"))
    return Trained(run, net, data, test, sparse)


def _outputs(trained: Trained, split: Split, count: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Features (B, C, h, w) and logits (B, K, H, W) of the first images of a split, in batches of equal images."""
    count = min(count, len(split))
    size = BATCH if isinstance(split.images, np.ndarray) else 1
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        features, logits = _forward(trained, split, part)
        yield part, features, logits


@torch.no_grad()
def _forward(trained: Trained, split: Split, part: slice) -> tuple[Tensor, Tensor]:
    """Features and logits of some images of equal size, on the CPU."""
    device = next(trained.net.parameters()).device
    images = _tensor(split.images[part]).to(device)
    features, logits = trained.net(evaluation.to_input(images, **training.normalization(trained.run)))
    return features.cpu(), logits.cpu()


def _tensor(arrays: Arrays) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


# --- Similar and dissimilar pixels ------------------------------------------------------------------------------------


def similarity(runs: Mapping[str, Trained], images: int = 200) -> pd.DataFrame:
    """IoU of unlabeled training pixels by their feature distance to the labeled ones (AGMM, Fig. 2b).

    The IoU of class k is taken over the unlabeled pixels of the images with a label of k, over those closer than one
    spread (``d_k < sigma_k``, Eq. 5 and 6), and over those farther away. Distance and spread are always those of
    class k itself, for predicted, missed and wrong pixels alike; the paper does not say whose it takes.

    Returns
    -------
    DataFrame
        Columns method, class, subset (`SUBSETS`), iou in per cent (missing where a subset is empty), pixels.
    """
    rows = []
    for method, trained in runs.items():
        counts = torch.stack(list(_similarity_counts(trained, images))).sum(0)
        for k, name in enumerate(trained.data.class_names):
            for subset, (hits, union, pixels) in zip(SUBSETS, counts[k].tolist(), strict=True):
                iou = 100 * hits / union if union else np.nan
                rows.append({"method": method, "class": name, "subset": subset, "iou": iou, "pixels": int(pixels)})
    return pd.DataFrame(rows)


def _similarity_counts(trained: Trained, images: int) -> Iterator[Tensor]:
    """Intersection, union and size of each class and subset: (K, 3, 3) per batch."""
    num_classes = trained.data.num_classes
    for part, features, logits in _outputs(trained, trained.data, images):
        labels = _tensor(trained.sparse[part]).long()
        truth = _tensor(trained.data.truth[part]).long()
        parts, d, sigma = objectives.LabelAssignment(num_classes).distances(
            features, logits, labels, gmm.components(labels, num_classes).present
        )
        free = ((labels == UNLABELED) & (truth != VOID)).unsqueeze(1) & parts.filled[..., None, None]
        close = d < sigma[..., None, None]
        codes = parts.classes[..., None, None]
        predicted, true = logits.argmax(1, keepdim=True) == codes, truth.unsqueeze(1) == codes
        totals = torch.zeros(num_classes, 3, 3, dtype=torch.int64)
        for column, subset in enumerate((free & close, free, free & ~close)):
            sums = [(subset & chosen).sum((2, 3)) for chosen in (predicted & true, predicted | true, subset)]
            totals[:, column].index_add_(0, parts.classes.flatten(), torch.stack(sums, -1).flatten(0, 1))
        yield totals


# --- Features ---------------------------------------------------------------------------------------------------------


def sample_features(
    trained: Trained, per_class: int = 100, images: int = 100, split: Split | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels on the feature grid, the same pixels whatever the network; of test images by default.

    Returns
    -------
    features : (M, C) float array
    classes : (M,) int array
        True classes, at most ``per_class`` pixels of each.
    """
    generator, split = np.random.default_rng(0), split or trained.test
    kept: tuple[np.ndarray, ...] = ()
    for part, features, _ in _outputs(trained, split, images):
        mask = _tensor(split.truth[part]).unsqueeze(1).float()
        classes = torch.nn.functional.interpolate(mask, size=features.shape[2:], mode="nearest").flatten().numpy()
        # The pixels of a class with the smallest random numbers stay, so that one batch at a time is in memory.
        batch = features.permute(0, 2, 3, 1).flatten(0, 2).numpy(), classes.astype(int), generator.random(len(classes))
        pool = tuple(np.concatenate(both) for both in zip(kept, batch, strict=True)) if kept else batch
        order = np.argsort(pool[2])
        index = np.concatenate([order[pool[1][order] == k][:per_class] for k in range(split.num_classes)])
        kept = tuple(one[index] for one in pool)
    return kept[0], kept[1]


def silhouette(features: np.ndarray, classes: np.ndarray) -> float:
    """Mean silhouette coefficient with the cosine distance, from -1 (classes mixed up) to 1 (compact and apart).

    The sum of the cosine distances to the members of a class follows from the sum of their directions, so that no
    distance of a pair is ever formed.

    Parameters
    ----------
    features : (M, C) array
    classes : (M,) int array
        At least two different ones. A pixel that is alone in its class counts 0.
    """
    names, own = np.unique(classes, return_inverse=True)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = np.divide(features, lengths, out=np.zeros(features.shape), where=lengths > 0)
    sums = np.stack([directions[own == k].sum(0) for k in range(len(names))])
    counts = np.bincount(own)
    alone, rows = counts[own] == 1, np.arange(len(own))
    distances = 1 - directions @ sums.T / counts
    others = np.maximum(counts[own] - 1, 1)
    itself = 1 - (directions**2).sum(1)
    inner = (distances[rows, own] * counts[own] - itself) / others
    distances[rows, own] = np.inf
    outer = distances.min(1)
    largest = np.maximum(inner, outer)
    values = np.divide(outer - inner, largest, out=np.zeros(len(own)), where=(largest > 0) & ~alone)
    return float(values.mean())


def embed(runs: Mapping[str, Trained], per_class: int = 100, images: int = 100) -> pd.DataFrame:
    """Two-dimensional t-SNE of the features (AGMM, supplementary Fig. 3): same pixels, an embedding per method.

    Returns
    -------
    DataFrame
        Columns method, class, x, y, silhouette: mean silhouette coefficient (cosine) of the features themselves, from
        -1 to 1; the distances in a t-SNE plot mean little.
    """
    parts = []
    for method, trained in runs.items():
        features, classes = sample_features(trained, per_class, images)
        points = TSNE(init="pca", random_state=0, perplexity=30).fit_transform(features)
        names = np.array(trained.test.class_names)[classes]
        columns = {"method": method, "class": names, "x": points[:, 0], "y": points[:, 1]}
        columns |= {"silhouette": silhouette(features, classes)}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def project(runs: Mapping[str, Trained], images: int = 100, per_class: int = 100) -> pd.DataFrame:
    """Features and mixtures of training images in two dimensions, several states of one network (AGMM, Fig. 4).

    The axes are the first two principal components of the pixels' features of all states together, each state about
    its own mean, so that panels differ by what training did and not by how they were drawn. A mixture has a Gaussian
    per image and class; drawn is what it would be in the plane: its mean, and as its spread Eq. 5 with the square of
    the distance replaced by the outer product of the two-dimensional difference.

    Returns
    -------
    DataFrame
        Columns method, kind, class, x, y, xx, xy, yy, explained, silhouette. Kinds: ``"pixel"``, at most ``per_class``
        of each true class; ``"mean"``, of one image and class; ``"component"``, the mean over images of a class's
        means with the spread of all its Gaussians. ``explained`` is the share of the pixels' variance that lies in the
        plane, ``silhouette`` that of the features themselves (cosine, true classes), both per method.
    """
    samples = {name: sample_features(trained, per_class, images, trained.data) for name, trained in runs.items()}
    centered = {name: features - features.mean(0) for name, (features, _) in samples.items()}
    axes = np.linalg.svd(np.concatenate(list(centered.values())).astype(float), full_matrices=False)[2][:2].T
    axes *= np.where(axes.sum(0) < 0, -1, 1)  # the sign of a principal component is arbitrary
    parts = []
    for name, trained in runs.items():
        features, classes = samples[name]
        flat = centered[name] @ axes
        names = np.array(trained.data.class_names)
        pixels = pd.DataFrame({"kind": "pixel", "class": names[classes], "x": flat[:, 0], "y": flat[:, 1]})
        means = pd.concat(_flat_mixtures(trained, axes, features.mean(0) @ axes, images), ignore_index=True)
        means["class"] = names[means["code"]]
        about = {
            "explained": (flat**2).sum() / (centered[name] ** 2).sum(),
            "silhouette": silhouette(features, classes),
        }
        part = pd.concat([pixels, means.assign(kind="mean"), _pooled(means).assign(kind="component")])
        parts.append(part.assign(method=name, **about))
    return pd.concat(parts, ignore_index=True)[["method", "kind", "class", "x", "y", "xx", "xy", "yy", *about]]


def _flat_mixtures(trained: Trained, axes: np.ndarray, center: np.ndarray, images: int) -> Iterator[pd.DataFrame]:
    """Every Gaussian of the first training images, projected: code, mass, mean x, y and spread xx, xy, yy."""
    basis = torch.from_numpy(axes).float()
    for part, features, logits in _outputs(trained, trained.data, images):
        labels = _tensor(trained.sparse[part]).long()
        parts = gmm.components(labels, trained.data.num_classes)
        weights = gmm.unlabeled_weights(logits, labels, parts.present, parts, features.shape[2:]).flatten(2)
        means = gmm.component_means(features, labels, parts) @ basis
        away = (features.flatten(2).transpose(1, 2) @ basis).unsqueeze(1) - means.unsqueeze(2)
        mass = weights.sum(2)
        spread = torch.einsum("bnp,bnpi,bnpj->bnij", weights, away, away) / mass.clamp_min(gmm.EPS)[..., None, None]
        columns = {"code": parts.classes, "mass": mass, "x": means[..., 0] - center[0], "y": means[..., 1] - center[1]}
        columns |= {"xx": spread[..., 0, 0], "xy": spread[..., 0, 1], "yy": spread[..., 1, 1]}
        yield pd.DataFrame({name: values[parts.filled].numpy() for name, values in columns.items()})


def _pooled(means: pd.DataFrame) -> pd.DataFrame:
    """Per class: the mean of its Gaussians' means, and their spread weighted by their mass."""
    spreads = means[["xx", "xy", "yy"]].mul(means["mass"], axis=0).groupby(means["class"], sort=False).sum()
    by_class = means.groupby("class", sort=False)
    return by_class[["x", "y"]].mean().join(spreads.div(by_class["mass"].sum(), axis=0)).reset_index()


# --- Pictures ---------------------------------------------------------------------------------------------------------


def mixtures(trained: Trained, images: Iterable[int]) -> list[dict[str, np.ndarray]]:
    """Image, sparse labels, segmentation, mixture and truth of training images (AGMM, supplementary Fig. 1)."""
    pictures = []
    objective = objectives.AGMM(trained.data.num_classes)
    for index in images:
        part = slice(index, index + 1)
        label = _tensor(trained.sparse[part]).long()
        features, logits = _forward(trained, trained.data, part)
        present = gmm.components(label, trained.data.num_classes).present
        scores = objective(features, logits, label, present).scores
        mixture = scores.masked_fill(~present[..., None, None], -1).argmax(1)
        pictures.append(
            {
                "image": np.asarray(trained.data.images[index]),
                "labels": trained.sparse[index],
                "segmentation": logits.argmax(1)[0].numpy().astype(np.uint8),
                "mixture": mixture[0].numpy().astype(np.uint8),
                "truth": np.asarray(trained.data.truth[index]),
            }
        )
    return pictures


def predictions(runs: Mapping[str, Trained], images: Iterable[int]) -> list[dict[str, np.ndarray]]:
    """Test images with their truth and the prediction of every method (AGMM, supplementary Fig. 4 and 6)."""
    pictures = []
    for index in images:
        first = next(iter(runs.values()))
        picture = {"image": np.asarray(first.test.images[index]), "truth": np.asarray(first.test.truth[index])}
        for method, trained in runs.items():
            _, logits = _forward(trained, trained.test, slice(index, index + 1))
            picture[method] = logits.argmax(1)[0].numpy().astype(np.uint8)
        pictures.append(picture)
    return pictures

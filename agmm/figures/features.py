"""Features of trained networks: samples, how well classes are apart, embeddings and projections."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE

from agmm import gmm
from agmm.data.split import Split
from agmm.figures.trained import Trained, outputs, tensor, weak_labels


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
    for part, features, _ in outputs(trained, split, images):
        mask = tensor(split.truth[part]).unsqueeze(1).float()
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
    for part, features, logits in outputs(trained, trained.data, images):
        labels = weak_labels(trained, part)
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

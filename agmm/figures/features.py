"""Features of trained networks: how well classes are apart, in all dimensions and in two."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from sklearn.manifold import TSNE

from agmm import gmm
from agmm.data.split import Split
from agmm.figures.style import MARKERS, WIDTH, panels, save
from agmm.figures.trained import Trained, outputs, tensor, weak_labels


def sample_features(
    trained: Trained, per_class: int = 100, images: int = 100, split: Split | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (M, C) and true classes (M,) of pixels on the feature grid, at most ``per_class`` of each class.

    They are the same pixels whatever the network, of test images by default.
    """
    generator, split = np.random.default_rng(0), split or trained.test
    sample: tuple[np.ndarray, ...] = ()
    for part, features, _ in outputs(trained, split, images):
        mask = tensor(split.truth[part]).unsqueeze(1).float()
        classes = torch.nn.functional.interpolate(mask, size=features.shape[2:], mode="nearest").flatten().numpy()
        # The pixels of a class with the smallest random numbers stay, so that one batch at a time is in memory.
        batch = features.permute(0, 2, 3, 1).flatten(0, 2).numpy(), classes.astype(int), generator.random(len(classes))
        pool = tuple(np.concatenate(both) for both in zip(sample, batch, strict=True)) if sample else batch
        order = np.argsort(pool[2])
        index = np.concatenate([order[pool[1][order] == k][:per_class] for k in range(split.num_classes)])
        sample = tuple(one[index] for one in pool)
    return sample[0], sample[1]


def silhouette(features: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean silhouette coefficient with the cosine distance, from -1 (mixed up) to 1 (compact and apart).

    Features are (M, C), the classes (M,) at least two different ones; a pixel that is alone in its class counts 0. The
    sum of the cosine distances to the members of a class follows from the sum of their directions, so that no distance
    of a pair is ever formed.
    """
    names, own = np.unique(classes, return_inverse=True)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = np.divide(features, lengths, out=np.zeros(features.shape), where=lengths > 0)
    sums = np.stack([directions[own == k].sum(0) for k in range(len(names))])
    counts = np.bincount(own)
    alone, rows = counts[own] == 1, np.arange(len(own))
    distances = 1 - directions @ sums.T / counts
    # The mean over the other members of a pixel's own class leaves out the pixel itself.
    others = np.maximum(counts[own] - 1, 1)
    itself = 1 - (directions**2).sum(1)
    inner = (distances[rows, own] * counts[own] - itself) / others
    distances[rows, own] = np.inf
    outer = distances.min(1)
    largest = np.maximum(inner, outer)
    values = np.divide(outer - inner, largest, out=np.zeros(len(own)), where=(largest > 0) & ~alone)
    return float(values.mean())


def embed(runs: Mapping[str, Trained], per_class: int = 100, images: int = 100) -> pd.DataFrame:
    """Embed the features by t-SNE (AGMM, supplementary Fig. 3): the same pixels, an embedding per method.

    Columns are method, class, x, y and silhouette, that of the features themselves: distances in the plot mean little.
    """
    parts = []
    for method, trained in runs.items():
        features, classes = sample_features(trained, per_class, images)
        points = TSNE(init="pca", random_state=0, perplexity=30).fit_transform(features)
        names = np.array(trained.test.class_names)[classes]
        columns = {"method": method, "class": names, "x": points[:, 0], "y": points[:, 1]}
        parts.append(pd.DataFrame(columns | {"silhouette": silhouette(features, classes)}))
    return pd.concat(parts, ignore_index=True)


def draw_embedding(points: pd.DataFrame, stem: Path) -> Figure:
    """Draw the points of `embed`, a panel per method, a color and a marker per class."""
    methods, names = points.groupby("method", sort=False), points["class"].unique()
    width, height = (WIDTH, 2.8) if len(methods) > 1 else (0.75 * WIDTH, 4.2)
    figure, axes = panels(1, len(methods), width=width, height=height)
    for axis, (method, panel) in zip(axes[0], methods, strict=True):
        for number, name in enumerate(names):
            part = panel[panel["class"] == name]
            axis.scatter(part["x"], part["y"], s=7, lw=0.3, label=name, **_look(number))
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{method}\nsilhouette {panel['silhouette'].iloc[0]:.2f}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=1.5)
    return save(figure, points, stem)


def _look(number: int) -> dict[str, str]:
    """Return color and marker of a class; no two of the first hundred share both."""
    return {"color": f"C{number % 10}", "marker": MARKERS[(number + number // 10) % len(MARKERS)]}


def project(runs: Mapping[str, Trained], images: int = 100, per_class: int = 100) -> pd.DataFrame:
    """Project features and mixtures of training images to a plane, several states of one network (AGMM, Fig. 4).

    The axes are the first two principal components of the pixels' features of all states together, each state about
    its own mean, so that panels differ by what training did and not by how they were drawn. A mixture has a Gaussian
    per image and class; in the plane it has its mean, and as its spread Eq. 5 with the square of the distance replaced
    by the outer product of the two-dimensional difference.

    Columns are method, kind, class, x, y, xx, xy, yy, explained, silhouette. Kinds: ``"pixel"``, at most ``per_class``
    of each true class; ``"mean"``, of one image and class; ``"component"``, the mean over images of a class's means
    with the spread of all its Gaussians. ``explained`` is the share of the pixels' variance that lies in the plane,
    ``silhouette`` that of the features themselves (cosine, true classes), both per method.
    """
    samples = {name: sample_features(trained, per_class, images, trained.data) for name, trained in runs.items()}
    centered = {name: features - features.mean(0) for name, (features, _) in samples.items()}
    axes = np.linalg.svd(np.concatenate(list(centered.values())).astype(float), full_matrices=False)[2][:2].T
    axes *= np.where(axes.sum(0) < 0, -1, 1)  # the sign of a principal component is arbitrary
    parts = []
    for name, trained in runs.items():
        features, classes = samples[name]
        plane = centered[name] @ axes
        names = np.array(trained.data.class_names)
        pixels = pd.DataFrame({"kind": "pixel", "class": names[classes], "x": plane[:, 0], "y": plane[:, 1]})
        means = pd.concat(_plane_mixtures(trained, axes, features.mean(0) @ axes, images), ignore_index=True)
        means["class"] = names[means["code"]]
        part = pd.concat([pixels, means.assign(kind="mean"), _pooled(means).assign(kind="component")])
        explained = (plane**2).sum() / (centered[name] ** 2).sum()
        parts.append(part.assign(method=name, explained=explained, silhouette=silhouette(features, classes)))
    columns = ["method", "kind", "class", "x", "y", "xx", "xy", "yy", "explained", "silhouette"]
    return pd.concat(parts, ignore_index=True)[columns]


def _plane_mixtures(trained: Trained, axes: np.ndarray, center: np.ndarray, images: int) -> Iterator[pd.DataFrame]:
    """Yield every Gaussian of the first training images in the plane: code, mass, mean x, y and spread xx, xy, yy."""
    basis = torch.from_numpy(axes).float()
    for part, features, logits in outputs(trained, trained.data, images):
        labels = weak_labels(trained, part)
        components = gmm.components(labels, trained.data.num_classes)
        size = features.shape[2:]
        weights = gmm.unlabeled_weights(logits, labels, components.present, components, size).flatten(2)
        means = gmm.component_means(features, labels, components) @ basis
        away = (features.flatten(2).transpose(1, 2) @ basis).unsqueeze(1) - means.unsqueeze(2)
        mass = weights.sum(2)
        spread = torch.einsum("bnp,bnpi,bnpj->bnij", weights, away, away) / mass.clamp_min(gmm.EPS)[..., None, None]
        x, y = means[..., 0] - center[0], means[..., 1] - center[1]
        columns = {"code": components.classes, "mass": mass, "x": x, "y": y}
        columns |= {"xx": spread[..., 0, 0], "xy": spread[..., 0, 1], "yy": spread[..., 1, 1]}
        yield pd.DataFrame({name: values[components.filled].numpy() for name, values in columns.items()})


def _pooled(means: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of the means of each class's Gaussians, and their spread weighted by their mass."""
    spreads = means[["xx", "xy", "yy"]].mul(means["mass"], axis=0).groupby(means["class"], sort=False).sum()
    by_class = means.groupby("class", sort=False)
    return by_class[["x", "y"]].mean().join(spreads.div(by_class["mass"].sum(), axis=0)).reset_index()


def draw_projection(points: pd.DataFrame, stem: Path) -> Figure:
    """Draw `project` in a plane that all panels share: pixels, means, and an ellipse of one deviation per class."""
    methods, names = points.groupby("method", sort=False), points["class"].unique()
    figure, axes = panels(1, len(methods), height=WIDTH / len(methods) + 0.75, sharex=True, sharey=True)
    entries = {}
    for axis, (method, panel) in zip(axes[0], methods, strict=True):
        for number, name in enumerate(names):
            look, of_class = _look(number), panel[panel["class"] == name]
            pixels, means, pooled = (of_class[of_class["kind"] == kind] for kind in ("pixel", "mean", "component"))
            axis.scatter(pixels["x"], pixels["y"], s=2, color=look["color"], alpha=0.35, lw=0)
            axis.scatter(means["x"], means["y"], s=7, alpha=0.7, lw=0, **look)
            for _, one in pooled.iterrows():
                _draw_ellipse(axis, one, look["color"])
                entries[name] = axis.scatter(one["x"], one["y"], s=34, edgecolors="black", lw=0.7, zorder=4, **look)
        first = panel.iloc[0]
        axis.set_title(f"{method}\nsilhouette {first['silhouette']:.2f}, {100 * first['explained']:.0f} % of variance")
        axis.set(xticks=[], yticks=[], aspect="equal", xlabel="component 1")
    axes[0, 0].set_ylabel("component 2")
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=7)
    return save(figure, points, stem)


def _draw_ellipse(axis: Axes, gaussian: "pd.Series[float]", color: str) -> None:
    """Draw one standard deviation of a Gaussian in the plane."""
    variances, directions = np.linalg.eigh([[gaussian["xx"], gaussian["xy"]], [gaussian["xy"], gaussian["yy"]]])
    width, height = 2 * np.sqrt(np.maximum(variances, 0))
    angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
    center = (gaussian["x"], gaussian["y"])
    axis.add_patch(Ellipse(center, width, height, angle=angle, fill=False, ec=color, lw=1.3, zorder=3))

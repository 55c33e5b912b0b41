"""Segments of images and the segments of others that are nearest to them in the embedding (SPML, Fig. 10)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from agmm.data import sets
from agmm.data.split import Split
from agmm.figures.style import WIDTH, panels, save
from agmm.figures.trained import Trained, forward
from agmm.rivals.spml import SPML
from agmm.rivals.spml.classifier import majority, nearest
from agmm.rivals.spml.segments import Prototypes, Segments, cut
from agmm.training.run import Run, build_objective

COUNT = 20  # neighbors of a segment (SPML, Sec. 3.4)
FINER = 2  # clusters along each side per one in training: on VOC 12 and 6
CONTRAST = 0.35  # contrast of an image around its segment


@dataclass(frozen=True)
class Bank:
    """The segments of some images of a split.

    Of their prototypes ``labels`` are the classes predicted for most of the pixels, ``images`` places in the split, in
    order, ``tags`` the true classes of a segment's image without the background.
    """

    split: Split
    prototypes: Prototypes
    sizes: Tensor  # (M,) int64: pixels


class Cutout(NamedTuple):
    """A segment to be drawn: its image's name and pixels (H, W, 3) uint8, and its mask (H, W) bool."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    predicted: str  # class of the segment
    tags: tuple[str, ...]  # true classes of its image
    cosine: float  # to the query


def clusters(run: Run) -> tuple[int, int]:
    """Return the clusters along each side of an image when segments are looked for."""
    embedding = run.teacher or run
    objective = build_objective(embedding.method, 2, **dict(embedding.options))
    if not isinstance(objective, SPML):
        raise ValueError(f"{run.method} has no segments; choose a run of SPML or SPMLClassifier")
    rows, columns = objective.clusters
    return FINER * rows, FINER * columns


def bank(trained: Trained, split: Split, images: int | None = None) -> Bank:
    """Cut the first images of a split (default: all) into segments: clusters of the embedding and the place."""
    tags = torch.from_numpy(sets.image_tags(split))
    if split.background is not None:
        tags[:, split.background] = False
    parts, sizes = [], []
    for index in range(min(images or len(split), len(split))):
        segments, labels = _segments(trained, split, index)
        place = torch.full_like(labels, index)
        vectors = segments.prototypes.vectors.cpu()
        parts.append(Prototypes(vectors, labels, place, tags[index].expand(len(labels), -1)))
        sizes.append(torch.bincount(segments.own, minlength=len(labels)).cpu())
    return Bank(split, Prototypes.joined(parts), torch.cat(sizes))


@torch.no_grad()
def _segments(trained: Trained, split: Split, index: int) -> tuple[Segments, Tensor]:
    """Return the segments of one image, cut alone so that others change nothing, and their predicted classes (M,)."""
    features, logits = forward(trained, split, slice(index, index + 1))
    whole = F.interpolate(features.to(trained.device), logits.shape[-2:], mode="bilinear", align_corners=False)
    every = torch.ones(1, split.num_classes, dtype=torch.bool, device=trained.device)
    alike = torch.zeros(whole.shape[0], *whole.shape[2:], dtype=torch.int64, device=trained.device)
    segments = cut(whole, alike, alike, every, clusters(trained.run))
    count = len(segments.prototypes.vectors)
    return segments, majority(logits.argmax(1).flatten(), segments.own.cpu(), count, split.num_classes)


def neighbors(queries: Bank, among: Bank, chosen: Tensor, count: int = COUNT) -> Tensor:
    """Return the segments (Q, count) nearest to some queries (Q,), the best first, of images with other names."""
    # All segments of the query's own image may be among the nearest: look for as many more, and leave those out.
    most = int(among.prototypes.images.bincount().max())
    own = _places(queries, among)[queries.prototypes.images[chosen]]
    indices = nearest(queries.prototypes.vectors[chosen], among.prototypes.vectors, count + most, block=256)
    of_others = among.prototypes.images[indices] != own[:, None]
    order = (~of_others).long().argsort(dim=1, stable=True)[:, :count]
    return indices.gather(1, order)


def _places(queries: Bank, among: Bank) -> Tensor:
    """Return where each image of the split of the queries is in the other split; -1 where it is not."""
    places = {name: place for place, name in enumerate(among.split.ids)}
    return torch.tensor([places.get(name, -1) for name in queries.split.ids])


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Return shared classes among all classes of two sets (..., K) bool of them, in [0, 1]; 1 where both are empty."""
    union = (a | b).sum(-1)
    return torch.where(union > 0, (a & b).sum(-1) / union.clamp_min(1), 1.0)


def measure_context(queries: Bank, among: Bank, count: int = COUNT) -> pd.DataFrame:
    """Measure how many classes the images of neighbors share with those of the queries (ours).

    Columns, with a line per query, are image, class, nearest, chance. ``nearest`` is the mean Jaccard index of its
    image's classes and those of its neighbors' images, without background; ``chance`` is its expectation for segments
    drawn at random, of the same predicted class and other images: NaN where there is none.
    """
    query, other = queries.prototypes, among.prototypes
    indices = neighbors(queries, among, torch.arange(len(query.labels)), count)
    near = jaccard(query.tags[:, None], other.tags[indices]).mean(1)
    chance = _by_chance(queries, among)
    return pd.DataFrame({"image": query.images, "class": query.labels, "nearest": near, "chance": chance})


def _by_chance(queries: Bank, among: Bank) -> Tensor:
    """Return the mean Jaccard index (M,) over all segments of other images with the class of the query."""
    query, other = queries.prototypes, among.prototypes
    num_classes = among.split.num_classes
    counts = torch.zeros(len(among.split), num_classes, dtype=torch.float64)
    counts.index_put_((other.images, other.labels), torch.ones((), dtype=torch.float64), accumulate=True)
    tags = torch.zeros(len(among.split), num_classes, dtype=torch.bool)
    tags[other.images] = other.tags
    places, means = _places(queries, among), torch.zeros(len(query.labels), dtype=torch.float64)
    for image in query.images.unique().tolist():
        own = query.images == image
        elsewhere = counts.clone()
        if places[image] >= 0:
            elsewhere[places[image]] = 0
        alike = jaccard(query.tags[own][:1], tags).double()
        means[own] = (alike @ elsewhere / elsewhere.sum(0))[query.labels[own]]
    return means


def retrieve(trained: Trained, queries: Bank, among: Bank, images: Iterable[int], count: int = 6) -> list[list[Cutout]]:
    """Return a segment of each of some images of the queries, followed by the nearest of other images (SPML, Fig. 10).

    The segment is the largest of those that are predicted to be no background, or of all if there is none.
    """
    chosen = torch.tensor([_largest(queries, image) for image in images])
    rows = []
    for query, indices in zip(chosen.tolist(), neighbors(queries, among, chosen, count).tolist(), strict=True):
        cosines = (among.prototypes.vectors[indices] @ queries.prototypes.vectors[query]).tolist()
        row = [_cutout(trained, among, one, cosine) for one, cosine in zip(indices, cosines, strict=True)]
        rows.append([_cutout(trained, queries, query, 1.0), *row])
    return rows


def _largest(queries: Bank, image: int) -> int:
    """Return the index of the largest segment of an image, of an object if there is one."""
    here = queries.prototypes.images == image
    background = -1 if queries.split.background is None else queries.split.background
    of_object = here & (queries.prototypes.labels != background)
    eligible = of_object if of_object.any() else here
    return int(queries.sizes.where(eligible, torch.tensor(-1)).argmax())


def _cutout(trained: Trained, of: Bank, index: int, cosine: float) -> Cutout:
    prototypes, split = of.prototypes, of.split
    image = int(prototypes.images[index])
    number = index - int((prototypes.images == image).nonzero()[0])
    segments, _ = _segments(trained, split, image)
    picture = np.asarray(split.images[image])
    mask = (segments.own == number).view(picture.shape[:2]).cpu().numpy()
    tags = tuple(name for name, shown in zip(split.class_names, prototypes.tags[index], strict=True) if shown)
    return Cutout(split.ids[image], picture, mask, split.class_names[prototypes.labels[index]], tags, cosine)


def draw_retrieval(rows: Sequence[Sequence[Cutout]], stem: Path) -> Figure:
    """Draw each segment of `retrieve` and, on its right, its neighbors, the nearest first; the CSV names them."""
    columns, gap = len(rows[0]), 0.15
    height, width = rows[0][0].image.shape[:2]
    row_height = WIDTH / (columns + gap) * height / width + 0.28
    ratios = [1, gap, *[1] * (columns - 1)]
    figure, axes = panels(len(rows), columns + 1, height=len(rows) * row_height + 0.4, width_ratios=ratios)
    lines = []
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        line[1].set_axis_off()
        for rank, (axis, one) in enumerate(zip([line[0], *line[2:]], row, strict=True)):
            _draw_cutout(axis, one, rank)
            share = float(one.mask.mean())
            lines.append([number, rank, one.name, one.predicted, one.cosine, " ".join(one.tags), share])
    for rank, axis in enumerate([axes[0, 0], *axes[0, 2:]]):
        axis.set_title(str(rank) if rank else "query", size=8)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02)
    figure.supxlabel("below: the segment's predicted class and cosine to the query; true classes of the image", size=7)
    names = ["query", "rank", "image", "predicted", "cosine", "tags", "share"]
    return save(figure, pd.DataFrame(lines, columns=names), stem)


def _draw_cutout(axis: Axes, cutout: Cutout, rank: int) -> None:
    """Draw a segment in its image, whose other pixels are pale."""
    image, (height, width) = cutout.image / 255, cutout.mask.shape
    axis.imshow(np.where(cutout.mask[..., None], image, 1 - CONTRAST * (1 - image)), interpolation="nearest")
    # A frame of pixels outside closes the outline of a segment at the border of the image.
    framed = np.pad(cutout.mask, 1)
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    axis.contour(x, y, framed, levels=[0.5], colors="black", linewidths=0.9)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.spines[:].set_visible(False)
    near = f", {cutout.cosine:.3f}" if rank else ""
    axis.set_xlabel(f"{cutout.predicted}{near}\n{', '.join(cutout.tags) or 'none'}", size=6.5, labelpad=2)

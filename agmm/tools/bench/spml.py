"""SPML: its k-means beside a library's, and its objective beside the network that it trains."""

import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from agmm import networks
from agmm.rivals.spml import SPML, kmeans
from agmm.rivals.spml.segments import directions
from agmm.tools.bench.figure import Figure, Setting, in_turn, median_ratio
from agmm.tools.bench.inputs import Size, tensors

CLUSTERS, ITERATIONS, REGIONS = (6, 6), 10, 100


@dataclass(frozen=True)
class Case:
    """A network, the shapes that it is trained with, and the side of the map that k-means clusters."""

    network: str
    size: Size
    side: int = 64


def case(setting: Setting) -> Case:
    """Crops of 512 with embeddings at a quarter of that; fewer images on a CPU."""
    if setting.small:
        return Case("small", Size(2, 7, 16, 16, 64), 16)
    return Case("resnet101", Size(16 if setting.device == "cuda" else 2, 21, 64, 128, 512))


def figures(setting: Setting) -> Iterator[Figure]:
    """K-means of one image, and a step of a training without the optimizer's."""
    chosen = case(setting)
    yield _clustering(chosen, setting)
    yield _training(chosen, setting)


def _clustering(chosen: Case, setting: Setting) -> Figure:
    size, number = (chosen.side, chosen.side), CLUSTERS[0] * CLUSTERS[1]
    maps = F.normalize(embeddings(1, chosen.size.channels, chosen.side), dim=1)
    vectors = kmeans.located(maps).flatten(2).mT.contiguous().to(setting.device)
    first = kmeans.grid_clusters(size, CLUSTERS).flatten()[None].to(setting.device)
    given = vectors[0].cpu().numpy()
    centers = directions(vectors[0], first[0], number).cpu().numpy()

    def ours() -> None:
        kmeans.spherical_kmeans(vectors, first, number, ITERATIONS)

    with threadpool_limits(setting.threads):
        more = replace(setting, repeats=max(10, setting.repeats))
        seconds = in_turn({"ours": ours, "library": lambda: library(given, centers)}, more, warmup=3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    name = f"k-means, {chosen.side} x {chosen.side} x {given.shape[1]}, {number} clusters"
    ratio, target = median_ratio(seconds["ours"], seconds["library"]), "" if setting.small else "<= 3"
    return Figure("spml", name, medians["ours"], "s", "scikit-learn (CPU)", medians["library"], ratio, target)


def library(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Clusters by the same number of iterations from the same centers; its centers are means, of no unit length."""
    model = KMeans(len(centers), init=centers, n_init=1, max_iter=ITERATIONS, tol=0)
    with warnings.catch_warnings(action="ignore"):  # of iterations that were too few
        return model.fit(vectors).labels_


def _training(chosen: Case, setting: Setting) -> Figure:
    steps = {"objective": objective_step(chosen.size, setting.device), "network": network_step(chosen, setting.device)}
    for _ in range(2):  # fills the memory
        steps["objective"]()
    slow = setting.device == "cpu" and not setting.small
    seconds = in_turn(steps, replace(setting, repeats=1) if slow else setting, warmup=0 if slow else 2)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = median_ratio(seconds["objective"], seconds["network"])
    name = f"objective, {chosen.size.batch} images at {chosen.size.label}, three relations"
    against = f"forward and backward of {chosen.network}"
    return Figure("spml", name, medians["objective"], "s", against, medians["network"], ratio)


def objective_step(size: Size, device: str) -> Callable[[], None]:
    """Forward and backward of the objective with scribbles, down to embeddings and logits."""
    _, logits, labels, image_classes = tensors(size, "scribbles", device=device)
    features = embeddings(size.batch, size.channels, size.grid).to(device).requires_grad_()
    logits.requires_grad_()
    regions = oversegmentation(size.batch, size.label).to(device)
    objective = SPML(size.num_classes, clusters=CLUSTERS, iterations=ITERATIONS)

    def step() -> None:
        loss = objective(features, logits, labels, image_classes, regions=regions).loss
        torch.autograd.grad(loss, (features, logits))

    return step


def network_step(chosen: Case, device: str) -> Callable[[], None]:
    """Forward and backward of the network on the same number of images."""
    torch.manual_seed(0)
    net = networks.build(chosen.network, chosen.size.num_classes, init="scratch").to(device)
    net.to(memory_format=torch.channels_last)
    shape = (chosen.size.batch, 3, chosen.size.label, chosen.size.label)
    images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        net.zero_grad()
        features, logits = net(images)
        (features.mean() + logits.mean()).backward()

    return step


def embeddings(batch: int, channels: int, side: int) -> Tensor:
    """Embeddings (B, C, h, w) that change slowly from place to place, with some noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, channels, side // 8, side // 8, generator=generator)
    noise = torch.randn(batch, channels, side, side, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * noise


def oversegmentation(batch: int, side: int, number: int = REGIONS) -> Tensor:
    """Regions (B, H, W): the pixels that are nearest to each of some random places."""
    places = side * torch.rand(batch, number, 2, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(side, dtype=torch.float32)
    pixels = torch.cartesian_prod(axis, axis).expand(batch, -1, -1)
    return torch.cdist(pixels, places).argmin(2).view(batch, side, side)

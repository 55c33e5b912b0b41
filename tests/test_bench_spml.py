"""The figures on SPML: that what is compared is the same work."""

import numpy as np
import torch

from agmm.rivals.spml import kmeans
from agmm.rivals.spml.segments import directions
from agmm.tools.bench import spml
from agmm.tools.bench.figure import Setting


def test_figures():
    clustering, training = spml.figures(Setting(repeats=1, small=True))
    assert clustering.case == "k-means, 16 x 16 x 18, 36 clusters"
    assert clustering.against == "scikit-learn (CPU)"
    assert training.against == "forward and backward of small"
    assert all(figure.value > 0 and figure.ratio > 0 and figure.met is None for figure in (clustering, training))


def test_the_library_clusters_the_same_vectors():
    maps = torch.nn.functional.normalize(spml.embeddings(1, 16, 24), dim=1)
    vectors = kmeans.located(maps).flatten(2).mT
    first = kmeans.grid_clusters((24, 24), (3, 3)).flatten()[None]
    found = kmeans.spherical_kmeans(vectors, first, 9)[0].numpy()
    other = spml.library(vectors[0].numpy(), directions(vectors[0], first[0], 9).numpy())
    moved = found != first[0].numpy()
    assert moved.mean() > 0.1
    assert np.mean(found == other) > 0.8
    assert np.mean(found[moved] == other[moved]) > 0.6


def test_the_memory_is_full_and_gradients_flow(monkeypatch):
    made = []

    class Watched(spml.SPML):
        def __call__(self, features, *rest, **options):
            made.append((self, features))
            return super().__call__(features, *rest, **options)

    monkeypatch.setattr(spml, "SPML", Watched)
    step = spml.objective_step(spml.case(Setting(small=True)).size, "cpu")
    step()
    step()
    objective, features = made[-1]
    assert len(objective.remembered) == 2
    assert features.requires_grad


def test_regions_are_as_many_as_asked_for():
    regions = spml.oversegmentation(2, 64, 20)
    assert regions.shape == (2, 64, 64)
    assert [len(image.unique()) for image in regions] == [20, 20]
    assert not torch.equal(regions[0], regions[1])

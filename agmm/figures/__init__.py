"""What figures show of trained networks: features, distances, scores and predictions, as tables and pictures.

Labels form the mixture, so whatever needs it is shown on training images; the dense truth serves for evaluation only.
"""

from agmm.figures.features import embed, project, sample_features, silhouette
from agmm.figures.pictures import compare_mixtures, mixtures, predictions
from agmm.figures.pixels import SUBSETS, label_accuracy, label_quality, similarity
from agmm.figures.trained import Trained, load

__all__ = [
    "SUBSETS",
    "Trained",
    "compare_mixtures",
    "embed",
    "label_accuracy",
    "label_quality",
    "load",
    "mixtures",
    "predictions",
    "project",
    "sample_features",
    "silhouette",
    "similarity",
]

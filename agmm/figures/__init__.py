"""What figures show of trained networks: features, distances, scores and predictions, as tables and pictures.

Labels form the mixture, so whatever needs it is shown on training images; the dense truth serves for evaluation only.
"""

from agmm.figures.boundaries import boundary_quality
from agmm.figures.features import embed, project, sample_features, silhouette
from agmm.figures.pictures import compare_mixtures, mixtures, predictions
from agmm.figures.pixels import SUBSETS, label_accuracy, label_quality, similarity
from agmm.figures.playground import Click, Mixture, central_clicks, click_mixture, clicked
from agmm.figures.retrieval import bank, context, retrieved
from agmm.figures.trained import Trained, load

__all__ = [
    "SUBSETS",
    "Click",
    "Mixture",
    "Trained",
    "bank",
    "boundary_quality",
    "central_clicks",
    "click_mixture",
    "clicked",
    "compare_mixtures",
    "context",
    "embed",
    "label_accuracy",
    "label_quality",
    "load",
    "mixtures",
    "predictions",
    "project",
    "retrieved",
    "sample_features",
    "silhouette",
    "similarity",
]

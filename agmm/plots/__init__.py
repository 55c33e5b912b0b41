"""Figures: one style, vector and PNG, the numbers in a CSV beside them."""

from agmm.plots.differences import differences
from agmm.plots.networks import embedding, gallery, mixture_projection, similarity
from agmm.plots.numbers import classes, gains, label_quality, sweep, training_curves
from agmm.plots.playground import click_figure
from agmm.plots.retrieval import retrieval
from agmm.plots.speed import speed
from agmm.plots.style import WIDTH, save, style
from agmm.plots.verdicts import claims

__all__ = [
    "WIDTH",
    "claims",
    "classes",
    "click_figure",
    "differences",
    "embedding",
    "gains",
    "gallery",
    "label_quality",
    "mixture_projection",
    "retrieval",
    "save",
    "similarity",
    "speed",
    "style",
    "sweep",
    "training_curves",
]

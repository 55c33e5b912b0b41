"""Figures: one style, vector and PNG, the numbers in a CSV beside them."""

from agmm.figures.differences import differences
from agmm.figures.numbers import classes, gains, label_quality, sweep, training_curves
from agmm.figures.plot_networks import embedding, gallery, mixture_projection, similarity
from agmm.figures.plot_playground import click_figure
from agmm.figures.plot_retrieval import retrieval
from agmm.figures.speed import speed
from agmm.figures.style import WIDTH, save, style
from agmm.figures.verdicts import claims

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

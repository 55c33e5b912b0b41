"""The figures of the papers: measured on trained networks as tables, and drawn.

Every ``draw_`` function takes a ``stem``, the folder and name of the files to write without ending: a PDF, a PNG and a
CSV with the numbers. It returns the figure, or raises ValueError if there is nothing to draw yet.

Labels form the mixture, so what needs it is measured on training images; the dense truth serves for evaluation only.
"""

from agmm.figures.features import draw_embedding, draw_projection, embed, project, sample_features, silhouette
from agmm.figures.numbers import (
    draw_areas,
    draw_claims,
    draw_classes,
    draw_differences,
    draw_gains,
    draw_speed,
    draw_spreads,
    draw_sweep,
    draw_training_curves,
)
from agmm.figures.pixels import (
    SUBSETS,
    draw_label_quality,
    draw_similarity,
    measure_boundaries,
    measure_label_accuracy,
    measure_label_quality,
    measure_similarity,
)
from agmm.figures.playground import Click, central_clicks, click_mixture, click_widget, draw_clicks, mixture_of_clicks
from agmm.figures.pull import draw_pull, measure_pull, pull_of_runs
from agmm.figures.retrieval import bank, draw_retrieval, measure_context, retrieve
from agmm.figures.trained import Trained, compare_mixtures, draw_gallery, load, mixtures, predictions

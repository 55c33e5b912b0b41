"""Simulation of weak labels from dense masks: points, scribbles, blocks, boxes, clicks, image tags."""

from agmm.codes import UNLABELED, VOID
from agmm.labels.forms import FORMS, Scene, block_scale, generator, simulate, tight_boxes
from agmm.labels.geometry import Boxes, nearest, paint_boxes, resize_labels
from agmm.labels.statistics import Coverage, coverage, image_classes, image_tags

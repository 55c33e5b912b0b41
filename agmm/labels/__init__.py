"""Simulation of weak labels from dense masks: points, scribbles, blocks, boxes, clicks, image tags."""

from agmm.codes import UNLABELED, VOID
from agmm.labels.forms import FORMS, Scene, block_scale, generator, simulate, tight_boxes
from agmm.labels.geometry import Boxes, coverage, image_classes, image_tags, nearest, paint_boxes, resize_labels

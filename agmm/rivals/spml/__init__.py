"""SPML: universal weakly supervised segmentation by pixel-to-segment contrastive learning (Ke et al., ICLR 2021)."""

from agmm.rivals.spml.classifier import FirstStage, SPMLClassifier, in_memory
from agmm.rivals.spml.objective import SPML

"""Networks: a backbone, a head, and the features and logits that every objective is called with."""

from agmm.networks.builders import DEEP_STEM, NAMES, OF_THE_HEAD, branch_macs, build, network_macs, saved_bytes
from agmm.networks.segmenter import Segmenter, TagClassifier, Tokens, has_class_tokens, parameter_groups
from agmm.networks.transformers import WEIGHTS as VIT_WEIGHTS

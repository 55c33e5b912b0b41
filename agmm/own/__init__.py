"""Images of your own: train on a few clicks, predict, check a folder."""

from agmm.own.prediction import Model, load, mask, pictures, predict, probabilities
from agmm.own.training import Options, check, describe, summary, train, write_example

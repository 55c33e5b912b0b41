"""Images of your own: train on a few clicks, predict, check a folder."""

from agmm.own.options import Options, describe
from agmm.own.prediction import Model, load, mask, pictures, predict, probabilities
from agmm.own.training import check, summary, train, write_example

"""The scale of everything: what a `Run` looks like at each preset."""

from agmm.training.presets.camvid import CAMVID, CAMVID_R50
from agmm.training.presets.paper import PAPER, PAPER_OFFICIAL
from agmm.training.presets.preset import SPML_OPTIONS, Embedding, Kind, Network, Preset
from agmm.training.presets.quick import QUICK, SMOKE

PRESETS = {one.run.preset: one for one in (SMOKE, QUICK, CAMVID, CAMVID_R50, PAPER, PAPER_OFFICIAL)}
"""`quick` is the default."""

"""The scale of everything: what a `Run` looks like at each preset; ``quick`` is the default."""

from agmm.training.presets.ours import CAMVID, CAMVID_R50, QUICK, SMOKE
from agmm.training.presets.paper import PAPER, PAPER_OFFICIAL
from agmm.training.presets.preset import SPML_OPTIONS, Embedding, Kind, Network, Preset

PRESETS = {one.run.preset: one for one in (SMOKE, QUICK, CAMVID, CAMVID_R50, PAPER, PAPER_OFFICIAL)}

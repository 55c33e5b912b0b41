"""The scale of everything: what a `Run` looks like at each preset; ``quick`` is the default."""

from agmm.training.presets.ours import QUICK, SMOKE
from agmm.training.presets.paper import PAPER, PAPER_OFFICIAL
from agmm.training.presets.photographs import CAMVID, CAMVID_R50, VOC_ANIMALS, VOC_LAPTOP
from agmm.training.presets.preset import SPML_OPTIONS, Embedding, Kind, Network, Preset

PRESETS = {
    one.run.preset: one for one in (SMOKE, QUICK, VOC_ANIMALS, VOC_LAPTOP, CAMVID, CAMVID_R50, PAPER, PAPER_OFFICIAL)
}

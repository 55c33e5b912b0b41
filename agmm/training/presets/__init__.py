"""The scale of everything: what a `Run` looks like at each preset; ``quick`` is the default."""

from dataclasses import replace
from functools import cache

from agmm.training.presets.ours import QUICK, SMOKE
from agmm.training.presets.paper import PAPER, PAPER_OFFICIAL
from agmm.training.presets.photographs import CAMVID, CAMVID_R50, VOC_ANIMALS, VOC_LAPTOP
from agmm.training.presets.preset import SPML_OPTIONS, Embedding, Kind, Network, Preset, changed, composed

PRESETS = {
    one.run.preset: one for one in (SMOKE, QUICK, VOC_ANIMALS, VOC_LAPTOP, CAMVID, CAMVID_R50, PAPER, PAPER_OFFICIAL)
}


@cache
def named(name: str) -> Preset:
    """Return a preset by its name, after which words of `agmm.training.presets.preset.CHANGES` may follow."""
    base, *words = name.split("+")
    changed(PRESETS[base].run, tuple(words))  # says what is wrong with the words
    return replace(PRESETS[base], changes=tuple(words))

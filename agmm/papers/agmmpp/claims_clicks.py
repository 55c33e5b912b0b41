"""The claims that AGMM++ (TPAMI 2025) makes on Cityscapes with clicks and on ADE20K with blocks."""

from functools import partial

from agmm.papers.agmmpp.claims_rows import agmm, plus, seg
from agmm.papers.agmmpp.claims_voc import STEP_NAMES, steps
from agmm.papers.claim import BLOCKS, CLICKS, Claim, better, gain_shrinks, tree_energy

_clicks = partial(Claim, labels="clicks20")
_blocks = partial(Claim, labels="blocks10")

_AGMM = better(plus(), agmm(), (3.1, 1.8, 0.4), CLICKS, sized=("clicks20",))
_SEG = better(plus(), seg(), (6.3, 4.3, 2.8), BLOCKS, sized=BLOCKS)
_TEL = better(plus(), tree_energy, (2.8, 1.4, 0.8), BLOCKS, which="against TEL")
_AGMM_BLOCKS = better(plus(), agmm(), (1.1, 0.2, 0.2), BLOCKS, which="against AGMM")
_RIVALS = "AGMM++ beats TEL, AGMM with blocks", "+2.8 +1.4 +0.8; +1.1 +0.2 +0.2"
_STEPS = "every step helps with clicks, blocks", "7.0 3.4; 3.0 1.4; 1.3 1.1; 0.4 0.4"
_STEPS_CLICKS = steps("resnet", CLICKS[:1], STEP_NAMES, ((7.0,), (3.0,), (1.3,), (0.4,)))
_STEPS_BLOCKS = steps("resnet", BLOCKS[:1], STEP_NAMES, ((3.4,), (1.4,), (1.1,), (0.4,)))
_SHRINKS = gain_shrinks(plus(), agmm(), CLICKS, "fewer clicks")
_SHRINKS_BLOCKS = gain_shrinks(plus(), seg(), BLOCKS, "fewer blocks")

CLAIMS = (
    _clicks("P07", "Table 4", "AGMM++ beats AGMM with clicks", "+3.1, +1.8, +0.4", _AGMM),
    _clicks("P08", "Table 4", "its lead shrinks with clicks", "3.1 > 1.8 > 0.4", _SHRINKS),
    _blocks("P09", "Table 7", "AGMM++ beats the baseline, blocks", "+6.3, +4.3, +2.8", _SEG, agmm=False),
    _blocks("P10", "Table 7", *_RIVALS, _TEL, agmm=False),
    _blocks("P10", "Table 7", *_RIVALS, _AGMM_BLOCKS),
    _blocks("P11", "Table 7", "its lead shrinks with labels", "6.3 > 4.3 > 2.8", _SHRINKS_BLOCKS, agmm=False),
    _clicks("P16", "Table 13", *_STEPS, _STEPS_CLICKS, agmm=False),
    _blocks("P16", "Table 13", *_STEPS, _STEPS_BLOCKS, agmm=False),
)

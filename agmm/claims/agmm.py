"""All claims of AGMM (CVPR 2023)."""

from agmm.claims import agmm_clicks, agmm_figures, agmm_voc

CLAIMS = tuple(sorted((*agmm_voc.CLAIMS, *agmm_clicks.CLAIMS, *agmm_figures.CLAIMS), key=lambda claim: claim.id))

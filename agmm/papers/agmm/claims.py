"""All claims of AGMM (CVPR 2023)."""

from agmm.papers.agmm import claims_clicks, claims_figures, claims_voc

CLAIMS = tuple(sorted((*claims_voc.CLAIMS, *claims_clicks.CLAIMS, *claims_figures.CLAIMS), key=lambda claim: claim.id))

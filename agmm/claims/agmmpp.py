"""All claims of AGMM++ (TPAMI 2025)."""

from agmm.claims import agmmpp_clicks, agmmpp_figures, agmmpp_tags, agmmpp_voc

_ALL = (*agmmpp_voc.CLAIMS, *agmmpp_clicks.CLAIMS, *agmmpp_tags.CLAIMS, *agmmpp_figures.CLAIMS)
CLAIMS = tuple(sorted(_ALL, key=lambda claim: claim.id))
"""Those with two parts, of which one is about AGMM or about another data set, are there twice."""

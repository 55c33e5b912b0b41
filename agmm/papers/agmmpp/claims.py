"""All claims of AGMM++ (TPAMI 2025)."""

from agmm.papers.agmmpp import claims_clicks, claims_figures, claims_tags, claims_voc

_ALL = (*claims_voc.CLAIMS, *claims_clicks.CLAIMS, *claims_tags.CLAIMS, *claims_figures.CLAIMS)
CLAIMS = tuple(sorted(_ALL, key=lambda claim: claim.id))
"""Those with two parts, of which one is about AGMM or about another data set, are there twice."""

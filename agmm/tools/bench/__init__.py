"""How fast the package is, as ratios of two times taken in one run: ``python -m agmm.tools.bench``.

A module per question: `branch` (the mixture and its losses beside the bytes they must move), `dense` (the same beside a
dense formulation), `step` (an optimizer step beside the baseline's), `input` (reading and augmentation beside what a
network consumes), `evaluation` (beside one tile at a time), `sweep` (processes beside threads), `spml` (its k-means
beside a library's, its objective beside a network). Each has a function ``figures(setting)`` that yields
`agmm.tools.bench.figure.Figure`.
"""

from agmm.tools.bench.groups import markdown, measure, setting, write

__all__ = ["markdown", "measure", "setting", "write"]

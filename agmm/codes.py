"""Codes of label maps besides the classes 0 ... K-1, and the papers' epsilon."""

VOID = 255
"""Pixel that is padding or of no class: no loss sees it."""

UNLABELED = 254
"""Pixel that nobody has labeled."""

EPS = 1e-6
"""Added to divisors and inside logarithms, as in the official code."""

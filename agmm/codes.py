"""Codes of label maps besides the classes 0 ... K-1."""

VOID = 255
"""Pixel that is padding or of no class: no loss sees it."""

UNLABELED = 254
"""Pixel that nobody has labeled."""

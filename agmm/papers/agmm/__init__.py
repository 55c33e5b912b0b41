"""AGMM (CVPR 2023)."""

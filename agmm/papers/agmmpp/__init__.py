"""AGMM++ (TPAMI 2025)."""

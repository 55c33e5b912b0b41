"""SPML (ICLR 2021)."""

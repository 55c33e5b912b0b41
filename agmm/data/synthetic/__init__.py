"""Data sets that are drawn: shapes, streets and people."""

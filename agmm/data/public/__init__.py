"""Public data sets, read from disk as they are distributed."""

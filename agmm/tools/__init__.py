"""Tools beside the tables: the authors' checkpoints, comparisons with a method of one's own, benchmarks."""

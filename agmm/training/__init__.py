"""One training: its description, its batches, its loop, and many of them side by side."""

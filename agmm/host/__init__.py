"""The machine underneath: files that are never half written, memory, processors."""

"""Data sets: their sources, and modules that register their seqio tasks when imported."""

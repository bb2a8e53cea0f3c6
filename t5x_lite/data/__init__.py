"""Batches: the names of their features, and what a source of them is. No framework of data."""

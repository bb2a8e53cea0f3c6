"""Transforms of a network's parameter tree: which of it is trained, and in which form."""

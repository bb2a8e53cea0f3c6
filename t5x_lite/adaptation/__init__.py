"""Transforms of a network's parameter tree: what of it is trained, and in which form."""

"""Objectives of a step, as weighted sums over the global batch."""

"""Kernels in 4 and 8 bits: what codes stand for, blocks and scales, the leaf, the adaptation."""

"""Checkpoints and tokenizers of other libraries, in and out, as tables of names."""

"""Import and export of other libraries' checkpoints and tokenizers, as tables of names."""

"""Completions that a policy draws while it is trained, rated, as a source of batches."""

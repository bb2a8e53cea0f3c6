"""Corpus metrics of task-oriented dialogue systems."""

"""Preprocessors of the tasks: plain functions from data set to data set, a file each.

seqio gives them `sequence_length` and `output_features` by name, so a task whose features get
another vocabulary needs no other change. seqio's own preprocessors are used where they do.
"""

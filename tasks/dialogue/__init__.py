"""Task-oriented dialogues: readers of the public corpora, made-up ones, and seqio tasks of both.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

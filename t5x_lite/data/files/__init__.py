"""A user's own files of text: one reader for training, `infer` and the training of vocabularies.

`find.py` looks for files, `plain.py` unpacks or rewrites them as lines of text, JSON or tables,
`records.py` says where the examples of those begin and end, and `index.py` checks each of them and
reads any by its number. Python, NumPy and pyarrow only.
"""

"""seqio tasks, their preprocessors, vocabularies, feature converters and metrics.

Nothing is imported here: `tasks.files` is read by gin in processes that never load TensorFlow,
while `tasks.datasets.stdlib` registers its tasks, and loads TensorFlow, when it is imported.
"""

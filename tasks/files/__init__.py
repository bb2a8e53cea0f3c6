"""A user's own files as tasks: the gin class, the formats, the index of examples, the seqio source.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

from tasks.files.file_task import FileTask, texts

__all__ = ['FileTask', 'texts']

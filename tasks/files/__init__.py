"""A user's own files as tasks: the gin class, the formats of TensorFlow, the seqio source.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

from t5x_lite.data.files import rows
from t5x_lite.data.files.index import read_texts
from tasks.files import tf_examples
from tasks.files.file_task import FileTask

rows.READERS.update(tf_examples.READERS)

__all__ = ['FileTask', 'read_texts']

"""A mistake of the user that is found inside tf.data, as the one line that it is."""

from collections.abc import Iterator
import contextlib
import re

import tensorflow as tf

from t5x_lite.core.errors import UserError


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Raises the UserError that a Python function of a data set raised, in place of TensorFlow's."""
  kind = tf.errors.OpError   # a stream that Python's end closes finds no tf any more
  try:
    yield
  except kind as error:
    found = re.search(r'\b(?:UserError|FieldError): (.*)', error.message)
    if found is None:
      raise
    raise UserError(found[1]) from error

"""seqio tasks of requests about functions of Python's standard library. Importing this registers:

stdlib_instruct         conversations, whose answers are learned, for decoders
stdlib_instruct_pairs   the same as inputs and targets, for encoder-decoders and scores of answers

Functions of a module are in one split, as in stdlib_lm; one in a hundred short ones stands in
modules of two. What does not fit the lengths is left out.
"""

import functools

import numpy as np
import seqio
import tensorflow as tf

from tasks import metrics
from tasks.datasets.python_requests import requests
from tasks.datasets.stdlib import StdlibSource
from tasks.instruction.encoding import Encoding
from tasks.instruction.named_templates import load_template

TEMPLATE = 'zephyr'   # of text and the end of text alone, so that any vocabulary has its tokens


class RequestSource(StdlibSource):
  """Functions as `conversation`, as JSON, and `place`: which function, and the kind of request.

  Attributes:
    template: by which conversations are written.
  """

  def __init__(self):
    super().__init__('functions')
    self.template = load_template(TEMPLATE)

  def get_dataset(self, *args, **kwargs) -> tf.data.Dataset:
    """See StdlibSource; the requests about a function follow each other."""
    @tf.autograph.experimental.do_not_convert
    def ask(module, name, code, docstring):
      found = [*requests(code.decode(), docstring.decode())]
      where = f'{module.decode()}.{name.decode()}'
      return (np.asarray([c.to_json().encode() for _, c in found], object),
              np.asarray([f'{where} ({kind})'.encode() for kind, _ in found], object))

    def read(function):
      given = [function[key] for key in ('module', 'name', 'code', 'docstring')]
      texts, places = tf.numpy_function(ask, given, [tf.string, tf.string])
      return tf.data.Dataset.from_tensor_slices({
          'conversation': tf.ensure_shape(texts, [None]),
          'place': tf.ensure_shape(places, [None])})

    return super().get_dataset(*args, **kwargs).flat_map(read)


_SOURCE = RequestSource()
_encoding = functools.partial(Encoding, template=_SOURCE.template, too_long='cut_turns')

# A function's requests follow each other, so that a batch of one buffer holds many functions.
_SHUFFLED = {'shuffle_buffer_size': 5_000}

seqio.TaskRegistry.add('stdlib_instruct', source=_SOURCE,
                       **_encoding().task_parts('lm') | _SHUFFLED)
seqio.TaskRegistry.add(
    'stdlib_instruct_pairs', source=_SOURCE, **_encoding(turns='last').task_parts('text_to_text')
    | _SHUFFLED | {'metric_fns': (metrics.exact_match, metrics.rouge_l)})

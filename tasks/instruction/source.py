"""The seqio source and task behind `tasks.instruction.ConversationTask`."""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.index import FileIndex
from tasks.files.source import IndexedSource
from tasks.instruction.encoding import Encoding, Place
from tasks.instruction.examples import WITHOUT_ANSWER
from tasks.instruction.row_reader import read_conversations

_CHECKED = 20_000   # rows that are encoded before training; of more, those of the most bytes


class ConversationSource(IndexedSource):
  """`conversation`, as JSON, and `place`, the file and the offset of its row.

  Attributes:
    template: by which conversations are written.
    without: what a row is counted as of which nothing is left to learn, as Report has it.
    nothing: what no row of a split has, then, and the cure.
  """

  without = WITHOUT_ANSWER
  nothing = 'has an answer that MessageTrees keeps: name other files, or let it keep more'

  def __init__(self, indices: Mapping[str, FileIndex], encoding: Encoding):
    super().__init__(indices)
    self.template, self._encoding = encoding.template, encoding

  def read(self, examples: FileIndex, numbers: tf.data.Dataset) -> tf.data.Dataset:
    @tf.autograph.experimental.do_not_convert
    def lookup(i):
      texts, place = _row(examples, int(i))
      return np.asarray([text.encode() for text in texts], object), place.encode()

    def convert(i):
      texts, place = tf.numpy_function(lookup, [i], [tf.string, tf.string])
      texts, place = tf.ensure_shape(texts, [None]), tf.ensure_shape(place, [])
      return tf.data.Dataset.from_tensor_slices(texts).map(
          lambda text: {'conversation': text, 'place': place})

    return numbers.flat_map(convert)

  def check(self, split: str, sequence_length: Mapping[str, int],
            output_features: Mapping[str, seqio.Feature]) -> None:
    """Encodes the rows of a split once, so that what is wrong with one is known before training.

    Raises UserError as encoding.encode_conversations does.
    """
    self._encoding.report.begin()
    rows = self.indices[split]
    encode = self._encoding.encoder(sequence_length, output_features)
    chosen = range(len(rows))
    if len(rows) > _CHECKED:
      chosen = np.argpartition(-rows.size, _CHECKED)[:_CHECKED].tolist()
    empty = True
    for i in chosen:
      texts, place = _row(rows, i)
      empty = empty and not texts
      if not texts:
        self._encoding.report.add(self.without, Place(place))
      for text in texts:
        encode(text, place)
    if empty and not any(_row(rows, i)[0] for i in range(len(rows))):
      raise UserError(f'{rows.paths[0]}: none of {len(rows)} row(s) of {split} {self.nothing}')


def register(name: str, objective: str, indices: Mapping[str, FileIndex], encoding: Encoding
             ) -> None:
  """Registers the task of that name, with the parts of `Encoding.task_parts`."""
  seqio.TaskRegistry.add(name, source=ConversationSource(indices, encoding),
                         **encoding.task_parts(objective))


def _row(rows: FileIndex, i: int) -> tuple[list[str], str]:
  """(the conversations of a row, its place)."""
  return (read_conversations(rows[i]['conversations']),
          f'{rows.paths[rows.file_of[i]]}@{rows.start[i]}')

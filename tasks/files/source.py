"""The seqio source and task behind `tasks.files.FileTask`."""

from collections.abc import Iterator, Mapping
import contextlib

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.index import FileIndex
from tasks import vocabularies
from tasks.files import random_access
from tasks.preprocessors import classification, pretraining

_raised: list[UserError] = []   # inside tf.data, which makes errors of its own of them


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
  """Raises errors of files that are found while tf.data reads them as the one line they are."""
  kind = tf.errors.OpError   # a stream that Python's end closes finds no tf any more
  try:
    yield
  except kind as error:
    for found in _raised:
      if str(found) in error.message:
        raise found from error
    raise


class IndexedFileSource(seqio.DataSource):
  """A source over indexed files. The seed fixes one global order, which any shards partition.

  Attributes:
    indices: the examples of each split.
  """

  def __init__(self, indices: Mapping[str, FileIndex]):
    super().__init__(
        splits=tuple(indices), num_input_examples={s: len(i) for s, i in indices.items()}
    )
    self.indices = dict(indices)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return list(self.indices[split].paths)

  def get_dataset(
      self,
      split='train',
      shuffle=True,
      seed=None,
      shard_info=None,
      *,
      sequence_length=None,
      use_cached=False,
      num_epochs=1,
  ) -> tf.data.Dataset:
    """Returns string features: `targets`, and `inputs` if the files have them."""
    del sequence_length, use_cached, num_epochs
    shard_info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
    examples = self.indices[split]
    names = sorted(examples.templates)

    @tf.autograph.experimental.do_not_convert
    def lookup(i):
      try:
        features = examples[int(i)]
      except UserError as error:
        _raised.append(error)
        raise
      return [features[name].encode() for name in names]

    def read(index):
      values = tf.numpy_function(lookup, [index], [tf.string] * len(names))
      return {name: tf.ensure_shape(value, []) for name, value in zip(names, values)}

    return random_access.index_dataset(
        len(examples),
        shuffle=shuffle,
        seed=seed,
        num_shards=shard_info.num_shards,
        shard_index=shard_info.index,
    ).map(read)


def register(name: str, objective: str, indices: Mapping[str, FileIndex], *,
             num_classes: int = 0) -> None:
  """Registers the task of that name, over the byte vocabulary.

  Args:
    name: of the task.
    objective: of pretraining.PREPROCESSORS, or 'classification'.
    indices: the examples of each split.
    num_classes: of a classification, whose targets are class numbers as text.
  """
  vocabulary = vocabularies.BYTE_VOCABULARY
  if objective == 'classification':
    parts = classification.task_parts(vocabulary, num_classes, text='inputs', label='targets',
                                      before=(class_numbers,))
  else:
    parts = pretraining.task_parts(objective, vocabulary)
  seqio.TaskRegistry.add(name, source=IndexedFileSource(indices),
                         shuffle_buffer_size=pretraining.SHUFFLE_BUFFER_SIZE, **parts)


def class_numbers(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes `targets`, a number as text, an int32."""
  return dataset.map(
      lambda example: example | {'targets': tf.strings.to_number(example['targets'], tf.int32)})

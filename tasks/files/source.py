"""The seqio source and task behind `tasks.files.FileTask`."""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite.data.files.index import FileIndex
from tasks import vocabularies
from tasks.files import random_access
from tasks.preprocessors import classification, pretraining


class IndexedSource(seqio.DataSource):
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
    """Returns what `read` makes of the numbers of the examples."""
    del sequence_length, use_cached, num_epochs
    shard_info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
    examples = self.indices[split]
    return self.read(examples, random_access.index_dataset(
        len(examples),
        shuffle=shuffle,
        seed=seed,
        num_shards=shard_info.num_shards,
        shard_index=shard_info.index,
    ))

  def read(self, examples: FileIndex, numbers: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the features of the examples of these numbers."""
    raise NotImplementedError


class TextSource(IndexedSource):
  """String features: `targets`, and `inputs` if the files have them."""

  def read(self, examples: FileIndex, numbers: tf.data.Dataset) -> tf.data.Dataset:
    names = sorted(examples.templates)

    @tf.autograph.experimental.do_not_convert
    def lookup(i):
      features = examples[int(i)]
      return [features[name].encode() for name in names]

    def convert(i):
      values = tf.numpy_function(lookup, [i], [tf.string] * len(names))
      return {name: tf.ensure_shape(value, []) for name, value in zip(names, values)}

    return numbers.map(convert)


def register(name: str, objective: str, indices: Mapping[str, FileIndex], *,
             texts: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
  """Registers the task of that name, over the byte vocabulary.

  Args:
    name: of the task.
    objective: of pretraining.PREPROCESSORS, or a classification, as FileTask has them.
    indices: the examples of each split.
    texts: names of the inputs.
    labels: of a classification, whose targets are class numbers as text.
  """
  vocabulary = vocabularies.BYTE_VOCABULARY
  if objective == 'classification':
    parts = classification.task_parts(vocabulary, len(labels), text='inputs', label='targets',
                                      labels=labels, before=(class_numbers,))
  elif objective.startswith('decoder_'):
    parts = classification.text_task_parts(
        vocabulary, len(labels), texts=texts, label='targets', labels=labels,
        choice=objective == 'decoder_choice', before=(class_numbers,))
  else:
    parts = pretraining.task_parts(objective, vocabulary)
  seqio.TaskRegistry.add(name, source=TextSource(indices),
                         shuffle_buffer_size=pretraining.SHUFFLE_BUFFER_SIZE, **parts)


def class_numbers(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes `targets`, a number as text, an int32."""
  return dataset.map(
      lambda example: example | {'targets': tf.strings.to_number(example['targets'], tf.int32)})

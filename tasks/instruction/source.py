"""The seqio source and task behind `tasks.instruction.ConversationTask`."""

from collections.abc import Mapping
import functools
import sys

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data.files.index import FileIndex
from tasks import vocabularies
from tasks.files import random_access
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.conversation import Conversation
from tasks.instruction.examples import ExampleMaker
from tasks.instruction.row_reader import read_conversations
from tasks.instruction.vocabulary_tokens import chat_tokens
from tasks.preprocessors import pretraining
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

_INTS = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)


class ConversationSource(seqio.DataSource):
  """A source over indexed rows. The seed fixes one global order, which any shards partition.

  Attributes:
    indices: the rows of each split.
  """

  def __init__(self, indices: Mapping[str, FileIndex]):
    super().__init__(splits=tuple(indices),
                     num_input_examples={s: len(i) for s, i in indices.items()})
    self.indices = dict(indices)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return list(self.indices[split].paths)

  def get_dataset(self, split='train', shuffle=True, seed=None, shard_info=None, *,
                  sequence_length=None, use_cached=False, num_epochs=1) -> tf.data.Dataset:
    """Returns `conversation`, as JSON, and `place`, the file and the offset of its row."""
    del sequence_length, use_cached, num_epochs
    shard_info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
    rows = self.indices[split]

    @tf.autograph.experimental.do_not_convert
    def lookup(i):
      found = read_conversations(rows[int(i)]['conversations'])
      place = f'{rows.paths[rows.file_of[i]]}@{rows.start[i]}'
      return np.asarray([text.encode() for text in found], object), place.encode()

    def read(i):
      texts, place = tf.numpy_function(lookup, [i], [tf.string, tf.string])
      texts, place = tf.ensure_shape(texts, [None]), tf.ensure_shape(place, [])
      return tf.data.Dataset.from_tensor_slices(texts).map(
          lambda text: {'conversation': text, 'place': place})

    return random_access.index_dataset(
        len(rows), shuffle=shuffle, seed=seed, num_shards=shard_info.num_shards,
        shard_index=shard_info.index).flat_map(read)


def register(name: str, objective: str, indices: Mapping[str, FileIndex],
             template: ChatTemplate, *, turns: str, too_long: str, skip_bad: bool) -> None:
  """Registers the task of that name, over the byte vocabulary.

  Its features are `targets` and `targets_loss_weights` of a whole conversation, or `inputs` and
  `targets`.
  """
  feature = seqio.Feature(vocabularies.BYTE_VOCABULARY, add_eos=False)
  if objective == 'lm':
    weights = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    features = {'targets': feature, 'targets_loss_weights': weights}
  else:
    features = {'inputs': feature, 'targets': feature}
  encode = functools.partial(encode_conversations, template=template, turns=turns,
                             too_long=too_long, skip_bad=skip_bad)
  seqio.TaskRegistry.add(
      name, source=ConversationSource(indices), preprocessors=[encode], output_features=features,
      metric_fns=pretraining.METRICS[objective],
      shuffle_buffer_size=pretraining.SHUFFLE_BUFFER_SIZE)


def encode_conversations(dataset: tf.data.Dataset, sequence_length, output_features, *,
                         template: ChatTemplate, turns: str, too_long: str, skip_bad: bool
                         ) -> tf.data.Dataset:
  """Renders conversations by a template, and makes ids of them: features as `register` has them.

  Raises UserError, when it is read, for a row without end of an answer, or too long for its
  feature unless it is to be cut.
  """
  vocabulary = output_features['targets'].vocabulary
  tokens, tokenizer = chat_tokens(vocabulary), SeqioTokenizer(output_features['targets'])
  maker = ExampleMaker(template, tokens, turns=turns, too_long=too_long, skip_bad=skip_bad,
                       start_id=tokenizer.start_id)
  length = lambda name: (sequence_length or {}).get(name)
  own = lambda ids: vocabularies.seqio_ids(vocabulary, ids)
  names = sorted(output_features)
  told = set()

  @tf.autograph.experimental.do_not_convert
  def encode(text, place):
    conversation = Conversation.from_json(text.decode())
    where = _Place(place.decode())
    if 'inputs' in names:
      pairs = maker.pairs(conversation, length('inputs'), length('targets'), where)
      found = [(own(before), own(answer)) for before, answer in pairs]
    else:
      sequences = maker.sequences(conversation, length('targets'), where)
      found = [(own(example.ids), np.asarray(example.mask, np.int32)) for example in sequences]
    if found and not told:
      told.add(True)
      _say_end(found[0], names, tokens, tokenizer)
    flat = [np.concatenate([example[i] for example in found]) if found else np.zeros(0)
            for i in range(2)]
    sizes = [np.asarray([len(example[i]) for example in found]) for i in range(2)]
    return [x.astype(np.int32) for x in (*flat, *sizes)]

  def read(example):
    found = tf.numpy_function(encode, [example['conversation'], example['place']], [tf.int32] * 4)
    flat = [tf.ensure_shape(x, [None]) for x in found]
    ragged = {name: tf.RaggedTensor.from_row_lengths(flat[i], flat[2 + i], validate=False)
              for i, name in enumerate(names)}
    number = tf.cast(tf.size(flat[2]), tf.int64)
    return tf.data.Dataset.range(number).map(
        lambda k: {name: rows[k] for name, rows in ragged.items()})

  return dataset.flat_map(read)


class _Place:
  """Where a row is, as file:line; its line is counted only if it is asked for."""

  def __init__(self, text: str):
    self._path, _, offset = text.rpartition('@')
    self._offset = int(offset)

  def __str__(self) -> str:
    with open(self._path, 'rb') as file:
      return f'{self._path}:{file.read(self._offset).count(10) + 1}'


def _say_end(example, names, tokens, tokenizer: SeqioTokenizer) -> None:
  """Says so where answers end in another token than the vocabulary's end of text."""
  last = example[names.index('targets')]
  if 'targets_loss_weights' in names:
    last = last[np.flatnonzero(example[names.index('targets_loss_weights')])]
  spelled = {i: text for text, i in tokens.control.items()}
  ends = [i for i in vocabularies.model_ids(tokenizer.vocabulary, last).tolist() if i in spelled]
  if ends and ends[-1] != tokenizer.eos_id:
    print(f'ConversationTask: answers end with {spelled[ends[-1]]!r}, which is not the end of text '
          f'of the vocabulary: set InferConfig.end_ids = ({ends[-1]},) to stop there',
          file=sys.stderr)

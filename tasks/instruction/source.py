"""The seqio source and task behind `tasks.instruction.ConversationTask`."""

from collections.abc import Callable, Mapping
import functools

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data.files.index import FileIndex
from tasks import vocabularies
from tasks.files import random_access
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.conversation import Conversation
from tasks.instruction.examples import ExampleMaker, Report
from tasks.instruction.row_reader import read_conversations
from tasks.instruction.vocabulary_tokens import chat_tokens
from tasks.preprocessors import pretraining
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

# Rows are drawn in an order over all of them; this parts the pieces of one conversation.
_BUFFER = 256
_CHECKED = 20_000   # rows that are encoded before training; of more, those of the most bytes


class ConversationSource(seqio.DataSource):
  """A source over indexed rows. The seed fixes one global order, which any shards partition.

  Attributes:
    indices: the rows of each split.
  """

  def __init__(self, indices: Mapping[str, FileIndex], make_encoder: Callable[..., '_Encoder'],
               report: Report):
    super().__init__(splits=tuple(indices),
                     num_input_examples={s: len(i) for s, i in indices.items()})
    self.indices, self._make_encoder, self._report = dict(indices), make_encoder, report

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
      texts, place = _row(rows, int(i))
      return np.asarray([text.encode() for text in texts], object), place.encode()

    def read(i):
      texts, place = tf.numpy_function(lookup, [i], [tf.string, tf.string])
      texts, place = tf.ensure_shape(texts, [None]), tf.ensure_shape(place, [])
      return tf.data.Dataset.from_tensor_slices(texts).map(
          lambda text: {'conversation': text, 'place': place})

    return random_access.index_dataset(
        len(rows), shuffle=shuffle, seed=seed, num_shards=shard_info.num_shards,
        shard_index=shard_info.index).flat_map(read)

  def check(self, split: str, sequence_length: Mapping[str, int],
            output_features: Mapping[str, seqio.Feature]) -> None:
    """Encodes the rows of a split once, so that what is wrong with one is known before training.

    Raises UserError as encode_conversations does.
    """
    self._report.begin()
    rows = self.indices[split]
    encode = self._make_encoder(sequence_length, output_features)
    chosen = range(len(rows))
    if len(rows) > _CHECKED:
      chosen = np.argpartition(-rows.size, _CHECKED)[:_CHECKED].tolist()
    for i in chosen:
      texts, place = _row(rows, i)
      for text in texts:
        encode(text, place)


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
  report = Report()
  make = functools.partial(_Encoder, template=template, turns=turns, too_long=too_long,
                           skip_bad=skip_bad, report=report)
  seqio.TaskRegistry.add(
      name, source=ConversationSource(indices, make, report),
      preprocessors=[functools.partial(encode_conversations, make_encoder=make)],
      output_features=features, metric_fns=pretraining.METRICS[objective],
      shuffle_buffer_size=_BUFFER)


def encode_conversations(dataset: tf.data.Dataset, sequence_length, output_features, *,
                         make_encoder: Callable[..., '_Encoder']) -> tf.data.Dataset:
  """Renders conversations by a template, and makes ids of them: features as `register` has them.

  Raises UserError, when it is read, for a row without end of an answer, or too long for its
  feature unless it is to be cut.
  """
  encoder = make_encoder(sequence_length, output_features)
  names = sorted(output_features)

  @tf.autograph.experimental.do_not_convert
  def encode(text, place):
    found = encoder(text.decode(), place.decode())
    flat = [np.concatenate([example[name] for example in found]) if found else np.zeros(0)
            for name in names]
    sizes = [np.asarray([len(example[name]) for example in found]) for name in names]
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


class _Encoder:
  """A conversation, as JSON, and its place -> the features of its examples, in seqio's ids."""

  def __init__(self, sequence_length: Mapping[str, int] | None,
               output_features: Mapping[str, seqio.Feature], *, template: ChatTemplate, turns: str,
               too_long: str, skip_bad: bool, report: Report):
    feature = output_features['targets']
    self._vocabulary = feature.vocabulary
    self._tokens, self._tokenizer = chat_tokens(self._vocabulary), SeqioTokenizer(feature)
    self._maker = ExampleMaker(template, self._tokens, turns=turns, too_long=too_long,
                               skip_bad=skip_bad, start_id=self._tokenizer.start_id, report=report)
    self._length = (sequence_length or {}).get
    self._spelled = {i: text for text, i in self._tokens.control.items()}
    self._pairs = 'inputs' in output_features
    self._report = report

  def __call__(self, text: str, place: str) -> list[dict[str, np.ndarray]]:
    conversation, where = Conversation.from_json(text), _Place(place)
    own = lambda ids: vocabularies.seqio_ids(self._vocabulary, ids)
    if self._pairs:
      pairs = self._maker.pairs(conversation, self._length('inputs'), self._length('targets'),
                                where)
      ends = [answer[-1] for _, answer in pairs]
      found = [{'inputs': own(before), 'targets': own(answer)} for before, answer in pairs]
    else:
      examples = self._maker.sequences(conversation, self._length('targets'), where)
      ends = [example.split()[1][-1] for example in examples]
      found = [{'targets': own(example.ids),
                'targets_loss_weights': np.asarray(example.mask, np.int32)}
               for example in examples]
    for end in ends:
      self._say_end(end)
    return found

  def _say_end(self, end: int) -> None:
    """Says so where answers end in another token than the vocabulary's end of text."""
    if end in self._spelled and end != self._tokenizer.eos_id:
      self._report.say(
          f'ConversationTask: answers end with {self._spelled[end]!r}, which is not the end of '
          f'text of the vocabulary: set InferConfig.end_ids = ({end},) to stop there')


def _row(rows: FileIndex, i: int) -> tuple[list[str], str]:
  """(the conversations of a row, its place)."""
  return (read_conversations(rows[i]['conversations']),
          f'{rows.paths[rows.file_of[i]]}@{rows.start[i]}')


class _Place:
  """Where a row is, as file:line; its line is counted only if it is asked for."""

  def __init__(self, text: str):
    self._path, _, offset = text.rpartition('@')
    self._offset = int(offset)

  def __hash__(self) -> int:
    return hash((self._path, self._offset))

  def __str__(self) -> str:
    with open(self._path, 'rb') as file:
      return f'{self._path}:{file.read(self._offset).count(10) + 1}'

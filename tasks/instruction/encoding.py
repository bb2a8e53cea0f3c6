"""Conversations as features of a seqio task: rendered by a template, tokenised, cut to length."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from tasks import vocabularies
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.conversation import Conversation
from tasks.instruction.examples import ExampleMaker, Report
from tasks.instruction.vocabulary_tokens import chat_tokens
from tasks.preprocessors import pretraining
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

# Sources draw in an order over all rows; this parts the pieces of one conversation.
_BUFFER = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
  """How conversations become examples.

  Attributes:
    template, turns, too_long, skip_bad: see ExampleMaker.
    report: of what does not fit; one for all encoders.
  """

  template: ChatTemplate
  turns: str = 'every'
  too_long: str = 'refuse'
  skip_bad: bool = False
  report: Report = dataclasses.field(default_factory=Report)

  def encoder(self, sequence_length: Mapping[str, int] | None,
              output_features: Mapping[str, seqio.Feature]) -> 'Encoder':
    """The Encoder for a task's features, at most so long."""
    return Encoder(self, sequence_length, output_features)

  def task_parts(self, objective: str) -> dict[str, Any]:
    """What seqio.TaskRegistry.add takes, for a source of `conversation`, as JSON, and `place`.

    The vocabulary is bytes. Features are `targets` and `targets_loss_weights` of whole
    conversations for 'lm', `inputs` and `targets` for 'text_to_text'.
    """
    feature = seqio.Feature(vocabularies.BYTE_VOCABULARY, add_eos=False)
    weights = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    features = {'lm': {'targets': feature, 'targets_loss_weights': weights},
                'text_to_text': {'inputs': feature, 'targets': feature}}
    return dict(preprocessors=[functools.partial(encode_conversations, encoding=self)],
                output_features=features[objective], metric_fns=pretraining.METRICS[objective],
                shuffle_buffer_size=_BUFFER)


def encode_conversations(dataset: tf.data.Dataset, sequence_length, output_features, *,
                         encoding: Encoding) -> tf.data.Dataset:
  """Renders conversations by a template, and makes ids of them: features as Encoding.task_parts.

  Raises UserError, when it is read, for a row without end of an answer, or too long for its
  feature unless it is to be cut.
  """
  encoder = encoding.encoder(sequence_length, output_features)
  names = sorted(output_features)
  dtypes = [output_features[name].dtype for name in names]

  @tf.autograph.experimental.do_not_convert
  def encode(text, place):
    found = encoder(text.decode(), place.decode())
    flat = [np.concatenate([example[name] for example in found]) if found else np.zeros(0)
            for name in names]
    sizes = [np.asarray([len(example[name]) for example in found], np.int32) for name in names]
    return [*(x.astype(dtype.as_numpy_dtype) for x, dtype in zip(flat, dtypes)), *sizes]

  def read(example):
    found = tf.numpy_function(encode, [example['conversation'], example['place']],
                              dtypes + [tf.int32] * len(names))
    flat = [tf.ensure_shape(x, [None]) for x in found]
    ragged = {name: tf.RaggedTensor.from_row_lengths(flat[i], flat[len(names) + i],
                                                      validate=False)
              for i, name in enumerate(names)}
    number = tf.cast(tf.size(flat[-1]), tf.int64)
    return tf.data.Dataset.range(number).map(
        lambda k: {name: rows[k] for name, rows in ragged.items()})

  return dataset.flat_map(read)


class Encoder:
  """A conversation, as JSON, and its place -> the features of its examples, in seqio's ids."""

  def __init__(self, encoding: Encoding, sequence_length: Mapping[str, int] | None,
               output_features: Mapping[str, seqio.Feature]):
    feature = output_features['targets']
    self._vocabulary = feature.vocabulary
    self._maker = ExampleMaker(
        encoding.template, chat_tokens(self._vocabulary), turns=encoding.turns,
        too_long=encoding.too_long, skip_bad=encoding.skip_bad, report=encoding.report,
        start_id=SeqioTokenizer(feature).start_id)
    self._length = (sequence_length or {}).get
    self._pairs = 'inputs' in output_features

  def __call__(self, text: str, place: str) -> list[dict[str, np.ndarray]]:
    conversation, where = Conversation.from_json(text), Place(place)
    own = lambda ids: vocabularies.seqio_ids(self._vocabulary, ids)
    if self._pairs:
      pairs = self._maker.pairs(conversation, self._length('inputs'), self._length('targets'),
                                where)
      found = [{'inputs': own(before), 'targets': own(answer)} for before, answer in pairs]
    else:
      examples = self._maker.sequences(conversation, self._length('targets'), where)
      found = [{'targets': own(example.ids),
                'targets_loss_weights': np.asarray(example.mask, np.int32)}
               for example in examples]
    return found


class Place:
  """Where a row is: path@offset as file:line, whose line is counted only if it is asked for; or a
  name."""

  def __init__(self, text: str):
    self._text = text

  def __hash__(self) -> int:
    return hash(self._text)

  def __str__(self) -> str:
    path, at, offset = self._text.rpartition('@')
    if not at:
      return self._text
    with open(path, 'rb') as file:
      return f'{path}:{file.read(int(offset)).count(10) + 1}'

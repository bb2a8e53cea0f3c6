"""Comparisons as features of a seqio task: ids of the prompt and of all responses, and scores."""

from collections.abc import Mapping
import dataclasses
import functools
import os
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from tasks import vocabularies
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.encoding import Place, encode_conversations
from tasks.instruction.examples import ExampleMaker, Report
from tasks.instruction.vocabulary_tokens import chat_tokens
from tasks.preferences.comparison import Comparison
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

TOO_LONG = ('refuse', 'drop')
WITHOUT_PREFERENCE = 'without two responses of which one is better'
LEFT_OUT, DROPPED = 'left out', 'left out as too long'
_BUFFER = 256   # sources draw in an order over all rows; this parts the pairs of one row

_NAMES = {'inputs': 'a prompt', 'targets': 'a response'}

Ids = list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonEncoding:
  """How comparisons become examples.

  Attributes:
    template: by which messages are written; None: prompts and responses are texts.
    add_eos: whether the prompt of a text ends with the end of text.
    too_long: of TOO_LONG, what is done with one that does not fit.
    skip_bad: leave out what cannot be encoded, and count it.
    report: of what does not reach a model; one for all encoders.
  """

  template: ChatTemplate | None = None
  add_eos: bool = False
  too_long: str = 'refuse'
  skip_bad: bool = False
  report: Report = dataclasses.field(default_factory=lambda: Report(
      'comparisons', (WITHOUT_PREFERENCE, LEFT_OUT, DROPPED)))

  def encoder(self, sequence_length: Mapping[str, int] | None,
              output_features: Mapping[str, seqio.Feature]) -> 'ComparisonEncoder':
    """The encoder for a task's features, at most so long."""
    return ComparisonEncoder(self, sequence_length, output_features)

  def task_parts(self) -> dict[str, Any]:
    """What seqio.TaskRegistry.add takes, for a source of `conversation`, as JSON, and `place`."""
    return dict(preprocessors=[functools.partial(encode_conversations, encoding=self)],
                output_features=output_features(vocabularies.BYTE_VOCABULARY, self.add_eos),
                metric_fns=[], shuffle_buffer_size=_BUFFER)


def output_features(vocabulary: seqio.Vocabulary, add_eos: bool = False
                    ) -> dict[str, seqio.Feature]:
  """The features of a task that a PreferenceData reads, each of rank 1.

  `inputs`: ids of the prompt; `targets`: those of all responses, one after the other, each with
  its end token; `response_lengths`: how many are of each; `response_scores`: float32, larger is
  better; 1 or 0 of a single response with its thumb up or down.

  Args:
    vocabulary: of prompts and responses.
    add_eos: whether texts that are asked end with the end of text; it adds none to `inputs`.
  """
  number = seqio.PassThroughVocabulary(2)
  return {'inputs': seqio.Feature(vocabulary, add_eos=add_eos),
          'targets': seqio.Feature(vocabulary, add_eos=False),
          'response_lengths': seqio.Feature(number, add_eos=False),
          'response_scores': seqio.Feature(number, add_eos=False, dtype=tf.float32)}


class ComparisonEncoder:
  """A comparison, as JSON, and its place -> the features of its example, in seqio's ids."""

  def __init__(self, encoding: ComparisonEncoding, sequence_length: Mapping[str, int] | None,
               output_features: Mapping[str, seqio.Feature]):
    self._encoding = encoding
    feature = output_features['targets']
    self._vocabulary = feature.vocabulary
    self._limits = sequence_length or {}
    if encoding.template is not None:
      self._maker = ExampleMaker(
          encoding.template, chat_tokens(self._vocabulary), turns='last', too_long='refuse',
          start_id=SeqioTokenizer(feature).start_id)

  def __call__(self, text: str, place: str) -> list[dict[str, np.ndarray]]:
    """One example, or none if it is left out. Raises UserError for one that is refused."""
    comparison, where, encoding = Comparison.from_json(text), Place(place), self._encoding
    encode = self._texts if encoding.template is None else self._messages
    try:
      prompt, responses = encode(comparison)
    except BadExample as error:
      if not encoding.skip_bad:
        raise UserError(f'{where}: {error}') from error
      encoding.report.add(LEFT_OUT, where, f': {error}')
      return []
    for name, size in (('inputs', len(prompt)), ('targets', max(map(len, responses)))):
      limit = self._limits.get(name)
      if limit is not None and size > limit:
        if encoding.too_long == 'refuse':
          raise UserError(f'{where}: {size} tokens of {_NAMES[name]}, and the model has {limit}: '
                          f"raise {name}_length, or set PreferenceTask.too_long to 'drop'")
        encoding.report.add(DROPPED, where)
        return []
    return [{'inputs': np.asarray(prompt, np.int32),
             'targets': np.concatenate(responses).astype(np.int32),
             'response_lengths': np.asarray([*map(len, responses)], np.int32),
             'response_scores': np.asarray(comparison.scores, np.float32)}]

  def _texts(self, comparison: Comparison) -> tuple[Ids, list[Ids]]:
    """(ids of the prompt, of each response), each text by itself, as a model continues them."""
    end = [self._vocabulary.eos_id]
    encode = lambda text: [*self._vocabulary.encode(text)]
    return (encode(comparison.prompt) + end * self._encoding.add_eos,
            [encode(response) + end for response in comparison.responses])

  def _messages(self, comparison: Comparison) -> tuple[Ids, list[Ids]]:
    """As `_texts`; one after the other they are the ids of each whole conversation.

    A token that a tokenizer makes of the end of the prompt and the beginning of a response, such as
    a space between them, is the response's. Raises BadExample for a template that begins a
    conversation in another way than its prompt for an answer.
    """
    maker = self._maker
    rendered = maker.template.render_prompt(
        comparison.prompt, maker.tokens.tokens, maker.tokens.control, comparison.tools)
    asked = [*maker.tokens.encode(rendered)[0]]
    asked = asked[1:] if asked[:1] == [maker.start_id] else asked
    found = [maker.encode(conversation).split() for conversation in comparison.conversations()]
    shared = len(os.path.commonprefix([asked, *(before for before, _ in found)]))
    if shared < len(asked) - 1:
      raise BadExample(f'{maker.template.name} writes a conversation in another way than its '
                       f'prompt for an answer, which has {len(asked)} tokens, of which {shared} '
                       'begin the conversation: name another template')
    control = {*maker.tokens.control.values()}
    own = lambda ids: vocabularies.seqio_ids(self._vocabulary, ids).tolist()
    return own(asked[:shared]), [own((before + _up_to_end(answer, control))[shared:])
                                 for before, answer in found]


def _up_to_end(answer: Ids, control: set[int]) -> Ids:
  """Without the white space that a template has after its end token, within its marks."""
  last = max(i for i, token in enumerate(answer) if token in control)
  return answer[:last + 1]

"""The protocol of a source of batches: a seqio stream, a cache, a buffer of rollouts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch


class Tokenizer(Protocol):
  """Text and ids, as models read them, of one feature of a source."""

  vocab_size: int
  eos_id: int
  start_id: int     # what a decoder reads before the first token
  add_eos: bool     # whether texts of this feature end with eos_id
  cls_id: int       # begins what an encoder-only model reads; UserError if there is none
  mask_id: int      # stands for a token to guess; UserError if there is none
  mask_spelling: str   # which stands for it in a prompt

  def encode(self, text: str) -> list[int]:
    """Ids of a text; what spells a special token there is text as well."""

  def encode_prompt(self, text: str, kind: str) -> tuple[list[int], int]:
    """Ids of a prompt that spells each 'mask', or 'sentinels', and how many of these there are."""

  def decode(self, ids: list[int]) -> str:
    """Text of ids, up to the end of text."""

  def byte_lengths(self) -> np.ndarray:
    """int32 [vocab_size]: bytes of text each id stands for."""

  def token_bytes(self) -> list[bytes | None]:
    """Bytes of text of each id, of which a text is made up, None for what no text stands for.

    A text may lack the space that its first piece begins with. Raises UserError for a tokenizer
    whose texts are not so made up.
    """


def row_lengths(lengths: Mapping[str, int], model: Any) -> tuple[int, int]:
  """Tokens of a row that (an encoder, a decoder) of the model reads; 0 where there is none.

  A decoder alone reads inputs and targets, one after the other; if it classifies, the inputs.

  Args:
    lengths: of a Source.
    model: the ModelConfig.
  """
  inputs, targets = (lengths.get(name) or 0 for name in ('inputs', 'targets'))
  if model.family == 'decoder_only':
    return 0, inputs if model.classifies_texts else inputs + targets
  return inputs, 0 if model.family == 'encoder_only' else targets


class Chat(Protocol):
  """How a model that was trained on conversations is asked."""

  source: str                # the chat template, in Jinja
  end_ids: tuple[int, ...]   # each of which ends an answer

  def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of messages, each with `role` and `content`, up to where an answer begins.

    The id that starts decoding is not among them. Raises UserError for what the template refuses.
    """


class Source:
  """Batches for training, and examples for evaluation and inference.

  A frozen dataclass that is a Source may be bound in gin as Experiment.data. It needs `name`,
  `lengths`, `batch_size` and `batches`; the rest is for evaluation and inference.

  Attributes:
    name: for display; the same in every run on the same data.
    lengths: tokens of `inputs` and of `targets` of a row; no `inputs` without an encoder or prompt.
    batch_size: rows of a global batch.
    vocabulary: the file that the tokenizer is read from, or None.
    labels: names of the classes of a classification; empty if they have none.
    num_texts: texts of an example that a decoder classifies.
  """

  name: str
  lengths: dict[str, int]
  batch_size: int
  vocabulary: str | None = None
  labels: Sequence[str] = ()
  num_texts: int = 1

  def batches(self, model: Any, *, seed: int, start: int = 0, shard: tuple[int, int] = (0, 1)
              ) -> Iterator[Batch]:
    """This shard's rows of the endless stream of global batches.

    Args:
      model: the ModelConfig that reads them. Raises UserError if they do not fit it.
      seed: of the order, and of all randomness in the examples.
      start: the position: how many examples (rows) of the global stream are skipped.
      shard: (index, count); shard i has the rows i, i + count, … of every batch.
    """
    raise NotImplementedError

  def splits(self) -> list[str]:
    """Names of the splits that `examples` reads."""
    return []

  def examples(self, split: str, limit: int | None = None, seed: int = 0
               ) -> Iterator[dict[str, Any]]:
    """Examples of a split to infer from: `ids` of the inputs, `inputs` and `targets` as given.

    `tokens_cut`, 0 if it is left out, is how many tokens of the inputs are beyond their length.

    Args:
      split: one of `splits`.
      limit: number of examples; None: all.
      seed: of all randomness in the examples.
    """
    raise UserError(f'{self.name} has no examples to infer from: pass '
                    '--gin.InferConfig.input=FILE with a prompt on each line')

  def tokenizer(self, feature: str = 'inputs') -> Tokenizer:
    """Of 'inputs' or 'targets'; of the targets where there are no inputs."""
    raise UserError(f'{self.name} has no tokenizer: {type(self).__name__} does not define one')

  def chat(self, template: str | None = None) -> Chat | None:
    """By the chat template of a name or file; None: that of the data, if it has one."""
    if template is not None:
      raise UserError(f'{self.name} has no prompts by templates: {type(self).__name__} does not '
                      'read them')
    return None

  def fingerprint(self) -> str | None:
    """Identifies the vocabulary of this source; it is stored with every checkpoint."""
    return None

  def data_digest(self) -> str | None:
    """Identifies the content that `batches` reads, in its order; None where it is not known.

    It is stored with every checkpoint: a run that resumes on other content reads another stream.
    """
    return None

  def check_model(self, model: Any) -> None:
    """Raises UserError if the model takes shorter sequences, or reads inputs that are not here."""
    alone = model.family == 'decoder_only' and not model.classifies_texts
    if not alone and not self.lengths.get('inputs'):
      raise UserError(f'A model of family {model.family!r}'
                      + f' and head {model.head!r}' * model.classifies_texts
                      + f' reads inputs, and {type(self).__name__} has no length of them: set '
                      'INPUTS_LENGTH')
    longest = max(row_lengths(self.lengths, model))
    if model.max_length is not None and longest > model.max_length:
      what = 'inputs_length + targets_length' if alone else 'length'
      raise FieldError(model, 'max_length', f'the data has sequences of {longest} tokens '
                       f'({type(self).__name__} {what}); raise max_length or shorten the data')


class NoData(Source):
  """The data of a model that is described alone: its shapes, without rows."""

  name = ''

  def __init__(self, lengths: dict[str, int], batch_size: int = 1):
    self.lengths, self.batch_size = lengths, batch_size

  def batches(self, model, *, seed, start=0, shard=(0, 1)):
    raise UserError('a model alone has no data: pass a gin file that binds an Experiment')

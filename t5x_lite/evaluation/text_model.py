"""A model of any family that scores texts, and writes them: what an evaluation asks."""

from collections.abc import Callable, Sequence
import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source, row_lengths
from t5x_lite.evaluation.answers import AnswerLog, answered
from t5x_lite.evaluation.likelihood import Likelihood, Request, Scored, in_order
from t5x_lite.evaluation.pseudo_likelihood import PseudoLikelihood
from t5x_lite.evaluation.reader import TextReader
from t5x_lite.inference.generator import Generator
from t5x_lite.inference.sampling import Sampling
from t5x_lite.models import Network
from t5x_lite.models.unstack import unstack
from t5x_lite.parallel.partitioner import Partitioner

NEW_TOKENS = 256   # of an answer, as lm-evaluation-harness has it
# (done, all) of the requests of a call.
Show = Callable[[int, int], None]


class TextModel:
  """Log-likelihoods of continuations, and continuations.

  Attributes:
    reader: makes ids of texts.
    max_length: tokens that the model reads.
  """

  def __init__(self, network: Network, params: Any, partitioner: Partitioner, data: Source, *,
               frame: tuple[Sequence[int], Sequence[int]] | None = None,
               end_ids: Sequence[int] = (), max_length: int | None = None, batch_size: int = 32,
               share: bool = True, log: AnswerLog | None = None,
               show: Show = lambda done, count: None):
    """Does not compile.

    Args:
      network, params, partitioner, data: the model, with the source of its tokenizers.
      frame, end_ids: as of a Generator.
      max_length: tokens that the model reads; None: as many as it has positions for, or the data.
      batch_size: texts at a time; a multiple of the mesh's parts of a batch.
      share: whether what contexts share is read once.
      log: of answers, which are taken from it, and added to it.
      show: is told how much is done.

    Raises UserError where the model predicts no tokens, and for a length it has no positions for.
    """
    config, limit = network.config, network.config.max_length
    self._network, self._params, self._partitioner, self._data = network, params, partitioner, data
    self._frame, self._end_ids, self._batch_size = frame, end_ids, batch_size
    self._log, self._show = log, show
    inputs, targets = data.tokenizer('inputs'), data.tokenizer('targets')
    self.reader = TextReader(config, inputs, targets, frame)
    self.max_length = max_length or limit or max(row_lengths(data.lengths, config))
    if limit is not None and self.max_length > limit:
      raise UserError(f'--max_length={self.max_length}: the model has {limit} positions')
    if batch_size % partitioner.batch_parts:
      raise UserError(f'--batch_size={batch_size} is no multiple of the {partitioner.batch_parts} '
                      'parts that the mesh has of a batch')
    common = dict(max_length=self.max_length, batch_size=batch_size)
    if config.family == 'encoder_only':
      self._likelihood = PseudoLikelihood(network, params, partitioner, mask_id=inputs.mask_id,
                                          after=self.reader.after, **common)
    else:
      self._likelihood = Likelihood(network, params, partitioner, share=share,
                                    start_id=targets.start_id, **common)

  def with_params(self, params: Any) -> 'TextModel':
    """The same with other parameters, of the same shapes: nothing is compiled for scores."""
    other = copy.copy(self)
    other._params = params
    other._likelihood = copy.copy(self._likelihood)
    other._likelihood.params = params
    return other

  def score(self, requests: Sequence[Request]) -> list[Scored]:
    """The scores of requests, in their order."""
    found = answered(self._likelihood, requests, self._log) if self._log else (
        self._likelihood(requests))
    return in_order(found, len(requests), lambda done: self._show(done, len(requests)))

  def write(self, contexts: Sequence[str], until: Sequence[str]) -> list[str]:
    """What the model writes greedily after each context, up to one of the strings `until`."""
    return self.write_after([self.reader.read(text) for text in contexts], until)

  def write_after(self, contexts: Sequence[Sequence[int]], until: Sequence[str],
                  max_new: int = NEW_TOKENS, sampling: Sampling | None = None) -> list[str]:
    """As `write`, after ids, and as `sampling` says.

    A context loses its first tokens where it has no room beside `max_new` others. Raises UserError
    for a model that writes nothing, or has no room.
    """
    sampling = dataclasses.replace(sampling or Sampling(), stop=tuple(until))
    room = self._room(max_new)
    asked = [[*ids][-room:] for ids in contexts]
    key = lambda ids: self._log.key('write', ids, max_new, repr(sampling))
    known = {i: got[0] for i, ids in enumerate(asked)
             if self._log and (got := self._log.get(key(ids))) is not None}
    missing = [i for i in range(len(asked)) if i not in known]
    for done, (i, output) in enumerate(zip(missing, self._continue(
        [asked[i] for i in missing], max_new, sampling)), len(known) + 1):
      known[i] = output
      if self._log:
        self._log.add(key(asked[i]), output)
      self._show(done, len(asked))
    if self._log:
      self._log.flush()
    return [known[i] for i in range(len(asked))]

  def check_writes(self, task: str) -> None:
    """Raises UserError, naming a task, where the model writes nothing or has no room for it."""
    try:
      self._room(NEW_TOKENS)
    except UserError as error:
      raise UserError(f'{task}: {error}') from error

  def _room(self, max_new: int) -> int:
    """Tokens of a context before so many new ones."""
    if self.reader.family == 'encoder_only':
      raise UserError('An encoder writes no answers: choose tasks that are scored')
    encodes = self.reader.family == 'encoder_decoder'
    room = self._data.lengths['inputs'] if encodes else self.max_length - max_new
    if room < 1:
      raise UserError(f'{max_new} new tokens leave no room in the {self.max_length} that the model '
                      'reads: raise --max_length')
    return room

  def _continue(self, asked, max_new, sampling):
    """The texts after ids."""
    if not asked:
      return
    params = self._params
    if self._network.config.scan_layers:   # what is taken apart is given up, and is scored by later
      params = jax.tree.map(jnp.copy, params)
    network, (params,) = unstack(self._network, [params], self._partitioner)
    generator = Generator(network, params, self._partitioner, self._data,
                          batch_size=self._batch_size, max_tokens=max_new,
                          frame=self._frame or ((), ()), end_ids=self._end_ids, decoding=sampling)
    yield from (record['output'] for record in generator.from_ids(asked, framed=True))

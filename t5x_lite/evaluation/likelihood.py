"""Log-likelihoods of continuations of contexts, in batches of like lengths.

What contexts share is read once: the continuations of a context use one cache of it, and contexts
that begin alike, as questions after the same solved examples, one cache of that. Nothing depends
on the batch size or the order of requests, but for rounding.

Shape letters: C contexts, P tokens of a context, N continuations, L tokens of one, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.branches import (
  can_branch,
  lay_out,
  of_targets,
  pad_targets,
  score_branches,
)
from t5x_lite.evaluation.prefixes import Shared, share_prefixes
from t5x_lite.inference.generate import left_pad, padded_length, prefill
from t5x_lite.models import Network
from t5x_lite.models.cache import take_rows
from t5x_lite.parallel.partitioner import Partitioner


class Request(NamedTuple):
  """Ids of a context, at least one, and of the continuation that is scored, at least one."""
  context: Sequence[int]
  continuation: Sequence[int]


class Scored(NamedTuple):
  """The score of a continuation.

  Attributes:
    logprobs: log p(token | context, tokens before it) in nats, float32 [continuation].
    greedy: whether each token is the likeliest.
  """
  logprobs: np.ndarray
  greedy: bool

  @property
  def total(self) -> float:
    """log p(continuation | context)."""
    return float(self.logprobs.sum(dtype=np.float64))


class _Sizes(NamedTuple):
  """Of a batch: how many contexts, and rows of continuations of them."""
  contexts: int
  rows: int


# (index of the request, its score) as they come.
Found = Iterator[tuple[int, Scored]]


class Likelihood:
  """Scores of continuations under a decoder, or an encoder-decoder whose encoder has the context.

  A request that is longer than the model reads loses the first tokens of its context; a decoder
  reads all but the last token of a continuation.
  """

  def __init__(self, network: Network, params: Any, partitioner: Partitioner, *,
               max_length: int, start_id: int = 0, batch_size: int = 32, share: bool = True):
    """Does not compile.

    Args:
      network, params: the model; all its parameters.
      partitioner: of the mesh of `params`.
      max_length: tokens that the model reads; of an encoder-decoder each side.
      start_id: which the decoder of an encoder-decoder reads first.
      batch_size: continuations at a time; a multiple of the mesh's parts of a batch.
      share: whether a beginning that several contexts share is read once; a prefix language model
        sees what follows it, and shares none.
    """
    self.config, self.params, self.partitioner = network.config, params, partitioner
    self.max_length, self.batch_size = max_length, batch_size
    self._encodes = network.config.family == 'encoder_decoder'
    self._shares = share and not self._encodes and not network.config.prefix_lm
    self._parts = partitioner.batch_parts
    self._score = jax.jit(functools.partial(_score, network, start_id),
                          static_argnames='length', out_shardings=partitioner.replicated)
    self._read = jax.jit(functools.partial(_read, network), static_argnames='length')
    self._branches = can_branch(network.config, partitioner.platform)
    self._score_branches = jax.jit(functools.partial(score_branches, network),
                                   out_shardings=partitioner.replicated)

  def __call__(self, requests: Sequence[Request]) -> Found:
    """Each request with its score, as batches are done; raises UserError for one too long."""
    requests = [self._cut(request) for request in requests]
    by_context: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
      by_context.setdefault(tuple(request.context), []).append(i)
    contexts = [np.asarray(ids, np.int32) for ids in by_context]
    owned = [*by_context.values()]
    groups = share_prefixes(contexts) if self._shares else [
        Shared(0, [*range(len(contexts))])] if contexts else []
    for group in groups:
      yield from self._score_group(group, contexts, owned, requests)

  def _sizes(self, members: Sequence[int], owned, count: int) -> _Sizes:
    """Of the batches of a group, where `count` requests are asked for in all."""
    rows = min(self.batch_size, -(-count // self._parts) * self._parts)
    typical = max(1, round(np.mean([len(owned[i]) for i in members])))
    return _Sizes(max(self._parts, rows // typical // self._parts * self._parts), rows)

  def _cut(self, request: Request) -> Request:
    """What is read and scored of a request."""
    context, continuation = [*request.context], [*request.continuation]
    if not context or not continuation:
      raise ValueError('a context and its continuation have at least one token each')
    if len(continuation) > self.max_length:
      raise UserError(f'A continuation of {len(continuation)} tokens is longer than the '
                      f'{self.max_length} that the model reads: raise --max_length')
    room = self.max_length - (0 if self._encodes else len(continuation) - 1)
    return Request(context[-room:], continuation)

  def _score_group(self, group: Shared, contexts, owned, requests) -> Found:
    """Those of contexts that share a prefix."""
    prefix = group.prefix
    members = sorted(group.members, key=lambda i: (-len(contexts[i]), i))
    rest = padded_length(len(contexts[members[0]]) - prefix, 32)
    longest = max(len(requests[r].continuation) for i in members for r in owned[i])
    length = padded_length(prefix + rest + longest, 128)
    cache = self._prefix_cache(contexts[members[0]][:prefix], length) if prefix else None
    sizes = self._sizes(members, owned, len(requests))
    for chosen, rows in _batches(members, owned, sizes):
      yield from self._score_batch([contexts[i][prefix:] for i in chosen], rows, requests, sizes,
                                   cache, length)

  def _prefix_cache(self, ids: np.ndarray, length: int):
    """A cache that holds a prefix, once for each part of a batch."""
    tokens, valid = left_pad([ids] * self._parts, 0)
    put = self.partitioner.put_whole({'tokens': tokens, 'valid': valid})
    return self._read(self.params, put['tokens'], put['valid'], length=length)

  def _score_batch(self, contexts, rows, requests, sizes, cache, length) -> Found:
    """The scores of `rows`, (position in contexts, request); `length` is of the `cache`."""
    contexts = [*contexts, *[contexts[-1]] * (sizes.contexts - len(contexts))]
    continuations = [requests[r].continuation for _, r in rows]
    row_of = np.zeros(sizes.rows, np.int32)
    row_of[:len(rows)] = [position for position, _ in rows]
    if cache is None and self._branches:
      batch = lay_out(contexts, continuations, row_of)
      found = self._score_branches(self.params, self.partitioner.put_whole(batch))
    else:
      batch = self._beside_cache(contexts, continuations, sizes.rows) | {'row_of': row_of}
      if cache is None:
        length = batch['tokens'].shape[1] + batch['targets'].shape[1]
      found = self._score(self.params, self.partitioner.put_whole(batch), cache, length=length)
    logprobs, best = jax.device_get(found)
    for n, (_, r) in enumerate(rows):
      count = len(continuations[n])
      yield r, Scored(logprobs[n, :count], bool(best[n, :count].all()))

  def _beside_cache(self, contexts, continuations, num_rows: int) -> dict[str, np.ndarray]:
    """A batch of `_score`, without `row_of`."""
    pad = functools.partial(right_pad, limit=self.max_length) if self._encodes else (
        functools.partial(left_pad, pad_id=0))
    tokens, valid = pad(contexts)
    targets, scored = pad_targets(continuations, num_rows)
    return {'tokens': tokens, 'valid': valid, 'targets': targets, 'scored': scored}


def _batches(members: Sequence[int], owned, sizes: _Sizes) -> Iterator[tuple[list, list]]:
  """(contexts, [(position of the context, request)]) of batches of at most those sizes."""
  chosen, rows = [], []
  for i in members:
    for start in range(0, len(owned[i]), sizes.rows):
      part = owned[i][start:start + sizes.rows]
      if len(chosen) == sizes.contexts or len(rows) + len(part) > sizes.rows:
        yield chosen, rows
        chosen, rows = [], []
      rows += [(len(chosen), r) for r in part]
      chosen.append(i)
  if chosen:
    yield chosen, rows


def _read(network: Network, params, tokens_CP, valid_CP, *, length: int):
  """A cache of `length` tokens a row that holds prefixes, padded on the left."""
  model = network.bind(params)
  cache = model.start({'decoder_input_tokens': tokens_CP}, length)
  return prefill(model, tokens_CP, valid_CP, cache)[1]


def _score(network: Network, start_id: int, params, batch, cache, *, length: int):
  """(log-likelihood of each token, whether it is the likeliest), [N, L], of continuations.

  `row_of` [N] is the context of each, `scored` [N, L] is False on padding; `cache` holds what comes
  before the contexts, or is None.
  """
  model, tokens_CP = network.bind(params), batch['tokens']
  targets_NL, scored_NL, row_of_N = batch['targets'], batch['scored'], batch['row_of']
  if network.config.family == 'encoder_decoder':
    cache = model.start({'encoder_input_tokens': tokens_CP,
                         'encoder_segment_ids': batch['valid'].astype(jnp.int32)},
                        targets_NL.shape[1])
    start_C1 = jnp.full((len(tokens_CP), 1), start_id)
    logits_C1V, cache = model.decode(start_C1, cache, jnp.ones_like(start_C1, bool),
                                     prompt=True)
    logits_CV = logits_C1V[:, 0]
  elif cache is None:
    cache = model.start({'decoder_input_tokens': tokens_CP}, length)
    logits_CV, cache = prefill(model, tokens_CP, batch['valid'], cache)
  else:
    cache = take_rows(cache, jnp.arange(len(tokens_CP)) % len(cache['held']))
    logits_C1V, cache = model.decode(tokens_CP, cache, batch['valid'])
    logits_CV = logits_C1V[:, 0]
  logits_NLV = logits_CV[row_of_N][:, None]
  L = targets_NL.shape[1]
  if L > 1:
    more_NLV, _ = model.decode(targets_NL[:, :-1], take_rows(cache, row_of_N), scored_NL[:, 1:],
                               last=L - 1)
    logits_NLV = jnp.concatenate([logits_NLV, more_NLV], axis=1)
  return of_targets(logits_NLV, targets_NL)


def right_pad(texts: Sequence[np.ndarray], limit: int) -> tuple[np.ndarray, np.ndarray]:
  """(ids [batch, length] int32, valid [batch, length] bool), padded on the right.

  The length is of few, and at most `limit`, which no text is longer than.
  """
  length = min(padded_length(max(map(len, texts)), 32), limit)
  tokens, valid = np.zeros((len(texts), length), np.int32), np.zeros((len(texts), length), bool)
  for row, text in enumerate(texts):
    tokens[row, :len(text)], valid[row, :len(text)] = text, True
  return tokens, valid


def in_order(found: Found, count: int, show: Callable[[int], None] = lambda done: None
             ) -> list[Scored]:
  """The scores of all requests in their order; `show` is told how many are done."""
  scores: list[Scored | None] = [None] * count
  for done, (i, scored) in enumerate(found, 1):
    scores[i] = scored
    show(done)
  return scores

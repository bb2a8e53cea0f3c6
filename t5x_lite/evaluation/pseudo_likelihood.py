"""Pseudo-log-likelihoods of continuations under an encoder: each token is masked in its turn.

Salazar et al. 2020, "Masked Language Model Scoring", equation 1: the sum over the tokens of a text
of log p(token | all others). Here over the tokens of the continuation alone.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.likelihood import Found, Request, Scored, right_pad
from t5x_lite.evaluation.scoring import make_score
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


class PseudoLikelihood:
  """Scores of continuations under an encoder-only model, as of `Likelihood`."""

  def __init__(self, network: Network, params: Any, partitioner: Partitioner, *,
               max_length: int, mask_id: int, after: Sequence[int] = (), batch_size: int = 32):
    """Does not compile.

    Args:
      network, params, partitioner: as of Likelihood.
      max_length: tokens that the encoder reads.
      mask_id: stands for the token that is guessed.
      after: ids that end what is read; contexts begin with those that begin it.
      batch_size: masked rows at a time.
    """
    self.params, self.partitioner = params, partitioner
    self.max_length, self.batch_size = max_length, batch_size
    self._mask, self._after = mask_id, [*after]
    self._score = make_score(network, partitioner)

  def __call__(self, requests: Sequence[Request]) -> Found:
    """Each request with its score; raises UserError for one too long."""
    rows = []   # (length, request, position in the continuation, position in the row)
    texts = []
    for r, (context, continuation) in enumerate(requests):
      room = self.max_length - len(continuation) - len(self._after)
      if room < 0:
        raise UserError(f'A continuation of {len(continuation)} tokens is longer than the encoder '
                        f'reads, {self.max_length}: raise --max_length')
      context = [*context][-room:] if room else []
      texts.append([*context, *continuation, *self._after])
      rows += [(len(texts[r]), r, n, len(context) + n) for n in range(len(continuation))]
    rows.sort(key=lambda row: (-row[0], *row[1:]))
    logprobs = [np.zeros(len(request.continuation), np.float32) for request in requests]
    best = [np.zeros(len(request.continuation), bool) for request in requests]
    left = [len(request.continuation) for request in requests]
    for start in range(0, len(rows), self.batch_size):
      chunk = rows[start:start + self.batch_size]
      sums = self._score_batch([texts[r] for _, r, _, _ in chunk], [p for *_, p in chunk])
      for (_, r, n, _), score, hit in zip(chunk, sums['score'], sums['correct']):
        logprobs[r][n], best[r][n] = score, hit > 0
        left[r] -= 1
        if not left[r]:
          yield r, Scored(logprobs[r], bool(best[r].all()))

  def _score_batch(self, texts: list[list[int]], positions: list[int]) -> dict[str, np.ndarray]:
    """Sums of `make_score` of texts with one token masked, which alone has a weight."""
    fill = self.batch_size - len(texts)
    tokens, valid = right_pad(texts + texts[-1:] * fill, self.max_length)
    chosen = np.arange(tokens.shape[1]) == np.asarray(positions + [-1] * fill)[:, None]
    batch = {'encoder_input_tokens': np.where(chosen, self._mask, tokens).astype(np.int32),
             'encoder_target_tokens': tokens, 'encoder_loss_weights': chosen.astype(np.int32),
             'encoder_segment_ids': valid.astype(np.int32)}
    return jax.device_get(self._score(self.params, self.partitioner.put_whole(batch), None))

"""A rollout: a policy writes, is scored and rated, and its rewards become advantages.

Shape letters: R rows (the completions of a prompt are rows, side by side), L length of a row,
F reward functions.
"""

from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from t5x_lite.core.console import note
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.data.source import row_lengths
from t5x_lite.inference.reference_policy import ReferencePolicy
from t5x_lite.inference.rollouts import draw
from t5x_lite.inference.rollouts.estimators import Scored
from t5x_lite.rewards.reward import Completion, rate
from t5x_lite.training.live_source import RunContext
from t5x_lite.training.state import TrainState, all_params

MISMATCH = 1.05   # mean exp|log p scored - log p sampled| above which an alarm is given (NeMo-RL)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """Completions to train on.

  Attributes:
    batch: of all of them; see objectives/policy.
    stats: what is logged.
    records: a dict of each, for people.
    state: of the estimator, after it.
  """
  batch: Batch
  stats: dict[str, float]
  records: list[dict[str, Any]]
  state: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Completed:
  """Completions of prompts and their rewards.

  Attributes:
    drawn, completions: as rows, and as rewards read them.
    rewards_RF: float32, by each function; `reward_weights` of these.
    faults: why a completion could not be rated, or None.
    seconds: {'seconds/PART': so many}.
  """
  drawn: draw.Drawn
  completions: list[Completion]
  rewards_RF: np.ndarray
  reward_weights: tuple[float, ...]
  faults: list[str | None]
  seconds: dict[str, float]


class Policy:
  """Draws rollouts by the parameters of states of a run.

  Attributes:
    estimator_state: of the estimator, before the next rollout.
  """

  def __init__(self, settings: Any, run: RunContext):
    """`settings` are Rollouts."""
    self._settings, self._run = settings, run
    self._prompts = settings.batch_size // settings.group_size   # that are asked at a time
    if self._prompts % run.partitioner.batch_parts:
      raise FieldError(settings, 'group_size', f'leaves {self._prompts} prompts a step, which the '
                       f'{run.partitioner.batch_parts} parts of the mesh do not divide: lower it, '
                       'or raise the batch size')
    self._generator = draw.make_writer(
        run.network, run.partitioner, settings.prompts, batch_size=self._prompts,
        temperature=settings.temperature, samples=settings.group_size, seed=run.seed)
    self._score = draw.make_score(run.network, run.partitioner, settings.temperature)
    self._raters = {_label(settings.rewards, i): reward.make(settings.prompts)
                    for i, reward in enumerate(settings.rewards)}
    self._length = row_lengths(settings.lengths, run.network.config)[1]
    self.estimator_state = settings.estimator.initial_state
    self._warned = self._faulty = False   # what is said once

  def rollout(self, number: int, asked: Sequence[dict[str, Any]], state: TrainState,
              reference: ReferencePolicy | None) -> Rollout:
    """The rollout of examples, each with `ids`, `inputs` and `targets`."""
    params = all_params(state)
    done = self.complete(number, asked, params)
    clock = _Clock(done.seconds)
    scored = self._scored(done, params, state, reference)
    clock.lap('scoring')
    found = self._settings.estimator(scored, self._settings.group_size, self.estimator_state)
    self.estimator_state = found.state
    batch = done.drawn.batch | found.features
    stats = self._stats(scored, done) | found.stats | clock.seconds
    return Rollout(batch, stats, self._records(number, done, scored, found.features), found.state)

  def complete(self, number: int, asked: Sequence[dict[str, Any]], params: Any) -> Completed:
    """The completions of examples, rated; `number` is that of the rollout."""
    settings, clock = self._settings, _Clock({})
    drawn = self._draw(number, asked, params)
    clock.lap('generating')
    completions = [
        Completion(_text(one['inputs']), drawn.texts[r], _text(one['targets']),
                   bool(drawn.ended[r]), one['ids'], drawn.ids[r])
        for r, one in enumerate(one for one in asked for _ in range(settings.group_size))]
    rewards_RF, faults = self._rate(completions)
    fault = next(filter(None, faults), None)
    if fault is not None and not self._faulty:
      self._faulty = True
      note(f'{len(faults) - faults.count(None)} of {len(faults)} completions could not be rated, '
           f'and have a reward of 0, such as by {fault}: rollout/faults counts them')
    clock.lap('rating')
    weights = tuple(settings.reward_weights or [1.0] * len(self._raters))
    if settings.truncation_penalty:   # a reward function more
      rewards_RF = np.concatenate([rewards_RF, ~drawn.ended[:, None]], 1, dtype=np.float32)
      weights = (*weights, -settings.truncation_penalty)
    return Completed(drawn, completions, rewards_RF, weights, faults, clock.seconds)

  def _draw(self, number: int, asked: Sequence[dict[str, Any]], params: Any) -> draw.Drawn:
    """Completions of all prompts; a step's number of them is asked at a time."""
    generator, parts = self._generator.with_params(params), []
    for start in range(0, len(asked), self._prompts):
      chosen = range(start, min(start + self._prompts, len(asked)))
      keys = draw.row_keys(self._run.seed, chosen, self._settings.group_size, number)
      parts.append(draw.draw(generator, [asked[i]['ids'] for i in chosen], keys, self._length))
    join = lambda arrays: np.concatenate(list(arrays))
    batch = {name: join(part.batch[name] for part in parts) for name in parts[0].batch}
    ids = generator.targets.vocab_size
    if ids < self._run.network.config.vocab_size:
      batch['vocabulary_size'] = np.full(len(batch['decoder_input_tokens']), ids, np.int32)
    return draw.Drawn(batch, join(part.sampled_logprobs_RL for part in parts),
                      sum((part.ids for part in parts), []),
                      sum((part.texts for part in parts), []), join(part.ended for part in parts))

  def _scored(self, done: Completed, params: Any, state: TrainState,
              reference: ReferencePolicy | None) -> Scored:
    """What the parameters, and those of the reference, say of the tokens, and the rewards."""
    drawn = done.drawn
    score = lambda params: draw.score_in_parts(
        self._score, self._run.partitioner, params, drawn.batch, self._settings.batch_size)
    weights_RL = drawn.batch['decoder_loss_weights'].astype(np.float32)
    logprobs_RL, values_RL = score(params)
    reference_RL = score(reference.params(state))[0] * weights_RL if reference else None
    if self._settings.mask_truncated:
      weights_RL = weights_RL * drawn.ended[:, None]
    return Scored(
        rewards_RF=done.rewards_RF, reward_weights=done.reward_weights, weights_RL=weights_RL,
        logprobs_RL=logprobs_RL * (drawn.batch['decoder_loss_weights'] > 0),
        reference_logprobs_RL=reference_RL,
        values_RL=None if values_RL is None else values_RL * weights_RL)

  def _rate(self, completions: Sequence[Completion]) -> tuple[np.ndarray, list[str | None]]:
    """(rewards [rows, functions], why a row has a fault); of several processes, one rates."""
    rewards_RF = np.zeros((len(completions), len(self._raters)), np.float32)
    faults: list[str | None] = [None] * len(completions)
    if jax.process_index() == 0:
      for f, (name, rater) in enumerate(self._raters.items()):
        for r, rating in enumerate(rate(rater, completions, name)):
          rewards_RF[r, f] = rating.reward
          faults[r] = faults[r] or rating.fault and f'{name}: {rating.fault}'
    if jax.process_count() > 1:
      rewards_RF = np.asarray(multihost_utils.broadcast_one_to_all(rewards_RF))
    return rewards_RF, faults

  def _stats(self, scored: Scored, done: Completed) -> dict[str, float]:
    drawn = done.drawn
    written_RL = drawn.batch['decoder_loss_weights'] > 0
    apart = np.abs(scored.logprobs_RL - drawn.sampled_logprobs_RL)[written_RL]
    mismatch = float(np.exp(apart.astype(np.float64)).mean())
    if not mismatch <= MISMATCH and not self._warned:
      self._warned = True
      note(f'the policy that is trained is not the one that is sampled: mean exp|difference of log '
           f'p| is {mismatch:.4g}, above {MISMATCH}')
    stats = {'reward': scored.rewards_R.mean(), 'reward_std': scored.rewards_R.std(),
             'completion_tokens': written_RL.sum(1).mean(), 'ended': drawn.ended.mean(),
             'faults': sum(fault is not None for fault in done.faults),
             'sampling_mismatch': mismatch, 'entropy': -scored.logprobs_RL[written_RL].mean()}
    if len(self._raters) > 1:
      stats |= {f'reward/{name}': done.rewards_RF[:, f].mean()
                for f, name in enumerate(self._raters)}
    if scored.reference_logprobs_RL is not None:
      log_ratio_RL = (scored.logprobs_RL - scored.reference_logprobs_RL).astype(np.float64)
      stats |= {'kl': log_ratio_RL[written_RL].mean(), 'kl_sequence': log_ratio_RL.sum(1).mean()}
    return {name: float(x) for name, x in stats.items()}

  def _records(self, number: int, done: Completed, scored: Scored, features: Batch
               ) -> list[dict[str, Any]]:
    """A record of each completion, as rollouts.jsonl has them."""
    records = []
    for r, one in enumerate(done.completions):
      written_L = scored.weights_RL[r] > 0
      record = {'rollout': number, 'prompt': one.prompt, 'completion': one.text,
                'reward': float(scored.rewards_R[r]), 'tokens': int(written_L.sum()),
                'ended': one.ended}
      if one.reference:
        record['reference'] = one.reference
      if len(self._raters) > 1:
        record['rewards'] = {name: float(done.rewards_RF[r, f])
                             for f, name in enumerate(self._raters)}
      if done.faults[r] is not None:
        record['fault'] = done.faults[r]
      if scored.reference_logprobs_RL is not None:
        record['kl'] = float((scored.logprobs_RL[r] - scored.reference_logprobs_RL[r]).sum())
      if written_L.any():
        record['advantage'] = float(features['advantages'][r][written_L].mean())
      records.append(record)
    return records


class _Clock:
  """Seconds of the parts of a rollout."""

  def __init__(self, seconds: dict[str, float]):
    """`seconds` of parts that are over."""
    self.seconds, self._last = dict(seconds), time.monotonic()

  def lap(self, name: str) -> None:
    now = time.monotonic()
    self.seconds[f'seconds/{name}'], self._last = now - self._last, now


def _label(rewards: Sequence[Any], i: int) -> str:
  """The name of a reward, numbered where another has it too."""
  same = [k for k, other in enumerate(rewards) if other.name == rewards[i].name]
  return rewards[i].name if len(same) == 1 else f'{rewards[i].name}_{same.index(i)}'


def _text(given: Any) -> str:
  """A text of an example; UserError for what is none."""
  if not isinstance(given, str):
    raise UserError(f'a prompt and its reference are texts, and the data has {given!r:.60}')
  return given

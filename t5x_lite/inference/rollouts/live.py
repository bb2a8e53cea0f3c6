"""The batches of a run on rollouts: when to draw, which rows a step reads, what is logged."""

from typing import Any

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.inference.reference_policy import ReferencePolicy
from t5x_lite.inference.rollouts.policy import Policy, Rollout
from t5x_lite.inference.rollouts.store import RolloutStore
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.live_source import RunContext
from t5x_lite.training.state import TrainState

_STAT, _STATE = 'stat/', 'state/'   # begin the names of what is no feature among saved tensors
_ORDER, _PROMPTS = 1, 2             # what a generator of numbers is for


class RolloutBatches:
  """Draws a rollout when the one before is used up; see LiveBatches.

  The parameters, the seed and the position decide all that is drawn: a run that resumes draws what
  the one that was stopped would have drawn.
  """

  def __init__(self, settings: Any, run: RunContext):
    """`settings` are Rollouts."""
    self._settings, self._run = settings, run
    self._steps = settings.minibatches * settings.epochs   # of a rollout
    self._position = run.start // settings.batch_size      # steps before the next
    self._prompts = _read_prompts(settings, run)
    self._policy = Policy(settings, run)
    self._reference = ReferencePolicy(run) if settings.reference else None
    self._store: RolloutStore | None = None
    self._number, self._rollout = -1, None
    self._stats: dict[int, dict[str, float]] = {}

  def __call__(self, state: TrainState) -> Batch:
    """See LiveBatches."""
    number, step = divmod(self._position, self._steps)
    if self._store is None:
      self._begin(state, number, step)
    if number != self._number:
      self._rollout = self._load(number) if step else self._draw(number, state)
      self._number = number
      self._stats = {n: x for n, x in self._stats.items() if n >= number - 1} | {
          number: self._rollout.stats}
    self._position += 1
    index, count = self._run.shard
    rows = self._rows(*divmod(step, self._settings.minibatches))[index::count]
    batch = {name: x[rows] for name, x in self._rollout.batch.items()}
    return batch | {'rollout': np.full(len(rows), number, np.int32)}

  def metrics(self, batch: Batch) -> dict[str, float]:
    """See LiveBatches: of the rollout that the batch is part of, as `rollout/NAME`."""
    return {f'rollout/{name}': x for name, x in self._stats[int(batch['rollout'][0])].items()}

  def _begin(self, state: TrainState, number: int, step: int) -> None:
    """Keeps the reference, and opens the files of the run."""
    if self._reference is not None:
      self._reference.begin(state, new=not self._run.start)
    self._store = RolloutStore(self._run.folder, number + bool(step),
                               writes=self._run.shard[0] == 0)
    if number and not step and self._settings.estimator.initial_state:   # saved with the last one
      self._policy.estimator_state = self._load(number - 1).state

  def _rows(self, epoch: int, minibatch: int) -> np.ndarray:
    """The rows of a step: whole groups, in an order that is drawn for each epoch."""
    group, size = self._settings.group_size, self._settings.batch_size
    groups = size * self._settings.minibatches // group
    order = np.random.default_rng(
        (self._run.seed, _ORDER, self._number, epoch)).permutation(groups)
    chosen = order[minibatch * (size // group):][:size // group]
    return (chosen[:, None] * group + np.arange(group)).reshape(-1)

  def _draw(self, number: int, state: TrainState) -> Rollout:
    settings = self._settings
    per_rollout = settings.batch_size * settings.minibatches // settings.group_size
    rollout = self._policy.rollout(number, self._ask(number * per_rollout, per_rollout), state,
                                   self._reference)
    saved = Checkpoints(self._run.folder.path).steps()
    oldest = (saved[0] if saved else 0) // self._steps - 1   # whose state the next may go on from
    self._store.save(number, rollout.batch | {
        _STAT + name: np.float64(x) for name, x in rollout.stats.items()} | {
            _STATE + name: np.float64(x) for name, x in rollout.state.items()},
                     rollout.records, keep_from=oldest)
    return rollout

  def _load(self, number: int) -> Rollout:
    arrays = self._store.load(number)
    part = lambda begin: {name.removeprefix(begin): float(x) for name, x in arrays.items()
                          if name.startswith(begin)}
    batch = {name: x for name, x in arrays.items() if not name.startswith((_STAT, _STATE))}
    want = self._settings.batch_size * self._settings.minibatches
    if len(batch['decoder_input_tokens']) != want:
      raise UserError(f'rollout {number} of {self._run.folder.path} has '
                      f'{len(batch["decoder_input_tokens"])} rows, and this run {want}: leave '
                      'minibatches and the batch size as they were')
    self._policy.estimator_state = part(_STATE)
    return Rollout(batch, part(_STAT), [], part(_STATE))

  def _ask(self, start: int, number: int) -> list[dict[str, Any]]:
    """The examples from a global index on: each pass over the prompts has an order of its own."""
    passes, places = np.divmod(start + np.arange(number), len(self._prompts))
    order = {passed: np.random.default_rng((self._run.seed, _PROMPTS, passed)).permutation(
        len(self._prompts)) for passed in range(passes[0], passes[-1] + 1)}
    return [self._prompts[order[passed][place]] for passed, place in zip(passes.tolist(), places)]


def _read_prompts(settings: Any, run: RunContext) -> list[dict[str, Any]]:
  """The prompts of the split; those that are cut are left out, and counted."""
  found = list(settings.prompts.examples(settings.split, None, run.seed))
  whole = [one for one in found if not one.get('tokens_cut', 0)]
  if len(whole) < len(found) and jax.process_index() == 0:
    run.say(f'{len(found) - len(whole)} of {len(found)} prompts of {settings.prompts.name} are '
            f'longer than {settings.lengths["inputs"]} tokens, and left out')
  if not whole:
    raise UserError(f'{settings.prompts.name}, split {settings.split!r}, has no prompt'
                    + ' that fits: raise inputs_length' * bool(found))
  return whole

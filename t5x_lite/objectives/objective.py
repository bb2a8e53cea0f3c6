"""The protocol of an objective: a function of a model and a batch that returns weighted sums.

Sums, not means: a step adds the sums of all microbatches and divides once, by the weight of the
global batch, so that packing, accumulation and the mesh do not change a loss.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, num_tokens
from t5x_lite.models import Model

_LOSS_WEIGHTS = ('encoder_loss_weights', 'decoder_loss_weights')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossSums:
  """Sums over a batch; scalars, float32.

  Attributes:
    total: what is minimised.
    weight: what `total` is divided by, once, over the global batch: the loss weight of the batch,
      or 0 of an objective that is added to others.
    metrics: name -> (sum, weight), logged as sum / weight.
  """

  total: jax.Array
  weight: jax.Array
  metrics: dict[str, tuple[jax.Array, jax.Array]]


@runtime_checkable
class Objective(Protocol):
  """Part of what a step minimises. A frozen dataclass with this method may be named in gin."""

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums | None:
    """The sums over a batch, or None if the objective does not apply to the model.

    Args:
      model: whose `outputs(batch, key)` are computed once for all objectives of a step.
      batch: features of the model's family.
      key: draws dropout; None for none.
      normalizers: of `normalizers`, of the global batch.
    """


def normalizers(batch: Batch) -> dict[str, jax.Array]:
  """Loss weight of a batch for each of its `token`s, and for each `row` of examples; for each
  `sequence`, a row with any loss weight, and each `group` of responses that has one; for each
  `pair` of responses of which one is better, each token of the `chosen`, which are first, and each
  of `pretraining`.

  A loss that is a mean over tokens or rows is multiplied by these, so that dividing everything by
  the weight of the batch, as a step does, gives that mean.
  """
  weighted = [(x != 0).any(-1) for name, x in batch.items() if name in _LOSS_WEIGHTS]
  weight = sum(x.astype(jnp.float32).sum() for name, x in batch.items() if name in _LOSS_WEIGHTS)
  counts = {'token': num_tokens(batch), 'row': rows_with_examples(batch).sum(),
            'sequence': sum(x.sum() for x in weighted),
            'group': sum((x if x.ndim == 1 else x.any(1)).sum() for x in weighted)}
  if 'response_scores' in batch:
    there_BKL = batch['decoder_loss_weights'] != 0
    scores_BK = jnp.where(there_BKL.any(-1), batch['response_scores'], jnp.nan)
    counts['pair'] = (scores_BK[:, :, None] > scores_BK[:, None, :]).sum()
    counts['chosen'] = there_BKL[:, 0].sum()
  if 'pretraining_decoder_loss_weights' in batch:
    counts['pretraining'] = batch['pretraining_decoder_loss_weights'].astype(jnp.float32).sum()
  return {name: weight / jnp.maximum(count, 1) for name, count in counts.items()}


def rows_with_examples(batch: Batch) -> jax.Array:
  """1 for each row that holds an example, 0 for one of padding alone, [batch] float32, or [batch,
  responses] of groups."""
  side = 'decoder' if 'decoder_input_tokens' in batch else 'encoder'
  segments_BL = batch.get(f'{side}_segment_ids')
  if segments_BL is None:
    return jnp.ones(batch[f'{side}_input_tokens'].shape[:-1])
  return (segments_BL > 0).any(-1).astype(jnp.float32)


def rows_of_groups(batch: Batch) -> Batch:
  """A batch of groups as one of rows [batch * responses, length], the responses of a prompt, or
  the two texts of a pair, one after the other; any other batch as it is."""
  if 'encoder_input_tokens' in batch and batch['encoder_input_tokens'].ndim == 3:
    return {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items() if x.ndim == 3}
  tokens = batch.get('decoder_input_tokens')
  if tokens is None or tokens.ndim == 2:
    return batch
  responses = tokens.shape[1]
  flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()
          if name.startswith('decoder_')}
  return flat | {name: jnp.repeat(x, responses, axis=0) for name, x in batch.items()
                 if name.startswith('encoder_')}


class SharedForward:
  """A model whose outputs on a batch are computed once, for all objectives of a step.

  Those of a batch of groups are of its rows; see rows_of_groups.
  """

  def __init__(self, model: Model):
    self._model, self._seen = model, []

  def __getattr__(self, name: str):
    return getattr(self._model, name)

  def outputs(self, batch: Batch, key: jax.Array | None = None):
    for seen_batch, seen_key, outputs in self._seen:
      if seen_batch is batch and seen_key is key:
        return outputs
    self._seen.append((batch, key, self._model.outputs(rows_of_groups(batch), key)))
    return self._seen[-1][-1]


def add_objectives(objectives: Sequence[Objective]) -> Callable[..., LossSums]:
  """One objective, the sum of several, with the metrics of all. UserError if none applies."""

  def loss_fn(model, batch, key, normalizers):
    shared = SharedForward(model)
    parts = [part for objective in objectives
             if (part := objective(shared, batch, key, normalizers)) is not None]
    if not parts:
      names = ', '.join(type(objective).__name__ for objective in objectives)
      cure = ('@classification.Classification()' if model.config.classifies_texts else
              '@dual_encoder.DualEncoder()' if model.config.head == 'pooler' else
              '@language_model.CrossEntropy()')
      raise UserError(f'Experiment.objectives: none of {names} applies to this model and its '
                      f'data: add one that does, such as {cure}')
    total, weight, metrics = parts[0].total, parts[0].weight, dict(parts[0].metrics)
    for part in parts[1:]:
      total, metrics = total + part.total, metrics | part.metrics
      weight = jnp.maximum(weight, part.weight)   # the same of all that have one
    return LossSums(total, weight, metrics)

  return loss_fn

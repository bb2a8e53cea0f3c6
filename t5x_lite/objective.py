"""What a step minimises: the loss of a model's outputs on a batch, as sums over its tokens."""

import jax
import jax.numpy as jnp

from t5x_lite import losses, models
from t5x_lite.models import ModelConfig

Batch = dict[str, jax.Array]

# Tokens whose logits a device holds at once. On a CPU few are fast, as they stay in its cache; on
# accelerators each chunk costs a sum of the output layer's gradient over the devices.
LOSS_TOKENS = {'cpu': 512, 'gpu': 8192, 'tpu': 8192}


def shares(config: ModelConfig, batch: Batch) -> dict[str, jax.Array]:
  """How much loss weight the global batch has for each token a router sees, and for each row.

  Losses that are means over tokens or rows are multiplied by these, so that dividing everything by
  the batch's weight, as a step does, leaves them means.
  """
  side = models.FAMILIES[config.family].target
  weight = batch[f'{side}_loss_weights'].astype(jnp.float32).sum()
  tokens = 0.0
  for name in ('encoder', 'decoder'):
    if f'{name}_input_tokens' in batch:
      segments_BL = batch.get(f'{name}_segment_ids')
      tokens += (batch[f'{name}_input_tokens'].size if segments_BL is None
                 else (segments_BL > 0).sum())
  rows = _rows(batch, side)
  return {'token': weight / jnp.maximum(tokens, 1), 'row': weight / jnp.maximum(rows.sum(), 1)}


def _rows(batch: Batch, side: str) -> jax.Array:
  """1 for each row that holds an example, 0 for one of padding alone, [batch] float32."""
  segments_BL = batch.get(f'{side}_segment_ids')
  if segments_BL is None:
    return jnp.ones(batch[f'{side}_input_tokens'].shape[0])
  return (segments_BL > 0).any(1).astype(jnp.float32)


def batch_sums(model: models.Model, batch: Batch, key: jax.Array | None,
               share: dict[str, jax.Array], *, loss_tokens: int, **options) -> dict[str, jax.Array]:
  """The sums of losses.cross_entropy over a batch, with the other losses in `objective`.

  These are a router's losses, reported as `load_balance` and `router_z`, and BERT's next-sentence
  loss on `next_sentence_labels` [batch], reported as `next_sentence_loss` (all sums).

  Args:
    model: the network.
    batch: features of its family.
    key: draws dropout; None for none.
    share: of `shares`, of the global batch.
    loss_tokens: tokens whose logits are held at once.
    options: label_smoothing and z_loss of losses.cross_entropy.
  """
  config, side = model.config, model.target
  outputs = model.outputs(batch, key)
  targets, weights = batch[f'{side}_target_tokens'], batch[f'{side}_loss_weights']
  x = outputs.x_BLD
  if config.head in ('mlm', 'mlm_nsp'):
    x, targets, weights = losses.weighted_first(x, targets, weights)
  chunk = max(1, loss_tokens // x.shape[0])
  sums = losses.chunked_cross_entropy(
      outputs.head, x, targets, weights, chunk, tuple(options.items()))
  if outputs.router_losses is not None:
    router = (config.load_balance_loss * outputs.router_losses['load_balance'] +
              config.router_z_loss * outputs.router_losses['router_z'])
    sums = sums | outputs.router_losses
    sums['objective'] += share['token'] * router
  if outputs.next_sentence_logits_BC is not None:
    sentence = losses.cross_entropy(
        outputs.next_sentence_logits_BC[:, None].astype(jnp.float32),
        batch['next_sentence_labels'][:, None], _rows(batch, side)[:, None])
    sums = sums | {'next_sentence_loss': sentence['loss']}
    sums['objective'] += share['row'] * sentence['loss']
  return sums

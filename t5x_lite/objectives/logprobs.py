"""Log-probabilities of the target tokens of a batch, of which losses of sequences are made."""

import jax
import jax.numpy as jnp

from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.language_model import LOSS_TOKENS
from t5x_lite.objectives.objective import rows_of_groups

_NEVER = -1e7   # the logit of an id that is never drawn; finite, as in the kernels' masks


def token_logprobs(model: Model, batch: Batch, temperature: float = 1.0) -> jax.Array:
  """log p of `decoder_target_tokens` given all before them, float32, of the shape of these.

  Nothing is dropped out, so that the same parameters give the same numbers each time. The logits of
  a part of the positions are in memory at once, and the backward pass computes them anew.

  Args:
    model: a decoder-only model or an encoder-decoder, or the shared one of a step.
    batch: rows [batch, length] or groups [batch, responses, length]. Of rows with
      `vocabulary_size` [batch], ids from there on are not part of the distribution, as they are
      none of what is sampled from: the rest of the embedding table is padding.
    temperature: divides the logits, as in sampling.
  """
  targets = batch['decoder_target_tokens']
  outputs = model.outputs(batch)
  targets_BL = rows_of_groups(batch)['decoder_target_tokens']
  B, L = targets_BL.shape
  chunk = min(max(1, LOSS_TOKENS[model.shard.platform] * model.shard.batch_parts // B), L)
  number = -(-L // chunk)
  size = -(-L // number)
  sizes_B = batch.get('vocabulary_size')

  @jax.checkpoint
  def of_chunk(x_BTD, targets_BT):
    logits_BTV = outputs.head(x_BTD) / temperature
    if sizes_B is not None:
      id_11V = jnp.arange(logits_BTV.shape[-1])[None, None]
      logits_BTV = jnp.where(id_11V < sizes_B[:, None, None], logits_BTV, _NEVER)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return target_BT - jax.nn.logsumexp(logits_BTV, axis=-1)

  def in_chunks(x):
    padded = jnp.pad(x, ((0, 0), (0, number * size - L), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(padded.reshape(B, number, size, *x.shape[2:]), 1, 0)

  found_NBT = jax.lax.map(lambda part: of_chunk(*part),
                          (in_chunks(outputs.hidden), in_chunks(targets_BL)))
  return jnp.moveaxis(found_NBT, 0, 1).reshape(B, -1)[:, :L].reshape(targets.shape)

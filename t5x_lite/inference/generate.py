"""Generation: greedy or by temperature, with a key-value cache, in one compiled loop.

Shape letters: B batch, P prompt length, T new tokens, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.models import Model, Network
from t5x_lite.models.cache import Cache
from t5x_lite.parallel.partitioner import Partitioner

PREFILL_CHUNK = 512   # tokens of a prompt that are read at a time


def generate(model: Model, batch: dict[str, jax.Array], prompt_BP: jax.Array,
             valid_BP: jax.Array, key: jax.Array, *, max_tokens: int, temperature: float,
             eos_id: int | tuple[int, ...], pad_id: int, num_ids: int
             ) -> tuple[jax.Array, jax.Array]:
  """New tokens [batch, max_tokens] int32 after each prompt, and their log-likelihoods [batch].

  Args:
    model: a DecoderOnly or EncoderDecoder.
    batch: what `model.start` reads (the encoder's features, one example a row).
    prompt_BP: prompts, padded on the left to one length; at least the id that starts decoding.
    valid_BP: bool, False on the padding.
    key: draws the tokens: one for each row [batch], so that what a row draws does not depend on the
      others, or one of which each row folds its index; not used when greedy.
    max_tokens: a row ends at this length or with `eos_id`, which is kept; `pad_id` fills the rest.
    temperature: tokens are drawn from softmax(logits / temperature); 0 takes the largest logit,
      the lowest id among ties.
    eos_id, pad_id: ids of the vocabulary; there may be several eos_id.
    num_ids: size of the vocabulary; rows of the embedding table beyond it are never drawn.

  The log-likelihood is the model's own, at temperature 1, summed over a row's new tokens.
  """
  B, P = prompt_BP.shape
  key_B = jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(B)) if key.ndim == 0 else key
  logits_BV, cache = prefill(model, prompt_BP, valid_BP, model.start(batch, P + max_tokens))

  def unfinished(carry):
    i, done_B = carry[0], carry[-1]
    return (i < max_tokens) & ~done_B.all()

  def step(carry):
    i, logits_BV, cache, tokens_BT, score_B, done_B = carry
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < num_ids, logits_BV, -jnp.inf)
    if temperature:
      draw = lambda key, logits_V: jax.random.categorical(jax.random.fold_in(key, i), logits_V)
      token_B = jax.vmap(draw)(key_B, logits_BV / temperature)
    else:
      token_B = _argmax(logits_BV)
    log_p_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], -1)[:, 0]
    score_B = score_B + jnp.where(done_B, 0.0, log_p_B)
    token_B = jnp.where(done_B, pad_id, token_B).astype(jnp.int32)
    tokens_BT = jax.lax.dynamic_update_slice_in_dim(tokens_BT, token_B[:, None], i, axis=1)
    done_B = done_B | jnp.isin(token_B, jnp.asarray(eos_id))
    logits_B1V, cache = model.decode(token_B[:, None], cache, jnp.ones((B, 1), bool))
    return i + 1, logits_B1V[:, 0], cache, tokens_BT, score_B, done_B

  start = (0, logits_BV, cache, jnp.full((B, max_tokens), pad_id, jnp.int32), jnp.zeros(B),
           jnp.zeros(B, bool))
  *_, tokens_BT, score_B, _ = jax.lax.while_loop(unfinished, step, start)
  return tokens_BT, score_B


def prefill(model: Model, prompt_BP: jax.Array, valid_BP: jax.Array, cache: Cache,
            chunk: int = PREFILL_CHUNK) -> tuple[jax.Array, Cache]:
  """Logits [batch, vocab] after prompts, which an empty cache then holds.

  Prompts of more than `chunk` tokens are read so many at a time, which bounds the memory of
  activations; but for a prefix language model, whose tokens see those after them.
  """
  B, P = prompt_BP.shape
  if P <= chunk or model.config.prefix_lm:
    logits_B1V, cache = model.decode(prompt_BP, cache, valid_BP, prompt=True)
    return logits_B1V[:, 0], cache
  number = -(-P // chunk)
  chunks = lambda x_BP: jnp.moveaxis(jnp.pad(
      x_BP, ((0, 0), (number * chunk - P, 0))).reshape(B, number, chunk), 1, 0)
  tokens_CBP, valid_CBP = chunks(prompt_BP), chunks(valid_BP)
  logits_B1V, cache = model.decode(tokens_CBP[0], cache, valid_CBP[0], prompt=True)

  def read(carry, tokens_valid):
    tokens_BP, valid_BP = tokens_valid
    return model.decode(tokens_BP, carry[1], valid_BP), None

  (logits_B1V, cache), _ = jax.lax.scan(read, (logits_B1V, cache), (tokens_CBP[1:], valid_CBP[1:]))
  return logits_B1V[:, 0], cache


def _argmax(x_BV: jax.Array) -> jax.Array:
  """The lowest index of the largest value. XLA's argmax, of pairs, is ten times slower on a CPU."""
  index = jnp.where(x_BV == x_BV.max(-1, keepdims=True), jnp.arange(x_BV.shape[-1]), x_BV.shape[-1])
  return index.min(-1)


def make_generate(network: Network, partitioner: Partitioner, **options) -> Callable:
  """`generate` jitted for a model: (params, batch, prompt, valid, key) -> (tokens, scores)."""

  def run(params, batch, prompt_BP, valid_BP, key):
    return generate(network.bind(params), batch, prompt_BP, valid_BP, key, **options)

  return jax.jit(run, out_shardings=partitioner.replicated)


def left_pad(prompts: list[np.ndarray], pad_id: int, multiple: int = 32
             ) -> tuple[np.ndarray, np.ndarray]:
  """(prompts [batch, length] int32, valid [batch, length] bool), padded on the left.

  The length is a multiple of `multiple`, so that few lengths are compiled.
  """
  length = -(-max(len(p) for p in prompts) // multiple) * multiple
  tokens = np.full((len(prompts), length), pad_id, np.int32)
  valid = np.zeros((len(prompts), length), bool)
  for row, prompt in enumerate(prompts):
    if len(prompt):
      tokens[row, -len(prompt):], valid[row, -len(prompt):] = prompt, True
  return tokens, valid

"""Autoencoders of texts: GRUs read and write words through a Gaussian latent (Bowman et al. 2016).

Shape letters: N texts, T words of the longest with its END, Z latent, V words known, H hidden.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, Fraction
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.variational.gaussian import FittedGaussian, GaussianConfig, fit_gaussian

END, UNKNOWN = 0, 1   # END begins a text too, and fills the rest of its row


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextVaeConfig(GaussianConfig):
  """A decoder that predicts each word from those before it and the latent.

  Such a decoder can do without the latent, which then collapses: annealing, free bits and word
  dropout are against it.
  """
  latent: Count = 8
  hidden: Count = 64
  width: Count = 32                        # of the embeddings of words
  word_dropout: Fraction = 0.0             # share of words before that the decoder does not see
  vocabulary: Count = 1000                 # most frequent words that are known
  batch_size: Count = 32


@dataclasses.dataclass(frozen=True)
class FittedTextVae:
  """A model of texts; `fitted` is of rows of ids, as `rows` makes them.

  Attributes:
    vocabulary: the known words, by id.
  """
  vocabulary: tuple[str, ...]
  length: int
  network: nnx.GraphDef
  fitted: FittedGaussian

  def rows(self, texts: Sequence[str]) -> np.ndarray:
    """Ids of words [texts, length + 1], END after the last; what is longer is cut off."""
    ids = {word: n for n, word in enumerate(self.vocabulary)}
    found = np.full((len(texts), self.length + 1), END, np.int32)
    for row, text in zip(found, texts):
      words = text.lower().split()[:self.length]
      row[:len(words)] = [ids.get(word, UNKNOWN) for word in words]
    return found

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """The posterior means, float32 [texts, latent]."""
    return self.fitted.embed(self.rows(texts))

  def summary(self, texts: Sequence[str], samples: int = 20) -> dict[str, float]:
    """`elbo` and `iwae` in nats a token, END included, and whether the latent is used."""
    rows = self.rows(texts)
    tokens = float(_mask(rows).sum())
    return {'elbo': float(self.fitted.bound(rows).sum() / tokens),
            'iwae': float(self.fitted.bound(rows, samples).sum() / tokens),
            **self.fitted.summary(rows)}

  def write(self, z_NZ: np.ndarray) -> list[str]:
    """The likeliest words, one by one, from latents."""
    model = nnx.merge(self.network, self.fitted.params)
    rows = np.asarray(model.write(jnp.asarray(z_NZ), self.length))
    return [' '.join(self.vocabulary[n] for n in row[:_mask(row).sum()] if n != END)
            for row in rows]


class TextVae(nnx.Module):
  """The networks of an encoder and a decoder."""

  def __init__(self, config: TextVaeConfig, words: int, rngs: nnx.Rngs):
    self.word_dropout = config.word_dropout
    self.embed = nnx.Embed(words, config.width, rngs=rngs)
    self.reader = nnx.GRUCell(config.width, config.hidden, rngs=rngs)
    self.posterior = nnx.Linear(config.hidden, 2 * config.latent, rngs=rngs)
    self.first = nnx.Linear(config.latent, config.hidden, rngs=rngs)
    self.writer = nnx.GRUCell(config.width + config.latent, config.hidden, rngs=rngs)
    self.words = nnx.Linear(config.hidden, words, rngs=rngs)

  def encode(self, ids_NT: jax.Array) -> tuple[jax.Array, jax.Array]:
    def read(h_NH, inputs):
      x_NW, mask_N = inputs
      return jnp.where(mask_N[:, None], self.reader(h_NH, x_NW)[0], h_NH), None

    first = jnp.zeros((len(ids_NT), self.reader.hidden_features))
    h_NH, _ = jax.lax.scan(read, first, (self.embed(ids_NT.T), _mask(ids_NT).T))
    mean_NZ, log_variance_NZ = jnp.split(self.posterior(h_NH), 2, axis=-1)
    return mean_NZ, log_variance_NZ

  def log_likelihood(self, ids_NT: jax.Array, z_NZ: jax.Array, key: jax.Array | None) -> jax.Array:
    """log p(words, END | z); with a key some words before are not seen."""
    before_NT = jnp.pad(ids_NT[:, :-1], ((0, 0), (1, 0)), constant_values=END)
    if key is not None:
      dropped_NT = jax.random.bernoulli(key, self.word_dropout, before_NT.shape)
      before_NT = jnp.where(dropped_NT, UNKNOWN, before_NT)
    step = lambda h_NH, ids_N: self._next(h_NH, ids_N, z_NZ)
    _, logits_TNV = jax.lax.scan(step, jnp.tanh(self.first(z_NZ)), before_NT.T)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits_TNV), ids_NT.T[:, :, None], -1)[..., 0]
    return (log_p * _mask(ids_NT).T).sum(0)

  def write(self, z_NZ: jax.Array, length: int) -> jax.Array:
    """The likeliest ids [N, length], each after those before it."""
    def step(carry, _):
      h_NH, logits_NV = self._next(*carry, z_NZ)
      ids_N = logits_NV.argmax(-1)
      return (h_NH, ids_N), ids_N

    first = jnp.tanh(self.first(z_NZ)), jnp.full(len(z_NZ), END)
    return jax.lax.scan(step, first, None, length)[1].T

  def _next(self, h_NH: jax.Array, ids_N: jax.Array, z_NZ: jax.Array
            ) -> tuple[jax.Array, jax.Array]:
    """(hidden state, logits of the next word) after these words."""
    h_NH, _ = self.writer(h_NH, jnp.concatenate([self.embed(ids_N), z_NZ], -1))
    return h_NH, self.words(h_NH)


def fit_text_vae(texts: Sequence[str], config: TextVaeConfig) -> FittedTextVae:
  """Fits texts of words with spaces between."""
  counts = Counter(word for text in texts for word in text.lower().split())
  if not counts:
    raise UserError(f'{len(texts)} texts have no word: give some')
  known = ('END', 'UNKNOWN', *(word for word, _ in counts.most_common(config.vocabulary)))
  length = max(len(text.split()) for text in texts)
  network, params = nnx.split(TextVae(config, len(known), nnx.Rngs(config.seed)))
  encode = lambda params, rows: nnx.merge(network, params).encode(rows)
  log_likelihood = lambda params, rows, z, key: nnx.merge(network, params).log_likelihood(
      rows, z, key)
  model = FittedTextVae(known, length, network, None)
  return dataclasses.replace(model, fitted=fit_gaussian(
      encode, log_likelihood, nnx.to_pure_dict(params), model.rows(texts), config))


def _mask(ids):   # [..., T]: the words, and the END after them
  ended = ids == END
  return ended.cumsum(-1) - ended == 0

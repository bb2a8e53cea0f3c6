"""Completions of prompts as rows to train on, and their log-probabilities under parameters.

Shape letters: R rows (the completions of a prompt are rows, side by side), L length of a row.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data.features import Batch, decoder_rows
from t5x_lite.data.source import Source
from t5x_lite.inference.generator import Generator
from t5x_lite.inference.sampling import Sampling
from t5x_lite.models import Network
from t5x_lite.models.unstack import unstacking
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import SharedForward
from t5x_lite.parallel.partitioner import Partitioner


class Drawn(NamedTuple):
  """Completions of prompts.

  Attributes:
    batch: features of the model's family, one completion a row; decoder_loss_weights are 1 on its
      tokens, the end among them.
    sampled_logprobs_RL: float32, as they were drawn; 0 where there is no loss weight.
    ids, texts: of the completions, ids with the end.
    ended: whether each came to an end.
  """
  batch: Batch
  sampled_logprobs_RL: np.ndarray
  ids: list[list[int]]
  texts: list[str]
  ended: np.ndarray


def make_writer(network: Network, partitioner: Partitioner, data: Source, *, batch_size: int,
                temperature: float, samples: int = 1, seed: int = 0) -> Generator:
  """A Generator, without parameters yet, of completions that nothing filters; they end as the
  answers of the data's conversations do, if it has such."""
  chat = data.chat()
  return Generator(unstacking(network, partitioner), None, partitioner, data,
                   batch_size=batch_size, samples=samples,
                   decoding=Sampling(temperature=temperature), seed=seed,
                   end_ids=chat.end_ids if chat else ())


def draw(generator: Generator, inputs: Sequence[Sequence[int]], keys: jax.Array, length: int
         ) -> Drawn:
  """Completions of rows of input ids; see Generator.sample.

  What is written ends with its first end id, which is part of it, or has its full length.

  Args:
    generator: whose decoding is drawn at a temperature and not filtered.
    inputs: ids of each prompt.
    keys: [prompts, samples].
    length: tokens of a decoder's row.
  """
  generated = generator.sample(inputs, keys)
  is_end = np.isin(generated.tokens, generator.end_ids)
  sizes_R = np.where(is_end.any(1), is_end.argmax(1) + 1, is_end.shape[1])
  ids = [row[:size] for row, size in zip(generated.tokens, sizes_R)]
  prompts, samples = generator.begin(inputs)[0], keys.shape[1]
  batch = decoder_rows([prompt for prompt in prompts for _ in range(samples)], ids, length)
  sampled_RL = np.zeros((len(ids), length), np.float32)
  sampled_RL[batch['decoder_loss_weights'] > 0] = np.concatenate(
      [row[:size] for row, size in zip(generated.sampled_logprobs, sizes_R)])
  if generator.config.family == 'encoder_decoder':
    encoder = generator.encoder_batch([np.asarray(ids, np.int32) for ids in inputs])
    batch |= {name: np.repeat(x, samples, axis=0) for name, x in encoder.items()}
  records = [generator.output(row, 0.0) for row in generated.tokens.tolist()]
  return Drawn(batch, sampled_RL, [row.tolist() for row in ids],
               [record['output'] for record in records],
               np.asarray([record['ended'] for record in records]))


def make_score(network: Network, partitioner: Partitioner, temperature: float) -> Callable:
  """Jitted (params, batch) -> (log-probabilities, values) of the targets of rows [rows, length].

  Values are None without a head of values. The log-probabilities are those of the objectives.
  """

  @functools.partial(jax.jit, out_shardings=partitioner.replicated)
  def score(params, batch):
    model = SharedForward(network.bind(params))
    return token_logprobs(model, batch, temperature), model.outputs(batch).values_BL

  return score


def score_in_parts(score: Callable, partitioner: Partitioner, params: Any, batch: Batch, rows: int
                   ) -> tuple[np.ndarray, np.ndarray | None]:
  """`score` of a batch, so many rows at a time; NumPy arrays."""
  total = len(batch['decoder_input_tokens'])
  found = [jax.device_get(score(params, partitioner.put_whole(
      {name: x[start:start + rows] for name, x in batch.items()})))
           for start in range(0, total, rows)]
  logprobs, values = zip(*found)
  return np.concatenate(logprobs), None if values[0] is None else np.concatenate(values)


def row_keys(seed: int, numbers: Sequence[int], samples: int, rollout: int) -> jax.Array:
  """A key for each sample of prompts [prompts, samples], which follow from the seed, the rollout's
  number and each prompt's place in it."""
  base = jax.random.fold_in(jax.random.key(seed), rollout)
  folds = jnp.asarray([(number, sample) for number in numbers for sample in range(samples)])
  keys = jax.vmap(lambda fold: jax.random.fold_in(jax.random.fold_in(base, fold[0]), fold[1]))(
      folds)
  return keys.reshape(len(numbers), samples)

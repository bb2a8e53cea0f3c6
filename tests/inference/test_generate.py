"""Decoding with a key-value cache against full forward passes; sampling against softmax."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from t5x_lite import models
from t5x_lite.inference.generate import left_pad, make_generate, make_greedy
from t5x_lite.inference.sampling import Sampling, row_keys, sampling_rows
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

LENGTHS = (5, 1, 3)          # of the prompts
P, T = 5, 6
NUM_IDS, EOS, PAD, NEVER = 60, 1, 0, 62   # ids 60 to 63 of the table are beyond the vocabulary
KINDS = ['rope', 'learned', 'relative', 'prefix_lm', 'encoder_decoder unrolled']
ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


@pytest.fixture(scope='module')
def config_of(configs):
  relative = dataclasses.replace(configs['decoder'], position_embedding='relative',
                                 relative_buckets=8, relative_max_distance=16)
  return {'rope': configs['decoder'], 'learned': configs['gpt'], 'relative': relative,
          'prefix_lm': configs['prefix_lm'], 'encoder_decoder': configs['encoder_decoder'],
          'encoder_decoder unrolled': dataclasses.replace(
              configs['encoder_decoder'], scan_layers=False)}


def prompts(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(2, NUM_IDS, n) for n in LENGTHS]


def encoder_features(config):
  """Rows of 7, 2 and 5 encoder tokens, padded; nothing for a decoder-only model but its rows."""
  if config.family == 'decoder_only':
    return {'decoder_input_tokens': np.zeros((len(LENGTHS), 1), np.int32)}
  rng, lengths = np.random.default_rng(1), np.array([7, 2, 5])
  valid = np.arange(7) < lengths[:, None]
  return {'encoder_input_tokens': np.where(valid, rng.integers(2, NUM_IDS, (3, 7)), 0),
          'encoder_segment_ids': valid.astype(np.int32),
          'encoder_positions': np.where(valid, np.arange(7), 0)}


def full_logits(config, params, rows, forward):
  """Logits of every position of unequally long rows by one full forward pass, padded right."""
  length = P + T
  tokens = np.zeros((len(rows), length), np.int32)
  for r, row in enumerate(rows):
    tokens[r, :len(row)] = row
  segments = np.arange(length) < np.array([len(r) for r in rows])[:, None]
  batch = encoder_features(config) | {
      'decoder_input_tokens': tokens, 'decoder_segment_ids': segments.astype(np.int32),
      'decoder_positions': np.broadcast_to(np.arange(length), tokens.shape)}
  if config.prefix_lm:
    batch['decoder_causal_attention'] = (
        np.arange(length) < np.array(LENGTHS)[:, None]).astype(np.int32)
  return np.asarray(forward(config)(params, batch))


@functools.cache
def cached(config):
  """Jitted (prompt, step): reading the prompt into a new cache, and one token more."""
  network = models.build_network(config)

  def read(params, batch, tokens, valid):
    model = network.bind(params)
    return model.decode(tokens, model.start(batch, P + T), valid, prompt=True)

  def more(params, tokens, cache):
    model = network.bind(params)
    return model.decode(tokens, cache, jnp.ones(tokens.shape, bool))

  return jax.jit(read), jax.jit(more)


@pytest.mark.parametrize('kind', KINDS)
def test_cached_logits_are_those_of_a_full_forward_pass_at_every_position(
    kind, config_of, random_params, forward):
  config = config_of[kind]
  params, rows = random_params(config), prompts()
  forced = np.random.default_rng(2).integers(2, NUM_IDS, (len(rows), T))
  want = full_logits(config, params, [[*r, *f] for r, f in zip(rows, forced)], forward)
  tokens, valid = left_pad(rows, PAD, multiple=1)
  read, more = cached(config)
  logits, cache = read(params, encoder_features(config), tokens, valid)
  for t in range(T):
    for r, n in enumerate(LENGTHS):
      np.testing.assert_allclose(logits[r, 0], want[r, n - 1 + t], atol=2e-5,
                                 err_msg=f'row {r}, token {t}')
    logits, cache = more(params, forced[:, t:t + 1], cache)


@functools.cache
def generator(config, **options):
  defaults = dict(max_tokens=T, eos_id=NEVER, pad_id=PAD, num_ids=NUM_IDS)
  return make_greedy(models.build_network(config, ONE), ONE, **defaults | options)


def generate(config, params, rows=None, **options):
  tokens, valid = left_pad(rows or prompts(), PAD, multiple=1)
  got = jax.device_get(generator(config, **options)(
      params, encoder_features(config), tokens, valid))
  return got.tokens, got.logprobs.sum(1)


def brute_force(config, params, forward):
  """(greedy tokens, log-probability of each), one full forward pass a token."""
  rows, scores = [list(p) for p in prompts()], []
  for _ in range(T):
    logits = full_logits(config, params, rows, forward)
    last = np.stack([logits[r, len(row) - 1, :NUM_IDS] for r, row in enumerate(rows)])
    best = last.argmax(-1)
    log_p = scipy.special.log_softmax(last.astype(np.float64), -1)
    scores.append(log_p[np.arange(len(rows)), best])
    for row, token in zip(rows, best):
      row.append(token)
  return np.array([row[n:] for row, n in zip(rows, LENGTHS)]), np.array(scores).T


@pytest.mark.parametrize('kind', ['rope', 'prefix_lm', 'encoder_decoder'])
def test_greedy_tokens_and_scores_are_those_of_full_forward_passes(
    kind, config_of, random_params, forward):
  config = config_of[kind]
  params = random_params(config)
  tokens, scores = generate(config, params)
  want, want_scores = brute_force(config, params, forward)
  np.testing.assert_array_equal(tokens, want)
  np.testing.assert_allclose(scores, want_scores.sum(1), rtol=1e-5)


def test_eos_ends_a_row_which_keeps_it_and_is_padded_after(config_of, random_params, forward):
  config = config_of['rope']
  params = random_params(config)
  free, log_p = brute_force(config, params, forward)
  eos = int(free[0, 2])
  tokens, scores = generate(config, params, eos_id=eos)
  ended = 0
  for row, got, score, p in zip(free, tokens, scores, log_p):
    end = list(row).index(eos) + 1 if eos in row else T
    ended += end < T
    assert list(got) == [*row[:end], *[PAD] * (T - end)]
    assert score == pytest.approx(p[:end].sum(), rel=1e-5)
  assert 0 < ended


@pytest.fixture(scope='module')
def many(config_of, random_params, forward):
  """(tokens drawn at temperature 1.5 after one prompt, their scores, the logits)."""
  config, count = config_of['rope'], 8192
  params, row = random_params(config), prompts()[0]
  logits = full_logits(config, params, [row] * 3, forward)[0, P - 1]
  tokens, valid = np.tile(row, (count, 1)), np.ones((count, P), bool)
  run = make_generate(models.build_network(config, ONE), ONE, max_tokens=1, pad_id=PAD, num_ids=20)
  rows = sampling_rows([Sampling(temperature=1.5)] * count, num_ids=20, end_ids=(NEVER,),
                       max_tokens=1)

  def draw(seed):
    got = jax.device_get(run(params, {'decoder_input_tokens': tokens}, tokens, valid, rows,
                             row_keys(jnp.full(count, seed, jnp.uint32), jnp.arange(count))))
    return got.tokens, got.logprobs.sum(1)

  return draw, logits.astype(np.float64)


def test_tokens_are_drawn_from_softmax_at_the_temperature(many):
  draw, logits = many
  tokens, _ = draw(0)
  p = scipy.special.softmax(logits[:20] / 1.5)
  counts = np.bincount(tokens[:, 0], minlength=20)
  assert len(counts) == 20 and (p * len(tokens) > 5).sum() > 10
  enough = p * len(tokens) > 5
  got = np.append(counts[enough], counts[~enough].sum())
  want = np.append(p[enough], p[~enough].sum()) * len(tokens)
  got, want = got[want > 0], want[want > 0]
  assert scipy.stats.chisquare(got, want).pvalue > 1e-3
  cold = scipy.special.softmax(logits[:20])[enough] * len(tokens)
  assert scipy.stats.chisquare(counts[enough], cold * counts[enough].sum() / cold.sum()
                               ).pvalue < 1e-6, 'temperature would not show'


def test_scores_of_drawn_tokens_are_at_temperature_one(many):
  draw, logits = many
  tokens, scores = draw(0)
  want = scipy.special.log_softmax(logits[:20])[tokens[:, 0]]
  np.testing.assert_allclose(scores, want, atol=2e-5)


def test_the_key_decides_what_is_drawn(many):
  draw, _ = many
  np.testing.assert_array_equal(draw(1)[0], draw(1)[0])
  assert (draw(1)[0] != draw(2)[0]).mean() > 0.3


def test_ids_beyond_the_vocabulary_are_never_drawn(many, config_of, random_params):
  draw, logits = many
  assert scipy.special.softmax(logits / 1.5)[20:].sum() > 0.05, 'they would be drawn otherwise'
  assert max(draw(key)[0].max() for key in range(3)) < 20


def test_left_pad_moves_prompts_to_the_right_and_rounds_the_length_up():
  tokens, valid = left_pad([np.array([5, 6, 7]), np.array([8]), np.array([], int)], 9,
                                    multiple=4)
  np.testing.assert_array_equal(tokens, [[9, 5, 6, 7], [9, 9, 9, 8], [9, 9, 9, 9]])
  np.testing.assert_array_equal(valid, [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
  assert tokens.dtype == np.int32 and valid.dtype == bool


def test_left_pad_keeps_a_length_that_is_a_multiple():
  assert left_pad([np.arange(8)], 0, multiple=4)[0].shape == (1, 8)
  assert left_pad([np.arange(33)], 0)[0].shape == (1, 64)
  lengths = {left_pad([np.arange(n)], 0)[0].shape[1] for n in range(1, 2049)}
  assert len(lengths) == 20 and {32, 1024, 1280, 2048} < lengths
  assert all(left_pad([np.arange(n)], 0)[0].shape[1] < 1.25 * n for n in (257, 513, 1025))

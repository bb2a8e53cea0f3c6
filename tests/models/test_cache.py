"""Decoding with a cache of rings against full forward passes, and what a cache holds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.inference.generate import left_pad, prefill
from t5x_lite.models.cache import Codes, put_rows, step_back, take_rows

LENGTHS, NEW = (13, 2, 7), 9      # tokens of the prompts, and those after them
TOTAL = max(LENGTHS) + NEW


def windowed(config, window, interval=None, unrolled=False):
  return dataclasses.replace(config, sliding_window=window, full_attention_interval=interval,
                             scan_layers=not unrolled)


@pytest.fixture(scope='module')
def config_of(configs):
  decoder = configs['decoder']
  relative = dataclasses.replace(decoder, position_embedding='relative', relative_buckets=8,
                                 relative_max_distance=16)
  return {'full': decoder, 'window 4': windowed(decoder, 4), 'window 1': windowed(decoder, 1),
          'window 12': windowed(decoder, 12), 'window 40': windowed(decoder, 40),
          'every second': windowed(decoder, 4, interval=2),
          'every second unrolled': windowed(decoder, 4, interval=2, unrolled=True),
          'learned': configs['gpt'], 'relative': relative,
          'relative window 4': windowed(relative, 4),
          'alibi': dataclasses.replace(decoder, position_embedding='alibi')}


@functools.cache
def rows_of_tokens():
  rng = np.random.default_rng(0)
  return [rng.integers(2, 60, n + NEW).astype(np.int32) for n in LENGTHS]


@functools.cache
def programs(config, chunk, margin=0, int8=False):
  """Jitted (read, more): prompts into a new cache, by chunks; further tokens, all their logits."""
  network = models.build_network(config)

  def read(params, tokens, valid):
    model = network.bind(params)
    cache = model.start({'decoder_input_tokens': tokens}, TOTAL, margin=margin, int8=int8)
    return prefill(model, tokens, valid, cache, chunk)

  def more(params, tokens, cache, valid):
    return network.bind(params).decode(tokens, cache, valid, last=tokens.shape[1])

  return jax.jit(read), jax.jit(more)


def whole_logits(config, params, forward):
  """[rows][length, vocab] of one full forward pass, each row at its start."""
  rows = rows_of_tokens()
  tokens = np.stack([np.pad(row, (0, TOTAL - len(row))) for row in rows])
  segments = (np.arange(TOTAL) < np.array([[len(row)] for row in rows])).astype(np.int32)
  return np.asarray(forward(config)(params, {
      'decoder_input_tokens': tokens, 'decoder_segment_ids': segments,
      'decoder_positions': np.tile(np.arange(TOTAL, dtype=np.int32), (len(rows), 1))}))


def prompts():
  return left_pad([row[:n] for row, n in zip(rows_of_tokens(), LENGTHS)], 0, multiple=1)


def decoded(config, params, chunk, steps, **options):
  """Logits after the prompts and after each further token, [rows][1 + NEW, vocab], and the cache;
  `steps` are how many tokens are read at a time."""
  read, more = programs(config, chunk, **options)
  logits, cache = read(params, *prompts())
  found, at = [np.asarray(logits)[:, None]], 0
  for step in steps:
    tokens = np.stack([row[n + at:n + at + step] for row, n in zip(rows_of_tokens(), LENGTHS)])
    logits, cache = more(params, tokens, cache, np.ones(tokens.shape, bool))
    found.append(np.asarray(logits))
    at += step
  return np.concatenate(found, 1), cache


KINDS = ['full', 'window 4', 'window 1', 'window 12', 'window 40', 'every second',
         'every second unrolled', 'learned', 'relative', 'relative window 4', 'alibi']


@pytest.mark.parametrize('kind, chunk, steps', [
    *((kind, 64, (1,) * NEW) for kind in ('full', 'window 4', 'every second unrolled')),
    *((kind, 3, (1, 4, 4)) for kind in KINDS if 'unrolled' not in kind),
    ('every second', 5, (NEW,))])
def test_cached_logits_are_those_of_a_full_forward_pass(
    kind, chunk, steps, config_of, random_params, forward):
  config = config_of[kind]
  params = random_params(config)
  got, _ = decoded(config, params, chunk, steps)
  want = whole_logits(config, params, forward)
  for r, n in enumerate(LENGTHS):
    np.testing.assert_allclose(got[r], want[r, n - 1:n + NEW], atol=1e-4, err_msg=f'row {r}')


@pytest.mark.parametrize('kind', ['full', 'window 4'])
def test_a_cache_in_8_bits_is_near_and_takes_a_byte_a_number(
    kind, config_of, random_params, forward):
  config = config_of[kind]
  params = random_params(config)
  got, cache = decoded(config, params, 3, (1,) * NEW, int8=True)
  want = whole_logits(config, params, forward)
  worst = max(np.abs(got[r] - want[r, n - 1:n + NEW]).max() for r, n in enumerate(LENGTHS))
  spread = want.std()
  assert 1e-5 < worst < 0.05 * spread, (worst, spread)
  for codes in jax.tree.leaves(cache['layers'], is_leaf=lambda x: isinstance(x, Codes)):
    assert codes.codes.dtype == jnp.int8
    assert codes.scale.size * config.head_dim == codes.codes.size


def test_layers_with_a_window_hold_no_more_than_it(config_of, random_params):
  live = lambda kind, **options: sum(x.nbytes for x in jax.tree.leaves(decoded(
      config_of[kind], random_params(config_of[kind]), 64, (1,), **options)[1]['layers']))
  config = config_of['full']
  slot = 2 * len(LENGTHS) * config.num_kv_heads * config.head_dim * 4   # of a layer
  assert live('full') == slot * config.num_layers * TOTAL
  assert live('window 4') == slot * config.num_layers * 4
  assert live('window 40') == live('full')
  assert live('every second') == slot * config.num_layers // 2 * (4 + TOTAL)
  assert live('every second unrolled') == live('every second')
  assert live('window 4', margin=3) == slot * config.num_layers * 7


@pytest.mark.parametrize('kind', ['full', 'window 4'])
def test_what_a_row_holds_depends_neither_on_padding_nor_on_other_rows(
    kind, config_of, random_params):
  config = config_of[kind]
  params = random_params(config)
  read, _ = programs(config, 64)
  together = read(params, *prompts())[1]
  for r, (row, n) in enumerate(zip(rows_of_tokens(), LENGTHS)):
    for length in (13, 18):
      tokens, valid = left_pad([row[:n]], 7, multiple=length)
      alone = read(params, tokens, valid)[1]
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
                   alone, take_rows(together, jnp.array([r])))


@pytest.mark.parametrize('kind', ['full', 'window 4', 'every second'])
def test_tokens_taken_back_leave_no_trace(kind, config_of, random_params, forward):
  """As speculative decoding does: three tokens are read, of which a row keeps 0, 1 or 3."""
  config = config_of[kind]
  params = random_params(config)
  read, more = programs(config, 64, margin=3)
  _, cache = read(params, *prompts())
  wrong = np.full((3, 3), 5, np.int32)
  kept = np.array([0, 1, 3])
  for r, count in enumerate(kept):
    wrong[r, :count] = rows_of_tokens()[r][LENGTHS[r]:LENGTHS[r] + count]
  _, cache = more(params, wrong, cache, np.ones((3, 3), bool))
  cache = step_back(cache, 3 - kept)
  want = whole_logits(config, params, forward)
  for t in range(4):
    at = np.array(LENGTHS) + kept + t
    tokens = np.stack([row[i:i + 1] for row, i in zip(rows_of_tokens(), at)])
    logits, cache = more(params, tokens, cache, np.ones((3, 1), bool))
    for r in range(3):
      np.testing.assert_allclose(logits[r, 0], want[r, at[r]], atol=1e-4, err_msg=f'{r}, {t}')


@pytest.mark.parametrize('kind', ['every second', 'every second unrolled'])
def test_rows_move_between_caches_and_a_row_that_waits_stays_as_it_is(
    kind, config_of, random_params, forward):
  config = config_of[kind]
  params = random_params(config)
  read, more = programs(config, 64)
  _, cache = read(params, *prompts())
  _, other = read(params, *left_pad([rows_of_tokens()[2][:LENGTHS[2]]], 0, multiple=13))
  cache = put_rows(cache, other, jnp.array([0]))   # rows 2, 1, 2
  waits = np.array([[True], [False], [True]])
  want = whole_logits(config, params, forward)
  for t in range(3):
    token = rows_of_tokens()[2][LENGTHS[2] + t]
    logits, cache = more(params, np.full((3, 1), token), cache, waits)
    for r in (0, 2):
      np.testing.assert_allclose(logits[r, 0], want[2, LENGTHS[2] + t], atol=1e-4)
  token = rows_of_tokens()[1][LENGTHS[1]]
  logits, _ = more(params, np.full((3, 1), token), cache, np.ones((3, 1), bool))
  np.testing.assert_allclose(logits[1, 0], want[1, LENGTHS[1]], atol=1e-4)

"""Filters against transformers' own and its stored outputs; draws against the distribution."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from t5x_lite.core.errors import UserError
from t5x_lite.inference.filters import History, filtered_logits
from t5x_lite.inference.sampling import (
  Sampling,
  argmax,
  draw,
  log_distribution,
  row_keys,
  sampling_rows,
)

V, S, END = 29, 20, (3, 7)
FILTER = jax.jit(filtered_logits)
DRAW = jax.jit(draw)
# What transformers has by the same name comes first: OpenAI's penalties are checked by hand.
SETTINGS = [
    Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7),
    Sampling(temperature=1.5, top_k=5), Sampling(temperature=1.0, top_k=40),
    Sampling(temperature=1.0, top_p=0.3), Sampling(temperature=0.5, top_p=0.95),
    Sampling(temperature=1.0, top_p=0.0), Sampling(temperature=1.0, min_p=0.1),
    Sampling(temperature=2.0, typical_p=0.5), Sampling(repetition_penalty=1.3),
    Sampling(temperature=0.7, top_k=12, top_p=0.9, min_p=0.05, repetition_penalty=1.2),
    Sampling(temperature=0.9, no_repeat_ngram_size=2, top_p=0.8, typical_p=0.7),
    Sampling(no_repeat_ngram_size=1), Sampling(min_new_tokens=9, forbidden=(0, 11)),
    Sampling(temperature=1.0, logit_bias={4: 5.5, 2: -100, 28: 1}, forced=(1, 2, 4, 5)),
]


def history_of(prompts, outputs, left=0):
  """Prompts and outputs side by side, `left` slots of rubbish before them and some after."""
  rows = [[*[5] * left, *p, *o] for p, o in zip(prompts, outputs)]
  tokens = np.asarray([[*row, *[6] * (S + left - len(row))] for row in rows], np.int32)
  first = np.full(len(rows), left, np.int32)
  new = first + np.asarray([len(p) for p in prompts], np.int32)
  last = new + np.asarray([len(o) for o in outputs], np.int32)
  return History(*map(jnp.asarray, (tokens, first, new, last)))


def rows_of(settings, **options):
  return sampling_rows(settings, **{'num_ids': V, 'end_ids': END, 'max_tokens': 16} | options)


def example(seed=0):
  """(logits, prompts, outputs) of a batch; outputs are of unlike lengths."""
  rng, size = np.random.default_rng(seed), len(SETTINGS)
  text = lambda longest: [rng.integers(0, 9, rng.integers(1, longest)) for _ in range(size)]
  return (3 * rng.standard_normal((size, V))).astype(np.float32), text(12), text(8)


def by_transformers(one, logits, prompt, output):
  """The same by transformers' processors, in the order it puts them together."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  from transformers.generation import logits_process as hf
  ids = torch.tensor(np.concatenate([prompt, output]))[None]
  config = transformers.GenerationConfig(
      do_sample=one.temperature > 0, temperature=one.temperature or 1.0, top_k=one.top_k,
      top_p=one.top_p, min_p=one.min_p or None, typical_p=one.typical_p,
      repetition_penalty=one.repetition_penalty, no_repeat_ngram_size=one.no_repeat_ngram_size,
      sequence_bias=[[[i], float(b)] for i, b in one.logit_bias.items()] or None,
      bad_words_ids=[[i] for i in one.forbidden] or None, min_new_tokens=one.min_new_tokens,
      eos_token_id=list(END))
  config._eos_token_tensor = torch.tensor(END)
  bare = type('Bare', (transformers.GenerationMixin,), {
      'config': type('C', (), {'is_encoder_decoder': False})()})()
  processors = bare._get_logits_processor(config, input_ids_seq_length=len(prompt))
  assert isinstance(processors, hf.LogitsProcessorList)
  if len(output) < len(one.forced):   # before the temperature, where it has forced_bos_token_id
    at = next((i for i, p in enumerate(processors)
               if isinstance(p, hf.TemperatureLogitsWarper)), len(processors))
    force = hf.ForcedBOSTokenLogitsProcessor(one.forced[len(output)])
    processors.insert(at, lambda ids, scores: force(ids[:, :1], scores))
  return processors(ids, torch.tensor(logits)[None])[0].numpy()


def assert_same(got, want):
  np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
  np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize('seed', [0, 1])
def test_rows_of_different_settings_are_filtered_as_transformers_does(seed):
  logits, prompts, outputs = example(seed)
  got = FILTER(logits, rows_of(SETTINGS), history_of(prompts, outputs, left=3))
  for row, one in enumerate(SETTINGS):
    assert_same(got[row], by_transformers(one, logits[row], prompts[row], outputs[row]))


def test_filters_equal_the_stored_outputs_of_transformers():
  folder = os.environ.get('T5X_LITE_TEST_DATA')
  if not folder:
    pytest.skip('T5X_LITE_TEST_DATA has peers/decode')
  stored = np.load(pathlib.Path(folder) / 'peers/decode/warpers.npz')
  one = lambda **kw: Sampling(**{'temperature': 1.0} | kw)
  cases = {f'{name}_{value}': one(**{field: value}) for name, field, values in (
      ('temperature', 'temperature', (0.7, 1.5)), ('top_k', 'top_k', (1, 5, 40)),
      ('top_p', 'top_p', (0.05, 0.3, 0.9, 0.95)), ('min_p', 'min_p', (0.02, 0.1, 0.4)),
      ('typical', 'typical_p', (0.2, 0.5, 0.95)),
      ('repetition', 'repetition_penalty', (0.8, 1.3, 2.0)),
      ('no_repeat_ngram', 'no_repeat_ngram_size', (1, 2, 3))) for value in values}
  cases |= {'min_length_13_eos3': one(min_new_tokens=1), 'min_length_12_eos3': one(),
            'suppress_1_2': one(forbidden=(1, 2)),
            'chain_rep1.2_temp0.7_k12_p0.9_minp0.05': Sampling(
                temperature=0.7, top_k=12, top_p=0.9, min_p=0.05, repetition_penalty=1.2)}
  logits, ids = stored['logits'], stored['input_ids']
  settings = [s for s in cases.values() for _ in logits]   # all in one batch
  got = FILTER(np.tile(logits, (len(cases), 1)), rows_of(settings, end_ids=(3,)),
               history_of(np.tile(ids, (len(cases), 1)), [[]] * len(settings)))
  for name, rows in zip(cases, np.split(np.asarray(got), len(cases))):
    np.testing.assert_array_equal(np.isneginf(rows), np.isneginf(stored['out/' + name]), name)

    np.testing.assert_allclose(scipy.special.softmax(rows, -1), scipy.special.softmax(
        stored['out/' + name], -1), rtol=1e-5, err_msg=name)


def test_ties():
  logits = np.asarray([[0.0, 1, 1, 1, 1, -9, -0.0, 0]], np.float32)
  kept = lambda **kw: np.flatnonzero(np.isfinite(FILTER(logits, sampling_rows(
      [Sampling(temperature=1.0, **kw)], num_ids=8, end_ids=(), max_tokens=4),
      history_of([[1]], [[]])))[0]).tolist()
  assert kept(top_k=2) == [1, 2, 3, 4]
  assert kept(top_k=5) == [0, 1, 2, 3, 4, 6, 7]
  assert kept(top_p=0.3) == [1, 2]       # each of the four has 0.195
  assert kept(top_p=0.0) == [1]
  assert kept(top_p=0.86) == [0, 1, 2, 3, 4, 6]
  assert kept(min_p=1.0) == [1, 2, 3, 4]
  assert argmax(jnp.asarray(logits)).tolist() == [1]


def test_penalties_of_presence_and_frequency_are_those_of_the_output_alone():
  logits = np.zeros((2, V), np.float32)
  settings = [Sampling(presence_penalty=0.5, frequency_penalty=0.25),
              Sampling(presence_penalty=-2.0)]
  got = FILTER(logits, rows_of(settings), history_of([[8, 8, 4]] * 2, [[4, 5, 5, 5], [1]]))
  want = np.zeros((2, V))
  want[0, 4], want[0, 5], want[1, 1] = -0.75, -1.25, 2
  np.testing.assert_array_equal(got, want)


def test_defaults_change_nothing_in_rows_beside_others():
  logits, prompts, outputs = example()
  logits[:, 5] = -np.inf   # as where an id is beyond the vocabulary
  got = FILTER(logits, rows_of(SETTINGS), history_of(prompts, outputs))
  for row in 0, 1:
    np.testing.assert_array_equal(got[row], logits[row])
  assert np.isneginf(got[:-1, 5]).all()


def test_what_would_leave_nothing_yields():
  settings = [Sampling(no_repeat_ngram_size=1), Sampling(min_new_tokens=4)]
  logits = np.arange(2 * V, dtype=np.float32).reshape(2, V)
  everything = np.arange(V)
  tokens = jnp.asarray(np.stack([everything, everything]), jnp.int32)
  history = History(tokens, jnp.zeros(2, jnp.int32), jnp.full(2, V, jnp.int32),
                    jnp.full(2, V, jnp.int32))
  allowed = np.ones((2, V), bool)
  allowed[1] = np.isin(everything, END)   # a constraint that is at its end
  got = FILTER(logits, rows_of(settings), history, allowed)
  np.testing.assert_array_equal(got[0], logits[0])
  assert np.flatnonzero(np.isfinite(got[1])).tolist() == list(END)


def test_each_row_is_the_same_alone_and_in_a_batch():
  logits, prompts, outputs = example()
  rows, history = rows_of(SETTINGS), history_of(prompts, outputs, left=2)
  seeds = np.arange(len(SETTINGS), dtype=np.uint32)
  keys = row_keys(seeds, np.zeros_like(seeds))
  together = DRAW(logits, FILTER(logits, rows, history), rows, keys, history.step_B)
  for row, one in enumerate(SETTINGS):
    mine, my_history = rows_of([one]), history_of(prompts[row:row + 1], outputs[row:row + 1])
    alone = DRAW(logits[row:row + 1], FILTER(logits[row:row + 1], mine, my_history), mine,
                 keys[row:row + 1], my_history.step_B)
    assert alone.token[0] == together.token[row]
    np.testing.assert_allclose(alone.logprob[0], together.logprob[row], rtol=1e-6)
    np.testing.assert_allclose(alone.sampled_logprob[0], together.sampled_logprob[row], rtol=1e-5,
                               atol=1e-6)


@pytest.mark.parametrize('one', [
    Sampling(temperature=0.8), Sampling(temperature=1.3, top_k=6, top_p=0.9),
    Sampling(temperature=1.0, min_p=0.1), Sampling(temperature=1.0, typical_p=0.6)],
    ids=['temperature', 'top k and p', 'min p', 'typical'])
def test_20000_draws_are_of_the_filtered_distribution(one):
  number = 20_000
  logits = np.asarray(example(3)[0][:1] / 2)
  rows, history = rows_of([one]), history_of([[1]], [[]])
  filtered = np.asarray(FILTER(logits, rows, history))
  many = jax.tree.map(lambda x: np.repeat(x, number, 0), rows)
  seeds = np.arange(number, dtype=np.uint32)
  got = DRAW(np.repeat(logits, number, 0), np.repeat(filtered, number, 0), many,
             row_keys(np.zeros_like(seeds), seeds), np.zeros(number, np.int32))
  p = scipy.special.softmax(filtered[0].astype(np.float64))
  counts = np.bincount(got.token, minlength=V)
  assert not counts[p == 0].any()
  often = p * number >= 5
  fold = lambda x: np.append(x[often], x[~often].sum()) if x[~often].sum() else x[often]
  assert scipy.stats.chisquare(fold(counts), fold(p) * number).pvalue > 1e-3
  np.testing.assert_allclose(got.sampled_logprob, np.log(p[got.token]), atol=1e-5)
  np.testing.assert_allclose(
      got.logprob, scipy.special.log_softmax(logits[0])[got.token], atol=1e-5)
  np.testing.assert_allclose(np.exp(log_distribution(filtered, rows))[0], p, atol=1e-6)


def test_draws_from_a_vocabulary_of_several_blocks():
  number, size = 20_000, 600
  logits = np.random.default_rng(0).standard_normal((1, size)).astype(np.float32)
  logits[0, 3::7] = -np.inf
  one = sampling_rows([Sampling(temperature=1.0)], num_ids=size, end_ids=(), max_tokens=1)
  seeds = np.arange(number, dtype=np.uint32)
  logits_BV = np.repeat(logits, number, 0)
  got = DRAW(logits_BV, logits_BV, jax.tree.map(lambda x: np.repeat(x, number, 0), one),
             row_keys(seeds, np.zeros_like(seeds)), np.ones(number, np.int32))
  p = scipy.special.softmax(logits[0].astype(np.float64))
  kept = p > 0
  counts = np.bincount(got.token, minlength=size)
  assert not counts[~kept].any()
  assert scipy.stats.chisquare(counts[kept], p[kept] * number).pvalue > 1e-3


def test_a_greedy_row_takes_the_largest_of_what_is_left():
  logits, prompts, outputs = example()
  one = Sampling(forbidden=(int(logits[0].argmax()),))
  rows, history = rows_of([one]), history_of(prompts[:1], outputs[:1])
  filtered = FILTER(logits[:1], rows, history)
  got = DRAW(logits[:1], filtered, rows, row_keys(rows.seed, rows.seed), history.step_B)
  assert got.token[0] == np.argsort(logits[0])[-2] and got.sampled_logprob[0] == 0
  assert log_distribution(filtered, rows)[0, got.token[0]] == 0


def test_no_value_of_a_setting_compiles_again():
  logits, prompts, outputs = example()
  history = history_of(prompts, outputs)
  before = FILTER._cache_size()
  FILTER(logits, rows_of(SETTINGS), history)
  between = FILTER._cache_size()
  FILTER(logits, rows_of(SETTINGS[::-1]), history)
  FILTER(logits, rows_of([Sampling()] * len(SETTINGS), end_ids=(1, 2)), history)
  assert FILTER._cache_size() == between <= before + 2


def test_a_history_grows_in_its_rows():
  history = history_of([[1, 2], [3]], [[], [4]])
  got = history.append(jnp.asarray([9, 8]), jnp.asarray([True, False]))
  assert got.step_B.tolist() == [1, 1] and got.tokens_BS[0, :3].tolist() == [1, 2, 9]
  np.testing.assert_array_equal(got.tokens_BS[1], history.tokens_BS[1])


BAD = [dict(temperature=-0.1), dict(temperature=0.001), dict(temperature=float('nan')),
       dict(temperature='hot'), dict(temperature=True), dict(top_k=-1), dict(top_k=2.5),
       dict(top_p=1.1), dict(top_p=-0.1), dict(min_p=2.0), dict(typical_p=0.0),
       dict(repetition_penalty=0.0), dict(repetition_penalty=float('inf')),
       dict(presence_penalty=2.5), dict(frequency_penalty=-3), dict(no_repeat_ngram_size=-1),
       dict(logit_bias={1: 101.0}), dict(logit_bias={-1: 1.0}), dict(logit_bias={'1': 1.0}),
       dict(logit_bias={1: float('nan')}), dict(forbidden=(-1,)), dict(forbidden=('a',)),
       dict(forced=(1,), forbidden=(1,)), dict(min_new_tokens=5, max_new_tokens=4),
       dict(forced=(1, 2), max_new_tokens=1), dict(max_new_tokens=0), dict(stop=('',)),
       dict(stop=('\ud83d',)), dict(stop='end'), dict(seed=-1), dict(seed=2 ** 32)]


@pytest.mark.parametrize('bad', BAD, ids=str)
def test_a_bad_setting_is_one_line(bad):
  with pytest.raises(UserError, match=r'^Sampling\.') as e:
    Sampling(**bad)
  assert '\n' not in str(e.value) and str(e.value).isprintable()


@pytest.mark.parametrize('bad', [
    dict(logit_bias={V: 1.0}), dict(forbidden=(V,)), dict(forced=(V,)), dict(forced=(1, 3, 2)),
    dict(forbidden=tuple(range(V))), dict(max_new_tokens=17), dict(min_new_tokens=17),
    dict(forced=(1,) * 17)], ids=lambda bad: str(bad)[:30])
def test_a_setting_that_does_not_fit_the_vocabulary_or_the_room_is_one_line(bad):
  with pytest.raises(UserError, match=rf'^Sampling\.{next(iter(bad))}') as e:
    rows_of([Sampling(), Sampling(**bad)])
  assert '\n' not in str(e.value)


def test_sparse_rows_are_padded_to_few_widths():
  width = lambda n: rows_of([Sampling(forbidden=tuple(range(n)))]).bias_ids.shape[1]
  assert [width(n) for n in (0, 4, 5, 16, 17)] == [4, 4, 8, 16, 32]
  assert dataclasses.replace(Sampling(), seed=3).seed == 3

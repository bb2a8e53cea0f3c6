"""Speculative decoding against plain decoding, and its distribution against the exact one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from t5x_lite import models
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.inference import speculative
from t5x_lite.inference.filters import History, filtered_logits
from t5x_lite.inference.generate import left_pad, make_generate
from t5x_lite.inference.sampling import Sampling, log_distribution, row_keys, sampling_rows
from t5x_lite.inference.speculative import ModelDraft, NgramDraft, make_speculate
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
NUM_IDS, END, PAD, T = 60, 1, 0, 24


@pytest.fixture(scope='module')
def config_of(configs):
  windowed = functools.partial(dataclasses.replace, configs['decoder'], sliding_window=4)
  return {'decoder': configs['decoder'],
          'every second': windowed(full_attention_interval=2, scan_layers=False),
          'encoder_decoder': configs['encoder_decoder']}


@functools.cache
def programs(config, small, size, max_tokens=T, num_ids=NUM_IDS):
  """(plain, with n-grams, with a smaller model) of one signature."""
  network = models.build_network(config, ONE)
  options = dict(max_tokens=max_tokens, pad_id=PAD, num_ids=num_ids)
  plain = make_generate(network, ONE, **options)
  ngram = make_speculate(network, ONE, lambda _: NgramDraft(size=size, shortest=1), **options)
  other = models.build_network(small, ONE)
  model = make_speculate(network, ONE, lambda p: ModelDraft(other.bind(p), size), **options)
  return (lambda p, q, *args: (plain(p, *args), None)), ngram, model


def run(program, params, small_params, config, prompts, settings, max_tokens=T, num_ids=NUM_IDS,
        samples=None):
  rows = sampling_rows(settings, num_ids=num_ids, end_ids=(END,), max_tokens=max_tokens)
  keys = row_keys(jnp.asarray(rows.seed), jnp.arange(len(prompts)) if samples is None else samples)
  if config.family == 'encoder_decoder':
    tokens = np.stack([np.resize(p, 9) for p in prompts]).astype(np.int32)
    batch = {'encoder_input_tokens': tokens}
    prompt, valid = np.zeros((len(prompts), 1), np.int32), np.ones((len(prompts), 1), bool)
  else:
    prompt, valid = left_pad(prompts, PAD, multiple=1)
    batch = {'decoder_input_tokens': prompt}
  return jax.device_get(program(params, small_params, batch, prompt, valid, rows, keys))


def families(seed=0):
  """Prompts that repeat a phrase, that repeat one token, and of random tokens."""
  rng = np.random.default_rng(seed)
  return [np.tile(rng.integers(2, NUM_IDS, 4), 3), np.full(5, 7),
          rng.integers(2, NUM_IDS, 9), rng.integers(2, NUM_IDS, 2)]


@pytest.mark.parametrize('kind, size, draft', [
    ('decoder', 4, 'model'), ('every second', 4, 'ngram'), ('encoder_decoder', 4, 'model'),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('decoder', 1, 'ngram'), ('every second', 1, 'model'), ('encoder_decoder', 1, 'ngram')))])
def test_greedy_outputs_are_those_without_drafts(kind, size, draft, config_of, random_params):
  """The decoder's draft is a model of its own sizes, which the next test runs too."""
  config = config_of[kind]
  small = config if kind == 'decoder' else dataclasses.replace(config, mlp_dim=16)
  params, small_params = random_params(config), random_params(small, 1)
  settings = [Sampling(), Sampling(max_new_tokens=7), Sampling(min_new_tokens=9),
              Sampling(repetition_penalty=1.3, no_repeat_ngram_size=2)]
  plain, ngram, model = programs(config, small, size)
  want, _ = run(plain, params, small_params, config, families(), settings)
  assert len(np.unique(want.tokens)) > 5
  program, draft_params = (ngram, None) if draft == 'ngram' else (model, small_params)
  got, runs = run(program, params, draft_params, config, families(), settings)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
  assert not got.sampled_logprobs.any() and runs <= T


def test_drafts_that_are_right_save_runs(config_of, random_params):
  """The model drafts for itself: all is accepted."""
  config = config_of['decoder']
  params = random_params(config)
  _, _, program = programs(config, config, 4)
  for settings in (Sampling(min_new_tokens=T), Sampling(temperature=1.0, top_p=0.9,
                                                        min_new_tokens=T)):
    got, runs = run(program, params, params, config, families(), [settings] * 4)
    assert runs == 1 + -(-(T - 1) // 5)   # and the prompt's
    assert got.logprobs.all()


SETTINGS = {'temperature': dict(temperature=1.3), 'top_k': dict(temperature=1.0, top_k=3),
            'top_p': dict(temperature=1.2, top_p=0.8), 'min_p': dict(temperature=1.5, min_p=0.2),
            'all': dict(temperature=0.9, top_k=5, top_p=0.95, min_p=0.02, presence_penalty=0.5)}
COUNT, NEW, IDS = 8_000, 3, 8


@functools.cache
def exact(config, forward, params_of, name):
  """{outputs of NEW tokens below IDS, after one prompt, ended ones padded: probability}."""
  params, prompt, found = params_of(config), PROMPT, {(): 1.0}
  for _ in range(NEW):
    live = [o for o in found if END not in o]
    rows = [[*prompt, *o] for o in live]
    tokens = np.asarray(rows, np.int32)
    logits = np.asarray(forward(config)(params, {'decoder_input_tokens': tokens}))[:, -1]
    logits = jnp.where(jnp.arange(logits.shape[-1])[None] < IDS, logits, -jnp.inf)
    settings = sampling_rows([Sampling(**SETTINGS[name])] * len(live), num_ids=IDS, end_ids=(END,),
                             max_tokens=NEW)
    full = lambda n: jnp.full((len(live),), n, jnp.int32)
    history = History(jnp.asarray(tokens), full(0), full(len(prompt)), full(tokens.shape[1]))
    p = np.exp(log_distribution(filtered_logits(logits, settings, history), settings))
    for o, row in zip(live, p.astype(np.float64)):
      mass = found.pop(o)
      found |= {(*o, i): mass * row[i] / row.sum() for i in range(IDS) if row[i]}
  return {o: mass for o, mass in found.items() if mass}


PROMPT = (3, 5, 3, 5, 3)


def p_value(tokens, want):
  """Of a chi-square test of outputs against their probabilities; rare ones are one class."""
  cut = lambda row: tuple(row[:row.index(END) + 1] if END in row else row)
  counts = {}
  for row in tokens.tolist():
    counts[cut(row)] = counts.get(cut(row), 0) + 1
  assert set(counts) <= set(want)
  often = [o for o, mass in want.items() if mass * len(tokens) > 8]
  assert len(often) > 10
  got = [counts.get(o, 0) for o in often]
  mass = [want[o] * len(tokens) for o in often]
  rest = len(tokens) - sum(mass)
  if rest > 8:
    got, mass = [*got, len(tokens) - sum(got)], [*mass, rest]
  return scipy.stats.chisquare(got, np.array(mass) * sum(got) / sum(mass)).pvalue


def draws(program, config, params, draft_params, name):
  found = []
  for part in range(4):
    prompts = [np.array(PROMPT)] * (COUNT // 4)
    got, _ = run(program, params, draft_params, config, prompts, [
        Sampling(seed=5, **SETTINGS[name])] * len(prompts), NEW, IDS,
        samples=part * len(prompts) + jnp.arange(len(prompts)))
    found.append(got.tokens)
  return np.concatenate(found)


@pytest.mark.parametrize('name, draft', [
    ('top_p', 'ngram'), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('temperature', 'model'), ('top_k', 'model'), ('min_p', 'ngram'), ('all', 'model')))])
@pytest.mark.sweep
def test_outputs_are_distributed_as_without_drafts(name, draft, config_of, random_params, forward):
  config = config_of['decoder']
  small = dataclasses.replace(config, mlp_dim=16)
  _, ngram, model = programs(config, small, 2, NEW, IDS)
  program, draft_params = (ngram, None) if draft == 'ngram' else (model, random_params(small, 1))
  got = draws(program, config, random_params(config), draft_params, name)
  assert p_value(got, exact(config, forward, random_params, name)) > 1e-3


@pytest.mark.parametrize('wrong', ['replaces from p', 'drafts the likeliest'])
@pytest.mark.slow
@pytest.mark.sweep
def test_a_wrong_rule_is_refused_by_the_same_test(
    wrong, config_of, random_params, forward, monkeypatch):
  config, small = config_of['decoder'], dataclasses.replace(config_of['decoder'], mlp_dim=16)
  if wrong == 'drafts the likeliest':
    drawn = speculative._draw
    monkeypatch.setattr(speculative, '_draw', lambda log_p_BV, *args: (
        log_p_BV.argmax(-1).astype(jnp.int32) if args[-1] == speculative._DRAFT else
        drawn(log_p_BV, *args)))
  else:
    monkeypatch.setattr(speculative, '_residual', lambda p_BV, q_BV: p_BV)
  programs.cache_clear()
  _, _, model = programs(config, small, 2, NEW, IDS)
  got = draws(model, config, random_params(config), random_params(small, 1), 'temperature')
  programs.cache_clear()
  assert p_value(got, exact(config, forward, random_params, 'temperature')) < 1e-6


def proposal(tokens, size=4, longest=3, shortest=1, first=0):
  room = np.zeros((1, 15), np.int32)
  room[0, :len(tokens)] = tokens
  one = lambda n: jnp.full((1,), n, jnp.int32)
  history = History(jnp.asarray(room), one(first), one(1), one(len(tokens)))
  got, _ = NgramDraft(size=size, longest=longest, shortest=shortest).propose(
      (one(0), one(8)), history, None, None, 10)
  return got.tokens_BK[0].tolist() if got.some_B[0] else None


def test_a_draft_is_what_followed_the_last_tokens():
  assert proposal([1, 2, 3, 4, 5, 9, 2, 3]) == [4, 5, 9, 2]
  assert proposal([7, 3, 4, 8, 2, 3, 5, 6, 2, 3]) == [5, 6, 2, 3], 'the longer match'
  assert proposal([3, 4, 8, 3, 5, 3]) == [5, 3, 5, 3], 'the later of two as long, going on'
  assert proposal([1, 2, 1, 2, 1, 2]) == [1, 2, 1, 2]
  assert proposal([1, 2, 3]) is None and proposal([4]) is None
  assert proposal([7, 3, 4, 8, 3], shortest=2) is None
  assert proposal([3, 4, 8, 3], first=1) is None, 'padding is not read'
  with pytest.raises(FieldError, match='at most longest'):
    NgramDraft(longest=1, shortest=2)

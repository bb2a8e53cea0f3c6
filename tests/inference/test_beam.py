"""Beam search against brute force, a search without early exit, and transformers' beams."""

import functools
import itertools
import json
import os
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.inference.beam import LENGTH_PENALTIES, Beams, beam_search
from t5x_lite.interop import huggingface
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

V, EOS, PAD = 5, 1, 0
ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


class Table:
  """A language model of two tokens' context: the cache is the last token of each row."""
  config = types.SimpleNamespace(prefix_lm=False)

  def __init__(self, seed, spread=2.0):
    logits = np.random.default_rng(seed).standard_normal((V, V, V)) * spread
    self.logits = jnp.asarray(np.pad(logits, ((0, 0), (0, 0), (0, 2)), constant_values=9.0),
                              jnp.float32)   # two ids beyond the vocabulary, which are likeliest
    self.log_p = scipy.special.log_softmax(logits, axis=-1)

  def start(self, batch, length, **options):
    return {'held': jnp.zeros((len(batch['decoder_input_tokens']), 2), jnp.int32), 'layers': []}

  def decode(self, tokens_BL, cache, valid_BL, prompt=False):
    context = jnp.concatenate([cache['held'], tokens_BL], 1)[:, -2:]
    return self.logits[context[:, 0], context[:, 1]][:, None], cache | {'held': context}


@functools.cache
def compiled(seed, beams, max_tokens, eos=EOS):
  return jax.jit(lambda prompt: beam_search(
      Table(seed), {'decoder_input_tokens': prompt}, prompt, jnp.ones(prompt.shape, bool), beams,
      max_tokens=max_tokens, eos_id=eos, pad_id=PAD, num_ids=V))


def penalty(beams, length):
  return float(LENGTH_PENALTIES[beams.length_penalty](length, beams.alpha))


def outputs_of(max_tokens, eos=(EOS,)):
  """All outputs: those that end with an end id, and those cut off."""
  for length in range(1, max_tokens + 1):
    others = [i for i in range(V) if i not in eos]
    for begin in itertools.product(others, repeat=length - 1):
      for last in range(V) if length == max_tokens else eos:
        yield *begin, last


def log_likelihood(table, prompt, output):
  text = [*prompt, *output]
  return sum(table.log_p[text[i - 2], text[i - 1], text[i]] for i in range(2, len(text)))


@pytest.mark.parametrize('length_penalty', ['t5x', 'hf'])
@pytest.mark.parametrize('alpha', [-1.0, 0.0, 0.6, 2.0])
@pytest.mark.parametrize('max_tokens, eos', [(1, EOS), (4, (1, 3))])
def test_a_wide_beam_finds_the_best_of_all_outputs(length_penalty, alpha, max_tokens, eos):
  beams = Beams(num_beams=64, num_return=5, length_penalty=length_penalty, alpha=alpha)
  prompts = np.asarray([[2, 3], [4, 0]], np.int32)
  tokens, scores = compiled(7, beams, max_tokens, eos)(prompts)
  ends = (eos,) if isinstance(eos, int) else eos
  for prompt, rows, row_scores in zip(prompts, np.asarray(tokens), np.asarray(scores)):
    every = sorted(((log_likelihood(Table(7), prompt, o) / penalty(beams, len(o)), o)
                    for o in outputs_of(max_tokens, ends)), reverse=True)[:5]
    np.testing.assert_allclose(row_scores, [score for score, _ in every], rtol=1e-5)
    assert [tuple(row) for row in rows] == [
        (*o, *[PAD] * (max_tokens - len(o))) for _, o in every]


def search_to_the_end(table, prompt, beams, max_tokens):
  """The same beams without any early exit, in plain Python."""
  live, done, K = [(0.0, ())], [], beams.num_beams
  for length in range(1, max_tokens + 1):
    grown = sorted(((score + table.log_p[(*prompt, *o)[-2], (*prompt, *o)[-1], i], (*o, i))
                    for score, o in live for i in range(V)), reverse=True)[:2 * K]
    is_done = lambda o: o[-1] == EOS or length == max_tokens
    done += [(score / penalty(beams, length), o) for score, o in grown[:K] if is_done(o)]
    done = sorted(done, reverse=True)[:K]
    live = [(score, o) for score, o in grown if not is_done(o)][:K]
  return done


@pytest.mark.parametrize('length_penalty, alpha', [
    ('t5x', -2.0), ('t5x', 0.0), ('t5x', 0.6), ('t5x', 3.0), ('hf', -0.5), ('hf', 1.0),
    ('hf', 2.0)])
def test_the_early_exit_is_exact(length_penalty, alpha):
  beams = Beams(num_beams=3, num_return=3, length_penalty=length_penalty, alpha=alpha)
  prompts = np.asarray(list(itertools.product(range(V), range(V))), np.int32)
  tokens, scores = compiled(11, beams, 12)(prompts)
  for prompt, rows, row_scores in zip(prompts, np.asarray(tokens), np.asarray(scores)):
    want = search_to_the_end(Table(11), prompt, beams, 12)
    np.testing.assert_allclose(row_scores, [score for score, _ in want], rtol=1e-5)
    assert [tuple(row) for row in rows] == [(*o, *[PAD] * (12 - len(o))) for _, o in want]


def test_a_search_of_one_example_does_not_depend_on_others():
  beams = Beams(num_beams=3, num_return=2, early_stopping=True)
  prompts = np.asarray(list(itertools.product(range(V), range(V))), np.int32)
  tokens, scores = compiled(11, beams, 12)(prompts)
  for row in 0, 13, 24:
    alone, score = compiled(11, beams, 12)(prompts[row:row + 1])
    np.testing.assert_array_equal(alone[0], tokens[row])
    np.testing.assert_allclose(score[0], scores[row], rtol=1e-6)


def test_where_there_are_fewer_outputs_their_scores_are_minus_infinity():
  tokens, scores = compiled(7, Beams(num_beams=8, num_return=8), 1)(np.asarray([[2, 3]], np.int32))
  assert np.isfinite(scores[0]).sum() == V and (np.asarray(tokens)[0, V:] == PAD).all()


@pytest.fixture(scope='module')
def stored():
  folder = os.environ.get('T5X_LITE_TEST_DATA')
  if not folder:
    pytest.skip('T5X_LITE_TEST_DATA has peers/decode')
  folder = pathlib.Path(folder) / 'peers/decode'
  made = {name: huggingface.load_model(folder / name, ONE) for name in ('lm', 't5')}
  return np.load(folder / 'beam.npz'), json.loads((folder / 'manifest.json').read_text()), {
      name: (models.build_network(config), params) for name, (config, params) in made.items()}


def inputs_of(name, arrays):
  if name == 'lm':
    prompt, valid = arrays['lm/prompt'], arrays['lm/attention_mask'].astype(bool)
    return {'decoder_input_tokens': prompt}, prompt.astype(np.int32), valid
  mask = arrays['t5/attention_mask']
  first = np.full((len(mask), 1), 1, np.int32)   # decoder_start_token_id
  batch = {'encoder_input_tokens': arrays['t5/input_ids'], 'encoder_segment_ids': mask,
           'encoder_positions': np.arange(mask.shape[1])[None] * mask}
  return batch, first, np.ones_like(first, bool)


def check_equal_to_stored(stored, name, fits):
  arrays, manifest, made = stored
  network, params = made[name]
  batch, prompt, valid = inputs_of(name, arrays)
  cases = [m for m in (re.fullmatch(rf'{name}/(beam(\d)_lp(.*)_early(\w+))/sequences', key)
                       for key in arrays) if m and fits(m[1])]
  assert cases
  for case, size, alpha, early in (m.groups() for m in cases):
    want = arrays[f'{name}/{case}/sequences'][:, prompt.shape[1]:]
    early = {'True': True, 'False': False}.get(early, early)
    beams = Beams(num_beams=int(size), num_return=len(want) // len(prompt), length_penalty='hf',
                  alpha=float(alpha), early_stopping=early)
    run = jax.jit(lambda p, *args, beams=beams: beam_search(
        network.bind(p), *args, beams, max_tokens=10, eos_id=manifest[f'eos_token_id_{name}'],
        pad_id=1, num_ids=network.config.vocab_size))
    tokens, got = run(params, batch, prompt, valid)
    tokens = np.asarray(tokens).reshape(len(want), -1)
    np.testing.assert_array_equal(tokens[:, :want.shape[1]], want, case)
    assert (tokens[:, want.shape[1]:] == 1).all()
    np.testing.assert_allclose(np.ravel(got), arrays[f'{name}/{case}/sequences_scores'], atol=1e-4,
                               err_msg=case)


@pytest.mark.parametrize('case', [
    'lm/beam2_lp-0.5_earlyFalse', 't5/beam4_lp1.0_earlynever'])
def test_beams_equal_those_of_transformers(stored, case):
  """Prompts of a decoder are padded on the left."""
  name, case = case.split('/')
  check_equal_to_stored(stored, name, lambda other: other == case)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lm', 't5'])
def test_beams_equal_all_those_of_transformers(stored, name):
  check_equal_to_stored(stored, name, lambda case: True)


@pytest.mark.parametrize('bad', [
    dict(num_beams=0), dict(num_return=5), dict(length_penalty='gnmt'), dict(alpha=5.0),
    dict(alpha=float('nan')), dict(early_stopping='always'), dict(early_stopping=1)], ids=str)
def test_a_bad_setting_is_one_line(bad):
  with pytest.raises(UserError, match=r'^Beams\.') as e:
    Beams(**bad)
  assert '\n' not in str(e.value)

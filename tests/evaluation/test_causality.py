"""No registered decoder reads the future; planted leaks of five kinds are caught, each by name."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import causality
from t5x_lite.experiment import gin_config
from t5x_lite.models import build_network
from t5x_lite.models.attention.masks import Mask

NAMES = sorted(path.stem for path in (gin_config.CONFIGS / 'models').glob('*.gin'))
ENCODERS = {'bert_base', 'bert_large', 'tiny_encoder', 'tiny_classifier'}   # see all: no future


@functools.cache
def checked(config):
  """Of a shrunk config, which several models share."""
  return causality.check_network(build_network(config))


@pytest.mark.parametrize('name', NAMES)
def test_no_registered_model_reads_the_future(name):
  config = gin_config.load_described([f'models/{name}.gin']).model
  assert (config.family == 'encoder_only') == (name in ENCODERS)
  if name in ENCODERS:
    with pytest.raises(UserError, match='an encoder-only model has no future tokens'):
      causality.check_config(config)
    return
  found = checked(causality.shrink_config(config))
  # All tokens: 7 + 6 and 16 of the decoder, 5 + 4 and 14 of an encoder; each is seen by something.
  number = 29 + 23 * (config.family == 'encoder_decoder')
  assert found == ((), number, number) and found.holds


@pytest.mark.parametrize('name', ['decoder', 'prefix_lm', 'gpt', 'encoder_decoder'])
def test_no_kind_of_network_of_the_tests_reads_the_future(name, configs, random_params):
  """With random biases and scales, too; the three tokens of a prefix are not changed."""
  config = configs[name]
  found = causality.check_network(build_network(config), random_params(config))
  number = {'prefix_lm': 29 - 9, 'encoder_decoder': 52}.get(name, 29)
  assert found == ((), number, number)


@pytest.fixture(scope='module')
def decoder(configs, forward, random_params):
  """(batch -> log-probabilities of the tiny decoder, its batch, its vocabulary)."""
  config = configs['decoder']
  score = lambda batch: jax.nn.log_softmax(forward(config)(random_params(config), batch))
  return score, causality.make_batch(config), config.vocab_size


def test_a_network_that_looks_one_token_ahead_is_caught(decoder):
  score, batch, vocab_size = decoder
  ahead = lambda batch: np.roll(score(batch), -1, axis=1)
  leaks = causality.check_causality(ahead, batch, vocab_size).leaks
  pairs = {(leak.row, leak.changed, leak.read) for leak in leaks}
  # Exactly the token before each changed one, also where that is of another example.
  assert pairs == {(0, t, t - 1) for t in range(1, 13)} | {(1, t, t - 1) for t in range(1, 16)}


def test_a_mask_that_is_bidirectional_is_caught(configs, forward, random_params):
  """A prefix language model that takes the whole row for its prefix, and is said to have none."""
  config = configs['prefix_lm']
  batch = causality.make_batch(config)
  del batch['decoder_causal_attention']
  whole = lambda batch: jax.nn.log_softmax(forward(config)(random_params(config), {
      **batch, 'decoder_causal_attention': np.ones_like(batch['decoder_input_tokens'])}))
  leaks = causality.check_causality(whole, batch, config.vocab_size).leaks
  pairs = {(leak.row, leak.changed, leak.read) for leak in leaks}
  assert pairs == {(row, t, i) for row, spans in enumerate([(range(7), range(7, 13)), (range(16),)])
                   for span in spans for t in span for i in span if i < t}
  # With its true prefix nothing before it changes, and nothing leaks.
  batch = causality.make_batch(config)
  true = lambda batch: jax.nn.log_softmax(forward(config)(random_params(config), batch))
  assert causality.check_causality(true, batch, config.vocab_size).holds


def test_examples_of_a_row_that_see_each_other_are_caught(decoder):
  score, batch, vocab_size = decoder
  ones = np.ones_like(batch['decoder_segment_ids'])
  blind = lambda batch: score({**batch, 'decoder_segment_ids': ones})
  leaks = causality.check_causality(blind, batch, vocab_size).leaks
  assert {(leak.row, leak.changed, leak.read) for leak in leaks} == {
      (0, t, i) for t in range(7) for i in range(7, 13)}


def test_attention_that_is_off_by_one_is_caught_in_the_real_network(configs, monkeypatch):
  """The query after a key, rather than the key's own, is where its mask begins."""
  block = Mask.block
  monkeypatch.setattr(Mask, 'block', lambda self, q, n, k, m: block(
      dataclasses.replace(self, q_start=self.q_start + 1), q, n, k, m))
  network = build_network(dataclasses.replace(configs['decoder'], attention='reference'))
  found = causality.check_network(network)
  assert not found.holds
  assert {leak.changed - leak.read for leak in found.leaks} >= {1}
  assert str(found.leaks[0]).startswith('row 0: decoder token 1 changes the prediction after')


def test_an_encoder_token_of_another_example_is_caught(configs, forward, random_params):
  config = configs['encoder_decoder']
  batch = causality.make_batch(config)

  def mixed(batch):   # the encoder takes a row for one example, the decoder reads its own half
    first = batch['encoder_input_tokens'][:, :1]
    tokens = batch['encoder_input_tokens'].copy()
    tokens[:, 5:9] = first
    return jax.nn.log_softmax(forward(config)(random_params(config), {
        **batch, 'encoder_input_tokens': tokens}))

  leaks = causality.check_causality(mixed, batch, config.vocab_size).leaks
  assert {(leak.row, leak.side, leak.changed, leak.read) for leak in leaks} == {
      (0, 'encoder', 0, i) for i in range(7, 13)}


def test_what_sees_nothing_and_what_is_no_number_do_not_pass(decoder):
  _, batch, vocab_size = decoder
  constant = lambda batch: np.zeros((2, 16, vocab_size))
  found = causality.check_causality(constant, batch, vocab_size)
  assert found == ((), 29, 0) and not found.holds
  broken = lambda batch: np.full((2, 16, vocab_size), np.nan)
  assert not causality.check_causality(broken, batch, vocab_size).holds


def test_the_tolerance_is_an_edge(decoder):
  _, batch, vocab_size = decoder
  leaky = lambda batch: (batch['decoder_input_tokens'] != base).any(1)[:, None, None] * (
      2.0 ** -20 * np.ones((2, 16, vocab_size)))
  base = batch['decoder_input_tokens']
  assert causality.check_causality(leaky, batch, vocab_size, tolerance=2.0 ** -20).leaks == ()
  assert causality.check_causality(leaky, batch, vocab_size, tolerance=2.0 ** -21).leaks


def test_the_command_says_so_and_its_status_does(capsys, monkeypatch):
  argv = ['evaluate', 'causality', '--gin_file=models/gpt2_small.gin']
  assert cli.main(argv) == 0
  assert capsys.readouterr().out.startswith('causal: 29 tokens were changed one by one, and no ')
  leaks = tuple(causality.Leak(0, 'decoder', t, t - 1, 0.25) for t in range(1, 13))
  monkeypatch.setattr(causality, 'check_config', lambda _: causality.Causality(leaks, 29, 29))
  assert cli.main(argv) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == ('row 0: decoder token 1 changes the prediction after decoder token 0 by 0.25 '
                      'nats')
  assert lines[-1] == 'and 2 more' and len(lines) == 11
  monkeypatch.setattr(causality, 'check_config', lambda _: causality.Causality((), 29, 0))
  assert cli.main(argv) == 1
  assert 'no log-probability changed at all' in capsys.readouterr().out

"""Losses of a text: its rows as each family reads them, and sums against a plain computation."""

import math
import types

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.perplexity import Losses, Text, sum_losses
from t5x_lite.evaluation.scoring import make_score
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

TOKENIZER = types.SimpleNamespace(start_id=0, eos_id=1, add_eos=True, cls_id=2, mask_id=3)
IDS = [*range(10, 31)]   # 21 of them


def text(config, lengths, frame=None, ids=IDS):
  return Text(config, ids, lengths, TOKENIZER, TOKENIZER, frame)


def test_a_decoder_predicts_each_token_of_a_row_from_those_before_it(configs):
  (batch,) = text(configs['decoder'], (0, 8)).batches()
  assert batch['decoder_input_tokens'][:3].tolist() == [
      [0, 10, 11, 12, 13, 14, 15, 16], [0, 18, 19, 20, 21, 22, 23, 24],
      [0, 26, 27, 28, 29, 0, 0, 0]]
  assert batch['decoder_target_tokens'][2].tolist() == [26, 27, 28, 29, 30, 0, 0, 0]
  assert batch['decoder_segment_ids'][2].tolist() == [1] * 5 + [0] * 3
  assert batch['decoder_loss_weights'].sum() == 21   # rows that fill the batch have none


def test_nothing_of_a_frame_is_predicted_and_no_first_token_without_one(configs):
  (framed,) = text(configs['decoder'], (0, 8), ((5, 6), ())).batches()
  assert framed['decoder_input_tokens'][0].tolist() == [5, 6, 10, 11, 12, 13, 14, 15]
  assert framed['decoder_loss_weights'][0].tolist() == [0] + [1] * 7
  assert framed['decoder_loss_weights'].sum() == 21
  (bare,) = text(configs['decoder'], (0, 8), ((), ())).batches()
  assert bare['decoder_target_tokens'][0].tolist() == [*range(11, 19)]
  assert bare['decoder_loss_weights'].sum() == 21 - 3   # of three rows


def test_a_decoder_beside_an_encoder_goes_on_from_what_that_reads(configs):
  (batch,) = text(configs['encoder_decoder'], (6, 4)).batches()
  assert batch['encoder_input_tokens'][:3].tolist() == [
      [10, 11, 12, 13, 14, 1], [19, 20, 21, 22, 23, 1], [28, 29, 1, 0, 0, 0]]
  assert batch['decoder_target_tokens'][:3].tolist() == [
      [15, 16, 17, 18], [24, 25, 26, 27], [30, 0, 0, 0]]
  assert batch['decoder_input_tokens'][0].tolist() == [0, 15, 16, 17]
  assert batch['decoder_loss_weights'].sum() == 9


def test_an_encoder_guesses_some_tokens_the_same_each_time(configs):
  ids = np.arange(10, 60).repeat(40)
  batches = text(configs['encoder'], (12, 0), ids=ids).batches()
  again = text(configs['encoder'], (12, 0), ids=ids).batches()
  jax.tree.map(np.testing.assert_array_equal, batches, again)
  read, want, weights = (np.concatenate([batch[f'encoder_{name}'] for batch in batches])
                         for name in ('input_tokens', 'target_tokens', 'loss_weights'))
  assert (read[:, 0] == 2).all() and (read[:200, -1] == 1).all()
  np.testing.assert_array_equal(read[:200] == 3, weights[:200] == 1)
  np.testing.assert_array_equal(np.where(weights[:200] == 1, want[:200], read[:200]), want[:200])
  assert weights.sum() / 2000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize('name', ['decoder', 'encoder_decoder', 'encoder'])
def test_losses_are_those_of_a_plain_computation(name, configs, random_params, forward):
  config, params = configs[name], random_params(configs[name])
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  lengths = {'decoder': (0, 8), 'encoder_decoder': (6, 4), 'encoder': (12, 0)}[name]
  batches = text(config, lengths, ids=[*range(4, 64)] * 5).batches()
  got = sum_losses(make_score(models.build_network(config), partitioner), params, partitioner,
                   batches)
  total, weight = 0.0, 0
  for batch in batches:
    logits = np.asarray(forward(config)(params, batch), np.float64)
    side = config.target_side
    for row, targets, weights in zip(logits, batch[f'{side}_target_tokens'],
                                     batch[f'{side}_loss_weights']):
      for scores, target in zip(row[weights > 0], targets[weights > 0]):
        total += math.log(np.exp(scores - scores[target]).sum())
        weight += 1
  assert got.weight == weight and got.total == pytest.approx(total, rel=1e-5)
  assert got.perplexity == pytest.approx(math.exp(total / weight), rel=1e-5)


def test_what_cannot_be_measured_is_refused(configs):
  with pytest.raises(UserError, match='no room for text'):
    text(configs['decoder'], (0, 4), ((5,) * 6, ()))
  with pytest.raises(UserError, match='no token to predict'):
    sum_losses(None, None, None, [])
  assert Losses(2 * math.log(3), 2).perplexity == pytest.approx(3)

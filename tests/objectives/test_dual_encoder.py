"""The dual encoder's loss and gradients beside torch's of its formula, on one and 8 devices."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.interop import huggingface
from t5x_lite.models.outputs import Outputs
from t5x_lite.objectives.dual_encoder import DualEncoder, candidates_of, margin_losses
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.objective import normalizers
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.step import loss_and_gradients
from tests.conftest import CONFIGS

PAIRS, LENGTH = 16, 8


def torch_loss(vectors, tokens, valid, margin, scale):
  """LaBSE's formula as it is written, a pair after the other; (loss, accuracy) of a pair."""
  import torch
  x, y = torch.nn.functional.normalize(vectors, dim=-1).unbind(1)
  cosine = lambda i, n, swapped: (x[n] @ y[i] if swapped else x[i] @ y[n])
  total, right = 0.0, 0
  for swapped in (False, True):
    for i in np.flatnonzero(valid):
      own = torch.exp(scale * (cosine(i, i, swapped) - margin))
      others = [cosine(i, n, swapped) for n in np.flatnonzero(valid)
                if not any((tokens[i, side] == tokens[n, side]).all() for side in (0, 1))]
      total = total - torch.log(own / (own + sum(torch.exp(scale * s) for s in others)))
      right += all(cosine(i, i, swapped) > s for s in others)
  return total / valid.sum(), right / 2 / valid.sum()


def batch_of(vocab=64):
  """Pairs of which two share a second text, two the first, and the last is padding."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, vocab, (PAIRS, 2, LENGTH)).astype(np.int32)
  tokens[..., 0] = 2
  for row in tokens.reshape(-1, LENGTH):
    row[rng.integers(4, LENGTH + 1):] = 0
  tokens[3, 1], tokens[7, 0] = tokens[5, 1], tokens[6, 0]
  tokens[-1] = 0
  valid = np.arange(PAIRS) < PAIRS - 1
  return {'encoder_input_tokens': tokens, 'encoder_loss_weights': valid[:, None].astype(np.int32),
          'encoder_segment_ids': (tokens != 0).astype(np.int32)}, valid


def partitioner_of(devices):
  return Partitioner(MeshConfig(data=devices).make(jax.devices()[:devices]))


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('objective', [DualEncoder(), DualEncoder(margin=0.0, scale=1.0)])
def test_loss_and_gradients_are_those_of_the_formula_in_torch(objective, devices):
  torch = pytest.importorskip('torch')
  batch, valid = batch_of()
  vectors = np.random.default_rng(1).normal(size=(PAIRS, 2, 32)).astype(np.float32)
  want_vectors = torch.tensor(vectors, dtype=torch.float64, requires_grad=True)
  want, accuracy = torch_loss(want_vectors, batch['encoder_input_tokens'], valid,
                              objective.margin, objective.scale)
  want.backward()
  place = partitioner_of(devices).put_batch

  @jax.jit
  @jax.value_and_grad
  def loss(vectors, batch):
    model = types.SimpleNamespace(
        config=types.SimpleNamespace(head='pooler'),
        outputs=lambda batch, key: Outputs(vectors.reshape(2 * PAIRS, 1, -1), None))
    sums = objective(model, batch, None, normalizers(batch))
    return sums.total / sums.weight

  placed = place(batch | {'vectors': vectors})
  assert len(placed['vectors'].sharding.device_set) == devices
  got, gradient = loss(placed.pop('vectors'), placed)
  np.testing.assert_allclose(got, want.item(), rtol=1e-5)
  largest = want_vectors.grad.abs().max().item()
  np.testing.assert_allclose(gradient, want_vectors.grad, rtol=0, atol=1e-5 * largest)
  assert 0 < accuracy < 1 or objective.margin == 0


@pytest.mark.parametrize('devices', [1, 8])
def test_a_whole_encoder_has_the_gradients_of_transformers(devices, tmp_path, random_params):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = dataclasses.replace(CONFIGS['encoder'], head='pooler', num_token_types=2)
  params, (batch, valid) = random_params(config), batch_of(config.vocab_size)
  huggingface.save_model(tmp_path, config, params)
  bert = transformers.BertModel.from_pretrained(tmp_path).double().eval()
  rows = torch.tensor(batch['encoder_input_tokens'].reshape(-1, LENGTH)).long()
  pooled = bert(rows[:-2], attention_mask=(rows[:-2] != 0).long()).pooler_output   # less padding
  vectors = torch.cat([pooled, torch.ones(2, config.embed_dim)]).reshape(PAIRS, 2, -1)
  want, accuracy = torch_loss(vectors, batch['encoder_input_tokens'], valid, 0.3, 20.0)
  want.backward()

  partitioner = partitioner_of(devices)
  network = models.build_network(config, partitioner)
  sums, grads = jax.jit(lambda params, batch: loss_and_gradients(
      network, (DualEncoder(), CrossEntropy()), params, batch, None))(
          params, partitioner.put_batch(batch))
  assert sums.weight == valid.sum()
  np.testing.assert_allclose(sums.total / sums.weight, want.item(), rtol=1e-5)
  share = lambda name: np.divide(*sums.metrics[name])
  np.testing.assert_allclose(share('loss'), want.item(), rtol=1e-5)
  np.testing.assert_allclose(share('accuracy'), accuracy, rtol=1e-6)
  theirs = {name: x.grad.numpy() for name, x in bert.named_parameters()}
  ours = dict(huggingface.their_tensors('bert', config, jax.device_get(grads)))
  largest = max(np.abs(x).max() for x in theirs.values())
  assert len(ours) == len(theirs)
  for name, x in ours.items():
    np.testing.assert_allclose(x / valid.sum(), theirs[name.removeprefix('bert.')], rtol=0,
                               atol=1e-5 * largest, err_msg=name)


def test_pairs_that_share_a_text_are_no_wrong_answers_and_one_alone_has_no_loss():
  tokens = jnp.array([[[5, 1], [6, 1]], [[5, 1], [7, 1]], [[8, 1], [7, 1]], [[8, 1], [9, 0]]])
  no_pair = jnp.array([True, True, True, False])
  assert candidates_of(tokens, no_pair).astype(int).tolist() == [
      [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
  cosines = jnp.array([[0.2, 0.9], [0.1, 0.5]])
  for losses in margin_losses(cosines, jnp.zeros((2, 2), bool), 0.3, 20.0):
    assert losses.tolist() == [0.0, 0.0]
  forward, backward = margin_losses(cosines, jnp.ones((2, 2), bool), 0.0, 2.0)
  np.testing.assert_allclose(forward, np.log1p(np.exp([1.4, -0.8])), rtol=1e-6)
  np.testing.assert_allclose(backward, np.log1p(np.exp([-0.2, 0.8])), rtol=1e-6)


def test_what_cannot_be_compared_is_refused_in_one_line():
  batch, _ = batch_of()
  network = models.build_network(CONFIGS['encoder'])
  model = network.bind(network.init(jax.random.key(0)))
  with pytest.raises(UserError, match="set ModelConfig.head = 'pooler'"):
    DualEncoder()(model, batch, None, normalizers(batch))
  model = types.SimpleNamespace(config=types.SimpleNamespace(head='pooler'))
  with pytest.raises(UserError, match='DualEncoder reads pairs of texts'):
    DualEncoder()(model, {'encoder_input_tokens': np.zeros((2, 8))}, None, {})
  with pytest.raises(UserError, match='DualEncoder.scale'):
    DualEncoder(scale=0.0)

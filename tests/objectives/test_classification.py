"""GPT-1's fine-tuning: texts of a row beside each text alone, and the sums of its objective."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.special

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import text_features, text_spans
from t5x_lite.models import ModelConfig
from t5x_lite.objectives.classification import Classification
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import abstract_params
from t5x_lite.training.step import loss_and_gradients

START, EOS, LENGTH, CLASSES = 0, 1, 24, 3
GPT = ModelConfig(family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4,
                  mlp_dim=64, norm='layer_norm', norm_placement='post', activation='gelu',
                  gated_mlp=False, bias=True, position_embedding='learned', max_length=LENGTH,
                  init_std=0.2, num_classes=CLASSES)
LLAMA = ModelConfig(family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4,
                    num_kv_heads=2, mlp_dim=64, init_std=0.2, num_classes=CLASSES)
as_choice = lambda config: dataclasses.replace(config, head='choice', num_classes=None)
CONFIGS = {'gpt classifier': GPT, 'gpt choice': as_choice(GPT),
           'llama classifier': LLAMA, 'llama choice': as_choice(LLAMA)}
# Ids of the texts of each row; rows of unequal length, so that a mean of means would differ.
TEXTS = [[[5, 6, 7], [8, 9, 10, 11, 12]], [[20], [21, 22]], [[30, 31, 32, 33, 34, 35, 36], [37]],
         [[40, 41], [42, 43, 44, 45]]]
LABELS = np.int32([0, 1, 1, 0])


def batch_of(texts, labels=LABELS, length=LENGTH, num_rows=None):
  rows = [sum(([START, *text, EOS] for text in row), []) for row in texts]
  spans = [text_spans(row, EOS) for row in rows]
  padding = (num_rows or len(rows)) - len(rows)
  batch = text_features(rows + [[]] * padding, spans + [[]] * padding, length)
  return batch | {'class_labels': np.pad(labels, (0, padding))}


@functools.cache
def compiled_loss(config, factor, microbatches):
  network = models.build_network(config)
  objectives = CrossEntropy(), Classification(language_model=factor)
  return jax.jit(lambda params, batch: loss_and_gradients(
      network, objectives, params, batch, None, microbatches=microbatches))


def sums_of(config, params, batch, microbatches=1, language_model=0.5):
  return compiled_loss(config, language_model, microbatches)(params, batch)


@functools.cache
def compiled_outputs(config):
  network = models.build_network(config)
  return jax.jit(lambda params, batch: network.bind(params).outputs(batch))


def outputs_of(config, params, batch):
  return compiled_outputs(config)(params, batch)


def test_features_of_texts_are_as_the_docstring_has_them():
  row = [0, 7, 8, 1, 0, 9, 1]
  assert text_spans(row, 1) == text_spans([*row, 0, 0], 1) == [(0, 4), (4, 7)]
  batch = text_features([row], [text_spans(row, 1)], 8)
  assert {name: x[0].tolist() for name, x in batch.items()} == {
      'decoder_input_tokens': [0, 7, 8, 1, 0, 9, 1, 0],
      'decoder_target_tokens': [7, 8, 1, 0, 9, 1, 0, 0],
      'decoder_loss_weights': [1, 1, 1, 0, 1, 1, 0, 0],
      'decoder_segment_ids': [1, 1, 1, 1, 2, 2, 2, 0],
      'decoder_positions': [0, 1, 2, 3, 0, 1, 2, 0], 'text_positions': [3, 6]}


@pytest.mark.parametrize('row, spans', [
    ([1, 7, 1, 1, 8, 9, 1], [(0, 3), (3, 7)]), ([1, 1, 1, 1], [(0, 2), (2, 4)]),
    ([0, 1, 0, 7, 1], [(0, 2), (2, 5)]), ([], []), ([0, 0, 0], [])])
def test_an_end_may_also_begin_texts_and_texts_may_be_empty(row, spans):
  assert text_spans(row, 1) == spans


@pytest.mark.parametrize('name', ['gpt classifier', 'llama choice', *(
    pytest.param(name, marks=pytest.mark.slow) for name in ('gpt choice', 'llama classifier'))])
def test_texts_of_a_row_are_read_as_each_alone(name, random_params):
  config = CONFIGS[name]
  params = random_params(config)
  batch = batch_of(TEXTS, num_rows=5)
  got = np.asarray(outputs_of(config, params, batch).class_logits_BC)[:4]
  # Brute force: every text in a row of its own, without segments.
  tokens, last = np.zeros((8, LENGTH), np.int32), []
  for i, text in enumerate(text for row in TEXTS for text in row):
    tokens[i, :len(text) + 2] = [START, *text, EOS]
    last.append(len(text) + 1)
  hidden = np.asarray(outputs_of(config, params, {'decoder_input_tokens': tokens}).hidden)
  states = hidden[np.arange(8), last].reshape(4, 2, -1)
  head = params['classifier']
  want = (states @ head['kernel'])[..., 0] + head['bias'] if 'choice' in name else (
      states.sum(1) @ head['kernel'])
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=2e-5)
  swapped = batch_of([row[::-1] for row in TEXTS])
  other = np.asarray(outputs_of(config, params, swapped).class_logits_BC)
  np.testing.assert_allclose(other, got[:, ::-1] if 'choice' in name else got, atol=2e-5)
  longer = dataclasses.replace(config, max_length=40)
  if config.position_embedding == 'rope':   # padding to another length changes nothing
    padded = outputs_of(longer, params, batch_of(TEXTS, length=40)).class_logits_BC
    np.testing.assert_allclose(padded, got, atol=2e-5)


def test_fewer_choices_in_a_row_are_those_that_are_there(random_params):
  config = CONFIGS['llama choice']
  params = random_params(config)
  few = [TEXTS[0], TEXTS[1][:1]]
  got = np.asarray(outputs_of(config, params, batch_of(few, LABELS[:2])).class_logits_BC)
  full = np.asarray(outputs_of(config, params, batch_of(TEXTS)).class_logits_BC)
  np.testing.assert_allclose(got[0], full[0], atol=2e-5)
  np.testing.assert_allclose(scipy.special.softmax(got[1]), [1, 0], atol=1e-6)


@pytest.mark.parametrize('name', ['gpt classifier', 'llama choice'])
def test_l3_is_the_rows_mean_and_lambda_times_the_tokens_mean(name, random_params):
  config = CONFIGS[name]
  params, batch = random_params(config), batch_of(TEXTS, num_rows=6)
  outputs = outputs_of(config, params, batch)
  log_p = scipy.special.log_softmax(np.float64(outputs.class_logits_BC), -1)
  want = -log_p[np.arange(4), LABELS].mean()
  logits, weights = np.float64(outputs.logits()), batch['decoder_loss_weights']
  token = -np.take_along_axis(scipy.special.log_softmax(logits, -1),
                              batch['decoder_target_tokens'][..., None], -1)[..., 0]
  language = (token * weights).sum() / weights.sum()
  assert weights.sum() == sum(len(text) + 1 for row in TEXTS for text in row)
  for factor in (0.0, 0.5):
    sums, _ = sums_of(config, params, batch, language_model=factor)
    assert float(sums.total / sums.weight) == pytest.approx(want + factor * language, rel=1e-5)
    metrics = {name: float(total / weight) for name, (total, weight) in sums.metrics.items()}
    assert metrics.pop('loss') == pytest.approx(want, rel=1e-5)
    assert metrics.pop('accuracy') == (log_p.argmax(-1)[:4] == LABELS).mean()
    assert metrics == ({} if not factor else {'language_model_loss': pytest.approx(language)})


def test_parts_of_a_batch_have_its_sums_and_gradients(random_params, assert_gradients_close):
  params, batch = random_params(GPT), batch_of(TEXTS, num_rows=6)
  sums, grads = sums_of(GPT, params, batch)
  parts, part_grads = sums_of(GPT, params, batch, microbatches=3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, sums)
  assert_gradients_close(part_grads, grads)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_without_a_language_model_the_vocabulary_is_not_computed():
  """Nothing runs: the compiler says how many FLOPs it needs; the output layer is most of all."""
  config = dataclasses.replace(GPT, vocab_size=32768)
  network = models.build_network(config)
  params = jax.eval_shape(lambda: network.init(jax.random.key(0)))
  batch = batch_of(TEXTS)

  def flops(factor):
    step = jax.jit(lambda params, batch: loss_and_gradients(
        network, (CrossEntropy(), Classification(language_model=factor)), params, batch, None)[0])
    return step.lower(params, batch).compile().cost_analysis()['flops']

  assert flops(0.5) > 5 * flops(0.0)


def test_a_decoder_that_classifies_is_not_trained_by_the_cross_entropy_alone(random_params):
  with pytest.raises(UserError, match=r'none of CrossEntropy applies to this model and its data: '
                     r'add one that does, such as @classification.Classification\(\)'):
    loss_and_gradients(models.build_network(GPT), (CrossEntropy(),), random_params(GPT),
                       batch_of(TEXTS), None)
  with pytest.raises(UserError, match='Classification.language_model = -0.5'):
    Classification(language_model=-0.5)


@pytest.mark.slow
def test_a_mesh_changes_nothing(random_params, assert_gradients_close):
  params, batch = random_params(GPT), batch_of(TEXTS * 2, np.tile(LABELS, 2))
  want, want_grads = sums_of(GPT, params, batch)
  mesh = MeshConfig(data=2, fsdp=2, tensor=2)
  partitioner = Partitioner(mesh.make(), mesh.rules)
  network = models.build_network(GPT, partitioner)
  shardings = jax.tree.map(lambda x: x.sharding, abstract_params(network, partitioner))
  step = jax.jit(lambda params, batch: loss_and_gradients(
      network, (Classification(),), params, batch, None))
  got, grads = step(jax.device_put(params, shardings), partitioner.put_batch(batch))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
  assert_gradients_close(jax.device_get(grads), jax.device_get(want_grads))

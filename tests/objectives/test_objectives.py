"""The loss in chunks against the loss on the whole, and what a step's objective adds to it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from t5x_lite.objectives.cross_entropy import (
  chunked_cross_entropy,
  compact_targets,
  cross_entropy,
)
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.objective import normalizers
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.training.step import loss_and_gradients

B, L, D, V = 4, 12, 6, 11
OPTIONS = {'plain': {}, 'smoothed': dict(label_smoothing=0.2, z_loss=0.05)}
BERT = ModelConfig(family='encoder_only', vocab_size=64, embed_dim=32, num_layers=1, num_heads=4,
                   mlp_dim=64, num_token_types=2, head='mlm_nsp', init_std=0.2)


def draw(dtype=np.float32, seed=0, D=D, V=V):
  """Parameters of a head, and x, targets and weights, of which one row has none at its end."""
  rng = np.random.default_rng(seed)
  params = {'kernel': rng.normal(size=(D, V)).astype(np.float32),
            'bias': rng.normal(size=V).astype(np.float32)}
  weights = rng.choice([0.0, 0.5, 2.0], (B, L)).astype(np.float32)
  weights[0, 5:] = 0
  weights[1:, -1] = 1
  return (params, jnp.asarray(rng.normal(size=(B, L, D)), dtype),
          rng.integers(0, V, (B, L)), weights)


def head(params) -> jax.tree_util.Partial:
  def logits(params, x):
    bias_11V = params['bias'].astype(x.dtype)[None, None, :]
    y = x @ params['kernel'].astype(x.dtype) + bias_11V
    return y.astype(jnp.float32)
  return jax.tree_util.Partial(logits, params)


def whole(params, x, targets, weights, **options):
  return cross_entropy(head(params)(x), targets, weights, **options)


def chunked(params, x, targets, weights, *, chunk, **options):
  return chunked_cross_entropy(head(params), x, targets, weights, chunk,
                                      tuple(options.items()))


def moved(params, x, targets, weights, *, chunk, **options):
  return chunked(params, *compact_targets(x, targets, weights), chunk=chunk, **options)


@functools.cache
def gradient_of(run, options):
  def scalar(params, x, targets, weights):
    sums = run(params, x, targets, weights, **dict(options))
    return 0.25 * sums['objective'], sums
  return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))


def sums_and_gradients(run, params, x, targets, weights, **options):
  """The sums, and the gradients of params and x of a multiple of the objective."""
  grads, sums = gradient_of(run, tuple(options.items()))(params, x, targets, weights)
  return sums, grads


@pytest.mark.parametrize('chunk, options, run', [
    (1, 'plain', moved), (3, 'smoothed', chunked), (5, 'smoothed', moved), (L, 'plain', chunked),
    (100, 'plain', moved)])
def test_chunks_have_the_sums_and_gradients_of_the_whole(
    chunk, options, run, assert_gradients_close):
  args, options = draw(), OPTIONS[options]
  want, want_grads = sums_and_gradients(whole, *args, **options)
  got, grads = sums_and_gradients(run, *args, chunk=chunk, **options)
  assert got.keys() == want.keys() and want['objective'] > 0
  assert bool(options) == bool(want['objective'] != want['loss'])
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
  assert_gradients_close(grads, want_grads)
  # Without gradients, as an evaluation runs it, the loop is another.
  alone = jax.jit(functools.partial(run, chunk=chunk, **options))
  for name, value in alone(*args).items():
    np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('run', [chunked, moved])
def test_without_weight_the_sums_and_gradients_are_zero(run):
  params, x, targets, weights = draw()
  weights = np.zeros_like(weights)
  sums, grads = sums_and_gradients(run, params, x * jnp.nan, targets, weights, chunk=5, z_loss=0.1)
  assert {name: float(value) for name, value in sums.items()} == dict.fromkeys(
      ('objective', 'loss', 'correct', 'weight'), 0.0)
  assert not any(np.any(g) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize('run', [chunked, moved])
def test_bfloat16_gradients_keep_their_dtypes_and_are_close(run, assert_gradients_close):
  args = draw(jnp.bfloat16)
  want, want_grads = sums_and_gradients(whole, *args, label_smoothing=0.1)
  got, grads = sums_and_gradients(run, *args, label_smoothing=0.1, chunk=5)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert dtypes(grads) == dtypes(want_grads) == (dict(kernel=np.float32, bias=np.float32),
                                                 jnp.bfloat16)
  as_float = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
  assert_gradients_close(as_float(grads), as_float(want_grads), tolerance=2e-2)


@pytest.mark.parametrize('last, chunk, computed', [(0, 4, 4), (3, 4, 4), (4, 4, 8), (6, 5, 8),
                                                   (11, 4, 12), (2, 1, 3)])
def test_chunks_after_the_last_weight_of_all_rows_are_not_computed(last, chunk, computed):
  """What is not a number would spread. Chunks are made even: 12 places in chunks of at most 5 are
  three of 4."""
  params, x, targets, weights = draw()
  weights[:, last + 1:] = 0
  weights[2, last] = 1
  spoil = lambda place: x.at[:, place:].set(jnp.nan)
  want, (dparams, dx) = sums_and_gradients(whole, params, x, targets, weights)
  got, (got_dparams, got_dx) = sums_and_gradients(
      chunked, params, spoil(computed), targets, weights, chunk=chunk)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
               got_dparams, dparams)
  np.testing.assert_allclose(got_dx, dx, atol=1e-5)
  if computed > last + 1:   # what has no weight in a chunk that is computed does spread
    spoiled, _ = sums_and_gradients(
        chunked, params, spoil(computed - 1), targets, weights, chunk=chunk)
    assert np.isnan(spoiled['loss'])


def test_with_the_weighted_ones_first_few_scattered_tokens_cost_one_chunk():
  params, x, targets, weights = draw()
  weights[:] = 0
  places = np.array([[2, 7, 11], [0, 1, 5], [3, 4, 10], [6, 8, 9]])
  np.put_along_axis(weights, places, np.float32([[1, 2, 0.5]]), 1)
  want, (dparams, dx) = sums_and_gradients(whole, params, x, targets, weights)
  spoiled = jnp.where(weights[..., None] > 0, x, jnp.nan)
  in_place, _ = sums_and_gradients(chunked, params, spoiled, targets, weights, chunk=3)
  assert np.isnan(in_place['loss'])
  got, (got_dparams, got_dx) = sums_and_gradients(
      moved, params, spoiled, targets, weights, chunk=3)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(got_dx, dx, atol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
               got_dparams, dparams)


def test_weighted_first_keeps_the_order_of_both_kinds():
  x = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
  weights = np.float32([[0, 2, 0, 0.5, 1, 0]])
  got_x, targets, got_weights = compact_targets(x, np.arange(6)[None] * 10, weights)
  assert got_x[0, :, 0].tolist() == [1, 3, 4, 0, 2, 5]
  assert targets[0].tolist() == [10, 30, 40, 0, 20, 50]
  assert got_weights[0].tolist() == [2, 0.5, 1, 0, 0, 0]


def test_the_vocabulary_is_computed_for_chunks_of_answers_alone():
  """Two tokens of each row of twelve have weight, after a prompt: one chunk of three holds them."""
  params, x, targets, _ = draw()
  weights = np.zeros(x.shape[:2], np.float32)
  weights[:, -3:-1] = 1
  calls = []

  def logits(params, x):
    jax.debug.callback(lambda: calls.append(1))
    return head(params)(x)

  def objective(x, compact):
    given = compact_targets(x, targets, weights) if compact else (x, targets, weights)
    return chunked_cross_entropy(jax.tree_util.Partial(logits, params), *given, 3, ())['objective']

  for compact, chunks in ((False, 4), (True, 1)):
    calls.clear()
    gradient = jax.jit(jax.grad(objective), static_argnums=1)(x, compact)
    jax.effects_barrier()
    assert len(calls) == chunks and gradient.shape == x.shape


def test_a_frozen_head_has_no_gradient():
  """Neither its product, a third of the arithmetic, nor the memory of it."""
  params, x, targets, weights = draw(D=64, V=4096)
  frozen = jax.jit(jax.grad(lambda x: chunked(
      params, x, targets, weights, chunk=3)['objective'])).lower(x).compile()
  trained = jax.jit(jax.grad(lambda params, x: chunked(
      params, x, targets, weights, chunk=3)['objective'], argnums=(0, 1))).lower(
          params, x).compile()
  # Two programs add up 4,096 terms, to numbers up to 5, in orders that the processor decides: on
  # one kind they are equal to 1e-6, on another to 3.1e-6.
  np.testing.assert_allclose(frozen(x), trained(params, x)[1], atol=5e-6)
  size = params['kernel'].nbytes
  memory = lambda compiled: compiled.memory_analysis().temp_size_in_bytes
  assert memory(frozen) < 0.5 * size
  assert memory(trained) + trained.memory_analysis().output_size_in_bytes > size
  ratio = frozen.cost_analysis()['flops'] / trained.cost_analysis()['flops']
  assert 0.6 < ratio < 0.75, ratio


def compiled_loss(config, params, batch, microbatches=1, **options):
  """(params, batch) -> (sums by name, gradients) of all objectives of a run."""
  network = models.build_network(config)
  objectives = CrossEntropy(**options), RouterLoss(), NextSentenceLoss()

  def compute(params, batch):
    sums, grads = loss_and_gradients(network, objectives, params, batch, None,
                                     microbatches=microbatches)
    named = {name: total for name, (total, _) in sums.metrics.items()}
    named |= {'objective': sums.total, 'weight': sums.weight, 'correct': named['accuracy']}
    return named, grads

  return jax.jit(compute).lower(params, batch).compile()


def of_all_logits(config, params, batch, **options):
  """The sums and gradients of a model whose logits are computed at once."""
  network = models.build_network(config)
  side = config.target_side

  def scalar(params):
    sums = cross_entropy(network.bind(params)(batch), batch[f'{side}_target_tokens'],
                         batch[f'{side}_loss_weights'], **options)
    return sums['objective'], sums

  grads, sums = jax.jit(jax.grad(scalar, has_aux=True))(params)
  return sums, grads


@pytest.mark.parametrize('name, changes', [
    ('decoder', dict(logits_softcap=4.0)), ('encoder_decoder', {})])
def test_a_models_loss_in_chunks_is_that_of_all_its_logits(
    name, changes, configs, packed_batch, random_params, assert_gradients_close):
  config = dataclasses.replace(configs[name], **changes)
  params, batch = random_params(config), packed_batch(config)
  options = dict(label_smoothing=0.1, z_loss=0.01)
  want, want_grads = of_all_logits(config, params, batch, **options)
  got, grads = compiled_loss(config, params, batch, loss_tokens=8 * 3, **options)(params, batch)
  for key in want:
    np.testing.assert_allclose(got[key], want[key], rtol=1e-5, err_msg=key)
  assert_gradients_close(grads, want_grads)


@pytest.mark.parametrize('head, classes', [('classifier', 3), ('tagger', 4)])
def test_the_loss_of_classes_is_that_of_the_words_among_them(
    head, classes, random_examples, pack_rows, random_params):
  config = dataclasses.replace(BERT, head=head, num_classes=classes)
  rng = np.random.default_rng(0)
  batch = pack_rows([[example] for example in random_examples(config, [9, 16, 3, 12])])
  targets = 1 if head == 'classifier' else 16
  batch['encoder_target_tokens'] = rng.integers(0, classes, (4, targets))
  batch['encoder_loss_weights'] = rng.choice([0.5, 1.0, 2.0], (4, targets)).astype(np.float32)
  params = random_params(config)
  want, _ = of_all_logits(config, params, batch)
  got, _ = compiled_loss(config, params, batch, loss_tokens=8)(params, batch)
  for key in want:
    np.testing.assert_allclose(got[key], want[key], rtol=1e-5, err_msg=key)


@pytest.fixture(scope='module')
def sentences(random_examples, pack_rows):
  """A batch of BERT's two objectives: six rows of unequal weight, two of padding alone."""
  examples = random_examples(BERT, [16, 9, 12, 3, 7, 16])
  batch = pack_rows([[example] for example in examples], num_rows=8)
  rng = np.random.default_rng(0)
  batch['encoder_token_types'] = (np.arange(16) >= 6).astype(np.int32) * np.ones((8, 1), np.int32)
  batch['next_sentence_labels'] = rng.integers(0, 2, 8, dtype=np.int32)
  batch['encoder_loss_weights'][1::2] *= 3
  return batch


@pytest.fixture(scope='module')
def losses_of_bert(sentences, random_params):
  """The sums and gradients of its batch, in chunks."""
  params = random_params(BERT)
  return compiled_loss(BERT, params, sentences, loss_tokens=8 * 3)(params, sentences)


def test_the_next_sentence_loss_is_a_mean_over_the_rows_that_hold_an_example(
    sentences, random_params, losses_of_bert):
  params = random_params(BERT)
  network = models.build_network(BERT)
  compute = jax.jit(lambda params, batch: network.bind(params).outputs(batch))
  outputs = compute(params, sentences)
  log_p = scipy.special.log_softmax(np.float64(outputs.next_sentence_logits_BC), -1)
  want = -log_p[np.arange(6), sentences['next_sentence_labels'][:6]].sum()
  sums, _ = losses_of_bert
  assert float(sums['next_sentence_loss']) == pytest.approx(want, rel=1e-5)
  weight = sentences['encoder_loss_weights'].sum()
  assert sums['weight'] == weight > 0
  # Divided by the weight, as a step does: the masked tokens' mean and the rows' mean.
  assert float(sums['objective'] / weight) == pytest.approx(
      float(sums['loss'] / weight + want / 6), rel=1e-5)
  logits, targets = outputs.logits(), sentences['encoder_target_tokens']
  masked = cross_entropy(logits, targets, sentences['encoder_loss_weights'])
  for key in ('loss', 'correct'):   # which the other objective does not touch
    np.testing.assert_allclose(sums[key], masked[key], rtol=1e-5)


def test_parts_of_unequal_weight_give_both_of_berts_losses_of_one_batch(
    sentences, random_params, losses_of_bert, assert_gradients_close):
  """In eight parts, of which two hold padding alone."""
  params, (sums, grads) = random_params(BERT), losses_of_bert
  each = sentences['encoder_loss_weights'].sum(1)[:6]
  assert max(each) > 1.5 * min(each), 'the share of a part would be that of the batch'
  part_sums, part_grads = compiled_loss(BERT, params, sentences, microbatches=8)(
      params, sentences)
  for name in sums:
    np.testing.assert_allclose(part_sums[name], sums[name], rtol=1e-5, err_msg=name)
  assert_gradients_close(part_grads, grads)


def test_normalizers_are_the_weight_of_a_token_and_of_a_row(sentences):
  share = normalizers(sentences)
  weight = sentences['encoder_loss_weights'].sum()
  assert float(share['token']) == pytest.approx(weight / (16 + 9 + 12 + 3 + 7 + 16))
  assert float(share['row']) == pytest.approx(weight / 6)
  unpadded = {'encoder_input_tokens': np.ones((2, 7), np.int32),
              'decoder_input_tokens': np.ones((2, 5), np.int32),
              'decoder_loss_weights': np.full((2, 5), 0.5, np.float32)}
  share = normalizers(unpadded)
  assert float(share['token']) == pytest.approx(5 / (2 * 7 + 2 * 5))
  assert float(share['row']) == pytest.approx(5 / 2)


@pytest.mark.parametrize('family, head', [('decoder_only', None), ('encoder_only', 'mlm')])
def test_the_logits_of_all_tokens_are_never_held(family, head):
  """Nothing runs: the compiler says what it would allocate."""
  config = ModelConfig(family=family, head=head, vocab_size=32768, embed_dim=16, num_layers=1,
                       num_heads=2, mlp_dim=16)
  rows, length = 8, 128
  full_logits = rows * length * config.vocab_size * 4
  side = config.target_side
  shape = lambda dtype: jax.ShapeDtypeStruct((rows, length), dtype)
  batch = {f'{side}_input_tokens': shape(np.int32), f'{side}_target_tokens': shape(np.int32),
           f'{side}_loss_weights': shape(np.float32)}
  params = jax.eval_shape(lambda: models.build_network(config).init(jax.random.key(0)))
  temporary = lambda tokens: compiled_loss(
      config, params, batch, loss_tokens=tokens).memory_analysis().temp_size_in_bytes
  assert temporary(64) < full_logits / 4
  assert temporary(rows * length) > full_logits, 'the analysis would not see them'


def test_objectives_of_which_none_applies_are_one_line():
  config = ModelConfig(family='decoder_only', vocab_size=32, embed_dim=8, num_layers=1, num_heads=1,
                       mlp_dim=8)
  network = models.build_network(config)
  row = np.ones((2, 4), np.int32)
  batch = {'decoder_input_tokens': row, 'decoder_target_tokens': row, 'decoder_loss_weights': row}
  with pytest.raises(UserError, match=r'^Experiment.objectives: none of RouterLoss, '
                     r'NextSentenceLoss applies to this model'):
    jax.eval_shape(lambda params: loss_and_gradients(
        network, (RouterLoss(), NextSentenceLoss()), params, batch, None), network.shapes)

"""The same model computed in different ways: packed, scanned, rematerialised."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

FAMILIES = ('decoder', 'encoder_decoder', 'encoder')


def assert_gradients_close(got, want, tolerance=1e-5):
  """Every leaf, to `tolerance` of its largest value.

  The gradient of a bias of keys is zero but for rounding, as softmax ignores a constant; so a
  leaf's largest value counts for no less than a hundredth of the largest of all.
  """
  assert jax.tree.structure(got) == jax.tree.structure(want)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)):
    atol = tolerance * max(np.abs(b).max(), 1e-2 * largest)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))


def packed_and_unpacked(config, packed_examples, pack_rows):
  """14 examples in 8 rows then 6 of padding, and the same 14 examples one a row."""
  rows = packed_examples(config)[:6]
  single = [[example] for example in itertools.chain(*rows)]
  assert len(single) == 14
  return pack_rows(rows, num_rows=14), pack_rows(single)


@pytest.mark.parametrize('name', [*FAMILIES, 'gpt', 'prefix_lm'])
def test_packed_examples_have_the_loss_and_gradient_of_the_same_examples_one_a_row(
    name, configs, packed_examples, pack_rows, random_params, gradients):
  config = configs[name]
  packed, single = packed_and_unpacked(config, packed_examples, pack_rows)
  params = random_params(config)
  packed_sums, packed_grads = gradients(config)(params, packed)
  single_sums, single_grads = gradients(config)(params, single)
  assert packed_sums['weight'] == single_sums['weight'] > 0
  for key in single_sums:
    np.testing.assert_allclose(packed_sums[key], single_sums[key], rtol=1e-5)
  assert_gradients_close(packed_grads, single_grads)


@pytest.mark.parametrize('name', [*FAMILIES, 'gpt', 'prefix_lm'])
def test_the_loss_of_a_packed_example_depends_on_its_segment_ids(
    name, configs, packed_examples, pack_rows, random_params, gradients):
  """Else the test above would compare a model that ignores them with itself."""
  config = configs[name]
  packed, _ = packed_and_unpacked(config, packed_examples, pack_rows)
  one = packed | {k: (v > 0).astype(np.int32) for k, v in packed.items() if 'segment' in k}
  params = random_params(config)
  a, b = (gradients(config)(params, x)[0]['loss'] for x in (packed, one))
  assert abs(a - b) > 1e-3 * a


@pytest.mark.parametrize('name', FAMILIES)
def test_unrolled_layers_give_the_loss_and_gradient_of_scanned_ones(
    name, configs, packed_batch, random_params, unstack, gradients):
  config = configs[name]
  unrolled = dataclasses.replace(config, scan_layers=False)
  batch = packed_batch(config)
  scanned_sums, scanned_grads = gradients(config)(random_params(config), batch)
  sums, grads = gradients(unrolled)(random_params(unrolled), batch)
  np.testing.assert_allclose(sums['loss'], scanned_sums['loss'], rtol=1e-6)
  assert_gradients_close(grads, unstack(scanned_grads))


@pytest.mark.parametrize('name, remat, scan', [
    ('decoder', 'dots', True), ('decoder', 'full', True), ('decoder', 'dots', False),
    ('encoder_decoder', 'dots', True), ('encoder_decoder', 'full', False),
    ('encoder', 'dots', False), ('encoder', 'full', True)])
def test_recomputing_activations_changes_no_gradient(
    name, remat, scan, configs, packed_batch, random_params, gradients):
  config = dataclasses.replace(configs[name], scan_layers=scan)
  params, batch = random_params(config), packed_batch(config)
  sums, grads = gradients(config)(params, batch)
  again, again_grads = gradients(dataclasses.replace(config, remat=remat))(params, batch)
  np.testing.assert_allclose(again['loss'], sums['loss'], rtol=1e-6)
  assert_gradients_close(again_grads, grads)


@pytest.mark.parametrize('scan', [True, False])
def test_remat_full_saves_no_activation_of_a_layer(scan, configs, random_params, packed_batch):
  """What the backward pass recomputes shows in the program, which costs no compilation."""
  from t5x_lite import models, train_step

  def products(remat):
    config = dataclasses.replace(configs['decoder'], remat=remat, scan_layers=scan)
    graphdef, _ = models.graph(config)
    run = lambda params, batch: train_step.loss_and_gradients(
        graphdef, config, params, batch, None)
    text = str(jax.make_jaxpr(run)(random_params(config), packed_batch(config)))
    return text.count('dot_general')

  assert products('full') > products('dots') > products('none')


@pytest.mark.parametrize('name, microbatches', [
    ('decoder', 2), ('decoder', 4), ('encoder_decoder', 4), ('encoder', 2)])
def test_accumulated_parts_of_unequal_weight_give_the_sums_and_gradient_of_one_batch(
    name, microbatches, configs, packed_batch, random_params, gradients):
  config = configs[name]
  params, batch = random_params(config), packed_batch(config)
  weights = next(v for k, v in batch.items() if k.endswith('loss_weights'))
  weights[1::2] *= 0.25
  parts = [weights[i::microbatches].sum() for i in range(microbatches)]
  assert max(parts) > 1.5 * min(parts), 'parts of equal weight would hide a mean of means'
  sums, grads = gradients(config)(params, batch)
  part_sums, part_grads = gradients(config, microbatches)(params, batch)
  for key in sums:
    np.testing.assert_allclose(part_sums[key], sums[key], rtol=1e-6)
  assert_gradients_close(part_grads, grads)

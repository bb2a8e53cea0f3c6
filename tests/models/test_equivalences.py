"""The same examples in different batches: packed or one a row, in one part or several."""

import itertools

import numpy as np
import pytest

FAMILIES = ('decoder', 'encoder_decoder', 'encoder')


def packed_and_unpacked(config, packed_examples, pack_rows):
  """14 examples in 8 rows then 6 of padding, and the same 14 examples one a row."""
  rows = packed_examples(config)[:6]
  single = [[example] for example in itertools.chain(*rows)]
  assert len(single) == 14
  return pack_rows(rows, num_rows=14), pack_rows(single)


@pytest.mark.parametrize('name', [*FAMILIES, 'gpt', 'prefix_lm'])
def test_packed_examples_have_the_loss_and_gradient_of_the_same_examples_one_a_row(
    name, configs, packed_examples, pack_rows, random_params, gradients, assert_gradients_close):
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


@pytest.mark.parametrize('name, microbatches', [
    ('decoder', 2), ('decoder', 4), ('encoder_decoder', 4), ('encoder', 2)])
def test_accumulated_parts_of_unequal_weight_give_the_sums_and_gradient_of_one_batch(
    name, microbatches, configs, packed_batch, random_params, gradients, assert_gradients_close):
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

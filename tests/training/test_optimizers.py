"""Schedules at their edges, AdamW against numpy, Adafactor against T5X's worked steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.training import optimizers
from t5x_lite.training.optimizers import Adafactor, AdamW
from t5x_lite.training.schedules import WSD, Constant, Rsqrt, WarmupCosine


def rates(schedule, steps):
  return [float(schedule(jnp.int32(s))) for s in steps]


def test_constant_rises_to_its_rate_and_stays():
  assert rates(Constant(rate=0.5), [0, 1, 10 ** 6]) == [0.5, 0.5, 0.5]
  assert rates(Constant(rate=0.5, warmup_steps=4), [0, 1, 3, 4]) == [0.125, 0.25, 0.5, 0.5]


def test_rsqrt_is_t5s():
  got = rates(Rsqrt(rate=1.0, warmup_steps=10_000), [0, 1, 10_000, 40_000, 10 ** 6])
  assert got == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.001], rel=1e-6)


def test_warmup_cosine_reaches_its_peak_its_middle_and_its_end():
  schedule = WarmupCosine(peak=1.0, total_steps=110, warmup_steps=10)
  got = rates(schedule, [0, 4, 9, 10, 35, 60, 109])
  assert got == pytest.approx([0.1, 0.5, 1, 1, 0.853553, 0.5, 0.000247], abs=1e-6)


def test_warmup_cosine_stays_at_its_end_and_does_not_jump_back():
  schedule = WarmupCosine(peak=1.0, total_steps=110, warmup_steps=10, end=0.1)
  assert rates(schedule, [110, 111, 210, 10 ** 6]) == pytest.approx([0.1] * 4, rel=1e-6)


def test_wsd_warms_up_is_stable_and_decays():
  schedule = WSD(peak=2.0, total_steps=100, warmup_steps=10, decay_steps=20, end=1.0)
  assert rates(schedule, [0, 4, 9, 80, 90, 100, 500]) == pytest.approx(
      [0.2, 1, 2, 2, 1.5, 1, 1], rel=1e-6)


@pytest.mark.parametrize('steps, warmup', [(1, 0), (7, 3), (199, 99), (200, 100), (10 ** 6, 100)])
def test_a_warmup_of_none_is_100_steps_or_half_of_the_run(steps, warmup):
  assert WarmupCosine(peak=1.0, total_steps=steps, warmup_steps=None).warmup_steps == warmup


@pytest.mark.parametrize('schedule', [
    Constant(rate=1e-3, warmup_steps=10), Rsqrt(), WarmupCosine(peak=1e-3, total_steps=20),
    WarmupCosine(peak=1e-3, total_steps=20, warmup_steps=20),
    WSD(peak=1e-3, total_steps=20, warmup_steps=10, decay_steps=10)])
def test_no_step_of_a_run_has_a_rate_of_0(schedule):
  assert min(rates(schedule, range(20))) > 0


@pytest.mark.parametrize('make, field', [
    (lambda: Constant(rate=0.0), 'Constant.rate'),
    (lambda: Rsqrt(warmup_steps=0), 'Rsqrt.warmup_steps'),
    (lambda: WarmupCosine(peak=1.0, total_steps=0), 'WarmupCosine.total_steps'),
    (lambda: WSD(peak=1.0, total_steps=10, warmup_steps=6, decay_steps=5), 'WSD.decay_steps'),
    (lambda: WSD(peak=1.0, total_steps=10, warmup_steps=-6, decay_steps=5), 'WSD.warmup_steps'),
    (lambda: WarmupCosine(peak=1.0, total_steps=9, warmup_steps=10), 'WarmupCosine.warmup_steps'),
    (lambda: WarmupCosine(peak=1.0, total_steps=9, warmup_steps=-1), 'WarmupCosine.warmup_steps'),
    (lambda: WarmupCosine(peak=1.0, total_steps=9, end=-1e-3), 'WarmupCosine.end'),
    (lambda: WarmupCosine(peak=float('inf'), total_steps=9), 'WarmupCosine.peak'),
    (lambda: Constant(rate=float('nan')), 'Constant.rate'),
    (lambda: Constant(rate=1e-3, warmup_steps=-1), 'Constant.warmup_steps'),
    (lambda: AdamW(learning_rate=Rsqrt(), weight_decay=-0.1), 'AdamW.weight_decay'),
    (lambda: AdamW(learning_rate=Rsqrt(), epsilon=1e-50), 'AdamW.epsilon'),
    (lambda: AdamW(learning_rate=Rsqrt(), beta2=1 - 1e-12), 'AdamW.beta2'),
    (lambda: Adafactor(learning_rate=Rsqrt(), momentum=1.0), 'Adafactor.momentum'),
    (lambda: Adafactor(learning_rate=Rsqrt(), min_dim_size_to_factor=0),
     'Adafactor.min_dim_size_to_factor'),
    (lambda: AdamW(learning_rate=Rsqrt(), beta2=1.0), 'AdamW.beta2'),
    (lambda: AdamW(learning_rate=Rsqrt(), beta1=-0.1), 'AdamW.beta1'),
    (lambda: AdamW(learning_rate=Rsqrt(), clip_norm=0.0), 'AdamW.clip_norm'),
    (lambda: AdamW(learning_rate=0.1), 'AdamW.learning_rate'),
    (lambda: Adafactor(learning_rate=Rsqrt(), decay_rate=0.0), 'Adafactor.decay_rate')])
def test_a_wrong_value_is_one_line_that_names_the_field(make, field):
  with pytest.raises(UserError) as error:
    make()
  assert str(error.value).startswith(field + ' = ') and '\n' not in str(error.value)


PARAMS = {'up': {'kernel': np.array([[1.0, -2.0], [3.0, 0.5]]), 'bias': np.array([1.0, 2.0])},
          'norm': {'scale': np.array([1.0, 1.5])}}
GRADS = {'up': {'kernel': np.array([[3.0, -1.0], [0.2, 4.0]]), 'bias': np.array([0.5, -2.0])},
         'norm': {'scale': np.array([-1.0, 2.0])}}
LEAVES = [('up', 'kernel'), ('up', 'bias'), ('norm', 'scale')]


def as_float32(tree):
  return {a: {b: jnp.array(x, jnp.float32) for b, x in inner.items()} for a, inner in tree.items()}


def take_steps(optimizer, grads_of_steps, params=PARAMS):
  optimizer = optimizer.make()
  params = as_float32(params)
  state = optimizer.init(params)
  for grads in grads_of_steps:
    updates, state = optimizer.update(as_float32(grads), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def adamw_by_hand(grads_of_steps, rate, b1, b2, epsilon, decay, clip):
  """Loshchilov & Hutter 2019, algorithm 2, in float64; the gradient clipped first."""
  params = {leaf: PARAMS[leaf[0]][leaf[1]].copy() for leaf in LEAVES}
  m, v = ({leaf: 0 * params[leaf] for leaf in LEAVES} for _ in range(2))
  for t, grads in enumerate(grads_of_steps, 1):
    norm = np.sqrt(sum((grads[a][b] ** 2).sum() for a, b in LEAVES))
    for leaf in LEAVES:
      g = grads[leaf[0]][leaf[1]] * min(1, clip / norm)
      m[leaf] = b1 * m[leaf] + (1 - b1) * g
      v[leaf] = b2 * v[leaf] + (1 - b2) * g ** 2
      step = m[leaf] / (1 - b1 ** t) / (np.sqrt(v[leaf] / (1 - b2 ** t)) + epsilon)
      step += decay * params[leaf] * (leaf == ('up', 'kernel'))
      params[leaf] = params[leaf] - rate * step
  return params


@pytest.mark.parametrize('clip', [1.0, 100.0])
def test_adamw_steps_are_the_papers_clipped_and_without_decay_of_norms_and_biases(clip):
  half = {a: {b: -0.5 * x for b, x in inner.items()} for a, inner in GRADS.items()}
  options = dict(beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.3)
  got, _ = take_steps(AdamW(learning_rate=Constant(rate=0.1), clip_norm=clip, **options),
                      [GRADS, half, GRADS])
  want = adamw_by_hand([GRADS, half, GRADS], 0.1, 0.8, 0.9, 1e-3, 0.3, clip)
  for a, b in LEAVES:
    np.testing.assert_allclose(got[a][b], want[a, b], rtol=1e-5, err_msg=f'{a}/{b}')


def test_first_step_of_a_warm_up_takes_its_share_of_the_rate():
  got, _ = take_steps(AdamW(learning_rate=Constant(rate=0.1, warmup_steps=10)), [GRADS])
  want, _ = take_steps(AdamW(learning_rate=Constant(rate=0.01)), [GRADS])
  np.testing.assert_allclose(got['up']['kernel'], want['up']['kernel'], rtol=1e-6)
  assert not np.allclose(got['up']['kernel'], PARAMS['up']['kernel'])


def test_moment_dtype_is_that_of_the_first_moment_alone():
  optimizer = AdamW(learning_rate=Constant(rate=0.1), moment_dtype='bfloat16')
  _, state = take_steps(optimizer, [GRADS])
  assert optax.tree.get(state, 'mu')['up']['kernel'].dtype == jnp.bfloat16
  assert optax.tree.get(state, 'nu')['up']['kernel'].dtype == jnp.float32


def test_decay_mask_of_every_parameter_of_the_models(configs):
  """All that is decayed is a matrix; all that is not is small."""
  from t5x_lite import models
  from t5x_lite.core import trees
  for config in configs.values():
    params = models.build_network(config).shapes
    shapes = params
    decayed = trees.flatten(optimizers.decay_mask(shapes))
    kept = {name.split('/')[-1] for name, yes in decayed.items() if not yes}
    assert kept <= {'scale', 'bias', 'positions', 'relative_bias'}
    assert {name.split('/')[-1] for name, yes in decayed.items() if yes} <= {
        'kernel', 'tokens', 'output'}


def adafactor_step(optimizer, params, grads, **state_values):
  """One step of `optimizer` from a state whose moments are set by hand, at T5X's step 1."""
  tx = optimizer.make()
  state = optax.tree.set(tx.init(params), count=jnp.int32(1), **state_values)
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def adafactor(**changes):
  return Adafactor(learning_rate=Constant(rate=0.1), min_dim_size_to_factor=2, **changes)


# The figures of T5X's adafactor tests: ones of shape (3, 2) as parameters and as gradients, row
# moments of 0.9 and column moments of 0.1. They hold to the last digit in optax too. What differs
# there and is not compared: optax takes weight decay as a share of the parameter at each step
# (T5X scales it by the rate), and its epsilon for the moments is added, 1e-30 in both.
ONES = jnp.ones((3, 2))
MOMENTS = dict(v_row=jnp.full(2, 0.9), v_col=jnp.full(3, 0.1))


def test_adafactor_factored_step_is_t5xs():
  params, state = adafactor_step(adafactor(), ONES, ONES, **MOMENTS)
  np.testing.assert_allclose(optax.tree.get(state, 'v_row'), 0.9574349, rtol=1e-6)
  np.testing.assert_allclose(optax.tree.get(state, 'v_col'), 0.6169143, rtol=1e-6)
  np.testing.assert_allclose(params, 0.9, rtol=1e-6)


def test_adafactor_unfactored_step_with_momentum_is_t5xs():
  optimizer = dataclasses.replace(adafactor(momentum=0.0), min_dim_size_to_factor=4)
  params, state = adafactor_step(optimizer, ONES, ONES, v=jnp.full((3, 2), 0.5))
  np.testing.assert_allclose(optax.tree.get(state, 'v'), 0.787174, rtol=1e-6)
  np.testing.assert_allclose(optax.tree.get(state, 'ema'), 0.1, rtol=1e-6)
  np.testing.assert_allclose(params, 0.9, rtol=1e-6)


def test_adafactor_step_with_global_clipping_is_t5xs():
  params, state = adafactor_step(adafactor(clip_norm=1.0), ONES, ONES, **MOMENTS)
  np.testing.assert_allclose(optax.tree.get(state, 'v_row'), 0.478811, rtol=1e-5)
  np.testing.assert_allclose(optax.tree.get(state, 'v_col'), 0.13829, rtol=1e-4)
  np.testing.assert_allclose(params, 0.9, rtol=1e-6)


def test_adafactor_scales_its_step_by_the_parameters_size_if_asked():
  scaled, _ = adafactor_step(adafactor(), 2 * ONES, ONES, **MOMENTS)
  plain, _ = adafactor_step(adafactor(multiply_by_parameter_scale=False), 2 * ONES, ONES, **MOMENTS)
  np.testing.assert_allclose(scaled, 1.8, rtol=1e-6)
  np.testing.assert_allclose(plain, 1.9, rtol=1e-6)


@pytest.mark.parametrize('shape, min_dim, row, col, whole', [
    ((24, 16), 8, (16,), (24,), (1,)),
    ((31, 64), 32, (1,), (1,), (31, 64)),
    ((24, 4, 16), 8, (4, 16), (24, 4), (1,)),
    ((64,), 8, (1,), (1,), (64,))])
def test_adafactor_factors_the_two_largest_axes_if_both_are_large(shape, min_dim, row, col, whole):
  optimizer = dataclasses.replace(adafactor(), min_dim_size_to_factor=min_dim)
  state = optimizer.make().init(jnp.zeros(shape))
  assert [optax.tree.get(state, name).shape for name in ('v_row', 'v_col', 'v')] == [
      row, col, whole]


def test_adafactor_decays_kernels_alone():
  zeros = {a: {b: 0 * x for b, x in inner.items()} for a, inner in GRADS.items()}
  got, _ = take_steps(adafactor(weight_decay=0.1), [zeros])
  np.testing.assert_allclose(got['up']['kernel'], 0.9 * PARAMS['up']['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(got['up']['bias'], PARAMS['up']['bias'])
  np.testing.assert_array_equal(got['norm']['scale'], PARAMS['norm']['scale'])

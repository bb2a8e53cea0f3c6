"""Codes and dequantised values against bitsandbytes' arrays; formats against their definitions."""

import math
import os
import pathlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.adaptation.quantization import blockwise
from t5x_lite.adaptation.quantization.formats import DYNAMIC, FORMATS, INT4, NF4, pack, unpack

PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers/quant/fourbit.npz'
needs_peer = pytest.mark.skipif(not PEER.is_file(), reason=f'{PEER} is not there: set '
                                'T5X_LITE_TEST_DATA to the folder of reference arrays')
quantize = jax.jit(blockwise.quantize, static_argnums=(1, 2))
quantize_scale = jax.jit(blockwise.quantize_scale)


@pytest.fixture(scope='module')
def peer():
  return np.load(PEER)


def cases():
  if not PEER.is_file():
    return []
  return [name.removesuffix('/packed') for name in np.load(PEER).files if name.endswith('/packed')]


def weight_of(peer, case):
  """(the weight as one column, flattened as bitsandbytes does, format, block, its true size)."""
  name, setting = case.split('/')
  form, block, _, dtype = setting.split('_')
  x = jnp.asarray(peer[f'{name}/weight']).ravel().astype(dtype).astype(jnp.float32)
  block = int(block[1:])
  return np.pad(x, (0, -len(x) % block))[:, None], FORMATS[form], block, len(x)


@needs_peer
@pytest.mark.parametrize('case', cases())
def test_codes_and_scales_are_those_of_bitsandbytes(peer, case):
  x, form, block, size = weight_of(peer, case)
  codes, scale = quantize(x, form, block)
  packed = peer[f'{case}/packed'].ravel()
  np.testing.assert_array_equal(np.asarray(codes)[:len(packed), 0], packed)
  if 'plain' in case:
    np.testing.assert_array_equal(np.asarray(scale)[:, 0], peer[f'{case}/absmax'])
    value = blockwise.dequantize(codes, scale, form)
    dtype = case.split('_')[-1]
    value = np.asarray(value.astype(dtype).astype(jnp.float32)).ravel()[:size]
    np.testing.assert_array_equal(value, peer[f'{case}/dequantized'].ravel())


@needs_peer
@pytest.mark.parametrize('case', [case for case in cases() if 'dq' in case])
def test_double_quantisation_is_that_of_bitsandbytes(peer, case):
  x, form, block, size = weight_of(peer, case)
  codes, scale = quantize(x, form, block)
  take = lambda name: jnp.asarray(peer[f'{case}/{name}'])
  # Of its codes, the same scales and values.
  theirs = blockwise.DoubleScale(take('absmax_codes')[:, None], take('absmax_offset'),
                                 take('absmax_absmax'))
  back = blockwise.dequantize_scale(theirs)
  np.testing.assert_allclose(back[:, 0], take('absmax_dequantized'), rtol=3e-7)
  dtype, want = case.split('_')[-1], take('dequantized').ravel()
  value = blockwise.dequantize(codes, back, form).ravel()[:size]
  # A number of 24 bits may be rounded up to bfloat16 where its neighbour is rounded down.
  np.testing.assert_allclose(value.astype(dtype).astype(jnp.float32), want,
                             rtol=3e-7 if dtype == 'float32' else 2 ** -7)
  # Its codes, but for a scale that is next to the middle of two: its search is of 16 bits.
  ours = quantize_scale(scale)
  np.testing.assert_allclose(ours.offset, theirs.offset, rtol=2e-7)
  np.testing.assert_allclose(ours.group, theirs.group, rtol=1e-6)
  differ = np.flatnonzero(ours.codes != theirs.codes)
  assert len(differ) <= max(1, len(scale) // 250)
  group = np.repeat(ours.group, blockwise.GROUP)
  for i in differ:
    near = [abs(blockwise.dequantize_scale(d)[i, 0] - scale[i, 0]) for d in (ours, theirs)]
    assert abs(near[0] - near[1]) < 2 ** -14 * group[i]


@needs_peer
def test_a_kernel_of_jax_has_the_codes_of_the_transposed_weight(peer):
  weight = peer['w128x192/weight']   # [out, in], 192 = 3 blocks
  codes, scale = quantize(weight.T, FORMATS['nf4'], 64)
  packed = peer['w128x192/nf4_b64_plain_float32/packed']
  np.testing.assert_array_equal(codes.T.ravel(), packed.ravel())
  np.testing.assert_array_equal(
      scale.T.ravel(), peer['w128x192/nf4_b64_plain_float32/absmax'])


@needs_peer
def test_tables_are_those_of_bitsandbytes(peer):
  for name in ('nf4', 'fp4'):
    np.testing.assert_array_equal(np.float32(FORMATS[name].table), peer[f'{name}_code'])
  np.testing.assert_array_equal(np.float32(DYNAMIC.table), peer['dynamic_map_signed'])


def test_nf4_is_of_quantiles_of_a_normal_distribution():
  quantile = statistics.NormalDist().inv_cdf
  cuts = lambda n: np.linspace(0.9677083, 0.5, n)[:-1]
  values = sorted([0.0, *map(quantile, cuts(9)), *(-quantile(p) for p in cuts(8))])
  np.testing.assert_allclose(np.array(values) / max(values), NF4, atol=1e-6)


def test_nf4_of_normal_numbers_has_the_known_error():
  x = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)
  codes, scale = quantize(x, FORMATS['nf4'], 64)
  error = np.square(blockwise.dequantize(codes, scale, FORMATS['nf4']) - x).mean()
  assert error == pytest.approx(0.0085, rel=0.03)


def test_the_code_is_of_the_nearest_value():
  x = np.random.default_rng(1).uniform(-1, 1, 2000).astype(np.float32)
  for form in (*FORMATS.values(), DYNAMIC):
    there_and_back = jax.jit(lambda x, form=form: form.decode(form.encode(x, jnp.ones_like(x))))
    got = there_and_back(x)
    nearest = np.abs(x[:, None].astype(np.float64) - np.float64(form.table)).min(1)
    np.testing.assert_allclose(np.abs(got - x), nearest, atol=1e-7)
    ends = np.resize(np.float32([-1.0, 0.0, 1.0]), 2000)
    np.testing.assert_allclose(there_and_back(ends), ends, atol=0.0071)


def test_integers_are_symmetric_and_a_block_of_zeros_stays_zeros():
  assert FORMATS['int4'].decode(jnp.arange(1, 16, dtype=jnp.uint8)) == pytest.approx(INT4[1:])
  x = np.zeros((128, 2), np.float32)
  x[:64, 0], x[0, 1] = np.linspace(-2, 2, 64), 3.0
  for form in FORMATS.values():
    codes, scale = quantize(x, form, 64)
    value = np.asarray(blockwise.dequantize(codes, scale, form))
    assert (value[64:] == 0).all() and (value[1:, 1] == 0).all()
    assert value[0].tolist() == [-2.0, 3.0] and np.isfinite(value).all()
  for name, levels in (('int4', 7), ('int8', 127)):
    codes, scale = quantize(x, FORMATS[name], 64)
    value = blockwise.dequantize(codes, scale, FORMATS[name])
    np.testing.assert_allclose(value[:64, 0], np.round(x[:64, 0] / 2 * levels) / levels * 2,
                               atol=1e-6)


def test_two_codes_fill_a_byte_the_first_in_the_high_nibble():
  codes = jnp.arange(16, dtype=jnp.uint8).reshape(8, 2)
  packed = pack(codes, 0)
  assert packed.tolist() == [[0x02, 0x13], [0x46, 0x57], [0x8A, 0x9B], [0xCE, 0xDF]]
  np.testing.assert_array_equal(unpack(packed, 0), codes)
  np.testing.assert_array_equal(unpack(pack(codes.T, -1), -1), codes.T)


def test_scales_of_a_matrix_are_quantised_by_themselves():
  rng = np.random.default_rng(2)
  scale = rng.uniform(1, 2, (3, 5, 100)).astype(np.float32)   # 500: a group of 256 and a smaller
  double = quantize_scale(scale)
  assert double.codes.dtype == jnp.uint8 and double.codes.shape == scale.shape
  assert double.group.shape == (3, math.ceil(500 / 256)) and double.offset.shape == (3,)
  back = blockwise.dequantize_scale(double)
  np.testing.assert_allclose(back, scale, atol=0.5 * 0.016)
  one = blockwise.dequantize_scale(quantize_scale(scale[1]))
  np.testing.assert_allclose(one, back[1], rtol=1e-6)

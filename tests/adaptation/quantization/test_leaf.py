"""A quantised kernel: products, gradients, memory, scans, meshes, LLM.int8()."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from t5x_lite.adaptation.quantization import llm_int8
from t5x_lite.adaptation.quantization.leaf import Layout
from t5x_lite.core.errors import UserError
from t5x_lite.models import weights
from t5x_lite.parallel.mesh import MeshConfig

PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers/quant/int8.npz'
NF4 = Layout('mlp/up/kernel', ('embed', 'mlp'), 'nf4', 64, True)
OUT = dataclasses.replace(NF4, name='out/kernel', axes=('heads', 'head_dim', 'embed'))
QUERY = dataclasses.replace(NF4, name='query/kernel', axes=('embed', 'heads', 'head_dim'))
LAYOUTS = {
    'nf4': NF4, 'nf4_plain': dataclasses.replace(NF4, double=False),
    'fp4': dataclasses.replace(NF4, format='fp4'), 'int4': dataclasses.replace(NF4, format='int4'),
    'int8': dataclasses.replace(NF4, format='int8', double=False),
    'int8_rows': dataclasses.replace(NF4, format='int8', block=None, double=False)}


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def held(leaf):
  """Bytes of the buffers on the device."""
  return sum(x.nbytes for x in jax.tree.leaves(leaf))


@pytest.mark.parametrize('name, bits', [
    ('nf4', 4.127), ('nf4_plain', 4.5), ('fp4', 4.127), ('int4', 4.127), ('int8', 8.5),
    ('int8_rows', 8.0 + 32 / 1024)])
def test_the_device_holds_so_many_bits_a_parameter(name, bits):
  before = {id(x) for x in jax.live_arrays()}
  kernel = np.random.default_rng(0).normal(size=(1024, 2048)).astype(np.float32)
  leaf = jax.block_until_ready(jax.jit(LAYOUTS[name].quantize)(kernel))
  live = [x for x in jax.live_arrays() if id(x) not in before]
  assert sum(x.nbytes for x in live) == held(leaf)
  assert 8 * held(leaf) / kernel.size == pytest.approx(bits, abs=1e-3)
  assert isinstance(leaf, weights.StructuredLeaf) and leaf.shape == kernel.shape


@pytest.mark.parametrize('layout, shape, name', [
    *((NF4, (128, 6), name) for name in LAYOUTS),
    *((layout, shape, name) for name in ('nf4', 'int8_rows')
      for layout, shape in ((OUT, (4, 32, 6)), (QUERY, (128, 2, 3))))])
def test_a_product_and_its_gradient_are_those_of_the_dequantised_kernel(layout, shape, name):
  layout = dataclasses.replace(LAYOUTS[name], axes=layout.axes)
  leaf = jax.jit(layout.quantize)(normal(*shape))
  num_in = 2 if layout.axes == OUT.axes else 1
  kernel = leaf.value()
  assert kernel.shape == shape and kernel.dtype == jnp.float32
  assert np.abs(kernel - normal(*shape)).max() < 0.6
  x = normal(3, 5, *shape[:num_in], seed=1)
  loss = lambda x, leaf: jnp.sin(weights.matmul(x, leaf, num_in)).sum()
  got, grad = jax.jit(jax.value_and_grad(loss))(x, leaf)
  want, want_grad = jax.value_and_grad(loss)(x, kernel)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  np.testing.assert_allclose(grad, want_grad, atol=1e-4)
  y = weights.matmul(x.astype(jnp.bfloat16), leaf, num_in)
  assert y.dtype == jnp.bfloat16 and y.shape == (3, 5, *shape[num_in:])


def test_two_input_axes_are_flattened_head_by_head():
  kernel = normal(4, 32, 6)
  leaf, flat = OUT.quantize(kernel), NF4.quantize(kernel.reshape(128, 6))
  np.testing.assert_array_equal(leaf.codes, flat.codes)
  np.testing.assert_array_equal(leaf.value().reshape(128, 6), flat.value())


def test_stacked_layers_are_quantised_one_by_one_scanned_and_mapped():
  kernels, x = normal(3, 128, 128), normal(20, 128, seed=1)   # more than few_rows.MOST_ROWS
  leaf = NF4.quantize(kernels)
  assert leaf.shape == kernels.shape
  single = [NF4.quantize(kernel) for kernel in kernels]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *single)
  # A mean in another order may move a scale's code by one.
  np.testing.assert_allclose(leaf.value(), stacked.value(), atol=0.03)
  np.testing.assert_array_equal(leaf.codes, stacked.codes)
  layer = lambda x, leaf: (jnp.tanh(weights.matmul(x, leaf)), None)
  run = lambda x, layers: jax.lax.scan(layer, x, layers)[0]
  loss = lambda x, layers: jnp.square(run(x, layers)).sum()
  got, want = jax.jit(run)(x, leaf), jax.jit(run)(x, leaf.value())
  np.testing.assert_allclose(got, want, atol=1e-5)
  # Sums of few rows are in another order, which three layers make more of.
  np.testing.assert_allclose(jax.jit(run)(x[:5], leaf), want[:5], atol=1e-4)
  np.testing.assert_allclose(jax.jit(jax.grad(loss))(x, leaf),
                             jax.jit(jax.grad(loss))(x, leaf.value()), atol=1e-4)
  mapped = jax.vmap(lambda leaf: weights.matmul(x, leaf))(leaf)
  np.testing.assert_allclose(mapped, jnp.einsum('bi,lio->lbo', x, leaf.value()), atol=1e-4)


def test_experts_are_matrices_of_their_own():
  layout = dataclasses.replace(NF4, axes=('experts', 'embed', 'mlp'))
  kernels = normal(2, 4, 128, 8)   # layers, experts
  leaf = jax.jit(layout.quantize)(kernels)
  assert leaf.shape == kernels.shape and leaf.scale.offset.shape == (2, 4)
  assert np.abs(leaf.value() - kernels).max() < 0.6
  one = jax.tree.map(lambda x: x[0], leaf)
  x = normal(3, 4, 5, 128, seed=1)
  multiply = lambda x, kernel: jnp.einsum('beci,eio->beco', x, kernel)
  np.testing.assert_allclose(one.product(x, multiply), multiply(x, one.value()), atol=1e-5)


def test_nothing_of_the_kernels_size_is_kept_for_the_backward_pass():
  leaf, x = NF4.quantize(normal(128, 256)), normal(2, 128, seed=1)
  _, back = jax.vjp(lambda x: jnp.sin(leaf.matmul(x, 1)), x)
  assert max(x.size * x.dtype.itemsize for x in jax.tree.leaves(back)) <= held(leaf)


@pytest.mark.parametrize('sizes, double, layout, shape, spec', [
    ({'fsdp': 8}, True, NF4, (2, 512, 64), P(None, 'fsdp', 'tensor')),
    ({'fsdp': 4, 'tensor': 2}, True, OUT, (2, 8, 64, 16), P(None, 'tensor', None, 'fsdp')),
    ({'fsdp': 4, 'tensor': 2}, True, QUERY, (2, 512, 8, 4), P(None, 'fsdp', 'tensor', None)),
    ({'tensor': 8}, False, OUT, (2, 8, 64, 16), P(None, 'tensor', None, 'fsdp'))])
def test_on_a_mesh_it_is_sharded_like_the_kernel(sizes, double, layout, shape, spec):
  mesh = MeshConfig(**sizes).make()
  layout = dataclasses.replace(layout, double=double)
  kernel = normal(*shape)
  struct = layout.struct(jax.ShapeDtypeStruct(shape, jnp.float32,
                                              sharding=NamedSharding(mesh, spec)))
  shardings = jax.tree.map(lambda x: x.sharding, struct)
  leaf = jax.jit(layout.quantize, out_shardings=shardings)(
      jax.device_put(kernel, NamedSharding(mesh, spec)))
  assert struct.codes.shape == leaf.codes.shape
  parts = np.prod([mesh.shape[axis] for axis in spec if axis])
  assert leaf.codes.addressable_shards[0].data.nbytes * parts == leaf.codes.nbytes
  assert layout.full(struct).sharding.is_equivalent_to(NamedSharding(mesh, spec), len(shape))
  assert layout.full(struct).shape == shape
  alone, value = jax.jit(layout.quantize)(kernel), jax.jit(weights.value)
  np.testing.assert_array_equal(leaf.codes, alone.codes)
  np.testing.assert_allclose(value(leaf), value(alone), atol=0.03 if double else 0)
  num_in = len(leaf.in_shape)
  x = normal(8, *leaf.in_shape, seed=1)
  layer = jax.tree.map(lambda x: x[0], jax.device_get(leaf))
  y = jax.jit(lambda x, leaf: leaf.matmul(x, num_in))(
      jax.device_put(x, NamedSharding(mesh, P('fsdp'))), jax.device_put(
          layer, jax.tree.map(lambda x: NamedSharding(mesh, P(*x.spec[1:])), shardings)))
  np.testing.assert_allclose(y, weights.matmul(x, np.asarray(value(leaf))[0], num_in), atol=1e-4)


@pytest.mark.parametrize('layout, shape, spec, message', [
    (NF4, (96, 8), P(), r'mlp/up/kernel has 96 inputs, which blocks of 64 do not divide: choose a '
     r'block of 32 or 16 or 8, or leave it out with Quantized.skip'),
    (NF4, (7, 8), P(), r'7 inputs, which blocks of 64 do not divide: leave it out'),
    (NF4, (128, 8), P('fsdp'), r'has 128 inputs, 16 on each of 8 shards, which blocks of 64 '
     r'straddle: choose a block that divides 16, fewer shards, or leave it out'),
    (LAYOUTS['int8_rows'], (128, 8), P('fsdp'), r'which blocks of 128 straddle'),
    (OUT, (4, 128, 8), P(None, 'fsdp'), r'shard heads, and not head_dim'),
    (dataclasses.replace(NF4, block=1), (64, 8), P(), r'blocks of 1 do not fill bytes')])
def test_blocks_that_do_not_fit_are_refused_in_one_line(layout, shape, spec, message):
  sharding = NamedSharding(MeshConfig(fsdp=8).make(), spec)
  with pytest.raises(UserError, match=message) as error:
    layout.struct(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding))
  assert '\n' not in str(error.value)


@pytest.mark.skipif(not PEER.is_file(), reason=f'{PEER} is not there: set T5X_LITE_TEST_DATA to '
                    'the folder of reference arrays')
@pytest.mark.parametrize('case', ['case0', 'case1', 'case2'])
def test_llm_int8_is_that_of_bitsandbytes(case):
  peer = np.load(PEER)
  take = lambda name: jnp.asarray(peer[f'{case}/{name}'])
  layout = dataclasses.replace(LAYOUTS['int8_rows'], threshold=float(peer[f'{case}/threshold']))
  leaf = jax.jit(layout.quantize)(take('weight').T)
  np.testing.assert_array_equal(leaf.codes.astype(jnp.int32) - llm_int8.ZERO,
                                take('weight_int8').T)
  np.testing.assert_array_equal(leaf.scale[0], take('weight_absmax'))
  x = take('x')
  codes, scale, columns = jax.jit(llm_int8.quantize_rows, static_argnums=1)(x, layout.threshold)
  np.testing.assert_array_equal(codes, take('x_int8'))
  np.testing.assert_array_equal(scale, take('x_row_absmax'))
  np.testing.assert_array_equal(np.flatnonzero(columns), take('outlier_columns'))
  y = jax.jit(lambda x: leaf.matmul(x, 1))(x)
  assert y.dtype == jnp.float16
  y = (y + take('bias')[None]).astype(jnp.float32)
  # Two roundings to 16 bits, of numbers of up to 8.
  np.testing.assert_allclose(y, take('output').astype(jnp.float32), atol=2 ** -7)
  x = x.astype(jnp.float32)
  grad = jax.jit(jax.grad(lambda x: (leaf.matmul(x, 1) * take('exact')).sum()))(x)
  np.testing.assert_allclose(grad, take('exact') @ leaf.value().T, atol=1e-4)

"""Every attention kernel against loops, against JAX's own, and against each other."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models import layers
from t5x_lite.models.attention import accelerator_kernels, kernels, layer
from t5x_lite.models.attention.kernels import AttentionSpec, blockwise, query_chunked, reference
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.positions import AlibiBias, RelativeBias

B, N, L, H = 2, 4, 37, 8


def inputs(kv_heads=2, length=L, keys=None, seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  draw = lambda heads, size: jnp.asarray(rng.normal(size=(B, heads, size, H)), dtype)
  keys = keys or length
  return draw(N, length), draw(kv_heads, keys), draw(kv_heads, keys)


def loop_attention(q, k, v, scores):
  """Float64, one query of one head at a time."""
  L, S = q.shape[2], k.shape[2]
  seen = np.broadcast_to(scores.mask.block(0, L, 0, S), (B, 1, L, S))
  bias = np.zeros((N, L, S))
  if scores.bias is not None:
    bias = np.asarray(scores.bias.block(jnp.arange(L), jnp.arange(S)), np.float64)
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out, cap = np.zeros(q.shape), scores.softcap
  for b, n, i in np.ndindex(B, N, L):
    kv = n // (N // k.shape[1])
    s = scores.scale * k[b, kv] @ q[b, n, i]
    s = (s if cap is None else cap * np.tanh(s / cap)) + bias[n, i]
    see = seen[b, 0, i]
    p = np.where(see, np.exp(s - s[see].max()), 0)
    out[b, n, i] = p / p.sum() @ v[b, kv]
  return out


def masks(length=L):
  """One of each kind, and their combinations."""
  rng = np.random.default_rng(1)
  segments = jnp.array(np.sort(rng.integers(1, 4, (B, length))), jnp.int32)
  segments = segments.at[1, -5:].set(0)
  prefix = jnp.array(rng.random((B, length)) < 0.3)
  packed = dict(q_segments_BL=segments, k_segments_BS=segments)
  return {
      'all': Mask(causal=False), 'causal': Mask(causal=True),
      'packed': Mask(causal=False, **packed),
      'causal packed': Mask(causal=True, **packed),
      'prefix packed': Mask(causal=True, prefix_BL=prefix, **packed),
      'window': Mask(causal=True, sliding_window=5),
      'window of 1': Mask(causal=True, sliding_window=1),
      'window both ways packed': Mask(causal=False, sliding_window=9, **packed),
      'window packed': Mask(causal=True, sliding_window=11, **packed)}


TABLE = np.random.default_rng(2).normal(size=(8, N)).astype(np.float32)
RELATIVE = RelativeBias(table_RN=jnp.array(TABLE), bidirectional=True, max_distance=16)
EXTRAS = {'plain': {}, 'relative': dict(bias=RELATIVE), 'alibi': dict(bias=AlibiBias(num_heads=N)),
          'softcap': dict(softcap=2.0), 'softcap relative': dict(softcap=2.0, bias=RELATIVE)}


# Each mask with two of the extras, each number of heads with each extra.
COMBINATIONS = [(kind, extra, (4, 2, 1)[(i // 3 + j) % 3]) for (i, kind), (j, extra) in
                itertools.product(enumerate(masks()), enumerate(EXTRAS)) if (i + j) % 5 in (0, 2)]


def test_each_number_of_heads_meets_each_extra():
  assert {(extra, heads) for _, extra, heads in COMBINATIONS} == set(
      itertools.product(EXTRAS, (4, 2, 1)))
  assert [kind for kind, _, _ in COMBINATIONS] == [kind for kind in masks() for _ in range(2)]


@pytest.mark.parametrize('kind, extra', [(kind, extra) for kind, extra, _ in COMBINATIONS])
def test_the_reference_is_softmax_attention(kind, extra):
  q, k, v = inputs()
  scores = AttentionSpec(mask=masks()[kind], scale=0.3, **EXTRAS[extra])
  np.testing.assert_allclose(reference(q, k, v, scores), loop_attention(q, k, v, scores), atol=2e-6)


def gradients(kernel, q, k, v, scores):
  """(output, gradients of q, k, v and the bias) for one random direction of the output."""
  direction = jnp.array(np.random.default_rng(3).normal(size=q.shape), jnp.float32)

  def value(q, k, v, bias):
    y = kernel(q, k, v, dataclasses.replace(scores, bias=bias))
    return (y * direction).sum(), y

  (_, y), grads = jax.jit(jax.value_and_grad(value, (0, 1, 2, 3), has_aux=True))(
      q, k, v, scores.bias)
  return y, grads


def assert_same(kernel, q, k, v, scores, tolerance=1e-5):
  got, want = (gradients(f, q, k, v, scores) for f in (kernel, reference))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
               got, want)


@pytest.mark.parametrize('kind, extra, kv_heads', COMBINATIONS)
def test_blockwise_is_the_reference_forwards_and_backwards(kind, extra, kv_heads):
  """Blocks of 16 do not divide 37 tokens."""
  scores = AttentionSpec(mask=masks()[kind], scale=0.3, **EXTRAS[extra])
  assert_same(functools.partial(blockwise, block=16), *inputs(kv_heads), scores)


@pytest.mark.parametrize('length, keys', [(1, 40), (33, 48), (48, 5)])
def test_blockwise_of_other_lengths_and_of_cross_attention(length, keys):
  q, k, v = inputs(length=length, keys=keys)
  segments = lambda size: jnp.array(np.arange(size) * 2 // size + 1, jnp.int32)[None].repeat(B, 0)
  q_segments = segments(length) if length > 1 else jnp.ones((B, 1), jnp.int32)
  mask = Mask(q_segments_BL=q_segments, k_segments_BS=segments(keys), causal=False)
  assert_same(functools.partial(blockwise, block=16), q, k, v, AttentionSpec(mask=mask, scale=0.3))


def test_blockwise_reads_a_cache_by_the_positions_of_its_slots():
  q, k, v = inputs(length=3, keys=40)
  positions = jnp.array(np.random.default_rng(0).permuted(
      np.arange(-5, 35)[None].repeat(B, 0), axis=1))
  mask = Mask(q_positions_BL=20 + jnp.arange(3)[None] + jnp.arange(B)[:, None],
              k_positions_BS=positions, causal=True, sliding_window=9)
  assert_same(functools.partial(blockwise, block=16), q, k, v, AttentionSpec(mask=mask, scale=0.3))


@pytest.mark.parametrize('kind', [
    'all', 'causal', 'prefix packed', 'window of 1', 'window both ways packed', 'window packed'])
def test_rows_are_the_reference_forwards_and_backwards(kind):
  """Two slices of 64 queries and one of 22."""
  scores = AttentionSpec(mask=masks(150)[kind], scale=0.3, bias=RELATIVE)
  assert_same(query_chunked, *inputs(length=150), scores)


def test_blockwise_dropout_is_the_same_backwards_as_forwards():
  """The drawn factors, read off with a one-hot v, give the same output and gradients by hand."""
  q, k, v = inputs(4, length=20)
  scores = AttentionSpec(mask=Mask(causal=True), scale=0.3, dropout_rate=0.4, key=jax.random.key(5))
  run = functools.partial(blockwise, block=8)
  of_values = lambda spec: jax.jit(lambda v: run(q, k, v, spec))
  dropped, plain = of_values(scores), of_values(dataclasses.replace(scores, key=None))
  # H = 8 columns at a time, the factor of each key is p dropped / p.
  factor = np.zeros((B, N, 20, 20))
  for start in range(0, 20, 8):
    eye = jnp.zeros((B, N, 20, 8)).at[:, :, np.arange(start, min(start + 8, 20)),
                                      np.arange(min(8, 20 - start))].set(1)
    whole = plain(eye)
    ratio = dropped(eye) / jnp.where(whole == 0, 1, whole)
    factor[..., start:start + 8] = ratio[..., :min(8, 20 - start)]
  share = (factor > 0).sum() / (B * N * 210)
  assert 0.55 < share < 0.65
  np.testing.assert_allclose(factor[factor > 0], 1 / 0.6, rtol=1e-4)
  factor = jnp.array(np.where(factor > 0, 1 / 0.6, 0), jnp.float32)

  def by_hand(q, k, v, scores):
    p = jax.nn.softmax(dataclasses.replace(scores, key=None)(q, k), -1) * factor
    return jnp.einsum('bnls,bnsh->bnlh', p, v)

  got, want = (gradients(f, q, k, v, scores) for f in (run, by_hand))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def temporary_bytes(kernel, length):
  """Peak temporary memory of attention and its gradient, by the compiler's own account."""
  shape = lambda heads: jax.ShapeDtypeStruct((1, heads, length, 16), jnp.float32)
  scores = AttentionSpec(mask=Mask(causal=True), scale=0.25)
  run = jax.grad(lambda q, k, v: kernel(q, k, v, scores).sum(), (0, 1, 2))
  return jax.jit(run).lower(shape(2), shape(2), shape(2)).compile().memory_analysis(
      ).temp_size_in_bytes


def test_blockwise_memory_grows_linearly_and_is_under_a_tenth_of_the_reference_at_16384():
  own = {length: temporary_bytes(blockwise, length) for length in (4096, 8192, 16384)}
  assert own[16384] < 0.1 * temporary_bytes(reference, 16384)
  assert own[16384] <= 2.05 * own[8192] and own[8192] <= 2.05 * own[4096]


def test_softmax_is_float32_for_bfloat16_inputs():
  """256 equal scores: their sum in bfloat16 would stop growing before the end."""
  ones = jnp.ones((1, 1, 256, 8), jnp.bfloat16)
  v = jnp.arange(256, dtype=jnp.bfloat16)[None, None, :, None] * ones
  scores = AttentionSpec(mask=Mask(causal=False), scale=1.0)
  for kernel in (reference, blockwise):
    got = kernel(ones[:, :, :1], ones, v, scores)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), 127.5, rtol=0.005)


def test_a_query_that_sees_nothing_gives_the_mean_and_no_nan():
  q, k, v = inputs(4, length=6)
  segments = jnp.ones((B, 6), jnp.int32)
  mask = Mask(q_segments_BL=segments.at[0, 2].set(9), k_segments_BS=segments, causal=False)
  got = reference(q, k, v, AttentionSpec(mask=mask, scale=1.0))
  np.testing.assert_allclose(got[0, :, 2], v[0].mean(1), atol=1e-6)


def test_attention_dropout_zeroes_whole_probabilities_and_scales_the_rest():
  q, k, _ = inputs(4, length=6)
  v = jnp.broadcast_to(jnp.eye(6, 8), (B, N, 6, 8))
  scores = AttentionSpec(mask=Mask(causal=False), scale=1.0, dropout_rate=0.25)
  whole = reference(q, k, v, scores)[..., :6]
  dropped = reference(q, k, v, dataclasses.replace(scores, key=jax.random.key(0)))[..., :6]
  kept = np.asarray(dropped) != 0
  np.testing.assert_allclose(dropped, np.where(kept, whole / 0.75, 0), rtol=1e-5)
  assert 0.15 < 1 - kept.mean() < 0.35


class OnPlatform(layers.Unsharded):
  """A Shard that says which platform it is."""

  def __init__(self, platform):
    self.name = platform

  @property
  def platform(self):
    return self.name


@pytest.mark.parametrize('kind, softcap', [
    *((kind, None) for kind in (
        'all', 'causal', 'window of 1', 'window both ways packed', 'window packed')),
    ('causal packed', 3.0)])
def test_splash_is_the_reference_forwards_and_backwards(kind, softcap):
  """Interpreted: what a TPU would run, step by step on this CPU."""
  scores = AttentionSpec(mask=masks(128)[kind], scale=0.3, softcap=softcap)
  q, k, v = inputs(length=128)
  assert accelerator_kernels.unsupported_splash(q, k, scores) is None
  splash = lambda *args: accelerator_kernels.splash(*args, layers.unsharded)
  assert_same(splash, q, k, v, scores, tolerance=2e-5)


@pytest.mark.parametrize('kind, extra', zip(masks(), ['plain', 'relative', 'alibi'] * 3))
def test_jax_nns_attention_is_the_reference_forwards_and_backwards(kind, extra):
  fused = lambda *args: accelerator_kernels.fused(*args, layers.unsharded)
  assert_same(fused, *inputs(), AttentionSpec(mask=masks()[kind], scale=0.3, **EXTRAS[extra]))


@pytest.fixture
def chosen(monkeypatch):
  """(kernel, platform, scores, length, dtype) -> names of the kernels that ran."""

  def choose(kernel, platform, scores, length=128, dtype=jnp.float32):
    ran = []
    for module, name in itertools.chain(
        ((layer, n) for n in ('reference', 'query_chunked', 'blockwise')),
        ((accelerator_kernels, n) for n in ('fused', 'splash'))):
      monkeypatch.setattr(module, name, lambda q, *_, name=name: ran.append(name))
    q, k, v = inputs(length=length, dtype=dtype)
    layer.attend(q, k, v, scores, kernel, OnPlatform(platform))
    return ran

  return choose


CAUSAL = AttentionSpec(mask=Mask(causal=True), scale=1.0)


@pytest.mark.parametrize('kernel, platform, options, want', [
    ('auto', 'cpu', {}, 'query_chunked'), ('auto', 'cpu', dict(length=2048), 'blockwise'),
    ('auto', 'tpu', {}, 'splash'), ('auto', 'tpu', dict(length=100), 'reference'),
    ('auto', 'gpu', dict(dtype=jnp.bfloat16), 'fused'), ('auto', 'gpu', {}, 'query_chunked'),
    ('reference', 'tpu', {}, 'reference'), ('blockwise', 'tpu', {}, 'blockwise'),
    ('splash', 'cpu', {}, 'splash'), ('fused', 'cpu', {}, 'fused')])
def test_which_kernel_runs(kernel, platform, options, want, chosen):
  assert chosen(kernel, platform, CAUSAL, **options) == [want]


def test_what_a_kernel_cannot_do_falls_to_one_that_can_and_is_said_once(chosen, caplog):
  layer._say_once.cache_clear()
  for _ in range(2):
    scores = dataclasses.replace(CAUSAL, bias=AlibiBias(num_heads=N))
    assert chosen('splash', 'tpu', scores) == ['reference']
    assert chosen('splash', 'tpu', scores, length=2048) == ['blockwise']
  assert chosen('fused', 'gpu', dataclasses.replace(CAUSAL, softcap=2.0)) == ['reference']
  dropped = dataclasses.replace(CAUSAL, dropout_rate=0.1, key=jax.random.key(0))
  assert chosen('fused', 'gpu', dropped) == chosen('splash', 'tpu', dropped) == ['reference']
  positions = dict(q_positions_BL=jnp.ones((B, 1), int), k_positions_BS=jnp.ones((B, 8), int))
  cached = AttentionSpec(mask=Mask(causal=True, **positions), scale=1.0)
  assert chosen('query_chunked', 'cpu', cached) == ['reference']
  assert chosen('auto', 'tpu', cached)[:1] == ['reference']
  assert [r.getMessage() for r in caplog.records][:2] == [
      "attention kernel 'splash' cannot do biases of the scores: 'reference' does it",
      "attention kernel 'splash' cannot do biases of the scores: 'blockwise' does it"]
  assert kernels.QUERY_CHUNK == 64

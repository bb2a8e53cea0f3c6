"""Linear layers, norms, activations, dropout, MLP and embeddings against numpy and scipy."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from t5x_lite.models import layers


def drawn(module):
  """The module with every parameter drawn: new ones hold zeros."""
  for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(module))):
    variable.set_value(jnp.array(0.3 * draw(*variable.get_value().shape, seed=100 + i)))
  return module


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('inputs, outputs', [
    ({'embed': 6}, {'mlp': 5}),
    ({'embed': 6}, {'heads': 3, 'head_dim': 4}),
    ({'heads': 3, 'head_dim': 4}, {'embed': 6}),
    ({'heads': 3, 'head_dim': 4}, {'heads': 2, 'head_dim': 5})])
def test_linear_contracts_all_its_input_axes(inputs, outputs):
  layer = drawn(layers.Linear(inputs, outputs, bias=True, std=None))
  layer.bias.set_value(jnp.array(draw(*outputs.values())))
  x = draw(2, 7, *inputs.values(), seed=1)
  want = np.tensordot(x, layer.kernel[...], len(inputs)) + np.asarray(layer.bias[...])
  np.testing.assert_allclose(layer(jnp.array(x)), want, atol=1e-5)


def test_linear_computes_in_the_dtype_of_its_input():
  layer = drawn(layers.Linear({'embed': 4}, {'mlp': 3}, bias=True, std=0.1))
  assert layer.kernel[...].dtype == layer.bias[...].dtype == jnp.float32
  assert layer(jnp.ones((1, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_bias_over_embed_is_not_cut_with_it():
  layer = drawn(layers.Linear({'mlp': 4}, {'embed': 3}, bias=True, std=0.1))
  assert layer.kernel.axes == ('mlp', 'embed')
  assert layer.bias.axes == ('norm',)


def norm_of(config, **changes):
  norm = layers.Norm(dataclasses.replace(config, **changes))
  norm.scale.set_value(jnp.array(draw(32, seed=2)))
  if norm.bias is not None:
    norm.bias.set_value(jnp.array(draw(32, seed=3)))
  return norm


def test_rms_norm_divides_by_the_root_mean_square(configs):
  norm = norm_of(configs['decoder'], norm='rms_norm', norm_epsilon=0.1)
  x = 3 * draw(2, 5, 32) + 1
  want = x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 0.1) * np.asarray(norm.scale[...])
  assert norm.bias is None
  np.testing.assert_allclose(norm(jnp.array(x)), want, atol=1e-5)


def test_layer_norm_removes_the_mean_too(configs):
  norm = norm_of(configs['decoder'], norm='layer_norm', norm_epsilon=0.1)
  x = 3 * draw(2, 5, 32) + 1
  want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
  scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
  np.testing.assert_allclose(norm(jnp.array(x)), want * scale + bias, atol=1e-5)


@pytest.mark.parametrize('kind', ['rms_norm', 'layer_norm'])
def test_norm_of_bfloat16_is_computed_in_float32(kind, configs):
  norm = norm_of(configs['decoder'], norm=kind)
  x = jnp.array(draw(2, 5, 32) + 100, jnp.bfloat16)
  want = norm(x.astype(jnp.float32))
  assert norm(x).dtype == jnp.bfloat16
  np.testing.assert_allclose(norm(x).astype(np.float32), want, rtol=1 / 128, atol=1e-6)


def test_norm_of_zeros_is_finite(configs):
  assert np.isfinite(norm_of(configs['decoder'])(jnp.zeros((1, 1, 32)))).all()


X = np.linspace(-6, 6, 241)
ACTIVATIONS = {
    'relu': np.maximum(X, 0),
    'gelu': 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X ** 3))),
    'gelu_exact': 0.5 * X * (1 + scipy.special.erf(X / np.sqrt(2))),
    'silu': X * scipy.special.expit(X),
}


@pytest.mark.parametrize('name', layers.ACTIVATIONS)
def test_activation_is_its_formula(name):
  got = layers.ACTIVATIONS[name](jnp.array(X, jnp.float32))
  np.testing.assert_allclose(got, ACTIVATIONS[name], atol=1e-6)


def test_the_two_gelus_differ():
  assert np.abs(ACTIVATIONS['gelu'] - ACTIVATIONS['gelu_exact']).max() > 1e-4


def test_dropout_zeroes_its_share_and_scales_the_rest():
  x = jnp.full((400, 500), 3.0)
  got = np.asarray(layers.dropout(x, 0.3, jax.random.key(0)))
  assert set(np.unique(got)) == {np.float32(0), np.float32(3) / np.float32(0.7)}
  assert (got == 0).mean() == pytest.approx(0.3, abs=0.005)   # 5 standard deviations
  assert got.mean() == pytest.approx(3, abs=0.025)


def test_dropout_without_a_key_or_a_rate_is_nothing():
  x = jnp.array(draw(3, 4))
  assert layers.dropout(x, 0.5, None) is x
  assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_dropout_keeps_bfloat16():
  assert layers.dropout(jnp.ones(8, jnp.bfloat16), 0.5, jax.random.key(0)).dtype == jnp.bfloat16


def test_embedding_noise_is_uniform_with_the_scale_of_neftune():
  """alpha / sqrt(L D), where L counts the tokens of the token's own segment; padding has none."""
  alpha, width, lengths = 5.0, 64, (300, 90, 10)
  segments = np.repeat([1, 2, 3, 0], [*lengths, 100])[None]
  got = np.asarray(layers.embedding_noise(jnp.ones((1, 500, width)), alpha, jnp.array(segments),
                                          jax.random.key(0)))[0] - 1
  for segment, length in enumerate(lengths, 1):
    noise = got[segments[0] == segment] / (alpha / (length * width) ** 0.5)
    assert np.abs(noise).max() == pytest.approx(1, abs=0.02) and np.abs(noise).max() <= 1 + 1e-5
    assert noise.std() == pytest.approx(3 ** -0.5, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=0.08)
    assert np.linalg.norm(got[segments[0] == segment]) < alpha
  assert not got[segments[0] == 0].any()


def test_embedding_noise_of_a_row_without_segments_is_that_of_transformers():
  """Of its hook, which counts all tokens of a row, and with whom a row without padding agrees."""
  torch = pytest.importorskip('torch')
  neftune = pytest.importorskip('transformers.integrations.neftune')
  module = torch.nn.Embedding(10, 48)
  module.neftune_noise_alpha = 10.0
  zeros = np.zeros((4, 50, 48), np.float32)
  want = neftune.neftune_post_forward_hook(module, None, torch.tensor(zeros)).numpy()
  for segments in (None, jnp.ones((4, 50), jnp.int32)):
    got = np.asarray(layers.embedding_noise(jnp.array(zeros), 10.0, segments, jax.random.key(1)))
    assert np.abs(got).max() == pytest.approx(np.abs(want).max(), rel=2e-3)
    assert got.std() == pytest.approx(want.std(), rel=0.02)


def test_embedding_noise_without_a_key_or_alpha_is_nothing_and_keeps_bfloat16():
  x = jnp.ones((2, 3, 8), jnp.bfloat16)
  assert layers.embedding_noise(x, 5.0, None, None) is x
  assert layers.embedding_noise(x, 0.0, None, jax.random.key(0)) is x
  assert layers.embedding_noise(x, 5.0, None, jax.random.key(0)).dtype == jnp.bfloat16


def test_subkeys_differ_and_none_stays_none():
  key = jax.random.key(3)
  data = {tuple(jax.random.key_data(layers.subkey(key, n)).tolist()) for n in range(6)}
  assert len(data) == 6
  assert layers.subkey(None, 4) is None


@pytest.mark.parametrize('gated', [True, False])
def test_mlp_is_its_formula(gated, configs):
  config = dataclasses.replace(configs['decoder'], gated_mlp=gated)
  mlp = drawn(layers.MLP(config, 0.1, layers.unsharded))
  x = draw(2, 3, 32)
  hidden = x @ mlp.up.kernel[...]
  gate = x @ mlp.gate.kernel[...] if gated else hidden
  want = gate * scipy.special.expit(gate) * (hidden if gated else 1) @ mlp.down.kernel[...]
  np.testing.assert_allclose(mlp(jnp.array(x)), want, atol=1e-5)


def test_relu_mlp_gives_the_figures_worked_out_for_t5(configs):
  """Two inputs, four hidden units: relu(x W) V by hand."""
  config = dataclasses.replace(
      configs['decoder'], embed_dim=2, num_heads=1, num_kv_heads=1, mlp_dim=4, gated_mlp=False,
      activation='relu')
  mlp = drawn(layers.MLP(config, 0.1, layers.unsharded))
  mlp.up.kernel.set_value(jnp.array([[1.0, -1.0, 2.0, 0.5], [3.0, 1.0, -4.0, 0.5]]))
  mlp.down.kernel.set_value(jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [2.0, -2.0]]))
  # [1, 1] W = [4, 0, -2, 1]; [2, 0] W = [2, -2, 4, 1]
  np.testing.assert_allclose(mlp(jnp.array([[1.0, 1.0], [2.0, 0.0]])), [[6, -2], [24, 18]])


def test_embedder_looks_up_tokens_and_positions(configs):
  embedder = drawn(layers.Embedder(configs['gpt'], layers.unsharded))
  tokens, positions = np.array([[5, 0, 63]]), np.array([[0, 1, 15]])
  want = np.asarray(embedder.tokens[...])[tokens] + np.asarray(embedder.positions[...])[positions]
  np.testing.assert_array_equal(embedder(jnp.array(tokens), jnp.array(positions)), want)


def test_tied_logits_read_the_embedding_table(configs):
  embedder = drawn(layers.Embedder(configs['gpt'], layers.unsharded))
  x = draw(2, 3, 32)
  assert embedder.output is None
  np.testing.assert_allclose(embedder.head()(jnp.array(x)), x @ np.asarray(embedder.tokens[...]).T,
                             atol=1e-5)


def test_untied_logits_read_the_output_table_and_are_float32(configs):
  embedder = drawn(layers.Embedder(configs['encoder_decoder'], layers.unsharded))
  x = draw(2, 3, 32)
  np.testing.assert_allclose(embedder.head()(jnp.array(x)), x @ embedder.output[...], atol=1e-4)
  assert embedder.head()(jnp.array(x, jnp.bfloat16)).dtype == jnp.float32

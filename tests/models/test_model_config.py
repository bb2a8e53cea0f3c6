"""Model configs: defaults that follow from others, what is refused, parameter counts and values."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.models import ModelConfig

BASE = dict(family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4,
            mlp_dim=64)
PAIR = dict(BASE, family='encoder_decoder')


def test_unset_sizes_follow_from_the_others():
  config = ModelConfig(**BASE)
  assert (config.head_dim, config.num_kv_heads, config.attention_scale) == (8, 4, 8 ** -0.5)
  assert config.num_decoder_layers is None
  assert ModelConfig(**PAIR).num_decoder_layers == 2
  assert ModelConfig(**PAIR, num_decoder_layers=1).num_decoder_layers == 1
  assert ModelConfig(**BASE, head_dim=5, position_embedding='none').head_dim == 5


@pytest.mark.parametrize('changes, field', [
    (dict(num_heads=5), 'num_heads'), (dict(num_kv_heads=3), 'num_kv_heads'),
    (dict(position_embedding='learned'), 'max_length'), (dict(head_dim=7), 'head_dim'),
    (dict(position_embedding='relative', relative_buckets=5), 'relative_buckets'),
    (dict(position_embedding='relative', relative_buckets=2), 'relative_buckets'),
    (dict(dropout_rate=1.0), 'dropout_rate'), (dict(dropout_rate=-0.1), 'dropout_rate'),
    (dict(embedding_noise=-1.0), 'embedding_noise'),
    (dict(num_decoder_layers=2), 'num_decoder_layers'), (dict(head='mlm'), 'head'),
    (dict(head='classifier'), 'num_classes'), (dict(head='choice', num_classes=2), 'num_classes'),
    (dict(num_classes=2, prefix_lm=True), 'prefix_lm'),
    (dict(num_classes=2, family='encoder_decoder'), 'num_classes'),
    (dict(head='choice', family='encoder_decoder'), 'head'),
    (dict(head='choice', family='encoder_only'), 'head'),
    (dict(family='encoder_only', prefix_lm=True), 'prefix_lm'), (dict(vocab_size=0), 'vocab_size'),
    (dict(num_layers=True), 'num_layers'), (dict(init_std=0.0), 'init_std'),
    (dict(norm='batch_norm'), 'norm'), (dict(dtype='float16'), 'dtype')])
def test_what_does_not_fit_together_is_refused_by_name(changes, field):
  with pytest.raises(FieldError) as error:
    ModelConfig(**BASE | changes)
  assert str(error.value).startswith(f'ModelConfig.{field} = ') and '\n' not in str(error.value)


def count(config) -> int:
  params = models.build_network(config).shapes
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def t5(version, embed, heads, mlp, layers, head_dim=64):
  gated = version == '1.1'
  return ModelConfig(
      family='encoder_decoder', vocab_size=32128, embed_dim=embed, num_heads=heads,
      head_dim=head_dim, mlp_dim=mlp, num_layers=layers, gated_mlp=gated,
      activation='gelu' if gated else 'relu', position_embedding='relative',
      tied_embeddings=not gated,      attention_scale=1.0, init_std=None)


@pytest.mark.parametrize('config, parameters', [
    (t5('1.1', 512, 6, 1024, 8), 76_961_152), (t5('1.1', 768, 12, 2048, 12), 247_577_856),
    (t5('1.1', 1024, 16, 2816, 24), 783_150_080), (t5('1.1', 2048, 32, 5120, 24), 2_849_757_184),
    (t5('1.1', 4096, 64, 10240, 24), 11_135_332_352),
    (t5('1.0', 512, 8, 2048, 6), 60_506_624), (t5('1.0', 768, 12, 3072, 12), 222_903_552),
    (t5('1.0', 1024, 16, 4096, 24), 737_668_096)])
def test_t5_has_the_published_number_of_parameters(config, parameters):
  assert count(config) == parameters


@pytest.mark.parametrize('tied, parameters', [(True, 109_628_544), (False, 134_302_848)])
def test_decoder_of_t5x_has_its_number_of_parameters(tied, parameters):
  config = ModelConfig(
      family='decoder_only', vocab_size=32128, embed_dim=768, num_heads=12, mlp_dim=2048,
      num_layers=12, activation='gelu', position_embedding='relative', tied_embeddings=tied)
  assert count(config) == parameters


@pytest.mark.parametrize('name', ['decoder', 'encoder_decoder'])
def test_scanned_parameters_are_the_stack_of_the_unrolled_ones(name, configs, unstack):
  config = configs[name]
  unrolled = dataclasses.replace(config, scan_layers=False)
  scanned, listed = (models.build_network(c).init(jax.random.key(0)) for c in (config, unrolled))
  assert jax.tree.structure(unstack(scanned)) == jax.tree.structure(listed)
  jax.tree.map(np.testing.assert_array_equal, unstack(scanned), listed)


@pytest.mark.parametrize('scan_layers', [True, False])
def test_parameters_drawn_in_one_kernel_are_those_drawn_one_by_one(scan_layers, configs):
  """But for the last bit, which depends on what is computed beside."""
  config = dataclasses.replace(configs['gpt'], scan_layers=scan_layers, vocab_size=100)
  many, one = (jax.jit(lambda one=one: models.build_network(config).init(jax.random.key(5), one))()
               for one in (False, True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one, many)


def test_initial_values_have_their_standard_deviations():
  """init_std everywhere, less by sqrt(2 layers) where a layer writes into the residual stream."""
  config = ModelConfig(**BASE | dict(embed_dim=64, num_layers=8, mlp_dim=128, vocab_size=256,
                                     init_std=0.02, bias=True, norm='layer_norm'))
  values = trees.flatten(models.build_network(config).init(jax.random.key(0)))
  for path, x in values.items():
    kind = path.split('/')[-1]
    if kind in ('scale', 'bias'):
      np.testing.assert_array_equal(x, np.float32(kind == 'scale'), err_msg=path)
      continue
    residual = path.endswith(('attention/out/kernel', 'mlp/down/kernel'))
    std = 0.02 / 4 if residual else 0.02
    assert np.std(x) == pytest.approx(std, rel=5 / (2 * x.size) ** 0.5), path
    assert abs(np.mean(x)) < 5 * std / x.size ** 0.5, path
  assert sum('down' in p for p in values) == 2 and any('attention/out' in p for p in values)


def test_t5_draws_by_fan_in_and_its_queries_smaller():
  config = ModelConfig(**BASE | dict(embed_dim=64, num_layers=8, mlp_dim=128, vocab_size=256,
                                     init_std=None, tied_embeddings=False))
  values = trees.flatten(models.build_network(config).init(jax.random.key(0)))
  block = 'decoder/blocks/'
  for path, std in {
      'embedder/tokens': 1.0, 'embedder/output': 64 ** -0.5,
      block + 'attention/query/kernel': (64 * 16) ** -0.5,
      block + 'attention/key/kernel': 64 ** -0.5, block + 'attention/value/kernel': 64 ** -0.5,
      block + 'attention/out/kernel': 64 ** -0.5, block + 'mlp/gate/kernel': 64 ** -0.5,
      block + 'mlp/up/kernel': 64 ** -0.5, block + 'mlp/down/kernel': 128 ** -0.5}.items():
    size = values[path].size
    assert np.std(values[path]) == pytest.approx(std, rel=5 / (2 * size) ** 0.5), path


def test_layers_and_seeds_draw_different_values(configs):
  a, b = (models.build_network(configs['decoder']).init(jax.random.key(s)) for s in (0, 1))
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if np.std(x):
      assert np.mean(np.asarray(x) == np.asarray(y)) < 0.01
  up = a['decoder']['blocks']['mlp']['up']['kernel']
  assert np.mean(up[0] == up[1]) < 0.01

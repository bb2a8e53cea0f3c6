"""Scanned, unrolled, rematerialised and sharded variants of a family agree on loss and gradients.

A variant changes everything at once: the layers that its base scans are unrolled, or the other way
round, on a mesh, with another kernel and rematerialisation; over all families every choice meets
every other.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.models import ModelConfig
from t5x_lite.models.attention import kernels, layer
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.objective import add_objectives, normalizers
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.step import loss_and_gradients

LENGTH = 16
SIZES = dict(vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, mlp_dim=64, init_std=0.2)
GPT = dict(family='decoder_only', norm='layer_norm', activation='gelu', gated_mlp=False, bias=True,
           position_embedding='learned', max_length=LENGTH)
LLAMA = dict(family='decoder_only', num_kv_heads=2)
GEMMA = dict(family='decoder_only', num_kv_heads=1, head_dim=16, norm_unit_offset=True,
             activation='gelu', scale_embeddings=True, init_std=0.1)   # as its scales are near 2
T5 = dict(family='encoder_decoder', position_embedding='relative', relative_buckets=8,
          relative_max_distance=16, attention_scale=1.0, init_std=None)
FAMILIES = {
    'gpt2': GPT,
    'mistral': dict(LLAMA, tied_embeddings=False, sliding_window=5),
    'gemma2': dict(GEMMA, norm_placement='both', attention_scale=0.3, attention_softcap=3.0,
                   logits_softcap=4.0, sliding_window=6, full_attention_interval=2,
                   num_layers=4),
    't5_1_0': dict(T5, activation='relu', gated_mlp=False, scale_logits=True,
                   num_layers=1, num_decoder_layers=2),
    't5_1_1': dict(T5, activation='gelu', tied_embeddings=False, num_decoder_layers=1),
    'bert': dict(GPT, family='encoder_only', norm_epsilon=1e-12, norm_placement='post',
                 embedding_norm=True, activation='gelu_exact', num_token_types=2, head='mlm_nsp'),
    'alibi': dict(GPT, position_embedding='alibi'),
    'sinusoidal': dict(family='decoder_only', position_embedding='sinusoidal', activation='relu',
                       gated_mlp=False),
    'prefix_lm': dict(LLAMA, prefix_lm=True),
    'mixture': dict(LLAMA, num_experts=4),
}
ONE = MeshConfig(data=1)
OBJECTIVES = (CrossEntropy(loss_tokens=8), RouterLoss(load_balance=0.3, router_z=0.1),
              NextSentenceLoss())
CHOICES = dict(
    scan_layers=(False, True),
    attention=('query_chunked', 'blockwise'),
    mesh=(MeshConfig(data=8), MeshConfig(fsdp=4, tensor=2)),
    remat=('full', 'dots', ('attention', 'mlp_hidden')),
)


def config_of(name: str, **changes) -> ModelConfig:
  return ModelConfig(**SIZES | FAMILIES[name] | dict(attention='reference') | changes)


def variant_of(name: str) -> dict:
  """What the variant changes of the base: nothing computed again, `reference`, one device."""
  i = list(FAMILIES).index(name)
  return {choice: values[n % len(values)]
          for (choice, values), n in zip(CHOICES.items(), (i, i // 2, i // 3, i))}


def base_of(name: str) -> ModelConfig:
  """The layers of the base are scanned where those of the variant are not."""
  return config_of(name, scan_layers=not variant_of(name)['scan_layers'])


@pytest.fixture(scope='module', autouse=True)
def small_blocks():
  """Several slices of `rows` and blocks of `blockwise` in 16 tokens, the last cut short."""
  with pytest.MonkeyPatch.context() as patch:
    for module in (layer, kernels):
      patch.setattr(module, 'QUERY_CHUNK', 10)
    patch.setattr(layer, 'blockwise', functools.partial(kernels.blockwise, block=6))
    yield


@pytest.fixture(scope='module')
def batch_of(packed_batch):
  def make(config):
    batch, rng = packed_batch(config), np.random.default_rng(1)
    if config.head == 'mlm_nsp':
      batch['encoder_token_types'] = rng.integers(0, 2, (8, LENGTH), dtype=np.int32)
      batch['next_sentence_labels'] = rng.integers(0, 2, 8, dtype=np.int32)
    return batch
  return make


@pytest.fixture(scope='module')
def run(batch_of, random_params, unstack):
  """(config, mesh) -> (sums, gradients)."""

  @functools.cache
  def go(config, mesh=ONE):
    partitioner = Partitioner(mesh.make(jax.devices()[:1] if mesh is ONE else None), mesh.rules)
    network = models.build_network(config, partitioner)
    shardings = partitioner.param_shardings(network)
    compute = jax.jit(
        lambda params, batch: loss_and_gradients(network, OBJECTIVES, params, batch, None),
        out_shardings=(partitioner.replicated, shardings))
    params = random_params(dataclasses.replace(config, scan_layers=True))
    params = jax.device_put(params if config.scan_layers else unstack(params), shardings)
    return jax.device_get(compute(params, partitioner.put_batch(batch_of(config))))

  return go


@pytest.mark.parametrize('name', FAMILIES)
def test_variants_of_a_family_agree_on_loss_and_gradients(
    name, run, unstack, assert_gradients_close):
  want, want_grads = run(base_of(name))
  changes = variant_of(name)
  mesh = changes.pop('mesh')
  config = config_of(name, **changes)
  got, grads = run(config, mesh)
  assert got.metrics.keys() == want.metrics.keys() and want.weight > 0
  jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5), got, want)
  if config.scan_layers:
    grads = unstack(grads)
  else:
    want_grads = unstack(want_grads)
  assert_gradients_close(grads, want_grads)


def test_every_choice_meets_every_other():
  variants = [variant_of(name) for name in FAMILIES]
  for a, b in itertools.combinations(CHOICES, 2):
    met = {(v[a], v[b]) for v in variants}
    assert met == set(itertools.product(CHOICES[a], CHOICES[b])), (a, b)


@pytest.mark.parametrize('name, changes', [
    ('mistral', dict(sliding_window=None)), ('gemma2', dict(full_attention_interval=None)),
    ('gemma2', dict(attention_softcap=None)), ('gemma2', dict(logits_softcap=None)),
    ('alibi', dict(position_embedding='none')), ('sinusoidal', dict(position_embedding='none')),
    ('prefix_lm', dict(prefix_lm=False)), ('t5_1_0', dict(scale_logits=False))])
def test_what_a_family_is_named_for_shows_in_its_loss(name, changes, run, batch_of, random_params):
  """Else the variants would agree on a model that has lost it."""
  base = base_of(name)
  config = dataclasses.replace(base, **changes)
  batch = batch_of(base)
  network = models.build_network(config)
  loss_fn = add_objectives(OBJECTIVES)
  compute = jax.jit(lambda params: loss_fn(network.bind(params), batch, None, normalizers(batch)))
  got, want = (sums.metrics['loss'][0] for sums in (compute(random_params(config)), run(base)[0]))
  assert abs(got - want) > 1e-4 * want


@pytest.mark.parametrize('scan, between', [(True, ('attention', 'mlp_hidden')), (False, 'dots')])
def test_remat_decides_what_the_backward_pass_computes_again(
    scan, between, batch_of, random_params):
  """Products in the program, which costs no compilation."""

  def products(remat):
    config = config_of('mistral', remat=remat, scan_layers=scan)
    network = models.build_network(config)
    run = lambda params, batch: loss_and_gradients(network, OBJECTIVES, params, batch, None)
    text = str(jax.make_jaxpr(run)(random_params(config), batch_of(config)))
    return text.count('dot_general')

  assert products('full') > products(between) > products('none')

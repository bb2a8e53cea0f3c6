"""Blocks taken apart: the same model, whatever its leaves are, on a mesh too."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.adaptation.adapter_set import AdapterSet
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.models import build_network
from t5x_lite.models.layers import unsharded
from t5x_lite.models.unstack import unstack, unstacking
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import quantize_frozen

TOKENS = np.asarray([[3, 9, 27, 5], [8, 1, 4, 2]], np.int32)


def logits(network, params):
  batch = {'decoder_input_tokens': TOKENS}
  if network.config.family == 'encoder_decoder':
    batch['encoder_input_tokens'] = TOKENS
  return np.asarray(jax.jit(lambda params: network.bind(params)(batch))(params))


@pytest.mark.parametrize('kind, codes', [
    ('decoder', None), ('encoder_decoder', 'nf4'), ('local_global', 'int8')])
def test_logits_are_those_of_the_scanned_model(configs, kind, codes):
  config = configs.get(kind) or dataclasses.replace(
      configs['decoder'], num_layers=4, sliding_window=2, full_attention_interval=2)
  config = dataclasses.replace(config, scan_layers=True)
  network = build_network(config)
  params = network.init(jax.random.key(0))
  if codes is not None:
    network = Quantized(format=codes, block=16, double=True).adapt(network)
    params = quantize_frozen(network, params)
  want = logits(network, params)
  within = unstacking(network, unsharded)   # of the same parameters, apart where they are bound
  assert not within.config.scan_layers
  np.testing.assert_allclose(logits(within, params), want, atol=2e-5)
  other, (apart,) = unstack(network, [params], unsharded)
  assert not other.config.scan_layers
  np.testing.assert_allclose(logits(other, apart), want, atol=2e-5)


def test_adapters_share_the_blocks_of_their_base_and_stacked_arrays_are_given_up(configs):
  config = dataclasses.replace(configs['decoder'], scan_layers=True)
  network = build_network(config)
  base = network.init(jax.random.key(0))
  found, lora = AdapterSet(network, base, {}), Lora(targets=('query', 'up'), rank=2, alpha=4)
  for n, name in enumerate(('x', 'y')):
    adapted = lora.adapt(network)
    own, _ = trees.partition(adapted.init(jax.random.key(n + 1)), adapted.is_added)
    found.add(name, lora, jax.tree.map(lambda x: x + 0.1 * (n + 1), own))
  want = [logits(network, tree) for tree in (base, *found.adapted.values())]
  arrays = [x for path, x in trees.flatten(base).items() if '/blocks/' in path]
  other, apart = unstack(network, [base, *found.adapted.values()], unsharded)
  for tree, one in zip(apart, want):
    np.testing.assert_allclose(logits(other, tree), one, atol=2e-5)
  assert not np.allclose(want[1], want[2]) and all(x.is_deleted() for x in arrays)
  kernel = lambda tree: tree['decoder']['blocks'][0]['mlp']['down']['kernel']
  assert kernel(apart[0]) is kernel(apart[1]) is kernel(apart[2])


def test_blocks_keep_their_shards(configs):
  mesh = Partitioner(MeshConfig(data=1, fsdp=2, tensor=2).make(jax.devices()[:4]))
  network = build_network(dataclasses.replace(configs['decoder'], scan_layers=True), mesh)
  params = jax.device_put(network.init(jax.random.key(0)), mesh.param_shardings(network))
  want = logits(network, params)
  within = unstacking(network, unsharded)   # of the same parameters, apart where they are bound
  assert not within.config.scan_layers
  np.testing.assert_allclose(logits(within, params), want, atol=2e-5)
  other, (apart,) = unstack(network, [params], mesh)
  np.testing.assert_allclose(logits(other, apart), want, atol=2e-5)
  wanted = trees.flatten(mesh.param_shardings(other))
  for path, x in trees.flatten(apart).items():
    assert x.sharding.is_equivalent_to(wanted[path], x.ndim), path


def test_an_unrolled_model_is_as_it_was(configs):
  network = build_network(dataclasses.replace(configs['decoder'], scan_layers=False))
  params = network.init(jax.random.key(0))
  other, (same,) = unstack(network, [params], unsharded)
  assert other is network and same is params

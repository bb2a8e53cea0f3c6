"""Several adapters over one base: its arrays are shared, and each answers as its own run does."""

import dataclasses
import functools
import zlib

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.adapter_set import AdapterSet
from t5x_lite.adaptation.llama_adapter import LlamaAdapter
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.partial import Partial
from t5x_lite.adaptation.prefix import PromptTuning
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.models import weights
from t5x_lite.training.state import quantize_frozen, split_params

CONFIG = models.ModelConfig(
    family='decoder_only', vocab_size=32, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
    mlp_dim=32)
BATCH = dict.fromkeys(('decoder_input_tokens', 'decoder_target_tokens'),
                      jax.random.randint(jax.random.key(1), (2, 8), 1, 32))
ADAPTERS = {
    'lora': Lora(rank=4), 'pissa': Lora(rank=4, start='pissa'),
    'dora': Lora(targets=('attention', 'embeddings'), rank=2),
    'head': Lora(targets=('mlp',), rank=3, dora=True, trained='norm|mlp/up'),
    'prompt': PromptTuning(length=3), 'gated': LlamaAdapter(length=3, layers=1)}


@functools.cache
def base_of(scan):
  """(a plain network, its first parameters)"""
  plain = models.build_network(dataclasses.replace(CONFIG, scan_layers=scan))
  return plain, jax.jit(plain.init)(jax.random.key(0))


def values(network, base, seed):
  """Every parameter, those that are trained or kept drawn anew, the others of the base."""
  flat = trees.flatten(base)
  draw = lambda path, x: jax.device_put(np.float32(np.random.default_rng(
      [seed, zlib.crc32(path.encode())]).normal(0, 0.3, x.shape)))
  anew = lambda path: network.is_trained(path) or network.is_kept(path)
  return trees.fill(network.shapes, {path: draw(path, x) if anew(path) else flat[path]
                                     for path, x in trees.flatten(network.shapes).items()})


def own(network, params):
  trained, kept, _ = split_params(network, params)
  return trees.combine(trained, kept.get('kept', {}))


@pytest.mark.parametrize('scan, block, names', [
    (True, None, ('pissa', 'dora', 'head', 'prompt', 'gated')), (False, None, ('lora', 'gated')),
    (True, 16, ('lora', 'head'))], ids=['scanned', 'unrolled', 'nf4'])
def test_each_answers_as_its_own_network_and_shares_the_arrays_of_the_base(scan, block, names):
  plain, start = base_of(scan)
  wrap = (lambda a: Quantized(adaptation=a, block=block)) if block else (
      lambda a: a or Partial(trained='all'))
  network = wrap(None).adapt(plain)
  hold = lambda network, params: jax.jit(lambda x: quantize_frozen(network, x))(
      params) if block else params
  base = hold(network, start)
  found, want = AdapterSet(network, base, {}), {}
  for seed, name in enumerate(names):
    adaptation = ADAPTERS[name]
    adapted = wrap(adaptation).adapt(plain)
    params = values(adapted, start, seed)
    found.add(name, adaptation, own(adapted, params))
    trained, frozen = trees.partition(params, adapted.is_trained)
    held = trees.combine(trained, hold(adapted, frozen))
    want[name] = jax.jit(lambda params, adapted=adapted: adapted.bind(params)(BATCH))(held)
  logits = jax.jit(lambda params: network.bind(params)(BATCH))
  want[None] = logits(base)
  buffers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(base)}
  for name, expected in want.items():
    params = found.params(name)
    np.testing.assert_array_equal(logits(params), expected, err_msg=str(name))
    # No array of the base is copied, and only those that were trained whole are not there.
    held = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    if name != 'head':
      assert buffers <= held, name
    if name is not None:
      assert np.abs(expected - want[None]).max() > 1e-4, name


def test_changing_the_adapter_compiles_nothing_where_settings_are_equal():
  plain, base = base_of(True)
  found, traced = AdapterSet(plain, base, {}), []
  for seed, (name, lora) in enumerate((
      ('a', Lora(rank=4)), ('b', Lora(rank=4, dropout=0.1)),
      ('c', Lora(rank=4, targets=('attention', 'mlp'))), ('d', Lora(rank=2)))):
    network = lora.adapt(plain)
    found.add(name, lora, own(network, values(network, base, seed)))

  @jax.jit
  def logits(params):
    traced.append(True)
    return plain.bind(params)(BATCH)

  outs = [logits(found.params(name)) for name in 'abcabc']
  assert len(traced) == 1
  np.testing.assert_array_equal(outs[0], outs[3])
  assert np.abs(outs[0] - outs[1]).max() > 1e-3 < np.abs(outs[1] - outs[2]).max()
  logits(found.params('d'))   # of another rank
  assert len(traced) == 2
  logits(found.params(None))
  assert len(traced) == 3
  leaf = trees.flatten(found.params('b'), weights.is_structured)['decoder/blocks/mlp/up/kernel']
  assert leaf.base is base['decoder']['blocks']['mlp']['up']['kernel']


def test_an_adapter_that_is_not_there_is_refused_with_the_nearest():
  plain = models.build_network(CONFIG)
  found = AdapterSet(plain, {}, {'chat': {}})
  with pytest.raises(UserError, match="no adapter 'chta': did you mean 'chat'"):
    found.params('chta')

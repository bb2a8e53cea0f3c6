"""PEFT's adapters: those loaded give PEFT's logits, ours are read back, damage is refused."""

import functools
import json
import os
import pathlib
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.interop import huggingface, peft
from t5x_lite.models import weights
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import quantize_frozen

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers' / 'lora'
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason='T5X_LITE_TEST_DATA/peers/lora is unset')
CASES = ['llama/lora_qv', 'llama/dora_all', 'llama/patterns', 'llama/embed_head', 'llama/layers1',
         'llama/modules_to_save', 'gpt2/lora_attn', 'gpt2/rslora_all', 'gpt2/dora_all']
BASES = {}


def base_of(name, **overrides):
  key = name, *overrides.items()
  if key not in BASES:
    mesh = MeshConfig(data=1, fsdp=1).make(jax.devices()[:1])
    BASES[key] = huggingface.load_model(DATA / name / 'base', Partitioner(mesh), **overrides)
  return BASES[key]


def adapted(folder, config, base):
  """(network, parameters) of a base with a PEFT adapter."""
  lora, values = peft.load_adapter(folder, config, base)
  network = lora.adapt(models.build_network(config))
  flat = {n: np.asarray(x) for n, x in trees.flatten(base).items()} | values
  return lora, network, trees.fill(network.shapes, flat)


def forward(network):
  """(params, ids) -> logits, compiled once."""
  compute = jax.jit(lambda params, batch: network.bind(params)(batch))

  def logits(params, ids):
    ids = jnp.asarray(ids, jnp.int32)
    return np.asarray(compute(params, {'decoder_target_tokens': ids, 'decoder_input_tokens': ids}))

  return logits


def logits(network, params, ids):
  return forward(network)(params, ids)


@functools.cache
def plain_forward(config):
  return forward(models.build_network(config))


@pytest.mark.parametrize('case', CASES)
def test_logits_are_those_of_peft(case):
  fixture = np.load(DATA / case / 'fixture.npz')
  config, base = base_of(case.split('/')[0])
  lora, network, params = adapted(DATA / case, config, base)
  got = logits(network, params, fixture['input_ids'])
  np.testing.assert_allclose(got, fixture['adapter_logits'], atol=1e-4)
  plain = plain_forward(config)(lora.merge(network, params), fixture['input_ids'])
  np.testing.assert_allclose(plain, fixture['merged_logits'], atol=1e-4)
  if 'pattern' not in case and 'layers' not in case and not case.startswith('gpt2'):
    trained = sum(x.size for path, x in trees.flatten(params).items() if network.is_trained(path))
    assert trained == fixture['trainable_parameters']


@pytest.mark.parametrize('case', ['llama/dora_all', 'gpt2/dora_all', 'gpt2/rslora_all'])
def test_what_is_written_is_what_was_read(case, tmp_path):
  config, base = base_of(case.split('/')[0])
  lora, network, params = adapted(DATA / case, config, base)
  peft.save_adapter(tmp_path, config, lora, params, 'base')
  want = load_file(DATA / case / peft.TENSORS)
  got = load_file(tmp_path / peft.TENSORS)
  assert got.keys() == want.keys()
  for name, x in want.items():
    np.testing.assert_allclose(got[name], x, atol=1e-6, err_msg=name)
  theirs, ours = (json.loads((folder / peft.CONFIG).read_text()) for folder in (
      DATA / case, tmp_path))
  for key in ('r', 'lora_alpha', 'use_rslora', 'use_dora', 'fan_in_fan_out', 'bias'):
    assert ours[key] == theirs[key], key


def test_the_magnitudes_of_a_dora_are_those_on_its_quantised_base(tmp_path):
  config, base = base_of('llama')
  lora, network, params = adapted(DATA / 'llama/dora_all', config, base)
  network = Quantized(adaptation=lora, block=16).adapt(models.build_network(config))
  trained, frozen = trees.partition(params, network.is_trained)
  held = trees.combine(trained, jax.jit(lambda x: quantize_frozen(network, x))(frozen))
  peft.save_adapter(tmp_path, config, lora, held, 'base')
  path = 'decoder/blocks/attention/query/kernel'
  kernel = trees.flatten(held, weights.is_structured)[path].value()[0]
  want = np.linalg.norm(kernel.reshape(32, -1), axis=0) + (
      trees.flatten(params)[path + '_dora_norm'][0].ravel())
  got = load_file(tmp_path / peft.TENSORS)[
      'base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector']
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('name', ['llama', 'gpt2'])
def test_pissa_becomes_a_lora_of_twice_the_rank_for_the_whole_base(name, tmp_path):
  config, base = base_of(name)
  lora = Lora(rank=3, alpha=5.0, rank_stabilized=name == 'gpt2', start='pissa')
  network = lora.adapt(models.build_network(config))
  flat = trees.flatten(base) | network.begin(trees.flatten(base))
  fill = lambda flat: trees.fill(network.shapes, flat)
  with pytest.raises(UserError, match='The adapter is 0'):
    peft.save_adapter(tmp_path, config, lora, fill(flat), 'base')
  params = fill({path: x + 0.1 if '_lora_' in path else x for path, x in flat.items()})
  peft.save_adapter(tmp_path, config, lora, params, 'base')
  settings = json.loads((tmp_path / peft.CONFIG).read_text())
  assert settings['r'] == 6 and settings['init_lora_weights'] is True
  _, again, read = adapted(tmp_path, config, base)
  ids = np.arange(20).reshape(2, 10)
  want = logits(network, params, ids)
  np.testing.assert_allclose(logits(again, read, ids), want, atol=1e-3 * np.abs(want).max())
  assert np.abs(want - plain_forward(config)(base, ids)).max() > 0.1


@pytest.mark.parametrize('targets, dora', [
    (('all_linear',), True), (('attention/(query|value)',), False)])
def test_a_fused_kernel_of_three_adapters_is_block_diagonal(targets, dora, tmp_path):
  config, base = base_of('gpt2')
  lora = Lora(targets=targets, rank=3, rank_stabilized=True, dora=dora)
  network = lora.adapt(models.build_network(config))
  draw = lambda path, x: np.float32(np.random.default_rng(zlib.crc32(path.encode())).normal(
      0, 0.3, x.shape))
  flat = trees.flatten(base)
  params = trees.fill(network.shapes, {path: flat[path] if path in flat else draw(path, x)
                                       for path, x in trees.flatten(network.shapes).items()})
  peft.save_adapter(tmp_path, config, lora, params, 'base')
  tensors = load_file(tmp_path / peft.TENSORS)
  assert tensors['base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'].shape == (9, 32)
  _, again, read = adapted(tmp_path, config, base)
  ids = np.arange(20).reshape(2, 10)
  np.testing.assert_allclose(logits(again, read, ids), logits(network, params, ids), atol=1e-4)


def test_blocks_that_are_not_stacked_take_the_same_adapter():
  case = 'llama/patterns'
  fixture = np.load(DATA / case / 'fixture.npz')
  config, base = base_of('llama', scan_layers=False)
  _, network, params = adapted(DATA / case, config, base)
  got = logits(network, params, fixture['input_ids'])
  np.testing.assert_allclose(got, fixture['adapter_logits'], atol=1e-4)


def changed(tmp_path, case, settings=None, tensors=None):
  """A copy of an adapter with other settings, or tensors as `tensors` makes them."""
  folder = shutil.copytree(DATA / case, tmp_path / 'adapter', copy_function=shutil.copyfile)
  if settings:
    path = folder / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
  if tensors:
    save_file(tensors(load_file(folder / peft.TENSORS)), folder / peft.TENSORS)
  return folder


@pytest.mark.parametrize('settings, message', [
    ({'peft_type': 'IA3'}, "peft_type 'IA3' is not supported"),
    ({'bias': 'all'}, "bias = 'all' is not supported"),
    ({'lora_bias': True}, 'lora_bias = True is not supported'),
    ({'layer_replication': [[0, 2]]}, 'layer_replication = .* is not supported'),
    ({'init_lora_weights': 'pissa'}, "init_lora_weights = 'pissa' is not supported"),
    ({'use_qalora': True, 'new': 1}, 'use_qalora = True, new = 1 are not supported'),
    ({'r': 0}, 'r is 0, and must be above 0'), ({'r': 'four'}, "r is 'four'"),
    ({'rank_pattern': {'(': 4}}, r"'\(' is no name of modules"),
    ({'target_modules': 3}, 'target_modules is 3'), ({'target_modules': [3]}, '3 is no name'),
    ({'layers_to_transform': 'all'}, "layers_to_transform is 'all'"),
    ({'r': 5}, r'A of .*q_proj has the shape \(4, 32\) and not \(5, 32\)'),
    ({'target_modules': ['q_proj', 'v_proj', 'o_proj']}, 'lacks the adapter of .*o_proj: it is '
     'for another base, or cut off'),
    ({'target_modules': ['q_proj']}, 'holds the adapter of .*v_proj, which adapter_config.json '
     'does not name'),
    ({'layers_to_transform': [1]}, 'holds the adapter of model.layers.0'),
    ({'use_dora': True}, 'lacks lora_magnitude_vector of .*q_proj')])
def test_what_is_not_supported_is_refused_by_name(settings, message, tmp_path):
  folder = changed(tmp_path, 'llama/lora_qv', settings)
  with pytest.raises(UserError, match=message):
    peft.load_adapter(folder, *base_of('llama'))


def test_a_damaged_folder_is_refused(tmp_path):
  load = lambda folder: peft.load_adapter(folder, *base_of('llama'))
  first = lambda tensors: dict(list(tensors.items())[:-1])
  with pytest.raises(UserError, match='lacks lora_B of .*v_proj|lacks lora_A of'):
    load(changed(tmp_path / '1', 'llama/lora_qv', tensors=first))
  half = lambda tensors: {n: x for n, x in tensors.items() if 'layers.0' in n}
  with pytest.raises(UserError, match='lacks the adapter of model.layers.1'):
    load(changed(tmp_path / '2', 'llama/lora_qv', tensors=half))
  folder = changed(tmp_path / '3', 'llama/lora_qv')
  whole = (folder / peft.TENSORS).read_bytes()
  (folder / peft.TENSORS).write_bytes(whole[:len(whole) // 2])
  with pytest.raises(UserError, match='not a complete safetensors file'):
    load(folder)
  (folder / peft.TENSORS).unlink()
  with pytest.raises(UserError, match='holds no adapter_model.safetensors'):
    load(folder)
  (folder / 'adapter_model.bin').touch()
  with pytest.raises(UserError, match='holds adapter_model.bin, a pickle, .* never opened here'):
    load(folder)
  (folder / peft.CONFIG).unlink()
  with pytest.raises(UserError, match='holds no adapter_config.json'):
    load(folder)


def test_an_adapter_of_another_base_is_refused():
  with pytest.raises(UserError, match='the adapter is for another base'):
    peft.load_adapter(DATA / 'gpt2' / 'lora_attn', *base_of('llama'))


def test_an_adapter_that_is_its_base_is_not_written(tmp_path):
  config, base = base_of('llama')
  lora = Lora(rank=2)
  network = lora.adapt(models.build_network(config))
  flat = trees.flatten(base)   # A is drawn, B is 0
  params = trees.fill(network.shapes, {
      path: flat[path] if path in flat else np.full(x.shape, float(path.endswith('_a')))
      for path, x in trees.flatten(network.shapes).items()})
  with pytest.raises(UserError, match='The adapter is 0'):
    peft.save_adapter(tmp_path, config, lora, params, 'base')

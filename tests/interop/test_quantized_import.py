"""`import --quantize`: the codes of import, then quantise, and never the whole model in memory."""

import contextlib
import functools
import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from t5x_lite import cli
from t5x_lite.adaptation.quantization.leaf import QuantizedLeaf
from t5x_lite.core import trees
from t5x_lite.experiment import gin_config
from t5x_lite.models import weights
from t5x_lite.training import initial_params
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params
from t5x_lite.training.state import abstract_state

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers'
LLAMA = PEERS / 'lora/llama'
needs_peers = pytest.mark.skipif(not PEERS.is_dir(), reason='T5X_LITE_TEST_DATA/peers is unset')


def call(capsys, *args):
  code = cli.main([*map(str, args)])
  captured = capsys.readouterr()
  return code, captured.out + captured.err


def params_of(run, *bindings):
  """(all parameters of a run, its network), as `infer` reads them."""
  experiment = gin_config.load_described([str(run / 'config.gin')], [
      'Experiment.mesh=@mesh.MeshConfig()', 'MeshConfig.data=1', *bindings])
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  return load_params(run, network, partitioner, None)[0], network


def logits_of(run, ids):
  params, network = params_of(run)
  batch = dict.fromkeys(('decoder_input_tokens', 'decoder_target_tokens'), np.int32(ids))
  return jax.jit(lambda params: network.bind(params)(batch))(params)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """(name of a model of PEERS, kind) -> (the run of its codes, what `import` says)."""
  folder = tmp_path_factory.mktemp('codes')

  @functools.cache
  def run_of(name, kind):
    run, said = folder / f'{name}-{kind}', io.StringIO()
    with contextlib.redirect_stdout(said):
      assert cli.main(['import', f'--from={PEERS}/lora/{name}/base', f'--to={run}',
                       f'--quantize={kind}', '--block=8']) == 0
    return run, said.getvalue()

  return run_of


@needs_peers
@pytest.mark.parametrize('name, kind', [('llama', 'nf4'), ('gpt2', 'int8')])
def test_codes_are_those_of_the_imported_model_quantised(name, kind, imported, tmp_path, capsys):
  plain = f'--from={PEERS}/lora/{name}/base', f'--to={tmp_path}/plain'
  assert call(capsys, 'import', *plain)[0] == 0
  codes, said = imported(name, kind)
  assert 'bits each' in said, said
  got = trees.flatten(params_of(codes)[0], weights.is_structured)
  gin = tmp_path / 'plain/config.gin'
  gin.write_text('from t5x_lite.adaptation.quantization import quantized\n' + gin.read_text())
  want = trees.flatten(params_of(
      tmp_path / 'plain', 'Experiment.adaptation=@quantized.Quantized()',
      f'Quantized.format={kind!r}', 'Quantized.block=8')[0], weights.is_structured)
  assert got.keys() == want.keys() and any(isinstance(x, QuantizedLeaf) for x in got.values())
  for name, leaf in want.items():
    assert jax.tree.structure(got[name]) == jax.tree.structure(leaf)
    jax.tree.map(np.testing.assert_array_equal, got[name], leaf)


def check_start(run):
  """A run of QLoRA that starts from the codes has them as they are, and records their base."""
  experiment = gin_config.load_described([str(run / 'config.gin')], [
      'Quantized.adaptation=@lora.Lora()', 'Lora.rank=2'])
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  optimizer, meta = optax.sgd(0.1), {'vocabulary': None}
  state = initial_params.fresh_state(
      network, partitioner, optimizer, abstract_state(network, optimizer, partitioner), 0, run,
      None, (), meta, print)
  want = trees.flatten(params_of(run)[0])
  got = trees.flatten(state['frozen'])
  assert got.keys() == want.keys() and all('_lora_' in name for name in trees.flatten(
      state['params']))
  for name, x in want.items():
    np.testing.assert_array_equal(got[name], x)
  assert meta[initial_params.FROZEN_FROM]['fingerprint'] == reader_of(run).fingerprint(0)


@needs_peers
def test_it_is_the_base_of_qlora_and_of_adapters(imported, tmp_path, capsys):
  """As that of the plain import: the same logits, but what needs float32 kernels is refused."""
  ids = np.load(LLAMA / 'dora_all/fixture.npz')['input_ids']
  codes, _ = imported('llama', 'nf4')
  check_start(codes)
  code, said = call(capsys, 'import', f'--from={LLAMA}/dora_all', f'--base={codes}',
                    f'--to={tmp_path}/dora')
  assert code == 0, said
  want = np.load(LLAMA / 'dora_all/fixture.npz')['adapter_logits']
  error = np.abs(logits_of(tmp_path / 'dora', ids) - want).max()
  assert 1e-3 < error < 0.3 * np.abs(want).max()   # of the quantisation
  code, said = call(capsys, 'export', f'--from={tmp_path}/dora', f'--to={tmp_path}/adapter')
  assert code == 0 and (tmp_path / 'adapter/adapter_model.safetensors').is_file()
  for args, message in (
      (['merge', f'--from={tmp_path}/dora'], 'or import the model without --quantize'),
      (['merge', f'--from={codes}'], 'or import the model without --quantize'),
      (['export', f'--from={codes}'], 'or import the model without --quantize'),
      (['import', f'--from={LLAMA}/lora_all', f'--base={tmp_path}/dora'], 'merge it first')):
    code, said = call(capsys, *args, f'--to={tmp_path}/out')
    assert code == 1 and message in said and said.count('\n') == 1, said
    assert not (tmp_path / 'out').exists()


@needs_peers
@pytest.mark.parametrize('flags, message', [
    (['--quantize=nf4'], '--quantize=nf4 --block=64: decoder/blocks/attention/key/kernel has 32 '
     'inputs, which blocks of 64 do not divide: choose a block of 32 or 16 or 8, or leave it out '
     'with --skip'),
    (['--quantize=nf4', '--block=3'], 'must be even'),
    (['--quantize=int8', '--block=16', '--skip=.'], 'leaves no frozen kernel to quantise'),
    (['--block=16'], '--block, --skip and --double are of --quantize: give that, too'),
    (['--quantize=int8', f'--base={LLAMA}'], '--quantize is of a model and not of an adapter')])
def test_what_does_not_fit_is_refused_and_leaves_nothing(flags, message, tmp_path, capsys):
  code, said = call(capsys, 'import', f'--from={LLAMA}/base', f'--to={tmp_path}/run', *flags)
  assert code == 1 and message in said and said.count('\n') == 1, said
  assert not (tmp_path / 'run').exists()


def write_llama(folder, layers):
  """A LLaMA in bfloat16, of 12.8 million parameters a layer, in shards; returns its bytes."""
  from ml_dtypes import bfloat16

  from t5x_lite.interop import hf_tensors, huggingface
  from t5x_lite.interop.hf_configs import read_config
  from t5x_lite.interop.safetensors_files import ShardWriter
  hf = dict(model_type='llama', architectures=['LlamaForCausalLM'], vocab_size=256,
            hidden_size=1024, intermediate_size=2816, num_hidden_layers=layers,
            num_attention_heads=8, hidden_act='silu', max_position_embeddings=64,
            rms_norm_eps=1e-5, tie_word_embeddings=True)
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(hf))
  config = read_config(hf)
  shapes = {name: x.shape for name, x in trees.flatten(
      huggingface.models.build_network(config).shapes).items()}
  writer, rng, total = ShardWriter(folder, 3 * 10 ** 7), np.random.default_rng(0), 0
  for tensor in hf_tensors.table('llama', config):
    shape = shapes[tensor.ours]
    shape = tensor.their_shape(shape[1:] if tensor.layer is not None else shape)
    x = rng.standard_normal(shape, np.float32).astype(bfloat16)
    writer.add(tensor.theirs, x)
    total += x.nbytes
  writer.close()
  return total


PEAK = """
import pathlib, re, sys
from t5x_lite.commands import import_checkpoint
folder, codes = pathlib.Path(sys.argv[1]), {'format': 'nf4'} if sys.argv[2] == 'nf4' else None
# Of this program alone: ru_maxrss is that of the process which started it, too.
status = pathlib.Path('/proc/self/status')
peak = lambda: 1024 * int(re.search('VmHWM:(.*)kB', status.read_text())[1])
import_checkpoint.import_run(folder / 'small', folder / f'{sys.argv[2]}-small', {}, codes=codes)
before = peak()
import_checkpoint.import_run(folder / 'large', folder / f'{sys.argv[2]}-large', {}, codes=codes)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='no /proc here')
def test_the_whole_model_is_never_in_memory(tmp_path):
  """The peak above that of a model of one layer, whose tensors are as large.

  With one arena of the allocator: what each of many keeps for its thread differs from run to run,
  and is no part of the import (139 to 175 MB of 206 with many, 101 to 107 with one).
  """
  layers = 8
  write_llama(tmp_path / 'small', 1)
  size = write_llama(tmp_path / 'large', layers)
  assert len([*(tmp_path / 'large').glob('model-*.safetensors')]) > 3 and size > 2e8
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '', 'MALLOC_ARENA_MAX': '1'}
  grown = {kind: int(subprocess.run(
      [sys.executable, '-c', PEAK, tmp_path, kind], check=True, capture_output=True, text=True,
      env=env).stdout) for kind in ('nf4', 'float32')}
  assert grown['float32'] > 2 * size   # 32 bits a parameter, and what the device has of them
  assert grown['nf4'] < 0.75 * size, (grown, size)
